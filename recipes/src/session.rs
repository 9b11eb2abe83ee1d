//! Sessions: a lease that is kept alive, and what is known about how long it will be.

use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use baton_client::{BootInstant, Client, Compare, Get, Put, Renewal};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex as Lock;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use crate::answers::revision;
use crate::name::session_key;
use crate::patience::passes;
use crate::timer::Alarm;
use crate::{DoubleBarrier, Election, Error, Members, Mutex, Name, Queue};

/// The least time between the moment a session is given up here and the moment its lease ends.
const MARGIN_MIN: Duration = Duration::from_millis(200);
/// etcd's own limit of a lease.
const TTL_MAX: Duration = Duration::from_secs(9_000_000_000);
/// Between attempts at a request that failed.
const RETRY_FIRST: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_secs(1);

/// The id of a session: that of its lease. Written in hex, as in the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SessionId(i64);

impl SessionId {
    /// The session of a lease.
    pub fn from_lease(id: i64) -> Self {
        Self(id)
    }

    /// The lease of the session.
    pub fn lease(self) -> i64 {
        self.0
    }
}

impl fmt::Display for SessionId {
    /// As Go prints an integer in hex: a sign, then the digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        write!(f, "{sign}{:x}", self.0.unsigned_abs())
    }
}

impl FromStr for SessionId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        i64::from_str_radix(text, 16)
            .map(Self)
            .map_err(|_| Error::Invalid(format!("{text:?} is no session: give its id in hex")))
    }
}

/// Why a session, a place in line or a hold ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LossReason {
    /// No renewal was answered in time. The lease ends within the margin, if it has not yet.
    #[error("the session's deadline passed without an answered renewal")]
    DeadlinePassed,
    /// The server has no such lease any more: somebody revoked it.
    #[error("the session's lease was revoked")]
    Revoked,
    /// The session was closed here, or its last handle was dropped.
    #[error("the session was closed")]
    Closed,
    /// The session was handed on, and is not renewed here any more.
    #[error("the session was detached")]
    Detached,
    /// Somebody removed the key, while the session goes on.
    #[error("the key was removed by somebody else: it was forced to be released")]
    Removed,
    /// It was released by its owner.
    #[error("it was released")]
    Released,
}

/// How things stand with a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionState {
    /// Renewals are answered.
    Safe {
        /// Until then the lease is certainly there, unless somebody revokes it.
        until: BootInstant,
    },
    /// The last renewal failed or has no answer yet. Time to finish what must not be cut short.
    Jeopardy {
        /// Until then the lease is certainly there, unless somebody revokes it.
        until: BootInstant,
    },
    /// It is over. Final.
    Lost(LossReason),
}

/// A future that resolves, with the reason, when a session or a hold has ended; at once if it has ended
/// already. Clone it into every place that has to know. Dropping it has no effect.
pub struct Lost {
    state: watch::Receiver<Option<LossReason>>,
    waiting: Option<BoxFuture<'static, LossReason>>,
}

impl Lost {
    pub(crate) fn new(state: watch::Receiver<Option<LossReason>>) -> Self {
        Self {
            state,
            waiting: None,
        }
    }

    /// The reason, if it has ended.
    pub fn now(&self) -> Option<LossReason> {
        *self.state.borrow()
    }
}

impl Clone for Lost {
    fn clone(&self) -> Self {
        Self::new(self.state.clone())
    }
}

impl fmt::Debug for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lost").field(&self.now()).finish()
    }
}

impl Future for Lost {
    type Output = LossReason;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<LossReason> {
        let this = self.get_mut();
        let waiting = this.waiting.get_or_insert_with(|| {
            let mut state = this.state.clone();
            Box::pin(async move {
                // Where the sender is gone nobody keeps the thing alive: the runtime is shutting down.
                let ended = state.wait_for(Option::is_some).await;
                ended
                    .ok()
                    .and_then(|reason| *reason)
                    .unwrap_or(LossReason::Closed)
            })
        });
        let reason = ready!(waiting.as_mut().poll(context));
        this.waiting = None;
        Poll::Ready(reason)
    }
}

