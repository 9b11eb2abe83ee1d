//! Locks.

use std::collections::BTreeMap;
use std::ops::Deref;

use baton_client::{Compare, Delete, Get, Put, Txn};
use bytes::Bytes;

use crate::answers::{reads, revision};
use crate::hold::{Hold, Kind};
use crate::name::session_prefix;
use crate::{Acquire, Error, Grant, Name, Session, SessionId, Token};

/// A fair lock, shared with every client that follows etcd's layout. Cheap to clone.
///
/// Sessions obtain it in the order in which they came to stand in line. Who holds it is decided by the
/// server alone; a hold ends with its session, at the latest. A holder that is stopped for longer than
/// that does not know when it goes on: let what must not happen be [fenced](Grant::put).
#[derive(Clone, Debug)]
pub struct Mutex {
    session: Session,
    name: Name,
}

impl Mutex {
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

    /// Waits until it is held. Where the server cannot be reached it waits on, for as long as the session lives.
    ///
    /// May be dropped at any time, and wrapped in any timeout: no key stays.
    ///
    /// # Errors
    /// [`Error::Lost`] if the session ends, or the key is removed, while it waits; [`Error::TimedOut`];
    /// [`Error::Invalid`] for a name that makes no sense; [`Error::Client`] if the server refuses. No key
    /// stays in any case.
    pub fn lock(&self) -> Acquire<MutexGuard> {
        Acquire::new(&self.session, &self.name, Kind::Mutex)
    }

    /// Holds it if it is free and nobody waits: one request, which never stands in line. `None` as well
    /// while another of this session holds, waits, or is not done releasing.
    ///
    /// May be dropped at any time: no key stays.
    ///
    /// # Errors
    /// As [`lock`](Self::lock), and [`Error::Client`] if the server cannot be reached.
    pub async fn try_lock(&self) -> Result<Option<MutexGuard>, Error> {
        let hold = self.lock().hold_if_free().await?;
        Ok(hold.map(MutexGuard::from))
    }

    /// Runs `body` while the lock is held: waits for it, and releases it when `body` is done. If the lock
    /// is lost `body` is dropped where it stands.
    ///
    /// May be dropped at any time: `body` is dropped, and the lock released in the background.
    ///
    /// # Errors
    /// [`Error::Lost`] if the lock was lost before `body` was done, and as [`lock`](Self::lock). That the
    /// release could not be confirmed is no error: `body` is done.
    pub async fn run<F, T>(&self, body: impl FnOnce(Grant) -> F) -> Result<T, Error>
    where
        F: Future<Output = T>,
    {
        let guard = self.lock().await?;
        let mut lost = guard.lost();
        let result = tokio::select! {
            biased;
            reason = &mut lost => return Err(Error::Lost(reason)),
            result = body(guard.grant().clone()) => result,
        };
        if let Err(error) = guard.release().await {
            tracing::debug!(name = %self.name, "the lock went with its session: {error}");
        }
        Ok(result)
    }

    /// Who holds, and who waits, in order, as of one revision.
    ///
    /// Reads; may be dropped at any time.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a name that makes no sense, [`Error::Client`] if there is no answer.
    pub async fn inspect(&self) -> Result<LockInfo, Error> {
        self.name.check()?;
        LockInfo::read(self.session.client(), &self.name).await
    }

    /// Asks the holder to release. Whether and when it does is up to it: see [`Grant::on_revocation`].
    /// Gives the token of the hold that was asked; `None` if nobody holds.
    ///
    /// Dropped while under way, it may or may not have asked.
    ///
    /// # Errors
    /// As [`inspect`](Self::inspect); [`Error::Invalid`] if the holder is no session, so that it cannot be
    /// asked.
    pub async fn request_release(&self, why: &str) -> Result<Option<Token>, Error> {
        self.name.check()?;
        let client = self.session.client();
        loop {
            let first = Get::prefix(self.name.prefix()).first_created().keys_only();
            let Some(holder) = client.get(first).await?.kvs.pop() else {
                return Ok(None);
            };
            let waiter = Waiter::of(&self.name, holder)?;
            let Some(session) = waiter.session else {
                return Err(Error::Invalid(format!(
                    "{:?} is held by the key {:?}, which is no session's and cannot be asked: \
                     remove the key, or force its release",
                    self.name.as_str(),
                    waiter.key
                )));
            };
            // It goes with the holder's session.
            let put = Put::new(self.name.release_request(session), why).lease(session.lease());
            let txn = Txn::new()
                .when(Compare::created_at(&waiter.key, waiter.token.revision()))
                .then(put);
            if client.txn(txn).await?.succeeded {
                return Ok(Some(waiter.token));
            }
        }
    }

