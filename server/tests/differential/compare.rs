//! Compares two answers to one request.

use baton_proto::etcdserverpb as pb;
use baton_proto::mvccpb::KeyValue;
use pb::request_op::Request as Op;
use pb::response_op::Response;

use crate::intended;
use crate::request::{Answer, Outcome, Request, shortened};

/// The same answer in the form in which equal answers are equal; see [`intended::NORMALISED`].
pub fn canonical(request: &Request, outcome: &Outcome) -> Outcome {
    let mut outcome = outcome.clone();
    if let Ok(answer) = &mut outcome {
        intended::forget_identity(answer);
        match (request, answer) {
            (Request::Range(request), Answer::Range(answer)) => order_ties(request, answer),
            (Request::Txn(request), Answer::Txn(answer)) => order_ties_within(request, answer),
            (Request::LeaseLeases, Answer::LeaseLeases(answer)) => {
                answer.leases.sort_by_key(|lease| lease.id)
            }
            (Request::LeaseTimeToLive(_), Answer::LeaseTimeToLive(answer)) => answer.keys.sort(),
            _ => {}
        }
    }
    outcome
}

/// `None` if the answers agree or differ as intended, else a description of the difference.
pub fn difference(request: &Request, baton: &Outcome, etcd: &Outcome) -> Option<String> {
    let mut ours = canonical(request, baton);
    let theirs = canonical(request, etcd);
    if let (Ok(Answer::LeaseTimeToLive(ours)), Ok(Answer::LeaseTimeToLive(theirs))) =
        (&mut ours, &theirs)
        && ours.ttl.abs_diff(theirs.ttl) <= 2
        && (ours.ttl < 0) == (theirs.ttl < 0)
    {
        ours.ttl = theirs.ttl;
    }
    if ours == theirs || intended::explanation(request, baton, etcd).is_some() {
        return None;
    }
    Some(format!(
        "{request:?}\n  Baton: {}\n  etcd:  {}",
        shortened(&format!("{ours:?}")),
        shortened(&format!("{theirs:?}"))
    ))
}

/// Orders elements that are equal under the sort target by key, and forgets which of them a limit left out.
fn order_ties(request: &pb::RangeRequest, answer: &mut pb::RangeResponse) {
    let target = request.sort_target;
    if target == 0 {
        return;
    }
    let rank = |kv: &KeyValue| match target {
        1 => (kv.version, Vec::new()),
        2 => (kv.create_revision, Vec::new()),
        3 => (kv.mod_revision, Vec::new()),
        4 => (0, kv.value.to_vec()),
        _ => (0, Vec::new()),
    };
    // With `keys_only` the values that were sorted by are gone, so any order could be right.
    let by_hidden_value = target == 4 && request.keys_only;
    if answer.more
        && let Some(last) = answer.kvs.last().map(rank)
    {
        for kv in answer
            .kvs
            .iter_mut()
            .filter(|kv| by_hidden_value || rank(kv) == last)
        {
            *kv = KeyValue::default();
        }
    }
    if by_hidden_value {
        answer.kvs.sort_by(|a, b| a.key.cmp(&b.key));
        return;
    }
    let mut start = 0;
    while start < answer.kvs.len() {
        let of_run = rank(&answer.kvs[start]);
        let length = answer.kvs[start..]
            .iter()
            .take_while(|kv| rank(kv) == of_run)
            .count();
        answer.kvs[start..start + length].sort_by(|a, b| a.key.cmp(&b.key));
        start += length;
    }
}

