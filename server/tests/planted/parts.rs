//! Bugs of a single part: the state machine, the log, the lessor, a watcher's cursor.

use std::collections::BTreeMap;
use std::sync::mpsc;
use std::time::Duration;

use baton_proto::etcdserverpb as pb;
use baton_proto::log::command::Op;
use baton_proto::log::{Command, Expire};
use baton_proto::mvccpb::KeyValue;
use baton_state_machine::{
    Applied, Archive, CompactCursor, KeyRange, Response, Rev, RowChange, State, Table,
};
use batond::chaos::Mutant;
use batond::lessor::Lessor;
use batond::storage::SimDisk;
use batond::storage::log::{Driver, Log, LogEntry, LogId, LogOptions, Payload};
use bytes::Bytes;

use crate::is_broken_by;

struct Nothing;

impl Archive for Nothing {
    fn read(&self, rev: Rev) -> KeyValue {
        panic!("nobody reads {rev:?}")
    }
}

fn apply(state: &mut State, term: u64, op: Op) -> Applied {
    let command = Command {
        op: Some(op),
        ..Command::default()
    };
    state.apply(term, &command, &Nothing)
}

fn put(key: &str, lease: i64) -> Op {
    Op::Put(pb::PutRequest {
        key: key.to_owned().into(),
        lease,
        ..Default::default()
    })
}

fn delete(key: &str) -> Op {
    Op::DeleteRange(pb::DeleteRangeRequest {
        key: key.to_owned().into(),
        ..Default::default()
    })
}

fn grant(id: i64) -> Op {
    let ttl = 60;
    Op::LeaseGrant(pb::LeaseGrantRequest { id, ttl })
}

#[test]
fn a_compare_and_swap_by_an_old_revision_fails() {
    is_broken_by(Mutant::CompareIgnored, || {
        let mut state = State::new();
        apply(&mut state, 1, put("k", 0));
        apply(&mut state, 1, put("k", 0));
        let swap = pb::TxnRequest {
            compare: vec![pb::Compare {
                target: pb::compare::CompareTarget::Mod.into(),
                key: "k".into(),
                target_union: Some(pb::compare::TargetUnion::ModRevision(2)),
                ..Default::default()
            }],
            ..Default::default()
        };
        let applied = apply(&mut state, 1, Op::Txn(swap));
        matches!(applied.outcome, Ok(Response::Txn(txn)) if !txn.succeeded)
    });
}

#[test]
fn a_delete_at_the_compact_revision_is_kept() {
    is_broken_by(Mutant::DropTombstone, || {
        let mut state = State::new();
        for op in [put("k", 0), delete("k"), put("k", 0)] {
            apply(&mut state, 1, op);
        }
        let compact = pb::CompactionRequest {
            revision: 3,
            ..Default::default()
        };
        apply(&mut state, 1, Op::Compact(compact));
        let mut cursor = CompactCursor::new();
        while !cursor.is_done() {
            state.compact_step(&mut cursor, 100, i64::MAX);
        }
        let range = KeyRange::new("k".into(), Bytes::new());
        let mut scan = state.begin_history(&range, 3, 4);
        while !scan.step(&state, 100) {}
        scan.finish().len() == 2
    });
}

#[test]
fn a_delete_counts_when_the_state_is_read_back() {
    is_broken_by(Mutant::RevisionReused, || {
        let mut state = State::new();
        let mut rows = BTreeMap::new();
        for op in [put("k", 0), delete("k")] {
            for RowChange { table, key, value } in apply(&mut state, 1, op).rows {
                rows.insert((table, key), value.expect("nothing is removed"));
            }
        }
        let mut rows = rows
            .into_iter()
            .map(|((table, key), value)| (table, key, value));
        let loaded = State::load(&mut rows).expect("it was written here");
        loaded.revision() == state.revision()
    });
}

#[test]
fn the_end_of_leases_is_void_in_another_term() {
    is_broken_by(Mutant::StaleExpiry, || {
        let mut state = State::new();
        apply(&mut state, 1, grant(7));
        let lease_ids = vec![7];
        apply(&mut state, 2, Op::Expire(Expire { term: 1, lease_ids }));
        state.lease(7).is_some()
    });
}

#[test]
fn members_delete_the_keys_of_a_lease_in_the_same_order() {
    let rows = || {
        let mut state = State::new();
        apply(&mut state, 1, grant(7));
        for number in 0..50 {
            apply(&mut state, 1, put(&format!("{number}"), 7));
        }
        let revoke = pb::LeaseRevokeRequest { id: 7 };
        apply(&mut state, 1, Op::LeaseRevoke(revoke)).rows
    };
    is_broken_by(Mutant::UnorderedRevoke, || rows() == rows());
}

#[test]
fn keys_of_a_lease_that_is_gone_are_refused_when_the_state_is_read_back() {
    is_broken_by(Mutant::SnapshotWithoutLeases, || {
        let mut state = State::new();
        apply(&mut state, 1, grant(7));
        let rows = apply(&mut state, 1, put("k", 7)).rows;
        let mut rows = rows
            .into_iter()
            .filter(|row| row.table == Table::Rev)
            .map(|row| (row.table, row.key, row.value.unwrap_or_default()));
        State::load(&mut rows).is_err()
    });
}

const ELECTION: Duration = Duration::from_secs(1);

#[test]
fn a_new_leader_gives_a_lease_its_full_time() {
    is_broken_by(Mutant::NoLeaseExtension, || {
        let lessor = Lessor::new(ELECTION);
        lessor.lead(2, [(7, 60)]);
        let remaining = lessor.remaining(7).expect("it leads");
        remaining.is_some_and(|left| left >= Duration::from_secs(60))
    });
}

#[tokio::main(flavor = "current_thread")]
async fn renewed(lessor: &Lessor, id: i64) -> i64 {
    lessor.renew(id).await.expect("it leads")
}

#[test]
fn a_lease_that_is_gone_is_not_renewed() {
    is_broken_by(Mutant::KeepaliveAfterRevoke, || {
        let lessor = Lessor::new(ELECTION);
        lessor.lead(2, []);
        renewed(&lessor, 7) == 0
    });
}

#[test]
fn deadlines_follow_a_clock_that_never_jumps() {
    is_broken_by(Mutant::WallClockLeases, || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let lessor = Lessor::new(ELECTION);
            lessor.lead(2, [(7, 60)]);
            // By the wall clock no time passes here.
            tokio::time::advance(Duration::from_secs(100)).await;
            lessor.remaining(7) == Ok(Some(Duration::ZERO))
        })
    });
}

#[test]
fn what_the_log_calls_durable_survives_a_power_cut() {
    let survives = |seed| {
        let disk = SimDisk::new(seed);
        let options = || LogOptions {
            segment_bytes: 64 << 10,
            ..LogOptions::default()
        };
        let log = Log::open(disk.clone(), options(), Driver::Thread).expect("log opens");
        for index in 0..20 {
            let entry = LogEntry {
                id: LogId { term: 1, index },
                payload: Payload::Command(vec![7; 100].into()),
            };
            let (done, durable) = mpsc::channel();
            let done = Box::new(move |result| drop(done.send(result)));
            log.append(vec![entry], done);
            durable.recv().expect("an answer").expect("it is durable");
        }
        drop(log);
        disk.crash();
        let kept = LogOptions {
            create: false,
            ..options()
        };
        let log = Log::open(disk, kept, Driver::Thread);
        log.is_ok_and(|log| log.state().last.is_some_and(|last| last.index == 19))
    };
    is_broken_by(Mutant::SkipLogSync, || (0..10).all(survives));
}
