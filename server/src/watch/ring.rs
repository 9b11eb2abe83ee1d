//! The most recent revisions, in memory, for watchers and for reads of values just overwritten.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use baton_proto::mvccpb;
use baton_state_machine::{Event, EventKind, RevisionEvents};
use bytes::{Bytes, BytesMut};
use parking_lot::RwLock;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

/// Field number of `WatchResponse.events`.
const EVENTS_FIELD: u32 = 11;

/// How much a [`Ring`] keeps.
#[derive(Clone, Copy, Debug)]
pub struct RingLimits {
    /// Bytes of keys and values, previous values included.
    pub bytes: usize,
    /// Number of revisions.
    pub revisions: usize,
}

impl Default for RingLimits {
    fn default() -> Self {
        Self {
            bytes: 16 << 20,
            revisions: 100_000,
        }
    }
}

/// One revision, with the encoding of its events once somebody asked for it.
#[derive(Debug)]
pub struct Recorded {
    events: Arc<RevisionEvents>,
    wire: Box<[Wire]>,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Wire {
    plain: OnceLock<Bytes>,
    with_prev: OnceLock<Bytes>,
}

impl Recorded {
    fn new(events: Arc<RevisionEvents>) -> Self {
        let bytes = events.events.iter().map(event_bytes).sum();
        let wire = events.events.iter().map(|_| Wire::default()).collect();
        Self {
            events,
            wire,
            bytes,
        }
    }

    /// The revision.
    pub fn revision(&self) -> i64 {
        self.events.revision
    }

    /// Its events, in the order of their operations; the index of one is its sub-revision.
    pub fn events(&self) -> &[Event] {
        &self.events.events
    }

    /// The event at `index` as it stands in a `WatchResponse`: field key, length, `mvccpb.Event`.
    /// Encoded on first use and shared by every watcher that is sent it.
    pub fn wire(&self, index: usize, with_prev: bool) -> Bytes {
        let event = &self.events.events[index];
        let wire = &self.wire[index];
        // A change without a predecessor looks the same either way.
        if with_prev && event.prev_kv.is_some() {
            wire.with_prev
                .get_or_init(|| encode_event(event.kind, &event.kv, event.prev_kv.as_ref()))
                .clone()
        } else {
            wire.plain
                .get_or_init(|| encode_event(event.kind, &event.kv, None))
                .clone()
        }
    }
}

fn event_bytes(event: &Event) -> usize {
    /// Counters, pointers and the room for the cached encodings.
    const OVERHEAD: usize = 256;
    let pair = |kv: &mvccpb::KeyValue| kv.key.len() + kv.value.len();
    OVERHEAD + pair(&event.kv) + event.prev_kv.as_ref().map_or(0, pair)
}

/// One `events` field of a `WatchResponse`.
pub(crate) fn encode_event(
    kind: EventKind,
    kv: &mvccpb::KeyValue,
    prev_kv: Option<&mvccpb::KeyValue>,
) -> Bytes {
    let message = mvccpb::Event {
        r#type: match kind {
            EventKind::Put => mvccpb::event::EventType::Put,
            EventKind::Delete => mvccpb::event::EventType::Delete,
        }
        .into(),
        kv: Some(kv.clone()),
        prev_kv: prev_kv.cloned(),
    };
    let len = message.encoded_len();
    let mut wire =
        BytesMut::with_capacity(key_len(EVENTS_FIELD) + encoded_len_varint(len as u64) + len);
    encode_key(EVENTS_FIELD, WireType::LengthDelimited, &mut wire);
    encode_varint(len as u64, &mut wire);
    message.encode_raw(&mut wire);
    wire.freeze()
}

/// Recent revisions without a gap. Written by the apply loop, read by everyone.
///
/// ```text
/// first ............ flushed ............ last
///   |  may be evicted   |  must be kept    |
/// ```
///
/// What the state store does not have yet stays here whatever the limits say, so that a value can
/// always be read from one of the two.
#[derive(Debug)]
pub struct Ring {
    limits: RingLimits,
    inner: RwLock<Inner>,
}

#[derive(Debug)]
struct Inner {
    revisions: VecDeque<Arc<Recorded>>,
    /// Revision of the front of `revisions`, or of the next push where it is empty.
    first: i64,
    /// Every revision up to here can be read from the state store.
    flushed: i64,
    bytes: usize,
    generation: u64,
}

impl Inner {
    fn next(&self) -> i64 {
        self.first + self.revisions.len() as i64
    }

    fn get(&self, revision: i64) -> Option<&Arc<Recorded>> {
        let offset = usize::try_from(revision.checked_sub(self.first)?).ok()?;
        self.revisions.get(offset)
    }

    fn evict(&mut self, limits: RingLimits) {
        while (self.bytes > limits.bytes || self.revisions.len() > limits.revisions)
            && self.first <= self.flushed
        {
            let Some(oldest) = self.revisions.pop_front() else {
                return;
            };
            self.bytes -= oldest.bytes;
            self.first += 1;
        }
    }
}

impl Ring {
    /// An empty ring whose next revision is `revision + 1`; everything up to `revision` is in the
    /// state store.
    pub fn new(revision: i64, limits: RingLimits) -> Self {
        Self {
            limits,
            inner: RwLock::new(Inner {
                revisions: VecDeque::new(),
                first: revision + 1,
                flushed: revision,
                bytes: 0,
                generation: 0,
            }),
        }
    }

