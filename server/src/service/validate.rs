//! What can be said of a request by looking at it alone.

use std::collections::BTreeSet;

use baton_proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use baton_proto::etcdserverpb::request_op::Request;
use baton_proto::etcdserverpb::{
    DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};
use bytes::Bytes;

use super::status::RpcError;
use crate::watch::ranges::{End, Ranges};

/// How deep transactions may be nested. Decoders refuse messages nested deeper than a hundred levels,
/// a transaction takes two, and what is accepted here still has to be decoded as part of a log entry.
const NESTING_MAX: usize = 48;

/// Checks a range request.
///
/// # Errors
/// No key, or an order or target that does not exist.
pub fn range(request: &RangeRequest) -> Result<(), RpcError> {
    if request.key.is_empty() {
        return Err(RpcError::KeyNotProvided);
    }
    let known = SortOrder::try_from(request.sort_order).is_ok()
        && SortTarget::try_from(request.sort_target).is_ok();
    if known {
        Ok(())
    } else {
        Err(RpcError::InvalidSortOption)
    }
}

/// Checks a streamed range request, which is read in key order only.
///
/// # Errors
/// As [`range`]; or it wants another order, or filters.
pub fn range_stream(request: &RangeRequest) -> Result<(), RpcError> {
    range(request)?;
    let key_order = request.sort_order == SortOrder::None as i32
        || (request.sort_order == SortOrder::Ascend as i32
            && request.sort_target == SortTarget::Key as i32);
    if !key_order {
        return Err(RpcError::RangeStreamSorted);
    }
    let filters = [
        request.min_mod_revision,
        request.max_mod_revision,
        request.min_create_revision,
        request.max_create_revision,
    ];
    if filters != [0; 4] {
        return Err(RpcError::RangeStreamFiltered);
    }
    Ok(())
}

/// Checks a put.
///
/// # Errors
/// No key, or a value or lease beside the flag that ignores it.
pub fn put(request: &PutRequest) -> Result<(), RpcError> {
    if request.key.is_empty() {
        return Err(RpcError::KeyNotProvided);
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(RpcError::ValueProvided);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(RpcError::LeaseProvided);
    }
    Ok(())
}

/// Checks a deletion.
///
/// # Errors
/// No key.
pub fn delete_range(request: &DeleteRangeRequest) -> Result<(), RpcError> {
    if request.key.is_empty() {
        return Err(RpcError::KeyNotProvided);
    }
    Ok(())
}

/// Checks a transaction and all in it; `ops_max` bounds each of its three lists, and a nested
/// transaction has what its parent's longest list leaves.
///
/// # Errors
/// Too many operations or too many levels of them, an operation that is refused by itself or is empty, or a key that one branch
/// changes twice.
pub fn txn(request: &TxnRequest, ops_max: usize) -> Result<(), RpcError> {
    txn_ops(request, ops_max, NESTING_MAX)?;
    changes(&request.success)?;
    changes(&request.failure)?;
    Ok(())
}

fn txn_ops(request: &TxnRequest, ops_max: usize, levels: usize) -> Result<(), RpcError> {
    let longest = request
        .compare
        .len()
        .max(request.success.len())
        .max(request.failure.len());
    let Some(left) = ops_max.checked_sub(longest) else {
        return Err(RpcError::TooManyOps);
    };
    if request.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(RpcError::KeyNotProvided);
    }
    for op in request.success.iter().chain(&request.failure) {
        match &op.request {
            Some(Request::RequestRange(request)) => range(request)?,
            Some(Request::RequestPut(request)) => put(request)?,
            Some(Request::RequestDeleteRange(request)) => delete_range(request)?,
            Some(Request::RequestTxn(request)) => {
                let levels = levels.checked_sub(1).ok_or(RpcError::TooManyOps)?;
                txn_ops(request, left, levels)?;
            }
            None => return Err(RpcError::KeyNotFound),
        }
    }
    Ok(())
}

/// What a branch changes, nested transactions included.
#[derive(Default)]
struct Changes<'a> {
    puts: BTreeSet<&'a [u8]>,
    deleted: Vec<(&'a Bytes, End)>,
    index: Ranges,
}

impl<'a> Changes<'a> {
    fn delete(&mut self, start: &'a Bytes, end: End) {
        self.index.insert(start, &end, 0);
        self.deleted.push((start, end));
    }

    fn deletes(&self, key: &[u8]) -> bool {
        let mut found = false;
        self.index.containing(key, |_| found = true);
        found
    }
}

