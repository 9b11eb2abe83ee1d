//! A session: how its lease is kept, what it tells, and how it is taken up by another process.

#![allow(clippy::print_stdout, reason = "it tells what happens")]

use std::time::Duration;

use baton_client::Client;
use baton_recipes::{Session, SessionState};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let endpoints =
        std::env::var("BATON_ENDPOINTS").unwrap_or_else(|_| "127.0.0.1:2379".to_owned());
    let client = Client::new(endpoints.split(','))?;

    let session = Session::builder(&client)
        .ttl(Duration::from_secs(3))
        .label("example")
        .open()
        .await?;
    println!(
        "session {} ends in {:?} unless it is renewed",
        session.id(),
        session.remaining()
    );

    let mut state = session.state();
    let mut renewals = 0;
    while renewals < 2 {
        state.changed().await?;
        if let SessionState::Safe { until } = *state.borrow_and_update() {
            renewals += 1;
            println!("renewed: it is now safe for {:?}", until.remaining());
        }
    }

    let guard = session.mutex("examples/session").lock().await?;
    println!("holds a lock with token {}", guard.token());
    // Nobody renews it now, and the lock stays where it is until somebody does, or the time is over.
    let id = session.detach();
    println!(
        "detached: for this handle the lock is over: {:?}",
        guard.lost().await
    );

    let resumed = Session::builder(&client).resume(id).await?;
    let again = resumed.mutex("examples/session").lock().await?;
    println!(
        "resumed as {}: the same lock, with the same token {}",
        resumed.label(),
        again.token()
    );

    // Somebody revokes the lease: the session learns of it.
    client.revoke(id.lease()).await?;
    println!("lost: {}", resumed.lost().await);
    Ok(())
}
