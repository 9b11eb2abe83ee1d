//! Elections.

use std::collections::VecDeque;
use std::ops::{ControlFlow, Deref};
use std::sync::Arc;

use baton_client::mvccpb::{KeyValue, event::EventType};
use baton_client::{Client, Get, Notification, Watch, WatchError, Watcher};
use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt, unfold};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::answers::revision;
use crate::hold::{Hold, Kind};
use crate::mutex::{LockInfo, Waiter};
use crate::patience::passes;
use crate::session::Retry;
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
    /// this value. Where the server cannot be reached it waits on, for as long as the session lives.
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
        let revision = revision(answer.header.as_ref());
        let Some(found) = answer.kvs.pop() else {
            return Ok(None);
        };
        Ok(Some(Leader {
            candidate: Waiter::of(&self.name, found)?,
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

    /// Who leads, and every change of that, from now on: at first what is. Values that follow each other
    /// quickly may be told as one, and so may leaders. Where the server cannot be reached nothing is told;
    /// it goes on where it left off.
    ///
    /// It does not end without an error. Needs no session of its own: it goes on when that of this
    /// election has ended. May be dropped at any time.
    ///
    /// # Errors
    /// The last item is one: [`Error::Invalid`] for a name that makes no sense, [`Error::Client`] if the
    /// server refuses.
    pub fn observe(&self) -> BoxStream<'static, Result<LeaderEvent, Error>> {
        let observer = Observer {
            client: self.session.client().clone(),
            name: self.name.clone(),
            told: Told::Nothing,
            watcher: None,
            ahead: VecDeque::new(),
            seen: None,
        };
        let events = unfold(Some(observer), |observer| async {
            let mut observer = observer?;
            match observer.next().await {
                Ok(event) => Some((Ok(event), Some(observer))),
                Err(error) => Some((Err(error), None)),
            }
        });
        events.boxed()
    }

    /// Campaigns in the background, again and again, as long as the session lives, and tells whether this
    /// candidate leads. Dropped, it resigns in the background.
    pub fn latch(&self, value: impl AsRef<[u8]>) -> LeaderLatch {
        let (leads, receiver) = watch::channel(None);
        let (stop, stopped) = oneshot::channel();
        let campaigns = latched(
            self.clone(),
            Bytes::copy_from_slice(value.as_ref()),
            leads,
            stopped,
        );
        LeaderLatch {
            leads: receiver,
            stop,
            task: tokio::spawn(campaigns),
        }
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
                done = work(leadership.clone()) => done,
            };
            // Also where `work` left a clone with somebody, to whom it is of no use then.
            let _ = leadership.hold.release().await;
            if let ControlFlow::Break(result) = done {
                return Ok(result);
            }
        }
    }
}

/// What an observer is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaderEvent {
    /// Another candidate leads.
    Elected(Leader),
    /// The same candidate leads, with another value.
    Updated(Leader),
    /// Nobody leads.
    NoLeader {
        /// As of this revision.
        at: i64,
    },
    /// Changes were compacted before they could be seen. What is told next is how things stand now;
    /// nothing, if that was told before.
    Resynced,
}

/// What the observer was told last.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Told {
    Nothing,
    NoLeader,
    Leader { key: Bytes, term: i64, version: i64 },
}

impl Told {
    /// Another look: whether that is news.
    fn update(
        &mut self,
        name: &Name,
        first: Option<KeyValue>,
        revision: i64,
    ) -> Result<Option<LeaderEvent>, baton_client::Error> {
        let Some(first) = first else {
            let is_news = *self != Self::NoLeader;
            *self = Self::NoLeader;
            return Ok(is_news.then_some(LeaderEvent::NoLeader { at: revision }));
        };
        let before = std::mem::replace(
            self,
            Self::Leader {
                key: first.key.clone(),
                term: first.create_revision,
                version: first.mod_revision,
            },
        );
        let (is_same, is_old) = match &before {
            Self::Leader { key, term, version } => (
                *key == first.key && *term == first.create_revision,
                *version == first.mod_revision,
            ),
            _ => (false, false),
        };
        let leader = Leader {
            candidate: Waiter::of(name, first)?,
            revision,
        };
        Ok(match (is_same, is_old) {
            (true, true) => None,
            (true, false) => Some(LeaderEvent::Updated(leader)),
            (false, _) => Some(LeaderEvent::Elected(leader)),
        })
    }
}

