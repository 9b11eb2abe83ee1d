//! Some contenders for one lock in this process, so that one clock sees every step.
//!
//! The contenders take turns while the gate is open. While it is shut the one that holds the lock keeps it, and the others
//! stand in line: so two servers can be measured in turn without either line being built anew.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use baton_client::Client;
use baton_proto::etcdserverpb as pb;
use parking_lot::Mutex;
use pb::kv_client::KvClient;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};

use super::contender::{Contender, Servers, Way, line};
use crate::latencies::Latencies;
use crate::side::Side;

/// Connections that contenders share when there are more of them than this.
const CONNECTIONS: usize = 64;
/// Joining a line of some thousands is the slow part of some servers; nothing else takes near as long.
const FILL_LIMIT: Duration = Duration::from_secs(900);
/// Contenders that join at the same time. Servers refuse work when too much of it waits.
const JOINING: usize = 50;
/// Outlasts every measurement.
pub const LEASE: Duration = Duration::from_secs(7200);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Gate {
    Shut,
    Open,
    /// Everyone leaves after its turn.
    End,
}

/// What contenders share.
struct Lock {
    /// The server's name, for what went wrong.
    server: String,
    gate: watch::Sender<Gate>,
    hold: Duration,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    inside: bool,
    /// When the release before was about to be sent.
    released: Option<Instant>,
    handoffs: Vec<Duration>,
    failure: Option<anyhow::Error>,
}

/// What one window of time gave.
pub struct Window {
    pub per_second: f64,
    pub latencies: Latencies,
    /// Processor time of all servers together for each handoff.
    pub cpu_micros: f64,
}

/// A line of contenders.
pub struct Contention {
    lock: Arc<Lock>,
    contenders: JoinSet<()>,
}

/// Connections to all of `urls` in turn, one for each contender as long as they are few.
///
/// # Errors
/// If one cannot be made.
pub async fn connect(urls: &[String], contenders: usize) -> Result<Vec<Servers>> {
    let mut connections = Vec::new();
    for url in urls.iter().cycle().take(contenders.min(CONNECTIONS)) {
        let endpoint = Endpoint::from_shared(url.clone())?.tcp_nodelay(true);
        connections.push(Servers {
            channel: endpoint.connect().await?,
            client: Client::new([url])?,
        });
    }
    Ok(connections)
}

/// Returns once `count` contenders hold or await the lock `name`.
///
/// # Errors
/// If they do not within a quarter of an hour.
pub async fn stand_in_line(channel: &Channel, name: &str, count: usize) -> Result<()> {
    let started = Instant::now();
    let mut kv = KvClient::new(channel.clone());
    loop {
        let request = pb::RangeRequest {
            count_only: true,
            ..line(name)
        };
        let there = kv.range(request).await?.into_inner().count;
        if usize::try_from(there)? >= count {
            return Ok(());
        }
        if started.elapsed() > FILL_LIMIT {
            bail!("{there} of {count} stand in line after {FILL_LIMIT:?}");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

impl Contention {
    /// Returns when all contenders stand in line for the lock `name` and the first holds it.
    ///
    /// # Errors
    /// If the server refuses them.
    pub async fn start(
        side: &Side,
        way: Way,
        name: &str,
        count: usize,
        hold: Duration,
    ) -> Result<Self> {
        let connections = connect(&side.urls(), count).await?;
        let lock = Arc::new(Lock {
            server: side.name.clone(),
            gate: watch::Sender::new(Gate::Shut),
            hold,
            seen: Mutex::default(),
        });
        let mut contenders = JoinSet::new();
        while contenders.len() < count {
            for _ in 0..JOINING.min(count - contenders.len()) {
                let servers = connections[contenders.len() % connections.len()].clone();
                contenders.spawn(take_part(lock.clone(), servers, way, name.to_owned()));
            }
            let standing = stand_in_line(&connections[0].channel, name, contenders.len());
            tokio::select! {
                standing = standing => standing?,
                _ = contenders.join_next() => return Err(lock.failure()),
            }
        }
        Ok(Self { lock, contenders })
    }

    /// Lets the lock go round for a while and measures that.
    ///
    /// # Errors
    /// If a contender failed or the lock did not move.
    pub async fn window(&mut self, side: &Side, time: Duration) -> Result<Window> {
        self.lock.gate.send_replace(Gate::Open);
        tokio::time::sleep(time / 4).await;
        self.lock.seen.lock().handoffs.clear();
        let before = side.usage()?;
        let started = Instant::now();
        tokio::time::sleep(time).await;
        let elapsed = started.elapsed();
        let handoffs = std::mem::take(&mut self.lock.seen.lock().handoffs);
        let used = side.usage()?.since(&before);
        self.lock.gate.send_replace(Gate::Shut);
        if self.contenders.try_join_next().is_some() {
            return Err(self.lock.failure());
        }
        if handoffs.is_empty() {
            bail!("{}: nobody was handed the lock in {elapsed:?}", side.name);
        }
        Ok(Window {
            per_second: handoffs.len() as f64 / elapsed.as_secs_f64(),
            cpu_micros: used.cpu_micros / handoffs.len() as f64,
            latencies: Latencies::of(handoffs),
        })
    }

    /// Lets everyone have a last turn and leave.
    ///
    /// # Errors
    /// If a contender failed.
    pub async fn end(mut self) -> Result<()> {
        self.lock.gate.send_replace(Gate::End);
        let all = async { while self.contenders.join_next().await.is_some() {} };
        tokio::time::timeout(Duration::from_secs(60), all)
            .await
            .context("contenders wait although the lock is free")?;
        if self.lock.seen.lock().failure.is_some() {
            return Err(self.lock.failure());
        }
        Ok(())
    }
}

impl Lock {
    fn failure(&self) -> anyhow::Error {
        let failure = self.seen.lock().failure.take();
        failure
            .unwrap_or_else(|| anyhow!("a contender stopped"))
            .context(format!("a contender for a lock of {}", self.server))
    }
}

async fn take_part(lock: Arc<Lock>, servers: Servers, way: Way, name: String) {
    if let Err(error) = take_turns(&lock, &servers, way, &name).await {
        lock.seen.lock().failure.get_or_insert(error);
    }
}

async fn take_turns(lock: &Lock, servers: &Servers, way: Way, name: &str) -> Result<()> {
    let mut contender = Contender::new(servers, way, name, LEASE).await?;
    let mut gate = lock.gate.subscribe();
    loop {
        contender.lock().await?;
        {
            let mut seen = lock.seen.lock();
            if std::mem::replace(&mut seen.inside, true) {
                bail!("two hold the lock at once");
            }
            let handoff = seen.released.take().map(|released| released.elapsed());
            seen.handoffs.extend(handoff);
        }
        gate.wait_for(|gate| *gate != Gate::Shut).await?;
        if !lock.hold.is_zero() {
            tokio::time::sleep(lock.hold).await;
        }
        {
            let mut seen = lock.seen.lock();
            seen.inside = false;
            seen.released = Some(Instant::now());
        }
        contender.unlock().await?;
        if *gate.borrow() == Gate::End {
            return contender.leave().await;
        }
    }
}
