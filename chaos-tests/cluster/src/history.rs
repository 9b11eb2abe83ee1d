//! What clients did and were told.

use std::time::Instant;

/// One put of a value that no other put of the run carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// The key.
    pub key: Vec<u8>,
    /// The value, unique in the run.
    pub value: Vec<u8>,
    /// When the call was made.
    pub called: Instant,
    /// When it returned.
    pub returned: Instant,
    /// What it returned.
    pub outcome: Outcome,
}

/// What a client knows about a put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Answered OK, at this revision.
    Acknowledged(i64),
    /// Failed or timed out: it may have happened, may happen yet, or never.
    Unknown,
}

impl Write {
    /// The revision it was acknowledged at.
    pub fn revision(&self) -> Option<i64> {
        match self.outcome {
            Outcome::Acknowledged(revision) => Some(revision),
            Outcome::Unknown => None,
        }
    }
}

/// One put as a member's watch reported it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Event {
    /// The revision the put was given.
    pub revision: i64,
    /// The key.
    pub key: Vec<u8>,
    /// The value.
    pub value: Vec<u8>,
}

/// One thing a watching client saw, in the order it saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// A response with events, on whatever stream the client had then.
    Events(Vec<Event>),
    /// The stream ended and the client opened another, asking for events from this revision on.
    Reconnected(i64),
    /// The server said that history below this revision is gone; the client went on from it.
    Compacted(i64),
}