    /// Removes whoever holds or waits with this token. A holder learns of it from [`Grant::lost`] when
    /// it hears of it, which is after the next may have begun: only what is [fenced](Grant::put) is safe
    /// from the two. Ask with [`request_release`](Self::request_release) first.
    ///
    /// Dropped while under way, its outcome is unknown; it may be repeated.
    ///
    /// # Errors
    /// [`Error::NoSuchHold`] if nobody has this token, [`Error::Invalid`] for a name that makes no sense,
    /// [`Error::Client`] if there is no answer, or an unknown outcome.
    pub async fn force_release(&self, expect: Token) -> Result<i64, Error> {
        self.name.check()?;
        let client = self.session.client();
        let missing = || Error::NoSuchHold {
            name: self.name.as_str().to_owned(),
            token: expect.get(),
        };
        let mut read = Get::prefix(self.name.prefix())
            .max_create_revision(expect.revision())
            .keys_only();
        read.request.min_create_revision = expect.revision();
        let found = client.get(read).await?.kvs.pop().ok_or_else(missing)?;
        let txn = Txn::new()
            .when(Compare::created_at(&found.key, expect.revision()))
            .then(Delete::key(&found.key));
        let answer = client.txn(txn).await?;
        if answer.succeeded {
            Ok(revision(answer.header.as_ref()))
        } else {
            Err(missing())
        }
    }
}

/// A lock that is held. Dropped, it is released in the background; [`release`](Self::release) says when
/// that is done. See [`Grant`] for what can be done under it.
#[derive(Debug)]
#[must_use = "dropped, it is released at once"]
pub struct MutexGuard {
    hold: Hold,
}

impl From<Hold> for MutexGuard {
    fn from(hold: Hold) -> Self {
        Self { hold }
    }
}

impl Deref for MutexGuard {
    type Target = Grant;

    fn deref(&self) -> &Grant {
        &self.hold.grant
    }
}

impl MutexGuard {
    /// What is known of the hold, to be given to others; the guard stays here.
    pub fn grant(&self) -> &Grant {
        &self.hold.grant
    }

    /// Releases, and comes back when the key is gone, with a revision at which it was. Repeated until it is
    /// known, for as long as the session lives.
    ///
    /// Dropping the future changes nothing: the release goes on.
    ///
    /// # Errors
    /// [`Error::Lost`] if the hold ended by itself, or the session ends before the answer is here: the
    /// key went with it.
    pub async fn release(self) -> Result<i64, Error> {
        self.hold.release().await
    }
}

/// One who holds or waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiter {
    /// Its key.
    pub key: String,
    /// Its token: the revision its key was created at.
    pub token: Token,
    /// The session, if the key is one's.
    pub session: Option<SessionId>,
    /// What it says of itself.
    pub value: Bytes,
    /// What its session says of itself; empty if it does not.
    pub label: String,
}

impl Waiter {
    /// # Errors
    /// [`baton_client::Error::Malformed`] if the server says of a key that it is there, and not since when.
    pub(crate) fn of(
        name: &Name,
        found: baton_client::mvccpb::KeyValue,
    ) -> Result<Self, baton_client::Error> {
        let key = String::from_utf8_lossy(&found.key).into_owned();
        let session = key
            .strip_prefix(&name.prefix())
            .and_then(|id| id.parse().ok());
        let token = Token::from_revision(found.create_revision).ok_or_else(|| {
            baton_client::Error::Malformed(format!("{key:?} was created at no revision"))
        })?;
        Ok(Self {
            session: session.filter(|session: &SessionId| session.lease() == found.lease),
            token,
            value: found.value,
            label: String::new(),
            key,
        })
    }
}

/// Who holds, and who waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockInfo {
    /// Who holds; nobody where it is free.
    pub holder: Option<Waiter>,
    /// Who waits, in order: the first is the next to hold.
    pub waiters: Vec<Waiter>,
    /// The revision this was read at.
    pub revision: i64,
}

impl LockInfo {
    /// Who holds and who waits for a name, as one who has no session sees it.
    ///
    /// Reads; may be dropped at any time.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a name that makes no sense, [`Error::Client`] if there is no answer.
    pub async fn read(client: &baton_client::Client, name: &Name) -> Result<Self, Error> {
        name.check()?;
        use baton_client::pb::range_request::{SortOrder, SortTarget};
        let line = Get::prefix(name.prefix()).sort(SortTarget::Create, SortOrder::Ascend);
        let txn = Txn::new().then(line).then(Get::prefix(session_prefix()));
        let answer = client.txn(txn).await?;
        let revision = revision(answer.header.as_ref());
        let mut reads = reads(answer);
        let line = reads.next().unwrap_or_default();
        let sessions = reads.next().unwrap_or_default();
        // At most one each: a session's own key is named after its lease.
        let labels: BTreeMap<i64, Bytes> = sessions
            .into_iter()
            .map(|own| (own.lease, own.value))
            .collect();
        let mut waiters = line.into_iter().map(|found| {
            let label = labels.get(&found.lease).filter(|_| found.lease != 0);
            let label = label.map(|label| String::from_utf8_lossy(label).into_owned());
            let mut waiter = Waiter::of(name, found)?;
            waiter.label = label.unwrap_or_default();
            Ok::<_, Error>(waiter)
        });
        Ok(Self {
            holder: waiters.next().transpose()?,
            waiters: waiters.collect::<Result<_, _>>()?,
            revision,
        })
    }
}
