//! Random calls, random crashes: what was acknowledged is there, and what is there is a prefix of what
//! was asked for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use batond::storage::SimDisk;
use batond::storage::log::{Driver, Log, LogEntry, LogId, LogOptions, LogState, Payload, Vote};
use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

#[derive(Clone, Debug)]
enum Call {
    Append(Vec<LogEntry>),
    Vote(Vote),
    Truncate(Option<LogId>),
    Purge(LogId),
    Commit(LogId),
}

/// What the log should hold.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    state: LogState,
    entries: BTreeMap<u64, LogEntry>,
}

impl Model {
    fn call(&mut self, call: &Call) {
        let state = &mut self.state;
        match call {
            Call::Append(entries) => {
                for entry in entries {
                    state.last = Some(entry.id);
                    self.entries.insert(entry.id.index, entry.clone());
                }
            }
            Call::Vote(vote) => state.vote = Some(*vote),
            Call::Commit(id) => state.committed = state.committed.max(Some(*id)),
            Call::Truncate(last) => {
                state.last = *last;
                self.entries.split_off(&next_after(*last));
            }
            Call::Purge(upto) => {
                state.purged = state.purged.max(Some(*upto));
                if state.last < Some(*upto) {
                    state.last = Some(*upto);
                    self.entries.clear();
                }
                self.entries = self.entries.split_off(&(upto.index + 1));
            }
        }
    }

    fn of(log: &Log) -> Self {
        let state = log.state();
        let from = next_after(state.purged);
        let entries = log.entries(from, u64::MAX, usize::MAX).expect("entries");
        Self {
            state,
            entries: entries.into_iter().map(|e| (e.id.index, e)).collect(),
        }
    }

    /// Something a raft member could ask for now.
    fn next_call(&self, rng: &mut StdRng) -> Call {
        let state = &self.state;
        let term = state
            .vote
            .map_or(1, |vote| vote.term)
            .max(state.last.map_or(1, |l| l.term));
        match rng.random_range(0..100) {
            0..60 => {
                let next = next_after(state.last);
                let entries = (next..next + rng.random_range(1..5)).map(|index| {
                    let len = [0, 30, 300, 1500][rng.random_range(0..4)];
                    let payload = Payload::Command(Bytes::from(vec![rng.random::<u8>() & 1; len]));
                    LogEntry {
                        id: LogId { term, index },
                        payload,
                    }
                });
                Call::Append(entries.collect())
            }
            60..75 => Call::Vote(Vote {
                term: term + rng.random_range(0..2),
                member_id: rng.random_range(1..4),
                committed: rng.random(),
            }),
            75..80 => match self.entries.keys().next_back() {
                Some(&last) => {
                    let at = rng.random_range(next_after(state.purged)..=last);
                    let before = at.checked_sub(1).and_then(|i| self.entries.get(&i));
                    Call::Truncate(before.map(|entry| entry.id).or(state.purged))
                }
                None => Call::Truncate(state.last),
            },
            80..90 => match self.entries.values().nth(self.entries.len() / 2) {
                Some(entry) => Call::Purge(entry.id),
                None => Call::Purge(LogId {
                    term: term + 1,
                    index: next_after(state.last) + 10,
                }),
            },
            90..91 => {
                let index = next_after(state.purged).max(next_after(state.last).saturating_sub(2));
                Call::Purge(LogId {
                    term: term + 1,
                    index,
                })
            }
            _ => Call::Commit(state.last.unwrap_or_default()),
        }
    }
}

fn next_after(last: Option<LogId>) -> u64 {
    last.map_or(0, |last| last.index + 1)
}

/// One life of a log, from opening to a crash. Returns what it should hold at most and at least: the
/// model after each call, and how many calls were acknowledged.
async fn live(disk: &SimDisk, expected: &[Model], rng: &mut StdRng) -> (Vec<Model>, usize) {
    let delays = rng.random_range(1..20);
    let mut delay_rng = StdRng::seed_from_u64(rng.random());
    let driver = Driver::Task {
        sync_delay: Box::new(move || Duration::from_millis(delay_rng.random_range(0..delays))),
    };
    let options = LogOptions {
        segment_bytes: 16 << 10,
        tail_bytes: 2 << 10,
        batch_bytes: 4 << 10,
        ..LogOptions::default()
    };
    let log = Log::open(disk.clone(), options, driver).expect("no crash makes a log unreadable");
    let found = Model::of(&log);
    assert!(
        expected.contains(&found),
        "found {:?}, expected one of {:?}",
        found.state,
        expected.iter().map(|model| model.state).collect::<Vec<_>>()
    );
    match rng.random_range(0..10) {
        0 => disk.fail_sync(rng.random_range(1..30)),
        1 => disk.fail_write(rng.random_range(1..30)),
        2 => disk.set_capacity(Some(rng.random_range(16..80) << 10)),
        _ => {}
    }
    let mut models = vec![found];
    let acknowledged = Arc::new(AtomicUsize::new(0));
    for number in 1..rng.random_range(2..80) {
        let mut model = models[number - 1].clone();
        let call = model.next_call(rng);
        model.call(&call);
        models.push(model);
        let acknowledged = acknowledged.clone();
        let done = Box::new(move |result: std::io::Result<()>| {
            if result.is_ok() {
                let before = acknowledged.swap(number, Ordering::SeqCst);
                assert!(before < number, "callbacks come in the order of the calls");
            }
        });
        match call {
            Call::Append(entries) => log.append(entries, done),
            Call::Vote(vote) => log.save_vote(vote, done),
            Call::Truncate(last) => log.truncate_after(last, done),
            Call::Purge(upto) => log.purge(upto, done),
            Call::Commit(id) => log.save_committed(id),
        }
        if rng.random_bool(0.3) {
            tokio::time::sleep(Duration::from_millis(rng.random_range(0..40))).await;
        }
        if rng.random_bool(0.1) && !disk_failed(&log) {
            assert_eq!(
                Model::of(&log),
                models[number],
                "what was asked for is readable"
            );
        }
    }
    disk.crash();
    disk.set_capacity(None);
    (models, acknowledged.load(Ordering::SeqCst))
}

/// Whether the log refuses calls.
fn disk_failed(log: &Log) -> bool {
    let (sender, receiver) = std::sync::mpsc::channel();
    let done = Box::new(move |result: std::io::Result<()>| {
        // Nobody listens any more once the call was accepted.
        let _ = sender.send(result.is_err());
    });
    log.append(Vec::new(), done);
    receiver.try_recv().unwrap_or(false)
}

#[test]
fn after_any_crash_the_log_holds_what_was_acknowledged() {
    for seed in 0..300 {
        let mut rng = StdRng::seed_from_u64(seed);
        let disk = SimDisk::new(seed);
        let mut expected = vec![Model::default()];
        for _ in 0..6 {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build()
                .expect("runtime");
            let (models, acknowledged) = runtime.block_on(live(&disk, &expected, &mut rng));
            expected = models[acknowledged..].to_vec();
        }
    }
}
