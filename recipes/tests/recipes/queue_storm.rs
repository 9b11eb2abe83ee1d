//! Pops that are dropped at random moments. For a storm of 10 000:
//! `BATON_STORM=10000 cargo test -p baton-recipes --test recipes -- queue_storm --nocapture`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use baton_client::Get;
use baton_recipes::{Job, Queue, Session};
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::proxy::Fate;
use crate::storm::drops;
use crate::support::{Server, on_both};

const ROOT: &str = "baton.recipes/queue/storm/";
/// Longer than the test may take: what is gone in the end did not just run out.
const TTL: Duration = Duration::from_secs(600);

/// What the workers did, as far as they know.
#[derive(Default)]
struct Story {
    pushed: BTreeSet<String>,
    acknowledged: BTreeSet<String>,
    in_hand: BTreeSet<String>,
    /// Pops.
    dropped: u64,
}

/// Pushes, pops with little patience, and acknowledges, drops, gives back or keeps what it gets. Returns what it kept.
async fn worker(queue: Queue, pops: u64, seed: u64, story: Arc<Mutex<Story>>) -> Vec<Job> {
    let mut chance = SmallRng::seed_from_u64(seed);
    let mut kept = Vec::new();
    for _ in 0..pops {
        if chance.random_bool(0.5) {
            let id = queue.push("job").await.unwrap().to_string();
            assert!(story.lock().pushed.insert(id));
        }
        // From before the first request is sent to after the job is in hand, however fast the machine is.
        let at_most = [2, 20, 100, 1_000][chance.random_range(0..4)];
        let patience = Duration::from_millis(at_most).mul_f64(chance.random());
        let Ok(job) = tokio::time::timeout(patience, queue.pop()).await else {
            story.lock().dropped += 1;
            continue;
        };
        let job = job.unwrap();
        let id = job.id().to_string();
        assert!(
            story.lock().in_hand.insert(id.clone()),
            "{id} was given to two workers"
        );
        match chance.random_range(0..10) {
            0..4 => {
                story.lock().in_hand.remove(&id);
                job.ack().await.unwrap();
                story.lock().acknowledged.insert(id);
            }
            4..7 => {
                story.lock().in_hand.remove(&id);
                drop(job);
            }
            7..9 => {
                story.lock().in_hand.remove(&id);
                job.release().await.unwrap();
            }
            _ => kept.push(job),
        }
    }
    kept
}

async fn tails(server: &Server, part: &str) -> BTreeSet<String> {
    let prefix = format!("{ROOT}{part}/");
    let keys = server
        .client
        .get(Get::prefix(&prefix).keys_only())
        .await
        .unwrap();
    let tail = |key: &[u8]| String::from_utf8_lossy(&key[prefix.len()..]).into_owned();
    keys.kvs.iter().map(|pair| tail(&pair.key)).collect()
}

#[allow(clippy::print_stderr, reason = "a test says how much it tried")]
async fn storm(server: Server) {
    const WORKERS: u64 = 8;
    let seed = 25;
    let (proxy, client) = server.proxy().await;
    let chance = Mutex::new(SmallRng::seed_from_u64(seed));
    proxy.rule(move |path, _| {
        let is_lost = path.ends_with("/Txn") && chance.lock().random_bool(0.02);
        if is_lost {
            Fate::LoseAnswer
        } else {
            Fate::Pass
        }
    });
    let story = Arc::new(Mutex::new(Story::default()));
    let mut sessions = Vec::new();
    let mut workers = Vec::new();
    for worker_number in 0..WORKERS {
        // Two workers share a session.
        if worker_number % 2 == 0 {
            sessions.push(Session::open(&client, TTL).await.unwrap());
        }
        let queue = sessions.last().unwrap().queue("storm").unwrap();
        let work = worker(
            queue,
            drops() as u64 / WORKERS,
            seed + worker_number,
            story.clone(),
        );
        workers.push(tokio::spawn(work));
    }
    let mut kept = Vec::new();
    for worker in workers {
        kept.extend(worker.await.unwrap());
    }
    {
        let story = story.lock();
        let (dropped, done) = (story.dropped, story.acknowledged.len());
        eprintln!(
            "{dropped} pops dropped, {done} jobs done, {} in hand",
            story.in_hand.len()
        );
        assert!(dropped > 0 && done > 0, "too few to tell");
    }
    let in_hand: BTreeSet<String> = kept.iter().map(|job| job.id().to_string()).collect();
    assert_eq!(in_hand, story.lock().in_hand);
    server.counted(&format!("{ROOT}line/"), 0).await;
    server
        .counted(&format!("{ROOT}claim/"), i64::try_from(kept.len()).unwrap())
        .await;
    assert_eq!(tails(&server, "claim").await, in_hand);
    let remaining: BTreeSet<String> = {
        let story = story.lock();
        story
            .pushed
            .difference(&story.acknowledged)
            .cloned()
            .collect()
    };
    assert_eq!(tails(&server, "job").await, remaining);
    // A create that was under way when its pop was dropped may have come behind the first look at the line.
    let expected = in_hand.len() + remaining.len();
    server.counted(ROOT, i64::try_from(expected).unwrap()).await;
    drop(kept);
    for session in sessions {
        session.close().await.unwrap();
    }
    assert_eq!(tails(&server, "job").await, remaining);
    assert_eq!(
        server.count("").await as usize,
        remaining.len(),
        "nothing else of the sessions is left"
    );
}
on_both! {
    /// Appendix B, row 25, for pops.
    async fn after_a_storm_of_dropped_pops_only_jobs_in_hand_are_claimed_and_none_is_lost(server: Server) {
        storm(server).await;
    }
}
