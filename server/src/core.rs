//! The handle every service holds: propose a change, wait until a read is safe, look at the state.

use std::sync::Arc;

use baton_proto::log::command::Op;
use baton_state_machine::{ApplyError, Response, State};
use parking_lot::RwLock;

/// A change that took effect.
#[derive(Debug)]
pub struct Committed {
    /// What the state machine answered.
    pub response: Response,
    /// Revision of the store after it.
    pub revision: i64,
}

/// Why a proposal has no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// It was applied and refused; nothing changed.
    #[error(transparent)]
    Refused(#[from] ApplyError),
    /// Nothing was proposed: committed entries wait too long to be applied.
    #[error("too many requests")]
    TooManyRequests,
    /// Nothing was proposed: the encoded command is over the limit.
    #[error("request is too large")]
    TooLarge,
    /// Time ran out. Whether it took effect is unknown.
    #[error("request timed out")]
    Timeout,
    /// Time ran out right after the leader was lost. Whether it took effect is unknown.
    #[error("request timed out, possibly due to previous leader failure")]
    TimeoutLeaderFailed,
    /// Time ran out while no majority was reachable. Whether it took effect is unknown.
    #[error("request timed out, possibly due to connection lost")]
    TimeoutConnectionLost,
    /// This member is stopping. Whether it took effect is unknown.
    #[error("server stopped")]
    Stopped,
}

/// Why a linearizable read cannot be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum ReadError {
    #[error("request timed out")]
    Timeout,
    #[error("leader changed")]
    LeaderChanged,
    #[error("server stopped")]
    Stopped,
}

/// Where this member stands in its cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RaftStatus {
    /// The current term.
    pub term: u64,
    /// The leader as far as this member knows, 0 if none.
    pub leader: u64,
    /// Index of the last entry known to be committed.
    pub committed: u64,
    /// Index of the last applied entry.
    pub applied: u64,
    /// This member has no vote.
    pub is_learner: bool,
}

/// Shared by every service. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Core {
    state: Arc<RwLock<State>>,
}

impl Core {
    /// The replicated state as applied so far. Hold the guard briefly: applying waits for it.
    pub fn state(&self) -> &RwLock<State> {
        &self.state
    }

    /// Proposes a change and waits until it is applied *on this member*.
    ///
    /// # Errors
    /// See [`ProposeError`]: each variant says whether the outcome is known.
    pub async fn propose(&self, _op: Op) -> Result<Committed, ProposeError> {
        Err(ProposeError::Stopped)
    }

    /// Returns once everything committed before the call is applied on this member.
    pub async fn read_barrier(&self) -> Result<(), ReadError> {
        Err(ReadError::Stopped)
    }
}
