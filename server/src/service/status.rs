//! The one table from what can go wrong to what the client is told.
//!
//! Clients match errors by their text and decide by the code whether to retry: both are API.

use baton_state_machine::ApplyError;
use tonic::{Code, Status};

use crate::admission::NoSpace;
use crate::core::{ProposeError, ReadError};

/// Every error an RPC of this server answers with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum RpcError {
    // What was asked makes no sense.
    KeyNotProvided,
    KeyNotFound,
    ValueProvided,
    LeaseProvided,
    TooManyOps,
    DuplicateKey,
    InvalidSortOption,
    InvalidClientApiVersion,
    RequestTooLarge,
    LeaseTtlTooLarge,
    LeaderNotProvided,
    MalformedFencingToken,
    RangeStreamSorted,
    RangeStreamFiltered,
    // It does not fit what is stored.
    Compacted,
    FutureRevision,
    LeaseNotFound,
    LeaseExists,
    NoSpace,
    Corrupt,
    MutexExpired,
    ElectionExpired,
    ElectionNotLeader,
    ElectionNoLeader,
    // It was asked of the wrong member.
    NotLeader,
    NotForLearner,
    BadLeaderTransferee,
    // It may be worth trying again.
    NoLeader,
    Stopped,
    TooManyRequests,
    Timeout,
    TimeoutLeaderFailed,
    TimeoutConnectionLost,
    TimeoutLeaderTransfer,
    /// The state store lost rows, or the state was replaced under the request too often.
    HistoryLost,
    /// The log has an entry this version cannot read.
    MalformedEntry,
    /// The state store failed while giving back space.
    ReclaimFailed,
    // A stream ends.
    WatchCanceled,
}

impl RpcError {
    /// Code and text on the wire.
    pub fn wire(self) -> (Code, &'static str) {
        use Code::{
            Cancelled, DataLoss, FailedPrecondition, Internal, InvalidArgument, NotFound,
            OutOfRange, ResourceExhausted, Unavailable, Unimplemented, Unknown,
        };
        match self {
            Self::KeyNotProvided => (InvalidArgument, "etcdserver: key is not provided"),
            Self::KeyNotFound => (InvalidArgument, "etcdserver: key not found"),
            Self::ValueProvided => (InvalidArgument, "etcdserver: value is provided"),
            Self::LeaseProvided => (InvalidArgument, "etcdserver: lease is provided"),
            Self::TooManyOps => (
                InvalidArgument,
                "etcdserver: too many operations in txn request",
            ),
            Self::DuplicateKey => (
                InvalidArgument,
                "etcdserver: duplicate key given in txn request",
            ),
            Self::InvalidSortOption => (InvalidArgument, "etcdserver: invalid sort option"),
            Self::InvalidClientApiVersion => {
                (InvalidArgument, "etcdserver: invalid client api version")
            }
            Self::RequestTooLarge => (InvalidArgument, "etcdserver: request is too large"),
            Self::LeaseTtlTooLarge => (OutOfRange, "etcdserver: too large lease TTL"),
            Self::LeaderNotProvided => (Unknown, "\"leader\" field must be provided"),
            Self::MalformedFencingToken => (
                InvalidArgument,
                "baton: the metadata baton-fencing-token is not a positive decimal number; \
                 give the token of the Lock response, or leave it out",
            ),
            Self::RangeStreamSorted => (
                Unimplemented,
                "RangeStream does not support custom sort orders",
            ),
            Self::RangeStreamFiltered => (
                Unimplemented,
                "RangeStream does not support revision filters",
            ),
            Self::Compacted => (
                OutOfRange,
                "etcdserver: mvcc: required revision has been compacted",
            ),
            Self::FutureRevision => (
                OutOfRange,
                "etcdserver: mvcc: required revision is a future revision",
            ),
            Self::LeaseNotFound => (NotFound, "etcdserver: requested lease not found"),
            Self::LeaseExists => (FailedPrecondition, "etcdserver: lease already exists"),
            Self::NoSpace => (
                ResourceExhausted,
                "etcdserver: mvcc: database space exceeded",
            ),
            Self::Corrupt => (DataLoss, "etcdserver: corrupt cluster"),
            Self::MutexExpired => (Unknown, "mutex: session is expired"),
            Self::ElectionExpired => (Unknown, "election: session is expired"),
            Self::ElectionNotLeader => (Unknown, "election: not leader"),
            Self::ElectionNoLeader => (Unknown, "election: no leader"),
            Self::NotLeader => (FailedPrecondition, "etcdserver: not leader"),
            Self::NotForLearner => (
                FailedPrecondition,
                "etcdserver: rpc not supported for learner",
            ),
            Self::BadLeaderTransferee => (FailedPrecondition, "etcdserver: bad leader transferee"),
            Self::NoLeader => (Unavailable, "etcdserver: no leader"),
            Self::Stopped => (Unavailable, "etcdserver: server stopped"),
            // etcd declares ResourceExhausted and sends Unknown; clients know it by its text.
            Self::TooManyRequests => (Unknown, "etcdserver: too many requests"),
            Self::Timeout => (Unavailable, "etcdserver: request timed out"),
            Self::TimeoutLeaderFailed => (
                Unavailable,
                "etcdserver: request timed out, possibly due to previous leader failure",
            ),
            Self::TimeoutConnectionLost => (
                Unavailable,
                "etcdserver: request timed out, possibly due to connection lost",
            ),
            Self::TimeoutLeaderTransfer => (
                Unknown,
                "etcdserver: request timed out, leader transfer took too long",
            ),
            Self::HistoryLost => (
                Unavailable,
                "baton: this member cannot read part of its history; try another member",
            ),
            Self::MalformedEntry => (
                Internal,
                "baton: the log entry of this request cannot be decoded",
            ),
            Self::ReclaimFailed => (
                Internal,
                "baton: the state store failed while giving back space; see the member's log",
            ),
            Self::WatchCanceled => (Cancelled, "etcdserver: watch canceled"),
        }
    }

