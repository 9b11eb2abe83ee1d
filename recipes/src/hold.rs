//! From the wish to hold to the end of a hold.
//!
//! Every attempt is a task of its own, which owns all requests whose effect has to be undone. The caller
//! owns the end of a channel, and may drop it at any moment:
//!
//! | When the caller drops it | what happens |
//! | --- | --- |
//! | before it is polled, or while others of this process are in front | nothing was sent |
//! | while the create is under way | the task waits for its outcome, then removes the key |
//! | while waiting in line | the task removes the key |
//! | when it was granted, and not yet told | the guard is dropped with the channel: released |
//! | later: the guard is dropped, by a panic too | the task releases |
//!
//! The next of the same session and name begins when that is done, so that the order is kept.

use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use baton_client::{BootInstant, Client, Put, Txn, Watch, pb};
use bytes::Bytes;
use parking_lot::Mutex as Lock;
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};
use tokio::task::JoinHandle;

use crate::answers::revision;
use crate::line::{Line, NoPlace, Place, Step};
use crate::session::{Retry, Shared, label_of};
use crate::{Error, Fence, LossReason, Lost, Name, Session, Token};

/// What a hold is of, for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Mutex,
    Election,
    /// A worker's turn at a queue. Its name is made here, and lies where callers' names may not.
    Queue,
}

impl Kind {
    fn label(self) -> &'static str {
        match self {
            Self::Mutex => "mutex",
            Self::Election => "election",
            Self::Queue => "queue",
        }
    }
}

/// A place in line: how many stood before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position(pub u64);

type OnEnqueued = Box<dyn FnOnce(Position) + Send>;

/// A wish to hold, to be awaited.
///
/// Waiters of one session and name queue within the process first, in order, and one of them stands in
/// line at the server: between sessions turns are taken one hold at a time, whatever number wait within
/// each. Nothing is handed from one to the next within a process: each hold has a token of its own.
///
/// May be dropped at any time, and wrapped in any timeout: no key stays. What was sent is undone in the
/// background.
#[must_use = "it does nothing until it is awaited"]
pub struct Acquire<G> {
    session: Session,
    name: Name,
    kind: Kind,
    value: Bytes,
    timeout: Option<Duration>,
    on_enqueued: Option<OnEnqueued>,
    over: Option<oneshot::Sender<()>>,
    guard: PhantomData<fn() -> G>,
}

impl<G> std::fmt::Debug for Acquire<G> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acquire")
            .field("name", &self.name)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

impl<G> Acquire<G> {
    pub(crate) fn new(session: &Session, name: &Name, kind: Kind) -> Self {
        Self {
            session: session.clone(),
            name: name.clone(),
            kind,
            value: Bytes::new(),
            timeout: None,
            on_enqueued: None,
            over: None,
            guard: PhantomData,
        }
    }

    /// Waits no longer than that: [`Error::TimedOut`].
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Shown to those who look who holds and who waits.
    pub fn value(mut self, value: impl AsRef<[u8]>) -> Self {
        self.value = Bytes::copy_from_slice(value.as_ref());
        self
    }

    /// Called when the place in line at the server is taken, before the wait. Costs a read if there is
    /// anyone in front.
    pub fn on_enqueued(mut self, told: impl FnOnce(Position) + Send + 'static) -> Self {
        self.on_enqueued = Some(Box::new(told));
        self
    }

    /// The other end is closed when nothing is left to undo: of the wish, the wait or the hold.
    pub(crate) fn over(mut self, over: oneshot::Sender<()>) -> Self {
        self.over = Some(over);
        self
    }

    async fn hold(self) -> Result<Hold, Error> {
        if self.kind != Kind::Queue {
            self.name.check()?;
        }
        self.session.shared().check_alive()?;
        let timeout = self.timeout;
        let hold = self.wait_for_hold();
        match timeout {
            None => hold.await,
            Some(timeout) => match tokio::time::timeout(timeout, hold).await {
                Ok(result) => result,
                Err(_) => Err(Error::TimedOut(timeout)),
            },
        }
    }

