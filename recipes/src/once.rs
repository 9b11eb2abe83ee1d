//! Transactions that take effect once, though answers get lost and copies arrive late.
//!
//! A transaction whose answer is lost can be sent again only if the second copy does nothing where the first was done.
//! For a lock, the name of its key sees to that. For a job it does not: a job may have been done and removed before
//! the second copy comes, which would push it anew. So each such transaction has a number. It runs on a *lane*, a key
//! of the session whose version counts the transactions that ran on it. Each compares the version and raises it; a
//! copy finds it raised, and its sender learns from that that the transaction was done, and at which revision.

use baton_client::pb::compare::CompareResult;
use baton_client::{Compare, Error as ClientError, Get, Outcome, Put, Txn, pb};
use parking_lot::Mutex as Lock;

use crate::answers::{nested, pairs, revision};
use crate::patience::passes;
use crate::session::{Retry, Shared};
use crate::{Error, LossReason};

/// What became of a transaction.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Once {
    /// Its conditions held: it was done at this revision.
    Done(i64),
    /// A condition did not hold: it was not done. Has what its other list of operations answered.
    NotDone(pb::TxnResponse),
}

/// A lane's value: what ran on it last.
const DONE: &str = "done";
const NOT_DONE: &str = "not done";

/// The lanes of a session that one recipe uses: as many as it had transactions under way at the same time.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    idle: Lock<Vec<Lane>>,
}

#[derive(Debug)]
struct Lane {
    key: String,
    /// How many transactions ran on it: its key's version.
    used: i64,
}

impl Lane {
    fn new(session: &Shared) -> Self {
        Self {
            key: crate::name::lane(session.id, unique()),
            used: 0,
        }
    }
}

/// A number that nobody else chooses. A process that goes on with the session of another must not take over its
/// lanes: a transaction of the other may still be under way.
#[allow(
    clippy::disallowed_methods,
    reason = "nothing that is replayed depends on it"
)]
pub(crate) fn unique() -> u64 {
    rand::random()
}

impl Lanes {
    /// Sends a transaction, whose other list of operations only reads, until it is known whether it was done, as long as the session lives.
    ///
    /// Dropped, it was done, or is not done, or will be: let a task own it where that matters.
    ///
    /// # Errors
    /// [`Error::Lost`] if the session ended and it certainly was not done; [`Error::Client`] if it ended and that is
    /// not known ([`Outcome::Unknown`]), or with the server's refusal.
    pub(crate) async fn run(&self, session: &Shared, txn: Txn) -> Result<Once, Error> {
        let mut lane = self.idle.lock().pop().unwrap_or_else(|| Lane::new(session));
        let result = lane.run(session, txn).await;
        // A lane of which it is not known what ran on it is of no further use.
        let is_known = result
            .as_ref()
            .map_or_else(|error| error.outcome() == Outcome::NotDone, |_| true);
        if is_known {
            self.idle.lock().push(lane);
        }
        result
    }
}

impl Lane {
    /// Puts the lane's key, which raises its version.
    fn raise(&self, session: &Shared, what_ran: &str) -> Put {
        Put::new(&self.key, what_ran).lease(session.id.lease())
    }

    async fn run(&mut self, session: &Shared, txn: Txn) -> Result<Once, Error> {
        let is_next = Compare::version(&self.key, CompareResult::Equal, self.used);
        let lane = txn.request.failure.len();
        // Not done counts as well, so that no copy that is still under way does it later.
        let not_done = Txn::new()
            .when(is_next.clone())
            .then(self.raise(session, NOT_DONE))
            .or_else(Get::key(&self.key));
        let txn = txn
            .when(is_next)
            .then(self.raise(session, DONE))
            .or_else(not_done);
        let mut lost = session.lost();
        let mut retry = Retry::new();
        // A copy was sent of which it is not known what became of it.
        let mut unknown = None;
        loop {
            let answer = tokio::select! {
                biased;
                reason = &mut lost => return Err(unknown_or(unknown, Error::Lost(reason))),
                answer = session.client.txn(txn.clone()) => answer,
            };
            match answer {
                Ok(answer) if answer.succeeded => {
                    self.used += 1;
                    return Ok(Once::Done(revision(answer.header.as_ref())));
                }
                Ok(answer) => {
                    let Some(counted) = nested(&answer, lane) else {
                        let reason = "a transaction's answer lacks an operation's".to_owned();
                        return Err(ClientError::Malformed(reason).into());
                    };
                    if counted.succeeded {
                        self.used += 1;
                        return Ok(Once::NotDone(answer));
                    }
                    let ran = pairs(counted, 0).first();
                    let Some(ran) = ran.filter(|ran| ran.version == self.used + 1) else {
                        // Nobody else writes it: it is gone, and it goes with the lease alone.
                        session.check_now();
                        return Err(unknown_or(unknown, Error::Lost(LossReason::Revoked)));
                    };
                    self.used += 1;
                    return Ok(if ran.value == DONE {
                        Once::Done(ran.mod_revision)
                    } else {
                        Once::NotDone(answer)
                    });
                }
                Err(error) if error.outcome() == Outcome::Unknown => unknown = Some(error),
                Err(error) if passes(&error) => {
                    tracing::debug!(session = %session.id, "a transaction is sent once more: {error}");
                }
                Err(error) => {
                    let is_gone = error.refusal().is_some_and(|it| it.is_lease_not_found());
                    let error = if is_gone {
                        session.check_now();
                        Error::Lost(LossReason::Revoked)
                    } else {
                        Error::Client(error)
                    };
                    return Err(unknown_or(unknown, error));
                }
            }
            tokio::select! {
                biased;
                reason = &mut lost => return Err(unknown_or(unknown, Error::Lost(reason))),
                () = retry.pause() => {}
            }
        }
    }
}

/// What a failure is, once a copy was sent that may have been done.
fn unknown_or(unknown: Option<ClientError>, error: Error) -> Error {
    match unknown {
        Some(unknown) => Error::Client(unknown),
        None => error,
    }
}