/// Looks who leads, and watches what can change that: the leader's key, or if there is no leader, that one
/// comes. Who leads is always read, never concluded from what others do under the name.
struct Observer {
    client: Client,
    name: Name,
    told: Told,
    /// Of what can change that.
    watcher: Option<Watcher>,
    /// To be told next.
    ahead: VecDeque<LeaderEvent>,
    /// The revision everything up to `ahead` is known at. None before the first look.
    seen: Option<i64>,
}

impl Observer {
    async fn next(&mut self) -> Result<LeaderEvent, Error> {
        self.name.check()?;
        let mut retry = Retry::new();
        loop {
            if let Some(event) = self.ahead.pop_front() {
                return Ok(event);
            }
            let result = match self.seen {
                None => self.look().await.map_err(WatchError::Failed),
                Some(seen) => self.watch(seen).await,
            };
            match result {
                // A read that is answered does not tell that a watch will be.
                Ok(()) if self.watcher.is_some() => retry = Retry::new(),
                Ok(()) => {}
                Err(WatchError::Failed(error)) if !passes(&error) => return Err(error.into()),
                Err(WatchError::Compacted { .. }) => {
                    self.seen = None;
                    return Ok(LeaderEvent::Resynced);
                }
                Err(error) => {
                    tracing::debug!(name = %self.name, "observing, once more: {error}");
                    self.seen = None;
                    retry.pause().await;
                }
            }
        }
    }

    async fn look(&mut self) -> Result<(), baton_client::Error> {
        self.watcher = None;
        let first = Get::prefix(self.name.prefix()).first_created();
        let mut answer = self.client.get(first).await?;
        let revision = revision(answer.header.as_ref());
        self.seen = Some(revision);
        let event = self.told.update(&self.name, answer.kvs.pop(), revision)?;
        self.ahead.extend(event);
        Ok(())
    }

    /// Waits for a change behind the revision seen.
    async fn watch(&mut self, seen: i64) -> Result<(), WatchError> {
        let watcher = match &mut self.watcher {
            Some(watcher) => watcher,
            none => {
                let watch = match &self.told {
                    Told::Leader { key, .. } => Watch::key(key),
                    _ => Watch::prefix(self.name.prefix()).puts(),
                };
                none.insert(self.client.watch(watch.from(seen + 1)).await?)
            }
        };
        let told = watcher.next().await?;
        self.seen = Some(told.revision);
        if told.events.is_empty() {
            return Ok(());
        }
        self.changed(told).await
    }

