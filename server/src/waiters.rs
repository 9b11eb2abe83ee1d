//! Those who wait for their own command to be applied on this member.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use baton_state_machine::{Applied, ApplyError, Response};
use parking_lot::Mutex;
use tokio::sync::oneshot;

/// A command that was applied.
#[derive(Debug)]
pub struct Committed {
    /// What the state machine answered.
    pub response: Response,
    /// Revision of the store after it.
    pub revision: i64,
}

/// What became of a command.
#[derive(Debug)]
pub enum Outcome {
    /// It was applied, or refused when it was.
    Applied(Result<Committed, ApplyError>),
    /// It can never take effect: it never entered the log, or lost its place in it for good.
    NotProposed,
    /// It may be part of a snapshot that was installed in place of the log.
    Unknown,
}

impl Outcome {
    /// The part of `applied` a proposer is told.
    pub fn of(applied: &mut Applied) -> Self {
        let response = std::mem::replace(&mut applied.outcome, Ok(Response::Done));
        let revision = applied.revision;
        Self::Applied(response.map(|response| Committed { response, revision }))
    }
}

struct Waiter {
    term: u64,
    tx: oneshot::Sender<Outcome>,
}

/// Waiting proposers by request id.
///
/// Each is bound to the term its command was proposed in: a leader takes a command only while it leads
/// that term. Once an entry of a later term is committed, no entry of the earlier term can be committed
/// any more behind it (Raft's log terms never go back), so a waiter of an earlier term that has not been
/// answered by then never will be, and its command may safely be proposed anew.
pub struct Waiters {
    next_id: AtomicU64,
    waiting: Mutex<BTreeMap<u64, Waiter>>,
}

impl Waiters {
    /// `first_id` differs for every start of a member, so that a command of an earlier start, applied
    /// late, is not taken for one of this start.
    pub fn new(first_id: u64) -> Self {
        Self {
            next_id: AtomicU64::new(first_id),
            waiting: Mutex::default(),
        }
    }

    /// An id no other command of this member has.
    pub fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Waits for the command `id`, which is about to be proposed in `term`.
    pub fn wait(&self, id: u64, term: u64) -> oneshot::Receiver<Outcome> {
        let (tx, rx) = oneshot::channel();
        self.waiting.lock().insert(id, Waiter { term, tx });
        rx
    }

    /// Nobody waits for `id` any more.
    pub fn forget(&self, id: u64) {
        self.waiting.lock().remove(&id);
    }

    /// Tells whoever waits for `id`.
    pub fn answer(&self, id: u64, outcome: Outcome) {
        let waiter = self.waiting.lock().remove(&id);
        if let Some(waiter) = waiter {
            let _ = waiter.tx.send(outcome);
        }
    }

    /// The command `id`, proposed in `term`, did not enter the log. Such news may come late: a later
    /// attempt, in another term, goes on waiting.
    pub fn refused(&self, id: u64, term: u64) {
        let mut waiting = self.waiting.lock();
        if waiting.get(&id).is_some_and(|waiter| waiter.term == term)
            && let Some(waiter) = waiting.remove(&id)
        {
            drop(waiting);
            let _ = waiter.tx.send(Outcome::NotProposed);
        }
    }

    /// An entry of `term` was applied, and everything before it.
    pub fn term_applied(&self, term: u64) {
        self.end(|waiter| (waiter.term < term).then_some(Outcome::NotProposed));
    }

    /// A snapshot whose last entry is of `term` took the place of the log.
    pub fn snapshot_installed(&self, term: u64) {
        self.end(|waiter| (waiter.term <= term).then_some(Outcome::Unknown));
    }

    /// The number of those who wait.
    pub fn count(&self) -> usize {
        self.waiting.lock().len()
    }

    fn end(&self, outcome: impl Fn(&Waiter) -> Option<Outcome>) {
        let mut ended = Vec::new();
        let mut waiting = self.waiting.lock();
        let ids: Vec<u64> = waiting.keys().copied().collect();
        for id in ids {
            if let Some(outcome) = outcome(&waiting[&id])
                && let Some(waiter) = waiting.remove(&id)
            {
                ended.push((waiter, outcome));
            }
        }
        drop(waiting);
        for (waiter, outcome) in ended {
            let _ = waiter.tx.send(outcome);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot::error::TryRecvError;

    use super::*;

    #[test]
    fn a_late_refusal_of_an_earlier_attempt_leaves_the_later_one_waiting() {
        let waiters = Waiters::new(0);
        let id = waiters.next_id();
        let first = waiters.wait(id, 1);
        waiters.term_applied(2);
        assert!(matches!(first.blocking_recv(), Ok(Outcome::NotProposed)));
        let mut second = waiters.wait(id, 2);
        waiters.refused(id, 1);
        assert_eq!(second.try_recv().unwrap_err(), TryRecvError::Empty);
    }

    #[test]
    fn a_refused_attempt_is_told_so() {
        let waiters = Waiters::new(0);
        let id = waiters.next_id();
        let attempt = waiters.wait(id, 1);
        waiters.refused(id, 1);
        assert!(matches!(attempt.blocking_recv(), Ok(Outcome::NotProposed)));
    }
}
