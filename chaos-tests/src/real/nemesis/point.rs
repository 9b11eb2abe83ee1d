//! Points of the server's code, in a build that has them: there it ends, or waits.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use tokio::time::Instant;

use super::process::start_again;
use super::{Act, Trouble, skip};
use crate::plan::{PointAction, Target};
use crate::real::http;
use crate::real::node::Node;
use crate::real::wait::LOOK_AGAIN;

/// How long the code is given to come to a point, at least.
const COMES: Duration = Duration::from_secs(3);

/// Where the server shows its points and has them armed.
const PAGE: &str = "/debug/chaos/points";

#[derive(Deserialize)]
struct Points {
    points: Vec<Point>,
}

#[derive(Deserialize)]
struct Point {
    name: String,
    hits: u64,
}

pub(super) async fn point(
    act: &mut Act,
    target: Target,
    point: &str,
    action: PointAction,
) -> Result<(), Trouble> {
    let nodes = act.take(target).await?;
    let mut before = Vec::new();
    for node in &nodes {
        match http::ask(node.member, "GET", PAGE).await {
            Ok((200, body)) => before.push(hits(&body, point)?),
            Ok(_) => return skip("the server is no build with points for faults"),
            Err(_) => return skip(format!("m{} does not answer", node.member)),
        }
    }
    act.installing();
    let armed = match action {
        PointAction::Crash => "crash".to_owned(),
        PointAction::Stall(ms) => format!("stall:{ms}"),
    };
    for node in &nodes {
        if action == PointAction::Crash {
            node.expect_end();
        }
        arm(node, &format!("{point}={armed}")).await?;
    }
    let patience = COMES.max(act.hold);
    let began = Instant::now();
    let mut reached = 0;
    while reached < nodes.len() && began.elapsed() < patience && !*act.over.borrow() {
        tokio::time::sleep(LOOK_AGAIN).await;
        reached = 0;
        for (node, before) in nodes.iter().zip(&before) {
            reached += usize::from(match action {
                PointAction::Crash => !node.runs(),
                PointAction::Stall(_) => now(node, point).await.is_some_and(|now| now > *before),
            });
        }
    }
    let came = reached > 0;
    if came {
        act.proved(format!(
            "{reached} of {} came to {point}: {armed}",
            nodes.len()
        ));
        act.hold().await;
        act.healing();
    }
    for node in nodes.iter().filter(|node| node.runs()) {
        arm(node, "").await?;
        node.blame();
    }
    let text = start_again(&nodes).await?;
    if !came {
        return skip(format!(
            "the code did not come to {point} within {patience:?}"
        ));
    }
    act.healed(format!("disarmed; {text}"));
    Ok(())
}

/// Arms this point and no other.
async fn arm(node: &Arc<Node>, list: &str) -> Result<()> {
    let path = if list.is_empty() {
        PAGE.to_owned()
    } else {
        format!("{PAGE}?arm={list}")
    };
    match http::ask(node.member, "PUT", &path).await {
        Ok((status, body)) => {
            ensure!(
                status == 200,
                "m{} does not arm {list}: {body}",
                node.member
            );
            Ok(())
        }
        // It may have come to the point while it answered.
        Err(_) if !node.runs() => Ok(()),
        Err(error) => Err(error),
    }
}

/// How often a member has come to a point, if it says so.
async fn now(node: &Arc<Node>, point: &str) -> Option<u64> {
    let (_, body) = http::ask(node.member, "GET", PAGE).await.ok()?;
    hits(&body, point).ok()
}

fn hits(body: &str, point: &str) -> Result<u64> {
    let points: Points = serde_json::from_str(body)?;
    let found = points.points.iter().find(|known| known.name == point);
    Ok(found
        .with_context(|| format!("there is no point {point}"))?
        .hits)
}