/// How a session is to be opened.
#[derive(Clone, Debug)]
#[must_use]
pub struct SessionBuilder {
    client: Client,
    ttl: Duration,
    margin: Option<Duration>,
    label: Option<String>,
}

impl SessionBuilder {
    /// Time after which the session ends if its owner is not heard of. Default 10 s. The server rounds it
    /// up, and has a least time of its own.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// How long before the server can end the session it is given up here: clocks run at slightly different
    /// rates. Default a tenth of the time to live, and 200 ms at least; less than that is refused.
    pub fn margin(mut self, margin: Duration) -> Self {
        self.margin = Some(margin);
        self
    }

    /// Who this is, shown to those who ask who holds and who waits.
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// Opens a new session, which is renewed from then on by a task of its own.
    ///
    /// Dropped before it is done, or failing, it may leave a lease behind that holds nothing and ends with its
    /// time to live.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the times contradict each other, [`Error::Client`] if the server refuses or
    /// cannot be reached.
    pub async fn open(self) -> Result<Session, Error> {
        if self.ttl.is_zero() {
            return Err(Error::Invalid(
                "a session without time to live would end at once: give it a second or more"
                    .to_owned(),
            ));
        }
        if self.ttl > TTL_MAX {
            return Err(Error::Invalid(format!(
                "a time to live of {:?} is more than a server takes: give it {TTL_MAX:?} at most",
                self.ttl
            )));
        }
        margin_of(self.ttl.max(Duration::from_secs(1)), self.margin)?;
        let sent = BootInstant::now();
        let granted = self.client.grant(self.ttl, 0).await?;
        let renewal = Renewal {
            sent,
            ttl: Duration::from_secs(u64::try_from(granted.ttl).unwrap_or(0)),
        };
        let id = SessionId(granted.id);
        let mut marker = 0;
        if let Some(label) = &self.label {
            let put = Put::new(session_key(id), label).lease(id.0);
            let answer = self.client.put(put).await?;
            marker = revision(answer.header.as_ref());
        }
        let client = self.client.clone();
        match self.start(id, renewal, marker) {
            Ok(session) => Ok(session),
            Err(error) => {
                // It holds nothing, and ends by itself where this fails.
                let _ = client.revoke(id.0).await;
                Err(error)
            }
        }
    }

    /// Goes on with a session that an earlier process opened, or [detached](Session::detach). A lock or a
    /// candidacy it still has is taken up again by asking for it again. The time to live is the one it was
    /// opened with.
    ///
    /// Two processes that go on with one session at the same time both hold what it holds: see to it
    /// that the earlier one has ended.
    ///
    /// May be dropped at any time.
    ///
    /// # Errors
    /// [`Error::NoSuchSession`] if there is none of this id, and as [`open`](Self::open).
    pub async fn resume(mut self, id: SessionId) -> Result<Session, Error> {
        let renewal = self.client.renew(id.0).await?;
        let renewal = renewal.ok_or(Error::NoSuchSession(id))?;
        if self.label.is_none() {
            let own = self.client.get(session_key(id)).await?.kvs.pop();
            self.label = own.map(|own| String::from_utf8_lossy(&own.value).into_owned());
        }
        // Also without a label: what the earlier process sent and has not arrived creates nothing any more.
        let label = self.label.as_deref().unwrap_or_default();
        let put = Put::new(session_key(id), label).lease(id.0);
        let answer = match self.client.put(put).await {
            Err(error) if error.refusal().is_some_and(|it| it.is_lease_not_found()) => {
                return Err(Error::NoSuchSession(id));
            }
            answer => answer?,
        };
        let marker = revision(answer.header.as_ref());
        self.start(id, renewal, marker)
    }

