//! A watcher's place in history, and how it moves on.

use std::collections::VecDeque;
use std::sync::Arc;

use baton_proto::mvccpb::KeyValue;
use baton_state_machine::{Archive, EventKind, HistoryScan, KeyRange, PastEvent, State};
use bytes::Bytes;
use parking_lot::RwLock;

use super::history::History;
use super::hub::{Due, Registered, Watcher};
use super::ring::{Recorded, encode_event};
use crate::chaos::{Mutant, Point, planted, reach};
use crate::compactor::{Pin, ReadPins};

/// Revisions looked at, and distinct revisions sent, in one [`Cursor::read`].
const REVISIONS_MAX: usize = 1000;
/// Bytes of events after which a batch takes no further revision.
const BATCH_BYTES: usize = 1 << 20;
/// Keys visited under one hold of the state's lock.
const SCAN_KEYS: usize = 512;
/// Times the state may be replaced under a read before it is given up.
const TORN_MAX: u32 = 5;

/// Where a cursor reads.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The index of what is no longer in the ring.
    pub state: &'a RwLock<State>,
    /// The ring, and older values.
    pub history: &'a History,
    /// Keeps what is being read from being removed.
    pub pins: &'a Arc<ReadPins>,
}

/// What a cursor found.
#[derive(Debug)]
pub enum Read {
    /// Something to send.
    Events(Batch),
    /// Nothing up to where the cursor was to go.
    CaughtUp,
    /// The next event was compacted away. The watch is over.
    Compacted {
        /// The lowest revision that can still be watched from.
        compact_revision: i64,
    },
    /// Old values are missing though nothing was compacted: the state store does not hold what the
    /// index says.
    Lost,
}

/// Events of whole revisions, ready for the wire.
#[derive(Debug, Default)]
pub struct Batch {
    /// Each an `events` field of a `WatchResponse`.
    pub events: Vec<Bytes>,
    /// Their length together.
    pub bytes: usize,
    /// Revision of the last event.
    pub last: i64,
    revisions: usize,
}

impl Batch {
    fn push(&mut self, revision: i64, wire: Bytes) {
        if self.last != revision {
            self.revisions += 1;
        }
        self.last = revision;
        self.bytes += wire.len();
        self.events.push(wire);
    }

    /// No further revision fits.
    fn is_full(&self) -> bool {
        self.bytes >= BATCH_BYTES || self.revisions >= REVISIONS_MAX
    }
}

/// Everything before `next` was sent or does not match; everything from `next` to `to` is to be read.
/// What matches beyond `to` will be announced by the hub.
#[derive(Debug)]
pub struct Cursor {
    with_prev: bool,
    /// What the store was compacted to when the watcher came: up to here previous values are gone for
    /// it, even where the ring still has them, so that every member answers alike.
    compacted_before: i64,
    next: i64,
    to: i64,
    /// Found by a scan of history and not sent yet; everything between `next` and `backlog_to` that
    /// matches.
    backlog: VecDeque<PastEvent>,
    backlog_to: i64,
    torn: u32,
}

impl Cursor {
    /// The cursor of a watcher that was just registered.
    ///
    /// `compact_revision` is that of the store at the same moment.
    pub fn new(watcher: &Watcher, with_prev: bool, compact_revision: i64) -> Self {
        let Registered { mut from, to, .. } = watcher.registered();
        if from <= to {
            from += i64::from(planted(Mutant::WatchGap));
            from -= i64::from(planted(Mutant::WatchDuplicate));
        }
        Self {
            with_prev,
            compacted_before: compact_revision,
            next: from,
            to,
            backlog: VecDeque::new(),
            backlog_to: 0,
            torn: 0,
        }
    }

    /// There is nothing to read.
    pub fn is_caught_up(&self) -> bool {
        self.next > self.to
    }

    /// Every matching event below this revision was read.
    pub fn next(&self) -> i64 {
        self.next
    }

    /// Takes over what the hub announced.
    pub fn announce(&mut self, due: Due) {
        if self.is_caught_up() {
            // Between what was announced before and this nothing matches.
            self.next = self.next.max(due.first);
        }
        self.to = self.to.max(due.last);
    }

