//! What clients do while faults come and go. A workload makes calls and records what it believes; it judges nothing.
//!
//! The same workloads run against real processes and in simulation: they know a member only as something to dial, take time
//! from tokio's clock and chance from the seed.

pub mod append;
pub mod ask;
pub mod await_event;
pub mod barrier;
pub mod election;
pub mod final_reads;
pub mod lease;
pub mod line;
pub mod lock;
pub mod maintenance;
pub mod overload;
pub mod queue;
pub mod register;
pub mod requests;
pub mod session;
pub mod stream;
pub mod watch;
pub mod witness;

use std::time::Duration;

use rand::Rng;
use rand::rngs::SmallRng;

use crate::client::{Client, Dial};
use crate::history::{Member, Recorder};
use crate::plan::{Load, Workload};
use crate::seed;
use witness::Witnessed;

/// Makes a load until it is to end.
pub async fn start(load: &Load, mut context: Context) {
    context.pause = Duration::from_millis(load.pause_ms);
    let clients = load.clients;
    match load.workload {
        Workload::Watch => watch::run(context, clients).await,
        Workload::Lease => lease::run(context, clients).await,
        Workload::Lock => lock::run(context, clients).await,
        Workload::Election => election::run(context, clients).await,
        Workload::Maintenance => maintenance::run(context, clients).await,
        Workload::Overload => overload::run(context, clients).await,
        Workload::Register => register::run(context, clients).await,
        Workload::Append => append::run(context, clients).await,
        Workload::Queue => queue::run(context, clients).await,
        Workload::Barrier => barrier::run(context, clients).await,
    }
}

/// What a workload is given.
#[derive(Debug, Clone)]
pub struct Context {
    /// How members are reached.
    pub dial: Dial,
    /// How many there are; they are numbered from 1.
    pub members: u64,
    /// Where everything is taken down.
    pub recorder: Recorder,
    /// The seed of the run.
    pub seed: u64,
    /// When a call is given up.
    pub patience: Duration,
    /// The longest pause between two operations of a client.
    pub pause: Duration,
    /// Turns true when the load is to end.
    pub stop: tokio::sync::watch::Receiver<bool>,
    /// How far the witnesses are.
    pub witnessed: Witnessed,
}

impl Context {
    /// The stream of chance of the part `name`.
    pub fn chance(&self, name: &str) -> SmallRng {
        seed::stream(self.seed, name)
    }

    /// A client of `workload` at `member`.
    pub fn client(&self, workload: &'static str, member: Member) -> Client {
        Client::new(&self.dial, &self.recorder, workload, member, self.patience)
    }

    /// Any member.
    pub fn any_member(&self, chance: &mut SmallRng) -> Member {
        chance.random_range(1..=self.members)
    }

    /// Whether the load is to end.
    pub fn stopped(&self) -> bool {
        *self.stop.borrow()
    }

    /// Waits for a drawn pause, or until the load is to end.
    pub async fn rest(&mut self, chance: &mut SmallRng) {
        let pause = self.pause.mul_f64(chance.random_range(0.0..=1.0));
        self.sleep(pause).await;
    }

    /// Waits, or until the load is to end.
    pub async fn sleep(&mut self, pause: Duration) {
        // An error means that the run is gone, which ends the load too.
        let _ = tokio::time::timeout(pause, self.stop.wait_for(|stop| *stop)).await;
    }
}
