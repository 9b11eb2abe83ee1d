//! A member: the machine with its disks, which outlive crashes, and the process, which does not.
//!
//! A process is a runtime of its own. Killed, it is dropped, and with it every task wherever it waits; paused, it is not run,
//! and finds afterwards that time went on without it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use batond::config::Config;
use batond::core::{Core, Identity};
use batond::node::{Node, NodeOptions, Parts};
use batond::raft::{RaftOptions, seeded};
use batond::service::{Limits, Services};
use batond::sim::SimNet;
use batond::storage::log::{Driver, Log, LogOptions};
use batond::storage::{MemStore, SimDisk};
use chaos_tests::history::Member;
use chaos_tests::seed;
use parking_lot::Mutex;
use rand::Rng;
use tokio::runtime::{Builder, RngSeed, Runtime};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::points::Points;
use crate::wire::{Door, Wire};

/// Length of a segment of the log: small, so that runs of seconds come to the end of some.
const SEGMENT_BYTES: u64 = 64 << 10;
/// Entries kept below a snapshot.
const CATCHUP_ENTRIES: u64 = 20;
/// How long a sync takes, in microseconds.
const SYNC_US: std::ops::Range<u64> = 50..4000;
/// The cluster.
const CLUSTER: u64 = 0xba70;

/// Milliseconds since the simulation began.
pub type Millis = u64;

/// What is the same for all members.
#[derive(Clone)]
pub struct World {
    /// Where all chance comes from.
    pub seed: u64,
    /// How many members there are.
    pub members: u64,
    /// How they are set up.
    pub config: Arc<Config>,
    /// The network between them.
    pub net: SimNet,
    /// The network to clients.
    pub wire: Wire,
    /// What happens at points of the code.
    pub points: Points,
    /// The time.
    pub now: Arc<AtomicU64>,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World")
            .field("seed", &self.seed)
            .field("members", &self.members)
            .finish_non_exhaustive()
    }
}

/// How badly the disk under the log is doing.
#[derive(Debug, Default)]
pub struct Ailment {
    /// Milliseconds every sync takes longer.
    pub slow_ms: AtomicU64,
    /// Nothing is synced before this time.
    pub hangs_until: AtomicU64,
    /// How many syncs took longer for either.
    pub held_up: AtomicU64,
}

/// A machine.
pub struct Machine {
    /// Which.
    pub member: Member,
    /// The disk under the log.
    pub disk: SimDisk,
    /// The applied state.
    pub store: MemStore,
    /// How the disk is doing.
    pub ailment: Arc<Ailment>,
    /// How often a process was started.
    pub starts: u32,
    /// The process.
    pub process: Option<Process>,
}

/// A process.
pub struct Process {
    runtime: Runtime,
    /// When it started, by its own clock and by that of the simulation.
    began: (Instant, Millis),
    /// How far its clock is.
    clock: Millis,
    /// It is not run.
    pub paused: bool,
    vitals: Arc<Mutex<Vitals>>,
    stop: Arc<Notify>,
}

/// What a process shows.
#[derive(Clone, Default)]
pub struct Vitals {
    /// The services' handle, once consensus runs.
    pub core: Option<Core>,
    /// The log, once it is open.
    pub log: Option<Log>,
    /// It serves clients.
    pub ready: bool,
    /// It was asked to stop, and has.
    pub stopped: bool,
    /// It cannot go on, or could not start.
    pub failed: Option<String>,
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine")
            .field("member", &self.member)
            .field("starts", &self.starts)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process")
            .field("clock", &self.clock)
            .field("paused", &self.paused)
            .finish_non_exhaustive()
    }
}

/// A runtime whose time stands still while anything has something to do.
///
/// # Panics
/// The system refuses even what such a runtime needs.
pub fn runtime(seed: u64) -> Runtime {
    Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .rng_seed(RngSeed::from_bytes(&seed.to_le_bytes()))
        .build()
        .expect("a runtime without input and output needs nothing of the system")
}

impl Machine {
    /// A machine with empty disks. `lies`: it only says that it syncs.
    pub fn new(world: &World, member: Member, lies: bool) -> Self {
        let disk = SimDisk::new(seed::stream_seed(world.seed, &format!("disk {member}")));
        if lies {
            disk.lie();
        }
        Self {
            member,
            disk,
            store: MemStore::new(),
            ailment: Arc::default(),
            starts: 0,
            process: None,
        }
    }

    /// Starts a process, unless one runs.
    pub fn start(&mut self, world: &World) {
        if self.process.is_some() {
            return;
        }
        self.starts += 1;
        self.store.fail(false);
        let name = format!("member {} start {}", self.member, self.starts);
        let seed = seed::stream_seed(world.seed, &name);
        let runtime = runtime(seed);
        let began = runtime.block_on(async { Instant::now() });
        let now = world.now.load(Ordering::Relaxed);
        let vitals = Arc::<Mutex<Vitals>>::default();
        let stop = Arc::<Notify>::default();
        world.net.join(self.member);
        let life = live(
            world.clone(),
            self.member,
            seed,
            self.disk.attach(),
            self.store.clone(),
            Arc::clone(&self.ailment),
            Arc::clone(&vitals),
            Arc::clone(&stop),
        );
        runtime.spawn(life);
        self.process = Some(Process {
            runtime,
            began: (began, now),
            clock: now,
            paused: false,
            vitals,
            stop,
        });
    }

