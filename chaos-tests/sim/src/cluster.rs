//! All runtimes of a simulation, and the hand that lets each run for a millisecond in turn.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Once};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use batond::config::{self, Action, Config};
use batond::sim::SimNet;
use chaos_tests::history::{Member, MemberEvent, MemberStep, Record, Recorder};
use chaos_tests::plan::Plan;
use chaos_tests::seed;
use parking_lot::{Mutex, MutexGuard};
use rand::Rng;
use rand::rngs::SmallRng;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::invariants::{Invariants, Last};
use crate::machine::{Machine, Millis, World, runtime};
use crate::points::{self, Points};
use crate::wire::Wire;

/// Shortest and longest time of a frame between members, while no fault makes it longer.
pub const DELAY: (Duration, Duration) = (Duration::from_micros(200), Duration::from_millis(4));

/// The longest time between two records of where a member stands.
const STATUS_EVERY: Millis = 500;

/// The name, in a plan, of the control whose disks only say that they sync.
pub const LYING_DISK: &str = "lying_disk";

thread_local! {
    static PANICS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// There is one simulation at a time in a process: planted bugs and the numbers of tasks are the whole process's.
static ALONE: Mutex<()> = Mutex::new(());

/// What can be done to a member's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Start it, if none runs.
    Start,
    /// SIGKILL.
    Kill,
    /// The power fails.
    PowerCut,
    /// SIGTERM.
    Stop,
    /// SIGSTOP.
    Pause,
    /// SIGCONT.
    Resume,
    /// It crashed by itself, and has had no effect since.
    Bury,
}

/// Where a member stands, as anyone may see it.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// A process runs, or is paused.
    pub runs: bool,
    /// It is paused.
    pub paused: bool,
    /// It serves clients.
    pub ready: bool,
    /// How often a process was started.
    pub starts: u32,
    /// Its position, while consensus runs.
    pub last: Option<Last>,
}

/// What those who live in the simulation can do to the processes in it. Cheap to clone.
#[derive(Clone)]
pub struct Hands {
    orders: Arc<Mutex<Orders>>,
    seen: Arc<Mutex<Vec<Seen>>>,
    excuses: Arc<Mutex<Excuses>>,
}

/// Which members may end by themselves.
#[derive(Debug, Default)]
struct Excuses {
    /// Because of these faults, by their numbers, as long as those are in force.
    faults: BTreeSet<(Member, usize)>,
    /// As those of their processes that lived through such a fault, up to this start: what it did to them may show later.
    starts: BTreeMap<Member, u32>,
}

impl Excuses {
    fn cover(&self, member: Member, start: u32) -> bool {
        let is_in_force = self.faults.iter().any(|(of, _)| *of == member);
        let lived_through = self.starts.get(&member);
        is_in_force || lived_through.is_some_and(|last| start <= *last)
    }
}

type Orders = VecDeque<(Member, Order, oneshot::Sender<()>)>;

impl fmt::Debug for Hands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hands")
    }
}

impl Hands {
    /// Has something done, and returns when it is.
    pub async fn order(&self, member: Member, order: Order) {
        let (done, is_done) = oneshot::channel();
        self.orders.lock().push_back((member, order, done));
        // The cluster outlives everyone in it.
        let _ = is_done.await;
    }

    /// Has a process ended that crashed by itself.
    pub fn bury(&self, member: Member) {
        let (done, _) = oneshot::channel();
        self.orders.lock().push_back((member, Order::Bury, done));
    }

    /// Where a member stands.
    pub fn seen(&self, member: Member) -> Seen {
        let seen = self.seen.lock();
        let index = usize::try_from(member - 1).unwrap_or(usize::MAX);
        seen.get(index).cloned().unwrap_or_default()
    }

    /// The fault number `fault` is a reason for the member to end by itself.
    pub fn excuse(&self, member: Member, fault: usize) {
        self.excuses.lock().faults.insert((member, fault));
    }

    /// The fault is over. A process that lived through it may still end of it, a later one may not.
    pub fn excuse_no_more(&self, member: Member, fault: usize) {
        let start = self.seen(member).starts;
        let mut excuses = self.excuses.lock();
        if excuses.faults.remove(&(member, fault)) {
            excuses.starts.insert(member, start);
        }
    }
}

/// A simulated cluster, its clients and its networks.
pub struct Cluster {
    world: World,
    clients: Runtime,
    began: Instant,
    recorder: Recorder,
    machines: Vec<Machine>,
    hands: Hands,
    invariants: Invariants,
    chance: SmallRng,
    told: Vec<(Option<Last>, Millis)>,
    harness_panics: Vec<String>,
    _alone: MutexGuard<'static, ()>,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster")
            .field("world", &self.world)
            .field("machines", &self.machines)
            .finish_non_exhaustive()
    }
}

