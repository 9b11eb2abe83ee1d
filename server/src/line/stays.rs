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
    turn: Arc<tokio::sync::Mutex<()>>,
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

    /// Whose turn it is among the calls of the key to write it again.
    pub fn turn(&self) -> Arc<tokio::sync::Mutex<()>> {
        let by_key = self.stays.by_key.lock();
        let calls = by_key.get(&self.key);
        calls
            .map(|calls| Arc::clone(&calls.turn))
            .unwrap_or_default()
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

#[cfg(test)]
mod tests {
    use super::*;

    struct World {
        stays: Arc<Stays>,
        removals: mpsc::UnboundedReceiver<Removal>,
        stopping: watch::Sender<bool>,
    }

    impl World {
        fn new() -> Self {
            let (tx, removals) = mpsc::unbounded_channel();
            let stopping = watch::Sender::new(false);
            Self {
                stays: Stays::new(tx, stopping.subscribe()),
                removals,
                stopping,
            }
        }

        fn join(&self) -> Stay {
            self.stays.join(Bytes::from_static(b"job/1"))
        }

        /// A call that made the key, or wrote it again, at `mod_revision`.
        fn enter(&self, create_revision: i64, mod_revision: i64) -> Stay {
            let mut stay = self.join();
            stay.entered(Claim {
                create_revision,
                mod_revision,
                held_before: false,
            });
            stay
        }

        /// A call that found the key held.
        fn find_held(&self, create_revision: i64, mod_revision: i64) -> Stay {
            let mut stay = self.join();
            stay.entered(Claim {
                create_revision,
                mod_revision,
                held_before: true,
            });
            stay
        }

        /// The modifications of the key that are to be removed.
        fn removed(&mut self) -> Vec<i64> {
            std::iter::from_fn(|| self.removals.try_recv().ok())
                .map(|removal| removal.mod_revision)
                .collect()
        }
    }

    #[test]
    fn a_call_that_is_dropped_has_its_key_removed() {
        let mut world = World::new();
        drop(world.enter(5, 5));
        assert_eq!(world.removed(), [5]);
    }

    #[test]
    fn a_call_that_never_had_a_key_has_none_removed() {
        let mut world = World::new();
        drop(world.join());
        assert!(world.removed().is_empty());
    }

    #[test]
    fn a_key_that_a_client_was_told_of_stays() {
        let mut world = World::new();
        let stay = world.enter(5, 5);
        stay.keep();
        drop(stay);
        assert!(world.removed().is_empty());
    }

    #[test]
    fn the_last_call_to_leave_has_the_key_removed_as_it_was_written_last() {
        let mut world = World::new();
        let first = world.enter(5, 5);
        let second = world.enter(5, 8);
        drop(second);
        assert!(world.removed().is_empty());
        drop(first);
        assert_eq!(world.removed(), [8]);
    }

    #[test]
    fn a_call_whose_outcome_is_not_known_yet_counts_as_there() {
        let mut world = World::new();
        let entering = world.join();
        drop(world.enter(5, 5));
        assert!(world.removed().is_empty());
        drop(entering);
        assert_eq!(world.removed(), [5]);
    }

    #[test]
    fn a_key_that_was_held_before_is_not_removed() {
        let mut world = World::new();
        drop(world.find_held(5, 8));
        assert!(world.removed().is_empty());
    }

    #[test]
    fn a_key_held_by_a_call_that_is_not_answered_yet_was_not_held_before() {
        for finder_first in [true, false] {
            let mut world = World::new();
            let (maker, finder) = if finder_first {
                let mut maker = world.join();
                let finder = world.find_held(5, 8);
                maker.entered(Claim {
                    create_revision: 5,
                    mod_revision: 5,
                    held_before: false,
                });
                (maker, finder)
            } else {
                (world.enter(5, 5), world.find_held(5, 8))
            };
            drop(finder);
            drop(maker);
            assert_eq!(world.removed(), [8], "finder first: {finder_first}");
        }
    }

    #[test]
    fn an_answer_to_one_call_keeps_the_key_whatever_becomes_of_the_other() {
        let mut world = World::new();
        let (maker, finder) = (world.enter(5, 5), world.find_held(5, 8));
        finder.keep();
        drop(finder);
        drop(maker);
        assert!(world.removed().is_empty());
    }

    #[test]
    fn an_answer_about_an_older_key_does_not_keep_a_younger_one() {
        let mut world = World::new();
        let old = world.enter(5, 5);
        let young = world.enter(9, 9);
        old.keep();
        drop((old, young));
        assert_eq!(world.removed(), [9]);
    }

    #[test]
    fn a_stopping_member_leaves_keys_in_place() {
        let mut world = World::new();
        let stay = world.enter(5, 5);
        world.stopping.send_replace(true);
        drop(stay);
        assert!(world.removed().is_empty());
    }
}