    async fn wait_for_hold(self) -> Result<Hold, Error> {
        let shared = self.session.shared();
        let began = BootInstant::now();
        let mut lost = self.session.lost();
        let turn = tokio::select! {
            biased;
            reason = &mut lost => return Err(Error::Lost(reason)),
            turn = shared.turns(&self.name).acquire_owned() => turn,
        };
        let Ok(turn) = turn else {
            unreachable!("turns are never closed");
        };
        let attempt = Attempt {
            name: self.name,
            kind: self.kind,
            value: self.value,
            if_free: false,
            on_enqueued: self.on_enqueued,
            over: self.over,
            began,
        };
        let hold = attempt.begin(&self.session, turn).await?;
        hold.ok_or(Error::Lost(LossReason::Removed))
    }

    /// Holds if nobody does and nobody waits.
    pub(crate) async fn hold_if_free(self) -> Result<Option<Hold>, Error> {
        self.name.check()?;
        let shared = self.session.shared();
        shared.check_alive()?;
        let Ok(turn) = shared.turns(&self.name).try_acquire_owned() else {
            return Ok(None);
        };
        let attempt = Attempt {
            name: self.name,
            kind: self.kind,
            value: self.value,
            if_free: true,
            on_enqueued: None,
            over: self.over,
            began: BootInstant::now(),
        };
        attempt.begin(&self.session, turn).await
    }
}

impl<G: From<Hold> + 'static> IntoFuture for Acquire<G> {
    type Output = Result<G, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async { self.hold().await.map(G::from) })
    }
}

struct Attempt {
    name: Name,
    kind: Kind,
    value: Bytes,
    if_free: bool,
    on_enqueued: Option<OnEnqueued>,
    /// Dropped when the task ends.
    over: Option<oneshot::Sender<()>>,
    began: BootInstant,
}

/// What the task needs to tell the holder.
struct Granted {
    token: Token,
    lost: watch::Receiver<Option<LossReason>>,
    release: oneshot::Sender<Release>,
}

/// Where the outcome of a release goes.
type Release = oneshot::Sender<Result<i64, Error>>;
/// `None` is: not free.
type Reply = oneshot::Sender<Result<Option<Granted>, Error>>;

impl Attempt {
    async fn begin(
        self,
        session: &Session,
        turn: OwnedSemaphorePermit,
    ) -> Result<Option<Hold>, Error> {
        let (reply, answer) = oneshot::channel();
        let name = self.name.clone();
        tokio::spawn(self.run(session.shared().clone(), turn, reply));
        let Ok(granted) = answer.await else {
            // The task is gone without a word: the runtime shuts down.
            return Err(Error::Lost(LossReason::Closed));
        };
        Ok(granted?.map(|granted| Hold {
            grant: Grant {
                inner: Arc::new(GrantInner {
                    session: session.clone(),
                    fence: Fence::new(&name, session.id(), granted.token),
                    name,
                    lost: granted.lost,
                }),
            },
            release: Lock::new(Some(granted.release)),
        }))
    }

    async fn run(self, shared: Arc<Shared>, turn: OwnedSemaphorePermit, mut reply: Reply) {
        let kind = self.kind.label();
        let _over = self.over;
        let mut line = Line::new(shared.clone(), &self.name);
        let entered = line
            .enter(&self.value, self.if_free, || !reply.is_closed())
            .await;
        let mut place = match entered {
            Ok(place) => place,
            Err(none) => {
                match none {
                    NoPlace::Taken => drop(reply.send(Ok(None))),
                    NoPlace::Abandoned => drop(reply),
                    NoPlace::Failed(error) => drop(reply.send(Err(error))),
                }
                let _ = line.leave(None).await;
                return;
            }
        };
        if self.if_free && place.step != Step::Hold {
            let _ = reply.send(Ok(None));
            let _ = line.leave(Some(place.token)).await;
            return;
        }
        if let Some(told) = self.on_enqueued
            && let Ok(ahead) = line.ahead(&place).await
        {
            // It is the caller's: if it panics, the key is still seen to here.
            let _ = tokio::spawn(async move { told(Position(ahead)) }).await;
        }
        if place.step != Step::Hold {
            let mut lost = shared.lost();
            let waited = tokio::select! {
                biased;
                () = reply.closed() => None,
                reason = &mut lost => Some(Err(Error::Lost(reason))),
                waited = line.wait(&mut place) => Some(waited),
            };
            if !matches!(waited, Some(Ok(()))) {
                if let Some(Err(error)) = waited {
                    let _ = reply.send(Err(error));
                }
                let _ = line.leave(Some(place.token)).await;
                return;
            }
        }
        let now = BootInstant::now();
        metrics::histogram!("baton_recipes_wait_seconds", "recipe" => kind)
            .record(now.since(self.began).as_secs_f64());
        held(&shared, line, place, turn, reply, kind).await;
        metrics::histogram!("baton_recipes_hold_seconds", "recipe" => kind)
            .record(BootInstant::now().since(now).as_secs_f64());
    }
}

