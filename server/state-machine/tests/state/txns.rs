//! Transactions.

use baton_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use baton_proto::etcdserverpb::request_op::Request;
use baton_proto::etcdserverpb::response_op::Response as OfOp;
use baton_proto::etcdserverpb::{
    Compare, PutRequest, RangeRequest, RequestOp, ResponseHeader, TxnRequest, TxnResponse,
};
use baton_state_machine::{ApplyError, Response, State};

use crate::world::{IntoOp, World, bytes, compact, delete, delete_range, get, grant, leased, put};

fn compare(key: &str, target: CompareTarget, result: CompareResult, union: TargetUnion) -> Compare {
    Compare {
        key: bytes(key),
        target: target as i32,
        result: result as i32,
        target_union: Some(union),
        ..Default::default()
    }
}

fn missing(key: &str) -> Compare {
    compare(
        key,
        CompareTarget::Version,
        CompareResult::Equal,
        TargetUnion::Version(0),
    )
}

fn value_is(key: &str, value: &str) -> Compare {
    compare(
        key,
        CompareTarget::Value,
        CompareResult::Equal,
        TargetUnion::Value(bytes(value)),
    )
}

fn when(compare: Vec<Compare>, success: Vec<RequestOp>, failure: Vec<RequestOp>) -> TxnRequest {
    TxnRequest {
        compare,
        success,
        failure,
    }
}

fn all(success: Vec<RequestOp>) -> TxnRequest {
    when(vec![], success, vec![])
}

fn run(world: &mut World, txn: TxnRequest) -> TxnResponse {
    match world.apply(txn).outcome {
        Ok(Response::Txn(response)) => response,
        other => panic!("{other:?}"),
    }
}

fn succeeds(world: &World, compare: Compare) -> bool {
    let txn = when(vec![compare], vec![], vec![]);
    world.state.read_txn(&txn, &world.rows).unwrap().succeeded
}

fn revision_of(response: &TxnResponse, op: usize) -> Option<ResponseHeader> {
    match response.responses[op].response.clone().expect("a response") {
        OfOp::ResponseRange(of) => of.header,
        OfOp::ResponsePut(of) => of.header,
        OfOp::ResponseDeleteRange(of) => of.header,
        OfOp::ResponseTxn(of) => of.header,
    }
}

fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader {
        revision,
        ..Default::default()
    })
}

#[test]
fn without_conditions_a_transaction_succeeds() {
    let mut world = World::new();
    assert!(run(&mut world, all(vec![])).succeeded);
}

#[test]
fn all_changes_share_one_revision_and_count_subs_in_order() {
    let mut world = World::new();
    let applied = world.apply(all(vec![
        put("b", "").op(),
        put("a", "").op(),
        delete("b").op(),
    ]));
    assert_eq!(applied.revision, 2);
    let subs: Vec<_> = applied.rows.iter().map(|row| row.key[16]).collect();
    assert_eq!(subs, [0, 1, 2]);
    assert_eq!(applied.events[0].events.len(), 3);
}

#[test]
fn a_branch_that_changes_nothing_makes_no_revision() {
    let mut world = World::new();
    world.apply(put("a", ""));
    let applied = world.apply(when(
        vec![missing("a")],
        vec![put("a", "").op()],
        vec![delete("x").op()],
    ));
    assert_eq!((applied.revision, applied.events.len()), (2, 0));
}

#[test]
fn operations_carry_the_revision_as_their_branch_goes_on() {
    let mut world = World::new();
    let ops = vec![
        get("a").op(),
        put("a", "1").op(),
        get("a").op(),
        delete("none").op(),
    ];
    let response = run(&mut world, all(ops));
    let headers: Vec<_> = (0..4).map(|op| revision_of(&response, op)).collect();
    assert_eq!(headers, [header(1), header(2), header(2), header(2)]);
    let Some(OfOp::ResponseRange(range)) = &response.responses[2].response else {
        panic!()
    };
    assert_eq!(
        &range.kvs[0].value[..],
        b"1",
        "a range sees the put before it"
    );
}

#[test]
fn a_nested_transaction_answers_with_an_empty_header() {
    let mut world = World::new();
    let response = run(&mut world, all(vec![all(vec![put("a", "").op()]).op()]));
    assert_eq!(revision_of(&response, 0), Some(ResponseHeader::default()));
}

#[test]
fn nested_conditions_do_not_see_what_a_sibling_wrote() {
    let mut world = World::new();
    let nested = when(
        vec![missing("a")],
        vec![put("b", "a was missing").op()],
        vec![],
    );
    run(&mut world, all(vec![put("a", "").op(), nested.op()]));
    assert_eq!(world.value("b").as_deref(), Some("a was missing"));
}

#[test]
fn a_missing_key_compares_as_zero_but_never_by_value() {
    let world = World::new();
    let zero = [
        (CompareTarget::Version, TargetUnion::Version(0)),
        (CompareTarget::Create, TargetUnion::CreateRevision(0)),
        (CompareTarget::Mod, TargetUnion::ModRevision(0)),
        (CompareTarget::Lease, TargetUnion::Lease(0)),
    ];
    for (target, union) in zero {
        assert!(succeeds(
            &world,
            compare("a", target, CompareResult::Equal, union)
        ));
    }
    for result in [
        CompareResult::Equal,
        CompareResult::NotEqual,
        CompareResult::Greater,
        CompareResult::Less,
    ] {
        let value = TargetUnion::Value(bytes(""));
        assert!(!succeeds(
            &world,
            compare("a", CompareTarget::Value, result, value)
        ));
    }
}

