//! Watching keys.

use baton_proto::etcdserverpb as pb;
use baton_proto::mvccpb;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

use crate::mailbox::Mailbox;
use crate::watch_hub::Command;
use crate::{Error, Get};

/// What to watch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Watch {
    /// The message of the wire.
    pub request: pb::WatchCreateRequest,
}

impl Watch {
    /// One key.
    pub fn key(key: impl AsRef<[u8]>) -> Self {
        Self::of(Get::key(key))
    }

    /// All keys that begin with `prefix`.
    pub fn prefix(prefix: impl AsRef<[u8]>) -> Self {
        Self::of(Get::prefix(prefix))
    }

    /// Keys from `start` to `end`, which is not among them; `\0` is no end.
    pub fn range(start: impl AsRef<[u8]>, end: impl AsRef<[u8]>) -> Self {
        Self::of(Get::range(start, end))
    }

    fn of(get: Get) -> Self {
        Self {
            request: pb::WatchCreateRequest {
                key: get.request.key,
                range_end: get.request.range_end,
                ..Default::default()
            },
        }
    }

    /// From this revision on, which is among them; 0 is from now on.
    ///
    /// Behind a read, that is the revision of its header plus one: nothing is missed, nothing comes
    /// twice, and the server has nothing to search.
    #[must_use]
    pub fn from(mut self, revision: i64) -> Self {
        self.request.start_revision = revision;
        self
    }

    /// Events have the pair as it was.
    #[must_use]
    pub fn prev_kv(mut self) -> Self {
        self.request.prev_kv = true;
        self
    }

    /// Only deletes.
    #[must_use]
    pub fn deletes(mut self) -> Self {
        use pb::watch_create_request::FilterType;
        self.request.filters.push(FilterType::Noput.into());
        self
    }

    /// Only puts.
    #[must_use]
    pub fn puts(mut self) -> Self {
        use pb::watch_create_request::FilterType;
        self.request.filters.push(FilterType::Nodelete.into());
        self
    }

    /// An idle watch is told now and then up to which revision it has seen everything.
    #[must_use]
    pub fn progress(mut self) -> Self {
        self.request.progress_notify = true;
        self
    }
}

/// What a watcher was told.
#[derive(Clone, Debug, PartialEq)]
pub struct Notification {
    /// Everything up to this revision was told, this notification included.
    pub revision: i64,
    /// Whole revisions, in order. Empty where only progress is told.
    pub events: Vec<mvccpb::Event>,
}

/// Why a watch ended.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WatchError {
    /// Events it has not seen yet are compacted. Read again, and watch from there.
    #[error("revisions below {compact_revision} are compacted")]
    Compacted {
        /// The least revision a watch can begin at.
        compact_revision: i64,
    },
    /// The server ended it and said why.
    #[error("the server canceled the watch: {reason}")]
    Canceled {
        /// The server's words.
        reason: String,
    },
    /// It could not be begun.
    #[error(transparent)]
    Failed(#[from] Error),
}

/// A watch under way. It outlives connections, members and the client that began it: after a failure it
/// goes on at another endpoint behind the last revision it told. Dropped, it is cancelled at the server.
///
/// # What it costs, and a consumer that is slow
/// All watches of a client share one stream. Notifications that were not taken yet are kept, up to
/// [`Options::watch_buffer`](crate::Options::watch_buffer) bytes a watcher; behind that the watch is cancelled at the server, and
/// begun again where it stopped once half of them are taken. So a slow consumer holds up nobody else, and
/// nothing is lost, unless the revisions it has not seen are compacted meanwhile: then it is told
/// [`WatchError::Compacted`].
#[derive(Debug)]
pub struct Watcher {
    id: u64,
    mailbox: Arc<Mailbox>,
    hub: mpsc::UnboundedSender<Command>,
    created: Option<oneshot::Receiver<i64>>,
    created_at: i64,
}

impl Watcher {
    pub(crate) fn new(
        id: u64,
        mailbox: Arc<Mailbox>,
        hub: mpsc::UnboundedSender<Command>,
        created: oneshot::Receiver<i64>,
    ) -> Self {
        Self {
            id,
            mailbox,
            hub,
            created: Some(created),
            created_at: 0,
        }
    }

    /// Waits until the server confirmed it.
    pub(crate) async fn created(&mut self) -> Result<(), WatchError> {
        let Some(created) = &mut self.created else {
            return Ok(());
        };
        match created.await {
            Ok(revision) => {
                self.created = None;
                self.created_at = revision;
                Ok(())
            }
            // The hub let it fall, and said why.
            Err(_) => match self.next().await {
                Err(error) => Err(error),
                Ok(_) => Ok(()),
            },
        }
    }

    /// The store's revision when the server confirmed the watch. A watch without a revision to begin at
    /// tells everything behind this one.
    pub fn created_at(&self) -> i64 {
        self.created_at
    }

    /// The next notification: whole revisions, in order, each once, however often the connection broke.
    /// Cancel safe: nothing is lost when the future is dropped.
    ///
    /// # Errors
    /// See [`WatchError`]; the watch is over then, and says so again when it is asked again. It does not
    /// end because no endpoint can be reached: it waits for one.
    pub async fn next(&mut self) -> Result<Notification, WatchError> {
        let (taken, is_drained) = self.mailbox.take().await;
        if is_drained {
            let _ = self.hub.send(Command::Drained(self.id));
        }
        taken
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = self.hub.send(Command::End(self.id));
    }
}
