//! Watching keys.

use baton_proto::etcdserverpb as pb;
use baton_proto::mvccpb;
use tokio::sync::mpsc;
use tonic::Streaming;

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

/// A watch under way. It outlives connections and members: after a failure it goes on at another
/// endpoint behind the last revision it told. Dropped, it is cancelled.
#[derive(Debug)]
pub struct Watcher {
    responses: Streaming<pb::WatchResponse>,
    /// Dropped, it ends the stream.
    _requests: mpsc::Sender<pb::WatchRequest>,
}

impl Watcher {
    pub(crate) fn new(
        responses: Streaming<pb::WatchResponse>,
        requests: mpsc::Sender<pb::WatchRequest>,
    ) -> Self {
        Self {
            responses,
            _requests: requests,
        }
    }

    /// The next notification. Cancel safe: nothing is lost when the future is dropped.
    ///
    /// # Errors
    /// See [`WatchError`]; the watch is over then.
    pub async fn next(&mut self) -> Result<Notification, WatchError> {
        loop {
            let response = match self.responses.message().await {
                Ok(Some(response)) => response,
                Ok(None) => {
                    return Err(WatchError::Failed(Error::Unavailable {
                        waited: std::time::Duration::ZERO,
                        last: "the stream ended".to_owned(),
                    }));
                }
                Err(status) => return Err(WatchError::Failed(Error::of_read(&status))),
            };
            if response.canceled {
                return Err(if response.compact_revision > 0 {
                    WatchError::Compacted {
                        compact_revision: response.compact_revision,
                    }
                } else {
                    WatchError::Canceled {
                        reason: response.cancel_reason,
                    }
                });
            }
            if response.created {
                continue;
            }
            return Ok(Notification {
                revision: response.header.map_or(0, |header| header.revision),
                events: response.events,
            });
        }
    }
}
