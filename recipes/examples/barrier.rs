//! A barrier: three wait at a closed gate, and go when it is opened.

#![allow(clippy::print_stdout, reason = "it tells what happens")]

use baton_client::Client;
use baton_recipes::Barrier;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let endpoints =
        std::env::var("BATON_ENDPOINTS").unwrap_or_else(|_| "127.0.0.1:2379".to_owned());
    let client = Client::new(endpoints.split(','))?;
    let barrier = Barrier::new(&client, "examples/barrier")?;

    let revision = barrier.close().await?;
    println!("closed at revision {revision}");
    let mut waiters = Vec::new();
    for name in ["ann", "bob", "eve"] {
        let barrier = barrier.clone();
        waiters.push(tokio::spawn(async move {
            let opened = barrier.wait().await?;
            println!("{name} goes: it was open at revision {opened}");
            Ok::<_, baton_client::Error>(())
        }));
    }
    let opened = barrier.open().await?;
    println!("opened at revision {opened}");
    for waiter in waiters {
        waiter.await??;
    }
    Ok(())
}
