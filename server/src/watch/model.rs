//! Random histories against a naive model: every watcher is sent what a plain list of all events says.

use std::collections::BTreeMap;
use std::sync::Arc;

use baton_proto::etcdserverpb::request_op::Request;
use baton_proto::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, PutRequest, RequestOp, TxnRequest, WatchResponse,
};
use baton_proto::log::{Command, command::Op};
use baton_proto::mvccpb;
use baton_state_machine::{
    CompactCursor, Event, EventKind, RevisionEvents, RowChange, State, Table,
};
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use prost::Message;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::ring::RingLimits;
use super::*;
use crate::compactor::ReadPins;

type Rows = Arc<Mutex<BTreeMap<(Table, Bytes), Bytes>>>;

/// A replicated state and its store.
struct Member {
    state: RwLock<State>,
    history: History,
    hub: Arc<WatchHub>,
    pins: Arc<ReadPins>,
    rows: Rows,
    /// Applied, not yet in the store.
    unflushed: Vec<(i64, Vec<RowChange>)>,
    /// Applied, not yet announced.
    unpublished: Vec<Arc<RevisionEvents>>,
    removing: CompactCursor,
}

impl Member {
    fn new() -> Self {
        let ring = Arc::new(Ring::new(
            1,
            RingLimits {
                bytes: usize::MAX,
                revisions: 12,
            },
        ));
        let rows = Rows::default();
        let read = {
            let rows = Arc::clone(&rows);
            move |key: &[u8]| {
                let key = (Table::Rev, Bytes::copy_from_slice(key));
                Ok(rows.lock().get(&key).cloned())
            }
        };
        Self {
            state: RwLock::new(State::new()),
            hub: WatchHub::new(Arc::clone(&ring), 1),
            history: History::new(ring, Box::new(read)),
            pins: Arc::default(),
            rows,
            unflushed: Vec::new(),
            unpublished: Vec::new(),
            removing: CompactCursor::new(),
        }
    }

    fn apply(&mut self, op: Op) -> Vec<Arc<RevisionEvents>> {
        let command = Command {
            op: Some(op),
            ..Command::default()
        };
        let is_compaction = matches!(command.op, Some(Op::Compact(_)));
        let applied = self.state.write().apply(1, &command, &self.history);
        for revision in &applied.events {
            self.history.ring().push(Arc::clone(revision));
        }
        self.unflushed.push((applied.revision, applied.rows));
        self.unpublished.extend(applied.events.iter().cloned());
        if is_compaction {
            self.removing = CompactCursor::new();
        }
        applied.events
    }

    fn flush(&mut self, batches: usize) {
        for (revision, rows) in self.unflushed.drain(..batches) {
            let mut stored = self.rows.lock();
            for row in rows {
                match row.value {
                    Some(value) => stored.insert((row.table, row.key), value),
                    None => stored.remove(&(row.table, row.key)),
                };
            }
            drop(stored);
            self.history.ring().flushed_to(revision);
        }
    }

    fn remove_compacted(&mut self, keys: usize) {
        let floor = self.pins.floor();
        let mut state = self.state.write();
        let rows = state.compact_step(&mut self.removing, keys, floor);
        self.unflushed.push((0, rows));
    }

    /// Takes over the state of another member.
    fn install(&mut self, leader: &mut Self) {
        leader.flush(leader.unflushed.len());
        let rows = leader.rows.lock().clone();
        let mut all = rows
            .iter()
            .map(|((table, key), value)| (*table, key.clone(), value.clone()));
        let state = State::load(&mut all).unwrap();
        let revision = state.revision();
        *self.rows.lock() = rows;
        self.unflushed.clear();
        self.unpublished.clear();
        self.removing = CompactCursor::new();
        let mut current = self.state.write();
        *current = state;
        self.history.ring().reset(revision);
        drop(current);
        self.hub.reset(revision);
    }
}

/// A watcher and what it has been sent.
struct Client {
    watcher: Watcher,
    cursor: Cursor,
    mailbox: Arc<Mailbox>,
    with_prev: bool,
    /// Every matching event before it was received.
    next: i64,
    cancelled: bool,
}

impl Client {
    /// The next revision that has events for it, and these.
    fn expected(&self, model: &BTreeMap<i64, Arc<RevisionEvents>>) -> Option<(i64, Vec<Event>)> {
        model.range(self.next..).find_map(|(revision, events)| {
            let events: Vec<Event> = events
                .events
                .iter()
                .filter(|event| self.watcher.spec().wants(event.kind, &event.kv.key))
                .cloned()
                .collect();
            (!events.is_empty()).then_some((*revision, events))
        })
    }

