//! Following who leads an election: the leader there is, and every leader and value after it.
//!
//! The leader is the key created first. As long as it lives an observer watches this key alone, so what
//! other candidates do costs it nothing; once it is gone the observer finds who was first *at that
//! revision*, however far the store has come since, and goes on from there. Without a leader it watches
//! for the first key to come. It says nothing when a leader goes: only when another comes.
//!
//! ```text
//! look at R: first key?  some -> send it, watch it from R + 1      none -> watch all from R + 1
//! put of the key         send the new value
//! anything else at R'    look at R'
//! compacted to R'        look at R'
//! ```
//!
//! So nothing is left out but what was compacted before the observer came to it, and is no longer among the
//! most recent revisions either.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;

use baton_proto::etcdserverpb::{RangeRequest, WatchResponse};
use baton_proto::mvccpb::{Event, KeyValue, event};
use baton_proto::v3electionpb::LeaderResponse;
use baton_state_machine::{EventKind, KeyRange};
use bytes::Bytes;
use futures_util::{Stream, stream};
use prost::Message;
use tonic::Status;

use super::status::RpcError;
use super::{Services, header, scan};
use crate::chaos::{Mutant, Point, planted, reach};
use crate::line;
use crate::watch::{Batch, Cursor, Mailbox, Read, Source, Watched, Watcher, WatcherSpec};

/// Revisions searched for who stood in line at a past one; beyond, all keys are read as of then.
const REVISIONS_SEARCHED_MAX: usize = 1000;

/// What an observer is told.
pub(super) type Leaders = Pin<Box<dyn Stream<Item = Result<LeaderResponse, Status>> + Send>>;

/// Follows who leads `name` until `end` says why not to go on.
pub(super) fn leaders(
    services: Services,
    name: &[u8],
    end: impl Future<Output = RpcError> + Send + 'static,
) -> Leaders {
    let observer = Observer {
        services,
        directory: KeyRange::directory(name),
        mailbox: Mailbox::new(),
        at: None,
        watch: None,
        sent: None,
        outbox: VecDeque::new(),
    };
    let state = Some((observer, Box::pin(end)));
    Box::pin(stream::unfold(state, |state| async {
        let (mut observer, mut end) = state?;
        let next = tokio::select! {
            biased;
            error = &mut end => Err(error),
            next = observer.next() => next,
        };
        match next {
            Ok(response) => Some((Ok(response), Some((observer, end)))),
            Err(error) => Some((Err(error.beneath()), None)),
        }
    }))
}

struct Observer {
    services: Services,
    directory: KeyRange,
    mailbox: Arc<Mailbox>,
    /// The revision to look at next; `None`, at first, for the newest.
    at: Option<i64>,
    /// What is watched; `None` where it has to look first.
    watch: Option<Watch>,
    /// Creation and modification of what was sent last.
    sent: Option<(i64, i64)>,
    outbox: VecDeque<LeaderResponse>,
}

struct Watch {
    watcher: Watcher,
    cursor: Cursor,
    /// Create revision of the leader, `None` while there is none.
    leader: Option<i64>,
}

/// Who was first at a past revision, by what changed since.
enum First {
    Nobody,
    /// As it was then.
    Pair(KeyValue),
    /// A key that has not changed since.
    Unchanged(Bytes),
}

impl Observer {
    async fn next(&mut self) -> Result<LeaderResponse, RpcError> {
        loop {
            if let Some(response) = self.outbox.pop_front() {
                return Ok(response);
            }
            match &mut self.watch {
                None => self.look().await?,
                Some(watch) if watch.cursor.is_caught_up() => {
                    self.mailbox.announced().await;
                    if let Some(due) = self.mailbox.take().remove(&watch.watcher.id()) {
                        watch.cursor.announce(due);
                    }
                }
                Some(_) => self.read().await?,
            }
        }
    }

    /// Finds the leader and watches from there on.
    async fn look(&mut self) -> Result<(), RpcError> {
        reach(Point::ObserveLook).await;
        let found = match self.at {
            None => self.first_now().await,
            Some(revision) => match self.first_at(revision).await {
                // What led meanwhile cannot be told any more: on from the oldest that can.
                Err(RpcError::Compacted) => {
                    self.at = Some(self.services.core.state().read().compact_revision());
                    return Ok(());
                }
                found => found,
            },
        };
        let (leader, revision) = found?;
        let (key, range_end) = match &leader {
            Some(kv) => (kv.key.clone(), Bytes::new()),
            None => self.directory.bounds_on_wire(),
        };
        let core = &self.services.core;
        let spec = WatcherSpec {
            keys: Watched::new(key, range_end).ok_or(RpcError::KeyNotProvided)?,
            start_revision: revision + 1,
            no_put: false,
            no_delete: false,
        };
        let compact_revision = core.state().read().compact_revision();
        let watcher = core.hub().register(spec, revision, &self.mailbox);
        self.watch = Some(Watch {
            cursor: Cursor::new(&watcher, false, compact_revision),
            watcher,
            leader: leader.as_ref().map(|kv| kv.create_revision),
        });
        if let Some(kv) = leader {
            self.send(kv, revision);
        }
        Ok(())
    }

