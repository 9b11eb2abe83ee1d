//! What there was to see: the witnesses' log, event by event, each with what its key was before.

use std::collections::BTreeMap;

use baton_proto::etcdserverpb as pb;
use baton_proto::mvccpb::event::EventType;
use baton_proto::mvccpb::{Event, KeyValue};
use bytes::Bytes;
use pb::watch_create_request::FilterType;

use crate::check::witness::Witness;
use crate::history::Nanos;
use crate::model::{FIRST_REVISION, covers};

/// The log.
#[derive(Debug)]
pub struct Log {
    entries: Vec<Entry>,
    /// Where the events of revision 2, 3 and so on begin.
    starts: Vec<usize>,
}

/// An event that happened.
#[derive(Debug)]
pub struct Entry {
    /// At which revision.
    pub revision: i64,
    /// When a witness first saw it.
    pub at: Nanos,
    /// The event.
    pub event: Event,
    /// What the key was before.
    pub before: Option<KeyValue>,
}

impl Log {
    /// The log of the witnesses.
    pub fn of(witness: Witness) -> Self {
        let mut keys: BTreeMap<Bytes, KeyValue> = BTreeMap::new();
        let mut log = Self {
            entries: Vec::new(),
            starts: Vec::new(),
        };
        for (revision, seen) in (FIRST_REVISION + 1..).zip(witness.revisions) {
            log.starts.push(log.entries.len());
            for event in seen.events {
                let kv = event.kv.clone().unwrap_or_default();
                let before = if event.r#type == EventType::Put as i32 {
                    keys.insert(kv.key.clone(), kv)
                } else {
                    keys.remove(&kv.key)
                };
                log.entries.push(Entry {
                    revision,
                    at: seen.at,
                    event,
                    before,
                });
            }
        }
        log
    }

    /// The last revision it knows.
    pub fn end(&self) -> i64 {
        FIRST_REVISION + i64::try_from(self.starts.len()).unwrap_or(i64::MAX - FIRST_REVISION)
    }

    /// Everything from revision `from` to revision `to`, both included.
    pub fn between(&self, from: i64, to: i64) -> &[Entry] {
        let start = |revision: i64| {
            let at = usize::try_from(revision - FIRST_REVISION - 1).unwrap_or(0);
            self.starts.get(at).copied().unwrap_or(self.entries.len())
        };
        if to < from {
            return &[];
        }
        &self.entries[start(from)..start(to.saturating_add(1))]
    }
}

/// Whether a watch is about an event of this kind.
pub fn lets_pass(request: &pb::WatchCreateRequest, event: &Event) -> bool {
    let filter = if event.r#type == EventType::Put as i32 {
        FilterType::Noput
    } else {
        FilterType::Nodelete
    };
    !request.filters.contains(&(filter as i32))
}

/// Whether a watch is about an event's key.
pub fn concerns(request: &pb::WatchCreateRequest, event: &Event) -> bool {
    let key = event.kv.as_ref().map_or(&[][..], |kv| &kv.key);
    covers(&request.key, &request.range_end, key)
}
