//! Removing what a compaction made unreadable, and asking for compactions by a clock.
//!
//! A compaction takes effect when its entry is applied: from then on reads below its revision are
//! refused. What nobody can read any more is removed here, later, on every member at its own pace,
//! a few keys at a time so that applying never waits long.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use baton_proto::etcdserverpb::CompactionRequest;
use baton_proto::log::command::Op;
use baton_state_machine::{CompactCursor, RowChange, State};
use metrics::{counter, gauge, histogram};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::chaos::{Point, reach};
use crate::config::AutoCompaction;
use crate::core::Core;

/// Revisions that reads under way still look at. Nothing visible at a pinned revision is removed.
///
/// A pin is taken under the lock of the state, after checking that its revision is not compacted.
#[derive(Debug, Default)]
pub struct ReadPins {
    pins: Mutex<BTreeMap<i64, usize>>,
    released: Notify,
}

/// Keeps a revision readable until it is dropped.
#[derive(Debug)]
pub struct Pin {
    pins: Arc<ReadPins>,
    revision: i64,
}

impl ReadPins {
    /// Keeps `revision`, and everything later, readable.
    pub fn pin(self: &Arc<Self>, revision: i64) -> Pin {
        *self.pins.lock().entry(revision).or_default() += 1;
        gauge!("etcd_mvcc_db_open_read_transactions").increment(1.0);
        Pin {
            pins: Arc::clone(self),
            revision,
        }
    }

    /// The lowest pinned revision, `i64::MAX` where there is none.
    pub fn floor(&self) -> i64 {
        let pins = self.pins.lock();
        pins.keys().next().copied().unwrap_or(i64::MAX)
    }

    /// Waits until nothing below `revision` is pinned.
    async fn released_below(&self, revision: i64) {
        loop {
            let released = self.released.notified();
            tokio::pin!(released);
            released.as_mut().enable();
            if self.floor() >= revision {
                return;
            }
            released.await;
        }
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut pins = self.pins.pins.lock();
        if let Some(count) = pins.get_mut(&self.revision) {
            *count -= 1;
            if *count == 0 {
                pins.remove(&self.revision);
            }
        }
        drop(pins);
        gauge!("etcd_mvcc_db_open_read_transactions").decrement(1.0);
        self.pins.released.notify_waiters();
    }
}

/// How fast compacted revisions are removed.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Keys visited under one hold of the state's lock.
    pub batch_keys: usize,
    /// Rest between two batches.
    pub rest: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            batch_keys: 1000,
            rest: Duration::from_millis(10),
        }
    }
}

/// Removes compacted revisions in the background.
#[derive(Debug)]
pub struct Compactor {
    pins: Arc<ReadPins>,
    pace: Pace,
    removed: watch::Sender<i64>,
}

impl Compactor {
    /// A compactor that has nothing to do.
    pub fn new(pace: Pace) -> Self {
        Self {
            pins: Arc::default(),
            pace,
            removed: watch::Sender::new(0),
        }
    }

    /// Where reads under way say which revision they need.
    pub fn pins(&self) -> &Arc<ReadPins> {
        &self.pins
    }

    /// Waits until everything a compaction at `revision` made unreadable is removed.
    pub async fn removed(&self, revision: i64) {
        let mut removed = self.removed.subscribe();
        // The sender lives in `self`, so waiting cannot fail.
        let _ = removed.wait_for(|done| *done >= revision).await;
    }