    /// Reads on to the next events. Bounded in what it returns, and it lets other tasks run.
    pub async fn read(&mut self, watcher: &Watcher, source: Source<'_>) -> Read {
        while !self.is_caught_up() {
            let ring = source.history.ring();
            let read = if !self.backlog.is_empty() {
                self.read_backlog(source)
            } else if let Some(recorded) = ring.read(self.next, self.to, REVISIONS_MAX) {
                self.read_recorded(watcher, &recorded)
            } else {
                self.scan(watcher, source).await
            };
            match read {
                Some(read) => return read,
                None => tokio::task::consume_budget().await,
            }
        }
        Read::CaughtUp
    }

    fn read_recorded(&mut self, watcher: &Watcher, recorded: &[Arc<Recorded>]) -> Option<Read> {
        let mut batch = Batch::default();
        for recorded in recorded {
            if batch.is_full() {
                break;
            }
            let with_prev = self.with_prev && recorded.revision() > self.compacted_before;
            for (index, event) in recorded.events().iter().enumerate() {
                if watcher.spec().wants(event.kind, &event.kv.key) {
                    batch.push(recorded.revision(), recorded.wire(index, with_prev));
                }
            }
            self.next = recorded.revision() + 1;
        }
        (!batch.events.is_empty()).then_some(Read::Events(batch))
    }

    /// Finds what matches and is no longer in the ring.
    async fn scan(&mut self, watcher: &Watcher, source: Source<'_>) -> Option<Read> {
        reach(Point::WatchScan).await;
        let ring = source.history.ring();
        let to = (ring.first() - 1).min(self.to).max(self.next);
        let (key, range_end) = watcher.spec().keys.bounds();
        let range = KeyRange::new(key, range_end);
        let begun = {
            let state = source.state.read();
            let compact_revision = state.compact_revision();
            if self.next < compact_revision {
                return Some(Read::Compacted { compact_revision });
            }
            let scan = state.begin_history(&range, self.next, to);
            let pin = source.pins.pin(scan.oldest());
            (scan, pin, ring.generation())
        };
        let (mut scan, _pin, generation): (HistoryScan, Pin, u64) = begun;
        while !scan.step(&source.state.read(), SCAN_KEYS) {
            tokio::task::yield_now().await;
        }
        if ring.generation() != generation {
            return None;
        }
        self.backlog = scan.finish().into();
        self.backlog
            .retain(|event| watcher.spec().wants_kind(event.kind));
        self.backlog_to = to;
        if self.backlog.is_empty() {
            self.next = to + 1;
        }
        None
    }

    /// Reads the values of events found by a scan.
    fn read_backlog(&mut self, source: Source<'_>) -> Option<Read> {
        let first = self.backlog.front()?.rev.main;
        let (compact_revision, _pin) = {
            let state = source.state.read();
            let compact_revision = state.compact_revision();
            if first < compact_revision {
                return Some(Read::Compacted { compact_revision });
            }
            (compact_revision, source.pins.pin(first - 1))
        };
        let view = source.history.view();
        let mut batch = Batch::default();
        let mut read = 0;
        for event in &self.backlog {
            if event.rev.main != batch.last && batch.is_full() {
                break;
            }
            read += 1;
            let kv = match event.kind {
                EventKind::Put => view.read(event.rev),
                EventKind::Delete => KeyValue {
                    key: event.key.clone(),
                    mod_revision: event.rev.main,
                    ..KeyValue::default()
                },
            };
            // What a compaction after the scan made unreadable may be gone.
            let prev = event
                .prev
                .filter(|_| self.with_prev && event.rev.main > compact_revision)
                .map(|prev| view.read(prev));
            batch.push(event.rev.main, encode_event(event.kind, &kv, prev.as_ref()));
        }
        if view.torn() {
            self.backlog.clear();
            self.torn += 1;
            return (self.torn > TORN_MAX).then_some(Read::Lost);
        }
        self.torn = 0;
        self.backlog.drain(..read);
        self.next = match self.backlog.front() {
            Some(_) => batch.last + 1,
            None => self.backlog_to + 1,
        };
        Some(Read::Events(batch))
    }
}
