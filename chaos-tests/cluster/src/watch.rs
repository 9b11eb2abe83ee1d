//! The watch campaign: clients that keep reconnecting watch a store that is written to and compacted.

use anyhow::Result;

use crate::check;
use crate::history::Seen;
use crate::kill::report;
use crate::process::{Cluster, Program};
use crate::watcher::ReconnectingWatcher;
use crate::writers::Writers;

/// What a watch campaign saw; a run in which nothing happened proves nothing.
#[derive(Debug, Default, Clone, Copy)]
pub struct Coverage {
    /// Streams opened after the first ones.
    pub reconnects: usize,
    /// Watches that the server ended because their start was compacted.
    pub compactions_met: usize,
    /// Events delivered to all watchers.
    pub events: usize,
}

/// Runs `rounds` rounds of writes and compactions under six reconnecting watchers and judges what each of them saw.
///
/// # Errors
/// If the cluster does not start or stop serving, or a watcher saw a gap, a duplicate or disorder.
pub async fn run(program: &Program, members: usize, rounds: usize) -> Result<Coverage> {
    let cluster = Cluster::start(program, members).await?;
    let urls = cluster.urls();
    let client = cluster.members[0].client();
    let first = client.revision().await? + 1;
    // From a watcher that reconnects after every response to one that keeps its stream through the whole run.
    let watchers: Vec<ReconnectingWatcher> = [2, 3, 7, 20, 100, usize::MAX]
        .into_iter()
        .map(|responses| ReconnectingWatcher::start(urls.clone(), first, responses))
        .collect();
    let writers = Writers::start(&urls, 4);
    for _ in 0..rounds {
        writers.progress(100).await?;
        let revision = client.revision().await?;
        // Close behind the newest revision, so that a watcher that is reconnecting is overtaken now and then.
        client.compact(revision - 2).await?;
    }
    writers.progress(100).await?;
    writers.pause().await;
    let history = writers.history();
    let end = client.revision().await?;
    let mut coverage = Coverage::default();
    for watcher in watchers {
        let seen = watcher.finish(end).await?;
        report(&check::watch_is_whole(&seen, &history, first, end))?;
        for step in &seen {
            match step {
                Seen::Reconnected(_) => coverage.reconnects += 1,
                Seen::Compacted(_) => coverage.compactions_met += 1,
                Seen::Events(events) => coverage.events += events.len(),
            }
        }
    }
    Ok(coverage)
}
