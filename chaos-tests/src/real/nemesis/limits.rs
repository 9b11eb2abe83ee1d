//! Members that get little of the host: processor, memory, descriptors.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tokio::net::TcpStream;

use super::process::{settle, start_again};
use super::{Act, Trouble, skip};
use crate::plan::Target;
use crate::real::net::{CLIENT_PORT, Place};
use crate::real::node::Node;
use crate::real::tool::run;
use crate::real::wait::{LOOK_AGAIN, until};

/// The time in which a limit is accounted for, in microseconds.
const PERIOD_US: u64 = 100_000;

/// How long a limit is given to show.
const SHOWS: Duration = Duration::from_secs(5);

pub(super) async fn cpu(act: &mut Act, target: Target, percent: u32) -> Result<(), Trouble> {
    let nodes = act.take(target).await?;
    let groups = groups(&nodes, "cpu")?;
    act.installing();
    let quota = PERIOD_US * u64::from(percent) / 100;
    for group in &groups {
        fs::write(group.join("cpu.cfs_period_us"), PERIOD_US.to_string())?;
        // The kernel takes no less than a millisecond.
        fs::write(group.join("cpu.cfs_quota_us"), quota.max(1000).to_string())?;
    }
    let before = sum(&groups, "cpu.stat", "nr_throttled");
    let throttled = || sum(&groups, "cpu.stat", "nr_throttled") - before;
    shows(|| throttled() > 0).await;
    act.proved_if(
        throttled() > 0,
        format!("throttled {} times so far", throttled()),
    );
    act.hold().await;
    act.healing();
    let times = throttled();
    for group in &groups {
        fs::write(group.join("cpu.cfs_quota_us"), "-1")?;
    }
    act.healed(format!("no limit any more, after {times} times"));
    Ok(())
}

pub(super) async fn memory(act: &mut Act, target: Target, spare_mib: u64) -> Result<(), Trouble> {
    let nodes = act.take(target).await?;
    let groups = groups(&nodes, "memory")?;
    act.installing();
    let excuses: Vec<_> = nodes.iter().map(Node::excuse).collect();
    let before = failures(&groups);
    for group in &groups {
        let used = number(group, "memory.usage_in_bytes")?;
        let limit = used + (spare_mib << 20);
        fs::write(group.join("memory.limit_in_bytes"), limit.to_string())?;
    }
    let failed = || failures(&groups) - before;
    for (node, group) in nodes.iter().zip(&groups) {
        press(node, group, spare_mib).await?;
    }
    shows(|| failed() > 0).await;
    act.proved_if(
        failed() > 0,
        format!("refused memory {} times so far", failed()),
    );
    act.hold().await;
    act.healing();
    let times = failed();
    for group in &groups {
        fs::write(group.join("memory.limit_in_bytes"), "-1")?;
    }
    settle(&nodes).await;
    let ended = nodes.iter().filter(|node| !node.runs()).count();
    drop(excuses);
    let text = start_again(&nodes).await?;
    act.healed(format!(
        "no limit any more, after {times} times; {ended} were ended; {text}"
    ));
    Ok(())
}

pub(super) async fn descriptors(act: &mut Act, target: Target, spare: u64) -> Result<(), Trouble> {
    let nodes = act.take(target).await?;
    act.installing();
    let excuses: Vec<_> = nodes.iter().map(Node::excuse).collect();
    let mut before = Vec::new();
    let mut connections = Vec::new();
    let mut proof = true;
    let mut said = Vec::new();
    for node in &nodes {
        let pid = node.pid().context("there is no process to limit")?;
        let process = Pid::from_raw(pid.cast_signed()).context("no process id")?;
        let open = || fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
        let limit = u64::try_from(open()).unwrap_or(u64::MAX) + spare;
        let old = rustix::process::getrlimit(Resource::Nofile);
        // Only the soft limit: a hard limit that was lowered may be beyond raising.
        let new = Rlimit {
            current: Some(limit),
            maximum: old.maximum,
        };
        let old = prlimit(Some(process), Resource::Nofile, new).map_err(anyhow::Error::from)?;
        before.push((process, old));
        let address = (Place::Member(node.member).address(), CLIENT_PORT);
        for _ in 0..spare + 16 {
            let connecting = tokio::time::timeout(LOOK_AGAIN * 5, TcpStream::connect(address));
            if let Ok(Ok(connection)) = connecting.await {
                connections.push(connection);
            }
        }
        let enough = || u64::try_from(open()).is_ok_and(|open| open + 1 >= limit);
        shows(enough).await;
        proof &= enough();
        said.push(format!("m{} has {} open of {limit}", node.member, open()));
    }
    act.proved_if(proof, said.join(", "));
    act.hold().await;
    act.healing();
    drop(connections);
    for (process, old) in before {
        // One that ended took its limit along.
        let _ = prlimit(Some(process), Resource::Nofile, old);
    }
    settle(&nodes).await;
    drop(excuses);
    let text = start_again(&nodes).await?;
    act.healed(format!("no limit any more; {text}"));
    Ok(())
}

/// Takes what memory is left in a group, once, by writing a file from within it: what it leaves in the page cache counts.
async fn press(node: &Node, group: &Path, spare_mib: u64) -> anyhow::Result<()> {
    let file = node.home().join("pressure");
    let script = "echo $$ > \"$1/cgroup.procs\"; exec dd if=/dev/zero of=\"$2\" bs=1M count=\"$3\"";
    let [group, path] = [group, &file].map(|path| path.to_string_lossy());
    let count = (spare_mib + 16).to_string();
    // It may be the one that is ended for want of memory, which shows the limit as well.
    let _ = run("sh", &["-c", script, "sh", &group, &path, &count]).await;
    fs::remove_file(file)?;
    Ok(())
}

/// The control groups of members.
fn groups(nodes: &[Arc<Node>], controller: &str) -> Result<Vec<PathBuf>, Trouble> {
    let groups = nodes.iter().map(|node| node.group(controller));
    match groups.map(|group| group.map(PathBuf::from)).collect() {
        Some(groups) => Ok(groups),
        None => skip(format!(
            "members have no control group of `{controller}` here"
        )),
    }
}

fn number(group: &Path, file: &str) -> anyhow::Result<u64> {
    Ok(fs::read_to_string(group.join(file))?.trim().parse()?)
}

fn failures(groups: &[PathBuf]) -> u64 {
    let failures = groups.iter().map(|group| number(group, "memory.failcnt"));
    failures.filter_map(Result::ok).sum()
}

/// The sum of a value in a file of values.
fn sum(groups: &[PathBuf], file: &str, name: &str) -> u64 {
    let values = groups.iter().filter_map(|group| {
        let text = fs::read_to_string(group.join(file)).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().parse::<u64>().ok()
    });
    values.sum()
}

/// Waits a while until something shows.
async fn shows(shown: impl Fn() -> bool) {
    until(SHOWS, || async { shown().then_some(()) }).await;
}
