//! Syncs that take long or fail, made by tracing the process: this needs no disk of its own, but a tracer per process.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::process::{settle, start_again};
use super::{Act, Trouble, need};
use crate::plan::Target;
use crate::real::host::program;
use crate::real::node::Node;
use crate::real::wait::{LOOK_AGAIN, until};

/// Everything that waits for a disk to keep something.
const SYNCS: &str = "fsync,fdatasync,sync_file_range,msync";

/// How long a tracer may take to take hold or let go.
const GRIP: Duration = Duration::from_secs(5);

/// How long a sync is waited for that shows the fault.
const SHOWS: Duration = Duration::from_secs(5);

pub(super) async fn slow(act: &mut Act, target: Target, ms: u64) -> Result<(), Trouble> {
    need("strace")?;
    let nodes = act.take(target).await?;
    act.installing();
    let inject = format!("inject={SYNCS}:delay_enter={}", ms * 1000);
    let mut tracers = Vec::new();
    for node in &nodes {
        tracers.push(Tracer::attach(act.number, node, &inject).await?);
    }
    let seen = await_effect(&tracers, "DELAYED", SHOWS).await;
    act.proved_if(seen > 0, format!("{seen} syncs took {ms} ms longer so far"));
    act.hold().await;
    act.healing();
    let mut seen = 0;
    for tracer in tracers {
        seen += tracer.effects("DELAYED");
        tracer.detach().await?;
    }
    act.healed(format!("not traced any more, after {seen} slow syncs"));
    Ok(())
}

pub(super) async fn fail(act: &mut Act, target: Target, when: u64) -> Result<(), Trouble> {
    need("strace")?;
    let nodes = act.take(target).await?;
    act.installing();
    let excuses: Vec<_> = nodes.iter().map(Node::excuse).collect();
    let inject = format!("inject={SYNCS}:error=EIO:when={when}");
    let mut tracers = Vec::new();
    for node in &nodes {
        tracers.push(Tracer::attach(act.number, node, &inject).await?);
    }
    let patience = SHOWS.max(act.hold);
    let seen = await_effect(&tracers, "INJECTED", patience).await;
    act.proved_if(seen > 0, format!("{seen} syncs failed with an I/O error"));
    act.hold().await;
    act.healing();
    for tracer in tracers {
        tracer.detach().await?;
    }
    settle(&nodes).await;
    let ended = nodes.iter().filter(|node| !node.runs()).count();
    drop(excuses);
    let text = start_again(&nodes).await?;
    act.healed(format!("{ended} ended because of it; {text}"));
    Ok(())
}

/// `strace` at a process.
struct Tracer {
    node: Arc<Node>,
    child: Child,
    log: PathBuf,
}

impl Tracer {
    async fn attach(fault: usize, node: &Arc<Node>, inject: &str) -> anyhow::Result<Self> {
        let strace = program("strace").map_err(anyhow::Error::msg)?;
        let pid = node.pid().context("there is no process to trace")?;
        let log = node.home().join(format!("strace-{fault}"));
        let child = Command::new(strace)
            .args(["-f", "-qq", "-p", &pid.to_string(), "-o"])
            .arg(&log)
            .args(["-e", &format!("trace={SYNCS}"), "-e", inject])
            .kill_on_drop(true)
            .spawn()?;
        let mut tracer = Self {
            node: node.clone(),
            child,
            log,
        };
        let began = Instant::now();
        while !tracer.holds() {
            if let Some(status) = tracer.child.try_wait()? {
                // The first sync that failed may have ended the process already.
                anyhow::ensure!(tracer.effects("INJECTED") > 0, "strace ended: {status}");
                break;
            }
            anyhow::ensure!(began.elapsed() < GRIP, "strace does not get hold of {pid}");
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(tracer)
    }

    /// Whether the process is traced.
    fn holds(&self) -> bool {
        let Some(pid) = self.node.pid() else {
            return false;
        };
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let tracer = status
            .lines()
            .find_map(|line| line.strip_prefix("TracerPid:"));
        tracer.is_some_and(|tracer| tracer.trim() != "0")
    }

    /// How often it did what it is for.
    fn effects(&self, word: &str) -> usize {
        let text = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&text).matches(word).count()
    }

    async fn detach(mut self) -> anyhow::Result<()> {
        if let Some(pid) = self
            .child
            .id()
            .and_then(|id| Pid::from_raw(id.cast_signed()))
        {
            // It may have ended with the process.
            let _ = kill_process(pid, Signal::INT);
        }
        if tokio::time::timeout(GRIP, self.child.wait()).await.is_err() {
            // The kernel lets a process go whose tracer is gone.
            self.child.kill().await?;
        }
        if self.holds() {
            return Err(anyhow!("m{} is still traced", self.node.member));
        }
        Ok(())
    }
}

/// Waits until a tracer shows its effect, or for `patience`; returns how often it did.
async fn await_effect(tracers: &[Tracer], word: &str, patience: Duration) -> usize {
    let seen = || async {
        let seen: usize = tracers.iter().map(|tracer| tracer.effects(word)).sum();
        (seen > 0).then_some(seen)
    };
    until(patience, seen).await.unwrap_or_default()
}