/// Collects the changes of a branch and refuses two of one key: two puts, or a put of a key that a
/// deletion covers.
///
/// A nested transaction is compared with the deletions of its parent and with the changes of the
/// siblings before it, and its parent's puts with all of them. Its own two branches exclude each
/// other and may put the same key.
fn changes(ops: &[RequestOp]) -> Result<Changes<'_>, RpcError> {
    let mut changes = Changes::default();
    for op in ops {
        if let Some(Request::RequestDeleteRange(delete)) = &op.request {
            changes.delete(&delete.key, deleted_until(delete));
        }
    }
    for op in ops {
        let Some(Request::RequestTxn(nested)) = &op.request else {
            continue;
        };
        let success = self::changes(&nested.success)?;
        let failure = self::changes(&nested.failure)?;
        for key in success.puts.iter().chain(&failure.puts) {
            if changes.puts.contains(key) || changes.deletes(key) {
                return Err(RpcError::DuplicateKey);
            }
        }
        changes.puts.extend(success.puts);
        changes.puts.extend(failure.puts);
        for (start, end) in success.deleted.into_iter().chain(failure.deleted) {
            changes.delete(start, end);
        }
    }
    for op in ops {
        let Some(Request::RequestPut(put)) = &op.request else {
            continue;
        };
        if changes.deletes(&put.key) || !changes.puts.insert(&put.key) {
            return Err(RpcError::DuplicateKey);
        }
    }
    Ok(changes)
}

/// An end of one zero byte means "to the last key" when it is executed, but here it is taken as it
/// stands, before every key: such a deletion covers nothing. Clients rely on being let through.
fn deleted_until(delete: &DeleteRangeRequest) -> End {
    if delete.range_end.is_empty() {
        let mut after = Vec::with_capacity(delete.key.len() + 1);
        after.extend_from_slice(&delete.key);
        after.push(0);
        End::Before(after.into())
    } else {
        End::Before(delete.range_end.clone())
    }
}

#[cfg(test)]
mod tests {
    use baton_proto::log::{Command, command};
    use prost::Message;

    use super::*;

    const OPS_MAX: usize = 128;

    fn op(request: Request) -> RequestOp {
        RequestOp {
            request: Some(request),
        }
    }

    fn put_op(key: &'static str) -> RequestOp {
        op(Request::RequestPut(PutRequest {
            key: key.into(),
            ..PutRequest::default()
        }))
    }

    fn delete_op(key: &'static str, range_end: &'static str) -> RequestOp {
        op(Request::RequestDeleteRange(DeleteRangeRequest {
            key: key.into(),
            range_end: range_end.into(),
            prev_kv: false,
        }))
    }

    fn txn_op(success: Vec<RequestOp>, failure: Vec<RequestOp>) -> RequestOp {
        op(Request::RequestTxn(TxnRequest {
            compare: vec![],
            success,
            failure,
        }))
    }

    fn check(success: Vec<RequestOp>) -> Result<(), RpcError> {
        txn(
            &TxnRequest {
                compare: vec![],
                success,
                failure: vec![],
            },
            OPS_MAX,
        )
    }

    #[test]
    fn a_request_without_a_key_is_refused_before_anything_else_in_it() {
        let request = RangeRequest {
            sort_order: 99,
            ..RangeRequest::default()
        };
        assert_eq!(range(&request), Err(RpcError::KeyNotProvided));
        let request = PutRequest {
            ignore_value: true,
            value: "v".into(),
            ..PutRequest::default()
        };
        assert_eq!(put(&request), Err(RpcError::KeyNotProvided));
    }

    #[test]
    fn an_unknown_sort_option_is_refused() {
        for (sort_order, sort_target) in [(3, 0), (0, 5), (-1, 0)] {
            let request = RangeRequest {
                key: "k".into(),
                sort_order,
                sort_target,
                ..RangeRequest::default()
            };
            assert_eq!(range(&request), Err(RpcError::InvalidSortOption));
        }
    }

    #[test]
    fn a_range_is_streamed_in_key_order_only() {
        let request = |sort_order, sort_target| RangeRequest {
            key: "k".into(),
            sort_order,
            sort_target,
            ..RangeRequest::default()
        };
        assert_eq!(range_stream(&request(1, 0)), Ok(()));
        assert_eq!(range_stream(&request(0, 3)), Ok(()));
        assert_eq!(
            range_stream(&request(2, 0)),
            Err(RpcError::RangeStreamSorted)
        );
        assert_eq!(
            range_stream(&request(1, 3)),
            Err(RpcError::RangeStreamSorted)
        );
        let filtered = RangeRequest {
            max_mod_revision: 1,
            ..request(0, 0)
        };
        assert_eq!(range_stream(&filtered), Err(RpcError::RangeStreamFiltered));
    }

