//! A request evaluated on a state: its answer and the revision it would make.

use std::collections::BTreeMap;

use baton_proto::etcdserverpb as pb;
use baton_proto::mvccpb::KeyValue;
use bytes::Bytes;
use pb::compare::{CompareResult, CompareTarget, TargetUnion};
use pb::request_op::Request as Op;
use pb::response_op::Response as OpAnswer;

use super::range::{answer, number};
use super::{Change, Model, covers};

/// Why a request is refused whole, with nothing changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It keeps the value or the lease of a key that there is not.
    KeyNotFound,
    /// It reads a revision that there is not yet.
    FutureRevision,
}

/// The state after a revision, and what a request changes in it so far.
///
/// The headers inside of answers are not set: of these only the revision of the whole is promised.
#[derive(Debug)]
pub struct Draft<'a> {
    model: &'a Model,
    base: i64,
    over: BTreeMap<Bytes, Option<KeyValue>>,
    changes: Vec<Change>,
}

impl<'a> Draft<'a> {
    pub(super) fn new(model: &'a Model, base: i64) -> Self {
        Self {
            model,
            base,
            over: BTreeMap::new(),
            changes: Vec::new(),
        }
    }

    /// What was changed, in order.
    pub fn into_changes(self) -> Vec<Change> {
        self.changes
    }

    /// A key as it is now.
    pub fn get(&self, key: &[u8]) -> Option<&KeyValue> {
        match self.over.get(key) {
            Some(changed) => changed.as_ref(),
            None => self.model.get(key, self.base),
        }
    }

    /// Sets a key, and says what it is now.
    pub fn set(&mut self, key: &Bytes, value: Bytes, lease: i64) -> KeyValue {
        let revision = self.base + 1;
        let (create_revision, version) = self
            .get(key)
            .map_or((revision, 0), |kv| (kv.create_revision, kv.version));
        let kv = KeyValue {
            key: key.clone(),
            create_revision,
            mod_revision: revision,
            version: version + 1,
            value,
            lease,
        };
        self.over.insert(key.clone(), Some(kv.clone()));
        self.changes.push(Change::Put(kv.clone()));
        kv
    }

    /// Removes a key, and says what it was.
    pub fn remove(&mut self, key: &Bytes) -> Option<KeyValue> {
        let was = self.get(key).cloned()?;
        self.over.insert(key.clone(), None);
        self.changes.push(Change::Delete(key.clone()));
        Some(was)
    }

    fn scan(&self, key: &[u8], end: &[u8]) -> Vec<KeyValue> {
        if end.is_empty() {
            return self.get(key).cloned().into_iter().collect();
        }
        let base = self.model.scan(key, end, self.base);
        if self.over.is_empty() {
            return base.cloned().collect();
        }
        let mut kvs: BTreeMap<Bytes, KeyValue> =
            base.map(|kv| (kv.key.clone(), kv.clone())).collect();
        for (changed, kv) in &self.over {
            match kv {
                _ if !covers(key, end, changed) => {}
                Some(kv) => {
                    kvs.insert(changed.clone(), kv.clone());
                }
                None => {
                    kvs.remove(changed);
                }
            }
        }
        kvs.into_values().collect()
    }

    /// Evaluates a read.
    ///
    /// # Errors
    /// The revision it asks for is not there yet.
    pub fn range(&self, request: &pb::RangeRequest) -> Result<pb::RangeResponse, Refusal> {
        let kvs = match request.revision {
            ..=0 => self.scan(&request.key, &request.range_end),
            revision if revision > self.base => return Err(Refusal::FutureRevision),
            revision => self
                .model
                .scan(&request.key, &request.range_end, revision)
                .cloned()
                .collect(),
        };
        Ok(answer(request, kvs))
    }

    /// Evaluates a write.
    ///
    /// # Errors
    /// It keeps something of a key that there is not.
    pub fn put(&mut self, request: &pb::PutRequest) -> Result<pb::PutResponse, Refusal> {
        let was = self.get(&request.key).cloned();
        let (mut value, mut lease) = (request.value.clone(), request.lease);
        if request.ignore_value || request.ignore_lease {
            let was = was.as_ref().ok_or(Refusal::KeyNotFound)?;
            if request.ignore_value {
                value = was.value.clone();
            }
            if request.ignore_lease {
                lease = was.lease;
            }
        }
        self.set(&request.key, value, lease);
        Ok(pb::PutResponse {
            header: None,
            prev_kv: was.filter(|_| request.prev_kv),
        })
    }

