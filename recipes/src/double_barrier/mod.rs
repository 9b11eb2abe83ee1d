//! A barrier that members enter together and leave together.

mod round;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use baton_client::pb::compare::CompareResult;
use baton_client::{Compare, Delete, Get, Put, Txn, Watch, WatchError, Watcher, prefix_end};
use parking_lot::Mutex as Lock;
use tokio::sync::OwnedSemaphorePermit;

use crate::answers::revision;
use crate::names::check_segment;
use crate::once::{Lanes, Once};
use crate::owned::owned_by_a_task;
use crate::patience::{passes, watch_passes};
use crate::session::{Retry, Shared};
use crate::{Error, Lost, Session};

use round::{Layout, Round, ToEnter, ToLeave, Until};

/// Members begin a piece of work when all of them have come, and go on when all of them have left.
///
/// Every member has a name of its own, which it has again when it is restarted: then it takes its old place, and is not
/// one too many. A member's key ends with its session. It is used again and again: each time all have left, a
/// *generation* is over and the next begins.
///
/// A member that dies before all have come is missing again. One that dies inside counts as having left, so that the
/// others are not held up; restarted while others are still inside, it is inside again.
///
/// Cheap to clone. One session is one member at a time: while it is inside, a second [`enter`](Self::enter) for the same
/// member waits.
#[derive(Clone)]
pub struct DoubleBarrier {
    inner: Arc<Inner>,
}

struct Inner {
    session: Session,
    name: String,
    layout: Layout,
    members: Members,
    me: String,
    lanes: Lanes,
    /// The state read last, to tell who was missing should the server not answer.
    last: Lock<Round>,
}

impl fmt::Debug for DoubleBarrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DoubleBarrier")
            .field("name", &self.inner.name)
            .field("me", &self.inner.me)
            .finish_non_exhaustive()
    }
}

/// Who has to come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Members {
    /// So many, whatever their names.
    Count(usize),
    /// These. A member that does not come can be named.
    Named(Vec<String>),
}

impl From<usize> for Members {
    fn from(count: usize) -> Self {
        Self::Count(count)
    }
}

impl From<Vec<String>> for Members {
    fn from(names: Vec<String>) -> Self {
        Self::Named(names)
    }
}

impl From<&[&str]> for Members {
    fn from(names: &[&str]) -> Self {
        Self::Named(names.iter().map(|&name| name.to_owned()).collect())
    }
}

impl<const N: usize> From<[&str; N]> for Members {
    fn from(names: [&str; N]) -> Self {
        names.as_slice().into()
    }
}

impl Members {
    fn size(&self) -> usize {
        match self {
            Self::Count(count) => *count,
            Self::Named(names) => names.len(),
        }
    }

    fn check(&self, me: &str) -> Result<(), Error> {
        check_segment("member's name", me)?;
        if self.size() == 0 {
            return Err(Error::Invalid(
                "a double barrier without members would never open: say how many there are, or name them"
                    .to_owned(),
            ));
        }
        let Self::Named(names) = self else {
            return Ok(());
        };
        for (index, name) in names.iter().enumerate() {
            check_segment("member's name", name)?;
            if names[..index].contains(name) {
                return Err(Error::Invalid(format!(
                    "the member {name:?} is named twice: each needs a name of its own"
                )));
            }
        }
        if !names.iter().any(|name| name == me) {
            return Err(Error::Invalid(format!(
                "{me:?} is not one of the members {}: add it, or enter under one of these names",
                names.join(", ")
            )));
        }
        Ok(())
    }
}

/// Why a member is not inside.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnterError {
    /// Not all have come in time. The member that waited has left.
    #[error("after {after:?} {} of {size} members had come ({}); missing: {}", here.len(), here.join(", "), missing(absent, here.len(), *size))]
    TimedOut {
        /// How long it waited.
        after: Duration,
        /// How many have to come.
        size: usize,
        /// Who had come, in the order they came, the member that waited included.
        here: Vec<String>,
        /// Who had not, where the members are named.
        absent: Vec<String>,
    },
    /// Others wait for another number of members.
    #[error(
        "this member waits for {own} members, but the others wait for {others}: give all the same number"
    )]
    Mismatch {
        /// What this member was given.
        own: usize,
        /// What the one that came first was given.
        others: usize,
    },
    /// The present generation is complete without this member.
    #[error(
        "all {} places are taken, by {}: this member is one too many, or should enter under one of these names",
        roster.len(), roster.join(", ")
    )]
    Full {
        /// Who has the places.
        roster: Vec<String>,
    },
    /// Another session entered under this member's name.
    #[error("another process came as {member:?}: each member needs a name of its own")]
    Replaced {
        /// The name.
        member: String,
    },
    /// The session ended, or a request failed.
    #[error(transparent)]
    Recipe(#[from] Error),
}

