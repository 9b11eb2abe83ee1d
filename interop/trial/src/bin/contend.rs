//! A contender by Baton's recipes: `contend mutex|try-lock|election ENDPOINTS NAME TURNS [stay]`.
#![allow(clippy::print_stdout, reason = "a command line tool")]
#![allow(
    clippy::disallowed_methods,
    reason = "shares a clock with other processes"
)]

use std::ops::Deref;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use baton_client::Client;
use baton_recipes::{Grant, Session};
use rustix::time::{ClockId, clock_gettime};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (way, endpoints, name, turns, stays) = match &arguments[..] {
        [way, endpoints, name, turns] => (way, endpoints, name, turns, false),
        [way, endpoints, name, turns, stay] if stay == "stay" => {
            (way, endpoints, name, turns, true)
        }
        _ => bail!("usage: contend mutex|try-lock|election ENDPOINTS NAME TURNS [stay]"),
    };
    let turns: usize = turns.parse()?;
    let client = Client::new(endpoints.split(','))?;
    let session = Session::open(&client, Duration::from_secs(3)).await?;
    for turn in 0..turns + usize::from(stays) {
        let stays = turn == turns;
        match way.as_str() {
            "mutex" => {
                let guard = session.mutex(name.as_str()).lock().await?;
                be_inside(&guard, stays).await;
                guard.release().await?;
            }
            "try-lock" => {
                let mutex = session.mutex(name.as_str());
                let guard = loop {
                    if let Some(guard) = mutex.try_lock().await? {
                        break guard;
                    }
                    tokio::time::sleep(Duration::from_millis(5)).await;
                };
                be_inside(&guard, stays).await;
                guard.release().await?;
            }
            "election" => {
                let leadership = session.election(name.as_str()).campaign("rust").await?;
                be_inside(&leadership, stays).await;
                leadership.resign().await?;
            }
            _ => bail!("{way} is no way to hold something"),
        }
    }
    session.close().await.context("close the session")
}

async fn be_inside(grant: &impl Deref<Target = Grant>, stays: bool) {
    let token = grant.token().get();
    println!("enter {token} {}", now());
    if stays {
        std::future::pending::<()>().await;
    }
    tokio::time::sleep(Duration::from_millis(2)).await;
    println!("leave {token} {}", now());
}

fn now() -> i64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}