    /// Evaluates a deletion.
    pub fn delete_range(&mut self, request: &pb::DeleteRangeRequest) -> pb::DeleteRangeResponse {
        let was = self.scan(&request.key, &request.range_end);
        for kv in &was {
            self.remove(&kv.key);
        }
        pb::DeleteRangeResponse {
            header: None,
            deleted: number(was.len()),
            prev_kvs: if request.prev_kv { was } else { Vec::new() },
        }
    }

    /// Evaluates a transaction: all comparisons, also those of transactions inside, on the state before any of its effects.
    ///
    /// # Errors
    /// One of the operations it comes to is refused; so the whole is.
    pub fn txn(&mut self, request: &pb::TxnRequest) -> Result<pb::TxnResponse, Refusal> {
        let mut branches = Vec::new();
        self.decide(request, &mut branches);
        self.perform(request, &mut branches.into_iter())
    }

    /// Which branch each transaction takes, this one first, then those in its branch as they come.
    fn decide(&self, request: &pb::TxnRequest, branches: &mut Vec<bool>) {
        let succeeded = request.compare.iter().all(|compare| self.holds(compare));
        branches.push(succeeded);
        for op in branch(request, succeeded) {
            if let Some(Op::RequestTxn(nested)) = &op.request {
                self.decide(nested, branches);
            }
        }
    }

    fn perform(
        &mut self,
        request: &pb::TxnRequest,
        branches: &mut impl Iterator<Item = bool>,
    ) -> Result<pb::TxnResponse, Refusal> {
        let succeeded = branches.next().unwrap_or_default();
        let mut responses = Vec::new();
        for op in branch(request, succeeded) {
            let response = match op.request.as_ref().ok_or(Refusal::KeyNotFound)? {
                Op::RequestRange(range) => OpAnswer::ResponseRange(self.range(range)?),
                Op::RequestPut(put) => OpAnswer::ResponsePut(self.put(put)?),
                Op::RequestDeleteRange(delete) => {
                    OpAnswer::ResponseDeleteRange(self.delete_range(delete))
                }
                Op::RequestTxn(nested) => OpAnswer::ResponseTxn(self.perform(nested, branches)?),
            };
            responses.push(pb::ResponseOp {
                response: Some(response),
            });
        }
        Ok(pb::TxnResponse {
            header: None,
            succeeded,
            responses,
        })
    }

    /// Whether a comparison holds: for every key it is about, and for a missing one if there is none.
    fn holds(&self, compare: &pb::Compare) -> bool {
        let kvs = self.scan(&compare.key, &compare.range_end);
        if kvs.is_empty() {
            return compare.target() != CompareTarget::Value
                && holds_for(compare, &KeyValue::default());
        }
        kvs.iter().all(|kv| holds_for(compare, kv))
    }
}

/// The operations of a branch.
fn branch(request: &pb::TxnRequest, succeeded: bool) -> &[pb::RequestOp] {
    if succeeded {
        &request.success
    } else {
        &request.failure
    }
}

fn holds_for(compare: &pb::Compare, kv: &KeyValue) -> bool {
    let union = compare.target_union.as_ref();
    let ordering = match compare.target() {
        CompareTarget::Value => {
            let against = match union {
                Some(TargetUnion::Value(value)) => value.clone(),
                _ => Bytes::new(),
            };
            kv.value.cmp(&against)
        }
        target => {
            let (is, against) = match (target, union) {
                (CompareTarget::Version, Some(TargetUnion::Version(v))) => (kv.version, *v),
                (CompareTarget::Create, Some(TargetUnion::CreateRevision(r))) => {
                    (kv.create_revision, *r)
                }
                (CompareTarget::Mod, Some(TargetUnion::ModRevision(r))) => (kv.mod_revision, *r),
                (CompareTarget::Lease, Some(TargetUnion::Lease(lease))) => (kv.lease, *lease),
                (CompareTarget::Version, _) => (kv.version, 0),
                (CompareTarget::Create, _) => (kv.create_revision, 0),
                (CompareTarget::Mod, _) => (kv.mod_revision, 0),
                (CompareTarget::Lease | CompareTarget::Value, _) => (kv.lease, 0),
            };
            is.cmp(&against)
        }
    };
    match compare.result() {
        CompareResult::Equal => ordering.is_eq(),
        CompareResult::NotEqual => ordering.is_ne(),
        CompareResult::Greater => ordering.is_gt(),
        CompareResult::Less => ordering.is_lt(),
    }
}
