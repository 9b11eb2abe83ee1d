//! A queue with priorities: a worker that waits gets the best job there is, not the one that woke it.

#![allow(clippy::print_stdout, reason = "it tells what happens")]

use baton_client::Client;
use baton_recipes::{Queue, Session};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let endpoints =
        std::env::var("BATON_ENDPOINTS").unwrap_or_else(|_| "127.0.0.1:2379".to_owned());
    let client = Client::new(endpoints.split(','))?;
    let session = Session::builder(&client).open().await?;
    let queue = session.queue("example-alarms")?;

    // 0 goes first, 65535 last; push without a priority is in between.
    queue.push_with_priority("disk almost full", 2000).await?;
    queue.push("certificate ends soon").await?;
    queue.push_with_priority("site is down", 0).await?;
    queue.push("certificate ended").await?;
    println!(
        "four jobs; the default priority is {}",
        Queue::DEFAULT_PRIORITY
    );
    if let Some(next) = queue.peek().await? {
        println!("next would be {:?}", next.payload);
    }

    while let Some(job) = queue.try_pop().await? {
        println!("{:>5}: {:?}", job.id().priority(), job.payload());
        job.ack().await?;
    }
    session.close().await?;
    Ok(())
}
