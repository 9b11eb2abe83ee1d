//! Transactions: conditions on the state before, then one branch, all of it or nothing.

use baton_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use baton_proto::etcdserverpb::request_op::Request;
use baton_proto::etcdserverpb::response_op::Response;
use baton_proto::etcdserverpb::{
    Compare, PutRequest, RangeRequest, RangeResponse, RequestOp, ResponseHeader, ResponseOp,
    TxnRequest, TxnResponse,
};
use bytes::Bytes;

use crate::index::{Change, KeyEntry};
use crate::key_range::KeyRange;
use crate::planted::{Mutant, planted};
use crate::range_scan::RangeScan;
use crate::revision::NextRevision;
use crate::{ApplyError, Archive, State};

/// Which branch each transaction of a tree takes, in the order they are met. Everything is decided
/// before anything is done: a nested condition never sees what a sibling wrote.
pub(crate) struct Branches(Vec<bool>);

impl Branches {
    pub fn decide(state: &State, txn: &TxnRequest) -> Self {
        let mut branches = Branches(Vec::new());
        branches.decide_one(state, txn);
        branches
    }

    fn decide_one(&mut self, state: &State, txn: &TxnRequest) {
        let succeeded = txn.compare.iter().all(|compare| holds(state, compare));
        self.0.push(succeeded);
        for op in taken(txn, succeeded) {
            if let Some(Request::RequestTxn(nested)) = &op.request {
                self.decide_one(state, nested);
            }
        }
    }

    fn walk(&self) -> impl Iterator<Item = bool> {
        self.0.iter().copied()
    }
}

fn taken(txn: &TxnRequest, succeeded: bool) -> &[RequestOp] {
    if succeeded {
        &txn.success
    } else {
        &txn.failure
    }
}

/// Whether the condition is true of every key in its range.
fn holds(state: &State, compare: &Compare) -> bool {
    let range = KeyRange::new(compare.key.clone(), compare.range_end.clone());
    settled_by_creation(state, compare, &range)
        .unwrap_or_else(|| holds_for_each(state, compare, &range))
}

pub(crate) fn holds_for_each(state: &State, compare: &Compare, range: &KeyRange) -> bool {
    let mut any = false;
    for (_, entry) in state.index.range(range) {
        let Some((change, value)) = entry.live() else {
            continue;
        };
        any = true;
        if !holds_for(compare, Some((change, value))) {
            return false;
        }
    }
    any || holds_for(compare, None)
}

/// Decides by the keys created first and last, where that is enough: a lock is free if there is no key
/// under its name, however many have been there.
pub(crate) fn settled_by_creation(
    state: &State,
    compare: &Compare,
    range: &KeyRange,
) -> Option<bool> {
    let covering = state.index.covering(range)?;
    if covering.len() == 0 {
        return Some(holds_for(compare, None));
    }
    let mut ends = covering.first_created(i64::MIN, i64::MAX, 1);
    ends.extend(covering.last_created(i64::MIN, i64::MAX, 1));
    let holds_at_ends = ends
        .into_iter()
        .all(|key| holds_for(compare, state.index.get(key).and_then(KeyEntry::live)));
    let is_between = compare.target == CompareTarget::Create as i32
        && compare.result != CompareResult::NotEqual as i32;
    if !holds_at_ends {
        Some(false)
    } else if is_between {
        Some(true)
    } else {
        None
    }
}

