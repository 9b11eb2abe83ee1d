//! What can go wrong, and whether it is known what happened.

use std::time::Duration;

use tonic::{Code, Status};

/// Whether a failed request took effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It certainly did not. It may be repeated.
    NotDone,
    /// It may have, now or later. Repeat it only if that is idempotent.
    Unknown,
}

/// Why a request has no answer.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The server refused it. Nothing was done.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// No endpoint took it in time. Nothing was done.
    #[error("no endpoint could be reached within {waited:?}: {last}")]
    Unavailable {
        /// How long it was tried.
        waited: Duration,
        /// The last failure.
        last: String,
    },
    /// It was sent, and what became of it is not known.
    #[error("the outcome is unknown: {reason}")]
    Unknown {
        /// Why no answer came.
        reason: String,
    },
    /// It makes no sense, and was not sent.
    #[error("{0}")]
    Invalid(String),
    /// The server answered something that is no answer. A read has no effect; of a change, the outcome is
    /// unknown.
    #[error("the server's answer makes no sense: {0}")]
    Malformed(String),
}

impl Error {
    /// A failed read: it did nothing, whatever happened.
    pub(crate) fn of_read(status: &Status) -> Self {
        Self::Refused(Refusal {
            code: status.code(),
            message: status.message().to_owned(),
        })
    }

    /// A failed change.
    pub(crate) fn of_change(status: &Status) -> Self {
        match status.code() {
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown => {
                Self::Unknown {
                    reason: status.message().to_owned(),
                }
            }
            _ => Self::of_read(status),
        }
    }

    /// Whether it took effect.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Refused(_) | Self::Unavailable { .. } | Self::Invalid(_) => Outcome::NotDone,
            Self::Unknown { .. } | Self::Malformed(_) => Outcome::Unknown,
        }
    }

    /// The server's refusal, if that is what it is.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }
}

/// A server's refusal, in its own words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The gRPC code.
    pub code: Code,
    /// The text, which etcd's clients decide by.
    pub message: String,
}

impl Refusal {
    /// The lease is not there (any more).
    pub fn is_lease_not_found(&self) -> bool {
        self.message == "etcdserver: requested lease not found"
    }

    /// The revision asked for is compacted.
    pub fn is_compacted(&self) -> bool {
        self.message == "etcdserver: mvcc: required revision has been compacted"
    }
}
