//! Where old values are read from.

use baton_proto::mvccpb::KeyValue;

/// The place of one change in history: its revision, and its number within that revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rev {
    /// The revision.
    pub main: i64,
    /// Counts the changes of one revision from 0.
    pub sub: i64,
}

/// Values that are not the newest of their key. The state keeps only the newest in memory.
///
/// What stands at a [`Rev`] never changes, so reading it is deterministic wherever it is kept.
pub trait Archive {
    /// The pair written at `rev`.
    ///
    /// # Panics
    /// If nothing was written there or it was removed by compaction: the index knows both.
    fn read(&self, rev: Rev) -> KeyValue;
}