    /// Removes, for as long as it is polled, what compactions up to the revision in `wanted` made
    /// unreadable; first of all what a crash or a restart left half-removed. `write_rows` queues row
    /// removals for the state store; it is called under the state's lock, so that they are ordered with
    /// a replacement of the state.
    pub async fn run(
        &self,
        state: &RwLock<State>,
        mut wanted: watch::Receiver<i64>,
        write_rows: impl Fn(Vec<RowChange>),
    ) {
        loop {
            let revision = {
                let compacted = state.read().compact_revision();
                compacted.max(*wanted.borrow_and_update())
            };
            if revision <= *self.removed.borrow() {
                if wanted.changed().await.is_err() {
                    return;
                }
                continue;
            }
            gauge!("etcd_debugging_mvcc_compact_revision").set(revision as f64);
            self.pins.released_below(revision).await;
            let started = Instant::now();
            let mut cursor = CompactCursor::new();
            while !cursor.is_done() {
                reach(Point::CompactBatch).await;
                let paused = Instant::now();
                {
                    let mut state = state.write();
                    // A compaction further on may have passed meanwhile; reads that began before it
                    // still need what lies between.
                    let floor = self.pins.floor();
                    let rows = state.compact_step(&mut cursor, self.pace.batch_keys, floor);
                    counter!("etcd_debugging_mvcc_db_compaction_keys_total")
                        .increment(rows.len() as u64);
                    if !rows.is_empty() {
                        write_rows(rows);
                    }
                }
                histogram!("etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds")
                    .record(millis(paused.elapsed()));
                tokio::time::sleep(self.pace.rest).await;
            }
            histogram!("etcd_debugging_mvcc_db_compaction_total_duration_milliseconds")
                .record(millis(started.elapsed()));
            tracing::info!(
                revision,
                took_ms = started.elapsed().as_millis() as u64,
                "finished compaction"
            );
            self.removed.send_replace(revision);
        }
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Pause between two compactions by number of revisions.
const REVISION_INTERVAL: Duration = Duration::from_secs(300);
/// Longest pause between two compactions by time.
const PERIODIC_INTERVAL_MAX: Duration = Duration::from_secs(3600);
/// Looks at the current revision per pause between two compactions by time.
const PERIODIC_SAMPLES: u32 = 10;

/// Proposes compactions while this member leads, for as long as it is polled.
pub async fn auto_compact(mode: AutoCompaction, core: Core) {
    let Some(mut schedule) = Schedule::new(mode) else {
        return;
    };
    loop {
        tokio::time::sleep(schedule.tick()).await;
        let leads = core.is_leader();
        let (current, compacted) = {
            let state = core.state().read();
            (state.revision(), state.compact_revision())
        };
        let due = schedule.due(Instant::now(), leads, current);
        let Some(revision) = due.filter(|revision| *revision > compacted.max(0)) else {
            continue;
        };
        let physical = false;
        match core
            .propose(Op::Compact(CompactionRequest { revision, physical }))
            .await
        {
            Ok(_) => tracing::info!(revision, "completed auto compaction"),
            Err(error) => tracing::warn!(revision, %error, "auto compaction failed"),
        }
    }
}

/// Decides when, and up to which revision.
#[derive(Debug)]
enum Schedule {
    Periodic {
        retention: Duration,
        /// Revisions seen, and when; the oldest in front.
        seen: VecDeque<(Instant, i64)>,
        last: Option<Instant>,
    },
    Revision(i64),
}

impl Schedule {
    fn new(mode: AutoCompaction) -> Option<Self> {
        match mode {
            AutoCompaction::Off => None,
            AutoCompaction::Periodic(retention) => Some(Self::Periodic {
                retention: retention.max(Duration::from_secs(1)),
                seen: VecDeque::new(),
                last: None,
            }),
            AutoCompaction::Revisions(keep) => Some(Self::Revision(keep)),
        }
    }

    /// How often to ask [`due`](Self::due).
    fn tick(&self) -> Duration {
        match self {
            Self::Periodic { retention, .. } => {
                (*retention).min(PERIODIC_INTERVAL_MAX) / PERIODIC_SAMPLES
            }
            Self::Revision(_) => REVISION_INTERVAL,
        }
    }

    fn due(&mut self, now: Instant, leads: bool, current: i64) -> Option<i64> {
        match self {
            Self::Revision(keep) => leads.then_some(current - *keep),
            Self::Periodic {
                retention,
                seen,
                last,
            } => {
                seen.push_back((now, current));
                // The youngest of those that are old enough stands for all before it.
                while seen.get(1).is_some_and(|(at, _)| now - *at >= *retention) {
                    seen.pop_front();
                }
                let (at, revision) = *seen.front()?;
                let rested =
                    last.is_none_or(|last| now - last >= (*retention).min(PERIODIC_INTERVAL_MAX));
                if !leads || !rested || now - at < *retention {
                    return None;
                }
                *last = Some(now);
                Some(revision)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_periodic_schedule_keeps_the_retention_and_rests_between_compactions() {
        let retention = Duration::from_secs(600);
        let mut schedule = Schedule::new(AutoCompaction::Periodic(retention)).unwrap();
        let start = Instant::now();
        let mut compactions = Vec::new();
        for tick in 1..=40 {
            tokio::time::advance(schedule.tick()).await;
            if let Some(revision) = schedule.due(Instant::now(), true, tick * 100) {
                compactions.push((start.elapsed().as_secs(), revision));
            }
        }
        assert_eq!(
            compactions,
            [(660, 100), (1260, 1100), (1860, 2100)],
            "each compacts to the revision seen ten minutes earlier"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_follower_asks_for_no_compaction() {
        for mode in [
            AutoCompaction::Periodic(Duration::from_secs(10)),
            AutoCompaction::Revisions(5),
        ] {
            let mut schedule = Schedule::new(mode).unwrap();
            for _ in 0..30 {
                tokio::time::advance(schedule.tick()).await;
                assert_eq!(schedule.due(Instant::now(), false, 1_000), None);
            }
        }
    }

    #[test]
    fn the_revision_schedule_keeps_the_newest_revisions() {
        let mut schedule = Schedule::new(AutoCompaction::Revisions(100)).unwrap();
        assert_eq!(schedule.due(Instant::now(), true, 1_000), Some(900));
    }

    #[test]
    fn the_floor_is_the_lowest_pinned_revision() {
        let pins = Arc::new(ReadPins::default());
        assert_eq!(pins.floor(), i64::MAX);
        let first = pins.pin(5);
        let second = pins.pin(5);
        let third = pins.pin(9);
        drop(first);
        assert_eq!(pins.floor(), 5, "pinned twice");
        drop(second);
        assert_eq!(pins.floor(), 9);
        drop(third);
        assert_eq!(pins.floor(), i64::MAX);
    }
}
