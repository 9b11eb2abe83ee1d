//! A gate: closed, everyone waits; opened, everyone goes.

use baton_client::mvccpb::event::EventType;
use baton_client::{Client, Compare, Delete, Error, Get, Put, Txn, Watch, WatchError};

use crate::answers::revision;
use crate::patience::{passes, watch_passes};
use crate::session::Retry;

/// A gate that one side closes and opens, and others wait at.
///
/// It is one key, named as the barrier: there, the barrier is closed; absent, it is open, which it also is before
/// anyone ever closed it. The key has no lease, so a barrier stays closed when its closer dies, and anybody may open it.
/// etcd's own barrier recipe uses the same key: Go programs and this one may wait at the same barrier.
///
/// Cheap to clone. Needs no [`Session`](crate::Session).
#[derive(Clone, Debug)]
pub struct Barrier {
    client: Client,
    name: String,
}

impl Barrier {
    /// The barrier of this name. Nothing is sent.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the name is empty.
    pub fn new(client: &Client, name: impl Into<String>) -> Result<Self, Error> {
        let name = name.into();
        if name.is_empty() {
            return Err(Error::Invalid(
                "a barrier needs a name: give it one of at least one character".to_owned(),
            ));
        }
        Ok(Self {
            client: client.clone(),
            name,
        })
    }

    /// Its name, which is its key.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Closes it: whoever waits from now on, waits. Returns the revision it was closed at, by whomever: closing a closed
    /// barrier changes nothing.
    ///
    /// # Errors
    /// See [`Error`]. Where the outcome is unknown, closing may be repeated. Dropped, the future has closed the barrier
    /// or not.
    pub async fn close(&self) -> Result<i64, Error> {
        let txn = Txn::new()
            .when(Compare::absent(&self.name))
            .then(Put::new(&self.name, ""))
            .or_else(Get::key(&self.name));
        let answer = self.client.txn(txn).await?;
        let revision = revision(answer.header.as_ref());
        let stored = crate::answers::pairs(&answer, 0).first();
        Ok(stored.map_or(revision, |pair| pair.create_revision))
    }

    /// Opens it: all who wait go. Returns the revision as of which it is open; opening an open barrier changes nothing.
    ///
    /// # Errors
    /// See [`Error`]. Where the outcome is unknown, opening may be repeated. Dropped, the future has opened the barrier
    /// or not.
    pub async fn open(&self) -> Result<i64, Error> {
        let answer = self.client.delete(Delete::key(&self.name)).await?;
        Ok(revision(answer.header.as_ref()))
    }

    /// Whether it is closed now.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn is_closed(&self) -> Result<bool, Error> {
        let answer = self.client.get(Get::key(&self.name).keys_only()).await?;
        Ok(!answer.kvs.is_empty())
    }

    /// Waits until it is open, and returns a revision as of which it was: the present one if it is open already, else the
    /// one it was opened at.
    ///
    /// Only a read or the event of the key's end opens it. A watch that breaks, a member that dies or history that is
    /// compacted makes this read again and wait on, as long as it takes; give it a time with `tokio::time::timeout`.
    /// Dropped, it leaves nothing behind.
    ///
    /// # Errors
    /// What no patience mends, such as a missing permission; and any failure of the first read.
    pub async fn wait(&self) -> Result<i64, Error> {
        let mut retry = Retry::new();
        let mut first = true;
        loop {
            let answer = match self.client.get(Get::key(&self.name).keys_only()).await {
                Ok(answer) => answer,
                Err(error) if first || !passes(&error) => return Err(error),
                Err(error) => {
                    tracing::debug!(barrier = self.name, %error, "cannot read whether it is open");
                    retry.pause().await;
                    continue;
                }
            };
            first = false;
            let revision = revision(answer.header.as_ref());
            if answer.kvs.is_empty() {
                return Ok(revision);
            }
            match self.opened_after(revision).await {
                Ok(opened) => return Ok(opened),
                Err(error) if !watch_passes(&error) => {
                    return Err(match error {
                        WatchError::Failed(error) => error,
                        other => Error::Malformed(other.to_string()),
                    });
                }
                Err(error) => {
                    tracing::debug!(barrier = self.name, %error, "the watch ended: looking again");
                    retry.pause().await;
                }
            }
        }
    }

    /// The first revision behind `revision` that removed the key.
    async fn opened_after(&self, revision: i64) -> Result<i64, WatchError> {
        let watch = Watch::key(&self.name)
            .from(revision + 1)
            .deletes()
            .progress();
        let mut watcher = self.client.watch(watch).await?;
        loop {
            let notification = watcher.next().await?;
            let mut deletes = notification.events.iter();
            let delete = deletes.find(|event| event.r#type() == EventType::Delete);
            if let Some(pair) = delete.and_then(|event| event.kv.as_ref()) {
                return Ok(pair.mod_revision);
            }
        }
    }
}
