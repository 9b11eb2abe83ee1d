//! The replicated state: a multi-version key-value store with leases, alarms and members.
//!
//! [`State::apply`] takes one committed entry and tells what changed: the response for whoever
//! proposed it, the events for watchers, effects for the lessor, rows for the state store. The same
//! entries give the same bytes on every member, so nothing here reads a clock, a file or chance,
//! and nothing depends on the order of a hash map.

mod alarm;
mod applied;
mod archive;
mod compaction;
mod directories;
mod hash;
mod history;
mod index;
mod invariants;
mod key_range;
mod lease;
mod line;
mod load;
mod members;
pub mod planted;
mod range_scan;
mod revision;
mod rows;
mod state;
mod txn;

pub use applied::{Applied, ApplyError, Effect, Event, EventKind, Response, RevisionEvents};
pub use archive::{Archive, Rev};
pub use compaction::CompactCursor;
pub use hash::{HashKv, HashScan};
pub use history::{HistoryScan, PastEvent};
pub use key_range::KeyRange;
pub use lease::Lease;
pub use load::LoadError;
pub use range_scan::RangeScan;
pub use state::State;

/// One changed row of the state store: what survives a restart, and what a snapshot is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowChange {
    /// Which table the row stands in.
    pub table: Table,
    /// Key of the row; rows of a table are kept in key order.
    pub key: bytes::Bytes,
    /// The new content, or `None` where the row is removed.
    pub value: Option<bytes::Bytes>,
}

/// The two tables of the state store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Table {
    /// Revision to encoded `mvccpb.KeyValue`, append-only but for compaction. Keys are etcd's
    /// 17-byte revision keys (`8 bytes main`, `_`, `8 bytes sub`), with a trailing `t` on tombstones.
    Rev = 1,
    /// Everything else: leases, alarms, members, positions.
    Meta = 2,
}
