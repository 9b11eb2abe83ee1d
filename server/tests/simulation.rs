//! A cluster of five in one thread, from a seed, through partitions and crashes that drop what was not
//! synced: nothing acknowledged is lost, all members agree, and the same seed gives the same trace.

mod sim_cluster;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use baton_proto::etcdserverpb::kv_client::KvClient;
use baton_proto::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, PutRequest,
};
use baton_proto::log::{self, command::Op};
use baton_proto::v3electionpb::election_client::ElectionClient;
use baton_proto::v3electionpb::{LeaderRequest, LeaderResponse};
use baton_state_machine::{Response, RowChange, Table};
use batond::apply_loop::APPLIED_KEY;
use batond::core::{Core, RaftStatus};
use batond::line::{self, Line, Place};
use batond::node::{Node, Parts};
use batond::raft::seeded;
use batond::sim::SimNet;
use batond::state_hash::STATE_HASH_KEY;
use batond::storage::log::{Driver, Log, LogEntry, LogId, LogOptions, Payload};
use batond::storage::{MemStore, SimDisk, StateStore};
use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message;
use tokio::time::Instant;
use tonic::Streaming;
use tonic::service::Routes;

use sim_cluster::{Cluster, ELECTION, MEMBERS, all_keys, node_options, services, with_cluster};

const CLIENTS: u64 = 8;

/// Acknowledged writes: key and the revision the answer named.
type Acknowledged = Arc<Mutex<BTreeMap<String, i64>>>;

async fn write_forever(cluster: Arc<Cluster>, client: u64, acknowledged: Acknowledged) {
    for n in 0.. {
        let member = cluster.net.draw(1..MEMBERS + 1);
        if let Some(core) = cluster.core(member) {
            let key = format!("{client}/{n}");
            let put = PutRequest {
                key: key.clone().into(),
                value: vec![b'x'; usize::try_from(cluster.net.draw(1..400)).unwrap()].into(),
                ..PutRequest::default()
            };
            if let Ok(committed) = core.propose(Op::Put(put)).await {
                assert!(matches!(committed.response, Response::Put(_)));
                cluster.net.note(("acknowledged", &key, committed.revision));
                acknowledged.lock().insert(key, committed.revision);
            }
        }
        tokio::time::sleep(Duration::from_millis(cluster.net.draw(1..20))).await;
    }
}

/// Faults until `end`: cuts of every shape, and crashes of up to two members at once.
async fn disturb(cluster: &Cluster, end: Instant) {
    while Instant::now() < end {
        let net = &cluster.net;
        let pause = Duration::from_millis(net.draw(200..2500));
        match net.draw(0..5) {
            0 => {
                let alone = net.draw(1..MEMBERS + 1);
                net.note(("isolate", alone));
                net.cut(|a, b| a == alone || b == alone);
                tokio::time::sleep(pause).await;
            }
            1 => {
                let side = net.draw(1..1 << MEMBERS);
                net.note(("split", side));
                net.cut(|a, b| (side >> (a - 1)) & 1 != (side >> (b - 1)) & 1);
                tokio::time::sleep(pause).await;
            }
            2 => {
                let deaf = net.draw(1..MEMBERS + 1);
                net.note(("deaf", deaf));
                net.cut(|_, b| b == deaf);
                tokio::time::sleep(pause).await;
            }
            3 => {
                let victim = net.draw(1..MEMBERS + 1);
                cluster.crash(victim).await;
                tokio::time::sleep(pause).await;
                cluster.start_member(victim).await;
            }
            _ => {
                let first = net.draw(1..MEMBERS + 1);
                let second = first % MEMBERS + 1;
                cluster.crash(first).await;
                cluster.crash(second).await;
                tokio::time::sleep(pause).await;
                cluster.start_member(first).await;
                cluster.start_member(second).await;
            }
        }
        cluster.net.cut(|_, _| false);
        tokio::time::sleep(Duration::from_millis(cluster.net.draw(200..1500))).await;
    }
}

