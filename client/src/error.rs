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
    pub(crate) fn of(status: &Status) -> Self {
        Self {
            code: status.code(),
            message: status.message().to_owned(),
        }
    }

    /// The lease is not there (any more).
    pub fn is_lease_not_found(&self) -> bool {
        self.message == "etcdserver: requested lease not found"
    }

    /// The lease of a waiter of the lock or election service ended before its turn came.
    pub fn is_session_expired(&self) -> bool {
        matches!(
            self.message.as_str(),
            "mutex: session is expired" | "election: session is expired"
        )
    }

    /// A lease with this id is there already.
    pub fn is_lease_exists(&self) -> bool {
        self.message == "etcdserver: lease already exists"
    }

    /// The revision asked for is not there yet.
    pub fn is_future_revision(&self) -> bool {
        self.message == "etcdserver: mvcc: required revision is a future revision"
    }

    /// The store is full: its quota is used up, and only deletes and compactions are taken.
    pub fn is_no_space(&self) -> bool {
        self.message == "etcdserver: mvcc: database space exceeded"
    }

    /// User or token may not do this.
    pub fn is_permission_denied(&self) -> bool {
        self.code == Code::PermissionDenied || self.message == "etcdserver: permission denied"
    }

    /// The server does not know who is asking: no or wrong user, password or token.
    pub fn is_unauthenticated(&self) -> bool {
        self.code == Code::Unauthenticated
            || matches!(
                self.message.as_str(),
                "etcdserver: user name is empty"
                    | "etcdserver: invalid auth token"
                    | "etcdserver: authentication failed, invalid user ID or password"
            )
    }

    /// The server has no such request.
    pub fn is_unimplemented(&self) -> bool {
        self.code == Code::Unimplemented
    }

    /// The revision asked for is compacted.
    pub fn is_compacted(&self) -> bool {
        self.message == "etcdserver: mvcc: required revision has been compacted"
    }
}