/// The hold, and its end.
async fn held(
    shared: &Shared,
    mut line: Line,
    mut place: Place,
    turn: OwnedSemaphorePermit,
    reply: Reply,
    kind: &'static str,
) {
    let (lost, receiver) = watch::channel(None);
    let (release, mut released) = oneshot::channel();
    let granted = Granted {
        token: place.token,
        lost: receiver,
        release,
    };
    // Where nobody takes it, it is dropped here, and released below.
    let _ = reply.send(Ok(Some(granted)));
    let release = tokio::select! {
        biased;
        release = &mut released => release,
        reason = line.hold_ends(&mut place) => {
            lost.send_replace(Some(reason));
            metrics::counter!(
                "baton_recipes_holds_lost_total", "recipe" => kind, "reason" => label_of(reason)
            )
            .increment(1);
            if reason == LossReason::Removed {
                tracing::warn!(session = %shared.id, token = %place.token, "hold lost: {reason}");
            }
            return;
        }
    };
    lost.send_replace(Some(LossReason::Released));
    if release.is_err() {
        metrics::counter!("baton_recipes_dropped_releases_total", "recipe" => kind).increment(1);
    }
    let left = line.leave(Some(place.token)).await;
    // First, so that whoever is told can have it again.
    drop(turn);
    if let Ok(reply) = release {
        let _ = reply.send(left);
    }
}

/// A hold that is owned: dropped, it is released in the background.
#[derive(Debug)]
pub struct Hold {
    pub(crate) grant: Grant,
    /// None once it is released.
    release: Lock<Option<oneshot::Sender<Release>>>,
}

impl Hold {
    /// Comes back when the key is gone.
    pub(crate) async fn release(&self) -> Result<i64, Error> {
        let (reply, answer) = oneshot::channel();
        let reason = || Error::Lost(self.grant.lost().now().unwrap_or(LossReason::Closed));
        let release = self.release.lock().take();
        if release.is_none_or(|release| release.send(reply).is_err()) {
            return Err(reason());
        }
        answer.await.unwrap_or_else(|_| Err(reason()))
    }
}

/// What is known of a hold, and what can be done under it. Clones may outlive it: they say so then.
#[derive(Clone)]
pub struct Grant {
    inner: Arc<GrantInner>,
}

struct GrantInner {
    session: Session,
    name: Name,
    fence: Fence,
    lost: watch::Receiver<Option<LossReason>>,
}

impl std::fmt::Debug for Grant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grant")
            .field("fence", &self.inner.fence)
            .field("is_held", &self.is_held())
            .finish_non_exhaustive()
    }
}

impl Grant {
    /// The hold, to be shown to others.
    pub fn fence(&self) -> &Fence {
        &self.inner.fence
    }

    /// The fencing token.
    pub fn token(&self) -> Token {
        self.inner.fence.token
    }

    /// The session it is held through.
    pub fn session(&self) -> &Session {
        &self.inner.session
    }

    /// Resolves when the hold has ended: by its release, by the end of its session (at the session's
    /// deadline, before the server can grant it to another), or because somebody removed its key.
    pub fn lost(&self) -> Lost {
        Lost::new(self.inner.lost.clone())
    }

    /// Whether it is held, as far as this machine can tell by its clock and what it was told. Asks nobody.
    ///
    /// A process that is stopped between this question and what it does next may do it too late. What
    /// must not happen is prevented by [`put`](Self::put) and [`txn`](Self::txn).
    pub fn is_held(&self) -> bool {
        self.inner.lost.borrow().is_none() && self.inner.session.is_alive()
    }

    /// Time left until the hold is given up here if no renewal of the session is answered; zero once it
    /// has ended.
    pub fn remaining(&self) -> Duration {
        if self.is_held() {
            self.inner.session.remaining()
        } else {
            Duration::ZERO
        }
    }

