//! The state against a model too simple to be wrong: a list of every change ever made. Whatever is
//! read is found by replaying the list, and a transaction that fails is a copy thrown away.

use std::collections::{BTreeMap, BTreeSet};

use baton_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use baton_proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use baton_proto::etcdserverpb::request_op::Request as InTxn;
use baton_proto::etcdserverpb::response_op::Response as OfOp;
use baton_proto::etcdserverpb::{
    CompactionResponse, Compare, DeleteRangeRequest, DeleteRangeResponse, LeaseGrantResponse,
    LeaseRevokeResponse, PutRequest, PutResponse, RangeRequest, RangeResponse, RequestOp,
    ResponseHeader, ResponseOp, TxnRequest, TxnResponse,
};
use baton_proto::log::Expire;
use baton_proto::log::command::Op;
use baton_proto::mvccpb::KeyValue;
use baton_state_machine::{
    ApplyError, CompactCursor, Event, EventKind, HashKv, KeyRange, PastEvent, RangeScan, Response,
    Rev, State, Table,
};
use bytes::Bytes;
use prost::Message;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::world::{IntoOp, Request, World, compact, grant, revoke};

type Pairs = BTreeMap<Bytes, KeyValue>;

#[derive(Clone)]
struct Write {
    rev: Rev,
    key: Bytes,
    /// `None` is a delete.
    kv: Option<KeyValue>,
}

impl Write {
    /// Such an event has no previous pair, also where the same revision deleted the key first.
    fn is_creation(&self) -> bool {
        self.kv
            .as_ref()
            .is_some_and(|kv| kv.create_revision == kv.mod_revision)
    }
}

#[derive(Clone)]
struct Model {
    history: Vec<Write>,
    revision: i64,
    compact_revision: i64,
    leases: BTreeMap<i64, i64>,
}

fn in_range(key: &[u8], start: &[u8], end: &[u8]) -> bool {
    match end {
        [] => key == start,
        [0] => key >= start,
        _ => key >= start && key < end,
    }
}

impl Model {
    fn new() -> Self {
        Model {
            history: Vec::new(),
            revision: 1,
            compact_revision: -1,
            leases: BTreeMap::new(),
        }
    }

    fn pairs_at(&self, revision: i64) -> Pairs {
        let mut pairs = Pairs::new();
        for write in self
            .history
            .iter()
            .filter(|write| write.rev.main <= revision)
        {
            match &write.kv {
                Some(kv) => pairs.insert(write.key.clone(), kv.clone()),
                None => pairs.remove(&write.key),
            };
        }
        pairs
    }

    /// What is visible in the midst of the revision being made.
    fn now(&self) -> Pairs {
        self.pairs_at(i64::MAX)
    }

    fn visible(&self) -> i64 {
        self.history
            .last()
            .map_or(self.revision, |last| last.rev.main.max(self.revision))
    }

    fn write(&mut self, key: &Bytes, kv: Option<KeyValue>) {
        let main = self.revision + 1;
        let sub = self
            .history
            .iter()
            .filter(|write| write.rev.main == main)
            .count() as i64;
        self.history.push(Write {
            rev: Rev { main, sub },
            key: key.clone(),
            kv,
        });
    }

    fn put(&mut self, request: &PutRequest) -> Result<PutResponse, ApplyError> {
        if request.lease != 0 && !self.leases.contains_key(&request.lease) {
            return Err(ApplyError::LeaseNotFound);
        }
        let before = self.now().remove(&request.key);
        if (request.ignore_value || request.ignore_lease) && before.is_none() {
            return Err(ApplyError::KeyNotFound);
        }
        let mut kv = KeyValue {
            key: request.key.clone(),
            value: request.value.clone(),
            lease: request.lease,
            create_revision: self.revision + 1,
            mod_revision: self.revision + 1,
            version: 1,
        };
        if let Some(before) = &before {
            kv.create_revision = before.create_revision;
            kv.version = before.version + 1;
            if request.ignore_value {
                kv.value = before.value.clone();
            }
            if request.ignore_lease {
                kv.lease = before.lease;
            }
        }
        self.write(&request.key, Some(kv));
        Ok(PutResponse {
            header: None,
            prev_kv: before.filter(|_| request.prev_kv),
        })
    }

    fn delete(&mut self, request: &DeleteRangeRequest) -> DeleteRangeResponse {
        let mut response = DeleteRangeResponse::default();
        for (key, kv) in self.now() {
            if in_range(&key, &request.key, &request.range_end) {
                self.write(&key, None);
                response.deleted += 1;
                if request.prev_kv {
                    response.prev_kvs.push(kv);
                }
            }
        }
        response
    }

