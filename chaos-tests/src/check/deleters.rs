//! Which client may have deleted a key: what no client can have deleted went with its lease.

use std::collections::BTreeMap;

use baton_proto::etcdserverpb as pb;
use bytes::Bytes;

use super::effects;
use super::timing::Timing;
use crate::history::{History, Nanos, Operation, Outcome, Request};

/// A request that may have deleted keys.
#[derive(Debug, Clone, Copy)]
struct Deleter {
    called: Nanos,
    /// If it was answered: when, and with which revision.
    answered: Option<(Nanos, i64)>,
    /// Whether the revision of the answer is that of the deletion.
    exact: bool,
}

/// All requests that may have deleted keys.
#[derive(Debug, Default)]
pub struct Deleters {
    keys: BTreeMap<Bytes, Vec<Deleter>>,
    ranges: Vec<(Bytes, Bytes, Deleter)>,
}

impl Deleters {
    /// Reads a history.
    pub fn of(history: &History) -> Self {
        let mut deleters = Self::default();
        for op in &history.operations {
            deleters.add(op);
        }
        deleters
    }

    fn add(&mut self, op: &Operation) {
        let answered = match &op.outcome {
            Outcome::Ok(answer) => Some((op.returned, answer.header().revision)),
            Outcome::Failed(_) | Outcome::Unknown(_) => None,
        };
        let deleter = |exact| Deleter {
            called: op.called,
            answered,
            exact,
        };
        let is_done = !matches!(op.outcome, Outcome::Failed(_));
        match &op.request {
            Request::DeleteRange(_) | Request::Txn(_) if is_done => {
                for deletion in effects::writes_of(&op.request).deletions {
                    self.range(deletion, deleter(true));
                }
            }
            Request::Unlock(request) => self.key(request.key.clone(), deleter(false)),
            Request::Resign(request) => {
                let key = request.leader.as_ref().map(|leader| leader.key.clone());
                self.key(key.unwrap_or_default(), deleter(false));
            }
            // A wait that was given up, or that failed, takes its key away.
            Request::Lock(request) if answered.is_none() => {
                self.key(place(&request.name, request.lease), deleter(false));
            }
            Request::Campaign(request) if answered.is_none() => {
                self.key(place(&request.name, request.lease), deleter(false));
            }
            _ => {}
        }
    }

    fn key(&mut self, key: Bytes, deleter: Deleter) {
        self.keys.entry(key).or_default().push(deleter);
    }

    fn range(&mut self, request: &pb::DeleteRangeRequest, deleter: Deleter) {
        if request.range_end.is_empty() {
            self.key(request.key.clone(), deleter);
        } else {
            let (from, to) = (request.key.clone(), request.range_end.clone());
            self.ranges.push((from, to, deleter));
        }
    }

    /// Whether a client may have deleted `key` at `revision`.
    pub fn may_have(&self, key: &[u8], revision: i64, timing: &Timing) -> bool {
        let known = timing.known(revision);
        let not_before = timing.not_before(revision);
        let may = |deleter: &Deleter| {
            deleter.called < known
                && match deleter.answered {
                    Some((_, at)) if deleter.exact => at == revision,
                    Some((returned, _)) => returned > not_before,
                    None => true,
                }
        };
        let ranges = self.ranges.iter();
        self.keys.get(key).is_some_and(|all| all.iter().any(may))
            || ranges
                .filter(|(from, to, _)| {
                    key >= from.as_ref() && (to.as_ref() == b"\0" || key < to.as_ref())
                })
                .any(|(_, _, deleter)| may(deleter))
    }
}

/// The key of a place in a line of the lock and the election service.
pub fn place(name: &[u8], lease: i64) -> Bytes {
    let mut key = name.to_vec();
    let lease = if lease < 0 {
        format!("/-{:x}", lease.unsigned_abs())
    } else {
        format!("/{lease:x}")
    };
    key.extend_from_slice(lease.as_bytes());
    key.into()
}
