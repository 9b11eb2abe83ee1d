//! Requests on keys, drawn from all that the API has.

use std::collections::BTreeMap;

use baton_proto::etcdserverpb as pb;
use baton_proto::mvccpb::KeyValue;
use bytes::Bytes;
use pb::compare::{CompareResult, CompareTarget, TargetUnion};
use pb::range_request::{SortOrder, SortTarget};
use pb::request_op::Request as Op;
use pb::response_op::Response as OpAnswer;
use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::{IndexedRandom, SliceRandom};

use crate::history::{Answer, Outcome, Request};

/// What one client draws its requests from: the keys it is at, and what it has seen of them.
#[derive(Debug)]
pub struct Draw {
    /// Before the number in every value.
    name: String,
    serial: u64,
    prefix: String,
    keys: Vec<Bytes>,
    /// What was last seen of each key.
    seen: BTreeMap<Bytes, KeyValue>,
    /// The greatest revision seen.
    revision: i64,
}

impl Draw {
    /// Requests whose values begin with `name`, which nobody else's do.
    pub fn new(name: String) -> Self {
        Self {
            name,
            serial: 0,
            prefix: String::new(),
            keys: Vec::new(),
            seen: BTreeMap::new(),
            revision: 1,
        }
    }

    /// Goes to `keys` keys that begin with `prefix`, unless it is there. The prefix ends in a slash.
    pub fn on(&mut self, prefix: &str, keys: usize) {
        if self.prefix == prefix {
            return;
        }
        prefix.clone_into(&mut self.prefix);
        self.keys = (b'a'..)
            .take(keys)
            .map(|letter| format!("{prefix}{}", char::from(letter)).into())
            .collect();
        self.seen.clear();
    }

    /// Draws a request.
    pub fn next(&mut self, chance: &mut SmallRng) -> Request {
        match chance.random_range(0..100) {
            0..18 => self.put(chance).into(),
            18..36 => self.get(chance).into(),
            36..56 => self.compare_and_swap(chance).into(),
            56..64 => self.delete(chance).into(),
            64..67 => self.delete_range(chance).into(),
            67..85 => self.range(chance).into(),
            85..94 => self.several(chance).into(),
            _ => self.nested(chance).into(),
        }
    }

    /// Remembers what an outcome tells of the keys.
    pub fn learn(&mut self, request: &Request, outcome: &Outcome) {
        let Outcome::Ok(answer) = outcome else {
            return;
        };
        self.revision = self.revision.max(answer.header().revision);
        match (request, answer) {
            (Request::Range(request), Answer::Range(answer)) => self.learn_range(request, answer),
            (Request::Txn(request), Answer::Txn(answer)) => {
                let ops = if answer.succeeded {
                    &request.success
                } else {
                    &request.failure
                };
                for (op, response) in std::iter::zip(ops, &answer.responses) {
                    if let (
                        Some(Op::RequestRange(request)),
                        Some(OpAnswer::ResponseRange(answer)),
                    ) = (&op.request, &response.response)
                    {
                        self.learn_range(request, answer);
                    }
                }
            }
            _ => {}
        }
    }

    fn learn_range(&mut self, request: &pb::RangeRequest, answer: &pb::RangeResponse) {
        if request.keys_only || request.revision != 0 {
            return;
        }
        if request.range_end.is_empty() && answer.kvs.is_empty() && !request.count_only {
            self.seen.remove(&request.key);
        }
        for kv in &answer.kvs {
            self.seen.insert(kv.key.clone(), kv.clone());
        }
    }

    fn key(&self, chance: &mut SmallRng) -> Bytes {
        self.keys.choose(chance).cloned().unwrap_or_default()
    }

    fn value(&mut self) -> Bytes {
        self.serial += 1;
        format!("{}/{}", self.name, self.serial).into()
    }

    fn put(&mut self, chance: &mut SmallRng) -> pb::PutRequest {
        let keeps = chance.random_bool(0.05);
        pb::PutRequest {
            key: self.key(chance),
            value: if keeps { Bytes::new() } else { self.value() },
            prev_kv: chance.random_bool(0.5),
            ignore_value: keeps,
            ignore_lease: chance.random_bool(0.05),
            ..Default::default()
        }
    }