fn hash(core: &Core, revision: i64) -> u32 {
    let state = core.state().read();
    let mut scan = state.begin_hash(revision).unwrap();
    while !scan.step(&state, 1000) {}
    scan.finish(&core.history().view()).hash
}

#[derive(Debug, PartialEq)]
struct Run {
    trace: (u64, u64),
    acknowledged: usize,
    revision: i64,
    hash: u32,
    snapshots: u64,
}

/// One run: faults for a while, then peace, then judgement.
async fn campaign(seed: u64, faults: Duration, lies: bool) -> Run {
    let cluster = Cluster::start(seed, lies).await;
    let acknowledged = Acknowledged::default();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let write = write_forever(cluster.clone(), client, acknowledged.clone());
            tokio::spawn(seeded(seed ^ (client + 1), write))
        })
        .collect();
    disturb(&cluster, Instant::now() + faults).await;
    for client in clients {
        client.abort();
        let _ = client.await;
    }

    // Peace: every member must come to know everything.
    let cores = cluster.cores();
    assert_eq!(cores.len() as u64, MEMBERS, "every member runs in the end");
    for (id, core) in &cores {
        let barrier = tokio::time::timeout(Duration::from_secs(30), async {
            while core.read_barrier().await.is_err() {}
        });
        assert!(
            barrier.await.is_ok(),
            "member {id} serves reads once the faults are over"
        );
    }
    let acknowledged = std::mem::take(&mut *acknowledged.lock());
    let revision = cores[0].1.state().read().revision();
    let first_hash = hash(&cores[0].1, revision);
    for (id, core) in &cores {
        let found = all_keys(core);
        for (key, revision) in &acknowledged {
            assert_eq!(
                found.get(key),
                Some(revision),
                "member {id} has what was acknowledged under {key}"
            );
        }
        let at = core.state().read().revision();
        assert_eq!(at, revision, "revision of member {id}");
        assert_eq!(hash(core, revision), first_hash, "hash of member {id}");
        let applied = core.raft_status().applied;
        assert_eq!(core.state_hashes().since(applied).len(), 1, "member {id}");
    }
    cluster.compare_hashes();
    let mut revisions: Vec<i64> = acknowledged.values().copied().collect();
    revisions.sort_unstable();
    revisions.dedup();
    assert_eq!(
        revisions.len(),
        acknowledged.len(),
        "no revision was given twice"
    );
    Run {
        trace: cluster.net.trace(),
        acknowledged: acknowledged.len(),
        revision,
        hash: first_hash,
        snapshots: cluster.net.snapshots(),
    }
}

fn run(seed: u64, faults: Duration, lies: bool) -> Run {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .rng_seed(tokio::runtime::RngSeed::from_bytes(&seed.to_le_bytes()))
        .build()
        .unwrap();
    runtime.block_on(seeded(seed, campaign(seed, faults, lies)))
}

#[test]
fn five_members_lose_nothing_through_partitions_and_crashes_and_one_seed_gives_one_trace() {
    for seed in [1, 2] {
        let faults = Duration::from_secs(20);
        let first = run(seed, faults, false);
        assert!(
            first.acknowledged > 500,
            "seed {seed} acknowledged too little: {first:?}"
        );
        assert!(
            first.snapshots > 0,
            "seed {seed} needed no snapshot: {first:?}"
        );
        let second = run(seed, faults, false);
        assert_eq!(first, second, "seed {seed} gives the same trace twice");
    }
}

#[test]
fn a_disk_that_only_says_it_synced_is_found_out() {
    let found = (1..20).any(|seed| {
        let judged = std::panic::catch_unwind(|| run(seed, Duration::from_secs(20), true));
        judged.is_err()
    });
    assert!(found, "twenty campaigns over lying disks lost nothing");
}

/// What members have said of themselves so far.
#[derive(Default)]
struct Said {
    last: BTreeMap<u64, RaftStatus>,
    leaders: BTreeMap<u64, u64>,
    committed_ahead: u64,
}

