//! A lock: two workers, one at a time, in the order they came.

#![allow(clippy::print_stdout, reason = "it tells what happens")]

use std::time::Duration;

use baton_client::Client;
use baton_recipes::{Error, Session};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let endpoints =
        std::env::var("BATON_ENDPOINTS").unwrap_or_else(|_| "127.0.0.1:2379".to_owned());
    let client = Client::new(endpoints.split(','))?;
    // As if they were two processes: a session each.
    let ann = Session::builder(&client).label("ann").open().await?;
    let bob = Session::builder(&client).label("bob").open().await?;

    let guard = ann
        .mutex("examples/mutex")
        .lock()
        .value("the nightly report")
        .await?;
    println!("ann holds it, with token {}", guard.token());

    let none = bob.mutex("examples/mutex").try_lock().await?;
    println!(
        "bob tries: {}",
        if none.is_some() { "held" } else { "not free" }
    );
    let impatient = bob
        .mutex("examples/mutex")
        .lock()
        .timeout(Duration::from_millis(200));
    if let Err(error @ Error::TimedOut(_)) = impatient.await {
        println!("bob waits for a fifth of a second: {error}");
    }

    let (enqueued, position) = tokio::sync::oneshot::channel();
    let waiting = bob.mutex("examples/mutex").lock().on_enqueued(|position| {
        let _ = enqueued.send(position);
    });
    let waiting = tokio::spawn(waiting.into_future());
    println!("bob stands in line, {} in front of him", position.await?.0);

    let line = ann.mutex("examples/mutex").inspect().await?;
    for (place, waiter) in line.holder.iter().chain(&line.waiters).enumerate() {
        println!("  {place}: {} with token {}", waiter.label, waiter.token);
    }

    guard.put("examples/report", "written by ann").await?;
    guard.release().await?;
    println!("ann wrote under the lock, and released it");

    let guard = waiting.await??;
    println!("bob holds it, with the greater token {}", guard.token());
    guard.release().await?;

    // Body and lock in one: were the lock lost, the body would be dropped.
    let answer = ann
        .mutex("examples/mutex")
        .run(|grant| async move { grant.token() })
        .await?;
    println!("ann ran something under the lock, with token {answer}");

    ann.close().await?;
    bob.close().await?;
    Ok(())
}
