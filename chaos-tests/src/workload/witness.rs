//! Witnesses: at every member one watch of everything, from the first revision to the last. Together they are the log of
//! events that the checkers replay.
//!
//! A witness stays at its member through breaks and restarts and goes on after the last whole revision it was given, never
//! after what a progress notification claims: a server that lies there must not cost the log its events. Where history was
//! compacted away meanwhile, it goes on from the compact revision, which the history has as the revision it asks for next.

use std::time::Duration;

use baton_proto::etcdserverpb as pb;
use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::Status;

use super::Context;
use super::stream::Stream;
use crate::history::{Member, nanos};

/// Its name in histories.
pub const WITNESS: &str = "witness";

/// The revision of a store that nothing was written to: there is nothing to see before the one after it.
const EMPTY: i64 = 1;

/// The pause before a broken watch is opened again.
const REOPEN: Duration = Duration::from_millis(100);

/// How far the witnesses of a run are, together: one of them has seen this revision. Cheap to clone.
///
/// Who compacts keeps behind it. A witness that compaction overtakes goes on from the compact revision, so that its hole ends
/// before what another has seen; by that, there is no revision that nobody saw.
#[derive(Debug, Clone)]
pub struct Witnessed(watch::Sender<i64>);

impl Default for Witnessed {
    fn default() -> Self {
        Self(watch::Sender::new(EMPTY))
    }
}

impl Witnessed {
    fn saw(&self, revision: i64) {
        self.0.send_if_modified(|seen| {
            let is_further = revision > *seen;
            *seen = revision.max(*seen);
            is_further
        });
    }

    /// Waits until `revision` was seen. False if it was not after `patience`.
    pub async fn has(&self, revision: i64, patience: Duration) -> bool {
        let mut seen = self.0.subscribe();
        let seen = seen.wait_for(|seen| *seen >= revision);
        tokio::time::timeout(patience, seen).await.is_ok()
    }
}

/// The witnesses of a run. They go on after the load has ended, until [`Witnesses::stop`]; dropping them ends them, too.
#[derive(Debug)]
pub struct Witnesses {
    tasks: JoinSet<()>,
    stop: watch::Sender<bool>,
    seen: Vec<watch::Receiver<i64>>,
}

impl Witnesses {
    /// Starts one at every member.
    pub fn start(context: &Context) -> Self {
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let mut seen = Vec::new();
        for member in 1..=context.members {
            let (sender, receiver) = watch::channel(EMPTY);
            seen.push(receiver);
            tasks.spawn(run(context.clone(), member, stopped.clone(), sender));
        }
        Self { tasks, stop, seen }
    }

    /// The last whole revision that each has seen, by members in their order.
    pub fn seen(&self) -> Vec<(Member, i64)> {
        let seen = self.seen.iter().map(|seen| *seen.borrow());
        (1..).zip(seen).collect()
    }

    /// Waits until the witnesses at `members` have seen everything up to and including `revision`, and returns those that
    /// have not after `patience`, with how far they came.
    ///
    /// Ask for a revision that something was written at: nothing else tells a witness that it is there.
    pub async fn reach(
        &mut self,
        members: &[Member],
        revision: i64,
        patience: Duration,
    ) -> Vec<(Member, i64)> {
        let deadline = Instant::now() + patience;
        let mut late = Vec::new();
        for (member, seen) in (1..).zip(&mut self.seen) {
            if !members.contains(&member) {
                continue;
            }
            let reached = seen.wait_for(|seen| *seen >= revision);
            if tokio::time::timeout_at(deadline, reached).await.is_err() {
                late.push((member, *seen.borrow()));
            }
        }
        late
    }

    /// Ends all of them.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Watches everything at `member` until `stop` turns true, and says in `seen` how far it is.
pub async fn run(
    context: Context,
    member: Member,
    mut stop: watch::Receiver<bool>,
    seen: watch::Sender<i64>,
) {
    let watcher = context.recorder.next_watcher();
    let mut next = EMPTY;
    while !*stop.borrow() {
        follow(&context, member, watcher, &mut next, &mut stop, &seen).await;
        // An error means that the run is gone, which ends the loop too.
        let _ = tokio::time::timeout(REOPEN, stop.wait_for(|stop| *stop)).await;
        if stop.has_changed().is_err() {
            break;
        }
    }
}

/// Follows one stream until it ends or `stop` turns true. `next` is the first revision that was not seen.
async fn follow(
    context: &Context,
    member: Member,
    watcher: u32,
    next: &mut i64,
    stop: &mut watch::Receiver<bool>,
    seen: &watch::Sender<i64>,
) {
    let opening = Stream::open(context, WITNESS, member, watcher, everything(*next));
    let Ok(mut stream) = opening.await else {
        return;
    };
    let mut asked = false;
    loop {
        let received = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => {
                drop(stream);
                return;
            }
            received = stream.receive_within(context.patience) => received,
        };
        match received {
            Ok(Some((_, response))) => {
                asked = false;
                if response.compact_revision > *next {
                    *next = response.compact_revision;
                }
                if let Some(last) = response.events.last().and_then(|event| event.kv.as_ref())
                    && last.mod_revision >= *next
                {
                    *next = last.mod_revision + 1;
                    seen.send_replace(last.mod_revision);
                    context.witnessed.saw(last.mod_revision);
                }
                if response.canceled {
                    return;
                }
            }
            // A member that was cut off or lost its power leaves a connection that never says anything again.
            Ok(None) if asked => {
                let silence = nanos(context.patience * 2) / 1_000_000;
                let status = format!("nothing heard for {silence} ms");
                stream.give_up(&Status::deadline_exceeded(status));
                return;
            }
            Ok(None) => {
                stream.ask_progress();
                asked = true;
            }
            Err(_) => return,
        }
    }
}

/// All keys with their previous values, from revision `start` on.
fn everything(start: i64) -> pb::WatchCreateRequest {
    pb::WatchCreateRequest {
        key: Bytes::from_static(b"\0"),
        range_end: Bytes::from_static(b"\0"),
        start_revision: start,
        prev_kv: true,
        progress_notify: true,
        ..Default::default()
    }
}