    async fn changed(&mut self, told: Notification) -> Result<(), WatchError> {
        let put = EventType::Put as i32;
        if matches!(self.told, Told::Leader { .. })
            && told.events.iter().all(|event| event.r#type == put)
        {
            let pairs = told.events.into_iter().filter_map(|event| event.kv);
            for pair in pairs {
                let event = self.told.update(&self.name, Some(pair), told.revision)?;
                self.ahead.extend(event);
            }
            return Ok(());
        }
        Ok(self.look().await?)
    }
}

/// Tells whether a candidate leads. Cheap to ask.
#[derive(Debug)]
pub struct LeaderLatch {
    leads: watch::Receiver<Option<Grant>>,
    /// Dropped, it ends the task.
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl LeaderLatch {
    /// Whether it leads, as far as this machine can tell by its clock and what it was told: bound to the
    /// session whose key makes it leader, and false once that session's deadline has passed. Asks nobody.
    pub fn is_leader(&self) -> bool {
        self.leads.borrow().as_ref().is_some_and(Grant::is_held)
    }

    /// The leadership, to do something under; none while it does not lead.
    pub fn leadership(&self) -> Option<Grant> {
        self.leads.borrow().clone().filter(Grant::is_held)
    }

    /// Every change: the leadership while it leads. Closed when the session has ended.
    pub fn changes(&self) -> watch::Receiver<Option<Grant>> {
        self.leads.clone()
    }

    /// Resigns, or withdraws, and comes back when that is done, or the session has ended.
    ///
    /// Dropping the future changes nothing: it goes on.
    pub async fn close(self) {
        drop(self.stop);
        let _ = self.task.await;
    }
}

async fn latched(
    election: Election,
    value: Bytes,
    leads: watch::Sender<Option<Grant>>,
    mut stopped: oneshot::Receiver<()>,
) {
    let mut retry = Retry::new();
    loop {
        let (over, withdrawn) = oneshot::channel();
        let campaign = tokio::select! {
            biased;
            _ = &mut stopped => {
                let _ = withdrawn.await;
                return;
            }
            campaign = election.campaign(&value).over(over) => campaign,
        };
        let leadership = match campaign {
            Ok(leadership) => leadership,
            Err(Error::Lost(LossReason::Removed)) => continue,
            Err(Error::Lost(_) | Error::Invalid(_)) => return,
            Err(error) => {
                tracing::warn!(name = %election.name, "campaigning, once more: {error}");
                retry.pause().await;
                continue;
            }
        };
        retry = Retry::new();
        leads.send_replace(Some(leadership.grant().clone()));
        let is_over = tokio::select! {
            biased;
            _ = &mut stopped => true,
            _ = leadership.lost() => false,
        };
        leads.send_replace(None);
        if is_over {
            let _ = leadership.resign().await;
            return;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(key: &'static str, create_revision: i64, mod_revision: i64) -> Option<KeyValue> {
        Some(KeyValue {
            key: Bytes::from_static(key.as_bytes()),
            create_revision,
            mod_revision,
            ..Default::default()
        })
    }

    /// What each look, given as the first candidate then, tells.
    fn told(looks: Vec<Option<KeyValue>>) -> Vec<&'static str> {
        let mut told = Told::Nothing;
        let name = Name::from("e");
        let events = looks
            .into_iter()
            .map(|first| told.update(&name, first, 9).unwrap());
        events
            .map(|event| match event {
                None => "",
                Some(LeaderEvent::Elected(_)) => "elected",
                Some(LeaderEvent::Updated(_)) => "updated",
                Some(LeaderEvent::NoLeader { .. }) => "no leader",
                Some(LeaderEvent::Resynced) => "resynced",
            })
            .collect()
    }

    #[test]
    fn a_key_that_is_there_since_no_revision_is_no_leader_but_nonsense() {
        let mut told = Told::Nothing;
        let error = told.update(&Name::from("e"), pair("e/1", 0, 0), 9);
        assert!(matches!(error, Err(baton_client::Error::Malformed(_))));
    }

    #[test]
    fn an_observer_is_told_what_is_and_then_only_news() {
        let looks = vec![None, None, pair("e/1", 3, 3), pair("e/1", 3, 3), None];
        assert_eq!(told(looks), ["no leader", "", "elected", "", "no leader"]);
    }

    #[test]
    fn another_value_is_an_update_and_another_candidate_an_election() {
        let looks = vec![pair("e/1", 3, 3), pair("e/1", 3, 5), pair("e/2", 4, 4)];
        assert_eq!(told(looks), ["elected", "updated", "elected"]);
    }

    #[test]
    fn the_same_session_that_stands_again_is_elected_anew() {
        let looks = vec![pair("e/1", 3, 3), pair("e/1", 6, 6)];
        assert_eq!(told(looks), ["elected", "elected"]);
    }
}