    fn start(self, id: SessionId, renewal: Renewal, marker: i64) -> Result<Session, Error> {
        let margin = margin_of(renewal.ttl, self.margin)?;
        let until = deadline(renewal, margin);
        let (state, _) = watch::channel(SessionState::Safe { until });
        let (lost, _) = watch::channel(None);
        let shared = Arc::new(Shared {
            client: self.client,
            id,
            label: self.label.unwrap_or_default(),
            margin,
            state,
            lost,
            overdue: watch::channel(0).0,
            check: tokio::sync::Notify::new(),
            marker: AtomicI64::new(marker),
            runtime: tokio::runtime::Handle::current(),
            turns: Lock::default(),
        });
        let (commands, receiver) = mpsc::unbounded_channel();
        let keeper = Keeper {
            shared: shared.clone(),
            ttl: renewal.ttl,
            sent: renewal.sent,
            until,
        };
        tokio::spawn(keeper.run(receiver));
        Ok(Session {
            handle: Arc::new(Handle { shared, commands }),
        })
    }
}

fn margin_of(ttl: Duration, margin: Option<Duration>) -> Result<Duration, Error> {
    let least = (ttl / 10).max(MARGIN_MIN);
    let margin = margin.unwrap_or(least);
    if margin < least {
        return Err(Error::Invalid(format!(
            "a margin of {margin:?} is too little for a time to live of {ttl:?}: give it {least:?} or more"
        )));
    }
    if margin > ttl / 2 {
        return Err(Error::Invalid(format!(
            "a margin of {margin:?} leaves too little of a time to live of {ttl:?}: give it half of that at most"
        )));
    }
    Ok(margin)
}

/// Until when a renewal makes the lease last, as far as the one who sent it may rely on it: counted from
/// when it was sent, for the server may have counted from then.
fn deadline(renewal: Renewal, margin: Duration) -> BootInstant {
    renewal.sent.plus(renewal.ttl).minus(margin)
}

/// A lease that is kept alive as long as a handle to it is left: clones, locks and elections made with it,
/// and everything that is held or waited for through it. With the last one the lease is revoked, in the
/// background; to know when nothing of it remains, [`close`](Self::close) it, and do so before the runtime
/// shuts down.
///
/// One session may hold any number of locks and candidacies.
#[derive(Clone)]
pub struct Session {
    handle: Arc<Handle>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("id", &format_args!("{}", self.id()))
            .field("state", &*self.shared().state.borrow())
            .finish_non_exhaustive()
    }
}

impl Session {
    /// A session of this client, to be opened.
    pub fn builder(client: &Client) -> SessionBuilder {
        SessionBuilder {
            client: client.clone(),
            ttl: Duration::from_secs(10),
            margin: None,
            label: None,
        }
    }

    /// Opens a session with a time to live, and defaults otherwise. See [`SessionBuilder::open`].
    ///
    /// # Errors
    /// As [`SessionBuilder::open`].
    pub async fn open(client: &Client, ttl: Duration) -> Result<Self, Error> {
        Self::builder(client).ttl(ttl).open().await
    }

    /// Its id, to [resume](SessionBuilder::resume) it with.
    pub fn id(&self) -> SessionId {
        self.shared().id
    }

    /// The client it was opened with.
    pub fn client(&self) -> &Client {
        &self.shared().client
    }

    /// Who this is; empty if it was not said.
    pub fn label(&self) -> &str {
        &self.shared().label
    }

    /// How things stand, and how they change. To ask whether it is alive *now*, ask
    /// [`is_alive`](Self::is_alive), which looks at the clock.
    pub fn state(&self) -> watch::Receiver<SessionState> {
        self.shared().state.subscribe()
    }

    /// Resolves when the session has ended, at its deadline at the latest: before the server can give
    /// what it holds to another.
    pub fn lost(&self) -> Lost {
        Lost::new(self.shared().lost.subscribe())
    }

    /// Whether the lease is certainly there, as far as the clock of this machine and its own answers tell.
    /// Asks nobody.
    pub fn is_alive(&self) -> bool {
        self.shared().is_alive()
    }

    /// Time left until the deadline, if no renewal is answered until then; zero once it has ended.
    pub fn remaining(&self) -> Duration {
        match *self.shared().state.borrow() {
            SessionState::Safe { until } | SessionState::Jeopardy { until } => until.remaining(),
            SessionState::Lost(_) => Duration::ZERO,
        }
    }

