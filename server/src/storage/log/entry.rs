//! What the log keeps: votes and entries.

use bytes::Bytes;

/// The position of an entry. Later terms come after earlier ones at any index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId {
    /// Term of the leader that wrote the entry.
    pub term: u64,
    /// Counts entries without gaps.
    pub index: u64,
}

/// Whom a member voted for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Vote {
    /// The term the vote is for.
    pub term: u64,
    /// The candidate.
    pub member_id: u64,
    /// A majority granted it: the candidate leads the term.
    pub committed: bool,
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Its position.
    pub id: LogId,
    /// Its content.
    pub payload: Payload,
}

/// What an entry holds. The log does not look into the bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Payload {
    /// Opens a term.
    Blank,
    /// An encoded `log.Command`.
    Command(Bytes),
    /// An encoded `log.Membership`.
    Membership(Bytes),
}

impl Payload {
    /// Bytes of the content.
    pub fn len(&self) -> usize {
        match self {
            Self::Blank => 0,
            Self::Command(bytes) | Self::Membership(bytes) => bytes.len(),
        }
    }

    /// Whether there is no content.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What the log knows beside the entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogState {
    /// The last vote saved.
    pub vote: Option<Vote>,
    /// A position known to be committed; may lag behind, never ahead.
    pub committed: Option<LogId>,
    /// The last entry that was purged.
    pub purged: Option<LogId>,
    /// The last entry, or `purged` if none is left.
    pub last: Option<LogId>,
}