fn holds_for(compare: &Compare, pair: Option<(&Change, &Bytes)>) -> bool {
    let number =
        |stored: Option<i64>, asked: Option<i64>| stored.unwrap_or(0).cmp(&asked.unwrap_or(0));
    let change = pair.map(|(change, _)| change);
    // A value of another target than the one named counts as not given.
    let asked = compare.target_union.as_ref();
    let ordering = match CompareTarget::try_from(compare.target) {
        Ok(CompareTarget::Value) => {
            // Nothing can be said of the value of a missing key, not even that it differs.
            let Some((_, value)) = pair else { return false };
            let asked = match asked {
                Some(TargetUnion::Value(asked)) => &asked[..],
                _ => &[],
            };
            value[..].cmp(asked)
        }
        Ok(CompareTarget::Version) => number(
            change.map(|change| change.version),
            asked.and_then(|asked| {
                if let TargetUnion::Version(n) = asked {
                    Some(*n)
                } else {
                    None
                }
            }),
        ),
        Ok(CompareTarget::Create) => number(
            change.map(|change| change.create_revision),
            asked.and_then(|asked| {
                if let TargetUnion::CreateRevision(n) = asked {
                    Some(*n)
                } else {
                    None
                }
            }),
        ),
        Ok(CompareTarget::Mod) if planted(Mutant::CompareIgnored) && pair.is_some() => {
            std::cmp::Ordering::Equal
        }
        Ok(CompareTarget::Mod) => number(
            change.map(|change| change.main),
            asked.and_then(|asked| {
                if let TargetUnion::ModRevision(n) = asked {
                    Some(*n)
                } else {
                    None
                }
            }),
        ),
        Ok(CompareTarget::Lease) => number(
            change.map(|change| change.lease),
            asked.and_then(|asked| {
                if let TargetUnion::Lease(n) = asked {
                    Some(*n)
                } else {
                    None
                }
            }),
        ),
        Err(_) => std::cmp::Ordering::Equal,
    };
    match CompareResult::try_from(compare.result) {
        Ok(CompareResult::Equal) => ordering.is_eq(),
        Ok(CompareResult::NotEqual) => ordering.is_ne(),
        Ok(CompareResult::Greater) => ordering.is_gt(),
        Ok(CompareResult::Less) => ordering.is_lt(),
        Err(_) => true,
    }
}

/// Whether it is more than ranges, so that it has to go through the log. A nested transaction
/// counts as a write, whatever is in it.
pub(crate) fn is_write(txn: &TxnRequest) -> bool {
    let is_range = |op: &RequestOp| matches!(op.request, Some(Request::RequestRange(_)));
    !txn.success.iter().chain(&txn.failure).all(is_range)
}

/// Whether any branch at any depth contains a put.
pub(crate) fn may_grow(txn: &TxnRequest) -> bool {
    txn.success
        .iter()
        .chain(&txn.failure)
        .any(|op| match &op.request {
            Some(Request::RequestPut(_)) => true,
            Some(Request::RequestTxn(nested)) => may_grow(nested),
            _ => false,
        })
}

/// Refuses what could not be completed, before anything is done.
pub(crate) fn check(
    state: &State,
    txn: &TxnRequest,
    branches: &Branches,
) -> Result<(), ApplyError> {
    check_one(state, txn, &mut branches.walk(), &mut Vec::new())
}

fn check_one<'a>(
    state: &State,
    txn: &'a TxnRequest,
    branches: &mut impl Iterator<Item = bool>,
    earlier: &mut Vec<&'a Request>,
) -> Result<(), ApplyError> {
    for op in taken(txn, branches.next().unwrap_or_default()) {
        match &op.request {
            Some(Request::RequestRange(range)) => check_range(state, range)?,
            Some(Request::RequestPut(put)) => {
                state.check_lease(put)?;
                if keeps_something(put) && !exists_after(state, earlier, &put.key) {
                    return Err(ApplyError::KeyNotFound);
                }
            }
            Some(Request::RequestTxn(nested)) => check_one(state, nested, branches, earlier)?,
            Some(Request::RequestDeleteRange(_)) | None => {}
        }
        earlier.extend(&op.request);
    }
    Ok(())
}

/// A revision below 0 is not "now" inside a transaction.
fn check_range(state: &State, range: &RangeRequest) -> Result<(), ApplyError> {
    if range.revision > state.revision {
        Err(ApplyError::FutureRevision)
    } else if range.revision != 0 && range.revision < state.compact_revision {
        Err(ApplyError::Compacted)
    } else {
        Ok(())
    }
}