    /// Step by step as the contract tells it: fetch, filter, sort, trim.
    fn range(&self, request: &RangeRequest, visible: i64) -> Result<RangeResponse, ApplyError> {
        let revision = if request.revision > 0 {
            request.revision
        } else {
            visible
        };
        if revision > visible {
            return Err(ApplyError::FutureRevision);
        }
        if revision < self.compact_revision {
            return Err(ApplyError::Compacted);
        }
        let mut kvs: Vec<KeyValue> = self.pairs_at(revision).into_values().collect();
        kvs.retain(|kv| in_range(&kv.key, &request.key, &request.range_end));
        let mut response = RangeResponse {
            count: kvs.len() as i64,
            ..Default::default()
        };
        if request.count_only {
            return Ok(response);
        }
        let filters = [
            request.min_mod_revision,
            request.max_mod_revision,
            request.min_create_revision,
            request.max_create_revision,
        ];
        let order = request.sort_order();
        if order == SortOrder::None && filters == [0; 4] && request.limit > 0 {
            kvs.truncate(request.limit as usize + 1);
        }
        kvs.retain(|kv| {
            kv.mod_revision >= request.min_mod_revision
                && (request.max_mod_revision == 0 || kv.mod_revision <= request.max_mod_revision)
                && kv.create_revision >= request.min_create_revision
                && (request.max_create_revision == 0
                    || kv.create_revision <= request.max_create_revision)
        });
        let by = |a: &KeyValue, b: &KeyValue| match request.sort_target() {
            SortTarget::Key => a.key.cmp(&b.key),
            SortTarget::Version => a.version.cmp(&b.version),
            SortTarget::Create => a.create_revision.cmp(&b.create_revision),
            SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
            SortTarget::Value => a.value.cmp(&b.value),
        };
        match order {
            SortOrder::Descend => kvs.sort_by(|a, b| by(b, a)),
            SortOrder::None | SortOrder::Ascend => kvs.sort_by(by),
        }
        if request.limit > 0 && kvs.len() > request.limit as usize {
            kvs.truncate(request.limit as usize);
            response.more = true;
        }
        if request.keys_only {
            for kv in &mut kvs {
                kv.value = Bytes::new();
            }
        }
        response.kvs = kvs;
        Ok(response)
    }

    fn holds(pairs: &Pairs, compare: &Compare) -> bool {
        let mut kvs: Vec<KeyValue> = pairs.values().cloned().collect();
        kvs.retain(|kv| in_range(&kv.key, &compare.key, &compare.range_end));
        if kvs.is_empty() {
            if compare.target() == CompareTarget::Value {
                return false;
            }
            kvs.push(KeyValue::default());
        }
        kvs.iter().all(|kv| {
            let asked = compare.target_union.clone();
            let ordering = match (compare.target(), asked) {
                (CompareTarget::Version, Some(TargetUnion::Version(n))) => kv.version.cmp(&n),
                (CompareTarget::Version, _) => kv.version.cmp(&0),
                (CompareTarget::Create, Some(TargetUnion::CreateRevision(n))) => {
                    kv.create_revision.cmp(&n)
                }
                (CompareTarget::Create, _) => kv.create_revision.cmp(&0),
                (CompareTarget::Mod, Some(TargetUnion::ModRevision(n))) => kv.mod_revision.cmp(&n),
                (CompareTarget::Mod, _) => kv.mod_revision.cmp(&0),
                (CompareTarget::Value, Some(TargetUnion::Value(v))) => kv.value.cmp(&v),
                (CompareTarget::Value, _) => kv.value.cmp(&Bytes::new()),
                (CompareTarget::Lease, Some(TargetUnion::Lease(n))) => kv.lease.cmp(&n),
                (CompareTarget::Lease, _) => kv.lease.cmp(&0),
            };
            match compare.result() {
                CompareResult::Equal => ordering.is_eq(),
                CompareResult::NotEqual => ordering.is_ne(),
                CompareResult::Greater => ordering.is_gt(),
                CompareResult::Less => ordering.is_lt(),
            }
        })
    }