    /// A lock. What is wrong with its name is told by the first request.
    pub fn mutex(&self, name: impl Into<Name>) -> Mutex {
        Mutex::new(self, name.into())
    }

    /// An election. What is wrong with its name is told by the first request.
    pub fn election(&self, name: impl Into<Name>) -> Election {
        Election::new(self, name.into())
    }

    /// A queue.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the name is empty or contains a `/`.
    pub fn queue(&self, name: impl Into<String>) -> Result<Queue, Error> {
        Queue::new(self, name.into())
    }

    /// A barrier that `members` enter and leave together, one of which is `me`: a name that this member alone has,
    /// and has again when it is restarted.
    ///
    /// # Errors
    /// [`Error::Invalid`] if a name is empty or contains a `/`, if there are no members, if one is named twice, or if
    /// they are named and `me` is not one of them.
    pub fn double_barrier(
        &self,
        name: impl Into<String>,
        members: impl Into<Members>,
        me: impl Into<String>,
    ) -> Result<DoubleBarrier, Error> {
        DoubleBarrier::new(self, name.into(), members.into(), me.into())
    }

    /// Ends the session: everything held through it is lost at once, here, and its lease is revoked. Done
    /// when the server has confirmed that nothing of it remains; tried for as long as the lease can last.
    ///
    /// Dropping the future changes nothing: the session's task goes on.
    ///
    /// # Errors
    /// [`Error::Client`] with the last failure if the server could not be reached for all that time; what
    /// is left ends with its time to live.
    pub async fn close(self) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        let _ = self.handle.commands.send(Command::Close(reply));
        drop(self);
        answer.await.unwrap_or(Ok(()))
    }

    /// Stops renewing here and leaves the lease and its keys as they are, for another process to
    /// [resume](SessionBuilder::resume) within the time to live. Everything held through it is lost
    /// *here*.
    pub fn detach(self) -> SessionId {
        // Before anything else is done with this session: a guard dropped right after it must not release.
        self.shared().lose(LossReason::Detached);
        let _ = self.handle.commands.send(Command::Detach);
        self.id()
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.handle.shared
    }
}

/// Dropped with the last clone of the session, it closes the command channel.
struct Handle {
    shared: Arc<Shared>,
    commands: mpsc::UnboundedSender<Command>,
}

enum Command {
    Close(oneshot::Sender<Result<(), Error>>),
    Detach,
}

/// What the session's handles share with its tasks. It does not keep the session alive.
pub(crate) struct Shared {
    pub(crate) client: Client,
    pub(crate) id: SessionId,
    label: String,
    margin: Duration,
    state: watch::Sender<SessionState>,
    lost: watch::Sender<Option<LossReason>>,
    /// Releases that could not be confirmed within the margin. While there are any the lease is not renewed:
    /// better everything goes than that something nobody owns stays.
    overdue: watch::Sender<usize>,
    /// Something says that the lease may be gone.
    check: tokio::sync::Notify,
    /// The revision the session's own key was last changed at, as far as is known; 0 if it was never put.
    marker: AtomicI64,
    /// The runtime of the session's task: a guard may be dropped on a thread that has none.
    runtime: tokio::runtime::Handle,
    /// Whose turn it is within this process, by name. A session has one place in line per name.
    turns: Lock<BTreeMap<Name, Weak<Semaphore>>>,
}

impl Shared {
    pub(crate) fn is_alive(&self) -> bool {
        match *self.state.borrow() {
            SessionState::Safe { until } | SessionState::Jeopardy { until } => {
                !until.remaining().is_zero()
            }
            SessionState::Lost(_) => false,
        }
    }

    /// # Errors
    /// [`Error::Lost`] if the session has ended.
    pub(crate) fn check_alive(&self) -> Result<(), Error> {
        if let SessionState::Lost(reason) = *self.state.borrow() {
            return Err(Error::Lost(reason));
        }
        if self.is_alive() {
            Ok(())
        } else {
            Err(Error::Lost(LossReason::DeadlinePassed))
        }
    }

    pub(crate) fn lost(&self) -> Lost {
        Lost::new(self.lost.subscribe())
    }

