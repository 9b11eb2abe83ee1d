//! Delays every packet between members, each for a time of its own, which also changes their order.
//!
//! The kernel hands packets to this process by NFQUEUE and lets them pass when it is told to. Should this process end, they
//! pass at once.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nfq::{Message, Queue, Verdict};
use rand::Rng;
use rand::rngs::SmallRng;
use tokio::sync::oneshot;

use super::tool::run;

/// Packets that may wait at the same time; more are let through.
const LONGEST: u32 = 65_536;

/// What is handed over of a packet: enough to be one. The kernel keeps the rest.
const HEAD_BYTES: u16 = 64;

/// How often it looks for packets that came and packets that are due.
const LOOK: Duration = Duration::from_millis(1);

/// A shaper at work.
#[derive(Debug)]
pub struct Shaper {
    number: u16,
    stop: Arc<AtomicBool>,
    delayed: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Shaper {
    /// Delays packets between members by `delay`, more or less `jitter`.
    ///
    /// # Errors
    /// The kernel has no NFQUEUE, does not show bridged packets to it, or `iptables` is missing.
    pub async fn install(delay: Duration, jitter: Duration, chance: SmallRng) -> Result<Self> {
        static NEXT: AtomicU16 = AtomicU16::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        std::fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", "1")
            .context("the kernel does not show bridged packets to iptables")?;
        let stop = Arc::new(AtomicBool::new(false));
        let delayed = Arc::new(AtomicU64::new(0));
        let (ready, is_ready) = oneshot::channel();
        let shape = Shape {
            delay,
            jitter,
            chance,
            stop: stop.clone(),
            delayed: delayed.clone(),
        };
        let thread = thread::Builder::new()
            .name("shaper".into())
            .spawn(move || match open(number) {
                Ok(queue) => {
                    // Nobody waits any more only if the whole run is gone.
                    let _ = ready.send(Ok(()));
                    shape.run(queue);
                }
                Err(error) => {
                    let _ = ready.send(Err(error));
                }
            })?;
        is_ready
            .await?
            .context("the kernel gives no queue of packets")?;
        rule("-I", number).await?;
        Ok(Self {
            number,
            stop,
            delayed,
            thread,
        })
    }

    /// How many packets it has delayed.
    pub fn delayed(&self) -> u64 {
        self.delayed.load(Ordering::Relaxed)
    }

    /// Lets everything pass at once from now on.
    ///
    /// # Errors
    /// The rule cannot be taken away.
    pub async fn remove(self) -> Result<()> {
        let removed = rule("-D", self.number).await;
        self.stop.store(true, Ordering::Relaxed);
        // It looks every millisecond.
        tokio::task::spawn_blocking(move || self.thread.join())
            .await?
            .map_err(|_| anyhow::anyhow!("the shaper crashed"))?;
        removed
    }
}

async fn rule(action: &str, number: u16) -> Result<()> {
    let network = "10.77.0.0/24";
    let number = number.to_string();
    #[rustfmt::skip]
    let arguments = [
        action, "FORWARD", "-s", network, "-d", network,
        "-j", "NFQUEUE", "--queue-num", &number, "--queue-bypass",
    ];
    run("iptables", &arguments).await?;
    Ok(())
}

fn open(number: u16) -> std::io::Result<Queue> {
    let mut queue = Queue::open()?;
    queue.bind(number)?;
    queue.set_copy_range(number, HEAD_BYTES)?;
    queue.set_queue_max_len(number, LONGEST)?;
    queue.set_fail_open(number, true)?;
    queue.set_recv_gso(number, true)?;
    queue.set_recv_enobufs(false)?;
    queue.set_nonblocking(true);
    Ok(queue)
}

struct Shape {
    delay: Duration,
    jitter: Duration,
    chance: SmallRng,
    stop: Arc<AtomicBool>,
    delayed: Arc<AtomicU64>,
}

impl Shape {
    fn run(mut self, mut queue: Queue) {
        let mut held: BTreeMap<(Instant, u64), Message> = BTreeMap::new();
        let mut number = 0;
        loop {
            let stopping = self.stop.load(Ordering::Relaxed);
            while let Some(first) = held.first_entry() {
                if !stopping && first.key().0 > Instant::now() {
                    break;
                }
                let mut packet = first.remove();
                packet.set_verdict(Verdict::Accept);
                // A packet that cannot be let pass is lost, as packets are.
                let _ = queue.verdict(packet);
            }
            match queue.recv() {
                Ok(packet) => {
                    let least = self.delay.saturating_sub(self.jitter);
                    let delay = self.chance.random_range(least..=self.delay + self.jitter);
                    number += 1;
                    held.insert((Instant::now() + delay, number), packet);
                    self.delayed.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if stopping && held.is_empty() {
                        return;
                    }
                    thread::sleep(LOOK);
                }
                // The kernel had more to say than fits; what it said is lost.
                Err(_) => {}
            }
        }
    }
}
