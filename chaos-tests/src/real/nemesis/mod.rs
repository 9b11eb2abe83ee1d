//! Faults, one file per family. Each is made, proves that it took hold, holds, is healed, and proves that it is gone.

mod admin;
mod clock;
mod cut;
mod damage;
mod disk;
mod limits;
mod link;
mod point;
mod process;
mod sync;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use tokio::sync::{OwnedMutexGuard, watch};
use tokio::time::Instant;

use super::cluster::Cluster;
use super::net::Place;
use super::node::Node;
use crate::client::Dial;
use crate::history::{FaultStep, Member, Phase, Record, Recorder};
use crate::plan::{Fault, FileKind, PlannedFault, Target};
use crate::seed;
use crate::workload::witness::Witnessed;
use damage::Harm;

/// How long a leader is waited for when a fault is about the leader.
const LEADER: Duration = Duration::from_secs(3);

/// What all faults of a run share.
#[derive(Debug)]
pub struct Scene {
    /// Whom they are about.
    pub cluster: Arc<Cluster>,
    /// Where they are taken down.
    pub recorder: Recorder,
    /// How clients reach members.
    pub dial: Dial,
    /// How far the witnesses are.
    pub witnessed: Witnessed,
    /// The seed of the run.
    pub seed: u64,
    /// Turns true when every fault is to be healed.
    pub over: watch::Receiver<bool>,
    on_the_network: AtomicUsize,
    /// Members whose link a fault has made slow.
    slow: Mutex<BTreeSet<Member>>,
}

impl Scene {
    /// A scene without faults.
    pub fn new(
        cluster: Arc<Cluster>,
        recorder: Recorder,
        dial: Dial,
        witnessed: Witnessed,
        seed: u64,
        over: watch::Receiver<bool>,
    ) -> Self {
        Self {
            cluster,
            recorder,
            dial,
            witnessed,
            seed,
            over,
            on_the_network: AtomicUsize::new(0),
            slow: Mutex::default(),
        }
    }

    /// Makes the fault number `number` of the plan, holds it and heals it. It comes back when that is done, and the
    /// history says how it went.
    pub async fn play(self: Arc<Self>, number: usize, planned: PlannedFault) {
        let mut act = Act {
            number,
            kind: planned.fault.kind(),
            members: Vec::new(),
            until: Instant::now() + Duration::from_millis(planned.hold_ms),
            hold: Duration::from_millis(planned.hold_ms),
            chance: seed::stream(self.seed, &format!("fault/{number}")),
            over: self.over.clone(),
            scene: self,
            claims: Vec::new(),
        };
        match act.play(planned.fault).await {
            Ok(()) => {}
            Err(Trouble::Skipped(reason)) => act.step(Phase::Skipped(reason)),
            Err(Trouble::Failed(error)) => act.step(Phase::Failed(format!("{error:#}"))),
        }
    }
}

/// Why a fault was not played to its end.
#[derive(Debug)]
enum Trouble {
    /// It cannot be made here.
    Skipped(String),
    /// The harness failed.
    Failed(anyhow::Error),
}

