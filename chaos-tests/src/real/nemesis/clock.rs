//! Clocks of the day that jump, go to and fro, or go at the wrong rate. Proved by the time in lines that the server logs.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Act, Trouble, skip};
use crate::plan::Target;
use crate::real::clock::{self, Clock, RIGHT};
use crate::real::node::Node;
use crate::real::wait::until;

/// How wrong a clock may seem that is right: as long as a line may take to be logged and read.
const SLACK: f64 = 2.0;

/// How long a member is waited for that says no time.
const COMES_BACK: Duration = Duration::from_secs(5);

/// How long a clock with a wrong rate is watched.
const WATCHED: Duration = Duration::from_millis(1500);

pub(super) async fn jump(act: &mut Act, target: Target, seconds: i64) -> Result<(), Trouble> {
    let nodes = act.take(target).await?;
    let clocks = clocks(&nodes)?;
    act.installing();
    for clock in &clocks {
        clock.set(&format!("{seconds:+}"))?;
    }
    #[allow(clippy::cast_precision_loss, reason = "seconds of a plan are few")]
    let wanted = seconds as f64;
    let found = all_ahead(&nodes).await;
    let so = found
        .iter()
        .all(|found| found.is_some_and(|ahead| (ahead - wanted).abs() < SLACK));
    act.proved_if(so, say(&found));
    act.hold().await;
    set_right(act, &nodes, &clocks).await
}

pub(super) async fn strobe(
    act: &mut Act,
    target: Target,
    ms: i64,
    period_ms: u64,
) -> Result<(), Trouble> {
    let nodes = act.take(target).await?;
    let clocks = clocks(&nodes)?;
    act.installing();
    #[allow(clippy::cast_precision_loss, reason = "milliseconds of a plan are few")]
    let wanted = ms as f64 / 1000.0;
    let there = format!("{wanted:+}");
    for clock in &clocks {
        clock.set(&there)?;
    }
    let found = all_ahead(&nodes).await;
    let moved = |ahead: f64| (ahead - wanted).abs() < (wanted.abs() / 2.0).min(SLACK);
    let so = found.iter().all(|found| found.is_some_and(moved));
    act.proved_if(so, say(&found));
    let mut away = true;
    while act.holds() {
        act.wait(Duration::from_millis(period_ms)).await;
        away = !away;
        for clock in &clocks {
            clock.set(if away { &there } else { RIGHT })?;
        }
    }
    set_right(act, &nodes, &clocks).await
}

pub(super) async fn rate(act: &mut Act, target: Target, percent: u32) -> Result<(), Trouble> {
    let nodes = act.take(target).await?;
    let clocks = clocks(&nodes)?;
    act.installing();
    let rate = f64::from(percent) / 100.0;
    for clock in &clocks {
        clock.set(&format!("+0 x{rate}"))?;
    }
    let before = all_ahead(&nodes).await;
    tokio::time::sleep(WATCHED).await;
    let after = all_ahead(&nodes).await;
    let mut so = true;
    let mut said = Vec::new();
    for (before, after) in before.iter().zip(&after) {
        let (Some(before), Some(after)) = (before, after) else {
            so = false;
            said.push("no time in its log".to_owned());
            continue;
        };
        let gained = after - before;
        let wanted = WATCHED.as_secs_f64() * (rate - 1.0);
        so &= gained.signum() == wanted.signum() && gained.abs() > wanted.abs() / 2.0;
        said.push(format!("{gained:+.2} s in {WATCHED:?}"));
    }
    act.proved_if(so, said.join(", "));
    act.hold().await;
    set_right(act, &nodes, &clocks).await
}

async fn set_right(act: &mut Act, nodes: &[Arc<Node>], clocks: &[&Clock]) -> Result<(), Trouble> {
    act.healing();
    for clock in clocks {
        clock.set(RIGHT)?;
    }
    let found = all_ahead(nodes).await;
    let right = |found: &Option<f64>| found.is_none_or(|ahead| ahead.abs() < SLACK);
    if !found.iter().all(right) {
        return Err(anyhow::anyhow!("clocks are still wrong: {}", say(&found)).into());
    }
    act.healed(say(&found));
    Ok(())
}

/// The clocks of members.
fn clocks(nodes: &[Arc<Node>]) -> Result<Vec<&Clock>, Trouble> {
    let mut clocks = Vec::new();
    for node in nodes {
        match &node.clock {
            Some(clock) => clocks.push(clock),
            None => {
                let reason = clock::missing(node.server());
                return skip(
                    reason.unwrap_or_else(|| "members have no clocks of their own".into()),
                );
            }
        }
    }
    Ok(clocks)
}

/// How far each clock is ahead, as far as members say. Those that another fault has ended are waited for.
async fn all_ahead(nodes: &[Arc<Node>]) -> Vec<Option<f64>> {
    let began = Instant::now();
    let mut found = Vec::new();
    for node in nodes {
        let left = COMES_BACK.saturating_sub(began.elapsed());
        found.push(until(left, || async { clock::ahead(node).await.ok() }).await);
    }
    found
}

fn say(found: &[Option<f64>]) -> String {
    let said: Vec<String> = found
        .iter()
        .map(|found| match found {
            Some(ahead) => format!("{ahead:+.2} s"),
            None => "no time in its log".to_owned(),
        })
        .collect();
    format!("ahead of the right time by {}", said.join(", "))
}