    fn txn(&mut self, txn: &TxnRequest, before: &Pairs) -> Result<TxnResponse, ApplyError> {
        let succeeded = txn
            .compare
            .iter()
            .all(|compare| Self::holds(before, compare));
        let mut responses = Vec::new();
        for op in if succeeded {
            &txn.success
        } else {
            &txn.failure
        } {
            let response = match op.request.as_ref().expect("no empty operations here") {
                InTxn::RequestRange(request) => {
                    if request.revision > self.revision {
                        return Err(ApplyError::FutureRevision);
                    }
                    if request.revision < 0 && request.revision < self.compact_revision {
                        return Err(ApplyError::Compacted);
                    }
                    let mut response = self.range(request, self.visible())?;
                    response.header = self.header();
                    OfOp::ResponseRange(response)
                }
                InTxn::RequestPut(request) => {
                    let mut response = self.put(request)?;
                    response.header = self.header();
                    OfOp::ResponsePut(response)
                }
                InTxn::RequestDeleteRange(request) => {
                    let mut response = self.delete(request);
                    response.header = self.header();
                    OfOp::ResponseDeleteRange(response)
                }
                InTxn::RequestTxn(nested) => {
                    let mut response = self.txn(nested, before)?;
                    response.header = Some(ResponseHeader::default());
                    OfOp::ResponseTxn(response)
                }
            };
            responses.push(ResponseOp {
                response: Some(response),
            });
        }
        Ok(TxnResponse {
            header: None,
            succeeded,
            responses,
        })
    }

    fn header(&self) -> Option<ResponseHeader> {
        Some(ResponseHeader {
            revision: self.visible(),
            ..Default::default()
        })
    }

    fn end_lease(&mut self, id: i64) -> bool {
        let found = self.leases.remove(&id).is_some();
        if found {
            for (key, kv) in self.now() {
                if kv.lease == id {
                    self.write(&key, None);
                }
            }
            self.revision = self.visible();
        }
        found
    }

    fn apply(&mut self, term: u64, op: &Op) -> Result<Response, ApplyError> {
        let before = self.clone();
        let outcome = self.try_apply(term, op);
        if outcome.is_err() {
            *self = before;
        }
        self.revision = self.visible();
        outcome
    }

    fn try_apply(&mut self, term: u64, op: &Op) -> Result<Response, ApplyError> {
        Ok(match op {
            Op::Put(request) => Response::Put(self.put(request)?),
            Op::DeleteRange(request) => Response::DeleteRange(self.delete(request)),
            Op::Txn(request) => {
                let before = self.now();
                Response::Txn(self.txn(request, &before)?)
            }
            Op::Compact(request) if request.revision <= self.compact_revision => {
                return Err(ApplyError::Compacted);
            }
            Op::Compact(request) if request.revision > self.revision => {
                return Err(ApplyError::FutureRevision);
            }
            Op::Compact(request) => {
                self.compact_revision = request.revision;
                Response::Compact(CompactionResponse::default())
            }
            Op::LeaseGrant(request) if self.leases.contains_key(&request.id) => {
                return Err(ApplyError::LeaseExists);
            }
            Op::LeaseGrant(request) => {
                self.leases.insert(request.id, request.ttl);
                let response = LeaseGrantResponse {
                    id: request.id,
                    ttl: request.ttl,
                    ..Default::default()
                };
                Response::LeaseGrant(response)
            }
            Op::LeaseRevoke(request) if self.end_lease(request.id) => {
                Response::LeaseRevoke(LeaseRevokeResponse::default())
            }
            Op::LeaseRevoke(_) => return Err(ApplyError::LeaseNotFound),
            Op::Expire(expire) => {
                for id in expire.lease_ids.iter().filter(|_| expire.term == term) {
                    self.end_lease(*id);
                }
                Response::Done
            }
            Op::Alarm(_) | Op::Publish(_) | Op::BeginStateHash(_) => {
                unreachable!("not generated")
            }
        })
    }

    fn events(&self, revision: i64) -> Vec<Event> {
        let before = self.pairs_at(revision - 1);
        let writes = self
            .history
            .iter()
            .filter(|write| write.rev.main == revision);
        let events = writes.map(|write| Event {
            kind: if write.kv.is_some() {
                EventKind::Put
            } else {
                EventKind::Delete
            },
            kv: write.kv.clone().unwrap_or_else(|| KeyValue {
                key: write.key.clone(),
                mod_revision: revision,
                ..Default::default()
            }),
            prev_kv: before
                .get(&write.key)
                .filter(|_| !write.is_creation())
                .cloned(),
        });
        events.collect()
    }