fn missing(absent: &[String], here: usize, size: usize) -> String {
    if absent.is_empty() {
        size.saturating_sub(here).to_string()
    } else {
        absent.join(", ")
    }
}

impl DoubleBarrier {
    pub(crate) fn new(
        session: &Session,
        name: String,
        members: Members,
        me: String,
    ) -> Result<Self, Error> {
        check_segment("double barrier's name", &name)?;
        members.check(&me)?;
        Ok(Self {
            inner: Arc::new(Inner {
                session: session.clone(),
                layout: Layout::new(&name),
                name,
                members,
                me,
                lanes: Lanes::default(),
                last: Lock::default(),
            }),
        })
    }

    /// Waits until all members have come.
    ///
    /// Dropped at any moment, the future leaves no member behind; as far as the others are concerned it came and
    /// left.
    ///
    /// # Errors
    /// See [`EnterError`]. Where the server cannot be reached this waits for as long as the session lives.
    pub async fn enter(&self) -> Result<Inside, EnterError> {
        let inner = &self.inner;
        let (session, size) = (inner.session.shared(), inner.members.size());
        let mut place = Place::new(inner.clone()).await?;
        let mut retry = Retry::new();
        loop {
            let (round, seen) = inner.round().await?;
            let own = round.own(&inner.me, session.id.lease());
            let came = place.written.is_some();
            // A session that was resumed has come already.
            if let Some(own) = own {
                place.written = Some(own.mod_revision);
            }
            match round.to_enter(&inner.me, session.id.lease(), size, came) {
                ToEnter::Come => {
                    place = owned_by_a_task(async move {
                        place.come(&round).await?;
                        Ok::<_, Error>(place)
                    })
                    .await?;
                }
                ToEnter::Ready { roster } => inner.say_ready(&round, &roster, &mut retry).await?,
                ToEnter::Finish => inner.finish(&round, &mut retry).await?,
                ToEnter::Inside => {
                    place.entered = Some(round.guard);
                    return Ok(Inside {
                        place,
                        generation: round.generation,
                        roster: round.ready.unwrap_or_default(),
                    });
                }
                ToEnter::Wait(until) => match inner.wait(&until, seen).await {
                    Ok(()) => retry = Retry::new(),
                    Err(error) => inner.watch_failed(error, &mut retry).await?,
                },
                ToEnter::Mismatch { others } => {
                    return Err(EnterError::Mismatch { own: size, others });
                }
                ToEnter::Full { roster } => return Err(EnterError::Full { roster }),
                ToEnter::Replaced => {
                    return Err(EnterError::Replaced {
                        member: inner.me.clone(),
                    });
                }
            }
        }
    }

    /// The same, for so long; then the error tells who is missing.
    ///
    /// # Errors
    /// As [`enter`](Self::enter), and [`EnterError::TimedOut`].
    pub async fn enter_within(&self, limit: Duration) -> Result<Inside, EnterError> {
        if let Ok(entered) = tokio::time::timeout(limit, self.enter()).await {
            return entered;
        }
        let inner = &self.inner;
        // Those who wait do not follow every arrival; if there is no answer in a second, what was seen last must do.
        let _ = tokio::time::timeout(Duration::from_secs(1), inner.round()).await;
        let mut here: Vec<String> = {
            let last = inner.last.lock();
            last.members
                .iter()
                .map(|member| member.id.clone())
                .collect()
        };
        if !here.contains(&inner.me) {
            here.push(inner.me.clone());
        }
        let absent = match &inner.members {
            Members::Count(_) => Vec::new(),
            Members::Named(names) => {
                let absent = names.iter().filter(|name| !here.contains(name));
                absent.cloned().collect()
            }
        };
        Err(EnterError::TimedOut {
            after: limit,
            size: inner.members.size(),
            here,
            absent,
        })
    }
}

/// A member that is inside. Dropped, it leaves, without waiting for the others.
#[must_use = "dropped, the member leaves at once"]
pub struct Inside {
    place: Place,
    generation: u64,
    roster: Vec<String>,
}

impl fmt::Debug for Inside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inside")
            .field("name", &self.place.inner.name)
            .field("me", &self.place.inner.me)
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

impl Inside {
    /// How many generations were over before this one.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The members of this generation, in the order they came.
    pub fn members(&self) -> &[String] {
        &self.roster
    }

    /// Resolves when the session has ended: the others count this member as gone.
    pub fn lost(&self) -> Lost {
        self.place.inner.session.lost()
    }

