//! Applies committed entries, in this order for each batch:
//!
//! 1. apply every entry to the state, record its events in the ring, so that later entries can read the
//!    values they replaced, and queue the changed rows for the state store;
//! 2. publish the events to watchers and wake those who wait in line for a deletion;
//! 3. hand effects to the lessor and the compactor;
//! 4. answer those who proposed here.
//!
//! Publishing before answering means that a client which saw its write acknowledged finds the event
//! under way on every watch of this member.

use std::sync::Arc;
use std::time::Duration;

use baton_proto::log::command::Op;
use baton_proto::log::{self, Command};
use baton_state_machine::{Applied, Effect, RevisionEvents, RowChange, State, Table};
use bytes::Bytes;
use metrics::{Histogram, counter, histogram};
use parking_lot::RwLock;
use prost::Message;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::chaos::{Point, point, reach};
use crate::flusher::{AllRows, Flusher};
use crate::line::Wakes;
use crate::state_hash::{self, Extend, STATE_HASH_KEY, StateHashes};
use crate::waiters::{Outcome, Waiters};
use crate::watch::{History, WatchHub};

/// Row of the applied position in [`Table::Meta`]: an encoded `log::LogId`.
pub const APPLIED_KEY: &[u8] = b"server/applied";
/// Row of the last membership in [`Table::Meta`]: an encoded `log::StoredMembership`.
pub const MEMBERSHIP_KEY: &[u8] = b"server/membership";

/// What an entry holds.
pub enum Payload {
    /// Opens a term.
    Blank,
    /// An encoded [`Command`].
    Command(Bytes),
    /// A new membership.
    Membership(log::Membership),
}

/// Takes the effects of a batch.
pub type OnEffects = Box<dyn Fn(&[Effect]) + Send + Sync>;

/// A committed entry.
pub struct Entry {
    /// Its place in the log.
    pub id: log::LogId,
    /// What it holds.
    pub payload: Payload,
}

/// The one writer of the state.
pub struct ApplyLoop {
    /// This member.
    pub member_id: u64,
    /// The state. Written here only.
    pub state: Arc<RwLock<State>>,
    /// Recent events, and older values.
    pub history: Arc<History>,
    /// Where watchers are told.
    pub hub: Arc<WatchHub>,
    /// Who waits in line.
    pub wakes: Arc<Wakes>,
    /// Where effects go.
    pub effects: OnEffects,
    /// Who waits for outcomes.
    pub waiters: Arc<Waiters>,
    /// Where rows go.
    pub flusher: Flusher,
    /// What the state hashes to after each entry.
    pub hashes: Arc<StateHashes>,
    /// The last applied entry, told after each batch.
    pub applied: watch::Sender<Option<log::LogId>>,
    /// The membership as of the last applied entry.
    pub membership: log::StoredMembership,
    /// How long entries take.
    pub times: ApplyTimes,
}

/// A batch that takes longer to apply than this counts as slow.
const SLOW: Duration = Duration::from_millis(100);

/// How long entries took to apply, by operation and outcome. What a member does on its own account (the
/// end of leases, its name) is not among etcd's operations and not measured.
pub struct ApplyTimes {
    puts: [Histogram; 2],
    deletes: [Histogram; 2],
    txns: [Histogram; 2],
    compactions: [Histogram; 2],
    grants: [Histogram; 2],
    revocations: [Histogram; 2],
    alarms: [Histogram; 2],
}

impl ApplyTimes {
    /// Of the recorder that is installed.
    pub fn new() -> Self {
        let of = |op: &'static str| {
            ["false", "true"].map(|success| {
                histogram!(
                    "etcd_server_apply_duration_seconds",
                    "op" => op, "success" => success, "version" => "v3"
                )
            })
        };
        Self {
            puts: of("Put"),
            deletes: of("DeleteRange"),
            txns: of("Txn"),
            compactions: of("Compaction"),
            grants: of("LeaseGrant"),
            revocations: of("LeaseRevoke"),
            alarms: of("Alarm"),
        }
    }

    fn record(&self, command: &Command, applied: &Applied, took: Duration) {
        let by_success = match command.op {
            Some(Op::Put(_)) => &self.puts,
            Some(Op::DeleteRange(_)) => &self.deletes,
            Some(Op::Txn(_)) => &self.txns,
            Some(Op::Compact(_)) => &self.compactions,
            Some(Op::LeaseGrant(_)) => &self.grants,
            Some(Op::LeaseRevoke(_)) => &self.revocations,
            Some(Op::Alarm(_)) => &self.alarms,
            Some(Op::Publish(_) | Op::Expire(_) | Op::BeginStateHash(_)) | None => return,
        };
        by_success[usize::from(applied.outcome.is_ok())].record(took);
    }
}

impl Default for ApplyTimes {
    fn default() -> Self {
        Self::new()
    }
}