    fn past(&self, start: &Bytes, end: &Bytes, from: i64, to: i64) -> Vec<PastEvent> {
        let mut past = Vec::new();
        for write in &self.history {
            let main = write.rev.main;
            if main < from || main > to || !in_range(&write.key, start, end) {
                continue;
            }
            let before = self.pairs_at(main - 1).remove(&write.key);
            let readable = before.filter(|_| main > self.compact_revision && !write.is_creation());
            let prev = readable.map(|kv| {
                let of_it =
                    |other: &&Write| other.key == write.key && other.kv.as_ref() == Some(&kv);
                self.history.iter().rfind(of_it).expect("written").rev
            });
            let kind = if write.kv.is_some() {
                EventKind::Put
            } else {
                EventKind::Delete
            };
            past.push(PastEvent {
                rev: write.rev,
                kind,
                key: write.key.clone(),
                prev,
            });
        }
        past
    }

    /// How many changes are left where compaction has removed all it may.
    fn kept(&self) -> usize {
        let lowest = self.compact_revision;
        let visible = self.pairs_at(lowest);
        let is_kept = |write: &&Write| {
            write.rev.main >= lowest
                || write.kv.is_some() && visible.get(&write.key) == write.kv.as_ref()
        };
        self.history.iter().filter(is_kept).count()
    }

    fn hash(&self, revision: i64) -> HashKv {
        let mut visible = BTreeSet::new();
        for write in &self.history {
            let mut of_key = self
                .history
                .iter()
                .filter(|other| other.key == write.key && other.rev.main <= revision);
            visible.extend(of_key.next_back().map(|last| last.rev));
        }
        let mut hashed = b"key".to_vec();
        for write in self
            .history
            .iter()
            .filter(|write| write.rev.main <= revision)
        {
            let still_there = visible.contains(&write.rev) && write.kv.is_some();
            if write.rev.main > self.compact_revision || still_there {
                hashed.extend(write.rev.row_key());
                match &write.kv {
                    Some(kv) => hashed.extend(kv.encode_to_vec()),
                    None => {
                        hashed.push(b't');
                        let key = write.key.clone();
                        hashed.extend(
                            KeyValue {
                                key,
                                ..Default::default()
                            }
                            .encode_to_vec(),
                        );
                    }
                }
            }
        }
        HashKv {
            hash: crc32c::crc32c(&hashed),
            compact_revision: self.compact_revision,
            hash_revision: revision,
        }
    }
}

/// Draws requests that meet each other often: few keys, few leases, revisions near the edges.
struct Requests {
    rng: StdRng,
    /// What keys are made of; with a `/`, many ranges are of a directory and many are sorted by creation.
    letters: &'static [u8],
    revision: i64,
    compact_revision: i64,
}

impl Requests {
    fn key(&mut self) -> Bytes {
        let len = self
            .rng
            .random_range(1..=if self.has_directories() { 4 } else { 2 });
        (0..len)
            .map(|_| *self.letters.choose(&mut self.rng).expect("letters"))
            .collect::<Vec<u8>>()
            .into()
    }

    fn has_directories(&self) -> bool {
        self.letters.contains(&b'/')
    }

    fn key_and_range_end(&mut self) -> (Bytes, Bytes) {
        if !self.has_directories() || self.often(30) {
            return (self.key(), self.range_end());
        }
        let mut parents = self.key().to_vec();
        parents.truncate(2);
        let with = |last: u8| Bytes::from([&parents[..], &[last]].concat());
        (with(b'/'), with(b'0'))
    }

    fn range_end(&mut self) -> Bytes {
        match self.rng.random_range(0..4) {
            0 => Bytes::new(),
            1 => Bytes::from_static(b"\0"),
            _ => self.key(),
        }
    }

    fn often(&mut self, percent: u32) -> bool {
        self.rng.random_range(0..100) < percent
    }

    fn some_revision(&mut self) -> i64 {
        self.rng
            .random_range(self.compact_revision.max(1) - 1..=self.revision + 1)
    }

    fn revision_or_zero(&mut self, percent: u32) -> i64 {
        if self.often(percent) {
            self.some_revision()
        } else {
            0
        }
    }

    fn lease(&mut self) -> i64 {
        if self.often(60) {
            0
        } else {
            self.rng.random_range(1..5)
        }
    }

    fn value(&mut self) -> Bytes {
        let len = self.rng.random_range(0..4);
        (0..len)
            .map(|_| self.rng.random_range(b'x'..=b'z'))
            .collect::<Vec<u8>>()
            .into()
    }