    /// Leaves, and waits until all others have left, too, or died.
    ///
    /// Dropped before, the future leaves all the same, in the background. To wait for some time only, use
    /// `tokio::time::timeout`.
    ///
    /// # Errors
    /// [`Error::Lost`] if the session ended, [`Error::Client`] if the server refuses.
    pub async fn leave(mut self) -> Result<(), Error> {
        let inner = self.place.inner.clone();
        let session = inner.session.shared();
        let guard = self.place.entered.unwrap_or_default();
        let mut retry = Retry::new();
        loop {
            let (round, seen) = inner.round().await?;
            match round.to_leave(&inner.me, session.id.lease(), guard) {
                ToLeave::Over => {
                    self.place.written = None;
                    return Ok(());
                }
                ToLeave::SayLeft => {
                    let txn = self.place.mine(&round).then(inner.left());
                    inner.attempt(txn, &mut retry).await?;
                }
                ToLeave::Leave => {
                    let txn = self.place.mine(&round).then(inner.left());
                    let gone = Delete::key(inner.layout.member(&inner.me));
                    inner.attempt(txn.then(gone), &mut retry).await?;
                }
                ToLeave::LeaveAsLast => {
                    let mut txn = self.place.mine(&round);
                    for (start, end) in inner.layout.other_members(&inner.me) {
                        txn = txn.when(Compare::absent(start).over(end));
                    }
                    let gone = Delete::key(inner.layout.member(&inner.me));
                    let txn = inner.over(&round, txn.then(gone));
                    inner.attempt(txn, &mut retry).await?;
                }
                ToLeave::Finish => inner.finish(&round, &mut retry).await?,
                ToLeave::Wait(member) => match inner.wait(&Until::Gone(member), seen).await {
                    Ok(()) => retry = Retry::new(),
                    Err(error) => inner.watch_failed(error, &mut retry).await?,
                },
            }
        }
    }
}

/// A member's key, from before it is written. Dropped, it removes it.
struct Place {
    inner: Arc<Inner>,
    /// The revision it was written at, once it is.
    written: Option<i64>,
    /// The guard of the generation it is inside of, once it is.
    entered: Option<i64>,
    /// A session is a member once: the next begins when this is undone.
    turn: Option<OwnedSemaphorePermit>,
}

impl Place {
    async fn new(inner: Arc<Inner>) -> Result<Self, Error> {
        let session = inner.session.shared();
        session.check_alive()?;
        let turns = session.turns(&inner.layout.member(&inner.me).into());
        let mut lost = session.lost();
        let turn = tokio::select! {
            biased;
            reason = &mut lost => return Err(Error::Lost(reason)),
            turn = turns.acquire_owned() => turn.ok(),
        };
        Ok(Self {
            inner,
            written: None,
            entered: None,
            turn,
        })
    }

    /// Writes the key, if the generation is as it was.
    async fn come(&mut self, round: &Round) -> Result<(), Error> {
        let inner = &self.inner;
        let session = inner.session.shared();
        let key = inner.layout.member(&inner.me);
        let before = round.members.iter().find(|member| member.id == inner.me);
        let ready = inner.layout.ready();
        let as_before = match before {
            None => Compare::absent(&key),
            Some(member) => Compare::mod_revision(&key, CompareResult::Equal, member.mod_revision),
        };
        let is_ready = match round.ready {
            None => Compare::absent(&ready),
            Some(_) => Compare::version(&ready, CompareResult::Greater, 0),
        };
        let put = Put::new(&key, inner.members.size().to_string()).lease(session.id.lease());
        let txn = Txn::new()
            .when(inner.same_generation(round))
            .when(is_ready)
            .when(as_before)
            .then(put);
        if let Once::Done(revision) = inner.lanes.run(session, txn).await? {
            self.written = Some(revision);
        }
        Ok(())
    }

    /// A transaction for as long as the key is as it was written, and the generation is this one.
    fn mine(&self, round: &Round) -> Txn {
        let key = self.inner.layout.member(&self.inner.me);
        let written = self.written.unwrap_or_default();
        Txn::new()
            .when(self.inner.same_generation(round))
            .when(Compare::mod_revision(key, CompareResult::Equal, written))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(written) = self.written else {
            return;
        };
        let inner = self.inner.clone();
        let key = inner.layout.member(&inner.me);
        let mut txn = Txn::new()
            .when(Compare::mod_revision(&key, CompareResult::Equal, written))
            .then(Delete::key(&key));
        if let Some(guard) = self.entered {
            let generation = inner.layout.generation();
            txn = txn
                .when(Compare::mod_revision(
                    generation,
                    CompareResult::Equal,
                    guard,
                ))
                .then(inner.left());
        }
        let turn = self.turn.take();
        self.inner.session.shared().spawn(async move {
            let session = inner.session.shared();
            let request = || session.client.txn(txn.clone());
            if let Err(error) = session.until_removed(request).await {
                tracing::debug!(key, "goes with its session: {error}");
            }
            drop(turn);
        });
    }
}

