//! Elections.

use std::ops::{ControlFlow, Deref};
use std::sync::Arc;

use baton_client::Get;
use bytes::Bytes;

use crate::hold::{Hold, Kind};
use crate::mutex::{LockInfo, Waiter};
use crate::{Acquire, Error, Grant, LossReason, Name, Session, Token};

/// An election, shared with every client that follows etcd's layout. Cheap to clone.
///
/// The candidate that came to stand in line first leads, until it resigns or its session ends.
#[derive(Clone, Debug)]
pub struct Election {
    session: Session,
    name: Name,
}

/// Who leads, as of one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    /// The candidate.
    pub candidate: Waiter,
    /// The revision this was read at.
    pub revision: i64,
}

impl Election {
    pub(crate) fn new(session: &Session, name: Name) -> Self {
        Self {
            session: session.clone(),
            name,
        }
    }

    /// Its name.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Stands for election, and waits until it leads. `value` is what observers are told. A session that
    /// stands already, from before it was [resumed](crate::SessionBuilder::resume), keeps its place, with
    /// this value.
    ///
    /// May be dropped at any time, and wrapped in any timeout: no key stays.
    ///
    /// # Errors
    /// [`Error::Lost`] if the session ends, or the key is removed, while it waits; [`Error::TimedOut`];
    /// [`Error::Invalid`] for a name that makes no sense; [`Error::Client`] if the server refuses. No key
    /// stays in any case.
    pub fn campaign(&self, value: impl AsRef<[u8]>) -> Acquire<Leadership> {
        Acquire::new(&self.session, &self.name, Kind::Election).value(value)
    }

    /// Who leads; `None` if nobody does.
    ///
    /// Reads; may be dropped at any time.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a name that makes no sense, [`Error::Client`] if there is no answer.
    pub async fn leader(&self) -> Result<Option<Leader>, Error> {
        self.name.check()?;
        let first = Get::prefix(self.name.prefix()).first_created();
        let mut answer = self.session.client().get(first).await?;
        let revision = answer.header.map_or(0, |header| header.revision);
        Ok(answer.kvs.pop().map(|found| Leader {
            candidate: Waiter::of(&self.name, found),
            revision,
        }))
    }

    /// Who leads, and who stands behind, in order.
    ///
    /// Reads; may be dropped at any time.
    ///
    /// # Errors
    /// As [`leader`](Self::leader).
    pub async fn candidates(&self) -> Result<Vec<Waiter>, Error> {
        self.name.check()?;
        let line = LockInfo::read(self.session.client(), &self.name).await?;
        Ok(line.holder.into_iter().chain(line.waiters).collect())
    }

    /// Campaigns, and runs `work` whenever it leads. `work` is dropped where it stands when the leadership
    /// is lost; then, and when `work` asks to continue, it resigns and stands again, behind the others.
    /// Ends when `work` says so.
    ///
    /// May be dropped at any time: `work` is dropped, and the leadership resigned in the background.
    ///
    /// # Errors
    /// [`Error::Lost`] when the session has ended, and as [`campaign`](Self::campaign).
    pub async fn lead<F, T>(
        &self,
        value: impl AsRef<[u8]>,
        mut work: impl FnMut(Arc<Leadership>) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = ControlFlow<T>>,
    {
        let value = Bytes::copy_from_slice(value.as_ref());
        loop {
            let leadership = match self.campaign(&value).await {
                // Somebody removed the candidate, while the session goes on.
                Err(Error::Lost(LossReason::Removed)) => continue,
                campaigned => Arc::new(campaigned?),
            };
            let mut lost = leadership.lost();
            let done = tokio::select! {
                biased;
                _ = &mut lost => ControlFlow::Continue(()),
                done = work(leadership.clone()) => match done {
                    ControlFlow::Break(result) => ControlFlow::Break(result),
                    ControlFlow::Continue(()) => ControlFlow::Continue(()),
                },
            };
            if let Some(leadership) = Arc::into_inner(leadership) {
                let _ = leadership.resign().await;
            }
            if let ControlFlow::Break(result) = done {
                return Ok(result);
            }
        }
    }
}

/// The lead of an election. Dropped, it is resigned in the background; [`resign`](Self::resign) says when
/// that is done. See [`Grant`] for what can be done under it.
#[derive(Debug)]
#[must_use = "dropped, it is resigned at once"]
pub struct Leadership {
    hold: Hold,
}

impl From<Hold> for Leadership {
    fn from(hold: Hold) -> Self {
        Self { hold }
    }
}

impl Deref for Leadership {
    type Target = Grant;

    fn deref(&self) -> &Grant {
        &self.hold.grant
    }
}

impl Leadership {
    /// The term: the fencing token.
    pub fn term(&self) -> Token {
        self.token()
    }

    /// What is known of the leadership, to be given to others; it stays here.
    pub fn grant(&self) -> &Grant {
        &self.hold.grant
    }

    /// Tells observers another value. Gives the revision.
    ///
    /// Dropped while under way, its outcome is unknown.
    ///
    /// # Errors
    /// [`Error::Stale`] or [`Error::Lost`] if it leads no more: nothing was done. [`Error::Client`], whose
    /// outcome may be unknown.
    pub async fn proclaim(&self, value: impl AsRef<[u8]>) -> Result<i64, Error> {
        self.set_value(value).await
    }

    /// Resigns, and comes back when that is done, with a revision at which it was. Repeated until it is
    /// known, for as long as the session lives.
    ///
    /// Dropping the future changes nothing: it goes on.
    ///
    /// # Errors
    /// [`Error::Lost`] if the leadership ended by itself, or the session ends before the answer is here:
    /// the key went with it.
    pub async fn resign(self) -> Result<i64, Error> {
        self.hold.release().await
    }
}
