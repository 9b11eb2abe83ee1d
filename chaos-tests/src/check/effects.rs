//! What an answered operation says of itself: whether it changed something, and how its revision stands in time.

use baton_proto::etcdserverpb as pb;
use pb::request_op::Request as Op;
use pb::response_op::Response as OpAnswer;

use crate::history::{Answer, Operation, Outcome, Request};
use crate::model::{Draft, Refusal};

/// What the revision of an answered operation on keys has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It made this revision: greater than every one seen before it was called.
    Write,
    /// It read the state at this revision: not less than any seen before it was called.
    Read,
    /// It read the state at this revision, which may be old.
    SerializableRead,
}

/// The kind of an operation on keys that was answered; `None` for any other.
pub fn kind(operation: &Operation) -> Option<Kind> {
    let Outcome::Ok(answer) = &operation.outcome else {
        return None;
    };
    let kind = match (&operation.request, answer) {
        (Request::Put(_), Answer::Put(_)) => Kind::Write,
        (Request::DeleteRange(_), Answer::DeleteRange(answer)) if answer.deleted > 0 => Kind::Write,
        (Request::DeleteRange(_), Answer::DeleteRange(_)) => Kind::Read,
        (Request::Txn(_), Answer::Txn(answer)) if txn_wrote(answer) => Kind::Write,
        (Request::Range(_), Answer::Range(_)) | (Request::Txn(_), Answer::Txn(_)) => {
            if may_be_old(&operation.request) {
                Kind::SerializableRead
            } else {
                Kind::Read
            }
        }
        _ => return None,
    };
    Some(kind)
}

fn txn_wrote(answer: &pb::TxnResponse) -> bool {
    answer.responses.iter().any(|op| match &op.response {
        Some(OpAnswer::ResponsePut(_)) => true,
        Some(OpAnswer::ResponseDeleteRange(answer)) => answer.deleted > 0,
        Some(OpAnswer::ResponseTxn(answer)) => txn_wrote(answer),
        Some(OpAnswer::ResponseRange(_)) | None => false,
    })
}

/// Whether a transaction may be answered from a state that is old: all there is in it are reads that may.
fn serializable(request: &pb::TxnRequest) -> bool {
    request
        .success
        .iter()
        .chain(&request.failure)
        .all(|op| matches!(&op.request, Some(Op::RequestRange(range)) if range.serializable))
}

/// Whether a request may be answered from a state that is old.
pub fn may_be_old(request: &Request) -> bool {
    match request {
        Request::Range(request) => request.serializable,
        Request::Txn(request) => serializable(request),
        _ => false,
    }
}

/// Whether a request can change keys.
pub fn can_write(request: &Request) -> bool {
    match request {
        Request::Put(_) | Request::DeleteRange(_) => true,
        Request::Txn(request) => !writes(request).is_empty(),
        _ => false,
    }
}

/// What may be put, by key, and deleted, by range, anywhere in a transaction.
#[derive(Debug, Default)]
pub struct Writes<'a> {
    /// Puts.
    pub puts: Vec<&'a pb::PutRequest>,
    /// Deletions.
    pub deletions: Vec<&'a pb::DeleteRangeRequest>,
}

impl Writes<'_> {
    fn is_empty(&self) -> bool {
        self.puts.is_empty() && self.deletions.is_empty()
    }
}

/// What a transaction may write, in any of its branches.
pub fn writes(request: &pb::TxnRequest) -> Writes<'_> {
    let mut all = Writes::default();
    let mut requests = vec![request];
    while let Some(request) = requests.pop() {
        for op in request.success.iter().chain(&request.failure) {
            match &op.request {
                Some(Op::RequestPut(put)) => all.puts.push(put),
                Some(Op::RequestDeleteRange(delete)) => all.deletions.push(delete),
                Some(Op::RequestTxn(nested)) => requests.push(nested),
                Some(Op::RequestRange(_)) | None => {}
            }
        }
    }
    all
}

/// What any request on keys may write.
pub fn writes_of(request: &Request) -> Writes<'_> {
    match request {
        Request::Put(put) => Writes {
            puts: vec![put],
            deletions: Vec::new(),
        },
        Request::DeleteRange(delete) => Writes {
            puts: Vec::new(),
            deletions: vec![delete],
        },
        Request::Txn(request) => writes(request),
        _ => Writes::default(),
    }
}

/// Evaluates a request on keys; `None` for one of another kind.
pub fn evaluate(request: &Request, draft: &mut Draft<'_>) -> Option<Result<Answer, Refusal>> {
    Some(match request {
        Request::Range(request) => draft.range(request).map(Answer::Range),
        Request::Put(request) => draft.put(request).map(Answer::Put),
        Request::DeleteRange(request) => Ok(Answer::DeleteRange(draft.delete_range(request))),
        Request::Txn(request) => draft.txn(request).map(Answer::Txn),
        _ => return None,
    })
}

/// The revisions that a request names to read at, anywhere in it.
pub fn old_revisions(request: &Request) -> Vec<i64> {
    let mut revisions = Vec::new();
    match request {
        Request::Range(range) => revisions.push(range.revision),
        Request::Txn(request) => {
            let mut requests = vec![request];
            while let Some(request) = requests.pop() {
                for op in request.success.iter().chain(&request.failure) {
                    match &op.request {
                        Some(Op::RequestRange(range)) => revisions.push(range.revision),
                        Some(Op::RequestTxn(nested)) => requests.push(nested),
                        _ => {}
                    }
                }
            }
        }
        _ => {}
    }
    revisions.retain(|revision| *revision > 0);
    revisions
}
