//! Ends and pauses of processes.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use rand::Rng;
use rustix::process::Signal;
use tokio::time::Instant;

use super::{Act, Trouble, names};
use crate::history::Member;
use crate::plan::Target;
use crate::real::node::Node;
use crate::real::wait::until;

/// How long a member that was started is given to answer before the fault counts as healed anyway: whether it can serve is
/// for others to decide when members it needs are down.
const ANSWERS: Duration = Duration::from_secs(10);

/// How long a server may take to leave after SIGTERM.
const LEAVES: Duration = Duration::from_secs(15);

pub(super) async fn kill(act: &mut Act, target: Target) -> Result<(), Trouble> {
    let nodes = act.take(target).await?;
    act.installing();
    let before = pids(&nodes);
    kill_all(&nodes).await;
    let gone = nodes.iter().all(|node| !node.runs());
    act.proved_if(gone, format!("killed: {before}"));
    act.hold().await;
    act.healing();
    let text = start_again(&nodes).await?;
    act.healed(text);
    Ok(())
}

pub(super) async fn kill_in_start_up(act: &mut Act, target: Target) -> Result<(), Trouble> {
    let nodes = act.take(target).await?;
    act.installing();
    kill_all(&nodes).await;
    let mut killed = 0;
    let began = Instant::now();
    while act.hold > began.elapsed() && !*act.over.borrow() {
        let lives = Duration::from_millis(act.chance.random_range(1..150));
        start(&nodes)?;
        tokio::time::sleep(lives).await;
        killed += nodes.iter().filter(|node| node.runs()).count();
        kill_all(&nodes).await;
    }
    act.proved_if(killed > 0, format!("killed {killed} times while starting"));
    act.healing();
    let text = start_again(&nodes).await?;
    act.healed(text);
    Ok(())
}

pub(super) async fn kill_loop(
    act: &mut Act,
    target: Target,
    period_ms: u64,
) -> Result<(), Trouble> {
    let period = Duration::from_millis(period_ms);
    act.installing();
    let mut everybody_hit: Vec<Member> = Vec::new();
    let mut killed = 0;
    let began = Instant::now();
    while act.hold > began.elapsed() && !*act.over.borrow() {
        let nodes = match act.take(target).await {
            Ok(nodes) => nodes,
            // Whoever is drawn next may be free again.
            Err(_) if killed > 0 => {
                tokio::time::sleep(period).await;
                continue;
            }
            Err(trouble) => return Err(trouble),
        };
        everybody_hit.extend(&act.members);
        let before = pids(&nodes);
        kill_all(&nodes).await;
        killed += 1;
        if killed == 1 {
            let gone = nodes.iter().all(|node| !node.runs());
            act.proved_if(gone, format!("killed: {before}, and so on"));
        }
        start(&nodes)?;
        act.claims.clear();
        tokio::time::sleep(period).await;
    }
    everybody_hit.sort_unstable();
    everybody_hit.dedup();
    act.members.clone_from(&everybody_hit);
    act.healing();
    let nodes = act.claim_in_turn(&everybody_hit).await;
    let text = start_again(&nodes).await?;
    act.healed(format!("{text}, after {killed} rounds"));
    Ok(())
}

pub(super) async fn terminate(act: &mut Act, target: Target) -> Result<(), Trouble> {
    let nodes = act.take(target).await?;
    act.installing();
    let before = pids(&nodes);
    let left = leave(&nodes).await;
    act.proved_if(
        left,
        format!("asked to end: {before}; ended by themselves: {left}"),
    );
    act.hold().await;
    act.healing();
    kill_all(&nodes).await;
    let text = start_again(&nodes).await?;
    act.healed(text);
    Ok(())
}

pub(super) async fn pause(act: &mut Act, target: Target) -> Result<(), Trouble> {
    let nodes = act.take(target).await?;
    act.installing();
    for node in &nodes {
        node.signal(Signal::STOP);
    }
    let stopped = in_state(&nodes, true).await;
    act.proved_if(stopped, format!("stopped: {}", pids(&nodes)));
    act.hold().await;
    act.healing();
    for node in &nodes {
        node.signal(Signal::CONT);
    }
    if !in_state(&nodes, false).await {
        return Err(anyhow::anyhow!("still stopped: {}", pids(&nodes)).into());
    }
    act.healed(format!("running: {}", pids(&nodes)));
    Ok(())
}

pub(super) async fn rolling_restart(act: &mut Act) -> Result<(), Trouble> {
    let nodes = act.take(Target::All).await?;
    act.installing();
    let before = pids(&nodes);
    let mut left = true;
    for node in &nodes {
        let one = [node.clone()];
        left &= leave(&one).await;
        kill_all(&one).await;
        start_again(&one).await?;
    }
    act.proved_if(left, format!("restarted one after another: {before}"));
    act.healing();
    act.healed(format!("now: {}", pids(&nodes)));
    Ok(())
}

/// The processes, for people.
pub(super) fn pids(nodes: &[Arc<Node>]) -> String {
    let pids: Vec<String> = nodes
        .iter()
        .map(|node| match node.pid() {
            Some(pid) => format!("m{} is process {pid}", node.member),
            None => format!("m{} does not run", node.member),
        })
        .collect();
    pids.join(", ")
}

pub(super) async fn kill_all(nodes: &[Arc<Node>]) {
    for node in nodes {
        node.expect_end();
        node.signal(Signal::KILL);
    }
    for node in nodes {
        node.kill().await;
    }
}

/// Waits a little for those that are about to end of what was done to them.
pub(super) async fn settle(nodes: &[Arc<Node>]) {
    const SETTLES: Duration = Duration::from_secs(2);
    join_all(nodes.iter().map(|node| node.ended(SETTLES))).await;
}

/// Starts those that do not run.
pub(super) fn start(nodes: &[Arc<Node>]) -> anyhow::Result<()> {
    for node in nodes.iter().filter(|node| !node.runs()) {
        node.start()?;
    }
    Ok(())
}

/// Starts those that do not run and says what became of it.
pub(super) async fn start_again(nodes: &[Arc<Node>]) -> anyhow::Result<String> {
    start(nodes)?;
    let mut quiet = Vec::new();
    let mut ended = Vec::new();
    for node in nodes {
        if !node.answers(ANSWERS).await {
            let list = if node.runs() { &mut quiet } else { &mut ended };
            list.push(node.member);
        }
    }
    let mut text = pids(nodes);
    if !quiet.is_empty() {
        text.push_str(&format!("; no answer yet from {}", names(&quiet)));
    }
    if !ended.is_empty() {
        text.push_str(&format!("; ended again: {}", names(&ended)));
    }
    Ok(text)
}

/// SIGTERM to all; whether all have left because of it.
async fn leave(nodes: &[Arc<Node>]) -> bool {
    for node in nodes {
        node.expect_end();
        node.signal(Signal::TERM);
    }
    let mut left = true;
    for node in nodes {
        left &= node.ended(LEAVES).await;
    }
    left
}

/// Waits a little until all are stopped, or none is.
async fn in_state(nodes: &[Arc<Node>], stopped: bool) -> bool {
    let so = |node: &Arc<Node>| !node.runs() || node.is_in_state('T') == stopped;
    let all = || async { nodes.iter().all(so).then_some(()) };
    let all = until(Duration::from_secs(1), all).await;
    all.is_some() && nodes.iter().any(|node| node.runs())
}
