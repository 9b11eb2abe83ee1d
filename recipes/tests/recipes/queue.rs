//! Queues.

use crate::support::{Server, on_both};

on_both! {
    async fn jobs_go_out_in_the_order_they_were_pushed(server: Server) {
        let session = server.session().await;
        let queue = session.queue("mail").unwrap();
        for job in ["a", "b", "c"] {
            queue.push(job).await.unwrap();
        }
        for expected in ["a", "b", "c"] {
            let job = queue.pop().await.unwrap();
            assert_eq!(job.payload(), expected);
            job.ack().await.unwrap();
        }
        assert!(queue.try_pop().await.unwrap().is_none());
        assert!(queue.is_empty().await.unwrap());
    }
}