    fn range(&mut self) -> RangeRequest {
        let (key, range_end) = self.key_and_range_end();
        RangeRequest {
            key,
            range_end,
            limit: self.rng.random_range(-1..5),
            revision: if self.often(3) {
                -1
            } else {
                self.revision_or_zero(40)
            },
            sort_order: self.rng.random_range(0..3),
            sort_target: if self.has_directories() && self.often(60) {
                SortTarget::Create as i32
            } else {
                self.rng.random_range(0..5)
            },
            serializable: false,
            keys_only: self.often(20),
            count_only: self.often(15),
            min_mod_revision: self.revision_or_zero(15),
            max_mod_revision: self.revision_or_zero(15),
            min_create_revision: self.revision_or_zero(15),
            max_create_revision: self.revision_or_zero(15),
        }
    }

    fn put(&mut self) -> PutRequest {
        let ignore_value = self.often(15);
        let ignore_lease = self.often(15);
        PutRequest {
            key: self.key(),
            value: if ignore_value {
                Bytes::new()
            } else {
                self.value()
            },
            lease: if ignore_lease { 0 } else { self.lease() },
            prev_kv: self.often(50),
            ignore_value,
            ignore_lease,
        }
    }

    fn delete(&mut self) -> DeleteRangeRequest {
        DeleteRangeRequest {
            key: self.key(),
            range_end: self.range_end(),
            prev_kv: self.often(50),
        }
    }

    fn compare(&mut self) -> Compare {
        let (key, range_end) = self.key_and_range_end();
        let union = match self.rng.random_range(0..7) {
            0 => Some(TargetUnion::Version(self.rng.random_range(0..3))),
            1 => Some(TargetUnion::CreateRevision(self.some_revision())),
            2 => Some(TargetUnion::ModRevision(self.some_revision())),
            3 | 4 => Some(TargetUnion::Value(self.value())),
            5 => Some(TargetUnion::Lease(self.lease())),
            _ => None,
        };
        let matching = match union {
            Some(TargetUnion::CreateRevision(_)) => 1,
            Some(TargetUnion::ModRevision(_)) => 2,
            Some(TargetUnion::Value(_)) => 3,
            Some(TargetUnion::Lease(_)) => 4,
            Some(TargetUnion::Version(_)) | None => 0,
        };
        Compare {
            result: self.rng.random_range(0..4),
            target: if self.often(90) {
                matching
            } else {
                self.rng.random_range(0..5)
            },
            key,
            range_end: if self.often(if self.has_directories() { 20 } else { 70 }) {
                Bytes::new()
            } else {
                range_end
            },
            target_union: union,
        }
    }

    fn branch(&mut self, depth: u32) -> Vec<RequestOp> {
        let ops = self.rng.random_range(0..6);
        let op = |requests: &mut Self| match requests.rng.random_range(0..8) {
            0..3 => requests.put().op(),
            3 | 4 => requests.range().op(),
            5 => requests.delete().op(),
            _ if depth == 0 => requests.put().op(),
            _ => requests.txn(depth - 1).op(),
        };
        (0..ops).map(|_| op(self)).collect()
    }

    fn txn(&mut self, depth: u32) -> TxnRequest {
        let compares = self.rng.random_range(0..3);
        TxnRequest {
            compare: (0..compares).map(|_| self.compare()).collect(),
            success: self.branch(depth),
            failure: self.branch(depth),
        }
    }

    fn op(&mut self) -> Request {
        match self.rng.random_range(0..100) {
            0..40 => self.put().into(),
            40..52 => self.delete().into(),
            52..82 => self.txn(2).into(),
            82..90 => grant(self.rng.random_range(1..5), self.rng.random_range(1..99)).into(),
            90..94 => revoke(self.rng.random_range(1..5)).into(),
            94..97 => Expire {
                term: self.rng.random_range(1..3),
                lease_ids: vec![1, 4, 2],
            }
            .into(),
            _ => compact(self.some_revision()).into(),
        }
    }
}

/// Scans begun at some point, and what they have to find however much happens meanwhile.
struct Scans(Vec<(RangeScan, RangeResponse)>);

impl Scans {
    fn begin(
        &mut self,
        world: &World,
        request: &RangeRequest,
        expected: Result<RangeResponse, ApplyError>,
    ) {
        match (world.state.begin_range(request), expected) {
            (Ok(scan), Ok(expected)) => self.0.push((scan, expected)),
            (begun, expected) => assert_eq!(begun.map(|_| ()), expected.map(|_| ())),
        }
    }