#[test]
fn a_compare_of_a_range_holds_only_if_it_holds_for_every_key() {
    let mut world = World::new();
    world.apply(put("a1", "x"));
    world.apply(put("a2", "x"));
    let over = |range: Compare| Compare {
        range_end: bytes("b"),
        ..range
    };
    assert!(succeeds(&world, over(value_is("a", "x"))));
    world.apply(put("a2", "y"));
    assert!(!succeeds(&world, over(value_is("a", "x"))));
    assert!(
        !succeeds(
            &world,
            Compare {
                range_end: bytes("d"),
                ..value_is("c", "x")
            }
        ),
        "an empty range"
    );
    assert!(
        succeeds(
            &world,
            Compare {
                range_end: bytes("d"),
                ..missing("c")
            }
        ),
        "an empty range"
    );
}

#[test]
fn a_union_of_another_target_counts_as_not_given() {
    let mut world = World::new();
    world.apply(put("a", "x"));
    let version = |result| {
        compare(
            "a",
            CompareTarget::Version,
            result,
            TargetUnion::ModRevision(1),
        )
    };
    assert!(
        succeeds(&world, version(CompareResult::Greater))
            && !succeeds(&world, version(CompareResult::Equal))
    );
}

#[test]
fn an_unknown_result_holds() {
    let world = World::new();
    assert!(succeeds(
        &world,
        Compare {
            result: 77,
            ..missing("a")
        }
    ));
}

#[test]
fn a_range_at_an_unreadable_revision_fails_the_whole_transaction() {
    let mut world = World::new();
    world.apply(put("a", ""));
    world.apply(put("a", ""));
    world.apply(compact(2));
    let with_range = |revision| {
        all(vec![
            put("b", "").op(),
            all(vec![
                RangeRequest {
                    revision,
                    ..get("a")
                }
                .op(),
            ])
            .op(),
        ])
    };
    assert_eq!(world.refused(with_range(4)), ApplyError::FutureRevision);
    assert_eq!(world.refused(with_range(1)), ApplyError::Compacted);
    assert_eq!(world.refused(with_range(-1)), ApplyError::Compacted);
    assert!(world.apply(with_range(2)).outcome.is_ok());
}

#[test]
fn only_the_branch_taken_is_checked() {
    let mut world = World::new();
    let future = RangeRequest {
        revision: 99,
        ..get("a")
    }
    .op();
    assert!(
        run(
            &mut world,
            when(vec![], vec![put("a", "").op()], vec![future])
        )
        .succeeded
    );
}

#[test]
fn a_put_that_cannot_be_done_fails_the_whole_transaction() {
    let mut world = World::new();
    let unknown_lease = all(vec![put("a", "").op(), leased("b", "", 7).op()]);
    assert_eq!(world.refused(unknown_lease), ApplyError::LeaseNotFound);
    let keep = PutRequest {
        ignore_value: true,
        ..put("b", "")
    };
    assert_eq!(
        world.refused(all(vec![put("a", "").op(), keep.op()])),
        ApplyError::KeyNotFound
    );
}

#[test]
fn a_kept_value_has_to_outlive_the_deletes_before_it() {
    let mut world = World::new();
    world.apply(put("b", "1"));
    let keep = PutRequest {
        ignore_value: true,
        ..put("b", "")
    };
    let after_delete = all(vec![delete_range("a", "\0").op(), keep.clone().op()]);
    assert_eq!(world.refused(after_delete), ApplyError::KeyNotFound);
    let after_put = all(vec![
        delete_range("a", "\0").op(),
        put("b", "2").op(),
        keep.op(),
    ]);
    run(&mut world, after_put);
    assert_eq!(world.value("b").as_deref(), Some("2"));
}

#[test]
fn deleting_everything_and_putting_one_key_again_runs_in_order() {
    let mut world = World::new();
    world.apply(grant(7, 60));
    world.apply(leased("b", "1", 7));
    let applied = world.apply(all(vec![delete_range("a", "\0").op(), put("b", "2").op()]));
    let again = &applied.events[0].events[1];
    assert_eq!((again.kv.create_revision, again.kv.version), (3, 1));
    assert_eq!(again.prev_kv, None, "a creation has no previous pair");
    assert!(world.state.lease(7).unwrap().keys.is_empty());
}

#[test]
fn only_ranges_in_both_branches_make_a_read() {
    let read = when(vec![missing("a")], vec![get("a").op()], vec![get("b").op()]);
    assert!(!State::is_write_txn(&read) && !State::is_write_txn(&TxnRequest::default()));
    let nested_read = all(vec![read.op()]);
    let write = when(vec![], vec![get("a").op()], vec![delete("a").op()]);
    assert!(State::is_write_txn(&nested_read) && State::is_write_txn(&write));
}

#[test]
fn a_read_answers_like_the_same_transaction_through_the_log() {
    let mut world = World::new();
    world.apply(put("a", "1"));
    world.apply(put("a", "2"));
    let old = RangeRequest {
        revision: 2,
        ..get("a")
    };
    let txn = when(vec![missing("a")], vec![], vec![get("a").op(), old.op()]);
    let read = world.state.read_txn(&txn, &world.rows).unwrap();
    assert_eq!(read, run(&mut world, txn));
}

#[test]
fn an_operation_without_content_does_nothing() {
    let mut world = World::new();
    let response = run(
        &mut world,
        all(vec![RequestOp {
            request: None::<Request>,
        }]),
    );
    assert_eq!(response.responses[0].response, None);
}
