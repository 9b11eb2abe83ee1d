//! Bugs between members, in a simulated cluster of five.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use baton_proto::etcdserverpb as pb;
use baton_proto::log::command::Op;
use baton_proto::log::{LogId, Vote};
use baton_proto::peer::{Call, Frame, Hello, Purpose, VoteRequest, call, frame, reply};
use baton_state_machine::KeyRange;
use batond::chaos::Mutant;
use batond::compactor::ReadPins;
use batond::core::Core;
use batond::line::{Expired, Line};
use batond::peer::{PROTOCOL_VERSIONS, PeerStream};
use batond::sim::Mishaps;
use batond::storage::log::{Driver, Log, LogOptions};
use batond::watch::{Cursor, Mailbox, Read, Source, Watched, WatcherSpec};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::is_broken_by;
use crate::sim_cluster::{Cluster, ELECTION, MEMBERS, all_keys, with_cluster};

/// What `story` tells of a cluster from `seed` that serves.
fn told<F: Future<Output = bool>>(seed: u64, story: impl FnOnce(Arc<Cluster>) -> F) -> bool {
    let told = Cell::new(false);
    with_cluster(seed, |cluster| async {
        told.set(story(cluster).await);
    });
    told.get()
}

fn put_op(key: &str, lease: i64) -> Op {
    Op::Put(pb::PutRequest {
        key: key.to_owned().into(),
        value: "v".into(),
        lease,
        ..Default::default()
    })
}

async fn put(core: &Core, key: &str) -> i64 {
    let committed = core.propose(put_op(key, 0)).await.expect("a put");
    committed.revision
}

async fn grant(core: &Core, id: i64) {
    let ttl = 600;
    let grant = Op::LeaseGrant(pb::LeaseGrantRequest { id, ttl });
    core.propose(grant).await.expect("a lease");
}

async fn revoke(core: &Core, id: i64) {
    let revoke = Op::LeaseRevoke(pb::LeaseRevokeRequest { id });
    core.propose(revoke).await.expect("it is revoked");
}

fn leader(cluster: &Cluster) -> Core {
    cluster.core(cluster.leader()).expect("it runs")
}

fn line(cluster: &Cluster) -> Line {
    let leader = cluster.leader();
    let line = cluster.members.lock()[&leader].line.clone();
    line.expect("it runs")
}

/// Some member that does not lead.
fn follower(cluster: &Cluster) -> u64 {
    cluster.leader() % MEMBERS + 1
}

#[test]
fn a_leader_that_is_cut_off_acknowledges_nothing() {
    is_broken_by(Mutant::AckBeforeQuorum, || {
        told(1, |cluster| async move {
            let cut_off = cluster.leader();
            cluster.net.cut(|a, b| a == cut_off || b == cut_off);
            let core = leader(&cluster);
            let answer = core.propose(put_op("k", 0));
            let answer = tokio::time::timeout(Duration::from_millis(200), answer).await;
            !matches!(answer, Ok(Ok(_)))
        })
    });
}

#[test]
fn what_was_acknowledged_is_on_the_disks_of_a_majority() {
    // Whatever three members are left with their disks, one of them has it.
    let survives = |seed| {
        told(seed, |cluster| async move {
            let leader = cluster.leader();
            let core = cluster.core(leader).expect("it runs");
            for number in 0..20 {
                put(&core, &format!("{number}")).await;
            }
            // All at the same moment, and with the least luck.
            for member in cluster.members.lock().values() {
                member.disk.disk.crash_keeping(|_, _| false);
            }
            for id in 1..=MEMBERS {
                cluster.crash(id).await;
            }
            let left = (1..=MEMBERS).filter(|id| *id != leader).take(3);
            let left: Vec<u64> = left.collect();
            for id in &left {
                cluster.start_member(*id).await;
            }
            let core = cluster.core(left[0]).expect("it runs");
            while core.read_barrier().await.is_err() {}
            all_keys(&core).len() == 20
        })
    };
    is_broken_by(Mutant::AckBeforeSync, || (0..40).all(survives));
}

