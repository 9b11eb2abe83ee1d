//! Bugs that are planted on purpose, to see that tests find them.
//!
//! A build has them only with the feature `planted`; in every other [`planted`] is a constant `false` and nothing
//! of what it guards is left. One at a time is in effect, chosen by [`plant`].

macro_rules! mutants {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// A planted bug. What is broken, and what a client sees of it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Mutant {
            $($(#[doc = $doc])+ $variant,)+
        }

        #[cfg(feature = "planted")]
        impl Mutant {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// How it is called.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }

            /// What is broken, and what a client sees of it.
            pub fn about(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!($($doc),+).trim_ascii(),)+
                }
            }
        }
    };
}

mutants! {
    /// The log is written and never synced. Acknowledged writes are lost when the power of a majority fails.
    SkipLogSync = "skip-log-sync",
    /// A member takes entries for durable that it has only handed to its log. Acknowledged writes are lost when a
    /// majority is killed before it wrote them.
    AckBeforeSync = "ack-before-sync",
    /// A leader answers a put before anyone else has it. The write is lost with the leader, and a read
    /// after the answer may not see it.
    AckBeforeQuorum = "ack-before-quorum",
    /// A vote is granted and not saved. After a restart the member votes again in the same term, and the
    /// term may have two leaders.
    VoteNotSaved = "vote-not-saved",
    /// Linearizable reads are answered from what this member happens to have applied. A member that is cut off or
    /// behind answers with old values.
    LocalReads = "local-reads",
    /// A read learns the leader's commit index and does not wait until it is applied here. A follower
    /// answers with old values.
    ReadBeforeApply = "read-before-apply",
    /// The applied position is stored ahead of the rows it is of. A crash in between, and after the restart
    /// the member lacks writes and counts other revisions than the others.
    AppliedApart = "applied-apart",
    /// A proposal that another member forwards is put into the log twice. A write takes effect again, after
    /// newer ones.
    AppliedTwice = "applied-twice",
    /// The revision is taken from the newest put when the state is read back. After a restart behind a
    /// delete a revision is given a second time.
    RevisionReused = "revision-reused",
    /// A condition on the modification revision holds whatever the revision is. A compare-and-swap
    /// overwrites what it has not seen.
    CompareIgnored = "compare-ignored",
    /// Compaction removes a tombstone at the compact revision. A watch from there misses the delete.
    DropTombstone = "drop-tombstone",
    /// A watch that begins in the past begins one revision late. After a reconnection an event is missing.
    WatchGap = "watch-gap",
    /// A watch that begins in the past begins one revision early. After a reconnection an event comes twice.
    WatchDuplicate = "watch-duplicate",
    /// Progress is answered with the revision of the store. Events at or below it come after it.
    ProgressAhead = "progress-ahead",
    /// Events of one transaction are sent in a response each. A client sees part of a revision.
    SplitEvents = "split-events",
    /// Deadlines of leases follow the wall clock. Where it jumps ahead leases end early, where it jumps
    /// back they stay.
    WallClockLeases = "wall-clock-leases",
    /// A new leader takes half of each lease's time for gone. Leases that were renewed end early.
    NoLeaseExtension = "no-lease-extension",
    /// The end of leases takes effect whoever led when it was proposed. A leader that stalled ends what its
    /// successor renewed.
    StaleExpiry = "stale-expiry",
    /// Renewing a lease that is gone is answered as if it were there. A holder believes it still holds.
    KeepaliveAfterRevoke = "keepalive-after-revoke",
    /// A lease's keys are deleted in the order of a hash map. Members differ in the order of the
    /// events of one revision.
    UnorderedRevoke = "unordered-revoke",
    /// Snapshots are sent without leases. A member that installs one keeps keys whose lease ends, and as a leader
    /// knows no lease.
    SnapshotWithoutLeases = "snapshot-without-leases",
    /// A waiter's turn is told without looking whether its key is still there. A lock is given to a session that
    /// ended while it waited.
    LockUnchecked = "lock-unchecked",
    /// A waiter whose predecessor goes is told it is its turn. When a waiter gives up, the one behind it passes
    /// the holder.
    LockOutOfOrder = "lock-out-of-order",
    /// An observer whose leader is gone looks who leads now. Leaders that came and went meanwhile are skipped.
    ObserveSkips = "observe-skips",
}

#[cfg(feature = "planted")]
mod chosen {
    use std::sync::atomic::{AtomicU8, Ordering};

    use super::Mutant;

    /// One more than the number of the bug in effect; 0 for none.
    static CHOSEN: AtomicU8 = AtomicU8::new(0);

    /// Whether the bug is in effect.
    pub fn planted(mutant: Mutant) -> bool {
        CHOSEN.load(Ordering::Relaxed) == mutant as u8 + 1
    }

    /// Puts a bug into effect, in the whole process, in place of the one before.
    pub fn plant(mutant: Option<Mutant>) {
        let number = mutant.map_or(0, |mutant| mutant as u8 + 1);
        CHOSEN.store(number, Ordering::Relaxed);
    }
}

#[cfg(feature = "planted")]
pub use chosen::{plant, planted};

/// Whether the bug is in effect: never, in this build.
#[cfg(not(feature = "planted"))]
#[inline(always)]
pub const fn planted(_: Mutant) -> bool {
    false
}
