//! Reads, writes, compare-and-swap, deletions, ranges and transactions over a few keys.
//!
//! Clients work in groups of at most [`GROUP`] on [`KEYS`] keys, and every group goes to new keys after [`PER_KEYS`]
//! operations: searching an order for what happened to one key gets out of hand beyond that. Values are unique in the run.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rand::Rng;
use rand::rngs::SmallRng;
use tokio::task::JoinSet;

use super::Context;
use super::requests::Draw;
use crate::history::Outcome;

/// Its name in histories, and where its keys begin.
pub const REGISTER: &str = "register";

/// Clients that share keys.
pub const GROUP: u32 = 8;

/// Keys that a group has at a time.
pub const KEYS: usize = 4;

/// Operations on a set of keys before the group goes on to the next; each may be about all of them.
pub const PER_KEYS: u64 = 900;

/// Runs `clients` clients until the load is to end.
pub async fn run(context: Context, clients: u32) {
    let mut tasks = JoinSet::new();
    let mut made = Arc::default();
    for client in 0..clients {
        if client % GROUP == 0 {
            made = Arc::default();
        }
        tasks.spawn(work(context.clone(), client, Arc::clone(&made)));
    }
    while tasks.join_next().await.is_some() {}
}

/// Where the keys of a group begin, after it has made so many operations.
pub fn prefix(group: u32, made: u64) -> String {
    format!("{REGISTER}/{group}/{:06}/", made / PER_KEYS)
}

/// One client. `made` counts the operations of its group.
async fn work(mut context: Context, number: u32, made: Arc<AtomicU64>) {
    let mut chance = context.chance(&format!("{REGISTER}/{number}"));
    let member = u64::from(number) % context.members + 1;
    let mut client = context.client(REGISTER, member);
    let mut draw = Draw::new(format!("{REGISTER}/{number}"));
    loop {
        context.rest(&mut chance).await;
        if context.stopped() {
            return;
        }
        let made = made.fetch_add(1, Ordering::Relaxed);
        draw.on(&prefix(number / GROUP, made), KEYS);
        let request = draw.next(&mut chance);
        let outcome = client.call(request.clone()).await;
        draw.learn(&request, &outcome);
        if moves(&mut chance, &outcome) {
            client.move_to(context.any_member(&mut chance));
        }
    }
}

/// Whether a client goes to another member after this.
fn moves(chance: &mut SmallRng, outcome: &Outcome) -> bool {
    chance.random_bool(match outcome {
        Outcome::Ok(_) => 0.01,
        Outcome::Failed(_) | Outcome::Unknown(_) => 0.3,
    })
}
