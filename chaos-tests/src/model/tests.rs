use baton_proto::etcdserverpb as pb;
use pb::compare::{CompareResult, TargetUnion};
use pb::range_request::{SortOrder, SortTarget};
use pb::request_op::Request as Op;

use super::*;
use crate::workload::requests::{compare, op};

/// A store in which each of these was put in a revision of its own.
fn store(puts: &[(&'static str, &'static str)]) -> Model {
    let mut model = Model::new();
    for (key, value) in puts {
        let mut draft = model.draft(model.revision());
        draft.set(&Bytes::from_static(key.as_bytes()), (*value).into(), 0);
        let changes = draft.into_changes();
        model.push(changes);
    }
    model
}

fn everything() -> pb::RangeRequest {
    pb::RangeRequest {
        key: Bytes::from_static(b"\0"),
        range_end: Bytes::from_static(b"\0"),
        ..Default::default()
    }
}

fn values(answer: &pb::RangeResponse) -> Vec<&[u8]> {
    answer.kvs.iter().map(|kv| &kv.value[..]).collect()
}

fn put(key: &'static str, value: &'static str) -> pb::RequestOp {
    op(Op::RequestPut(pb::PutRequest {
        key: key.into(),
        value: value.into(),
        ..Default::default()
    }))
}

#[test]
fn a_key_has_a_new_life_after_it_was_deleted() {
    let mut model = store(&[("a", "1"), ("a", "2")]);
    let mut draft = model.draft(3);
    draft.remove(&Bytes::from_static(b"a"));
    let changes = draft.into_changes();
    model.push(changes);
    let again = model.draft(4).set(&Bytes::from_static(b"a"), "3".into(), 0);
    assert_eq!((again.create_revision, again.version), (5, 1));
    let second = model.get(b"a", 3).cloned().unwrap_or_default();
    assert_eq!((second.create_revision, second.version), (2, 2));
    assert_eq!(model.get(b"a", 4), None);
    assert_eq!(model.get(b"a", 1), None);
}

#[test]
fn a_limit_without_an_order_is_applied_before_a_sort_target() {
    let model = store(&[("c", "1"), ("b", "2"), ("a", "3")]);
    let mut request = pb::RangeRequest {
        limit: 1,
        sort_target: SortTarget::Mod as i32,
        ..everything()
    };
    let answer = model.draft(4).range(&request).expect("an answer");
    assert_eq!(values(&answer), [b"2"], "the older of the first two keys");
    request.sort_order = SortOrder::Ascend as i32;
    let answer = model.draft(4).range(&request).expect("an answer");
    assert_eq!(values(&answer), [b"1"], "the oldest of all");
    assert_eq!((answer.more, answer.count), (true, 3));
}

#[test]
fn a_count_leaves_filters_and_limits_out() {
    let model = store(&[("a", "1"), ("b", "2"), ("c", "3")]);
    let request = pb::RangeRequest {
        min_mod_revision: 3,
        limit: 1,
        ..everything()
    };
    let answer = model.draft(4).range(&request).expect("an answer");
    assert_eq!(values(&answer), [b"2"]);
    assert_eq!((answer.more, answer.count), (true, 3));
}

#[test]
fn a_range_that_ends_before_it_begins_is_empty() {
    let model = store(&[("a", "1"), ("b", "2")]);
    let request = pb::RangeRequest {
        key: "b".into(),
        range_end: "a".into(),
        ..Default::default()
    };
    assert_eq!(model.draft(3).range(&request).expect("an answer").count, 0);
}

#[test]
fn comparisons_inside_do_not_see_what_was_written_before_them() {
    let model = store(&[("a", "1")]);
    let inner = pb::TxnRequest {
        compare: vec![compare(
            "a".into(),
            Bytes::new(),
            CompareResult::Equal,
            TargetUnion::Value("1".into()),
        )],
        success: vec![put("b", "seen as before")],
        failure: vec![put("b", "seen as after")],
    };
    let request = pb::TxnRequest {
        success: vec![
            put("a", "2"),
            op(Op::RequestTxn(inner)),
            op(Op::RequestRange(everything())),
        ],
        ..Default::default()
    };
    let mut draft = model.draft(2);
    let answer = draft.txn(&request).expect("an answer");
    let Some(pb::response_op::Response::ResponseRange(seen)) = &answer.responses[2].response else {
        panic!("not a range: {answer:?}");
    };
    assert_eq!(values(seen), [&b"2"[..], b"seen as before"]);
    assert_eq!(draft.into_changes().len(), 2);
}

#[test]
fn a_missing_key_compares_with_zero_but_has_no_value() {
    let model = Model::new();
    let holds = |union| {
        let request = pb::TxnRequest {
            compare: vec![compare(
                "a".into(),
                Bytes::new(),
                CompareResult::Equal,
                union,
            )],
            ..Default::default()
        };
        model
            .draft(1)
            .txn(&request)
            .is_ok_and(|answer| answer.succeeded)
    };
    assert!(holds(TargetUnion::Version(0)));
    assert!(holds(TargetUnion::ModRevision(0)));
    assert!(!holds(TargetUnion::Value(Bytes::new())));
}

#[test]
fn a_write_that_keeps_something_of_a_missing_key_is_refused_whole() {
    let model = store(&[("b", "1")]);
    let request = pb::PutRequest {
        key: "a".into(),
        ignore_value: true,
        ..Default::default()
    };
    assert_eq!(model.draft(2).put(&request), Err(Refusal::KeyNotFound));
    let future = pb::RangeRequest {
        revision: 3,
        ..everything()
    };
    assert_eq!(model.draft(2).range(&future), Err(Refusal::FutureRevision));
}