    fn get(&self, chance: &mut SmallRng) -> pb::RangeRequest {
        pb::RangeRequest {
            key: self.key(chance),
            serializable: chance.random_bool(0.3),
            revision: self.revision(chance),
            ..Default::default()
        }
    }

    /// Mostly 0, which is now; else one around what was seen last.
    fn revision(&self, chance: &mut SmallRng) -> i64 {
        match chance.random_range(0..100) {
            0..80 => 0,
            80..98 => (self.revision - chance.random_range(0..100)).max(1),
            _ => self.revision + chance.random_range(0..50),
        }
    }

    /// All keys, or those from one to another.
    fn span(&self, chance: &mut SmallRng) -> (Bytes, Bytes) {
        match chance.random_range(0..4) {
            0 => (self.key(chance), self.key(chance)),
            1 => (self.key(chance), self.end()),
            _ => (self.prefix.clone().into(), self.end()),
        }
    }

    /// Where the keys end.
    fn end(&self) -> Bytes {
        format!("{}0", self.prefix.trim_end_matches('/')).into()
    }

    fn range(&self, chance: &mut SmallRng) -> pb::RangeRequest {
        let (key, range_end) = self.span(chance);
        let orders = [SortOrder::None, SortOrder::Ascend, SortOrder::Descend];
        let targets = [
            SortTarget::Key,
            SortTarget::Version,
            SortTarget::Create,
            SortTarget::Mod,
            SortTarget::Value,
        ];
        let sorted = chance.random_bool(0.3);
        let bound = |chance: &mut SmallRng| {
            if chance.random_bool(0.1) {
                (self.revision - chance.random_range(0..20)).max(1)
            } else {
                0
            }
        };
        pb::RangeRequest {
            key,
            range_end,
            limit: if chance.random_bool(0.3) {
                chance.random_range(1..=3)
            } else {
                0
            },
            revision: self.revision(chance),
            sort_order: *orders
                .choose(chance)
                .filter(|_| sorted)
                .unwrap_or(&SortOrder::None) as i32,
            sort_target: *targets
                .choose(chance)
                .filter(|_| sorted)
                .unwrap_or(&SortTarget::Key) as i32,
            serializable: chance.random_bool(0.2),
            keys_only: chance.random_bool(0.1),
            count_only: chance.random_bool(0.1),
            min_mod_revision: bound(chance),
            max_mod_revision: bound(chance),
            min_create_revision: bound(chance),
            max_create_revision: bound(chance),
        }
    }

    /// A comparison that holds if `key` is as it was seen last; now and then another one.
    fn guard(&self, chance: &mut SmallRng, key: Bytes) -> pb::Compare {
        let seen = self.seen.get(&key).cloned().unwrap_or_default();
        let union = match chance.random_range(0..5) {
            0 | 1 if seen.version > 0 => TargetUnion::Value(seen.value),
            2 => TargetUnion::Version(seen.version),
            3 => TargetUnion::CreateRevision(seen.create_revision),
            4 => TargetUnion::Lease(seen.lease),
            _ => TargetUnion::ModRevision(seen.mod_revision),
        };
        let result = match chance.random_range(0..20) {
            0 => CompareResult::NotEqual,
            1 => CompareResult::Greater,
            2 => CompareResult::Less,
            _ => CompareResult::Equal,
        };
        compare(key, Bytes::new(), result, union)
    }

    fn compare_and_swap(&mut self, chance: &mut SmallRng) -> pb::TxnRequest {
        let key = self.key(chance);
        let read = pb::RangeRequest {
            key: key.clone(),
            ..Default::default()
        };
        let write = pb::PutRequest {
            key: key.clone(),
            value: self.value(),
            prev_kv: chance.random_bool(0.3),
            ..Default::default()
        };
        pb::TxnRequest {
            compare: vec![self.guard(chance, key)],
            success: vec![op(Op::RequestPut(write))],
            failure: vec![op(Op::RequestRange(read))],
        }
    }

    fn delete(&self, chance: &mut SmallRng) -> pb::DeleteRangeRequest {
        pb::DeleteRangeRequest {
            key: self.key(chance),
            range_end: Bytes::new(),
            prev_kv: chance.random_bool(0.5),
        }
    }

