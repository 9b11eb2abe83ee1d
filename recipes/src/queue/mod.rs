//! Queues: jobs that are handed to one worker at a time, and kept until they are acknowledged.
//!
//! A job is a key that stays where it is until it is acknowledged. A worker takes it with a *claim*, a key beside it
//! that ends with the worker's session: where the claim is gone the job is free again, at the place it always had.
//! Free jobs go out by priority, and within one priority by create revision.
//!
//! Workers without a job stand in line, as for a lock. Only the first looks for jobs and watches; with a job in hand it
//! makes way for the next. So a job wakes one worker, however many wait.

mod job;
mod layout;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use baton_client::mvccpb::{Event, KeyValue, event::EventType};
use baton_client::pb::range_request::{SortOrder, SortTarget};
use baton_client::{Compare, Get, Put, Txn, Watch, WatchError};
use bytes::Bytes;

use crate::answers::{pairs, revision};
use crate::hold::Kind;
use crate::once::{Lanes, Once, unique};
use crate::owned::owned_by_a_task;
use crate::patience::watch_passes;
use crate::session::{Retry, Shared};
use crate::{Acquire, Error, LossReason, MutexGuard, Session, SessionId, Token};

pub use job::Job;
pub use layout::JobId;

use layout::Layout;

/// A queue of jobs with priorities; where all have the same, first in, first out.
///
/// A job goes to one worker at a time and comes back, to its old place, if that worker drops it or its session ends
/// before the job is [acknowledged](Job::ack). So it may be done more than once, by a worker that finished and died
/// before it said so; what the worker writes together with the acknowledgement ([`Job::ack_with`]) is
/// written exactly once.
///
/// Cheap to clone; clones share everything. Pushing and taking need a [`Session`]: it is what tells a push that is sent
/// again from another push, and what a claim ends with.
#[derive(Clone)]
pub struct Queue {
    inner: Arc<Inner>,
}

struct Inner {
    session: Session,
    layout: Layout,
    lanes: Lanes,
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("name", &self.name())
            .field("session", &self.inner.session.id())
            .finish_non_exhaustive()
    }
}

/// What is in a queue, as of one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueInfo {
    /// Jobs that are not acknowledged, those that workers have included.
    pub jobs: u64,
    /// What workers have, by priority and name of the job.
    pub claims: Vec<ClaimInfo>,
    /// The sessions of workers that wait for a job, first in line first. Workers that share a session count once.
    pub idle: Vec<SessionId>,
    /// The revision.
    pub revision: i64,
}

/// A job that a worker has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimInfo {
    /// Which.
    pub job: JobId,
    /// Whose it is.
    pub session: SessionId,
    /// The fencing token of the claim.
    pub token: Token,
    /// The label of the session; empty if it has none.
    pub label: String,
}

/// A job that is in a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Which.
    pub id: JobId,
    /// What was pushed.
    pub payload: Bytes,
}

/// The job to take next.
enum Best {
    Job(KeyValue),
    /// None is free at this revision.
    None(i64),
}

impl Queue {
    /// What [`push`](Self::push) gives a job, so that some can be more urgent and some less.
    pub const DEFAULT_PRIORITY: u16 = 1000;

