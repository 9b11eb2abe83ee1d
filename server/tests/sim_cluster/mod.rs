//! Five members in one thread, from a seed: what survives a crash of each, and the network between them.
#![allow(dead_code, reason = "not every test needs all of it")]

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use baton_proto::etcdserverpb::RangeRequest;
use batond::compactor::Pace;
use batond::config::AutoCompaction;
use batond::core::{Core, Identity};
use batond::line::Line;
use batond::node::{Node, NodeOptions, Parts};
use batond::raft::{RaftOptions, seeded};
use batond::service::{Limits, Services};
use batond::sim::SimNet;
use batond::state_hash::StateHash;
use batond::storage::log::{Driver, Log, LogOptions};
use batond::storage::{Disk, DiskFile, MemStore, SimDisk};
use parking_lot::Mutex;
use tonic::service::Routes;

pub const MEMBERS: u64 = 5;
pub const ELECTION: Duration = Duration::from_millis(1000);

/// A disk that syncs, or only says so.
#[derive(Clone)]
pub struct TestDisk {
    pub disk: SimDisk,
    pub lies: bool,
}

pub struct TestFile {
    pub file: <SimDisk as Disk>::File,
    pub lies: bool,
}

impl Disk for TestDisk {
    type File = TestFile;

    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }
    fn open(&self, name: &str) -> io::Result<TestFile> {
        let lies = self.lies;
        self.disk.open(name).map(|file| TestFile { file, lies })
    }
    fn create(&self, name: &str) -> io::Result<TestFile> {
        let lies = self.lies;
        self.disk.create(name).map(|file| TestFile { file, lies })
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }
    fn sync_dir(&self) -> io::Result<()> {
        self.disk.sync_dir()
    }
}

impl DiskFile for TestFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file.read_at(offset, buf)
    }
    fn write_at(&mut self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.file.write_at(offset, buf)
    }
    fn set_len(&mut self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
    fn sync(&mut self) -> io::Result<()> {
        if self.lies { Ok(()) } else { self.file.sync() }
    }
}

/// What survives a crash of a member, and the member while it runs.
pub struct Member {
    pub disk: TestDisk,
    pub store: MemStore,
    pub node: Option<Node>,
    pub line: Option<Line>,
}

pub struct Cluster {
    pub seed: u64,
    pub net: SimNet,
    pub members: Mutex<BTreeMap<u64, Member>>,
    pub starts: Mutex<u64>,
    /// What the state of whichever member was asked first hashed to after an entry.
    pub hashes: Mutex<BTreeMap<u64, StateHash>>,
}

pub fn node_options(id: u64, members: u64, seed: u64) -> NodeOptions {
    let members = (1..=members).map(|id| (id, vec![format!("sim://{id}")]));
    NodeOptions {
        identity: Identity {
            member_id: id,
            cluster_id: 7,
            request_timeout: Duration::from_secs(7),
            election_timeout: ELECTION,
            request_bytes_max: 1 << 20,
        },
        name: format!("m{id}"),
        client_urls: vec![],
        version: "3.6.14".into(),
        members: members.collect(),
        raft: RaftOptions {
            heartbeat_interval: ELECTION / 10,
            election_timeout: ELECTION,
            snapshot_count: 200,
            catchup_entries: 50,
            seed,
        },
    }
}

impl Cluster {
    pub async fn start(seed: u64, lies: bool) -> Arc<Self> {
        let delay = (Duration::from_micros(200), Duration::from_millis(5));
        let cluster = Arc::new(Self {
            seed,
            net: SimNet::new(seed, delay),
            members: Mutex::default(),
            starts: Mutex::new(0),
            hashes: Mutex::default(),
        });
        for id in 1..=MEMBERS {
            let member = Member {
                disk: TestDisk {
                    disk: SimDisk::new(seed.wrapping_mul(31) + id),
                    lies,
                },
                store: MemStore::new(),
                node: None,
                line: None,
            };
            cluster.members.lock().insert(id, member);
        }
        for id in 1..=MEMBERS {
            cluster.start_member(id).await;
        }
        cluster
    }

