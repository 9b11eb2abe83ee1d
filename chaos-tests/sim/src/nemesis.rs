//! Makes the faults of a plan in the simulation, shows that each took hold, and takes it back.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use baton_proto::etcdserverpb as pb;
use batond::sim::{Counts, Mishaps, SimNet};
use batond::storage::{MemStore, SimDisk};
use chaos_tests::client::{Client, Dial};
use chaos_tests::history::{FaultStep, Member, Outcome, Phase, Record, Recorder};
use chaos_tests::plan::{Fault, Plan, PlannedFault, PointAction, Target};
use chaos_tests::seed;
use chaos_tests::workload::witness::Witnessed;
use parking_lot::Mutex;
use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::cluster::{Cluster, DELAY, Hands, Order};
use crate::machine::{Ailment, Millis};
use crate::points::{self, Points};
use crate::wire::Wire;

/// The workload name of calls that faults make.
const NEMESIS: &str = "nemesis";
/// How often it is looked whether a fault took hold.
const LOOK: Duration = Duration::from_millis(20);
/// How long a member may take to stop, or to serve after a start, before the fault is given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Everything that can be disturbed.
#[derive(Clone)]
pub struct Nemesis {
    hands: Hands,
    members: u64,
    net: SimNet,
    wire: Wire,
    dial: Dial,
    witnessed: Witnessed,
    recorder: Recorder,
    points: Points,
    now: Arc<AtomicU64>,
    disks: Vec<(SimDisk, MemStore, Arc<Ailment>)>,
    active: Arc<Mutex<Active>>,
    seed: u64,
    heartbeat: Duration,
}

/// Faults that several may have at a time, by their numbers.
#[derive(Debug, Default)]
struct Active {
    cut: BTreeMap<usize, BTreeSet<(Member, Member)>>,
    clients: BTreeMap<usize, BTreeSet<Member>>,
    delay: BTreeMap<usize, (u64, u64)>,
    mishaps: BTreeMap<usize, Mishaps>,
}

impl fmt::Debug for Nemesis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nemesis")
            .field("members", &self.members)
            .finish_non_exhaustive()
    }
}

/// A fault that is being made.
struct Making {
    nemesis: Nemesis,
    number: usize,
    kind: String,
    members: Vec<Member>,
    hold: Duration,
    until: Instant,
    chance: SmallRng,
}

impl Nemesis {
    /// The nemesis of a cluster whose witnesses are this far.
    pub fn of(cluster: &Cluster, plan: &Plan, witnessed: Witnessed) -> Self {
        let world = cluster.world();
        Self {
            hands: cluster.hands().clone(),
            members: plan.members,
            net: world.net.clone(),
            wire: world.wire.clone(),
            dial: world.wire.dial(),
            witnessed,
            recorder: cluster.recorder().clone(),
            points: world.points.clone(),
            now: Arc::clone(&world.now),
            disks: cluster
                .machines()
                .iter()
                .map(|m| (m.disk.clone(), m.store.clone(), Arc::clone(&m.ailment)))
                .collect(),
            active: Arc::default(),
            seed: plan.seed,
            heartbeat: Duration::from_millis(plan.server.heartbeat_ms),
        }
    }

    /// Makes every fault of the plan at its time, and returns when all are healed.
    pub async fn run(&self, faults: &[PlannedFault]) {
        let began = Instant::now();
        let mut tasks = JoinSet::new();
        for (number, planned) in faults.iter().enumerate() {
            let at = began + Duration::from_millis(planned.at_ms);
            let hold = Duration::from_millis(planned.hold_ms);
            let making = Making {
                nemesis: self.clone(),
                number,
                kind: planned.fault.kind(),
                members: Vec::new(),
                hold,
                until: at + hold,
                chance: seed::stream(self.seed, &format!("fault {number}")),
            };
            let fault = planned.fault.clone();
            tasks.spawn(async move {
                tokio::time::sleep_until(at).await;
                making.make(fault).await;
            });
        }
        while let Some(made) = tasks.join_next().await {
            // A panic is in the history as alarming.
            let _ = made;
        }
    }