    fn delete_range(&self, chance: &mut SmallRng) -> pb::DeleteRangeRequest {
        let (key, range_end) = self.span(chance);
        pb::DeleteRangeRequest {
            key,
            range_end,
            prev_kv: chance.random_bool(0.5),
        }
    }

    /// A transaction of several operations, each on a key of its own.
    fn several(&mut self, chance: &mut SmallRng) -> pb::TxnRequest {
        let mut keys = self.keys.clone();
        keys.shuffle(chance);
        let guarded = chance.random_range(0..=2usize);
        let compare = keys.iter().take(guarded).cloned();
        let mut compare: Vec<pb::Compare> = compare.map(|key| self.guard(chance, key)).collect();
        if chance.random_bool(0.1) {
            let (key, end) = (self.prefix.clone().into(), self.end());
            let union = TargetUnion::CreateRevision(self.revision);
            compare.push(self::compare(key, end, CompareResult::Less, union));
        }
        let success = keys
            .iter()
            .take(chance.random_range(2..=4))
            .map(|key| self.operation(chance, key.clone()))
            .collect();
        let failure = keys
            .iter()
            .take(chance.random_range(0..=2))
            .map(|key| self.operation(chance, key.clone()))
            .collect();
        pb::TxnRequest {
            compare,
            success,
            failure,
        }
    }

    /// An operation of a transaction.
    fn operation(&mut self, chance: &mut SmallRng, key: Bytes) -> pb::RequestOp {
        op(match chance.random_range(0..10) {
            0..5 => Op::RequestPut(pb::PutRequest {
                key,
                value: self.value(),
                prev_kv: chance.random_bool(0.3),
                ..Default::default()
            }),
            5..7 => Op::RequestDeleteRange(pb::DeleteRangeRequest {
                key,
                range_end: Bytes::new(),
                prev_kv: chance.random_bool(0.5),
            }),
            7..9 => Op::RequestRange(pb::RangeRequest {
                key,
                revision: if chance.random_bool(0.1) {
                    self.revision
                } else {
                    0
                },
                ..Default::default()
            }),
            // Also what the transaction has written before it.
            _ => Op::RequestRange(pb::RangeRequest {
                key: self.prefix.clone().into(),
                range_end: self.end(),
                ..Default::default()
            }),
        })
    }

    /// A transaction within a transaction, after a write that its comparison must not see.
    fn nested(&mut self, chance: &mut SmallRng) -> pb::TxnRequest {
        let mut keys = self.keys.clone();
        keys.shuffle(chance);
        let key = |at: usize| keys.get(at).cloned().unwrap_or_default();
        let inner = pb::TxnRequest {
            compare: vec![self.guard(chance, key(0))],
            success: vec![
                self.operation(chance, key(1)),
                self.operation(chance, key(2)),
            ],
            failure: vec![self.operation(chance, key(2))],
        };
        let write = pb::PutRequest {
            key: key(0),
            value: self.value(),
            ..Default::default()
        };
        pb::TxnRequest {
            compare: vec![self.guard(chance, key(1))],
            success: vec![op(Op::RequestPut(write)), op(Op::RequestTxn(inner))],
            failure: vec![self.operation(chance, key(3))],
        }
    }
}

/// A comparison.
pub fn compare(
    key: Bytes,
    range_end: Bytes,
    result: CompareResult,
    union: TargetUnion,
) -> pb::Compare {
    let target = match union {
        TargetUnion::Version(_) => CompareTarget::Version,
        TargetUnion::CreateRevision(_) => CompareTarget::Create,
        TargetUnion::ModRevision(_) => CompareTarget::Mod,
        TargetUnion::Value(_) => CompareTarget::Value,
        TargetUnion::Lease(_) => CompareTarget::Lease,
    };
    pb::Compare {
        result: result as i32,
        target: target as i32,
        key,
        range_end,
        target_union: Some(union),
    }
}

/// An operation of a transaction.
pub fn op(request: Op) -> pb::RequestOp {
    pb::RequestOp {
        request: Some(request),
    }
}