    /// Ends a process that has no effect any more.
    pub fn bury(&mut self) {
        if let Some(process) = self.process.take() {
            process.vitals.lock().clone_from(&Vitals::default());
        }
    }

    /// Ends the process at once. With the power, what was not synced goes as well; `kept` says how many of the unsynced
    /// batches of the state store, out of how many, are left then.
    pub fn kill(&mut self, world: &World, power_fails: Option<&mut dyn FnMut(usize) -> usize>) {
        if self.process.is_none() {
            return;
        }
        match power_fails {
            Some(kept) => {
                world.net.vanish(self.member);
                world.wire.close(self.member, false);
                self.disk.crash();
                self.store.crash(kept(self.store.unsynced()));
            }
            None => {
                world.net.leave(self.member);
                world.wire.close(self.member, true);
            }
        }
        self.bury();
    }
}

impl Process {
    /// Lets it run until `now`.
    pub fn run(&mut self, now: Millis) {
        let (began, at) = self.began;
        let until = began + Duration::from_millis(now - at);
        let missed = (now - self.clock).saturating_sub(1);
        self.clock = now;
        self.runtime.block_on(async move {
            if missed > 0 {
                tokio::time::advance(Duration::from_millis(missed)).await;
            }
            tokio::time::sleep_until(until).await;
        });
    }

    /// Asks it to stop, as SIGTERM does.
    pub fn stop(&self) {
        self.stop.notify_one();
    }

    /// What it shows.
    pub fn vitals(&self) -> Vitals {
        self.vitals.lock().clone()
    }

    /// Looks at it in its own time.
    pub fn look<T>(&self, look: impl FnOnce(&Vitals) -> T) -> T {
        let _entered = self.runtime.enter();
        look(&self.vitals.lock())
    }
}

fn options(world: &World, member: Member, seed: u64) -> NodeOptions {
    let config = &world.config;
    let members = (1..=world.members).map(|id| (id, vec![format!("sim://{id}")]));
    NodeOptions {
        identity: Identity {
            member_id: member,
            cluster_id: CLUSTER,
            request_timeout: Duration::from_secs(5) + 2 * config.election_timeout,
            election_timeout: config.election_timeout,
            request_bytes_max: config.max_request_bytes,
        },
        name: format!("m{member}"),
        client_urls: vec![format!("sim://{member}")],
        version: batond::service::ETCD_VERSION.to_owned(),
        members: members.collect(),
        raft: RaftOptions {
            heartbeat_interval: config.heartbeat_interval,
            election_timeout: config.election_timeout,
            snapshot_count: config.snapshot_count,
            catchup_entries: CATCHUP_ENTRIES,
            seed,
        },
    }
}

/// The life of a process, as in the server's own `main` and `boot`.
#[allow(clippy::too_many_arguments, reason = "what a process is given")]
async fn live(
    world: World,
    member: Member,
    seed: u64,
    disk: SimDisk,
    store: MemStore,
    ailment: Arc<Ailment>,
    vitals: Arc<Mutex<Vitals>>,
    stop: Arc<Notify>,
) {
    let fail = {
        let vitals = Arc::clone(&vitals);
        move |why: String| {
            vitals.lock().failed.get_or_insert(why);
        }
    };
    let mut chance = seed::stream(seed, "syncs");
    let now = Arc::clone(&world.now);
    let sync_delay = move || {
        let hangs = ailment.hangs_until.load(Ordering::Relaxed);
        let hangs = hangs.saturating_sub(now.load(Ordering::Relaxed));
        let slow = ailment.slow_ms.load(Ordering::Relaxed) + hangs;
        ailment
            .held_up
            .fetch_add(u64::from(slow > 0), Ordering::Relaxed);
        Duration::from_micros(chance.random_range(SYNC_US)) + Duration::from_millis(slow)
    };
    let on_fatal = fail.clone();
    let log_options = LogOptions {
        segment_bytes: SEGMENT_BYTES,
        on_fatal: Box::new(move |error| on_fatal(format!("the log failed: {error}"))),
        ..LogOptions::default()
    };
    let driver = Driver::Task {
        sync_delay: Box::new(sync_delay),
    };
    let log = match Log::open(disk, log_options, driver) {
        Ok(log) => log,
        Err(error) => return fail(format!("cannot open the log: {error}")),
    };
    vitals.lock().log = Some(log.clone());
    let options = options(&world, member, seed);
    let parts = Parts {
        log,
        store: Arc::new(store),
        net: Arc::new(world.net.clone()),
        drive: Box::new(|work| {
            tokio::spawn(work.run());
        }),
        fatal: Arc::new(fail.clone()),
    };
    let node = match seeded(seed, Node::start(options.clone(), parts)).await {
        Ok(node) => node,
        Err(error) => return fail(format!("cannot start: {error}")),
    };
    vitals.lock().core = Some(node.core().clone());
    world
        .net
        .serve(member, node.acceptor().clone().into_accept());
    let limits = Limits::of(&world.config);
    let services = Services::new(node.core().clone(), Arc::clone(node.lessor()), limits);
    let routes = services.routes();
    tokio::spawn(async move { services.run().await });
    tokio::select! {
        biased;
        () = stop.notified() => {}
        () = async {
            node.serve_ready(&options).await;
            let runtime = tokio::runtime::Handle::current();
            world.wire.open(member, Door { runtime, routes });
            vitals.lock().ready = true;
            stop.notified().await;
        } => {}
    }
    node.stop().await;
    vitals.lock().stopped = true;
}
