//! Which watchers a change concerns, and where each of them stands.
//!
//! # Why no event is lost, sent twice or out of order
//!
//! 1. The apply loop records revision `r` in the [`Ring`] before it publishes it, and publishes
//!    revisions one after the other. So whatever is `<= published` can be read: from the ring, or,
//!    once evicted, from the state store.
//! 2. Registering and publishing happen under one lock. A watcher registered while `published = p`
//!    takes upon itself to read its range from `start` to `p`, and is in the index from then on:
//!    `r <= p` is read by it and never announced to it, `r > p` is announced to it and was not part
//!    of that first reading. There is no moment in which a revision is neither or both.
//! 3. An announcement is a pair (first, last) of matching revisions in the stream's [`Mailbox`];
//!    further ones only move `last`. Taking the pair and adding to it exclude each other, so every
//!    announced revision lies in exactly one pair that is taken. Pairs are taken in order, and
//!    between the end of one and the start of the next nothing matches.
//! 4. A [`Cursor`](super::cursor::Cursor) goes from the revision after the last one it sent to the
//!    end of the last pair it took, over whole revisions, and never back.
//! 5. A snapshot of the leader moves the state from `p` to `q` without publishing what is between.
//!    [`reset`](WatchHub::reset) announces `p + 1 ..= q` to everyone, as if each revision of it
//!    matched; the ring no longer has them, so they are read from the new state, or, where its
//!    history begins later, the watch is cancelled and says so. A watcher that waits for a revision
//!    beyond `q` hears nothing.
//!
//! Progress follows from the same facts: who reads `published = p` first, and then finds no pair in
//! the mailbox and no cursor short of its end, has sent everything up to `p`.

use std::collections::BTreeMap;
use std::sync::Arc;

use baton_state_machine::{EventKind, RevisionEvents};
use bytes::Bytes;
use metrics::{counter, gauge};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::ranges::{End, Ranges};
use super::ring::Ring;

/// What a watcher wants to see.
#[derive(Clone, Debug)]
pub struct WatcherSpec {
    /// The keys.
    pub keys: Watched,
    /// First revision; 0 for the one after the current one.
    pub start_revision: i64,
    /// No PUT events.
    pub no_put: bool,
    /// No DELETE events.
    pub no_delete: bool,
}

/// The keys of a watcher: one, or a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    start: Bytes,
    /// `None` for the one key `start`.
    end: Option<End>,
}

impl Watched {
    /// From a watch request: an empty key is the smallest key, an empty end means one key, an end
    /// of one zero byte means all keys from `key` on. `None` if no key can lie between them.
    pub fn new(key: Bytes, range_end: Bytes) -> Option<Self> {
        let start = if key.is_empty() {
            Bytes::from_static(&[0])
        } else {
            key
        };
        let end = match &range_end[..] {
            [] => None,
            [0] => Some(End::Open),
            _ if range_end <= start => return None,
            _ => Some(End::Before(range_end)),
        };
        Some(Self { start, end })
    }

    /// Whether `key` is one of them.
    pub fn contains(&self, key: &[u8]) -> bool {
        match &self.end {
            None => self.start == *key,
            Some(End::Before(end)) => self.start <= *key && *key < end[..],
            Some(End::Open) => self.start <= *key,
        }
    }

    /// As the key and range end of a request.
    pub fn bounds(&self) -> (Bytes, Bytes) {
        let end = match &self.end {
            None => Bytes::new(),
            Some(End::Before(end)) => end.clone(),
            Some(End::Open) => Bytes::from_static(&[0]),
        };
        (self.start.clone(), end)
    }
}

impl WatcherSpec {
    /// Whether an event is among what the watcher wants, its revision aside.
    pub fn wants(&self, kind: EventKind, key: &[u8]) -> bool {
        self.wants_kind(kind) && self.keys.contains(key)
    }

    /// Whether events of this kind are.
    pub fn wants_kind(&self, kind: EventKind) -> bool {
        match kind {
            EventKind::Put => !self.no_put,
            EventKind::Delete => !self.no_delete,
        }
    }
}

/// Revisions announced to a watcher: the first and the last that matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// The first.
    pub first: i64,
    /// The last; those between may or may not match.
    pub last: i64,
}

/// Where a watch stream learns what it has to send. Shared by all its watchers.
#[derive(Debug, Default)]
pub struct Mailbox {
    due: Mutex<BTreeMap<u64, Due>>,
    notify: Notify,
}

impl Mailbox {
    /// An empty one.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// What was announced since the last call, by watcher.
    pub fn take(&self) -> BTreeMap<u64, Due> {
        std::mem::take(&mut *self.due.lock())
    }

    /// Returns when something may have been announced since the last call. Safe to drop half-way.
    pub async fn announced(&self) {
        self.notify.notified().await;
    }

    fn announce(&self, watcher: u64, due: Due) {
        let mut all = self.due.lock();
        let was_empty = all.is_empty();
        all.entry(watcher)
            .and_modify(|pending| pending.last = due.last)
            .or_insert(due);
        drop(all);
        if was_empty {
            self.notify.notify_one();
        }
    }
}

/// The index of all watchers of this member.
#[derive(Debug)]
pub struct WatchHub {
    ring: Arc<Ring>,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    published: i64,
    registered: u64,
    watchers: BTreeMap<u64, Entry>,
    /// Watchers of one key; each list is sorted.
    keys: BTreeMap<Bytes, Vec<u64>>,
    ranges: Ranges,
}

#[derive(Debug)]
struct Entry {
    spec: WatcherSpec,
    /// Revisions before it are not announced.
    from: i64,
    mailbox: Arc<Mailbox>,
}

