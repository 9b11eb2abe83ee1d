//! An election: two candidates, an observer, and work that stops with the leadership.

#![allow(clippy::print_stdout, reason = "it tells what happens")]

use std::time::Duration;

use baton_client::Client;
use baton_recipes::{LeaderEvent, Session};
use futures_util::StreamExt;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let endpoints =
        std::env::var("BATON_ENDPOINTS").unwrap_or_else(|_| "127.0.0.1:2379".to_owned());
    let client = Client::new(endpoints.split(','))?;
    let ann = Session::builder(&client).label("ann").open().await?;
    let bob = Session::builder(&client).label("bob").open().await?;
    let audience = Session::open(&client, Duration::from_secs(10)).await?;

    let mut events = audience.election("examples/election").observe();
    let observer = tokio::spawn(async move {
        let mut elected = 0;
        while let Some(event) = events.next().await {
            match event {
                Ok(LeaderEvent::Elected(leader)) => {
                    elected += 1;
                    let value = String::from_utf8_lossy(&leader.candidate.value).into_owned();
                    println!("  observer: {value} leads, term {}", leader.candidate.token);
                }
                Ok(LeaderEvent::Updated(leader)) => {
                    let value = String::from_utf8_lossy(&leader.candidate.value).into_owned();
                    println!("  observer: the leader says {value}");
                    if elected == 2 {
                        return;
                    }
                }
                Ok(event) => println!("  observer: {event:?}"),
                Err(error) => println!("  observer: {error}"),
            }
        }
    });

    let leadership = ann.election("examples/election").campaign("ann").await?;
    println!("ann leads, term {}", leadership.term());
    let bobs = bob.election("examples/election").campaign("bob");
    let bobs = tokio::spawn(bobs.into_future());

    // It stops where it stands when the leadership ends.
    let work = leadership.spawn(std::future::pending::<()>());
    leadership.proclaim("ann, at your service").await?;
    leadership.resign().await?;
    println!("ann resigned; her work ended: {}", work.await?.unwrap_err());

    let leadership = bobs.await??;
    println!("bob leads, term {}", leadership.term());
    leadership.proclaim("bob, at your service").await?;
    observer.await?;
    leadership.resign().await?;
    Ok(())
}
