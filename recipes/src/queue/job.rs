//! A job in a worker's hands.

use std::fmt;
use std::time::Duration;

use baton_client::{Delete, Get, Op, Outcome, Txn};
use bytes::Bytes;

use super::{JobId, Queue};
use crate::once::Once;
use crate::owned::owned_by_a_task;
use crate::{Error, Fence, Lost, Token};

/// A job that this worker has until it is acknowledged, given back, or the session ends.
///
/// Dropped, it goes back to its old place in the queue, in the background. The claim is a hold like any other: it has
/// a fencing token, and ends at the session's deadline.
#[must_use = "a job that is dropped goes back into its queue"]
pub struct Job {
    queue: Queue,
    id: JobId,
    payload: Bytes,
    fence: Fence,
    /// Whether dropping it gives it back.
    is_open: bool,
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job")
            .field("queue", &self.queue.name())
            .field("id", &format_args!("{}", self.id))
            .field("token", &self.fence.token)
            .finish_non_exhaustive()
    }
}

impl Job {
    pub(super) fn claimed(
        queue: Queue,
        id: JobId,
        payload: Bytes,
        key: String,
        revision: i64,
    ) -> Result<Self, Error> {
        let token = Token::from_revision(revision).ok_or_else(|| {
            baton_client::Error::Malformed("a claim was made at no revision".to_owned())
        })?;
        let fence = Fence {
            name: format!("{}/{id}", queue.name()),
            key,
            token,
            session: queue.inner.session.id(),
        };
        Ok(Self {
            queue,
            id,
            payload,
            fence,
            is_open: true,
        })
    }

    /// Which job of the queue it is: the same whenever it is handed out.
    pub fn id(&self) -> &JobId {
        &self.id
    }

    /// What was pushed.
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// The fencing token of the claim: greater than that of every earlier claim of this job.
    pub fn token(&self) -> Token {
        self.fence.token
    }

    /// The claim, to be compared in transactions of one's own, or shown to others.
    pub fn fence(&self) -> &Fence {
        &self.fence
    }

    /// Whether it is certainly this worker's, as far as the clock of this machine and the server's answers tell. Asks
    /// nobody.
    pub fn is_held(&self) -> bool {
        self.queue.inner.session.is_alive()
    }

    /// Time left until the claim ends if no renewal of the session is answered until then.
    pub fn remaining(&self) -> Duration {
        self.queue.inner.session.remaining()
    }

    /// Resolves when the claim has ended because its session has. Stop working on the job then.
    pub fn lost(&self) -> Lost {
        self.queue.inner.session.lost()
    }

    /// The job is done: it leaves the queue for good. Gives the revision.
    ///
    /// Once polled, a task sees to it, whatever becomes of the future.
    ///
    /// # Errors
    /// [`Error::Stale`] if the claim had ended before: another worker may have the job, or have done it.
    /// [`Error::Client`] if the server refused, whereupon the job goes back; or with an unknown outcome if the session
    /// ended before there was an answer.
    pub async fn ack(self) -> Result<i64, Error> {
        self.ack_with(std::iter::empty::<Op>()).await
    }

    /// The same, together with what the job results in: both are done, or neither. Of all workers that ever have the
    /// job, one does this.
    ///
    /// The operations are puts and deletes, at most two less than the server takes in one transaction (128 by default,
    /// `--max-txn-ops`); what a read among them finds is not told.
    ///
    /// # Errors
    /// As [`ack`](Self::ack).
    pub async fn ack_with<O: Into<Op>>(
        self,
        results: impl IntoIterator<Item = O>,
    ) -> Result<i64, Error> {
        let inner = &self.queue.inner;
        let mut txn = Txn::new()
            .when(self.fence.compare())
            .then(Delete::key(inner.layout.job(&self.id)))
            .then(Delete::key(&self.fence.key))
            .or_else(Get::key(&self.fence.key).keys_only());
        for op in results {
            txn = txn.then(op.into());
        }
        owned_by_a_task(self.end(txn)).await
    }

    /// Gives it back: the next worker finds it at its old place. Done when the server has confirmed it; dropping does
    /// the same in the background.
    ///
    /// # Errors
    /// [`Error::Lost`] if the session ended first, with which the job goes back as well.
    pub async fn release(mut self) -> Result<(), Error> {
        self.is_open = false;
        owned_by_a_task(give_back(self.queue.clone(), self.fence.clone())).await
    }

    async fn end(mut self, txn: Txn) -> Result<i64, Error> {
        let inner = &self.queue.inner;
        let result = inner.lanes.run(inner.session.shared(), txn).await;
        // Where it was refused it is dropped as it is, and goes back.
        let is_refused = result
            .as_ref()
            .is_err_and(|error| error.outcome() == Outcome::NotDone);
        self.is_open = is_refused;
        match result? {
            Once::Done(revision) => Ok(revision),
            Once::NotDone(_) => Err(Error::Stale {
                fence: self.fence.clone(),
            }),
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if !self.is_open || !self.queue.inner.session.is_alive() {
            return;
        }
        let (queue, fence) = (self.queue.clone(), self.fence.clone());
        self.queue.inner.session.shared().spawn(async move {
            if let Err(error) = give_back(queue, fence.clone()).await {
                tracing::debug!("{fence} goes back with its session: {error}");
            }
        });
    }
}

/// Removes a claim, for as long as the session lives. If that cannot be confirmed within the session's margin the session
/// is not renewed until it is: then the claim ends with it.
async fn give_back(queue: Queue, fence: Fence) -> Result<(), Error> {
    let session = queue.inner.session.shared();
    let txn = Txn::new()
        .when(fence.compare())
        .then(Delete::key(&fence.key));
    session
        .until_removed(|| session.client.txn(txn.clone()))
        .await?;
    Ok(())
}
