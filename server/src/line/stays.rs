//! Which keys in line this member answers for, and when one is to be removed.
//!
//! A call that stands in line [joins](Stays::join) the key it stands there with, before anything is
//! proposed, and leaves when it is dropped: its client went away, or it failed. The last call to leave a
//! key has it removed, unless
//!
//! - a client was told that it holds it,
//! - it was held before any of these calls came, so it is not theirs to remove, or
//! - this member stops, and clients go on elsewhere in the place they have.
//!
//! What is removed is the key as these calls last wrote it. Whoever enters with the same key on another
//! member writes it again, so a removal that is late finds another modification and removes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

/// A key to be deleted, if it was last modified at this revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removal {
    /// The key.
    pub key: Bytes,
    /// Its modification.
    pub mod_revision: i64,
}

/// A key as a call found or made it.
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    /// Its creation.
    pub create_revision: i64,
    /// The last time it was written by the call.
    pub mod_revision: i64,
    /// It existed and was the first in line before the call came.
    pub held_before: bool,
}

/// The keys that calls of this member stand in line with.
#[derive(Debug)]
pub struct Stays {
    by_key: Mutex<BTreeMap<Bytes, Calls>>,
    removals: mpsc::UnboundedSender<Removal>,
    stopping: watch::Receiver<bool>,
}

/// The calls of one key.
#[derive(Debug, Default)]
struct Calls {
    count: usize,
    /// The newest of theirs.
    claim: Option<Claim>,
    /// The key of the claim stays when they leave.
    keeps: bool,
}

impl Stays {
    /// Removals go to `removals`, and none once `stopping` is true.
    pub fn new(
        removals: mpsc::UnboundedSender<Removal>,
        stopping: watch::Receiver<bool>,
    ) -> Arc<Self> {
        Arc::new(Self {
            by_key: Mutex::default(),
            removals,
            stopping,
        })
    }

    /// A call begins to stand in line with `key`.
    pub fn join(self: &Arc<Self>, key: Bytes) -> Stay {
        self.by_key.lock().entry(key.clone()).or_default().count += 1;
        Stay {
            stays: Arc::clone(self),
            key,
            create_revision: 0,
        }
    }
}

/// One call's part in a key. Dropped, the call leaves.
#[derive(Debug)]
pub struct Stay {
    stays: Arc<Stays>,
    key: Bytes,
    create_revision: i64,
}

impl Stay {
    /// The call stands in line.
    pub fn entered(&mut self, claim: Claim) {
        self.create_revision = claim.create_revision;
        let mut by_key = self.stays.by_key.lock();
        let Some(calls) = by_key.get_mut(&self.key) else {
            return;
        };
        match &mut calls.claim {
            Some(known) if known.create_revision > claim.create_revision => {}
            Some(known) if known.create_revision == claim.create_revision => {
                known.mod_revision = known.mod_revision.max(claim.mod_revision);
                // Of two calls that came together one made the key, and it may be heard last.
                known.held_before &= claim.held_before;
            }
            _ => {
                calls.claim = Some(claim);
                calls.keeps = false;
            }
        }
    }

    /// The key stays: a client was told that it holds it, or is to go on elsewhere.
    pub fn keep(&self) {
        let mut by_key = self.stays.by_key.lock();
        if let Some(calls) = by_key.get_mut(&self.key)
            && let Some(claim) = calls.claim
        {
            calls.keeps |= claim.create_revision == self.create_revision;
        }
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        let mut by_key = self.stays.by_key.lock();
        let Some(calls) = by_key.get_mut(&self.key) else {
            return;
        };
        calls.count -= 1;
        if calls.count > 0 {
            return;
        }
        let left = by_key.remove(&self.key);
        drop(by_key);
        let claim = left.and_then(|calls| calls.claim.filter(|_| !calls.keeps));
        let Some(claim) = claim.filter(|claim| !claim.held_before) else {
            return;
        };
        if !*self.stays.stopping.borrow() {
            // It fails only when the member is gone already.
            let _ = self.stays.removals.send(Removal {
                key: self.key.clone(),
                mod_revision: claim.mod_revision,
            });
        }
    }
}