impl From<anyhow::Error> for Trouble {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

impl From<std::io::Error> for Trouble {
    fn from(error: std::io::Error) -> Self {
        Self::Failed(error.into())
    }
}

fn skip<T>(reason: impl Into<String>) -> Result<T, Trouble> {
    Err(Trouble::Skipped(reason.into()))
}

/// Skips the fault where the host lacks a program.
fn need(program: &str) -> Result<(), Trouble> {
    super::host::program(program)
        .map(|_| ())
        .map_err(Trouble::Skipped)
}

/// A fault while it is played.
struct Act {
    number: usize,
    kind: String,
    members: Vec<Member>,
    hold: Duration,
    until: Instant,
    chance: SmallRng,
    over: watch::Receiver<bool>,
    scene: Arc<Scene>,
    claims: Vec<OwnedMutexGuard<()>>,
}

impl Act {
    async fn play(&mut self, fault: Fault) -> Result<(), Trouble> {
        match fault {
            Fault::Isolate { target } => cut::isolate(self, target).await,
            Fault::OneWay { target, inbound } => cut::one_way(self, target, inbound).await,
            Fault::Bridge => cut::bridge(self).await,
            Fault::Ring => cut::ring(self).await,
            Fault::CutClients { target } => cut::clients(self, target).await,
            Fault::Flap { target, period_ms } => cut::flap(self, target, period_ms).await,
            Fault::Swizzle => cut::swizzle(self).await,
            Fault::Kill { target } => process::kill(self, target).await,
            Fault::KillInStartUp { target } => process::kill_in_start_up(self, target).await,
            Fault::KillLoop { target, period_ms } => {
                process::kill_loop(self, target, period_ms).await
            }
            Fault::Terminate { target } => process::terminate(self, target).await,
            Fault::Pause { target } => process::pause(self, target).await,
            Fault::RollingRestart => process::rolling_restart(self).await,
            Fault::Delay { ms, jitter_ms } => link::delay(self, ms, jitter_ms).await,
            Fault::Loss { percent } => link::loss(self, percent).await,
            Fault::Duplicate { percent } => link::repeat(self, percent).await,
            Fault::SlowLink { target, kbit } => link::slow(self, target, kbit).await,
            Fault::Reset { target } => link::reset(self, target).await,
            Fault::Cpu { target, percent } => limits::cpu(self, target, percent).await,
            Fault::Memory { target, spare_mib } => limits::memory(self, target, spare_mib).await,
            Fault::Descriptors { target, spare } => limits::descriptors(self, target, spare).await,
            Fault::ClockJump { target, seconds } => clock::jump(self, target, seconds).await,
            Fault::ClockStrobe {
                target,
                ms,
                period_ms,
            } => clock::strobe(self, target, ms, period_ms).await,
            Fault::ClockRate { target, percent } => clock::rate(self, target, percent).await,
            Fault::PowerCut { target } => disk::power_cut(self, target).await,
            Fault::DiskFull { target } => disk::full(self, target).await,
            Fault::DiskSlow { target, ms } => sync::slow(self, target, ms).await,
            Fault::DiskHang { target } => disk::hang(self, target).await,
            Fault::SyncError { target, when } => sync::fail(self, target, when).await,
            Fault::DiskReadOnly { target } => disk::read_only(self, target).await,
            Fault::FlipBits { target, file, bits } => {
                damage::files(self, target, file, Harm::Flip(bits)).await
            }
            Fault::Truncate { target, file } => {
                damage::files(self, target, file, Harm::Truncate).await
            }
            Fault::SwapFiles { target, file } => {
                damage::files(self, target, file, Harm::Swap).await
            }
            Fault::LoseState { target } => {
                damage::files(self, target, FileKind::State, Harm::Lose).await
            }
            Fault::RollBack { target } => damage::roll_back(self, target).await,
            Fault::Compact { behind } => admin::compact(self, behind).await,
            Fault::Defragment { target } => admin::defragment(self, target).await,
            Fault::MoveLeader => admin::move_leader(self).await,
            Fault::Messages { .. } | Fault::StaleSnapshot { .. } => {
                skip("only simulation can do this to single messages")
            }
            Fault::Point {
                target,
                point,
                action,
            } => point::point(self, target, &point, action).await,
        }
    }

    fn cluster(&self) -> &Cluster {
        &self.scene.cluster
    }

    fn everybody(&self) -> Vec<Member> {
        self.cluster()
            .nodes
            .iter()
            .map(|node| node.member)
            .collect()
    }

    fn step(&self, phase: Phase) {
        self.scene.recorder.add(Record::Fault(FaultStep {
            fault: self.number,
            kind: self.kind.clone(),
            members: self.members.clone(),
            at: self.scene.recorder.now(),
            phase,
        }));
    }

    fn installing(&self) {
        self.step(Phase::Installing);
    }

    /// The fault took hold: its time begins.
    fn proved(&mut self, proof: impl Into<String>) {
        self.step(Phase::Proved(proof.into()));
        self.until = Instant::now() + self.hold;
    }

    /// Nothing shows that it took hold: its time begins all the same.
    fn unproved(&mut self, why: impl Into<String>) {
        self.step(Phase::Unproved(why.into()));
        self.until = Instant::now() + self.hold;
    }

    /// One or the other.
    fn proved_if(&mut self, proof: bool, text: impl Into<String>) {
        if proof {
            self.proved(text);
        } else {
            self.unproved(text);
        }
    }

    fn healing(&self) {
        self.step(Phase::Healing);
    }

