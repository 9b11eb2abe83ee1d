//! What is asked of the store about keys in line: all of it in terms of create and modification revisions.

use baton_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use baton_proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use baton_proto::etcdserverpb::request_op::Request;
use baton_proto::etcdserverpb::response_op::Response as Answer;
use baton_proto::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, TxnResponse,
};
use baton_proto::mvccpb::KeyValue;
use baton_state_machine::KeyRange;
use bytes::Bytes;

/// A read of the key that was created first.
pub fn first_created(directory: &KeyRange) -> RangeRequest {
    let (key, range_end) = directory.bounds_on_wire();
    RangeRequest {
        key,
        range_end,
        limit: 1,
        sort_order: SortOrder::Ascend.into(),
        sort_target: SortTarget::Create.into(),
        ..RangeRequest::default()
    }
}

/// A transaction that deletes a key created at `create_revision`. It leaves a younger one of that name,
/// which its response then has.
pub fn delete_if_created(key: &Bytes, create_revision: i64) -> TxnRequest {
    let delete = Request::RequestDeleteRange(DeleteRangeRequest {
        key: key.clone(),
        ..DeleteRangeRequest::default()
    });
    TxnRequest {
        compare: vec![if_created(key, create_revision)],
        success: vec![op(delete)],
        failure: vec![op(read(key))],
    }
}

/// A transaction that puts `value` into a key created at `create_revision`, which stays with its lease.
pub fn put_if_created(key: &Bytes, create_revision: i64, value: Bytes) -> TxnRequest {
    let put = Request::RequestPut(PutRequest {
        key: key.clone(),
        value,
        ignore_lease: true,
        ..PutRequest::default()
    });
    TxnRequest {
        compare: vec![if_created(key, create_revision)],
        success: vec![op(put)],
        failure: Vec::new(),
    }
}

/// The pair a transaction read first, if it found one.
pub fn found(response: &TxnResponse) -> Option<&KeyValue> {
    response
        .responses
        .iter()
        .find_map(|op| match op.response.as_ref()? {
            Answer::ResponseRange(range) => range.kvs.first(),
            _ => None,
        })
}

pub(super) fn op(request: Request) -> RequestOp {
    RequestOp {
        request: Some(request),
    }
}

pub(super) fn read(key: &Bytes) -> Request {
    Request::RequestRange(RangeRequest {
        key: key.clone(),
        keys_only: true,
        ..RangeRequest::default()
    })
}

/// A create revision of 0 is that of a missing key.
pub(super) fn if_created(key: &Bytes, create_revision: i64) -> Compare {
    Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Create.into(),
        key: key.clone(),
        target_union: Some(TargetUnion::CreateRevision(create_revision)),
        ..Compare::default()
    }
}

pub(super) fn if_modified(key: &Bytes, mod_revision: i64) -> Compare {
    Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Mod.into(),
        key: key.clone(),
        target_union: Some(TargetUnion::ModRevision(mod_revision)),
        ..Compare::default()
    }
}
