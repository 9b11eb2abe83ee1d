//! Requests that several workloads make, in short.

use baton_proto::etcdserverpb as pb;
use bytes::Bytes;
use pb::compare::{CompareResult, CompareTarget, TargetUnion};
use pb::range_request::{SortOrder, SortTarget};
use pb::request_op::Request as Op;

/// The end of the range of all keys that begin with `prefix`, which does not end in `0xff`.
pub fn prefix_end(prefix: &str) -> Bytes {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last = last.saturating_add(1);
    }
    end.into()
}

/// A read of one key.
pub fn get(key: &str) -> pb::RangeRequest {
    pb::RangeRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
        ..Default::default()
    }
}

/// A read of all keys that begin with `prefix`, in the order in which they were created.
pub fn by_creation(prefix: &str) -> pb::RangeRequest {
    pb::RangeRequest {
        key: Bytes::copy_from_slice(prefix.as_bytes()),
        range_end: prefix_end(prefix),
        sort_order: SortOrder::Ascend as i32,
        sort_target: SortTarget::Create as i32,
        ..Default::default()
    }
}

/// A read of the first key that was created under `prefix`.
pub fn first_created(prefix: &str) -> pb::RangeRequest {
    pb::RangeRequest {
        limit: 1,
        ..by_creation(prefix)
    }
}

/// A read of the last key under `prefix` that was created before `revision`.
pub fn created_before(prefix: &str, revision: i64) -> pb::RangeRequest {
    pb::RangeRequest {
        limit: 1,
        sort_order: SortOrder::Descend as i32,
        max_create_revision: revision - 1,
        ..by_creation(prefix)
    }
}

/// A write of a key that lives by `lease`; by none if that is 0.
pub fn put(key: &str, value: impl Into<Bytes>, lease: i64) -> pb::PutRequest {
    pb::PutRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: value.into(),
        lease,
        ..Default::default()
    }
}

/// The end of one key.
pub fn delete(key: &str) -> pb::DeleteRangeRequest {
    pb::DeleteRangeRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
        ..Default::default()
    }
}

/// That a key was created at `revision`; that it is absent if that is 0.
pub fn created_at(key: &str, revision: i64) -> pb::Compare {
    pb::Compare {
        result: CompareResult::Equal as i32,
        target: CompareTarget::Create as i32,
        key: Bytes::copy_from_slice(key.as_bytes()),
        target_union: Some(TargetUnion::CreateRevision(revision)),
        ..Default::default()
    }
}

/// A transaction.
pub fn txn<const C: usize, const S: usize, const F: usize>(
    compare: [pb::Compare; C],
    success: [Op; S],
    failure: [Op; F],
) -> pb::TxnRequest {
    let op = |request| pb::RequestOp {
        request: Some(request),
    };
    pb::TxnRequest {
        compare: compare.into(),
        success: success.into_iter().map(op).collect(),
        failure: failure.into_iter().map(op).collect(),
    }
}

/// What the reads of a transaction gave, in their order.
pub fn ranges(answer: pb::TxnResponse) -> Vec<pb::RangeResponse> {
    let answers = answer.responses.into_iter();
    let ranges = answers.filter_map(|answer| match answer.response {
        Some(pb::response_op::Response::ResponseRange(range)) => Some(range),
        _ => None,
    });
    ranges.collect()
}
