//! A double barrier: three members begin together and end together, twice; and one that waits in vain.

#![allow(clippy::print_stdout, reason = "it tells what happens")]

use std::time::Duration;

use baton_client::Client;
use baton_recipes::{Error, Session};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let endpoints =
        std::env::var("BATON_ENDPOINTS").unwrap_or_else(|_| "127.0.0.1:2379".to_owned());
    let client = Client::new(endpoints.split(','))?;

    let mut members = Vec::new();
    for me in ["ann", "bob", "eve"] {
        let session = Session::builder(&client).label(me).open().await?;
        let barrier = session.double_barrier("example-stage", ["ann", "bob", "eve"], me)?;
        members.push(tokio::spawn(async move {
            for _ in 0..2 {
                let inside = barrier.enter().await.map_err(|error| error.to_string())?;
                println!(
                    "{me} is inside generation {} with {:?}",
                    inside.generation(),
                    inside.members()
                );
                inside
                    .leave()
                    .await
                    .map_err(|error: Error| error.to_string())?;
                println!("{me} and all others have left");
            }
            session.close().await.map_err(|error| error.to_string())
        }));
    }
    for member in members {
        member.await??;
    }

    let session = Session::builder(&client).open().await?;
    let alone = session.double_barrier("example-stage", ["ann", "bob", "eve"], "bob")?;
    if let Err(error) = alone.enter_within(Duration::from_millis(300)).await {
        println!("bob alone: {error}");
    }
    session.close().await?;
    Ok(())
}