impl Cluster {
    /// The machines of a plan; no process runs yet.
    ///
    /// # Errors
    /// The plan's flags are none of the server's.
    pub fn new(plan: &Plan) -> Result<Self> {
        let alone = ALONE.lock();
        catch_panics();
        align_task_numbers();
        let config = Arc::new(config_of(plan)?);
        let clients = runtime(seed::stream_seed(plan.seed, "clients"));
        let (net, recorder, began) = clients.block_on(async {
            let net = SimNet::new(seed::stream_seed(plan.seed, "net"), DELAY);
            (net, Recorder::begin(), Instant::now())
        });
        let world = World {
            seed: plan.seed,
            members: plan.members,
            config,
            net,
            wire: Wire::new(seed::stream(plan.seed, "wire")),
            points: Points::default(),
            now: Arc::new(AtomicU64::new(0)),
        };
        world.points.take_over();
        let mutant = plan.server.mutant.as_deref();
        let lies = mutant == Some(LYING_DISK);
        points::plant(mutant.filter(|_| !lies))?;
        let machines: Vec<Machine> = (1..=plan.members)
            .map(|member| Machine::new(&world, member, lies))
            .collect();
        let hands = Hands {
            orders: Arc::default(),
            seen: Arc::new(Mutex::new(vec![Seen::default(); machines.len()])),
            excuses: Arc::default(),
        };
        Ok(Self {
            told: vec![(None, 0); machines.len()],
            harness_panics: Vec::new(),
            world,
            clients,
            began,
            recorder,
            machines,
            hands,
            invariants: Invariants::default(),
            chance: seed::stream(plan.seed, "machines"),
            _alone: alone,
        })
    }

    /// What all members share.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// The machines.
    pub fn machines(&self) -> &[Machine] {
        &self.machines
    }

    /// Where everything is taken down.
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// What can be done to processes from inside.
    pub fn hands(&self) -> &Hands {
        &self.hands
    }

    /// What held of consensus.
    pub fn invariants(&self) -> &Invariants {
        &self.invariants
    }

    /// Panics of clients and of what disturbs the cluster.
    pub fn harness_panics(&self) -> &[String] {
        &self.harness_panics
    }