    /// The first reason stays, and is given back.
    fn lose(&self, reason: LossReason) -> LossReason {
        let mut stays = reason;
        let first = self.state.send_if_modified(|state| {
            if let SessionState::Lost(earlier) = *state {
                stays = earlier;
                return false;
            }
            *state = SessionState::Lost(reason);
            true
        });
        // After the state: whoever is told here finds it there.
        if first {
            self.lost.send_replace(Some(reason));
            match reason {
                LossReason::Closed | LossReason::Detached => {
                    tracing::debug!(session = %self.id, "{reason}");
                }
                _ => tracing::warn!(session = %self.id, "session lost: {reason}"),
            }
            metrics::counter!("baton_recipes_sessions_ended_total", "reason" => label_of(reason))
                .increment(1);
        }
        stays
    }

    /// Runs what a dropped guard leaves to do, from whatever thread it is dropped on.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(work);
    }

    /// Renews now: something says that the lease is gone.
    pub(crate) fn check_now(&self) {
        self.check.notify_one();
    }

    /// The turns of a name, first come, first served.
    pub(crate) fn turns(&self, name: &Name) -> Arc<Semaphore> {
        let mut turns = self.turns.lock();
        if let Some(turn) = turns.get(name).and_then(Weak::upgrade) {
            return turn;
        }
        // A name is forgotten with its last waiter, when the next name comes.
        if turns.len().is_power_of_two() {
            turns.retain(|_, turn| turn.strong_count() > 0);
        }
        let turn = Arc::new(Semaphore::new(1));
        turns.insert(name.clone(), Arc::downgrade(&turn));
        turn
    }

    /// What is known of when the session's own key was changed.
    pub(crate) fn marker(&self) -> i64 {
        self.marker.load(Ordering::Acquire)
    }

    /// A condition of every create: its copies die when the session's own key is put again.
    pub(crate) fn unchanged_since(&self, marker: i64) -> Compare {
        use baton_client::pb::compare::CompareResult;
        Compare::mod_revision(session_key(self.id), CompareResult::Equal, marker)
    }

    /// Puts the session's own key again: whatever create was sent before and has not arrived does nothing.
    pub(crate) fn change(&self) -> Put {
        Put::new(session_key(self.id), &self.label).lease(self.id.0)
    }

    /// The session's own key was seen at this revision, or put. Seen late, it costs a create another attempt.
    pub(crate) fn marker_seen(&self, mod_revision: i64) {
        self.marker.store(mod_revision, Ordering::Release);
    }

    pub(crate) fn own_key(&self) -> Get {
        Get::key(session_key(self.id)).keys_only()
    }

    /// Repeats a request that may be repeated, for as long as its failures [pass](crate::patience::passes).
    ///
    /// # Errors
    /// [`Error::Lost`] if the session ends before, [`Error::Client`] with a failure that does not pass.
    pub(crate) async fn until_answered<T, F>(
        &self,
        what: &str,
        mut request: impl FnMut() -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, baton_client::Error>>,
    {
        let mut lost = self.lost();
        let mut retry = Retry::new();
        loop {
            tokio::select! {
                biased;
                reason = &mut lost => return Err(Error::Lost(reason)),
                result = request() => match result {
                    Ok(answer) => return Ok(answer),
                    Err(error) if !passes(&error) => return Err(error.into()),
                    Err(error) => tracing::debug!(session = %self.id, "{what}, once more: {error}"),
                }
            }
            tokio::select! {
                biased;
                reason = &mut lost => return Err(Error::Lost(reason)),
                () = retry.pause() => {}
            }
        }
    }

    /// The same for the removal of what nobody owns any more. It is given up with the session only, and
    /// where it takes longer than the margin the lease is not renewed until it is done.
    ///
    /// # Errors
    /// [`Error::Lost`] if the session ends before.
    pub(crate) async fn until_removed<T, F>(
        &self,
        mut request: impl FnMut() -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, baton_client::Error>>,
    {
        let mut lost = self.lost();
        let removed = async {
            let mut retry = Retry::new();
            loop {
                match request().await {
                    Ok(answer) => return answer,
                    Err(error) => {
                        if error.refusal().is_some_and(|it| it.is_lease_not_found()) {
                            self.check_now();
                        }
                        tracing::debug!(session = %self.id, "to remove a key, once more: {error}");
                    }
                }
                retry.pause().await;
            }
        };
        let late = async {
            tokio::time::sleep(self.margin).await;
            let _overdue = Overdue::new(self);
            std::future::pending().await
        };
        tokio::select! {
            biased;
            // First: what a detached session holds is not to be removed.
            reason = &mut lost => Err(Error::Lost(reason)),
            answer = removed => Ok(answer),
            () = late => unreachable!("it waits to be dropped"),
        }
    }
}

/// While there is one, the lease is not renewed.
struct Overdue<'a>(&'a Shared);

