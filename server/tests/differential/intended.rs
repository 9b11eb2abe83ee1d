//! Where Baton and the installed etcd may differ, and why. Everything else is a failure.

use baton_proto::etcdserverpb as pb;
use pb::request_op::Request as Op;
use tonic::Code;

use crate::request::{Answer, Outcome, Request};

/// A difference in answers that is as it should be.
pub struct Difference {
    /// What differs.
    pub what: &'static str,
    /// Why Baton does it its way.
    pub why: &'static str,
    /// Whether this is what stands between the answers of Baton and etcd.
    pub explains: fn(&Request, baton: &Outcome, etcd: &Outcome) -> bool,
}

/// Differences of whole answers.
pub const INTENDED: &[Difference] = &[
    Difference {
        what: "an unknown sort order is refused",
        why: "etcd refuses it since 3.6; the etcd compared with is an older one that ignores it",
        explains: |request, baton, _| {
            matches!(request, Request::Range(range) if sort_order_is_unknown(range))
                && baton.as_ref().is_err_and(|refusal| {
                    refusal.code == Code::InvalidArgument
                        && refusal.message == "etcdserver: invalid sort option"
                })
        },
    },
    Difference {
        what: "a transaction with several faults is refused for the first one in the order of its operations",
        why: "etcd does so since 3.6, older ones look at all puts before all ranges",
        explains: |request, baton, etcd| {
            const FAULTS: [&str; 4] = [
                "etcdserver: key not found",
                "etcdserver: requested lease not found",
                "etcdserver: mvcc: required revision has been compacted",
                "etcdserver: mvcc: required revision is a future revision",
            ];
            let is_fault = |outcome: &Outcome| {
                outcome
                    .as_ref()
                    .is_err_and(|refusal| FAULTS.contains(&refusal.message.as_str()))
            };
            matches!(request, Request::Txn(_)) && is_fault(baton) && is_fault(etcd)
        },
    },
    Difference {
        what: "history can be hashed up to the compacted revision itself",
        why: "etcd does so since 3.6, older ones call that revision compacted",
        explains: |request, baton, etcd| {
            let Request::HashKv(asked) = request else {
                return false;
            };
            matches!(baton, Ok(Answer::HashKv(answer)) if answer.compact_revision == asked.revision)
                && etcd
                    .as_ref()
                    .is_err_and(|refusal| refusal.message.ends_with("has been compacted"))
        },
    },
];

/// Fields that are made equal before answers are compared, in `compare::canonical`.
pub const NORMALISED: &[(&str, &str)] = &[
    (
        "cluster_id, member_id and raft_term of headers",
        "they are the identity of the server that answered",
    ),
    ("HashKVResponse.hash_revision", "etcd has it since 3.6"),
    ("AlarmResponse.header", "etcd 3.4 sends none, later ones do"),
    (
        "HashKVResponse.hash at a revision without any key",
        "etcd then also hashes what compaction has yet to remove, so that its members may differ",
    ),
    (
        "order of equal elements under a sort target other than the key",
        "etcd's sort is not stable",
    ),
    (
        "which of several equal elements the limit cuts off",
        "the same",
    ),
    (
        "order of leases and of a lease's keys",
        "the contract leaves it open; etcd's comes from an unordered map",
    ),
    (
        "remaining TTL, by two seconds",
        "clocks run while the request travels",
    ),
    (
        "how events are spread over watch responses",
        "it depends on timing; that a revision is never split is checked",
    ),
    (
        "header.revision of watch responses with events",
        "it depends on timing; not below the last event is checked",
    ),
];

/// Requests that are never made, because the answers would leave the two stores in different states.
pub const AVOIDED: &[(&str, &str)] = &[
    (
        "compaction to a revision that deleted something",
        "etcd below 3.4.35 drops that tombstone, so a watch from there misses the delete and hashes differ",
    ),
    (
        "a transaction with an unknown sort order",
        "Baton refuses it as etcd does since 3.6, older ones run it",
    ),
    (
        "a transaction that deletes up to the end of all keys and puts with ignore_value or ignore_lease",
        "etcd crashes if the delete took the key of the put away",
    ),
    ("an unknown sort target", "etcd 3.4 crashes on it"),
    (
        "a watch from a negative revision",
        "Baton refuses it at creation as etcd does since 3.5, older ones create it and take it for compacted",
    ),
    (
        "leases that may expire during the run",
        "expiry is not in lockstep; other tests cover it",
    ),
    (
        "progress requests",
        "older etcds answer them before the events they stand for; other tests cover them",
    ),
];

/// Whether the request itself is an avoided one.
pub fn is_avoided(request: &Request) -> bool {
    let Request::Txn(txn) = request else {
        return false;
    };
    let mut ops = Vec::new();
    collect_ops(txn, &mut ops);
    let deletes_to_the_end = ops
        .iter()
        .any(|op| matches!(op, Op::RequestDeleteRange(delete) if &delete.range_end[..] == b"\0"));
    let needs_the_key = ops
        .iter()
        .any(|op| matches!(op, Op::RequestPut(put) if put.ignore_value || put.ignore_lease));
    let sorts_oddly = ops
        .iter()
        .any(|op| matches!(op, Op::RequestRange(range) if sort_order_is_unknown(range)));
    sorts_oddly || (deletes_to_the_end && needs_the_key)
}

/// Every operation of a transaction and of those nested in it.
fn collect_ops<'a>(txn: &'a pb::TxnRequest, ops: &mut Vec<&'a Op>) {
    for op in txn
        .success
        .iter()
        .chain(&txn.failure)
        .filter_map(|op| op.request.as_ref())
    {
        ops.push(op);
        if let Op::RequestTxn(nested) = op {
            collect_ops(nested, ops);
        }
    }
}

fn sort_order_is_unknown(range: &pb::RangeRequest) -> bool {
    !(0..=2).contains(&range.sort_order)
}

/// The entry of [`INTENDED`] that explains a difference.
pub fn explanation(
    request: &Request,
    baton: &Outcome,
    etcd: &Outcome,
) -> Option<&'static Difference> {
    INTENDED
        .iter()
        .find(|difference| (difference.explains)(request, baton, etcd))
}

/// Makes what [`NORMALISED`] lists about single fields equal.
pub fn forget_identity(answer: &mut Answer) {
    if let Some(header) = answer.header() {
        header.cluster_id = 0;
        header.member_id = 0;
        header.raft_term = 0;
    }
    match answer {
        Answer::HashKv(answer) => answer.hash_revision = 0,
        Answer::Alarm(answer) => answer.header = None,
        _ => {}
    }
}