#[test]
fn a_vote_that_was_granted_is_on_disk() {
    is_broken_by(Mutant::VoteNotSaved, || {
        told(2, |cluster| async move {
            let voter = follower(&cluster);
            // Who hears of a leader votes for nobody else.
            cluster.net.cut(|a, b| a == voter || b == voter);
            tokio::time::sleep(5 * ELECTION).await;
            let vote = Vote {
                term: 99,
                member_id: cluster.leader(),
                committed: false,
            };
            let granted = ask_for_vote(&cluster, voter, vote).await;
            assert!(granted, "nothing speaks against it");
            let disk = cluster.members.lock()[&voter].disk.clone();
            cluster.crash(voter).await;
            let options = LogOptions {
                create: false,
                ..LogOptions::default()
            };
            let log = Log::open(disk, options, Driver::Thread).expect("the log opens");
            log.state().vote.is_some_and(|saved| saved.term == 99)
        })
    });
}

async fn ask_for_vote(cluster: &Cluster, voter: u64, vote: Vote) -> bool {
    let acceptor = {
        let members = cluster.members.lock();
        let node = members[&voter].node.as_ref().expect("it runs");
        node.acceptor().clone()
    };
    let (ask, asked) = mpsc::channel(1);
    let (answer, mut answers) = mpsc::channel(1);
    let hello = Hello {
        cluster_id: 7,
        from: vote.member_id,
        to: voter,
        purpose: Purpose::Heartbeats.into(),
        version_min: PROTOCOL_VERSIONS.0,
        version_max: PROTOCOL_VERSIONS.1,
    };
    let stream = PeerStream {
        tx: answer,
        rx: ReceiverStream::new(asked).boxed(),
    };
    acceptor.accept(hello, stream).expect("a stream");
    let (term, index) = (98, 1000);
    let question = call::Question::Vote(VoteRequest {
        vote: Some(vote),
        last_log_id: Some(LogId { term, index }),
        leadership_transfer: false,
    });
    let call = Call {
        id: 1,
        question: Some(question),
    };
    let kind = Some(frame::Kind::Call(call));
    ask.send(Frame { kind }).await.expect("it listens");
    match answers.recv().await.and_then(|frame| frame.kind) {
        Some(frame::Kind::Reply(reply)) => {
            matches!(reply.answer, Some(reply::Answer::Vote(vote)) if vote.granted)
        }
        _ => false,
    }
}

#[test]
fn a_read_on_a_follower_sees_what_was_acknowledged_before() {
    is_broken_by(Mutant::ReadBeforeApply, || {
        told(3, |cluster| async move {
            let core = leader(&cluster);
            let reader = cluster.core(follower(&cluster)).expect("it runs");
            // What has to be sent again holds up its own stream alone, so that an answer may overtake what it is about.
            cluster.net.set_mishaps(Mishaps {
                lost: 0.05,
                ..Mishaps::default()
            });
            for number in 0..300 {
                let revision = put(&core, &format!("{number}")).await;
                let read = reader.read_barrier().await;
                if read.is_ok() && reader.state().read().revision() < revision {
                    return false;
                }
            }
            true
        })
    });
}

#[test]
fn a_forwarded_put_takes_effect_once() {
    is_broken_by(Mutant::AppliedTwice, || {
        told(4, |cluster| async move {
            let core = cluster.core(follower(&cluster)).expect("it runs");
            let revision = put(&core, "k").await;
            core.read_barrier().await.expect("a read");
            let now = core.state().read().revision();
            now == revision
        })
    });
}