    /// Runs until `story`, which lives with the clients, is over.
    ///
    /// # Errors
    /// It is not after `limit` of simulated time, or it panicked.
    pub fn run<T: Send + 'static>(
        &mut self,
        limit: Millis,
        story: impl Future<Output = T> + Send + 'static,
    ) -> Result<T> {
        let story = self.clients.spawn(story);
        let end = self.now() + limit;
        while !story.is_finished() {
            if self.now() >= end {
                bail!("the run did not end within {limit} ms of simulated time");
            }
            self.step();
        }
        self.clients
            .block_on(story)
            .context("what goes on in the simulation")
    }

    fn now(&self) -> Millis {
        self.world.now.load(Ordering::Relaxed)
    }

    fn step(&mut self) {
        self.obey();
        let now = self.now() + 1;
        let until = self.began + Duration::from_millis(now);
        self.clients
            .block_on(async { tokio::time::sleep_until(until).await });
        let panics = PANICS.with_borrow_mut(std::mem::take);
        self.harness_panics.extend(panics);
        self.world.now.store(now, Ordering::Relaxed);
        for index in 0..self.machines.len() {
            self.run_machine(index, now);
        }
    }

    fn run_machine(&mut self, index: usize, now: Millis) {
        let machine = &mut self.machines[index];
        let (member, starts) = (machine.member, machine.starts);
        let mut seen = Seen {
            starts,
            ..Seen::default()
        };
        if let Some(process) = &mut machine.process {
            seen.runs = true;
            seen.paused = process.paused;
            if !process.paused {
                self.world.points.run(Some(member));
                process.run(now);
                self.world.points.run(None);
            }
            let invariants = &mut self.invariants;
            let (last, ready, ended) = process.look(|vitals| {
                let ended = vitals.failed.clone();
                let ended = ended.or_else(|| vitals.stopped.then(|| "stopped".to_owned()));
                (invariants.look(member, starts, vitals), vitals.ready, ended)
            });
            seen.last = last;
            seen.ready = ready;
            self.tell(index, last, now);
            for (member, sample) in std::mem::take(&mut self.invariants.samples) {
                let event = MemberEvent::StateHash {
                    index: sample.id.index,
                    term: sample.id.term,
                    hash: sample.hash,
                };
                self.record(member, event);
            }
            if let Some(status) = ended {
                self.machines[index].kill(&self.world, None);
                seen = Seen {
                    starts,
                    ..Seen::default()
                };
                let is_excused = self.hands.excuses.lock().cover(member, starts);
                let expected = status == "stopped" || is_excused;
                self.record(member, MemberEvent::Ended { status, expected });
            }
            self.take_panics(member);
        }
        self.hands.seen.lock()[index] = seen;
    }

    /// Records where a member stands, when that changed and now and then.
    fn tell(&mut self, index: usize, last: Option<Last>, now: Millis) {
        let Some(last) = last else { return };
        let (told, at) = self.told[index];
        let is_news = told.is_none_or(|told| {
            (told.start, told.leads, told.term) != (last.start, last.leads, last.term)
        });
        if !is_news && now - at < STATUS_EVERY {
            return;
        }
        self.told[index] = (Some(last), now);
        let machine = &self.machines[index];
        let core = machine.process.as_ref().and_then(|p| p.vitals().core);
        let revision = core.map_or(0, |core| core.state().read().revision());
        self.record(
            machine.member,
            MemberEvent::Status {
                leads: last.leads,
                term: last.term,
                applied_index: last.applied,
                revision,
            },
        );
    }

    fn obey(&mut self) {
        let orders = std::mem::take(&mut *self.hands.orders.lock());
        for (member, order, done) in orders {
            self.obey_one(member, order);
            let _ = done.send(());
        }
    }

    fn obey_one(&mut self, member: Member, order: Order) {
        let index = usize::try_from(member - 1).unwrap_or(usize::MAX);
        let Some(machine) = self.machines.get_mut(index) else {
            return;
        };
        let ran = machine.process.is_some();
        self.world
            .net
            .note((member, format!("{order:?}"), machine.starts));
        let mut ended = None;
        match order {
            Order::Start => machine.start(&self.world),
            Order::Kill => {
                machine.kill(&self.world, None);
                ended = Some("killed");
            }
            Order::PowerCut => {
                let chance = &mut self.chance;
                let mut kept = |batches: usize| chance.random_range(0..=batches);
                machine.kill(&self.world, Some(&mut kept));
                ended = Some("lost power");
            }
            Order::Stop => {
                if let Some(process) = &machine.process {
                    process.stop();
                }
            }
            Order::Bury => {
                machine.bury();
                ended = Some("crashed at a point of the code");
            }
            Order::Pause | Order::Resume => {
                if let Some(process) = &mut machine.process {
                    process.paused = order == Order::Pause;
                }
            }
        }
        let runs = machine.process.is_some();
        let pid = machine.starts;
        if runs && !ran {
            self.record(member, MemberEvent::Started { pid });
        }
        if ran && let Some(status) = ended {
            let status = status.to_owned();
            let expected = true;
            self.record(member, MemberEvent::Ended { status, expected });
        }
        let mut seen = self.hands.seen.lock();
        seen[index].runs = runs;
        seen[index].starts = pid;
        if !runs {
            seen[index] = Seen {
                starts: pid,
                ..Seen::default()
            };
        }
    }

    fn record(&self, member: Member, event: MemberEvent) {
        let _entered = self.clients.enter();
        let at = self.recorder.now();
        self.recorder
            .add(Record::Member(MemberStep { member, at, event }));
    }

    /// A panic in a task ends that task and nothing else, so nobody else would notice.
    fn take_panics(&self, member: Member) {
        let panics = PANICS.with_borrow_mut(std::mem::take);
        for panic in panics {
            self.record(member, MemberEvent::Alarming(panic));
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for machine in &mut self.machines {
            machine.kill(&self.world, None);
        }
        PANICS.with_borrow_mut(Vec::clear);
    }
}

/// A process that is killed drops its tasks, and others see in what order. Tokio makes that order of the low bits of the tasks'
/// numbers, and numbers all tasks that there ever were; so that a simulation does the same whatever came before it, it begins
/// at a round number.
fn align_task_numbers() {
    const ROUND: u64 = 64;
    let runtime = runtime(0);
    let next = || runtime.spawn(async {}).id().to_string().parse::<u64>();
    while next().is_ok_and(|number| !number.is_multiple_of(ROUND)) {}
}

/// Has panics of this thread taken down, instead of only printed.
fn catch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANICS.with_borrow_mut(|panics| panics.push(panic.to_string()));
            before(panic);
        }));
    });
    PANICS.with_borrow_mut(Vec::clear);
}

/// The configuration that the plan's flags make, as the server itself reads them.
fn config_of(plan: &Plan) -> Result<Config> {
    let server = &plan.server;
    let mut flags = vec![
        format!("--heartbeat-interval={}", server.heartbeat_ms),
        format!("--election-timeout={}", server.election_ms),
        format!("--snapshot-count={}", server.snapshot_count),
    ];
    flags.extend(server.flags.iter().cloned());
    match config::load(&flags, &[])? {
        Action::Serve(config) => Ok(*config),
        Action::Print(_) => bail!("the flags of the plan start no member"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_excused_by_a_fault_and_by_no_other_ones_end() {
        let mut excuses = Excuses::default();
        excuses.faults.insert((2, 7));
        assert!(excuses.cover(2, 5));
        assert!(!excuses.cover(1, 5));
        excuses.faults.remove(&(2, 6));
        assert!(excuses.cover(2, 5));
    }

    #[test]
    fn a_process_that_lived_through_a_fault_may_end_of_it_later_and_the_next_may_not() {
        let mut excuses = Excuses::default();
        excuses.starts.insert(2, 5);
        assert!(excuses.cover(2, 5));
        assert!(!excuses.cover(2, 6));
    }
}