    fn send(&mut self, kv: KeyValue, revision: i64) {
        let seen = Some((kv.create_revision, kv.mod_revision));
        if self.sent != seen {
            self.sent = seen;
            self.outbox.push_back(LeaderResponse {
                header: Some(header::at(&self.services.core, revision)),
                kv: Some(kv),
            });
        }
    }

    async fn range(&self, request: &RangeRequest) -> Result<(Option<KeyValue>, i64), RpcError> {
        let Services {
            core, compactor, ..
        } = &self.services;
        let (range, revision) = scan::range(core, compactor.pins(), request).await?;
        Ok((range.kvs.into_iter().next(), revision))
    }

    async fn first_now(&self) -> Result<(Option<KeyValue>, i64), RpcError> {
        self.services.core.read_barrier().await?;
        self.range(&line::first_created(&self.directory)).await
    }

    /// Who was first at a past revision.
    async fn first_at(&self, revision: i64) -> Result<(Option<KeyValue>, i64), RpcError> {
        let request = match self.recent_first_at(revision) {
            Some(First::Nobody) => return Ok((None, revision)),
            Some(First::Pair(kv)) => return Ok((Some(kv), revision)),
            Some(First::Unchanged(key)) => RangeRequest {
                key,
                revision,
                ..RangeRequest::default()
            },
            None => RangeRequest {
                revision,
                ..line::first_created(&self.directory)
            },
        };
        let (kv, _) = self.range(&request).await?;
        Ok((kv, revision))
    }

    /// The same by what changed since, which is little, and known even where it was compacted: either the
    /// key that is first now was so already, or one that has gone meanwhile. `None` where that cannot be
    /// told.
    fn recent_first_at(&self, revision: i64) -> Option<First> {
        let core = &self.services.core;
        let state = core.state().read();
        let now = state.revision();
        let first = state.first_created(&self.directory);
        let first = first.and_then(|key| Some((state.create_revision(key)?, key.clone())));
        let mut stood: Vec<(i64, Bytes)> = first.into_iter().collect();
        let since = if now > revision {
            let ring = core.history().ring();
            ring.read(revision + 1, now, REVISIONS_SEARCHED_MAX)?
        } else {
            Vec::new()
        };
        drop(state);
        if since.last().map_or(revision, |last| last.revision()) < now {
            return None;
        }
        let events = || since.iter().flat_map(|recorded| recorded.events());
        for event in events() {
            if event.kind == EventKind::Delete
                && self.directory.contains(&event.kv.key)
                && let Some(before) = &event.prev_kv
            {
                stood.push((before.create_revision, before.key.clone()));
            }
        }
        stood.retain(|(create_revision, _)| *create_revision <= revision);
        let Some((_, key)) = stood.into_iter().min() else {
            return Some(First::Nobody);
        };
        // Before its first change since it was as it was then.
        let changed = events().find(|event| event.kv.key == key);
        Some(match changed.and_then(|event| event.prev_kv.clone()) {
            Some(kv) => First::Pair(kv),
            None => First::Unchanged(key),
        })
    }

    async fn read(&mut self) -> Result<(), RpcError> {
        let Some(watch) = &mut self.watch else {
            return Ok(());
        };
        let core = &self.services.core;
        let source = Source {
            state: core.state(),
            history: core.history(),
            pins: self.services.compactor.pins(),
        };
        let leader = watch.leader;
        match watch.cursor.read(&watch.watcher, source).await {
            Read::Events(batch) => self.take_in(leader, &batch),
            Read::CaughtUp => {}
            Read::Compacted { compact_revision } => self.look_again(Some(compact_revision)),
            Read::Lost => return Err(RpcError::HistoryLost),
        }
        Ok(())
    }

    fn take_in(&mut self, leader: Option<i64>, batch: &Batch) {
        for Event { r#type, kv, .. } in batch.events.iter().flat_map(decode) {
            let Some(kv) = kv else { continue };
            let revision = kv.mod_revision;
            let is_put = r#type == event::EventType::Put as i32;
            if is_put && leader == Some(kv.create_revision) {
                self.send(kv, revision);
            } else {
                self.look_again(Some(revision));
                return;
            }
        }
    }

    fn look_again(&mut self, at: Option<i64>) {
        self.at = at.filter(|_| !planted(Mutant::ObserveSkips));
        self.watch = None;
    }
}

/// The events of a batch are fields of a watch response each.
fn decode(event: &Bytes) -> Vec<Event> {
    WatchResponse::decode(event.clone()).map_or_else(|_| Vec::new(), |response| response.events)
}