    #[test]
    fn a_value_or_lease_beside_the_flag_that_ignores_it_is_refused() {
        let request = PutRequest {
            key: "k".into(),
            value: "v".into(),
            ignore_value: true,
            ..PutRequest::default()
        };
        assert_eq!(put(&request), Err(RpcError::ValueProvided));
        let request = PutRequest {
            key: "k".into(),
            lease: 1,
            ignore_lease: true,
            ..PutRequest::default()
        };
        assert_eq!(put(&request), Err(RpcError::LeaseProvided));
    }

    #[test]
    fn two_puts_of_a_key_are_refused() {
        assert_eq!(
            check(vec![put_op("a"), put_op("b"), put_op("a")]),
            Err(RpcError::DuplicateKey)
        );
    }

    #[test]
    fn a_put_in_a_deleted_range_is_refused_in_either_order() {
        assert_eq!(
            check(vec![put_op("b"), delete_op("a", "c")]),
            Err(RpcError::DuplicateKey)
        );
        assert_eq!(
            check(vec![delete_op("b", ""), put_op("b")]),
            Err(RpcError::DuplicateKey)
        );
        assert_eq!(check(vec![delete_op("a", "c"), put_op("c")]), Ok(()));
    }

    #[test]
    fn overlapping_deletions_are_allowed() {
        assert_eq!(
            check(vec![delete_op("a", "c"), delete_op("b", "d")]),
            Ok(())
        );
    }

    #[test]
    fn a_deletion_to_the_last_key_covers_no_put() {
        assert_eq!(check(vec![delete_op("a", "\0"), put_op("b")]), Ok(()));
    }

    #[test]
    fn the_branches_of_one_transaction_may_put_the_same_key() {
        let both = TxnRequest {
            compare: vec![],
            success: vec![put_op("a")],
            failure: vec![put_op("a")],
        };
        assert_eq!(txn(&both, OPS_MAX), Ok(()));
        assert_eq!(
            check(vec![txn_op(vec![put_op("a")], vec![put_op("a")])]),
            Ok(())
        );
    }

    #[test]
    fn siblings_and_parents_may_not_put_the_same_key() {
        let nested = || txn_op(vec![put_op("a")], vec![]);
        assert_eq!(check(vec![nested(), nested()]), Err(RpcError::DuplicateKey));
        assert_eq!(
            check(vec![nested(), put_op("a")]),
            Err(RpcError::DuplicateKey)
        );
        assert_eq!(
            check(vec![nested(), delete_op("a", "")]),
            Err(RpcError::DuplicateKey)
        );
    }

    #[test]
    fn a_nested_deletion_covers_the_puts_of_later_siblings_only() {
        let deletes = || txn_op(vec![delete_op("a", "c")], vec![]);
        let puts = || txn_op(vec![put_op("b")], vec![]);
        assert_eq!(check(vec![deletes(), puts()]), Err(RpcError::DuplicateKey));
        assert_eq!(check(vec![puts(), deletes()]), Ok(()));
    }

    #[test]
    fn a_nested_transaction_has_what_its_parent_leaves() {
        let puts = |count: usize, first: usize| -> Vec<RequestOp> {
            (first..first + count)
                .map(|n| {
                    op(Request::RequestPut(PutRequest {
                        key: n.to_string().into(),
                        ..PutRequest::default()
                    }))
                })
                .collect()
        };
        let parent = |own: usize, nested: usize| {
            let mut ops = puts(own - 1, 0);
            ops.push(txn_op(puts(nested, 1_000), vec![]));
            check(ops)
        };
        assert_eq!(parent(100, 28), Ok(()));
        assert_eq!(parent(100, 29), Err(RpcError::TooManyOps));
        assert_eq!(check(puts(128, 0)), Ok(()));
        assert_eq!(check(puts(129, 0)), Err(RpcError::TooManyOps));
    }

    #[test]
    fn the_deepest_transaction_that_is_accepted_can_be_read_back_from_the_log() {
        let nested = |levels| {
            let put = txn_op(vec![put_op("a")], vec![]);
            let deepest = (1..levels).fold(put, |inner, _| txn_op(vec![inner], vec![]));
            TxnRequest {
                success: vec![deepest],
                ..TxnRequest::default()
            }
        };
        let accepted = nested(NESTING_MAX);
        assert_eq!(txn(&accepted, OPS_MAX), Ok(()));
        let command = Command {
            op: Some(command::Op::Txn(accepted)),
            ..Command::default()
        };
        let entry = command.encode_to_vec();
        assert_eq!(Command::decode(&entry[..]), Ok(command));
        assert_eq!(
            txn(&nested(NESTING_MAX + 1), OPS_MAX),
            Err(RpcError::TooManyOps)
        );
    }

    #[test]
    fn an_empty_operation_is_a_key_not_found() {
        assert_eq!(
            check(vec![put_op("a"), put_op("a"), RequestOp { request: None }]),
            Err(RpcError::KeyNotFound),
            "operations are looked at before duplicates are"
        );
    }
}