    /// Starts a member and waits until it serves.
    pub async fn start(&self, member: Member) -> bool {
        self.hands.order(member, Order::Start).await;
        let ready = async {
            while !self.hands.seen(member).ready {
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::time::timeout(PATIENCE, ready).await.is_ok()
    }

    /// A process crashes where it is: what it does before it is buried has no effect.
    fn crash(&self, member: Member, power_fails: Option<u64>) {
        let Some((disk, store, _)) = self.disk(member) else {
            return;
        };
        if let Some(kept) = power_fails {
            self.net.vanish(member);
            disk.crash();
            let batches = store.unsynced() as u64 + 1;
            store.crash(usize::try_from(kept % batches).unwrap_or_default());
        } else {
            self.net.leave(member);
            disk.abandon();
        }
        store.fail(true);
        self.wire.close(member, power_fails.is_none());
        self.hands.bury(member);
    }

    fn disk(&self, member: Member) -> Option<&(SimDisk, MemStore, Arc<Ailment>)> {
        self.disks.get(usize::try_from(member - 1).ok()?)
    }

    /// Changes what is going on, and has it so.
    fn change(&self, change: impl FnOnce(&mut Active)) {
        let mut active = self.active.lock();
        change(&mut active);
        self.net
            .cut_links(active.cut.values().flatten().copied().collect());
        self.wire
            .cut(active.clients.values().flatten().copied().collect());
        let (mut shortest, mut longest) = DELAY;
        for (ms, jitter) in active.delay.values() {
            shortest += Duration::from_millis(ms.saturating_sub(*jitter));
            longest += Duration::from_millis(ms + jitter);
        }
        self.net.set_delay((shortest, longest));
        let mut all = Mishaps::default();
        for one in active.mishaps.values() {
            let add = |to: &mut f64, more: f64| *to = (*to + more).min(0.9);
            add(&mut all.lost, one.lost);
            add(&mut all.broken, one.broken);
            add(&mut all.late, one.late);
            add(&mut all.twice, one.twice);
            add(&mut all.replayed, one.replayed);
        }
        self.net.set_mishaps(all);
    }

    fn everyone(&self) -> impl Iterator<Item = Member> + use<> {
        1..=self.members
    }

    fn leader(&self) -> Option<Member> {
        self.everyone()
            .filter_map(|member| {
                let seen = self.hands.seen(member);
                let last = seen.last.filter(|last| last.leads && !seen.paused)?;
                Some((last.term, member))
            })
            .max()
            .map(|(_, member)| member)
    }
}

impl Making {
    fn tell(&self, phase: Phase) {
        let recorder = &self.nemesis.recorder;
        recorder.add(Record::Fault(FaultStep {
            fault: self.number,
            kind: self.kind.clone(),
            members: self.members.clone(),
            at: recorder.now(),
            phase,
        }));
    }

    /// Whom a fault is about: among members that run.
    fn resolve(&mut self, target: Target) -> Vec<Member> {
        let nemesis = &self.nemesis;
        let mut running: Vec<Member> = nemesis
            .everyone()
            .filter(|member| {
                let seen = nemesis.hands.seen(*member);
                seen.runs && !seen.paused
            })
            .collect();
        running.shuffle(&mut self.chance);
        let leader = nemesis.leader();
        let may_fail = usize::try_from((nemesis.members - 1) / 2).unwrap_or_default();
        match target {
            Target::Leader => leader.into_iter().collect(),
            Target::Follower => {
                running.retain(|member| Some(*member) != leader);
                running.truncate(1);
                running
            }
            Target::Any => {
                running.truncate(1);
                running
            }
            Target::Minority => {
                running.truncate(may_fail);
                running
            }
            Target::Majority => {
                running.truncate(may_fail + 1);
                running
            }
            Target::All => running,
            Target::Member(member) => {
                running.retain(|one| *one == member);
                running
            }
        }
    }

    /// Resolves the target; without one, the fault is skipped.
    fn aim(&mut self, target: Target) -> bool {
        self.members = self.resolve(target);
        self.members.sort_unstable();
        if self.members.is_empty() {
            self.tell(Phase::Skipped("there is no such member now".into()));
            return false;
        }
        self.tell(Phase::Installing);
        true
    }

    async fn hold(&self) {
        tokio::time::sleep_until(self.until).await;
    }

    /// Looks until the fault is over whether it took hold, and holds it in any case.
    async fn hold_and_prove(&self, what: &str, count: impl Fn() -> u64) {
        let before = count();
        while Instant::now() < self.until {
            tokio::time::sleep_until(self.until.min(Instant::now() + LOOK)).await;
            if count() > before {
                self.tell(Phase::Proved(format!("{what}: {}", count() - before)));
                return self.hold().await;
            }
        }
        self.tell(without_effect(&format!("no {what}")));
    }

    fn net(&self, of: fn(Counts) -> u64) -> impl Fn() -> u64 + use<> {
        let net = self.nemesis.net.clone();
        move || of(net.counts())
    }

    /// Syncs of the targets that took longer.
    fn held_up(&self) -> impl Fn() -> u64 + use<> {
        let ailments: Vec<Arc<Ailment>> = self
            .members
            .iter()
            .filter_map(|member| self.nemesis.disk(*member))
            .map(|(_, _, ailment)| Arc::clone(ailment))
            .collect();
        move || {
            let held_up = ailments.iter().map(|a| a.held_up.load(Ordering::Relaxed));
            held_up.sum()
        }
    }

    fn stalls(&self) -> impl Fn() -> u64 + use<> {
        self.net(|counts| counts.stalled + counts.refused)
    }

    fn cut(&self, is_cut: impl Fn(Member, Member) -> bool) {
        let everyone = || self.nemesis.everyone();
        let links = everyone()
            .flat_map(|a| everyone().map(move |b| (a, b)))
            .filter(|(a, b)| a != b && is_cut(*a, *b));
        let links = links.collect();
        let number = self.number;
        self.nemesis.change(|active| {
            active.cut.insert(number, links);
        });
    }

    fn heal_links(&self) {
        self.tell(Phase::Healing);
        self.nemesis.change(|active| {
            active.cut.remove(&self.number);
            active.clients.remove(&self.number);
            active.delay.remove(&self.number);
            active.mishaps.remove(&self.number);
        });
        self.tell(Phase::Healed("every link carries again".into()));
    }

    async fn hold_cut(&self) {
        self.hold_and_prove("stalled messages", self.stalls()).await;
        self.heal_links();
    }

    async fn hold_mishaps(&self, mishaps: Mishaps, what: &str, of: fn(Counts) -> u64) {
        let count = self.net(of);
        self.nemesis.change(|active| {
            active.mishaps.insert(self.number, mishaps);
        });
        self.hold_and_prove(what, count).await;
        self.heal_links();
    }

    async fn order_all(&self, order: Order) {
        for member in &self.members {
            self.nemesis.hands.order(*member, order).await;
        }
    }

    /// Starts the targets again, at once, as after a power cut of the whole room.
    async fn start_again(&self) {
        self.tell(Phase::Healing);
        for member in &self.members {
            self.nemesis.hands.order(*member, Order::Start).await;
        }
        self.tell(Phase::Healed("started again".into()));
    }

    async fn make(mut self, fault: Fault) {
        match fault {
            Fault::Isolate { target } => {
                if self.aim(target) {
                    let inside = self.members.clone();
                    self.cut(|a, b| inside.contains(&a) != inside.contains(&b));
                    self.hold_cut().await;
                }
            }
            Fault::OneWay { target, inbound } => {
                if self.aim(target) {
                    let inside = self.members.clone();
                    let is_inside = |member: Member| inside.contains(&member);
                    self.cut(|a, b| {
                        let (to, from) = if inbound { (b, a) } else { (a, b) };
                        is_inside(to) && !is_inside(from)
                    });
                    self.hold_cut().await;
                }
            }
            Fault::Bridge => self.bridge().await,
            Fault::Ring => {
                let members = self.nemesis.members;
                if members < 5 {
                    return self.tell(Phase::Skipped("a ring needs five members".into()));
                }
                self.tell(Phase::Installing);
                self.cut(|a, b| {
                    let apart = a.abs_diff(b);
                    apart.min(members - apart) > members / 4
                });
                self.hold_cut().await;
            }
            Fault::CutClients { target } => {
                if self.aim(target) {
                    let members = self.members.iter().copied().collect();
                    self.nemesis.change(|active| {
                        active.clients.insert(self.number, members);
                    });
                    let wire = self.nemesis.wire.clone();
                    self.hold_and_prove("stalled calls", || wire.stalled())
                        .await;
                    self.heal_links();
                }
            }
            Fault::Flap { target, period_ms } => {
                if self.aim(target) {
                    self.flap(Duration::from_millis(period_ms)).await;
                }
            }
            Fault::Swizzle => self.swizzle().await,
            Fault::Delay { ms, jitter_ms } => {
                self.tell(Phase::Installing);
                self.nemesis.change(|active| {
                    active.delay.insert(self.number, (ms, jitter_ms));
                });
                self.hold_and_prove("delayed messages", self.net(|c| c.delivered))
                    .await;
                self.heal_links();
            }
            Fault::Loss { percent } => {
                self.tell(Phase::Installing);
                let lost = f64::from(percent) / 100.0;
                let mishaps = Mishaps {
                    lost,
                    ..Mishaps::default()
                };
                self.hold_mishaps(mishaps, "messages sent again", |c| c.lost)
                    .await;
            }
            Fault::Messages {
                broken,
                late,
                twice,
                replayed,
            } => {
                self.tell(Phase::Installing);
                let chance = |of_thousand: u32| f64::from(of_thousand) / 1000.0;
                let mishaps = Mishaps {
                    lost: 0.0,
                    broken: chance(broken),
                    late: chance(late),
                    twice: chance(twice),
                    replayed: chance(replayed),
                };
                let count = |c: Counts| c.broken + c.late + c.twice + c.replayed;
                self.hold_mishaps(mishaps, "messages mistreated", count)
                    .await;
            }
            Fault::StaleSnapshot { target } => {
                self.stale_snapshot(target).await;
            }
            Fault::SlowLink { target, kbit } => {
                if self.aim(target) {
                    for member in &self.members {
                        self.nemesis.net.set_rate(*member, Some(kbit * 1000 / 8));
                    }
                    self.hold_and_prove("messages on a slow link", self.net(|c| c.slowed))
                        .await;
                    self.tell(Phase::Healing);
                    for member in &self.members {
                        self.nemesis.net.set_rate(*member, None);
                    }
                    self.tell(Phase::Healed("its link is fast again".into()));
                }
            }
            Fault::Reset { target } => {
                if self.aim(target) {
                    for member in &self.members {
                        self.nemesis.net.reset(*member);
                    }
                    // None of them has noticed yet.
                    self.hold_and_prove("streams broken", self.net(|c| c.reset))
                        .await;
                    self.tell(Phase::Healed("it is over".into()));
                }
            }
            Fault::Kill { target } => {
                if self.aim(target) {
                    self.order_all(Order::Kill).await;
                    self.tell(Phase::Proved("no process runs".into()));
                    self.hold().await;
                    self.start_again().await;
                }
            }
            Fault::PowerCut { target } => {
                if self.aim(target) {
                    let unsynced = self.unsynced();
                    self.order_all(Order::PowerCut).await;
                    self.tell(Phase::Proved(format!("{unsynced} changes were not synced")));
                    self.hold().await;
                    self.start_again().await;
                }
            }
            Fault::Terminate { target } => {
                if self.aim(target) {
                    let mut stopped = true;
                    for member in self.members.clone() {
                        stopped &= self.stop(member).await;
                    }
                    self.tell(if stopped {
                        Phase::Proved("it stopped".into())
                    } else {
                        Phase::Failed("it did not stop".into())
                    });
                    self.hold().await;
                    self.start_again().await;
                }
            }
            Fault::KillInStartUp { target } => {
                let longest = 2 * self.nemesis.heartbeat;
                self.kill_over_and_over(target, longest).await;
            }
            Fault::KillLoop { target, period_ms } => {
                self.kill_over_and_over(target, Duration::from_millis(period_ms))
                    .await;
            }
            Fault::Pause { target } => {
                if self.aim(target) {
                    self.order_all(Order::Pause).await;
                    self.tell(Phase::Proved("it does not run".into()));
                    self.hold().await;
                    self.tell(Phase::Healing);
                    self.order_all(Order::Resume).await;
                    self.tell(Phase::Healed("it runs again".into()));
                }
            }
            Fault::LoseState { target } => self.lose_state(target).await,
            Fault::DiskSlow { target, ms } => {
                if self.aim(target) {
                    self.each_ailment(|ailment| ailment.slow_ms.store(ms, Ordering::Relaxed));
                    self.hold_and_prove(&format!("syncs that took {ms} ms longer"), self.held_up())
                        .await;
                    self.tell(Phase::Healing);
                    self.each_ailment(|ailment| ailment.slow_ms.store(0, Ordering::Relaxed));
                    self.tell(Phase::Healed("syncs are fast again".into()));
                }
            }
            Fault::DiskHang { target } => {
                if self.aim(target) {
                    let until = self.now() + u64::try_from(self.hold.as_millis()).unwrap_or(0);
                    self.each_ailment(|ailment| {
                        ailment.hangs_until.store(until, Ordering::Relaxed);
                    });
                    self.hold_and_prove("syncs that waited", self.held_up())
                        .await;
                    self.tell(Phase::Healed("syncs are done".into()));
                }
            }
            Fault::SyncError { target, when } => {
                let fail = move |disk: &SimDisk| disk.fail_sync(when);
                self.fail_disk(target, fail, |_| {}).await;
            }
            Fault::DiskReadOnly { target } => {
                self.fail_disk(target, |disk| disk.fail_write(1), |_| {})
                    .await;
            }
            Fault::DiskFull { target } => {
                let fill = |disk: &SimDisk| disk.set_capacity(Some(disk.used()));
                self.fail_disk(target, fill, |disk| disk.set_capacity(None))
                    .await;
            }
            Fault::Compact { behind } => self.compact(behind).await,
            Fault::Defragment { target } => {
                if self.aim(target) {
                    let member = self.members[0];
                    let asked = self.ask(member, pb::DefragmentRequest {}).await;
                    self.tell_answer(&asked);
                }
            }
            Fault::MoveLeader => self.move_leader().await,
            Fault::RollingRestart => self.rolling_restart().await,
            Fault::Duplicate { .. } => self.skip("TCP hides it; see messages"),
            Fault::Cpu { .. } | Fault::Memory { .. } | Fault::Descriptors { .. } => {
                self.skip("the simulation has no such limits");
            }
            Fault::ClockJump { .. } | Fault::ClockStrobe { .. } | Fault::ClockRate { .. } => {
                self.skip("a simulated member never asks for the time of day");
            }
            Fault::FlipBits { .. }
            | Fault::Truncate { .. }
            | Fault::SwapFiles { .. }
            | Fault::RollBack { .. } => self.skip("files are damaged in real mode"),
            Fault::Point {
                target,
                point,
                action,
            } => self.point(target, &point, action).await,
        }
    }

    fn skip(&self, why: &str) {
        self.tell(Phase::Skipped(why.to_owned()));
    }

    fn now(&self) -> Millis {
        self.nemesis.now.load(Ordering::Relaxed)
    }

    fn each_ailment(&self, change: impl Fn(&Ailment)) {
        for member in &self.members {
            if let Some((_, _, ailment)) = self.nemesis.disk(*member) {
                change(ailment);
            }
        }
    }

    /// Batches and sectors of the targets that a crash could take.
    fn unsynced(&self) -> usize {
        self.members
            .iter()
            .filter_map(|member| self.nemesis.disk(*member))
            .map(|(disk, store, _)| disk.unsynced() + store.unsynced())
            .sum()
    }

    /// A snapshot comes again to the targets, or else to somebody who was sent one, as soon as there is any.
    async fn stale_snapshot(&mut self, target: Target) {
        let net = self.nemesis.net.clone();
        loop {
            let mut members = self.resolve(target);
            members.retain(|member| net.replay_snapshot(*member));
            if members.is_empty() {
                let mut others = self.nemesis.everyone();
                members.extend(others.find(|member| net.replay_snapshot(*member)));
            }
            if !members.is_empty() {
                self.members = members;
                break;
            }
            if Instant::now() >= self.until {
                return self.skip("nobody was sent a snapshot");
            }
            tokio::time::sleep(LOOK).await;
        }
        self.tell(Phase::Installing);
        let replayed = self.members.len();
        self.tell(Phase::Proved(format!("{replayed} snapshots came again")));
        self.hold().await;
        self.tell(Phase::Healed("it is over".into()));
    }

    /// Two halves that see each other only through one member.
    async fn bridge(&mut self) {
        if self.nemesis.members < 3 {
            return self.tell(Phase::Skipped("a bridge needs three members".into()));
        }
        let mut members: Vec<Member> = self.nemesis.everyone().collect();
        members.shuffle(&mut self.chance);
        let bridge = members[0];
        let half = members.len() / 2;
        let left = members[1..=half].to_vec();
        self.members = vec![bridge];
        self.tell(Phase::Installing);
        self.cut(|a, b| a != bridge && b != bridge && left.contains(&a) != left.contains(&b));
        self.hold_cut().await;
    }

    async fn flap(&self, period: Duration) {
        let count = self.stalls();
        let before = count();
        let inside = &self.members;
        while Instant::now() < self.until {
            self.cut(|a, b| inside.contains(&a) != inside.contains(&b));
            tokio::time::sleep(period).await;
            self.cut(|_, _| false);
            tokio::time::sleep(period).await;
        }
        let stalled = count() - before;
        self.tell(if stalled > 0 {
            Phase::Proved(format!("stalled messages: {stalled}"))
        } else {
            without_effect("no stalled messages")
        });
        self.heal_links();
    }

    async fn swizzle(&mut self) {
        self.members = self.nemesis.everyone().collect();
        self.tell(Phase::Installing);
        let count = self.stalls();
        let before = count();
        let mut order = self.members.clone();
        let step = self.hold / u32::try_from(2 * order.len()).unwrap_or(u32::MAX);
        let mut alone = BTreeSet::new();
        for joins in [false, true] {
            order.shuffle(&mut self.chance);
            for member in &order {
                if joins {
                    alone.remove(member);
                } else {
                    alone.insert(*member);
                }
                self.cut(|a, b| alone.contains(&a) || alone.contains(&b));
                tokio::time::sleep(step).await;
            }
        }
        let stalled = count() - before;
        self.tell(if stalled > 0 {
            Phase::Proved(format!("stalled messages: {stalled}"))
        } else {
            without_effect("no stalled messages")
        });
        self.heal_links();
    }

    async fn kill_over_and_over(&mut self, target: Target, longest: Duration) {
        self.tell(Phase::Installing);
        let mut killed = 0;
        while Instant::now() < self.until {
            self.members = self.resolve(target);
            self.order_all(Order::Kill).await;
            killed += self.members.len();
            self.order_all(Order::Start).await;
            let runs = self
                .chance
                .random_range(Duration::from_millis(1)..=longest.max(Duration::from_millis(2)));
            tokio::time::sleep(runs).await;
        }
        self.tell(if killed > 0 {
            Phase::Proved(format!("{killed} processes were killed"))
        } else {
            without_effect("nobody was there to be killed")
        });
        self.start_again().await;
    }

    async fn stop(&self, member: Member) -> bool {
        let hands = &self.nemesis.hands;
        let asked = hands.seen(member).starts;
        hands.order(member, Order::Stop).await;
        // Another fault may have ended it meanwhile, and started the next.
        let runs = || {
            let seen = hands.seen(member);
            seen.runs && seen.starts == asked
        };
        let stopped = async {
            while runs() {
                tokio::time::sleep(LOOK).await;
            }
        };
        let stopped = tokio::time::timeout(PATIENCE, stopped).await.is_ok();
        if !stopped {
            hands.order(member, Order::Kill).await;
        }
        stopped
    }

    /// The applied state of members that are down is lost. A majority keeps theirs: where all are lost and logs do not reach
    /// back to the beginning, so is the data.
    async fn lose_state(&mut self, target: Target) {
        self.members = self.resolve(target);
        self.members.truncate(1);
        let others = self.nemesis.everyone().filter(|member| {
            !self.members.contains(member) && self.nemesis.hands.seen(*member).ready
        });
        if self.members.is_empty() || others.count() as u64 <= self.nemesis.members / 2 {
            return self.skip("too few others have their state");
        }
        self.tell(Phase::Installing);
        self.order_all(Order::Kill).await;
        for member in &self.members {
            if let Some((_, store, _)) = self.nemesis.disk(*member) {
                store.wipe();
            }
        }
        self.tell(Phase::Proved("its state store is empty".into()));
        self.hold().await;
        self.start_again().await;
    }

    /// Something fails for good under the log; the process is expected to end then.
    async fn fail_disk(
        &mut self,
        target: Target,
        fail: impl Fn(&SimDisk),
        mend: impl Fn(&SimDisk),
    ) {
        if !self.aim(target) {
            return;
        }
        let hands = self.nemesis.hands.clone();
        let mut starts = Vec::new();
        for member in self.members.clone() {
            hands.excuse(member, self.number);
            starts.push(hands.seen(member).starts);
            if let Some((disk, _, _)) = self.nemesis.disk(member) {
                fail(disk);
            }
        }
        self.hold().await;
        let ended = |(member, start): (&Member, &u32)| {
            let seen = hands.seen(*member);
            !seen.runs || seen.starts != *start
        };
        let ended = self.members.iter().zip(&starts).filter(|m| ended(*m));
        let ended = ended.count();
        self.tell(if ended > 0 {
            Phase::Proved(format!("{ended} processes ended on it"))
        } else {
            without_effect("nothing came to the disk meanwhile")
        });
        for member in &self.members {
            if let Some((disk, _, _)) = self.nemesis.disk(*member) {
                disk.heal();
                mend(disk);
            }
            hands.excuse_no_more(*member, self.number);
        }
        self.start_again().await;
    }

    /// Something happens at a point of the code. A crash is one of the process, or of the machine's power.
    async fn point(&mut self, target: Target, point: &str, action: PointAction) {
        if !points::BUILT_IN {
            return self.skip("this build has no points of the code");
        }
        if !self.aim(target) {
            return;
        }
        for member in self.members.clone() {
            let nemesis = self.nemesis.clone();
            let power_fails = self.chance.random::<bool>();
            let kept = self.chance.random::<u64>();
            if action == PointAction::Crash {
                nemesis.hands.excuse(member, self.number);
            }
            let crash = {
                let nemesis = nemesis.clone();
                move || nemesis.crash(member, power_fails.then_some(kept))
            };
            nemesis.points.arm(member, point, action, crash);
        }
        self.hold().await;
        let disarm = |member: &Member| self.nemesis.points.disarm(*member);
        let hits: u64 = self.members.iter().map(disarm).sum();
        for member in &self.members {
            self.nemesis.hands.excuse_no_more(*member, self.number);
        }
        self.tell(if hits > 0 {
            Phase::Proved(format!("it came to {point} {hits} times"))
        } else {
            without_effect(&format!("nobody came to {point}"))
        });
        self.start_again().await;
    }

    async fn ask(
        &self,
        member: Member,
        request: impl Into<chaos_tests::history::Request>,
    ) -> Outcome {
        let nemesis = &self.nemesis;
        let patience = Duration::from_secs(5);
        let mut client = Client::new(&nemesis.dial, &nemesis.recorder, NEMESIS, member, patience);
        client.call(request).await
    }

    fn tell_answer(&self, outcome: &Outcome) {
        self.tell(match outcome {
            Outcome::Ok(_) => Phase::Proved("it was done".into()),
            Outcome::Failed(error) | Outcome::Unknown(error) => {
                without_effect(&format!("it was answered: {}", error.message))
            }
        });
        self.tell(Phase::Healed("it is over".into()));
    }

    async fn compact(&mut self, behind: i64) {
        self.members = self.resolve(Target::Any);
        let Some(member) = self.members.first().copied() else {
            return self.skip("no member runs");
        };
        self.tell(Phase::Installing);
        let range = pb::RangeRequest {
            key: vec![0].into(),
            limit: 1,
            ..pb::RangeRequest::default()
        };
        let revision = match self.ask(member, range).await {
            Outcome::Ok(answer) => answer.header().revision,
            failed => return self.tell_answer(&failed),
        };
        let revision = (revision - behind).max(1);
        if !self.nemesis.witnessed.has(revision, PATIENCE).await {
            return self.tell(without_effect(
                "no witness has seen what would be forgotten",
            ));
        }
        let request = pb::CompactionRequest {
            revision,
            physical: false,
        };
        let asked = self.ask(member, request).await;
        self.tell_answer(&asked);
    }

    async fn move_leader(&mut self) {
        let followers = self.resolve(Target::Follower);
        let (Some(leader), Some(to)) = (self.nemesis.leader(), followers.first().copied()) else {
            return self.skip("there is no leader, or no follower");
        };
        self.members = vec![leader, to];
        self.tell(Phase::Installing);
        let asked = self
            .ask(leader, pb::MoveLeaderRequest { target_id: to })
            .await;
        self.tell_answer(&asked);
    }

    async fn rolling_restart(&mut self) {
        self.members = self.nemesis.everyone().collect();
        self.tell(Phase::Installing);
        let mut restarted = 0;
        for member in self.members.clone() {
            let ran = self.nemesis.hands.seen(member).runs;
            let stopped = ran && self.stop(member).await;
            if self.nemesis.start(member).await && stopped {
                restarted += 1;
            }
        }
        self.tell(Phase::Proved(format!("{restarted} members restarted")));
        self.tell(Phase::Healed("all run again".into()));
    }
}

/// Many faults of a campaign meet nobody; what counts is how many of each kind took hold in all runs together.
fn without_effect(why: &str) -> Phase {
    Phase::Skipped(format!("it had no effect: {why}"))
}