impl Said {
    fn hear(&mut self, id: u64, status: RaftStatus) {
        let before = self.last.insert(id, status).unwrap_or_default();
        assert!(
            status.term >= before.term
                && status.committed >= before.committed
                && status.applied >= before.applied,
            "member {id} goes back from {before:?} to {status:?}"
        );
        assert!(status.committed >= status.applied, "{status:?}");
        self.committed_ahead += status.committed - status.applied;
        if status.leader != 0 {
            let leader = *self.leaders.entry(status.term).or_insert(status.leader);
            assert_eq!(status.leader, leader, "member {id}, term {}", status.term);
        }
    }
}

#[test]
fn what_a_member_says_of_itself_never_goes_back_and_every_term_has_one_leader() {
    for seed in 0..3 {
        with_cluster(seed, |cluster| async move {
            for client in 0..CLIENTS {
                let write = write_forever(cluster.clone(), client, Acknowledged::default());
                tokio::spawn(seeded(seed ^ (client + 1), write));
            }
            let mut said = Said::default();
            for moment in 0..40_000 {
                if moment % 4000 == 1000 {
                    let alone = cluster.leader();
                    cluster.net.cut(|a, b| a == alone || b == alone);
                } else if moment % 4000 == 3000 {
                    cluster.net.cut(|_, _| false);
                }
                for (id, core) in cluster.cores() {
                    said.hear(id, core.raft_status());
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            assert!(said.leaders.len() > 3, "terms: {:?}", said.leaders);
            assert!(said.committed_ahead > 0, "nothing was seen to be applied");
        });
    }
}

#[test]
fn a_member_that_was_cut_off_does_not_unseat_the_leader_when_it_returns() {
    for seed in 0..5 {
        with_cluster(seed, |cluster| async move {
            let leader = cluster.leader();
            let term = cluster.core(leader).unwrap().raft_status().term;
            let away = leader % MEMBERS + 1;
            cluster.net.cut(|a, b| a == away || b == away);
            tokio::time::sleep(20 * ELECTION).await;
            cluster.net.cut(|_, _| false);
            tokio::time::sleep(5 * ELECTION).await;
            for (id, core) in cluster.cores() {
                let status = core.raft_status();
                assert_eq!((status.leader, status.term), (leader, term), "member {id}");
            }
        });
    }
}

#[test]
fn a_leader_that_can_speak_but_not_hear_is_replaced() {
    for seed in 0..5 {
        with_cluster(seed, |cluster| async move {
            let deaf = cluster.leader();
            cluster.net.cut(|_, b| b == deaf);
            let other = cluster.core(deaf % MEMBERS + 1).unwrap();
            let mut leadership = other.leadership();
            let replaced = leadership.wait_for(|l| l.leader != 0 && l.leader != deaf);
            let replaced = tokio::time::timeout(10 * ELECTION, replaced).await.is_ok();
            assert!(replaced, "seed {seed} kept its deaf leader");
            other.read_barrier().await.expect("the others serve reads");
            let core = cluster.core(deaf).unwrap();
            let read = core.read_barrier().await;
            assert!(read.is_err(), "a deaf member cannot know what is committed");
        });
    }
}

#[test]
fn a_leader_that_only_a_bridging_member_reaches_gives_way() {
    for seed in 0..5 {
        with_cluster(seed, |cluster| async move {
            let old = cluster.leader();
            let bridge = old % MEMBERS + 1;
            // Everyone reaches the bridge; the old leader reaches nobody else.
            cluster
                .net
                .cut(|a, b| (a == old || b == old) && a != bridge && b != bridge);
            let other = cluster.core(bridge % MEMBERS + 1).unwrap();
            let served = tokio::time::timeout(20 * ELECTION, async {
                while other.read_barrier().await.is_err() {}
            });
            assert!(
                served.await.is_ok(),
                "seed {seed}: the connected majority serves"
            );
        });
    }
}

impl Cluster {
    /// Puts until this many are acknowledged.
    async fn put(&self, count: u64) {
        let core = self.core(self.leader()).unwrap();
        for n in 0..count {
            let put = PutRequest {
                key: format!("{n}").into(),
                ..PutRequest::default()
            };
            core.propose(Op::Put(put)).await.expect("a put");
        }
    }
}

#[test]
fn a_member_without_its_state_gets_it_from_members_whose_snapshots_are_older_than_its_log() {
    with_cluster(3, |cluster| async move {
        let loser = cluster.leader() % MEMBERS + 1;
        // A restart between two snapshots: from then on this member takes its own before the others.
        cluster.put(350).await;
        cluster.crash(loser).await;
        cluster.start_member(loser).await;
        cluster.put(230).await;
        tokio::time::sleep(ELECTION).await;
        cluster.crash(loser).await;
        cluster.members.lock()[&loser].store.wipe();
        let started = cluster.start_member(loser);
        let started = tokio::time::timeout(30 * ELECTION, started).await;
        assert!(
            started.is_ok(),
            "nobody writes, and yet it must get its state"
        );
        let core = cluster.core(loser).unwrap();
        core.read_barrier().await.expect("it serves reads");
        assert_eq!(all_keys(&core).len(), 350);
    });
}

#[test]
fn a_member_whose_store_is_of_a_version_without_hashes_begins_them_anew_everywhere() {
    with_cluster(4, |cluster| async move {
        cluster.put(20).await;
        let older = cluster.leader() % MEMBERS + 1;
        let store = cluster.members.lock()[&older].store.clone();
        store.sync().unwrap();
        cluster.crash(older).await;
        let hash = RowChange {
            table: Table::Meta,
            key: Bytes::from_static(STATE_HASH_KEY),
            value: None,
        };
        store.write(vec![hash]).unwrap();
        store.sync().unwrap();
        cluster.start_member(older).await;
        let core = cluster.core(older).unwrap();
        assert!(!core.state_hashes().is_known());
        let node = cluster.members.lock().get_mut(&older).unwrap().node.take();
        let options = node_options(older, MEMBERS, 4);
        node.as_ref().unwrap().serve_ready(&options).await;
        cluster.members.lock().get_mut(&older).unwrap().node = node;
        cluster.put(20).await;
        for (_, core) in cluster.cores() {
            core.read_barrier().await.unwrap();
            assert!(core.state_hashes().is_known());
        }
        cluster.compare_hashes();
    });
}

#[test]
fn a_member_without_its_state_gives_up_entries_that_only_it_has_and_starts() {
    with_cluster(4, |cluster| async move {
        cluster.put(450).await;
        let alone = cluster.leader();
        cluster.net.cut(|a, b| a == alone || b == alone);
        let writes = (0..10).map(|n| {
            let core = cluster.core(alone).unwrap();
            let put = PutRequest {
                key: format!("alone/{n}").into(),
                ..PutRequest::default()
            };
            tokio::spawn(seeded(n, async move { core.propose(Op::Put(put)).await }))
        });
        let writes: Vec<_> = writes.collect();
        let other = cluster.core(alone % MEMBERS + 1).unwrap();
        let mut leadership = other.leadership();
        let replaced = leadership.wait_for(|l| l.leader != 0 && l.leader != alone);
        drop(replaced.await.expect("a member that runs"));
        let put = PutRequest {
            key: "0".into(),
            ..PutRequest::default()
        };
        let put = other.propose(Op::Put(put)).await;
        put.expect("the majority takes writes in another term");
        tokio::time::sleep(ELECTION).await;
        cluster.crash(alone).await;
        for write in writes {
            let written = write.await.unwrap();
            assert!(written.is_err(), "no majority has it");
        }
        cluster.members.lock()[&alone].store.wipe();
        cluster.net.cut(|_, _| false);
        cluster.start_member(alone).await;
        let core = cluster.core(alone).unwrap();
        core.read_barrier().await.expect("it serves reads");
        assert_eq!(all_keys(&core).len(), 450);
    });
}

/// What contenders for one lock know of each other, which no cluster tells them.
#[derive(Default)]
struct Ledger {
    holder: Option<u64>,
    /// The token of the last hold.
    token: i64,
    holds: usize,
    given_up: usize,
}

/// Stands in line on some member until it holds the lock; `None` where it gave up, or the member failed.
async fn try_hold(cluster: &Cluster, lease: i64, patience: Duration) -> Option<Place> {
    let member = cluster.net.draw(1..MEMBERS + 1);
    let line = cluster.members.lock()[&member].line.clone()?;
    let core = cluster.core(member)?;
    let mut stopping = core.stopping();
    let held = async {
        let place = line.enter(b"job", lease, None).await.ok()?;
        if !place.is_first {
            line.wait(&place).await.ok()?;
        }
        Some(place)
    };
    tokio::select! {
        held = tokio::time::timeout(patience, held) => held.ok()?,
        _ = stopping.wait_for(|stopping| *stopping) => None,
    }
}

/// Holds the lock for a while, and releases it for certain.
async fn hold_and_release(cluster: &Cluster, ledger: &Mutex<Ledger>, lease: i64, place: Place) {
    let me = lease.unsigned_abs();
    {
        let mut ledger = ledger.lock();
        assert_eq!(ledger.holder, None, "{me} holds what another holds");
        let (token, last) = (place.create_revision, ledger.token);
        assert!(token > last, "token {token} after {last}");
        ledger.holder = Some(me);
        ledger.token = token;
        ledger.holds += 1;
    }
    cluster.net.note(("holds", me, place.create_revision));
    place.stay.keep();
    let (key, token) = (place.key.clone(), place.create_revision);
    drop(place);
    // Long enough at times that what was delayed meets it.
    let hold_max = [20, 20, 2000][usize::try_from(cluster.net.draw(0..3)).unwrap()];
    tokio::time::sleep(Duration::from_millis(cluster.net.draw(1..hold_max))).await;
    ledger.lock().holder = None;
    loop {
        let member = cluster.net.draw(1..MEMBERS + 1);
        if let Some(core) = cluster.core(member) {
            let release = Op::Txn(line::delete_if_created(&key, token));
            match core.propose(release).await {
                Ok(committed) => {
                    let Response::Txn(response) = committed.response else {
                        panic!("a transaction answers as one");
                    };
                    assert!(
                        response.succeeded || line::found(&response).is_none(),
                        "{me} alone has a key of that name"
                    );
                    return;
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }
}

async fn contend(cluster: Arc<Cluster>, ledger: Arc<Mutex<Ledger>>, lease: i64, until: Instant) {
    while Instant::now() < until {
        let patience = Duration::from_millis(cluster.net.draw(0..4000));
        match try_hold(&cluster, lease, patience).await {
            Some(place) => hold_and_release(&cluster, &ledger, lease, place).await,
            None => ledger.lock().given_up += 1,
        }
        tokio::time::sleep(Duration::from_millis(cluster.net.draw(1..100))).await;
    }
    // Whatever a call that failed has left behind, the last hold ends.
    loop {
        if let Some(place) = try_hold(&cluster, lease, 100 * ELECTION).await {
            return hold_and_release(&cluster, &ledger, lease, place).await;
        }
        tokio::time::sleep(ELECTION).await;
    }
}

/// How many campaigns over locks are run; `BATON_SIMULATED_LOCKS` says otherwise.
fn lock_seeds() -> u64 {
    let given = std::env::var("BATON_SIMULATED_LOCKS").ok();
    given.map_or(3, |text| text.parse().expect("a number"))
}

#[test]
fn a_lock_has_one_holder_in_order_and_no_key_too_many_through_partitions_and_crashes() {
    for seed in 0..lock_seeds() {
        with_cluster(seed, |cluster| async move {
            let core = cluster.core(cluster.leader()).unwrap();
            let ledger = Arc::new(Mutex::new(Ledger::default()));
            let end = Instant::now() + Duration::from_secs(20);
            let mut contenders = Vec::new();
            for lease in 1..=6 {
                let grant = LeaseGrantRequest {
                    id: lease,
                    ttl: 100_000,
                };
                core.propose(Op::LeaseGrant(grant)).await.expect("a lease");
                let contend = contend(cluster.clone(), ledger.clone(), lease, end);
                contenders.push(tokio::spawn(seeded(lease.unsigned_abs(), contend)));
            }
            disturb(&cluster, end).await;
            for contender in contenders {
                let done = tokio::time::timeout(200 * ELECTION, contender).await;
                done.expect("the lock goes on")
                    .expect("all that is promised holds");
            }
            // Attempts of which nothing was heard have their time.
            tokio::time::sleep(20 * ELECTION).await;
            let core = cluster.core(cluster.leader()).unwrap();
            core.read_barrier().await.expect("it serves reads");
            assert_eq!(all_keys(&core), BTreeMap::new(), "seed {seed}");
            let ledger = ledger.lock();
            assert!(
                ledger.holds > 20 && ledger.given_up > 5,
                "seed {seed} tried too little"
            );
        });
    }
}

/// A call on one member whose proposal is under way to the leader for a while, and whose caller goes away
/// meanwhile; then `meanwhile` on the leader's line, and the proposal arrives. Gives the create revision of
/// the key in the end.
fn with_delayed_entrance<F: Future<Output = ()>>(
    meanwhile: impl FnOnce(Line, Core) -> F,
) -> Option<i64> {
    let found = Arc::new(Mutex::new(None));
    let told = found.clone();
    with_cluster(6, |cluster| async move {
        let leader = cluster.leader();
        let core = cluster.core(leader).unwrap();
        for id in [1, 2] {
            let grant = LeaseGrantRequest { id, ttl: 100_000 };
            core.propose(Op::LeaseGrant(grant)).await.expect("a lease");
        }
        let line_of = |id: u64| cluster.members.lock()[&id].line.clone().unwrap();
        let holder = line_of(leader).enter(b"job", 2, None).await.unwrap();
        holder.stay.keep();
        let far = leader % MEMBERS + 1;
        let line = line_of(far);
        cluster.net.cut(|a, b| a == far && b == leader);
        let entering = tokio::spawn(async move { line.enter(b"job", 1, None).await.map(drop) });
        tokio::time::sleep(ELECTION / 4).await;
        entering.abort();
        meanwhile(line_of(leader), core.clone()).await;
        cluster.net.cut(|_, _| false);
        tokio::time::sleep(20 * ELECTION).await;
        core.read_barrier().await.expect("it serves reads");
        *told.lock() = core.state().read().create_revision(b"job/1");
    });
    *found.lock()
}

#[test]
fn an_entrance_that_comes_late_takes_nothing_from_a_caller_that_entered_elsewhere() {
    let entered = Arc::new(Mutex::new(None));
    let waiting = entered.clone();
    let found = with_delayed_entrance(|line, _| async move {
        let place = line.enter(b"job", 1, None).await.unwrap();
        *waiting.lock() = Some(place);
    });
    let entered = entered.lock().as_ref().map(|place| place.create_revision);
    assert!(found.is_some());
    assert_eq!(found, entered);
}

#[test]
fn an_entrance_that_comes_when_its_key_was_removed_elsewhere_leaves_none() {
    let found = with_delayed_entrance(|line, core| async move {
        let place = line.enter(b"job", 1, None).await.unwrap();
        place.stay.keep();
        let release = line::delete_if_created(&place.key, place.create_revision);
        core.propose(Op::Txn(release)).await.expect("released");
    });
    assert_eq!(found, None);
}

#[test]
fn a_call_that_was_never_heard_of_again_does_not_keep_the_key_of_a_later_one() {
    with_cluster(8, |cluster| async move {
        let leader = cluster.leader();
        let core = cluster.core(leader).unwrap();
        for id in [1, 2] {
            let grant = LeaseGrantRequest { id, ttl: 100_000 };
            core.propose(Op::LeaseGrant(grant)).await.expect("a lease");
        }
        let line_of = |id: u64| cluster.members.lock()[&id].line.clone().unwrap();
        let holder = line_of(leader).enter(b"job", 2, None).await.unwrap();
        let term = core.raft_status().term;
        let far = leader % MEMBERS + 1;
        cluster.net.cut(|a, b| a == far && b == leader);
        let line = line_of(far);
        let entering = line.enter(b"job", 1, None);
        assert!(
            tokio::time::timeout(ELECTION / 4, entering).await.is_err(),
            "nothing gets through"
        );
        // Long enough for the stream to break with the proposal in it.
        tokio::time::sleep(Duration::from_secs(4)).await;
        cluster.net.cut(|_, _| false);
        let again = async {
            let entering = line.enter(b"job", 1, None);
            tokio::time::timeout(60 * ELECTION, entering).await
        };
        let waiting = again.await.expect("it gets through").unwrap();
        assert_eq!(core.raft_status().term, term, "the leader still leads");
        drop(waiting);
        tokio::time::sleep(20 * ELECTION).await;
        core.read_barrier().await.expect("it serves reads");
        assert_eq!(core.state().read().create_revision(b"job/1"), None);
        drop(holder);
    });
}

#[test]
fn calls_that_end_while_there_is_no_leader_leave_nothing_behind() {
    with_cluster(7, |cluster| async move {
        let leader = cluster.leader();
        let core = cluster.core(leader).unwrap();
        let grant = LeaseGrantRequest {
            id: 1,
            ttl: 100_000,
        };
        core.propose(Op::LeaseGrant(grant)).await.expect("a lease");
        cluster.net.cut(|_, _| true);
        let away = leader % MEMBERS + 1;
        let mut leadership = cluster.core(away).unwrap().leadership();
        leadership.wait_for(|l| l.leader == 0).await.unwrap();
        let tasks = tokio::runtime::Handle::current().metrics();
        let running = tasks.num_alive_tasks();
        let line = cluster.members.lock()[&away].line.clone().unwrap();
        for number in 0..1000 {
            let (line, name) = (line.clone(), format!("job-{number}"));
            let entering = line.enter(name.as_bytes(), 1, None);
            let patience = Duration::from_millis(1);
            assert!(tokio::time::timeout(patience, entering).await.is_err());
        }
        tokio::time::sleep(ELECTION).await;
        let left = tasks.num_alive_tasks().saturating_sub(running);
        assert!(left < 100, "{left} tasks go on for nobody");
        let before = core.state().read().revision();
        cluster.net.cut(|_, _| false);
        tokio::time::sleep(20 * ELECTION).await;
        while core.read_barrier().await.is_err() {}
        assert_eq!(core.state().read().revision(), before);
    });
}

#[test]
fn a_waiter_whose_turn_came_in_a_snapshot_is_told_so() {
    with_cluster(5, |cluster| async move {
        let leader = cluster.leader();
        let core = cluster.core(leader).unwrap();
        for id in [1, 2] {
            let grant = LeaseGrantRequest { id, ttl: 100_000 };
            core.propose(Op::LeaseGrant(grant)).await.expect("a lease");
        }
        let line_of = |id: u64| cluster.members.lock()[&id].line.clone().unwrap();
        let holder = line_of(leader).enter(b"job", 1, None).await.unwrap();
        let away = leader % MEMBERS + 1;
        let line = line_of(away);
        let place = line.enter(b"job", 2, None).await.unwrap();
        let waiting = tokio::spawn(async move { line.wait(&place).await });
        cluster.net.cut(|a, b| a == away || b == away);
        drop(holder);
        cluster.put(600).await;
        cluster.net.cut(|_, _| false);
        let told = tokio::time::timeout(60 * ELECTION, waiting).await;
        told.expect("it is told")
            .unwrap()
            .expect("its key is there");
        assert!(cluster.net.snapshots() > 0, "it needed no snapshot");
    });
}

/// The candidates of an election, who lead one after the other.
struct Candidates(KvClient<Routes>);

impl Candidates {
    async fn comes(&mut self, number: u8) {
        let put = PutRequest {
            key: format!("post/{number}").into(),
            value: vec![number].into(),
            ..PutRequest::default()
        };
        self.0.put(put).await.expect("a put");
    }

    /// Gives the revision.
    async fn goes(&mut self, number: u8) -> i64 {
        let delete = DeleteRangeRequest {
            key: format!("post/{number}").into(),
            ..DeleteRangeRequest::default()
        };
        let deleted = self.0.delete_range(delete).await.expect("a deletion");
        deleted.into_inner().header.expect("a header").revision
    }

    async fn compact(&mut self, revision: i64) {
        let request = CompactionRequest {
            revision,
            ..CompactionRequest::default()
        };
        self.0.compact(request).await.expect("a compaction");
    }
}

async fn observe(cluster: &Cluster, member: u64) -> Streaming<LeaderResponse> {
    let name = "post".into();
    let mut client = ElectionClient::new(services(cluster, member));
    let observed = client.observe(LeaderRequest { name }).await;
    observed.expect("a stream").into_inner()
}

/// The number of the candidate that is told of next.
async fn told(observed: &mut Streaming<LeaderResponse>) -> u8 {
    let response = observed.message().await.expect("no error");
    response.expect("an open stream").kv.expect("a pair").value[0]
}

#[test]
fn an_observer_is_told_leaders_of_compacted_revisions_that_are_recent() {
    with_cluster(8, |cluster| async move {
        let mut candidates = Candidates(KvClient::new(services(&cluster, cluster.leader())));
        candidates.comes(1).await;
        let mut observed = observe(&cluster, cluster.leader()).await;
        assert_eq!(told(&mut observed).await, 1);
        candidates.comes(2).await;
        candidates.goes(1).await;
        candidates.comes(3).await;
        let gone_at = candidates.goes(2).await;
        candidates.compact(gone_at).await;
        assert_eq!(told(&mut observed).await, 2);
        assert_eq!(told(&mut observed).await, 3);
    });
}

#[test]
fn an_observer_that_a_snapshot_overtook_is_told_every_leader_since_the_compaction() {
    with_cluster(9, |cluster| async move {
        let leader = cluster.leader();
        let away = leader % MEMBERS + 1;
        let mut candidates = Candidates(KvClient::new(services(&cluster, leader)));
        candidates.comes(1).await;
        let mut observed = observe(&cluster, away).await;
        assert_eq!(told(&mut observed).await, 1);
        cluster.net.cut(|a, b| a == away || b == away);
        candidates.comes(2).await;
        candidates.goes(1).await;
        candidates.comes(3).await;
        let gone_at = candidates.goes(2).await;
        candidates.comes(4).await;
        candidates.goes(3).await;
        candidates.compact(gone_at).await;
        cluster.put(600).await;
        cluster.net.cut(|_, _| false);
        assert_eq!(told(&mut observed).await, 3);
        assert_eq!(told(&mut observed).await, 4);
        assert!(cluster.net.snapshots() > 0, "it needed no snapshot");
    });
}

#[tokio::test(start_paused = true)]
async fn a_state_that_cannot_be_read_is_left_alone_where_nothing_can_take_its_place() {
    let driver = Driver::Task {
        sync_delay: Box::new(|| Duration::ZERO),
    };
    let log = Log::open(SimDisk::new(1), LogOptions::default(), driver).expect("a new log opens");
    let id = |index| LogId { term: 1, index };
    let entries = (0..4).map(|index| LogEntry {
        id: id(index),
        payload: Payload::Blank,
    });
    log.append(entries.collect(), Box::new(|_| ()));
    log.purge(id(2), Box::new(|_| ()));

    let store = MemStore::new();
    let applied = log::LogId { term: 1, index: 3 };
    let row = |table, key: &'static [u8], value: Vec<u8>| RowChange {
        table,
        key: Bytes::from_static(key),
        value: Some(value.into()),
    };
    let rows = vec![
        row(Table::Rev, b"no revision", vec![]),
        row(Table::Meta, APPLIED_KEY, applied.encode_to_vec()),
    ];
    store.write(rows).expect("a store in memory takes rows");

    let parts = Parts {
        log,
        store: Arc::new(store.clone()),
        net: Arc::new(SimNet::new(1, (Duration::ZERO, Duration::ZERO))),
        drive: Box::new(|work| {
            tokio::spawn(work.run());
        }),
        fatal: Arc::new(|_| {}),
    };
    let started = Node::start(node_options(1, 1, 1), parts).await;
    assert!(started.is_err(), "nobody has what the log lacks");
    let left = store.scan(Table::Rev, Bound::Unbounded, 10).unwrap();
    assert_eq!(left.len(), 1, "it may be the last copy");
}