    /// Runs `work` as a task of its own for as long as this is held: when it is lost, or released, `work` is
    /// dropped where it stands.
    ///
    /// # Errors
    /// The task gives [`Error::Lost`] if it was dropped.
    pub fn spawn<F>(&self, work: F) -> JoinHandle<Result<F::Output, Error>>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let lost = self.lost();
        tokio::spawn(async move {
            tokio::select! {
                biased;
                reason = lost => Err(Error::Lost(reason)),
                result = work => Ok(result),
            }
        })
    }

    fn client(&self) -> &Client {
        self.inner.session.client()
    }

    fn check_held(&self) -> Result<(), Error> {
        if let Some(reason) = *self.inner.lost.borrow() {
            return Err(Error::Lost(reason));
        }
        self.inner.session.shared().check_alive()
    }

    /// A transaction that is done only if the hold is there at its revision. Its own conditions choose
    /// between its branches as ever, and its answer is as ever.
    ///
    /// Dropped while under way, its outcome is unknown.
    ///
    /// # Errors
    /// [`Error::Stale`] if the hold had ended by then, [`Error::Lost`] if that was known before anything
    /// was sent; nothing was done then. [`Error::Client`], whose outcome may be unknown.
    pub async fn txn(&self, txn: Txn) -> Result<pb::TxnResponse, Error> {
        use pb::response_op::Response;
        self.check_held()?;
        let fenced = Txn::new().when(self.inner.fence.compare()).then(txn);
        let mut answer = self.client().txn(fenced).await?;
        if !answer.succeeded {
            return Err(Error::Stale {
                fence: self.inner.fence.clone(),
            });
        }
        match answer
            .responses
            .pop()
            .and_then(|response| response.response)
        {
            Some(Response::ResponseTxn(mut inner)) => {
                inner.header = answer.header;
                Ok(inner)
            }
            _ => Err(baton_client::Error::Malformed(
                "no answer to a transaction within a transaction".to_owned(),
            )
            .into()),
        }
    }

    /// Puts a pair, if the hold is there. Gives the revision.
    ///
    /// Dropped while under way, its outcome is unknown.
    ///
    /// # Errors
    /// As [`txn`](Self::txn).
    pub async fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<i64, Error> {
        self.put_if_held(Put::new(key, value)).await
    }

    /// Changes what is shown to those who look who holds.
    ///
    /// Dropped while under way, its outcome is unknown.
    ///
    /// # Errors
    /// As [`txn`](Self::txn).
    pub async fn set_value(&self, value: impl AsRef<[u8]>) -> Result<i64, Error> {
        let lease = self.inner.session.id().lease();
        let put = Put::new(&self.inner.fence.key, value).lease(lease);
        self.put_if_held(put).await
    }

    async fn put_if_held(&self, put: Put) -> Result<i64, Error> {
        self.check_held()?;
        let txn = Txn::new().when(self.inner.fence.compare()).then(put);
        let answer = self.client().txn(txn).await?;
        if answer.succeeded {
            Ok(revision(answer.header.as_ref()))
        } else {
            Err(Error::Stale {
                fence: self.inner.fence.clone(),
            })
        }
    }

    /// Resolves with the reason when somebody asks for the release: nothing happens by itself.
    /// Never resolves if nobody does.
    ///
    /// May be dropped at any time, and asked again.
    pub async fn on_revocation(&self) -> String {
        let key = self.inner.name.release_request(self.inner.session.id());
        let since = self.token().revision();
        let mut retry = Retry::new();
        loop {
            if let Ok(answer) = self.client().get(&*key).await {
                // What was asked of an earlier hold of this session is older than this one.
                if let Some(request) = answer.kvs.first()
                    && request.mod_revision > since
                {
                    return String::from_utf8_lossy(&request.value).into_owned();
                }
                let from = revision(answer.header.as_ref()) + 1;
                let watch = Watch::key(&key).from(from).puts();
                if let Ok(mut watcher) = self.client().watch(watch).await {
                    while let Ok(told) = watcher.next().await {
                        if !told.events.is_empty() {
                            break;
                        }
                    }
                }
            }
            retry.pause().await;
        }
    }
}
