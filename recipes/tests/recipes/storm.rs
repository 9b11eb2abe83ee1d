//! Locks and campaigns dropped at random moments.
//!
//! `BATON_STORM=10000 cargo test -p baton-recipes --release --test recipes storm` is a longer one.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use baton_client::Client;
use baton_recipes::{Error, Session};
use parking_lot::Mutex as Lock;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;

use crate::proxy::Fate;
use crate::support::{Server, on_both, puts};

const SESSIONS: usize = 8;
const NAMES: usize = 4;
/// Few enough to contend, and many enough that some hold while others wait.
const TASKS: usize = 32;

/// How many attempts a storm has.
pub fn drops() -> usize {
    let drops = std::env::var("BATON_STORM").ok();
    drops.map_or(500, |drops| drops.parse().expect("BATON_STORM is a number"))
}

/// One attempt, dropped somewhere.
async fn attempt(session: Session, name: String, how: u32, wait: Duration, hold: Duration) {
    let mutex = session.mutex(&*name);
    let election = session.election(&*name);
    match how {
        0 => {
            if let Ok(guard) = tokio::time::timeout(wait, mutex.lock()).await {
                let _guard = guard.unwrap();
                tokio::time::sleep(hold).await;
            }
        }
        1 => match mutex.lock().timeout(wait).await {
            Ok(guard) => {
                tokio::time::sleep(hold).await;
                guard.release().await.unwrap();
            }
            Err(error) => assert!(matches!(error, Error::TimedOut(_)), "{error}"),
        },
        2 => match election.campaign("me").timeout(wait).await {
            Ok(leadership) => {
                // The release is dropped half way.
                let _ = tokio::time::timeout(hold / 4, leadership.resign()).await;
            }
            Err(error) => assert!(matches!(error, Error::TimedOut(_)), "{error}"),
        },
        3 => {
            let campaign = tokio::spawn(election.campaign("me").into_future());
            tokio::time::sleep(wait).await;
            campaign.abort();
        }
        4 => {
            let body = async |_| tokio::time::sleep(hold).await;
            let _ = tokio::time::timeout(wait, mutex.run(body)).await;
        }
        _ => {
            let _ = tokio::time::timeout(wait, mutex.try_lock()).await;
        }
    }
}

/// Does what it says, and then compares what stands under the names with who holds and waits.
async fn storm(server: &Server, client: &Client) {
    let mut sessions = Vec::new();
    for _ in 0..SESSIONS {
        let session = Session::open(client, Duration::from_secs(60)).await;
        sessions.push(session.unwrap());
    }
    let random = Lock::new(SmallRng::seed_from_u64(25));
    let pick = |most: usize| random.lock().random_range(0..most);
    let mut tasks = JoinSet::new();
    for _ in 0..drops() {
        if tasks.len() >= TASKS {
            tasks.join_next().await.unwrap().unwrap();
        }
        let session = sessions[pick(SESSIONS)].clone();
        let name = format!("storm/{}", pick(NAMES));
        let how = pick(6).try_into().unwrap();
        let [wait, hold] = [pick(8_000), pick(2_000)].map(|it| Duration::from_micros(it as u64));
        tasks.spawn(attempt(session, name, how, wait, hold));
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    // One session holds every name, and all others wait: whatever was before them in their process is
    // undone then.
    let mut guards = Vec::new();
    let mut waiters = JoinSet::new();
    for name in 0..NAMES {
        let name = format!("storm/{name}");
        guards.push(sessions[0].mutex(&*name).lock().await.unwrap());
        for session in &sessions[1..] {
            let (enqueued, is_enqueued) = tokio::sync::oneshot::channel();
            let lock = session.mutex(&*name).lock();
            let lock = lock.on_enqueued(|_| enqueued.send(()).unwrap());
            waiters.spawn(lock.into_future());
            is_enqueued.await.unwrap();
        }
    }
    let live = i64::try_from(guards.len() + waiters.len()).unwrap();
    assert_eq!(server.count("storm/").await, live);
    drop(guards);
    while let Some(held) = waiters.join_next().await {
        held.unwrap().unwrap().release().await.unwrap();
    }
    // The guards dropped above are undone when their session has had its turn.
    for name in 0..NAMES {
        let guard = sessions[0].mutex(format!("storm/{name}")).lock().await;
        guard.unwrap().release().await.unwrap();
    }
    assert_eq!(server.count("storm/").await, 0);
}

on_both! {
    /// Appendix B, row 25.
    async fn after_a_storm_of_drops_the_keys_are_those_of_who_holds_and_who_waits(server: Server) {
        storm(&server, &server.client).await;
    }

    /// Appendix B, rows 25 and 21: answers are lost, and creates come late.
    async fn after_a_storm_with_lost_answers_late_creates_create_nothing(server: Server) {
        let (proxy, client) = server.proxy().await;
        let creates = AtomicU32::new(0);
        proxy.rule(move |path, message| {
            if !puts(path, message, "storm/") {
                return Fate::Pass;
            }
            match creates.fetch_add(1, Ordering::Relaxed) % 16 {
                3 | 11 => Fate::LoseAnswer,
                7 => Fate::Keep,
                _ => Fate::Pass,
            }
        });
        storm(&server, &client).await;
        assert!(proxy.kept() > 0);
        proxy.deliver().await;
        assert_eq!(server.count("storm/").await, 0);
    }
}