    pub async fn start_member(&self, id: u64) {
        let start = {
            let mut starts = self.starts.lock();
            *starts += 1;
            *starts
        };
        let (disk, store) = {
            let members = self.members.lock();
            (members[&id].disk.clone(), members[&id].store.clone())
        };
        self.net.note(("start", id));
        let seed = (self.seed ^ (id << 32)).wrapping_add(start);
        let net = self.net.clone();
        let delays = net.clone();
        let driver = Driver::Task {
            sync_delay: Box::new(move || Duration::from_micros(delays.draw(50..4000))),
        };
        let options = LogOptions {
            segment_bytes: 64 << 10,
            ..LogOptions::default()
        };
        let log = Log::open(disk, options, driver).expect("a log whose synced part is whole opens");
        let options = node_options(id, MEMBERS, seed);
        let parts = Parts {
            log,
            store: Arc::new(store),
            net: Arc::new(net.clone()),
            drive: Box::new(|work| {
                tokio::spawn(work.run());
            }),
            fatal: Arc::new(|_| {}),
        };
        self.net.join(id);
        let node = seeded(seed, Node::start(options, parts))
            .await
            .expect("a member whose synced data is whole starts");
        self.net.serve(id, node.acceptor().clone().into_accept());
        let (line, clean) = Line::new(node.core().clone());
        tokio::spawn(seeded(seed ^ 0x11fe, clean));
        let mut members = self.members.lock();
        let member = members.get_mut(&id).unwrap();
        member.line = Some(line);
        member.node = Some(node);
    }

    /// The power of one member fails.
    pub async fn crash(&self, id: u64) {
        self.compare_hashes();
        self.net.note(("crash", id));
        self.net.leave(id);
        let node = {
            let mut members = self.members.lock();
            let member = members.get_mut(&id).unwrap();
            member.disk.disk.crash();
            let batches = member.store.unsynced() as u64;
            let kept = self.net.draw(0..batches + 1);
            member.store.crash(usize::try_from(kept).unwrap());
            // Now and then the applied state is lost altogether.
            if self.net.draw(0..6) == 0 {
                self.net.note(("wipe", id));
                member.store.wipe();
            }
            member.line = None;
            member.node.take()
        };
        if let Some(node) = node {
            node.kill().await;
        }
    }

    /// Holds what every member's state hashed to against that of the others.
    pub fn compare_hashes(&self) {
        let mut seen = self.hashes.lock();
        for (id, core) in self.cores() {
            for hash in core.state_hashes().since(0) {
                let first = seen.entry(hash.id.index).or_insert(hash);
                assert_eq!(
                    hash, *first,
                    "member {id} has another state than the others"
                );
            }
        }
    }

    pub fn cores(&self) -> Vec<(u64, Core)> {
        let members = self.members.lock();
        members
            .iter()
            .filter_map(|(id, m)| Some((*id, m.node.as_ref()?.core().clone())))
            .collect()
    }

    pub fn core(&self, id: u64) -> Option<Core> {
        let members = self.members.lock();
        Some(members[&id].node.as_ref()?.core().clone())
    }
}

impl Cluster {
    pub fn leader(&self) -> u64 {
        let cores = self.cores();
        let leads = cores.iter().find(|(_, core)| core.is_leader());
        leads.expect("a cluster that serves has a leader").0
    }
}

/// The services of a member.
pub fn services(cluster: &Cluster, member: u64) -> Routes {
    let members = cluster.members.lock();
    let node = members[&member].node.as_ref().expect("it runs");
    let limits = Limits {
        max_txn_ops: 128,
        max_request_bytes: 1 << 20,
        quota_bytes: None,
        min_lease_ttl: 1,
        watch_progress_interval: Duration::from_secs(600),
        compaction_pace: Pace::default(),
        auto_compaction: AutoCompaction::Off,
    };
    Services::new(node.core().clone(), Arc::clone(node.lessor()), limits).routes()
}

/// Starts a whole cluster from `seed` and runs `story` on it once it serves.
pub fn with_cluster<F: Future<Output = ()>>(seed: u64, story: impl FnOnce(Arc<Cluster>) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .rng_seed(tokio::runtime::RngSeed::from_bytes(&seed.to_le_bytes()))
        .build()
        .unwrap();
    runtime.block_on(seeded(seed, async {
        let cluster = Cluster::start(seed, false).await;
        for (_, core) in cluster.cores() {
            while core.read_barrier().await.is_err() {}
        }
        story(cluster).await;
    }));
}

pub fn all_keys(core: &Core) -> BTreeMap<String, i64> {
    let request = RangeRequest {
        key: vec![0].into(),
        range_end: vec![0].into(),
        ..RangeRequest::default()
    };
    let state = core.state().read();
    let mut scan = state.begin_range(&request).unwrap();
    while !scan.step(&state, 1000) {}
    let response = scan.finish(&core.history().view());
    response
        .kvs
        .iter()
        .map(|kv| {
            let key = String::from_utf8(kv.key.to_vec()).unwrap();
            (key, kv.mod_revision)
        })
        .collect()
}
