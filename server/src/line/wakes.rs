//! Who waits for the deletion of which key.
//!
//! The apply loop tells of every deletion after the state shows it. Whoever registers while it holds the
//! state's read lock therefore either sees that a key is gone, or is told when it goes. To be told is a
//! hint: what it means is decided by looking at the state again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use baton_state_machine::{EventKind, RevisionEvents};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Everyone who waits on this member.
#[derive(Debug, Default)]
pub struct Wakes {
    ids: AtomicU64,
    /// By key and by a number of their own.
    waiting: Mutex<BTreeMap<(Bytes, u64), Arc<Signal>>>,
}

#[derive(Debug, Default)]
struct Signal {
    /// The revision of the deletion, 0 where it is not known.
    revision: AtomicI64,
    notify: Notify,
}

impl Wakes {
    /// Tells those who wait for a deletion among `revisions`, which the state shows already.
    pub fn deleted(&self, revisions: &[Arc<RevisionEvents>]) {
        let waiting = self.waiting.lock();
        if waiting.is_empty() {
            return;
        }
        for RevisionEvents { revision, events } in revisions.iter().map(|events| &**events) {
            for event in events.iter().filter(|e| e.kind == EventKind::Delete) {
                let key = &event.kv.key;
                let theirs = (key.clone(), 0)..=(key.clone(), u64::MAX);
                for (_, signal) in waiting.range(theirs) {
                    signal.revision.store(*revision, Ordering::Relaxed);
                    signal.notify.notify_one();
                }
            }
        }
    }

    /// Tells everyone to look again: the state was replaced.
    pub fn all(&self) {
        for signal in self.waiting.lock().values() {
            signal.notify.notify_one();
        }
    }

    /// Waits for the deletion of any of `keys`. Call it under the state's read lock.
    pub fn register<const N: usize>(self: &Arc<Self>, keys: [Bytes; N]) -> Registered<N> {
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        let signal = Arc::new(Signal::default());
        let mut waiting = self.waiting.lock();
        for key in &keys {
            waiting.insert((key.clone(), id), Arc::clone(&signal));
        }
        drop(waiting);
        Registered {
            wakes: Arc::clone(self),
            keys,
            id,
            signal,
        }
    }
}

/// One who waits. Dropped, it waits no more.
#[derive(Debug)]
pub struct Registered<const N: usize> {
    wakes: Arc<Wakes>,
    keys: [Bytes; N],
    id: u64,
    signal: Arc<Signal>,
}

impl<const N: usize> Registered<N> {
    /// Returns once one of the keys was deleted or the state was replaced since the registration. Gives
    /// the revision of the last deletion told of, where there was one. Safe to drop half-way.
    pub async fn woken(&self) -> Option<i64> {
        self.signal.notify.notified().await;
        match self.signal.revision.load(Ordering::Relaxed) {
            0 => None,
            revision => Some(revision),
        }
    }
}

impl<const N: usize> Drop for Registered<N> {
    fn drop(&mut self) {
        let mut waiting = self.wakes.waiting.lock();
        for key in &self.keys {
            waiting.remove(&(key.clone(), self.id));
        }
    }
}

#[cfg(test)]
mod tests {
    use baton_proto::mvccpb::KeyValue;
    use baton_state_machine::Event;
    use futures_util::FutureExt;

    use super::*;

    fn event(revision: i64, key: &'static str, kind: EventKind) -> Arc<RevisionEvents> {
        let kv = KeyValue {
            key: key.into(),
            mod_revision: revision,
            ..KeyValue::default()
        };
        Arc::new(RevisionEvents {
            revision,
            events: vec![Event {
                kind,
                kv,
                prev_kv: None,
            }],
        })
    }

    #[test]
    fn whoever_waits_for_a_key_is_told_when_it_is_deleted_and_of_nothing_else() {
        let wakes = Arc::new(Wakes::default());
        let waiter = wakes.register(["a/1".into(), "a/2".into()]);
        wakes.deleted(&[
            event(3, "a/1", EventKind::Put),
            event(4, "a/3", EventKind::Delete),
            event(5, "a/", EventKind::Delete),
            event(6, "a/11", EventKind::Delete),
        ]);
        assert_eq!(waiter.woken().now_or_never(), None);
        wakes.deleted(&[event(7, "a/2", EventKind::Delete)]);
        assert_eq!(waiter.woken().now_or_never(), Some(Some(7)));
    }

    #[test]
    fn all_who_wait_for_a_key_are_told() {
        let wakes = Arc::new(Wakes::default());
        let waiters: Vec<_> = (0..3).map(|_| wakes.register(["a/1".into()])).collect();
        wakes.deleted(&[event(7, "a/1", EventKind::Delete)]);
        for waiter in waiters {
            assert_eq!(waiter.woken().now_or_never(), Some(Some(7)));
        }
    }

    #[test]
    fn when_the_state_is_replaced_everyone_looks_again() {
        let wakes = Arc::new(Wakes::default());
        let waiter = wakes.register(["a/1".into()]);
        wakes.all();
        assert_eq!(waiter.woken().now_or_never(), Some(None));
    }

    #[test]
    fn whoever_goes_away_is_forgotten() {
        let wakes = Arc::new(Wakes::default());
        drop(wakes.register(["a/1".into(), "a/2".into()]));
        assert!(wakes.waiting.lock().is_empty());
    }
}
