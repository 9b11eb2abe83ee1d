//! One revision in the making.

use std::collections::BTreeMap;
use std::sync::Arc;

use baton_proto::etcdserverpb::{DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse};
use bytes::Bytes;

use crate::index::Written;
use crate::key_range::KeyRange;
use crate::{Effect, Event, EventKind, Rev, RevisionEvents, RowChange, State};

/// What an entry changed, besides the state itself.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub events: Vec<Arc<RevisionEvents>>,
    pub effects: Vec<Effect>,
    pub rows: Vec<RowChange>,
}

/// The next revision. Everything written through it becomes part of it; if nothing is, the revision
/// of the store stays. Whoever begins one has checked that it can be completed.
pub(crate) struct NextRevision<'a> {
    state: &'a mut State,
    changes: &'a mut Changes,
    main: i64,
    events: Vec<Event>,
    /// Some key changed more than once.
    repeats: bool,
}

impl<'a> NextRevision<'a> {
    pub fn begin(state: &'a mut State, changes: &'a mut Changes) -> Self {
        let main = state.revision + 1;
        NextRevision {
            state,
            changes,
            main,
            events: Vec::new(),
            repeats: false,
        }
    }

    pub fn state(&self) -> &State {
        self.state
    }

    /// What a read in the midst of it sees.
    pub fn visible(&self) -> i64 {
        if self.events.is_empty() {
            self.main - 1
        } else {
            self.main
        }
    }

    pub fn put(&mut self, request: &PutRequest) -> PutResponse {
        let rev = self.next_rev();
        let State { index, leases, .. } = &mut *self.state;
        let Written {
            row,
            event,
            repeated,
        } = index.put(rev, request);
        let lease_before = event.prev_kv.as_ref().map_or(0, |before| before.lease);
        if lease_before != event.kv.lease {
            leases.detach(lease_before, &request.key);
            if event.kv.lease != 0
                && let Some(key) = index.key(&request.key)
            {
                leases.attach(event.kv.lease, key.clone());
            }
        }
        let prev_kv = if request.prev_kv {
            event.prev_kv.clone()
        } else {
            None
        };
        self.push(row, event, repeated);
        PutResponse {
            header: None,
            prev_kv,
        }
    }

    pub fn delete_range(&mut self, request: &DeleteRangeRequest) -> DeleteRangeResponse {
        let before = self.events.len();
        self.delete(&KeyRange::new(
            request.key.clone(),
            request.range_end.clone(),
        ));
        let deleted = &self.events[before..];
        let mut prev_kvs = Vec::new();
        if request.prev_kv {
            prev_kvs.extend(deleted.iter().filter_map(|event| event.prev_kv.clone()));
        }
        let deleted = deleted.len() as i64;
        DeleteRangeResponse {
            header: None,
            deleted,
            prev_kvs,
        }
    }

    /// Deletes one key by name.
    pub fn delete_key(&mut self, key: Bytes) {
        self.delete(&KeyRange::new(key, Bytes::new()));
    }

    fn delete(&mut self, range: &KeyRange) {
        let first = self.next_rev();
        let State { index, leases, .. } = &mut *self.state;
        index.delete(
            first,
            range,
            |Written {
                 row,
                 event,
                 repeated,
             }| {
                if let Some(before) = event.prev_kv.as_ref().filter(|before| before.lease != 0) {
                    leases.detach(before.lease, &before.key);
                }
                self.events.push(event);
                self.changes.rows.push(row);
                self.repeats |= repeated;
            },
        );
    }

    fn next_rev(&self) -> Rev {
        Rev {
            main: self.main,
            sub: self.events.len() as i64,
        }
    }

    fn push(&mut self, row: RowChange, event: Event, repeated: bool) {
        self.events.push(event);
        self.changes.rows.push(row);
        self.repeats |= repeated;
    }

    /// The pair before an event is that of the revision before, also where this revision changed
    /// the key twice. A creation has none, though the revision before had what this one deleted first.
    fn settle_prev_kvs(&mut self) {
        let mut before = BTreeMap::new();
        for event in &mut self.events {
            let first = before
                .entry(event.kv.key.clone())
                .or_insert_with(|| event.prev_kv.clone());
            let is_creation =
                event.kind == EventKind::Put && event.kv.create_revision == event.kv.mod_revision;
            event.prev_kv = first.clone().filter(|_| !is_creation);
        }
    }

    pub fn commit(mut self) {
        if self.repeats {
            self.settle_prev_kvs();
        }
        if !self.events.is_empty() {
            self.state.revision = self.main;
            self.changes.events.push(Arc::new(RevisionEvents {
                revision: self.main,
                events: self.events,
            }));
        }
    }
}