/// A registered watcher. Dropping it ends the registration.
#[derive(Debug)]
pub struct Watcher {
    hub: Arc<WatchHub>,
    id: u64,
    spec: WatcherSpec,
    registered: Registered,
}

/// Where a watcher stands when it is registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registered {
    /// The current revision: what the response to its creation says.
    pub revision: i64,
    /// The first revision the watcher wants.
    pub from: i64,
    /// The last revision it has to read on its own account; before `from` if there is none.
    pub to: i64,
}

impl WatchHub {
    /// A hub over a state that stands at `revision`.
    pub fn new(ring: Arc<Ring>, revision: i64) -> Arc<Self> {
        Arc::new(Self {
            ring,
            inner: Mutex::new(Inner {
                published: revision,
                registered: 0,
                watchers: BTreeMap::new(),
                keys: BTreeMap::new(),
                ranges: Ranges::default(),
            }),
        })
    }

    /// Recent events.
    pub fn ring(&self) -> &Arc<Ring> {
        &self.ring
    }

    /// Everything up to this revision was announced to whom it concerns.
    pub fn published(&self) -> i64 {
        self.inner.lock().published
    }

    /// Number of watchers.
    pub fn watchers(&self) -> usize {
        self.inner.lock().watchers.len()
    }

    /// Announces revisions. They are in the ring, the state shows them, and the first is the one
    /// after the last published.
    ///
    /// # Panics
    /// If it is not.
    pub fn publish(&self, revisions: &[Arc<RevisionEvents>]) {
        let mut puts = 0;
        let mut put_bytes = 0;
        let mut deletes = 0;
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        for revision in revisions {
            for event in &revision.events {
                match event.kind {
                    EventKind::Put => {
                        puts += 1;
                        put_bytes += event.kv.key.len() + event.kv.value.len();
                    }
                    EventKind::Delete => deletes += 1,
                }
            }
            assert_eq!(
                revision.revision,
                inner.published + 1,
                "revisions are published one after the other"
            );
            if !inner.watchers.is_empty() {
                inner.announce(revision);
            }
            inner.published = revision.revision;
        }
        counter!("etcd_mvcc_put_total").increment(puts);
        counter!("etcd_mvcc_delete_total").increment(deletes);
        gauge!("etcd_debugging_mvcc_total_put_size_in_bytes").increment(put_bytes as f64);
    }

    /// The state was replaced by a snapshot of the leader that stands at `revision`. Call it when
    /// the new state can be read and the ring was reset.
    pub fn reset(&self, revision: i64) {
        let mut inner = self.inner.lock();
        let missed = inner.published + 1;
        if revision < missed {
            return;
        }
        for (id, entry) in &inner.watchers {
            let first = entry.from.max(missed);
            if first <= revision {
                let last = revision;
                entry.mailbox.announce(*id, Due { first, last });
            }
        }
        inner.published = revision;
    }

    /// Adds a watcher. `seen` is a revision the client may already have read on this member: a
    /// watcher that starts "now" starts after it, even if it is not published yet.
    pub fn register(
        self: &Arc<Self>,
        spec: WatcherSpec,
        seen: i64,
        mailbox: &Arc<Mailbox>,
    ) -> Watcher {
        let mut inner = self.inner.lock();
        let revision = inner.published.max(seen);
        let from = match spec.start_revision {
            0 => revision + 1,
            start => start,
        };
        let registered = Registered {
            revision,
            from,
            to: inner.published.max(from - 1),
        };
        inner.registered += 1;
        let id = inner.registered;
        inner.insert(
            id,
            Entry {
                spec: spec.clone(),
                from,
                mailbox: Arc::clone(mailbox),
            },
        );
        drop(inner);
        Watcher {
            hub: Arc::clone(self),
            id,
            spec,
            registered,
        }
    }
}

impl Inner {
    fn announce(&self, revision: &RevisionEvents) {
        for event in &revision.events {
            let key = &event.kv.key[..];
            let tell = |id: u64| {
                let entry = &self.watchers[&id];
                if revision.revision >= entry.from && entry.spec.wants_kind(event.kind) {
                    let (first, last) = (revision.revision, revision.revision);
                    entry.mailbox.announce(id, Due { first, last });
                }
            };
            if let Some(ids) = self.keys.get(key) {
                ids.iter().copied().for_each(tell);
            }
            self.ranges.containing(key, tell);
        }
    }

    fn insert(&mut self, id: u64, entry: Entry) {
        let Watched { start, end } = &entry.spec.keys;
        match end {
            // Ids only grow, so the list stays sorted.
            None => self.keys.entry(start.clone()).or_default().push(id),
            Some(end) => self.ranges.insert(start, end, id),
        }
        self.watchers.insert(id, entry);
    }

    fn remove(&mut self, id: u64) {
        let Some(entry) = self.watchers.remove(&id) else {
            return;
        };
        let Watched { start, end } = &entry.spec.keys;
        match end {
            None => {
                if let Some(ids) = self.keys.get_mut(start) {
                    if let Ok(place) = ids.binary_search(&id) {
                        ids.remove(place);
                    }
                    if ids.is_empty() {
                        self.keys.remove(start);
                    }
                }
            }
            Some(end) => self.ranges.remove(start, end, id),
        }
    }
}

impl Watcher {
    /// Unique on this member while it runs; what the [`Mailbox`] calls the watcher.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// What it wants.
    pub fn spec(&self) -> &WatcherSpec {
        &self.spec
    }

    /// Where it stood when it was registered.
    pub fn registered(&self) -> Registered {
        self.registered
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.hub.inner.lock().remove(self.id);
    }
}
