//! Whether an answer is one that the model allows.
//!
//! Left out are headers inside of answers, the lease of a key in a range of keys only (servers differ in it), and the order
//! of keys that are equal in what they are sorted by.

use baton_proto::etcdserverpb as pb;
use baton_proto::mvccpb::KeyValue;
use pb::range_request::SortTarget;
use pb::request_op::Request as Op;
use pb::response_op::Response as OpAnswer;

use crate::history::{Answer, Request};
use crate::model::sort_keys;

/// A key with what it was, in words.
pub fn told(kv: &KeyValue) -> String {
    format!(
        "{} = {} (created {}, modified {}, version {}, lease {:x})",
        String::from_utf8_lossy(&kv.key),
        String::from_utf8_lossy(&kv.value),
        kv.create_revision,
        kv.mod_revision,
        kv.version,
        kv.lease,
    )
}

fn all_told(kvs: &[KeyValue]) -> String {
    let told: Vec<String> = kvs.iter().map(told).collect();
    format!("[{}]", told.join(", "))
}

fn one_told(kv: Option<&KeyValue>) -> String {
    kv.map_or_else(|| "nothing".into(), told)
}

/// How the answer to a read differs from what the model says.
///
/// # Errors
/// It differs.
pub fn range(
    request: &pb::RangeRequest,
    model: &pb::RangeResponse,
    answer: &pb::RangeResponse,
) -> Result<(), String> {
    if model.count != answer.count {
        return Err(format!("counts {}, not {}", answer.count, model.count));
    }
    if model.more != answer.more {
        return Err(format!("says more = {}, not {}", answer.more, model.more));
    }
    if !kvs_agree(request, &model.kvs, &answer.kvs, model.more) {
        return Err(format!(
            "is {}, not {}",
            all_told(&answer.kvs),
            all_told(&model.kvs)
        ));
    }
    Ok(())
}

fn kvs_agree(
    request: &pb::RangeRequest,
    model: &[KeyValue],
    answer: &[KeyValue],
    cut: bool,
) -> bool {
    let plain = |kvs: &[KeyValue]| -> Vec<KeyValue> {
        let mut kvs = kvs.to_vec();
        if request.keys_only {
            for kv in &mut kvs {
                kv.lease = 0;
            }
        }
        kvs
    };
    let (model, answer) = (plain(model), plain(answer));
    if model == answer {
        return true;
    }
    // Values that are not in the answer cannot be compared with each other.
    let ties =
        request.sort_target() != SortTarget::Key && !(request.keys_only && by_value(request));
    if !ties || model.len() != answer.len() {
        return false;
    }
    let keys = sort_keys(request, &model);
    if keys != sort_keys(request, &answer) {
        return false;
    }
    // Which of the keys that are equal to the last one the limit cut off is not promised.
    let last = keys.last();
    let within = |kvs: &[KeyValue]| -> Vec<KeyValue> {
        let mut kept: Vec<KeyValue> = std::iter::zip(kvs, &keys)
            .filter(|(_, key)| !cut || Some(*key) != last)
            .map(|(kv, _)| kv.clone())
            .collect();
        kept.sort_by(|a, b| a.key.cmp(&b.key));
        kept
    };
    within(&model) == within(&answer)
}

fn by_value(request: &pb::RangeRequest) -> bool {
    request.sort_target() == SortTarget::Value
}

/// How the answer to a write differs from what the model says.
///
/// # Errors
/// It differs.
pub fn put(model: &pb::PutResponse, answer: &pb::PutResponse) -> Result<(), String> {
    if model.prev_kv == answer.prev_kv {
        return Ok(());
    }
    Err(format!(
        "says it was {} before, not {}",
        one_told(answer.prev_kv.as_ref()),
        one_told(model.prev_kv.as_ref())
    ))
}

/// How the answer to a deletion differs from what the model says.
///
/// # Errors
/// It differs.
pub fn delete_range(
    model: &pb::DeleteRangeResponse,
    answer: &pb::DeleteRangeResponse,
) -> Result<(), String> {
    if model.deleted != answer.deleted {
        return Err(format!("deleted {}, not {}", answer.deleted, model.deleted));
    }
    if model.prev_kvs != answer.prev_kvs {
        return Err(format!(
            "says it deleted {}, not {}",
            all_told(&answer.prev_kvs),
            all_told(&model.prev_kvs)
        ));
    }
    Ok(())
}

/// How the answer to a transaction differs from what the model says.
///
/// # Errors
/// It differs.
pub fn txn(
    request: &pb::TxnRequest,
    model: &pb::TxnResponse,
    answer: &pb::TxnResponse,
) -> Result<(), String> {
    if model.succeeded != answer.succeeded {
        return Err(format!(
            "took the branch of {}, not of {}",
            word(answer.succeeded),
            word(model.succeeded)
        ));
    }
    if model.responses.len() != answer.responses.len() {
        return Err(format!(
            "has {} answers, not {}",
            answer.responses.len(),
            model.responses.len()
        ));
    }
    let ops = if answer.succeeded {
        &request.success
    } else {
        &request.failure
    };
    for (number, (op, (model, answer))) in
        std::iter::zip(ops, std::iter::zip(&model.responses, &answer.responses)).enumerate()
    {
        let agreed = match (&op.request, &model.response, &answer.response) {
            (
                Some(Op::RequestRange(request)),
                Some(OpAnswer::ResponseRange(model)),
                Some(OpAnswer::ResponseRange(answer)),
            ) => range(request, model, answer),
            (
                Some(Op::RequestPut(_)),
                Some(OpAnswer::ResponsePut(model)),
                Some(OpAnswer::ResponsePut(answer)),
            ) => put(model, answer),
            (
                Some(Op::RequestDeleteRange(_)),
                Some(OpAnswer::ResponseDeleteRange(model)),
                Some(OpAnswer::ResponseDeleteRange(answer)),
            ) => delete_range(model, answer),
            (
                Some(Op::RequestTxn(request)),
                Some(OpAnswer::ResponseTxn(model)),
                Some(OpAnswer::ResponseTxn(answer)),
            ) => txn(request, model, answer),
            _ => Err("is of another kind than what was asked".into()),
        };
        agreed.map_err(|how| format!("operation {number} of it {how}"))?;
    }
    Ok(())
}

fn word(succeeded: bool) -> &'static str {
    if succeeded { "success" } else { "failure" }
}

/// How an answer of any kind differs from what the model says.
///
/// # Errors
/// It differs.
pub fn answer(request: &Request, model: &Answer, answer: &Answer) -> Result<(), String> {
    match (request, model, answer) {
        (Request::Range(request), Answer::Range(model), Answer::Range(answer)) => {
            range(request, model, answer)
        }
        (Request::Put(_), Answer::Put(model), Answer::Put(answer)) => put(model, answer),
        (Request::DeleteRange(_), Answer::DeleteRange(model), Answer::DeleteRange(answer)) => {
            delete_range(model, answer)
        }
        (Request::Txn(request), Answer::Txn(model), Answer::Txn(answer)) => {
            txn(request, model, answer)
        }
        _ => Err("is of another kind than what was asked".into()),
    }
}
