//! What it costs to stand in a line, by the number of those who stand in it.

use std::hint::black_box;
use std::time::{Duration, Instant};

use baton_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use baton_proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use baton_proto::etcdserverpb::{Compare, RangeRequest, TxnRequest};
use baton_proto::log::Command;
use bytes::Bytes;

use crate::world::{IntoOp, Request, World, delete, put};

const NAME: (&str, &str) = ("locks/nightly/", "locks/nightly0");
const REPETITIONS: u32 = 200;

fn first(limit: i64) -> RangeRequest {
    RangeRequest {
        key: NAME.0.into(),
        range_end: NAME.1.into(),
        limit,
        sort_order: SortOrder::Ascend.into(),
        sort_target: SortTarget::Create.into(),
        ..RangeRequest::default()
    }
}

fn predecessor(create_revision: i64) -> RangeRequest {
    RangeRequest {
        max_create_revision: create_revision - 1,
        sort_order: SortOrder::Descend.into(),
        ..first(1)
    }
}

fn if_created(key: &str, range_end: &str, create_revision: i64) -> Compare {
    Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Create.into(),
        key: Bytes::from(key.to_owned()),
        range_end: Bytes::from(range_end.to_owned()),
        target_union: Some(TargetUnion::CreateRevision(create_revision)),
    }
}

fn acquire(key: &str) -> TxnRequest {
    TxnRequest {
        compare: vec![if_created(key, "", 0)],
        success: vec![put(key, "").op(), first(1).op()],
        failure: vec![],
    }
}

fn try_lock(key: &str) -> TxnRequest {
    TxnRequest {
        compare: vec![if_created(NAME.0, NAME.1, 0)],
        success: vec![put(key, "").op()],
        failure: vec![first(1).op()],
    }
}

fn apply(world: &mut World, request: impl Into<Request>) {
    let command = Command {
        op: request.into().0,
        ..Command::default()
    };
    let applied = world.state.apply(1, &command, &world.rows);
    black_box(applied.outcome.expect("it is valid"));
}

/// The mean of many, in microseconds.
fn mean(mut one: impl FnMut(u32)) -> f64 {
    #[allow(clippy::disallowed_methods, reason = "it measures")]
    let started = Instant::now();
    (0..REPETITIONS).for_each(&mut one);
    #[allow(clippy::disallowed_methods, reason = "it measures")]
    let took: Duration = started.elapsed();
    took.as_secs_f64() * 1e6 / f64::from(REPETITIONS)
}

#[test]
#[ignore = "measures: run it with --release -- --ignored --nocapture waiters_cost"]
#[allow(clippy::print_stdout, reason = "it measures")]
fn waiters_cost() {
    println!("waiters  acquire  predecessor  try-lock  release   put (in us each)");
    for waiters in [10, 1_000, 10_000, 50_000] {
        let mut world = World::new();
        for waiter in 0..waiters {
            apply(&mut world, put(&format!("{}{waiter:016x}", NAME.0), ""));
        }
        let newcomer = |n: u32| format!("{}f{n:015x}", NAME.0);
        let acquired = mean(|n| apply(&mut world, acquire(&newcomer(n))));
        let revision = world.state.revision();
        let looked = mean(|n| {
            let request = predecessor(revision - i64::from(n));
            black_box(world.range(request).expect("a range"));
        });
        let tried = mean(|n| apply(&mut world, try_lock(&format!("{}e{n}", NAME.0))));
        let released = mean(|n| apply(&mut world, delete(&newcomer(n))));
        let written = mean(|n| apply(&mut world, put(&format!("plain-{n}"), "v")));
        println!(
            "{waiters:7} {acquired:8.1} {looked:12.1} {tried:9.1} {released:8.1} {written:5.1}"
        );
    }
}

#[test]
#[ignore = "measures: run it with --release -- --ignored --nocapture puts_cost"]
#[allow(clippy::print_stdout, reason = "it measures")]
fn puts_cost() {
    let keys = 500_000;
    for (shape, prefix) in [("no directory", "key-"), ("one directory", "dir/key-")] {
        let mut world = World::new();
        let mut run = |what| {
            #[allow(clippy::disallowed_methods, reason = "it measures")]
            let started = Instant::now();
            for n in 0..keys {
                apply(
                    &mut world,
                    put(&format!("{prefix}{:08}", n * 7919 % keys), "v"),
                );
            }
            #[allow(clippy::disallowed_methods, reason = "it measures")]
            let took = started.elapsed().as_secs_f64() * 1e9 / f64::from(keys);
            println!("{shape}: {what} {took:.0} ns per put");
        };
        run("create");
        run("overwrite");
    }
}
