//! Reading transactions' answers.

use baton_client::mvccpb::KeyValue;
use baton_client::pb;
use pb::response_op::Response;

/// The pairs that the operation at `index` read; none if that was no read.
pub(crate) fn pairs(answer: &pb::TxnResponse, index: usize) -> &[KeyValue] {
    match answer
        .responses
        .get(index)
        .and_then(|op| op.response.as_ref())
    {
        Some(Response::ResponseRange(range)) => &range.kvs,
        _ => &[],
    }
}

/// The revision of an answer: for a read, the one of the snapshot it shows.
pub(crate) fn revision(header: Option<&pb::ResponseHeader>) -> i64 {
    header.map_or(0, |header| header.revision)
}

/// What each read of a transaction found.
pub(crate) fn reads(answer: pb::TxnResponse) -> impl Iterator<Item = Vec<KeyValue>> {
    answer
        .responses
        .into_iter()
        .filter_map(|op| match op.response {
            Some(Response::ResponseRange(range)) => Some(range.kvs),
            _ => None,
        })
}

/// The answer of the transaction at `index` within another; none if that was no transaction.
pub(crate) fn nested(answer: &pb::TxnResponse, index: usize) -> Option<&pb::TxnResponse> {
    match answer.responses.get(index)?.response.as_ref()? {
        Response::ResponseTxn(nested) => Some(nested),
        _ => None,
    }
}