impl ApplyLoop {
    /// Applies a batch of consecutive entries.
    pub fn apply(&mut self, entries: Vec<Entry>) {
        let Some(last) = entries.last().map(|e| e.id) else {
            return;
        };
        let before = self.applied.borrow().map_or(0, |id| id.term);
        let mut events: Vec<Arc<RevisionEvents>> = Vec::new();
        let mut effects = Vec::new();
        let mut rows: Vec<RowChange> = Vec::new();
        let mut answers = Vec::new();
        point(Point::ApplyBefore);
        let shared = Arc::clone(&self.state);
        let mut state = shared.write();
        let begun = Instant::now();
        let running_hash = Arc::clone(&self.hashes);
        let mut hash = running_hash.extend();
        for entry in entries {
            let (id, rows_before) = (entry.id, rows.len());
            let mut applied = self.apply_one(&mut state, entry, &mut answers, &mut rows, &mut hash);
            for revision in &applied.events {
                self.history.ring().push(revision.clone());
            }
            events.append(&mut applied.events);
            effects.append(&mut applied.effects);
            rows.append(&mut applied.rows);
            hash.add(id, &rows[rows_before..]);
        }
        let revision = state.revision();
        rows.push(meta_row(APPLIED_KEY, last.encode_to_vec()));
        rows.extend(hash.row().map(|row| meta_row(STATE_HASH_KEY, row)));
        drop(hash);
        point(Point::ApplyBeforeRows);
        self.flusher.write(rows, Some(revision));
        drop(state);
        if begun.elapsed() > SLOW {
            counter!("etcd_server_slow_apply_total").increment(1);
        }
        point(Point::ApplyAfterRows);

        if !events.is_empty() {
            self.hub.publish(&events);
            self.wakes.deleted(&events);
        }
        if !effects.is_empty() {
            (self.effects)(&effects);
        }
        point(Point::ApplyBeforeAnswer);
        self.applied.send_replace(Some(last));
        for (id, outcome) in answers {
            self.waiters.answer(id, outcome);
        }
        if last.term > before {
            self.waiters.term_applied(last.term);
        }
    }

    fn apply_one(
        &mut self,
        state: &mut State,
        entry: Entry,
        answers: &mut Vec<(u64, Outcome)>,
        rows: &mut Vec<RowChange>,
        hash: &mut Extend<'_>,
    ) -> Applied {
        match entry.payload {
            Payload::Blank => state.apply(entry.id.term, &Command::default(), &*self.history),
            Payload::Command(bytes) => {
                // What a leader proposed was encoded by a member; if it cannot be decoded all members
                // skip it alike.
                let command = Command::decode(bytes).unwrap_or_default();
                if let Some(Op::BeginStateHash(_)) = command.op {
                    hash.begin();
                }
                let begun = Instant::now();
                let mut applied = state.apply(entry.id.term, &command, &*self.history);
                self.times.record(&command, &applied, begun.elapsed());
                if command.origin == self.member_id {
                    answers.push((command.request_id, Outcome::of(&mut applied)));
                }
                applied
            }
            Payload::Membership(membership) => {
                let applied = state.set_membership(&membership);
                self.membership = log::StoredMembership {
                    log_id: Some(entry.id),
                    membership: Some(membership),
                };
                rows.push(meta_row(MEMBERSHIP_KEY, self.membership.encode_to_vec()));
                applied
            }
        }
    }

    /// Takes over a snapshot: the state, the store and every position become the snapshot's.
    ///
    /// # Errors
    /// If the rows make no state, or the store cannot be replaced.
    pub async fn install(
        &mut self,
        last: log::LogId,
        membership: log::StoredMembership,
        rows: AllRows,
    ) -> std::io::Result<()> {
        let mut all = rows.iter().cloned();
        let state = State::load(&mut all)
            .map_err(|e| std::io::Error::new(std::io::ErrorKind::InvalidData, e.to_string()))?;
        let hash = state_hash::known_to_snapshot(&rows, last)?;
        reach(Point::InstallBeforeReplace).await;
        self.flusher.replace(rows).await?;
        reach(Point::InstallAfterReplace).await;
        let revision = state.revision();
        let compact_revision = state.compact_revision();
        {
            let mut current = self.state.write();
            *current = state;
            self.history.ring().reset(revision);
            self.hashes.reset(hash);
        }
        point(Point::WatchReset);
        self.hub.reset(revision);
        self.wakes.all();
        (self.effects)(&[Effect::Compacted {
            revision: compact_revision,
        }]);
        self.membership = membership;
        self.applied.send_replace(Some(last));
        self.waiters.snapshot_installed(last.term);
        Ok(())
    }
}

fn meta_row(key: &'static [u8], value: Vec<u8>) -> RowChange {
    RowChange {
        table: Table::Meta,
        key: Bytes::from_static(key),
        value: Some(value.into()),
    }
}