    fn step(&mut self, world: &World, rng: &mut StdRng) {
        for (mut scan, expected) in std::mem::take(&mut self.0) {
            if scan.step(&world.state, rng.random_range(1..4)) {
                assert_eq!(scan.finish(&world.rows), expected);
            } else {
                self.0.push((scan, expected));
            }
        }
    }

    fn floor(&self) -> i64 {
        self.0
            .iter()
            .map(|(scan, _)| scan.revision())
            .min()
            .unwrap_or(i64::MAX)
    }
}

fn compare_with_the_model(letters: &'static [u8], seed: u64, entries: usize) {
    let mut model = Model::new();
    let mut world = World {
        term: 1,
        ..World::new()
    };
    let mut other = World {
        term: 1,
        ..World::new()
    };
    let mut scans = Scans(Vec::new());
    let mut compaction = CompactCursor::new();
    let mut requests = Requests {
        rng: StdRng::seed_from_u64(seed),
        letters,
        revision: 1,
        compact_revision: -1,
    };
    for _ in 0..entries {
        let op = requests.op();
        let before = model.revision;
        let expected = model.apply(world.term, op.0.as_ref().expect("an operation"));
        let applied = world.apply(op.clone());
        assert_eq!(applied.outcome, expected);
        assert_eq!(applied.revision, model.revision);
        for (events, revision) in applied.events.iter().zip(before + 1..) {
            assert_eq!(events.events, model.events(revision));
        }
        // One that never removes anything physically has to stay equal.
        assert_eq!(other.apply(op).rows, applied.rows);

        requests.revision = model.revision;
        requests.compact_revision = model.compact_revision;
        let request = requests.range();
        let answer = model.range(&request, model.revision);
        assert_eq!(world.range(request.clone()), answer);
        if requests.often(10) {
            scans.begin(&world, &request, answer);
        }
        scans.step(&world, &mut requests.rng);

        let read = TxnRequest {
            compare: vec![requests.compare()],
            success: vec![requests.range().op()],
            failure: vec![],
        };
        let pairs = model.now();
        assert_eq!(
            world.state.read_txn(&read, &world.rows),
            model.txn(&read, &pairs)
        );

        if requests.often(30) {
            if compaction.is_done() {
                compaction = CompactCursor::new();
            }
            let keys = requests.rng.random_range(1..8);
            let removed = world
                .state
                .compact_step(&mut compaction, keys, scans.floor());
            world.rows.write(&removed);
            world.state.check_invariants().unwrap();
        }
        if requests.often(5) {
            let lowest = model.compact_revision.max(1);
            let from = if requests.often(50) {
                lowest
            } else {
                requests.rng.random_range(lowest..=model.revision)
            };
            let to = requests.rng.random_range(from..=model.revision);
            let (start, end) = (requests.key(), requests.range_end());
            let range = KeyRange::new(start.clone(), end.clone());
            assert_eq!(
                world.history(&range, from, to),
                model.past(&start, &end, from, to)
            );
            let revision = requests.rng.random_range(lowest..=model.revision);
            assert_eq!(world.hash(revision), Ok(model.hash(revision)));
            assert_eq!(other.hash(revision), Ok(model.hash(revision)));
        }
        if requests.often(3) {
            let reloaded = world.reloaded();
            assert_eq!(reloaded, world.state);
            assert_eq!(reloaded.size_bytes(), world.rows.bytes_of_keys_and_leases());
            world.state = reloaded;
        }
    }
    assert_eq!(world.state.key_count(), model.now().len());
    world.compact_physically();
    assert_eq!(world.rows.len_of(Table::Rev), model.kept());
    assert_eq!(
        State::load(&mut other.rows.all()).as_ref(),
        Ok(&other.state)
    );
}

#[test]
fn whatever_is_asked_the_answer_is_that_of_the_reference_model() {
    for seed in 0..30 {
        let letters = &[b'a', b'b', b'c', 0, 0xff];
        let compared = std::panic::catch_unwind(|| compare_with_the_model(letters, seed, 400));
        assert!(compared.is_ok(), "seed {seed}");
    }
}

#[test]
fn who_was_created_first_or_last_in_a_directory_is_what_a_scan_of_it_finds() {
    for seed in 0..30 {
        let letters = b"ab/";
        let compared = std::panic::catch_unwind(|| compare_with_the_model(letters, seed, 400));
        assert!(compared.is_ok(), "seed {seed}");
    }
}
