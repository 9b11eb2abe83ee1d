//! Which call may have made a place in a line: a key that no call can have made is a ghost.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::deleters::place;
use super::effects;
use super::timing::Timing;
use crate::history::{History, Nanos, Operation, Outcome, Request};

/// A call that may have made a key: not before it was called, and not after it was over, if it is known to be.
#[derive(Debug, Clone, Copy)]
struct Creator {
    called: Nanos,
    over: Option<Nanos>,
}

/// All calls that may have made keys that stand in lines.
#[derive(Debug, Default)]
pub struct Creators {
    keys: BTreeMap<Bytes, Vec<Creator>>,
    /// Those that had a lease made for them, and with it the end of their key's name.
    names: BTreeMap<Bytes, Vec<Creator>>,
}

impl Creators {
    /// Reads a history.
    pub fn of(history: &History) -> Self {
        let mut creators = Self::default();
        for op in &history.operations {
            creators.add(op);
        }
        creators
    }

    fn add(&mut self, op: &Operation) {
        let creator = Creator {
            called: op.called,
            over: (!matches!(op.outcome, Outcome::Unknown(_))).then_some(op.returned),
        };
        match &op.request {
            // One that failed may have stood there for a while.
            Request::Lock(request) => self.line(&request.name, request.lease, creator),
            Request::Campaign(request) => self.line(&request.name, request.lease, creator),
            Request::Txn(_) if !matches!(op.outcome, Outcome::Failed(_)) => {
                for put in effects::writes_of(&op.request).puts {
                    self.keys.entry(put.key.clone()).or_default().push(creator);
                }
            }
            _ => {}
        }
    }

    fn line(&mut self, name: &Bytes, lease: i64, creator: Creator) {
        let made = match lease {
            0 => self.names.entry(name.clone()),
            lease => self.keys.entry(place(name, lease)),
        };
        made.or_default().push(creator);
    }

    /// Whether a call may have made `key` at `revision`.
    pub fn may_have(&self, key: &[u8], revision: i64, timing: &Timing) -> bool {
        let known = timing.known(revision);
        let not_before = timing.not_before(revision);
        let may = |creator: &Creator| {
            creator.called <= known && creator.over.is_none_or(|over| not_before <= over)
        };
        let name = key.iter().rposition(|byte| *byte == b'/');
        let named = name.and_then(|end| self.names.get(&key[..end]));
        let keyed = self.keys.get(key);
        keyed.into_iter().chain(named).flatten().any(may)
    }
}