fn order_ties_within(request: &pb::TxnRequest, answer: &mut pb::TxnResponse) {
    let branch = if answer.succeeded {
        &request.success
    } else {
        &request.failure
    };
    for (op, response) in branch.iter().zip(&mut answer.responses) {
        match (&op.request, &mut response.response) {
            (Some(Op::RequestRange(request)), Some(Response::ResponseRange(answer))) => {
                order_ties(request, answer)
            }
            (Some(Op::RequestTxn(request)), Some(Response::ResponseTxn(answer))) => {
                order_ties_within(request, answer)
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tonic::Code;

    use super::*;
    use crate::request::Refusal;

    fn kv(key: &str, version: i64) -> KeyValue {
        KeyValue {
            key: Bytes::from(key.to_owned()),
            version,
            ..Default::default()
        }
    }

    fn answer(kvs: Vec<KeyValue>, more: bool) -> Outcome {
        let header = pb::ResponseHeader {
            cluster_id: 1,
            member_id: 2,
            revision: 3,
            raft_term: 4,
        };
        Ok(Answer::Range(pb::RangeResponse {
            header: Some(header),
            count: kvs.len() as i64,
            kvs,
            more,
        }))
    }

    fn by_version() -> Request {
        Request::Range(pb::RangeRequest {
            sort_target: 1,
            ..Default::default()
        })
    }

    /// Applies a change to etcd's answer and says whether it is noticed.
    fn noticed(change: impl FnOnce(&mut pb::RangeResponse)) -> bool {
        let ours = answer(vec![kv("a", 1), kv("b", 2)], false);
        let mut theirs = ours.clone();
        if let Ok(Answer::Range(theirs)) = &mut theirs {
            change(theirs);
        }
        difference(&Request::Range(pb::RangeRequest::default()), &ours, &theirs).is_some()
    }

    fn header(answer: &mut pb::RangeResponse) -> &mut pb::ResponseHeader {
        answer.header.as_mut().expect("the answer has one")
    }

    #[test]
    fn every_planted_difference_in_an_answer_is_noticed() {
        assert!(noticed(|answer| header(answer).revision += 1));
        assert!(noticed(|answer| answer.header = None));
        assert!(noticed(|answer| answer.more = true));
        assert!(noticed(|answer| answer.count += 1));
        assert!(noticed(|answer| answer.kvs[0].version += 1));
        assert!(noticed(|answer| answer.kvs[0].lease = 1));
        assert!(noticed(
            |answer| answer.kvs[1].value = Bytes::from_static(b"x")
        ));
        assert!(noticed(|answer| answer.kvs.swap(0, 1)));
        assert!(noticed(|answer| drop(answer.kvs.pop())));
    }

    #[test]
    fn the_identity_of_the_server_is_no_difference() {
        assert!(!noticed(|answer| *header(answer) = pb::ResponseHeader {
            cluster_id: 5,
            member_id: 6,
            revision: 3,
            raft_term: 7
        }));
    }

    #[test]
    fn an_error_with_another_code_or_text_is_noticed() {
        let refusal = |code, message: &str| {
            Err(Refusal {
                code,
                message: message.to_owned(),
            })
        };
        let request = Request::Put(pb::PutRequest::default());
        let ours = refusal(Code::InvalidArgument, "etcdserver: key is not provided");
        assert!(
            difference(
                &request,
                &ours,
                &refusal(Code::Unknown, "etcdserver: key is not provided")
            )
            .is_some()
        );
        assert!(
            difference(
                &request,
                &ours,
                &refusal(Code::InvalidArgument, "key is not provided")
            )
            .is_some()
        );
        assert!(difference(&request, &ours, &ours).is_none());
    }

    #[test]
    fn ties_under_the_sort_target_may_come_in_any_order() {
        let ours = answer(vec![kv("a", 1), kv("b", 1), kv("c", 2)], false);
        let theirs = answer(vec![kv("b", 1), kv("a", 1), kv("c", 2)], false);
        assert!(difference(&by_version(), &ours, &theirs).is_none());
    }

    #[test]
    fn a_wrong_order_of_elements_that_do_not_tie_is_noticed() {
        let ours = answer(vec![kv("a", 1), kv("c", 2)], false);
        let theirs = answer(vec![kv("c", 2), kv("a", 1)], false);
        assert!(difference(&by_version(), &ours, &theirs).is_some());
    }

    #[test]
    fn a_limit_may_leave_out_any_of_those_that_tie_for_the_last_place() {
        let ours = answer(vec![kv("a", 1), kv("b", 2)], true);
        let theirs = answer(vec![kv("a", 1), kv("c", 2)], true);
        assert!(difference(&by_version(), &ours, &theirs).is_none());
    }

    #[test]
    fn a_limit_that_leaves_out_what_should_come_first_is_noticed() {
        let ours = answer(vec![kv("a", 1), kv("b", 2)], true);
        let theirs = answer(vec![kv("d", 1), kv("b", 2)], true);
        assert!(difference(&by_version(), &ours, &theirs).is_some());
    }
}
