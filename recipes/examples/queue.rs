//! A queue: jobs go to one worker at a time, come back if that one dies, and leave when they are acknowledged.

#![allow(clippy::print_stdout, reason = "it tells what happens")]

use std::time::Duration;

use baton_client::{Client, Get, Put};
use baton_recipes::Session;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let endpoints =
        std::env::var("BATON_ENDPOINTS").unwrap_or_else(|_| "127.0.0.1:2379".to_owned());
    let client = Client::new(endpoints.split(','))?;
    let session = Session::builder(&client).label("steady").open().await?;
    let queue = session.queue("example-mails")?;

    for mail in ["welcome", "invoice", "reminder"] {
        let id = queue.push(mail).await?;
        println!("pushed {mail} as {id}");
    }

    // A worker takes the first job, and its session ends.
    let dying = Session::builder(&client).label("dying").open().await?;
    let job = dying.queue("example-mails")?.pop().await?;
    println!(
        "a worker has {:?}, with token {}",
        job.payload(),
        job.token()
    );
    let info = queue.inspect().await?;
    println!(
        "{} jobs in the queue, {} of them with {}",
        info.jobs,
        info.claims.len(),
        info.claims[0].label
    );
    client.revoke(dying.id().lease()).await?;
    println!("its session ended; what it results in comes too late:");
    let late = job
        .ack_with([Put::new("examples/sent", "by the dying worker")])
        .await;
    println!("  {}", late.unwrap_err());

    while let Some(job) = queue.try_pop().await? {
        println!(
            "another worker has {:?}, with token {}",
            job.payload(),
            job.token()
        );
        // The result and the end of the job, in one transaction.
        let result = Put::new("examples/sent", job.payload());
        job.ack_with([result]).await?;
    }
    let sent = client.get(Get::key("examples/sent")).await?;
    println!("the last that was sent: {:?}", sent.kvs[0].value);

    let impatient = tokio::time::timeout(Duration::from_millis(200), queue.pop());
    if impatient.await.is_err() {
        println!("no job for a fifth of a second: given up, with nothing left behind");
    }
    session.close().await?;
    Ok(())
}