#[test]
fn a_crash_between_two_writes_of_the_state_store_loses_nothing() {
    is_broken_by(Mutant::AppliedApart, || {
        told(5, |cluster| async move {
            let victim = follower(&cluster);
            let core = leader(&cluster);
            for number in 0..20 {
                put(&core, &format!("{number}")).await;
            }
            let store = cluster.members.lock()[&victim].store.clone();
            let node = {
                let mut members = cluster.members.lock();
                members
                    .get_mut(&victim)
                    .and_then(|member| member.node.take())
            };
            cluster.net.leave(victim);
            node.expect("it runs").kill().await;
            // The last write did not reach the disk.
            store.crash(store.unsynced() - 1);
            cluster.start_member(victim).await;
            let victim = cluster.core(victim).expect("it runs");
            while victim.read_barrier().await.is_err() {}
            all_keys(&victim) == all_keys(&core)
        })
    });
}

#[test]
fn a_snapshot_brings_the_leases() {
    is_broken_by(Mutant::SnapshotWithoutLeases, || {
        told(6, |cluster| async move {
            let behind = follower(&cluster);
            let core = leader(&cluster);
            grant(&core, 7).await;
            cluster.net.cut(|a, b| a == behind || b == behind);
            for number in 0..700 {
                put(&core, &format!("{number}")).await;
            }
            cluster.net.cut(|_, _| false);
            let behind = cluster.core(behind).expect("it runs");
            while behind.read_barrier().await.is_err() {}
            assert!(cluster.net.snapshots() > 0, "it had to get a snapshot");
            let state = behind.state().read();
            state.lease(7).is_some()
        })
    });
}

/// Whether a watch from a revision in the past reads all events from there, and no others.
async fn watch_is_exact(cluster: Arc<Cluster>) -> bool {
    let core = leader(&cluster);
    let mut revisions = Vec::new();
    for number in 0..5 {
        revisions.push(put(&core, &format!("{number}")).await);
    }
    let spec = WatcherSpec {
        keys: Watched::new(Bytes::from_static(&[0]), Bytes::from_static(&[0])).expect("all keys"),
        start_revision: revisions[2],
        no_put: false,
        no_delete: false,
    };
    let watcher = core.hub().register(spec, revisions[4], &Mailbox::new());
    let mut cursor = Cursor::new(&watcher, false, -1);
    let source = Source {
        state: core.state(),
        history: core.history(),
        pins: &Arc::<ReadPins>::default(),
    };
    match cursor.read(&watcher, source).await {
        Read::Events(batch) => batch.events.len() == 3,
        _ => false,
    }
}

#[test]
fn a_watch_from_the_past_misses_nothing() {
    is_broken_by(Mutant::WatchGap, || told(7, watch_is_exact));
}

#[test]
fn a_watch_from_the_past_repeats_nothing() {
    is_broken_by(Mutant::WatchDuplicate, || told(7, watch_is_exact));
}

#[test]
fn a_waiter_whose_lease_ended_is_told_so() {
    is_broken_by(Mutant::LockUnchecked, || {
        told(8, |cluster| async move {
            let core = leader(&cluster);
            let line = line(&cluster);
            for lease in [1, 2] {
                grant(&core, lease).await;
            }
            let _holder = line.enter(b"job", 1, None).await.expect("a place");
            let waiter = line.enter(b"job", 2, None).await.expect("a place");
            revoke(&core, 2).await;
            revoke(&core, 1).await;
            line.wait(&waiter).await == Err(Expired)
        })
    });
}

#[test]
fn a_waiter_does_not_pass_the_holder_when_the_one_between_goes() {
    is_broken_by(Mutant::LockOutOfOrder, || {
        told(9, |cluster| async move {
            let core = leader(&cluster);
            let line = line(&cluster);
            let mut places = Vec::new();
            for lease in 1..=3 {
                grant(&core, lease).await;
                places.push(line.enter(b"job", lease, None).await.expect("a place"));
            }
            let turn = line.wait(&places[2]);
            let leaves = async {
                revoke(&core, 2).await;
                tokio::time::sleep(ELECTION).await;
            };
            let holds = KeyRange::directory(b"job");
            tokio::select! {
                biased;
                _ = turn => false,
                () = leaves => core.state().read().first_created(&holds) == Some(&places[0].key),
            }
        })
    });
}
