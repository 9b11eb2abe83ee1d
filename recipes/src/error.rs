//! What can go wrong.

use std::time::Duration;

use crate::{Fence, LossReason, SessionId};
use baton_client::Outcome;

/// Why a recipe has no result.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It makes no sense, and nothing was sent.
    #[error("{0}")]
    Invalid(String),
    /// The session, or the place in line or the hold asked for, came to its end.
    #[error("{0}")]
    Lost(LossReason),
    /// The time set for waiting ran out. No key stays: its removal is under way.
    #[error("not obtained within {0:?}")]
    TimedOut(Duration),
    /// A fenced request came too late: the hold had ended. Nothing was done.
    #[error("{fence} is not held any more: nothing was done")]
    Stale {
        /// The hold that ended.
        fence: Fence,
    },
    /// Nobody stands in line with the token that was named. Nothing was done.
    #[error(
        "nobody holds or waits for {name:?} with token {token}: it may have ended by itself; look again with inspect"
    )]
    NoSuchHold {
        /// The name.
        name: String,
        /// The token that was expected.
        token: u64,
    },
    /// There is no session of this id to resume.
    #[error("there is no session {0}: it ran out, was closed, or never was; open a new one")]
    NoSuchSession(SessionId),
    /// A request failed.
    #[error(transparent)]
    Client(#[from] baton_client::Error),
}

impl Error {
    /// Whether the request took effect. A recipe that fails undoes what it did, so that only fenced writes
    /// have an unknown outcome.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Client(error) => error.outcome(),
            _ => Outcome::NotDone,
        }
    }
}
