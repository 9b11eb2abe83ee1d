//! What applying one entry gives back.

use std::sync::Arc;

use baton_proto::etcdserverpb as pb;
use baton_proto::mvccpb::KeyValue;

use crate::RowChange;

/// The outcome of one entry.
#[derive(Debug)]
pub struct Applied {
    /// Revision of the store after the entry.
    pub revision: i64,
    /// For whoever proposed it. An error changed nothing.
    pub outcome: Result<Response, ApplyError>,
    /// The events of the revision, if the entry made one; a batch of expired leases may make several.
    pub events: Vec<Arc<RevisionEvents>>,
    /// For the lessor and the compactor.
    pub effects: Vec<Effect>,
    /// For the state store, in one atomic batch.
    pub rows: Vec<RowChange>,
}

/// The response message of the wire, without its outer header.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Response {
    Put(pb::PutResponse),
    DeleteRange(pb::DeleteRangeResponse),
    Txn(pb::TxnResponse),
    Compact(pb::CompactionResponse),
    LeaseGrant(pb::LeaseGrantResponse),
    LeaseRevoke(pb::LeaseRevokeResponse),
    Alarm(pb::AlarmResponse),
    /// For commands whose proposer only waits for them to be applied.
    Done,
}

/// Why an entry changed nothing. The same on every member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum ApplyError {
    #[error("key not found")]
    KeyNotFound,
    #[error("required revision has been compacted")]
    Compacted,
    #[error("required revision is a future revision")]
    FutureRevision,
    #[error("requested lease not found")]
    LeaseNotFound,
    #[error("lease already exists")]
    LeaseExists,
    #[error("database space exceeded")]
    NoSpace,
    #[error("corrupt cluster")]
    Corrupt,
    #[error("entry cannot be decoded")]
    Malformed,
}

/// What the rest of the server must do because of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// A lease of `ttl` seconds exists now.
    LeaseGranted {
        /// Its id.
        id: i64,
        /// Time to live in seconds.
        ttl: i64,
    },
    /// A lease is gone, and its keys with it.
    LeaseRevoked {
        /// Its id.
        id: i64,
    },
    /// History below this revision is no longer readable and can be removed.
    Compacted {
        /// The new compact revision.
        revision: i64,
    },
    /// The set of alarms changed.
    AlarmsChanged,
    /// A member's name, addresses or role changed.
    MembersChanged,
}

/// All events of one revision, in the order of their operations.
#[derive(Debug, PartialEq)]
pub struct RevisionEvents {
    /// The revision; every event of it has this `mod_revision`.
    pub revision: i64,
    /// Never empty.
    pub events: Vec<Event>,
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// PUT or DELETE.
    pub kind: EventKind,
    /// The new pair; for a DELETE only key and `mod_revision`.
    pub kv: KeyValue,
    /// The pair before, if there was one.
    pub prev_kv: Option<KeyValue>,
}

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum EventKind {
    Put,
    Delete,
}