impl<'a> Overdue<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.overdue.send_modify(|count| *count += 1);
        Self(shared)
    }
}

impl Drop for Overdue<'_> {
    fn drop(&mut self) {
        self.0.overdue.send_modify(|count| *count -= 1);
    }
}

/// Pauses that grow.
pub(crate) struct Retry(Duration);

impl Retry {
    pub(crate) fn new() -> Self {
        Self(RETRY_FIRST)
    }

    pub(crate) async fn pause(&mut self) {
        tokio::time::sleep(self.0).await;
        self.0 = (self.0 * 2).min(RETRY_MAX);
    }
}

pub(crate) fn label_of(reason: LossReason) -> &'static str {
    match reason {
        LossReason::DeadlinePassed => "deadline",
        LossReason::Revoked => "revoked",
        LossReason::Closed => "closed",
        LossReason::Detached => "detached",
        LossReason::Removed => "removed",
        LossReason::Released => "released",
    }
}

/// The session's task: renews the lease, and ends it.
struct Keeper {
    shared: Arc<Shared>,
    ttl: Duration,
    /// When the last renewal was sent.
    sent: BootInstant,
    /// The deadline: that of the renewal sent last among those that were answered.
    until: BootInstant,
}

impl Drop for Keeper {
    /// Where the runtime shuts down under it nobody renews any more.
    fn drop(&mut self) {
        self.shared.lose(LossReason::Closed);
    }
}

