//! Double barriers.

use baton_recipes::{DoubleBarrier, Error};

use crate::support::{Server, on_both};

async fn member(server: &Server, me: &str) -> DoubleBarrier {
    let session = server.session().await;
    session.double_barrier("stage", 3, me).unwrap()
}

on_both! {
    async fn all_members_enter_together_and_leave_together_again_and_again(server: Server) {
        for generation in 0..3 {
            let mut members = Vec::new();
            for me in ["a", "b", "c"] {
                let barrier = member(&server, me).await;
                members.push(tokio::spawn(async move {
                    let inside = barrier.enter().await.unwrap();
                    assert_eq!(inside.generation(), generation);
                    let mut roster = inside.members().to_vec();
                    roster.sort();
                    assert_eq!(roster, ["a", "b", "c"]);
                    inside.leave().await?;
                    Ok::<_, Error>(())
                }));
            }
            for member in members {
                member.await.unwrap().unwrap();
            }
        }
    }
}
