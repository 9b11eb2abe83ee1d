//! A holder that was paused too long finds its fenced write refused, and its unfenced one done.

#![allow(clippy::print_stdout, reason = "it tells what happens")]

use baton_client::{Client, Get, Put, Txn};
use baton_recipes::{Error, Session};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let endpoints =
        std::env::var("BATON_ENDPOINTS").unwrap_or_else(|_| "127.0.0.1:2379".to_owned());
    let client = Client::new(endpoints.split(','))?;
    let paused = Session::builder(&client).label("paused").open().await?;
    let next = Session::builder(&client).label("next").open().await?;

    let old = paused.mutex("examples/fenced").lock().await?;
    println!("the first holder has token {}", old.token());
    old.put("examples/balance", "100").await?;

    // What a server does to a holder that it has not heard of for the time to live. The holder may be stopped, and
    // then knows nothing of it.
    client.revoke(paused.id().lease()).await?;
    let new = next.mutex("examples/fenced").lock().await?;
    println!(
        "its lease ended, and the next holder has token {}",
        new.token()
    );
    new.put("examples/balance", "150").await?;

    // The first goes on where it stopped. Its own clock may still tell it that it holds the lock.
    match old.put("examples/balance", "90").await {
        Err(error @ (Error::Stale { .. } | Error::Lost(_))) => {
            println!("its fenced write: {error}")
        }
        other => println!("its fenced write: {other:?}"),
    }
    // A service that was handed the fence can put it into transactions of its own.
    let fenced = Txn::new()
        .when(old.fence().compare())
        .then(Put::new("examples/balance", "90"));
    let answer = client.txn(fenced).await?;
    println!(
        "a transaction with its fence was done: {}",
        answer.succeeded
    );

    let balance = client.get(Get::key("examples/balance")).await?;
    println!(
        "the balance is {}",
        String::from_utf8_lossy(&balance.kvs[0].value)
    );
    new.release().await?;
    next.close().await?;
    Ok(())
}