impl Inner {
    fn session(&self) -> &Shared {
        self.session.shared()
    }

    /// The state, and the revision it was read at.
    async fn round(&self) -> Result<(Round, i64), Error> {
        let client = self.session.client();
        let all = || client.get(Get::prefix(self.layout.prefix()));
        let answer = self.session().until_answered("to look", all).await?;
        let round = Round::read(&self.layout, &answer.kvs)?;
        *self.last.lock() = round.clone();
        Ok((round, revision(answer.header.as_ref())))
    }

    fn same_generation(&self, round: &Round) -> Compare {
        let key = self.layout.generation();
        Compare::mod_revision(key, CompareResult::Equal, round.guard)
    }

    fn left(&self) -> Put {
        Put::new(self.layout.left(&self.me), "")
    }

    /// Counts the generation and removes what belongs to it.
    fn over(&self, round: &Round, txn: Txn) -> Txn {
        let count = (round.generation + 1).to_string();
        txn.then(Put::new(self.layout.generation(), count))
            .then(Delete::key(self.layout.ready()))
            .then(Delete::prefix(self.layout.all_left()))
    }

    async fn finish(&self, round: &Round, retry: &mut Retry) -> Result<(), Error> {
        let members = self.layout.members();
        let nobody = Compare::absent(&members).over(prefix_end(&members));
        let txn = Txn::new().when(self.same_generation(round)).when(nobody);
        self.attempt(self.over(round, txn), retry).await
    }

    async fn say_ready(
        &self,
        round: &Round,
        roster: &[String],
        retry: &mut Retry,
    ) -> Result<(), Error> {
        let ready = self.layout.ready();
        let txn = Txn::new()
            .when(self.same_generation(round))
            .when(Compare::absent(&ready))
            .then(Put::new(ready, roster.join("/")));
        self.attempt(txn, retry).await
    }

    /// Sends a change after which the state is read again in any case, so that nothing depends on its outcome.
    async fn attempt(&self, txn: Txn, retry: &mut Retry) -> Result<(), Error> {
        match self.session.client().txn(txn).await {
            Ok(_) => Ok(()),
            Err(error) if passes(&error) => {
                tracing::debug!(barrier = self.name, "looking again: {error}");
                retry.pause().await;
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// A watch that broke is begun again behind a new read.
    async fn watch_failed(&self, error: WatchError, retry: &mut Retry) -> Result<(), Error> {
        if !watch_passes(&error) {
            return Err(match error {
                WatchError::Failed(error) => error.into(),
                error => baton_client::Error::Malformed(error.to_string()).into(),
            });
        }
        tracing::debug!(barrier = self.name, "looking again: {error}");
        retry.pause().await;
        Ok(())
    }

    /// Waits until that happens behind this revision, or the session ends, which the next read tells.
    async fn wait(&self, until: &Until, seen: i64) -> Result<(), WatchError> {
        let from = seen + 1;
        let put = |key| Watch::key(key).from(from).puts().progress();
        let gone = |id: &str| {
            let key = self.layout.member(id);
            Watch::key(key).from(from).deletes().progress()
        };
        let (one, other) = match until {
            Until::AnyChange => {
                let all = Watch::prefix(self.layout.prefix()).from(from).progress();
                (all, None)
            }
            Until::ReadyOrGone(id) => (gone(id), Some(put(self.layout.ready()))),
            Until::FinishedOrGone(id) => (gone(id), Some(put(self.layout.generation()))),
            Until::Gone(id) => (gone(id), None),
        };
        let client = self.session.client();
        let mut one = client.watch(one).await?;
        let mut other = match other {
            Some(other) => Some(client.watch(other).await?),
            None => None,
        };
        let either = async {
            match &mut other {
                Some(other) => happens(other).await,
                None => std::future::pending().await,
            }
        };
        let mut lost = self.session.lost();
        tokio::select! {
            biased;
            _ = &mut lost => Ok(()),
            told = happens(&mut one) => told,
            told = either => told,
        }
    }
}

/// Waits for an event.
async fn happens(watcher: &mut Watcher) -> Result<(), WatchError> {
    while watcher.next().await?.events.is_empty() {}
    Ok(())
}