impl Keeper {
    async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        let mut waiting = Vec::new();
        let reason = self.renew_until_over(&mut commands, &mut waiting).await;
        // It may have been detached a moment before.
        let result = match self.shared.lose(reason) {
            // Where the deadline passed the lease may be there still: without it, others need not wait.
            LossReason::Closed | LossReason::DeadlinePassed => self.revoke().await,
            _ => Ok(()),
        };
        commands.close();
        while let Some(command) = commands.recv().await {
            if let Command::Close(reply) = command {
                waiting.push(reply);
            }
        }
        for reply in waiting {
            let _ = reply.send(result.clone());
        }
    }

    /// Between two renewals: three of them fit into the time there is.
    fn interval(&self) -> Duration {
        (self.ttl - self.shared.margin) / 3
    }

    fn answered(&mut self, renewal: Renewal) {
        self.until = self.until.max(deadline(renewal, self.shared.margin));
    }

    fn publish(&self, is_safe: bool) {
        let until = self.until;
        let state = if is_safe {
            SessionState::Safe { until }
        } else {
            SessionState::Jeopardy { until }
        };
        let before = *self.shared.state.borrow();
        match before {
            SessionState::Lost(_) => return,
            SessionState::Safe { .. } if !is_safe => {
                tracing::warn!(
                    session = %self.shared.id,
                    remaining = ?until.remaining(),
                    "session in jeopardy: a renewal has no answer"
                );
            }
            SessionState::Jeopardy { .. } if is_safe => {
                tracing::info!(session = %self.shared.id, "session safe again");
            }
            _ => {}
        }
        // Detaching says so from outside of this task, and is final.
        self.shared.state.send_if_modified(|current| {
            if matches!(current, SessionState::Lost(_)) {
                return false;
            }
            let is_new = *current != state;
            *current = state;
            is_new
        });
    }

    async fn renew_until_over(
        &mut self,
        commands: &mut mpsc::UnboundedReceiver<Command>,
        waiting: &mut Vec<oneshot::Sender<Result<(), Error>>>,
    ) -> LossReason {
        let shared = self.shared.clone();
        let mut overdue = shared.overdue.subscribe();
        let mut alarm = Alarm::new();
        // Of several, so that one that is stuck keeps no other from being answered.
        let mut renewals = FuturesUnordered::new();
        let mut next = self.sent.plus(self.interval());
        loop {
            let is_paused = *overdue.borrow_and_update() > 0;
            let wake = if is_paused {
                self.until
            } else {
                next.min(self.until)
            };
            tokio::select! {
                biased;
                command = commands.recv() => match command {
                    Some(Command::Close(reply)) => {
                        waiting.push(reply);
                        return LossReason::Closed;
                    }
                    Some(Command::Detach) => return LossReason::Detached,
                    None => return LossReason::Closed,
                },
                Some(result) = renewals.next() => match result {
                    Ok(Some(renewal)) => {
                        self.answered(renewal);
                        self.publish(!is_paused);
                    }
                    Ok(None) => return LossReason::Revoked,
                    Err(error) => {
                        let error: baton_client::Error = error;
                        tracing::debug!(session = %shared.id, "a renewal failed: {error}");
                        self.publish(false);
                        let again = BootInstant::now().plus(self.interval().min(RETRY_MAX) / 4);
                        next = next.min(again);
                    }
                },
                () = shared.check.notified() => next = BootInstant::now(),
                _ = overdue.changed() => {
                    self.publish(*overdue.borrow() == 0);
                }
                () = alarm.at(wake) => {
                    if self.until.remaining().is_zero() {
                        return LossReason::DeadlinePassed;
                    }
                    if !is_paused {
                        if !renewals.is_empty() {
                            self.publish(false);
                        }
                        self.sent = BootInstant::now();
                        next = self.sent.plus(self.interval());
                        let client = shared.client.clone();
                        let id = shared.id.0;
                        renewals.push(async move { client.renew(id).await });
                    }
                }
            }
        }
    }

    /// Tries for as long as the lease can last.
    async fn revoke(&self) -> Result<(), Error> {
        let over = self.until.plus(self.shared.margin).plus(self.ttl);
        let mut retry = Retry::new();
        loop {
            let error = match self.shared.client.revoke(self.shared.id.0).await {
                Ok(_) => return Ok(()),
                Err(error) if error.refusal().is_some_and(|it| it.is_lease_not_found()) => {
                    return Ok(());
                }
                Err(error) => error,
            };
            if over.remaining().is_zero() {
                tracing::warn!(session = %self.shared.id, "the lease was not revoked: {error}");
                return Err(error.into());
            }
            retry.pause().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Appendix B, row 20.
    #[test]
    fn an_answer_that_took_most_of_the_time_to_live_leaves_only_the_rest_of_it() {
        let ttl = Duration::from_secs(100);
        let margin = margin_of(ttl, None).unwrap();
        let now = BootInstant::now();
        let sent = now.minus(ttl * 9 / 10);
        assert_eq!(deadline(Renewal { sent, ttl }, margin), now);
    }

    #[test]
    fn the_margin_is_a_tenth_and_never_less_than_the_clocks_need() {
        let margin = |seconds| margin_of(Duration::from_secs(seconds), None).unwrap();
        assert_eq!(margin(60), Duration::from_secs(6));
        assert_eq!(margin(1), MARGIN_MIN);
    }

    #[test]
    fn ids_are_written_and_read_as_etcd_writes_leases_into_keys() {
        for (lease, text) in [
            (55, "37"),
            (-5, "-5"),
            (0x694d_77aa_9e38_2604, "694d77aa9e382604"),
        ] {
            let id = SessionId::from_lease(lease);
            assert_eq!(id.to_string(), text);
            assert_eq!(text.parse::<SessionId>().unwrap(), id);
        }
        let error = "0x37".parse::<SessionId>().unwrap_err();
        assert!(error.to_string().contains("in hex"), "{error}");
    }
}