    fn receive(
        &mut self,
        batch: &Batch,
        model: &BTreeMap<i64, Arc<RevisionEvents>>,
        compact_revision: i64,
    ) -> Result<(), String> {
        let response = WatchResponse::decode(Bytes::from(batch.events.concat())).unwrap();
        let mut received = response.events.into_iter().peekable();
        while received.peek().is_some() {
            let Some((revision, events)) = self.expected(model) else {
                return Err(format!("nothing was to be sent, got {:?}", received.next()));
            };
            for event in events {
                let got = received.next().ok_or("a revision in parts")?;
                let kind = match event.kind {
                    EventKind::Put => mvccpb::event::EventType::Put,
                    EventKind::Delete => mvccpb::event::EventType::Delete,
                };
                if (got.r#type(), got.kv.as_ref()) != (kind, Some(&event.kv)) {
                    return Err(format!("expected {event:?}, got {got:?}"));
                }
                let prev_is_right = match &got.prev_kv {
                    Some(prev) => self.with_prev && event.prev_kv.as_ref() == Some(prev),
                    None => {
                        !self.with_prev || event.prev_kv.is_none() || revision <= compact_revision
                    }
                };
                if !prev_is_right {
                    return Err(format!("previous pair of {event:?} is {:?}", got.prev_kv));
                }
            }
            self.next = revision + 1;
        }
        Ok(())
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Planted {
    Nothing,
    /// An announcement is lost now and then.
    LostAnnouncement,
    /// A batch is delivered twice now and then.
    RepeatedBatch,
}

fn key(rng: &mut StdRng) -> Bytes {
    Bytes::from(format!("k{}", rng.random_range(0..8)))
}

fn random_change(rng: &mut StdRng) -> Op {
    let put = |rng: &mut StdRng| PutRequest {
        key: key(rng),
        value: rng.random::<u32>().to_string().into(),
        ..PutRequest::default()
    };
    match rng.random_range(0..10) {
        0..5 => Op::Put(put(rng)),
        5..8 => Op::DeleteRange(DeleteRangeRequest {
            key: key(rng),
            range_end: if rng.random_bool(0.3) {
                key(rng)
            } else {
                Bytes::new()
            },
            prev_kv: false,
        }),
        _ => {
            let first = put(rng);
            let mut second = put(rng);
            while second.key == first.key {
                second = put(rng);
            }
            let ops = [first, second].map(|put| RequestOp {
                request: Some(Request::RequestPut(put)),
            });
            Op::Txn(TxnRequest {
                success: ops.into(),
                ..TxnRequest::default()
            })
        }
    }
}

fn random_client(rng: &mut StdRng, member: &Member) -> Option<Client> {
    let range_end = match rng.random_range(0..4) {
        0 => Bytes::from_static(&[0]),
        1 => key(rng),
        _ => Bytes::new(),
    };
    let keys = Watched::new(key(rng), range_end)?;
    let (revision, compacted) = {
        let state = member.state.read();
        (state.revision(), state.compact_revision())
    };
    let start_revision = match rng.random_range(0..4) {
        0 => revision + rng.random_range(1..15),
        1 => rng.random_range(compacted.max(1)..=revision),
        _ => 0,
    };
    let spec = WatcherSpec {
        keys,
        start_revision,
        no_put: rng.random_bool(0.1),
        no_delete: rng.random_bool(0.1),
    };
    let with_prev = rng.random_bool(0.5);
    let mailbox = Mailbox::new();
    let watcher = member.hub.register(spec, revision, &mailbox);
    let expected_from = match start_revision {
        0 => revision + 1,
        start => start,
    };
    assert_eq!(watcher.registered().from, expected_from);
    Some(Client {
        cursor: Cursor::new(&watcher, with_prev, compacted),
        watcher,
        mailbox,
        with_prev,
        next: expected_from,
        cancelled: false,
    })
}

async fn turn(
    client: &mut Client,
    member: &Member,
    model: &BTreeMap<i64, Arc<RevisionEvents>>,
    planted: Planted,
    rng: &mut StdRng,
) -> Result<bool, String> {
    for due in client.mailbox.take().into_values() {
        if planted == Planted::LostAnnouncement && rng.random_bool(0.02) {
            continue;
        }
        client.cursor.announce(due);
    }
    let source = Source {
        state: &member.state,
        history: &member.history,
        pins: &member.pins,
    };
    match client.cursor.read(&client.watcher, source).await {
        Read::Events(batch) => {
            let compacted = member.state.read().compact_revision();
            client.receive(&batch, model, compacted)?;
            if planted == Planted::RepeatedBatch && rng.random_bool(0.02) {
                client.receive(&batch, model, compacted)?;
            }
            Ok(true)
        }
        Read::CaughtUp => Ok(false),
        Read::Compacted { compact_revision } => {
            client.cancelled = true;
            let compacted = member.state.read().compact_revision();
            if compact_revision > compacted {
                return Err(format!("compacted at {compact_revision}, not {compacted}"));
            }
            // What lies between may or may not have concerned it; nobody can tell any more.
            if compact_revision <= client.cursor.next() {
                return Err("cancelled though nothing it needs is gone".into());
            }
            Ok(false)
        }
        Read::Lost => Err("values are missing".into()),
    }
}

async fn run(seed: u64, planted: Planted) -> Result<usize, String> {
    let rng = &mut StdRng::seed_from_u64(seed);
    let mut leader = Member::new();
    let mut member = Member::new();
    // What the leader applied and the member has yet to apply.
    let mut lag: Vec<Op> = Vec::new();
    let mut model: BTreeMap<i64, Arc<RevisionEvents>> = BTreeMap::new();
    let mut clients: Vec<Client> = Vec::new();
    let mut sent = 0;
    for _ in 0..2_000 {
        match rng.random_range(0..100) {
            0..40 => {
                let op = random_change(rng);
                for events in leader.apply(op.clone()) {
                    model.insert(events.revision, events);
                }
                lag.push(op);
            }
            40..55 => {
                let count = rng.random_range(0..=lag.len());
                for op in lag.drain(..count) {
                    member.apply(op);
                }
            }
            55..65 => {
                let count = rng.random_range(0..=member.unpublished.len());
                let batch: Vec<_> = member.unpublished.drain(..count).collect();
                member.hub.publish(&batch);
            }
            65..72 => {
                let count = rng.random_range(0..=member.unflushed.len());
                member.flush(count);
            }
            72..76 => clients.extend(random_client(rng, &member)),
            76 if !clients.is_empty() => {
                clients.swap_remove(rng.random_range(0..clients.len()));
            }
            77 => {
                let (low, high) = {
                    let state = leader.state.read();
                    (state.compact_revision().max(0) + 1, state.revision())
                };
                if low < high {
                    let op = Op::Compact(CompactionRequest {
                        revision: rng.random_range(low..=high.min(low + 30)),
                        physical: false,
                    });
                    leader.apply(op.clone());
                    lag.push(op);
                }
            }
            78..82 => {
                leader.remove_compacted(3);
                member.remove_compacted(3);
            }
            82 if rng.random_bool(0.2) => {
                member.install(&mut leader);
                lag.clear();
            }
            _ if !clients.is_empty() => {
                let client = rng.random_range(0..clients.len());
                let client = &mut clients[client];
                if !client.cancelled {
                    sent += usize::from(turn(client, &member, &model, planted, rng).await?);
                }
            }
            _ => {}
        }
    }
    for op in lag.drain(..) {
        member.apply(op);
    }
    member.hub.publish(&std::mem::take(&mut member.unpublished));
    for client in clients.iter_mut().filter(|client| !client.cancelled) {
        while turn(client, &member, &model, planted, rng).await? {}
        if let Some((revision, _)) = client.expected(&model)
            && !client.cancelled
        {
            return Err(format!("revision {revision} was never sent"));
        }
    }
    Ok(sent)
}

#[tokio::test]
async fn every_watcher_is_sent_every_event_once_in_order_or_told_what_was_compacted() {
    let mut sent = 0;
    for seed in 0..40 {
        sent += run(seed, Planted::Nothing)
            .await
            .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    }
    assert!(sent > 3_000, "{sent} batches: the histories are too quiet");
}

#[tokio::test]
async fn the_model_notices_a_lost_announcement() {
    let mut noticed = 0;
    for seed in 0..20 {
        noticed += usize::from(run(seed, Planted::LostAnnouncement).await.is_err());
    }
    assert!(noticed > 10, "noticed in {noticed} of 20 runs");
}

#[tokio::test]
async fn the_model_notices_a_repeated_batch() {
    let mut noticed = 0;
    for seed in 0..20 {
        noticed += usize::from(run(seed, Planted::RepeatedBatch).await.is_err());
    }
    assert!(noticed > 10, "noticed in {noticed} of 20 runs");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_that_register_while_revisions_are_published_miss_none() {
    const REVISIONS: i64 = 3_000;
    let mut member = Member::new();
    let watched = Watched::new(Bytes::new(), Bytes::from_static(&[0])).unwrap();
    let hub = Arc::clone(&member.hub);
    let watchers: Vec<_> = (0..8)
        .map(|_| {
            let (hub, watched) = (Arc::clone(&hub), watched.clone());
            tokio::spawn(async move {
                let mut registered = 0;
                loop {
                    let mailbox = Mailbox::new();
                    let spec = WatcherSpec {
                        keys: watched.clone(),
                        start_revision: 0,
                        no_put: false,
                        no_delete: false,
                    };
                    let watcher = hub.register(spec, 0, &mailbox);
                    registered += 1;
                    let from = watcher.registered().from;
                    if from > REVISIONS {
                        return registered;
                    }
                    mailbox.announced().await;
                    let due = mailbox.take()[&watcher.id()];
                    assert_eq!(due.first, from, "every revision matches");
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    for n in 0..REVISIONS {
        member.apply(Op::Put(PutRequest {
            key: "k".into(),
            value: n.to_string().into(),
            ..PutRequest::default()
        }));
        member.hub.publish(&std::mem::take(&mut member.unpublished));
        tokio::task::yield_now().await;
    }
    for watcher in watchers {
        assert!(watcher.await.unwrap() > 0);
    }
}