    /// As the lock and the election service answer it: in etcd every refusal of an operation beneath
    /// them loses its code on the way. What is worth trying again keeps it.
    pub fn beneath(self) -> Status {
        let (code, text) = self.wire();
        match code {
            Code::Unavailable => Status::unavailable(text),
            _ => Status::unknown(text),
        }
    }
}

impl From<RpcError> for Status {
    fn from(error: RpcError) -> Self {
        let (code, text) = error.wire();
        Self::new(code, text)
    }
}

impl From<ApplyError> for RpcError {
    fn from(error: ApplyError) -> Self {
        match error {
            ApplyError::KeyNotFound => Self::KeyNotFound,
            ApplyError::Compacted => Self::Compacted,
            ApplyError::FutureRevision => Self::FutureRevision,
            ApplyError::LeaseNotFound => Self::LeaseNotFound,
            ApplyError::LeaseExists => Self::LeaseExists,
            ApplyError::NoSpace => Self::NoSpace,
            ApplyError::Corrupt => Self::Corrupt,
            ApplyError::Malformed => Self::MalformedEntry,
        }
    }
}

impl From<ProposeError> for RpcError {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::Refused(error) => error.into(),
            ProposeError::TooManyRequests => Self::TooManyRequests,
            ProposeError::TooLarge => Self::RequestTooLarge,
            // Only that of a proposal nobody waits for.
            ProposeError::Timeout | ProposeError::Superseded => Self::Timeout,
            ProposeError::TimeoutLeaderFailed => Self::TimeoutLeaderFailed,
            ProposeError::TimeoutConnectionLost => Self::TimeoutConnectionLost,
            ProposeError::Stopped => Self::Stopped,
        }
    }
}

impl From<ReadError> for RpcError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Timeout => Self::Timeout,
            ReadError::Stopped => Self::Stopped,
        }
    }
}

impl From<NoSpace> for RpcError {
    fn from(NoSpace: NoSpace) -> Self {
        Self::NoSpace
    }
}

/// The answer of an RPC that a later version brings.
pub fn not_implemented(rpc: &str, missing: &str) -> Status {
    Status::unimplemented(format!(
        "baton: {rpc} is not implemented: this version has no {missing}"
    ))
}
