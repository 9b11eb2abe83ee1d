//! Points of the code at which a fault campaign crashes or stalls the server, and bugs that are planted in it.
//!
//! A build has them only with the feature `chaos`, which nothing enables by itself: in every other build [`point`] and
//! [`reach`] do nothing and [`planted`] is a constant `false`. A build that has them says so when it starts.
//!
//! | Where | What |
//! |---|---|
//! | `BATON_CHAOS_POINTS` | Points armed from the start: `log.before_sync=crash:3,apply.before=stall:200` |
//! | `BATON_CHAOS_MUTANT` | The planted bug in effect, by its [name](Mutant): `skip-log-sync` |
//! | `GET /debug/chaos/points` | Every point, how often it was reached, and what it is armed with, as JSON |
//! | `PUT /debug/chaos/points?arm=…` | Arms these points and disarms all others; without `arm`, all |
//! | `GET /debug/chaos/mutants` | Every planted bug, what it breaks, and whether it is in effect, as JSON |
//!
//! An action is one of
//!
//! - `crash`, `crash:N`: the process kills itself when the point is reached, for the N-th time since it was
//!   armed;
//! - `stall:MS`, `stall:MS:N`: whoever reaches the point waits MS milliseconds, the first N times only. Where the code is not
//!   asynchronous this stops the thread: of the log or the flusher, or, at points of the apply loop, the core's.
//!
//! A name or an action that does not exist is refused: a fault that silently does nothing would look like a
//! server that withstands it.
//!
//! In a simulation all members share a thread, and its process must live on: [`simulate`] puts a function of the simulation in
//! the place of all actions.

pub use baton_state_machine::planted::{Mutant, planted};

macro_rules! points {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// A point of the code.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Point {
            $($(#[doc = $doc])+ $variant,)+
        }

        #[cfg(feature = "chaos")]
        impl Point {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// How it is called.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

points! {
    /// A batch of the log is about to be written.
    LogBeforeWrite = "log.before_write",
    /// A batch of the log was written and is about to be synced.
    LogBeforeSync = "log.before_sync",
    /// A batch of the log is durable, and nobody was told yet.
    LogAfterSync = "log.after_sync",
    /// A segment of the log is whole and about to get its name.
    SegmentBeforeRename = "segment.before_rename",
    /// A segment of the log has its name, which is not durable yet.
    SegmentAfterRename = "segment.after_rename",
    /// A purged segment of the log is about to go.
    PurgeBeforeRemove = "purge.before_remove",
    /// A purged segment of the log is gone, which is not durable yet.
    PurgeAfterRemove = "purge.after_remove",
    /// A vote is about to be saved.
    VoteBeforeSave = "vote.before_save",
    /// A vote is durable, and nobody was told yet.
    VoteAfterSave = "vote.after_save",
    /// Conflicting entries are about to be voided.
    TruncateBefore = "truncate.before",
    /// A batch of committed entries is about to be applied.
    ApplyBefore = "apply.before",
    /// A batch is applied to the state; its rows are not queued yet.
    ApplyBeforeRows = "apply.before_rows",
    /// The rows of a batch are queued; nobody was told of it yet.
    ApplyAfterRows = "apply.after_rows",
    /// Watchers were told of a batch; those who proposed it were not.
    ApplyBeforeAnswer = "apply.before_answer",
    /// Rows are about to be written to the state store.
    FlushBeforeWrite = "flush.before_write",
    /// Rows were written to the state store.
    FlushAfterWrite = "flush.after_write",
    /// The state store is about to be synced.
    FlushBeforeSync = "flush.before_sync",
    /// The state store is durable.
    FlushAfterSync = "flush.after_sync",
    /// A snapshot is about to be made.
    SnapshotBuild = "snapshot.build",
    /// A chunk of a snapshot is about to be sent.
    SnapshotSend = "snapshot.send",
    /// A chunk of a snapshot came in.
    SnapshotReceive = "snapshot.receive",
    /// A snapshot came in whole and is about to replace the state store.
    InstallBeforeReplace = "install.before_replace",
    /// The new state store is whole, and the old one still the one in use.
    ReplaceBeforeCurrent = "replace.before_current",
    /// The new state store is the one in use; the old one is still there.
    ReplaceAfterCurrent = "replace.after_current",
    /// The state store was replaced, and the state in memory was not.
    InstallAfterReplace = "install.after_replace",
    /// A batch of compacted rows is about to be removed.
    CompactBatch = "compact.batch",
    /// A response with events is about to go to a watch stream.
    WatchSend = "watch.send",
    /// A watcher is about to read history that is no longer in memory.
    WatchScan = "watch.scan",
    /// A snapshot was installed, and watchers are about to be told what they missed.
    WatchReset = "watch.reset",
    /// An observer of an election is about to look for the leader.
    ObserveLook = "observe.look",
    /// The end of leases is about to be proposed.
    LeaseExpire = "lease.expire",
    /// A lease was renewed in memory; that this member still leads is about to be confirmed.
    LeaseRenew = "lease.renew",
    /// The leader is about to be asked for a read index.
    ReadIndexSend = "read_index.send",
    /// The leader has a read index for another member and is about to answer.
    ReadIndexAnswer = "read_index.answer",
    /// A read index came from the leader.
    ReadIndexReceive = "read_index.receive",
    /// A proposal is about to be sent to the leader.
    ForwardSend = "forward.send",
    /// A proposal of another member came to the leader.
    ForwardReceive = "forward.receive",
}

#[cfg(feature = "chaos")]
mod armed;
#[cfg(feature = "chaos")]
pub use armed::{arm, by_wall_clock, mutants, point, points, reach, simulate, start};
#[cfg(feature = "chaos")]
pub use baton_state_machine::planted::plant;

/// The code has come to a point. Nothing, in this build.
#[cfg(not(feature = "chaos"))]
#[inline(always)]
pub fn point(_: Point) {}

/// The same where the code is asynchronous.
#[cfg(not(feature = "chaos"))]
#[inline(always)]
pub fn reach(_: Point) -> std::future::Ready<()> {
    std::future::ready(())
}

/// Now, by the clock that is meant.
#[cfg(not(feature = "chaos"))]
#[inline(always)]
pub fn by_wall_clock() -> tokio::time::Instant {
    tokio::time::Instant::now()
}