    pub(crate) fn new(session: &Session, name: String) -> Result<Self, Error> {
        Ok(Self {
            inner: Arc::new(Inner {
                session: session.clone(),
                layout: Layout::new(name)?,
                lanes: Lanes::default(),
            }),
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.inner.layout.name()
    }

    /// Adds a job behind all others of the default priority.
    ///
    /// See [`push_with_priority`](Self::push_with_priority).
    ///
    /// # Errors
    /// As there.
    pub async fn push(&self, payload: impl AsRef<[u8]>) -> Result<JobId, Error> {
        self.push_with_priority(payload, Self::DEFAULT_PRIORITY)
            .await
    }

    /// Adds a job behind all others of this priority: 0 goes first, 65535 last.
    ///
    /// Where an answer is lost the push is sent again, and makes one job all the same, even if that was done and
    /// acknowledged in between. Once polled, the push is seen to by a task of its own: a future that is dropped then
    /// may or may not have pushed.
    ///
    /// # Errors
    /// [`Error::Lost`] if the session ended before, [`Error::Client`] if the server refuses, or with an unknown outcome
    /// if the session ended before it was known whether the job is in the queue.
    pub async fn push_with_priority(
        &self,
        payload: impl AsRef<[u8]>,
        priority: u16,
    ) -> Result<JobId, Error> {
        let payload = Bytes::copy_from_slice(payload.as_ref());
        let queue = self.clone();
        owned_by_a_task(async move { queue.inner.push(&payload, priority).await }).await
    }

    /// Waits for a job and takes it: the first of the most urgent that nobody has, as of the moment it is this worker's
    /// turn.
    ///
    /// Workers take turns in the order they came. To wait for some time only, use `tokio::time::timeout`: dropped at any
    /// moment, the future leaves no job taken and no place in line.
    ///
    /// # Errors
    /// [`Error::Lost`] if the session ended, [`Error::Client`] if the server refuses. Where the server cannot be reached
    /// this waits for as long as the session lives.
    pub async fn pop(&self) -> Result<Job, Error> {
        loop {
            let line = self.inner.layout.line();
            let turn: Acquire<MutexGuard> = Acquire::new(&self.inner.session, &line, Kind::Queue);
            let turn = turn.await?;
            let removed = turn.lost();
            tokio::select! {
                biased;
                job = self.pop_in_turn() => return job,
                reason = removed => {
                    if reason != LossReason::Removed {
                        return Err(Error::Lost(reason));
                    }
                    tracing::info!(queue = self.name(), "somebody removed this worker from the line: back to its end");
                }
            }
        }
    }

    /// Takes a job if one is free, without standing in line for it.
    ///
    /// Dropped at any moment, the future leaves no job taken.
    ///
    /// # Errors
    /// As [`pop`](Self::pop).
    pub async fn try_pop(&self) -> Result<Option<Job>, Error> {
        loop {
            match self.inner.best().await? {
                Best::None(_) => return Ok(None),
                // Where another was faster there was one job less: this comes to an end.
                Best::Job(job) => {
                    if let Some(job) = self.claim(job).await? {
                        return Ok(Some(job));
                    }
                }
            }
        }
    }

    async fn pop_in_turn(&self) -> Result<Job, Error> {
        let mut retry = Retry::new();
        loop {
            match self.inner.best().await? {
                Best::Job(job) => {
                    if let Some(job) = self.claim(job).await? {
                        return Ok(job);
                    }
                }
                Best::None(seen) => match self.inner.news_after(seen).await {
                    Ok(()) => retry = Retry::new(),
                    Err(error) if watch_passes(&error) => {
                        tracing::debug!(queue = self.name(), "looking again: {error}");
                        retry.pause().await;
                    }
                    Err(WatchError::Failed(error)) => return Err(error.into()),
                    Err(error) => {
                        let error = baton_client::Error::Malformed(error.to_string());
                        return Err(error.into());
                    }
                },
            }
        }
    }

    /// Takes this job, if it is still free. A task owns the request: if nobody waits for the job any more when it is
    /// taken, dropping it gives it back.
    async fn claim(&self, job: KeyValue) -> Result<Option<Job>, Error> {
        let queue = self.clone();
        owned_by_a_task(async move { queue.claim_now(job).await }).await
    }

    async fn claim_now(&self, job: KeyValue) -> Result<Option<Job>, Error> {
        let inner = &self.inner;
        let id = inner.layout.id(&job.key)?;
        let key = inner.layout.claim(&id);
        let session = inner.session.shared();
        let claim = Put::new(&key, inner.session.label()).lease(session.id.lease());
        let txn = Txn::new()
            .when(Compare::created_at(&job.key, job.create_revision))
            .when(Compare::absent(&key))
            .then(claim);
        Ok(match inner.lanes.run(session, txn).await? {
            Once::Done(revision) => Some(Job::claimed(self.clone(), id, job.value, key, revision)?),
            Once::NotDone(_) => None,
        })
    }

    /// How many jobs are not acknowledged, those that workers have included.
    ///
    /// # Errors
    /// As a read of the client.
    pub async fn len(&self) -> Result<u64, Error> {
        let get = Get::prefix(self.inner.layout.jobs()).count_only();
        let answer = self.inner.session.client().get(get).await?;
        Ok(u64::try_from(answer.count).unwrap_or(0))
    }

    /// Whether there is no job that is not acknowledged.
    ///
    /// # Errors
    /// As a read of the client.
    pub async fn is_empty(&self) -> Result<bool, Error> {
        Ok(self.len().await? == 0)
    }

    /// The job that would be taken now, and stays.
    ///
    /// # Errors
    /// As [`pop`](Self::pop).
    pub async fn peek(&self) -> Result<Option<Waiting>, Error> {
        match self.inner.best().await? {
            Best::None(_) => Ok(None),
            Best::Job(job) => Ok(Some(Waiting {
                id: self.inner.layout.id(&job.key)?,
                payload: job.value,
            })),
        }
    }

    /// Who has which job, and who waits.
    ///
    /// # Errors
    /// As a read of the client.
    pub async fn inspect(&self) -> Result<QueueInfo, Error> {
        let layout = &self.inner.layout;
        let line = Get::prefix(layout.line().prefix())
            .sort(SortTarget::Create, SortOrder::Ascend)
            .keys_only();
        let txn = Txn::new()
            .then(Get::prefix(layout.jobs()).keys_only())
            .then(Get::prefix(layout.claims()))
            .then(line);
        let answer = self.inner.session.client().txn(txn).await?;
        let mut claims = Vec::new();
        for claim in pairs(&answer, 1) {
            claims.extend(
                Token::from_revision(claim.create_revision)
                    .map(|token| {
                        Ok::<_, Error>(ClaimInfo {
                            job: layout.id(&claim.key)?,
                            session: SessionId::from_lease(claim.lease),
                            token,
                            label: String::from_utf8_lossy(&claim.value).into_owned(),
                        })
                    })
                    .transpose()?,
            );
        }
        let idle = pairs(&answer, 2).iter();
        Ok(QueueInfo {
            jobs: pairs(&answer, 0).len() as u64,
            claims,
            idle: idle
                .map(|waiter| SessionId::from_lease(waiter.lease))
                .collect(),
            revision: revision(answer.header.as_ref()),
        })
    }
}

impl Inner {
    async fn push(&self, payload: &Bytes, priority: u16) -> Result<JobId, Error> {
        let session = self.session.shared();
        let id = JobId::new(priority, format!("{:016x}", unique()));
        let key = self.layout.job(&id);
        let txn = Txn::new()
            .when(Compare::absent(&key))
            .then(Put::new(&key, payload));
        match self.lanes.run(session, txn).await? {
            Once::Done(_) => Ok(id),
            Once::NotDone(_) => Err(baton_client::Error::Malformed(format!(
                "the key {key}, which nobody else makes, is there already"
            ))
            .into()),
        }
    }

    fn session(&self) -> &Shared {
        self.session.shared()
    }

    /// The most urgent of the jobs that nobody has, and of those the one pushed first.
    async fn best(&self) -> Result<Best, Error> {
        let mut retry = Retry::new();
        loop {
            match self.best_at_one_revision().await {
                // Only the store's present state is asked for, but by several requests.
                Err(Error::Client(error))
                    if error.refusal().is_some_and(|it| it.is_compacted()) =>
                {
                    retry.pause().await;
                }
                best => return best,
            }
        }
    }

    async fn best_at_one_revision(&self) -> Result<Best, Error> {
        let client = self.session.client();
        let first = || {
            let txn = Txn::new()
                .then(Get::prefix(self.layout.claims()).keys_only())
                .then(Get::prefix(self.layout.jobs()).limit(1).keys_only());
            client.txn(txn)
        };
        let answer = self
            .session()
            .until_answered("to look for a job", first)
            .await?;
        let seen = revision(answer.header.as_ref());
        let mut claimed = BTreeSet::new();
        for claim in pairs(&answer, 0) {
            claimed.insert(self.layout.id(&claim.key)?);
        }
        let mut most_urgent = pairs(&answer, 1).first().cloned();
        while let Some(any) = most_urgent {
            let priority = self.layout.id(&any.key)?.priority();
            let taken = claimed.iter().filter(|id| id.priority() == priority);
            let enough = i64::try_from(taken.count()).unwrap_or(i64::MAX - 1) + 1;
            let jobs = || {
                let get = Get::prefix(self.layout.jobs_of(priority))
                    .sort(SortTarget::Create, SortOrder::Ascend)
                    .limit(enough)
                    .revision(seen);
                client.get(get)
            };
            for job in self
                .session()
                .until_answered("to look for a job", jobs)
                .await?
                .kvs
            {
                if !claimed.contains(&self.layout.id(&job.key)?) {
                    return Ok(Best::Job(job));
                }
            }
            let less_urgent = || {
                let (start, end) = self.layout.jobs_behind(priority);
                client.get(Get::range(start, end).limit(1).keys_only().revision(seen))
            };
            most_urgent = self
                .session()
                .until_answered("to look for a job", less_urgent)
                .await?
                .kvs
                .pop();
        }
        Ok(Best::None(seen))
    }

    /// Waits until a job may be free that was not at this revision.
    async fn news_after(&self, seen: i64) -> Result<(), WatchError> {
        let (start, end) = self.layout.claims_and_jobs();
        let watch = Watch::range(start, end).from(seen + 1).progress();
        let mut watcher = self.session.client().watch(watch).await?;
        loop {
            if frees_a_job(&self.layout, &watcher.next().await?.events) {
                return Ok(());
            }
        }
    }
}

/// Whether a job was pushed, or a claim ended and not its job with it.
fn frees_a_job(layout: &Layout, events: &[Event]) -> bool {
    let jobs = layout.jobs();
    let key = |event: &Event| {
        event
            .kv
            .as_ref()
            .map(|pair| pair.key.clone())
            .unwrap_or_default()
    };
    let is_job = |key: &Bytes| key.starts_with(jobs.as_bytes());
    let done: BTreeSet<Bytes> = events
        .iter()
        .filter(|event| event.r#type() == EventType::Delete)
        .map(key)
        .filter(is_job)
        .collect();
    events.iter().any(|event| {
        let key = key(event);
        match event.r#type() {
            EventType::Put => is_job(&key),
            EventType::Delete if is_job(&key) => false,
            EventType::Delete => layout
                .id(&key)
                .is_ok_and(|id| !done.contains(layout.job(&id).as_bytes())),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: EventType, key: String) -> Event {
        Event {
            r#type: kind.into(),
            kv: Some(KeyValue {
                key: key.into(),
                ..Default::default()
            }),
            prev_kv: None,
        }
    }

    fn queue() -> (Layout, JobId) {
        let layout = Layout::new("mail".to_owned()).unwrap();
        (layout, JobId::new(3, "a-1".to_owned()))
    }

    #[test]
    fn a_push_and_the_end_of_a_claim_are_worth_a_look() {
        let (layout, id) = queue();
        let pushed = event(EventType::Put, layout.job(&id));
        assert!(frees_a_job(&layout, &[pushed]));
        let given_back = event(EventType::Delete, layout.claim(&id));
        assert!(frees_a_job(&layout, &[given_back]));
    }

    #[test]
    fn a_claim_and_an_acknowledgement_wake_nobody() {
        let (layout, id) = queue();
        let claimed = event(EventType::Put, layout.claim(&id));
        assert!(!frees_a_job(&layout, &[claimed]));
        let done = event(EventType::Delete, layout.job(&id));
        let given_up = event(EventType::Delete, layout.claim(&id));
        assert!(!frees_a_job(&layout, &[given_up, done]));
    }
}