    /// Records the next revision.
    ///
    /// # Panics
    /// If it is not the one after the last: a gap here would be a gap in every watch.
    pub fn push(&self, events: Arc<RevisionEvents>) {
        let recorded = Arc::new(Recorded::new(events));
        let mut inner = self.inner.write();
        assert_eq!(
            recorded.revision(),
            inner.next(),
            "revisions are recorded one after the other"
        );
        inner.bytes += recorded.bytes;
        inner.revisions.push_back(recorded);
        inner.evict(self.limits);
    }

    /// Every revision up to `revision` can be read from the state store from now on.
    pub fn flushed_to(&self, revision: i64) {
        let mut inner = self.inner.write();
        inner.flushed = inner.flushed.max(revision);
        inner.evict(self.limits);
    }

    /// Forgets everything: the state is replaced by a snapshot that stands at `revision`. Call it
    /// under the lock under which the state is replaced.
    pub fn reset(&self, revision: i64) {
        let mut inner = self.inner.write();
        inner.revisions.clear();
        inner.bytes = 0;
        inner.first = revision + 1;
        inner.flushed = revision;
        inner.generation += 1;
    }

    /// Counts the resets. A scan of the state that is made in steps begins anew if this changed
    /// between two of them: the second part of it came from another state.
    pub fn generation(&self) -> u64 {
        self.inner.read().generation
    }

    /// One revision, if it is still here.
    pub fn get(&self, revision: i64) -> Option<Arc<Recorded>> {
        self.inner.read().get(revision).cloned()
    }

    /// The oldest revision that is here, or the one that will be pushed next.
    pub fn first(&self) -> i64 {
        self.inner.read().first
    }

    /// Up to `limit` revisions from `from` to `to`, both included. `None` if `from` is no longer
    /// (or not yet) here.
    pub fn read(&self, from: i64, to: i64, limit: usize) -> Option<Vec<Arc<Recorded>>> {
        let inner = self.inner.read();
        let offset = usize::try_from(from.checked_sub(inner.first)?).ok()?;
        if offset >= inner.revisions.len() {
            return None;
        }
        let wanted = usize::try_from(to - from + 1).ok()?.min(limit);
        Some(
            inner
                .revisions
                .range(offset..)
                .take(wanted)
                .cloned()
                .collect(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(revision: i64, key: &str, value: &str) -> Arc<RevisionEvents> {
        Arc::new(RevisionEvents {
            revision,
            events: vec![Event {
                kind: EventKind::Put,
                kv: mvccpb::KeyValue {
                    key: Bytes::copy_from_slice(key.as_bytes()),
                    value: Bytes::copy_from_slice(value.as_bytes()),
                    create_revision: revision,
                    mod_revision: revision,
                    version: 1,
                    lease: 0,
                },
                prev_kv: None,
            }],
        })
    }

    fn small() -> Ring {
        Ring::new(
            1,
            RingLimits {
                bytes: usize::MAX,
                revisions: 3,
            },
        )
    }

    #[test]
    fn a_revision_the_store_does_not_have_is_never_evicted() {
        let ring = small();
        for revision in 2..=10 {
            ring.push(put(revision, "k", "v"));
        }
        assert_eq!(ring.first(), 2);
        ring.flushed_to(4);
        assert_eq!(ring.first(), 5);
        ring.flushed_to(10);
        assert_eq!(ring.first(), 8, "the limit leaves three");
    }

    #[test]
    fn reading_before_the_oldest_revision_says_so() {
        let ring = small();
        for revision in 2..=10 {
            ring.push(put(revision, "k", "v"));
            ring.flushed_to(revision);
        }
        assert!(ring.read(7, 10, 100).is_none());
        let revisions: Vec<i64> = ring
            .read(8, 9, 100)
            .unwrap()
            .iter()
            .map(|r| r.revision())
            .collect();
        assert_eq!(revisions, [8, 9]);
    }

    #[test]
    fn after_a_reset_the_ring_goes_on_behind_the_snapshot() {
        let ring = small();
        ring.push(put(2, "k", "v"));
        ring.reset(40);
        assert!(ring.get(2).is_none());
        ring.push(put(41, "k", "v"));
        assert_eq!(ring.get(41).unwrap().revision(), 41);
    }

    #[test]
    #[should_panic(expected = "one after the other")]
    fn a_gap_is_refused() {
        small().push(put(3, "k", "v"));
    }

    #[test]
    fn a_cached_event_decodes_as_the_events_field_of_a_watch_response() {
        let ring = small();
        ring.push(put(2, "key", "value"));
        let recorded = ring.get(2).unwrap();
        let first = recorded.wire(0, false);
        let response = baton_proto::etcdserverpb::WatchResponse::decode(first.clone()).unwrap();
        assert_eq!(response.events.len(), 1);
        assert_eq!(response.events[0].kv, Some(recorded.events()[0].kv.clone()));
        assert_eq!(
            first.as_ptr(),
            recorded.wire(0, true).as_ptr(),
            "without a previous value both forms are the same bytes"
        );
    }
}