    fn healed(&self, proof: impl Into<String>) {
        self.step(Phase::Healed(proof.into()));
    }

    /// Waits until the fault's time is over.
    async fn hold(&mut self) {
        while self.holds() {
            self.wait(self.hold).await;
        }
    }

    /// Whether the fault's time is not over yet.
    fn holds(&self) -> bool {
        Instant::now() < self.until && !*self.over.borrow()
    }

    /// Waits this long, and not longer than the fault's time.
    async fn wait(&mut self, pause: Duration) {
        let end = (Instant::now() + pause).min(self.until);
        // An error means that the run is gone, which ends the fault too.
        let _ = tokio::time::timeout_at(end, self.over.wait_for(|over| *over)).await;
    }

    /// Who is meant, at this moment.
    async fn aim(&mut self, target: Target) -> Result<Vec<Member>, Trouble> {
        let mut all = self.everybody();
        let minority = (all.len() - 1) / 2;
        all.shuffle(&mut self.chance);
        // Of those who are as good as others, first those whom no other fault works on.
        all.sort_by_key(|member| self.cluster().node(*member).is_some_and(|it| it.is_taken()));
        let leader = match target {
            Target::Leader | Target::Follower => self.cluster().await_leader(LEADER).await,
            _ => None,
        };
        let mut chosen: Vec<Member> = match target {
            Target::Leader => leader.into_iter().collect(),
            Target::Follower => all
                .into_iter()
                .filter(|member| leader.is_some() && Some(*member) != leader)
                .take(1)
                .collect(),
            Target::Any => all.into_iter().take(1).collect(),
            Target::Minority => all.into_iter().take(minority).collect(),
            Target::Majority => all.into_iter().take(minority + 1).collect(),
            Target::All => all,
            Target::Member(member) => all.into_iter().filter(|it| *it == member).collect(),
        };
        chosen.sort_unstable();
        if chosen.is_empty() {
            return skip(format!("nobody is {target:?} at the moment"));
        }
        self.members.clone_from(&chosen);
        Ok(chosen)
    }

    /// Who is meant, at this moment, with nobody else working on their processes and files until this fault is over.
    async fn take(&mut self, target: Target) -> Result<Vec<Arc<Node>>, Trouble> {
        let chosen = self.aim(target).await?;
        self.claim(&chosen)
    }

    fn claim(&mut self, members: &[Member]) -> Result<Vec<Arc<Node>>, Trouble> {
        let mut taken = Vec::new();
        let mut claims = Vec::new();
        for &member in members {
            let Some(node) = self.cluster().node(member) else {
                return skip(format!("there is no m{member}"));
            };
            let Ok(claim) = node.claim.clone().try_lock_owned() else {
                return skip(format!("another fault is at work on m{member}"));
            };
            claims.push(claim);
            taken.push(node.clone());
        }
        self.claims.extend(claims);
        Ok(taken)
    }

    /// The same, but waits for other faults to come to their end.
    async fn claim_in_turn(&mut self, members: &[Member]) -> Vec<Arc<Node>> {
        let mut taken = Vec::new();
        for &member in members {
            if let Some(node) = self.cluster().node(member).cloned() {
                self.claims.push(node.claim.clone().lock_owned().await);
                taken.push(node);
            }
        }
        taken
    }

    /// Counts this fault among those of the network, as long as what it returns lives.
    fn on_the_network(&self) -> OnTheNetwork {
        self.scene.on_the_network.fetch_add(1, Ordering::SeqCst);
        OnTheNetwork(self.scene.clone())
    }
}

/// A fault of the network that holds.
struct OnTheNetwork(Arc<Scene>);

impl OnTheNetwork {
    /// Whether another one holds, which may keep a path closed that this one has opened.
    fn has_company(&self) -> bool {
        self.0.on_the_network.load(Ordering::SeqCst) > 1
    }
}

impl Drop for OnTheNetwork {
    fn drop(&mut self) {
        self.0.on_the_network.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Members for people.
fn names(members: &[Member]) -> String {
    let names: Vec<String> = members.iter().map(|member| format!("m{member}")).collect();
    names.join(", ")
}

/// Members as places.
fn places(members: &[Member]) -> Vec<Place> {
    members
        .iter()
        .map(|member| Place::Member(*member))
        .collect()
}
