//! What happened to a range of keys, for watches that begin in the past.

use bytes::Bytes;

use crate::key_range::KeyRange;
use crate::{EventKind, Rev, State};

/// A change in the past. Its pair is to be read from the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PastEvent {
    /// Where it stands, and where a PUT's pair is read.
    pub rev: Rev,
    /// PUT or DELETE.
    pub kind: EventKind,
    /// The key.
    pub key: Bytes,
    /// Where the pair of the revision before is read; `None` if there was none, or if it lies
    /// below the compact revision.
    pub prev: Option<Rev>,
}

/// A search for the changes of a range of keys between two revisions, in pieces.
#[derive(Debug)]
pub struct HistoryScan {
    range: KeyRange,
    from: i64,
    to: i64,
    compact_revision: i64,
    after: Option<Bytes>,
    found: Vec<PastEvent>,
}

impl HistoryScan {
    pub(crate) fn new(range: KeyRange, from: i64, to: i64, compact_revision: i64) -> Self {
        HistoryScan {
            range,
            from,
            to,
            compact_revision,
            after: None,
            found: Vec::new(),
        }
    }

    /// The lowest revision it reads at: what compaction must leave in place until the events and
    /// the pairs before them are read.
    pub fn oldest(&self) -> i64 {
        self.from - 1
    }

    /// Visits up to `max_keys` more keys (at least one). True once there is nothing left to visit.
    pub fn step(&mut self, state: &State, max_keys: usize) -> bool {
        let after = self.after.take();
        let mut last: Option<&Bytes> = None;
        for (visited, (key, entry)) in state
            .index
            .range_after(&self.range, after.as_ref())
            .enumerate()
        {
            if visited >= max_keys.max(1) {
                self.after = last.cloned();
                return false;
            }
            last = Some(key);
            if entry.newest().main < self.from {
                continue;
            }
            let skipped = entry
                .older()
                .partition_point(|change| change.main < self.from);
            // The newest change of an earlier revision, and simply the change before.
            let mut visible = skipped.checked_sub(1).map(|at| entry.older()[at]);
            let mut before = visible;
            for (change, _) in entry.changes().skip(skipped) {
                if change.main > self.to {
                    break;
                }
                if before.is_some_and(|before| before.main < change.main) {
                    visible = before;
                }
                // Also where the same revision deleted the key first.
                let is_creation =
                    !change.is_tombstone() && before.is_none_or(|before| before.is_tombstone());
                before = Some(*change);
                let prev = visible.filter(|prev| {
                    !is_creation && !prev.is_tombstone() && change.main > self.compact_revision
                });
                self.found.push(PastEvent {
                    rev: change.rev(),
                    kind: if change.is_tombstone() {
                        EventKind::Delete
                    } else {
                        EventKind::Put
                    },
                    key: key.clone(),
                    prev: prev.map(|prev| prev.rev()),
                });
            }
        }
        true
    }

    /// The events in the order they happened.
    pub fn finish(mut self) -> Vec<PastEvent> {
        self.found.sort_unstable_by_key(|event| event.rev);
        self.found
    }
}