/// Whether the put needs the key to exist.
pub(crate) fn keeps_something(put: &PutRequest) -> bool {
    put.ignore_value || put.ignore_lease
}

/// Whether `key` exists once the `earlier` operations are done. Usually none of them touches it:
/// that would be a duplicate key, but for a delete without an upper end.
fn exists_after(state: &State, earlier: &[&Request], key: &[u8]) -> bool {
    let decided = earlier.iter().rev().find_map(|request| match request {
        Request::RequestPut(put) => (put.key == key).then_some(true),
        Request::RequestDeleteRange(delete) => {
            let range = KeyRange::new(delete.key.clone(), delete.range_end.clone());
            range.contains(key).then_some(false)
        }
        Request::RequestRange(_) | Request::RequestTxn(_) => None,
    });
    decided.unwrap_or_else(|| state.exists(key))
}

/// Runs the branches of a checked transaction.
pub(crate) fn run(
    next: &mut NextRevision<'_>,
    txn: &TxnRequest,
    branches: &Branches,
    archive: &dyn Archive,
) -> TxnResponse {
    run_one(next, txn, &mut branches.walk(), archive)
}

fn run_one(
    next: &mut NextRevision<'_>,
    txn: &TxnRequest,
    branches: &mut impl Iterator<Item = bool>,
    archive: &dyn Archive,
) -> TxnResponse {
    let succeeded = branches.next().unwrap_or_default();
    let ops = taken(txn, succeeded);
    let mut responses = Vec::with_capacity(ops.len());
    for op in ops {
        let response = op.request.as_ref().map(|request| match request {
            Request::RequestRange(request) => {
                Response::ResponseRange(range_now(next.state(), next.visible(), request, archive))
            }
            Request::RequestPut(request) => {
                let mut response = next.put(request);
                response.header = Some(at_revision(next.visible()));
                Response::ResponsePut(response)
            }
            Request::RequestDeleteRange(request) => {
                let mut response = next.delete_range(request);
                response.header = Some(at_revision(next.visible()));
                Response::ResponseDeleteRange(response)
            }
            Request::RequestTxn(nested) => {
                let mut response = run_one(next, nested, branches, archive);
                response.header = Some(ResponseHeader::default());
                Response::ResponseTxn(response)
            }
        });
        responses.push(ResponseOp { response });
    }
    TxnResponse {
        header: None,
        succeeded,
        responses,
    }
}

/// Runs a transaction of ranges only.
pub(crate) fn read(
    state: &State,
    txn: &TxnRequest,
    archive: &dyn Archive,
) -> Result<TxnResponse, ApplyError> {
    let branches = Branches::decide(state, txn);
    check(state, txn, &branches)?;
    let succeeded = branches.0[0];
    let mut responses = Vec::new();
    for op in taken(txn, succeeded) {
        let response = match &op.request {
            Some(Request::RequestRange(request)) => Some(Response::ResponseRange(range_now(
                state,
                state.revision,
                request,
                archive,
            ))),
            _ => None,
        };
        responses.push(ResponseOp { response });
    }
    Ok(TxnResponse {
        header: None,
        succeeded,
        responses,
    })
}

/// A whole range at once, as an operation of a transaction answers it.
fn range_now(
    state: &State,
    visible: i64,
    request: &RangeRequest,
    archive: &dyn Archive,
) -> RangeResponse {
    let revision = if request.revision > 0 {
        request.revision
    } else {
        visible
    };
    let mut scan = RangeScan::new(state, request, revision, revision == visible);
    while !scan.step(state, usize::MAX) {}
    let mut response = scan.finish(archive);
    response.header = Some(at_revision(visible));
    response
}

fn at_revision(revision: i64) -> ResponseHeader {
    ResponseHeader {
        revision,
        ..Default::default()
    }
}
