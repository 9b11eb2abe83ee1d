//! The client: what its requests share, and those on keys.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use baton_proto::etcdserverpb as pb;
use parking_lot::Mutex;
use pb::kv_client::KvClient;
use tokio::sync::{mpsc, oneshot};

use crate::connection::{Dialer, Raw};
use crate::core::{Core, Sending, ask};
use crate::endpoints::Endpoints;
use crate::mailbox::Mailbox;
use crate::namespace::Namespace;
use crate::parts::Parts;
use crate::rules::{self, Rpc};
use crate::token::Token;
use crate::watch_hub::{self, Begin, Command};
use crate::{Delete, Error, Get, Options, Put, Txn, Watch, WatchError, Watcher, renewals};

/// What clones of a client share.
pub(crate) struct Shared {
    pub(crate) core: Arc<Core>,
    /// The task that serves watches, once there was one.
    watches: Mutex<Option<mpsc::UnboundedSender<Command>>>,
    next_watch: AtomicU64,
    /// The task that serves renewals, once there was one.
    renewals: Mutex<Option<mpsc::UnboundedSender<renewals::Ask>>>,
}

/// A client of a cluster. Cheap to clone; clones share connections, streams and the token.
///
/// ```no_run
/// # async fn example() -> Result<(), baton_client::Error> {
/// use baton_client::{Client, Get};
///
/// let client = Client::new(["10.0.0.1:2379", "10.0.0.2:2379", "10.0.0.3:2379"])?;
/// client.put(("greeting", "hello")).await?;
/// let found = client.get(Get::key("greeting")).await?;
/// assert_eq!(found.kvs[0].value, "hello");
/// # Ok(())
/// # }
/// ```
///
/// A future of any of its requests may be dropped. What was sent by then may still take effect: that is
/// [`Outcome::Unknown`](crate::Outcome::Unknown), as if no answer had come.
#[derive(Clone)]
pub struct Client {
    pub(crate) shared: Arc<Shared>,
    pub(crate) namespace: Namespace,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("endpoints", &self.endpoints())
            .finish_non_exhaustive()
    }
}

impl Client {
    /// A client of the cluster behind `endpoints` (`host:port`, `http://…`, `https://…`, `unix:…`,
    /// `unixs:…`), with default options. Connects when it is used.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there is no endpoint, or one is no address.
    pub fn new<E: AsRef<str>>(endpoints: impl IntoIterator<Item = E>) -> Result<Self, Error> {
        Self::with_options(endpoints, Options::default())
    }

    /// The same with options of one's own.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there is no endpoint, one is no address, or the options contradict each other.
    pub fn with_options<E: AsRef<str>>(
        endpoints: impl IntoIterator<Item = E>,
        options: Options,
    ) -> Result<Self, Error> {
        options.check()?;
        let namespace = Namespace::new(&options.namespace);
        let token = Token::new(options.credentials.clone());
        let options = Arc::new(options);
        let dialer = Arc::new(Dialer::new(options.clone())?);
        let endpoints = Endpoints::new(endpoints, &dialer)?;
        let core = Core {
            endpoints,
            options,
            dialer,
            token,
        };
        Ok(Self::of(core, namespace))
    }

    fn of(core: Core, namespace: Namespace) -> Self {
        Self {
            shared: Arc::new(Shared {
                core: Arc::new(core),
                watches: Mutex::new(None),
                next_watch: AtomicU64::new(0),
                renewals: Mutex::new(None),
            }),
            namespace,
        }
    }

    /// A client of this endpoint alone, with the same options, for what is asked of one member. It has a
    /// connection of its own.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is no address.
    pub fn at(&self, endpoint: impl AsRef<str>) -> Result<Self, Error> {
        let core = &self.shared.core;
        let core = Core {
            endpoints: Endpoints::new([endpoint], &core.dialer)?,
            options: core.options.clone(),
            dialer: core.dialer.clone(),
            token: Token::new(core.options.credentials.clone()),
        };
        Ok(Self::of(core, self.namespace.clone()))
    }

    /// The same client, every key of which begins with `prefix`, behind the namespace it has already.
    #[must_use]
    pub fn namespaced(&self, prefix: impl AsRef<[u8]>) -> Self {
        Self {
            shared: self.shared.clone(),
            namespace: self.namespace.within(prefix.as_ref()),
        }
    }

    /// The endpoints, as they were given.
    pub fn endpoints(&self) -> Vec<String> {
        self.shared.core.endpoints.texts()
    }

    /// The endpoint that is asked first now: the one that answered last, or the first one to be tried.
    pub fn endpoint_in_use(&self) -> String {
        let endpoint = self.shared.core.endpoints.preferred();
        endpoint.address.text.clone()
    }

    /// Replaces the endpoints, for this client and its clones. Those that stay keep their connection;
    /// streams at one that is gone end with the connection, not before.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there is none, or one is no address; the old ones stay.
    pub fn set_endpoints<E: AsRef<str>>(
        &self,
        endpoints: impl IntoIterator<Item = E>,
    ) -> Result<(), Error> {
        let core = &self.shared.core;
        core.endpoints.replace(endpoints, &core.dialer)
    }

    /// How a request is sent that waits no longer than the options say.
    pub(crate) fn sending(&self, rpc: Rpc<'_>) -> Sending {
        Sending {
            effect: rules::effect(rpc),
            require_leader: true,
            limit: Some(self.shared.core.options.request_timeout),
        }
    }

    /// Reads.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn get(&self, get: impl Into<Get>) -> Result<pb::RangeResponse, Error> {
        let mut request = get.into().request;
        self.namespace.range(&mut request)?;
        let sending = Sending {
            // What a member has can be read from it without a leader.
            require_leader: !request.serializable,
            ..self.sending(Rpc::Range)
        };
        let mut response = ask!(self, sending, KvClient.range(request))?;
        self.namespace.strip_pairs(&mut response.kvs);
        Ok(response)
    }

    /// The same, in parts, for what is too large for one answer. All parts are of one revision. Refused by
    /// servers that do not know it (etcd before 3.7), and with an order or a filter by revisions.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn range_stream(&self, get: impl Into<Get>) -> Result<RangeParts, Error> {
        let mut request = get.into().request;
        self.namespace.range(&mut request)?;
        let sending = Sending {
            require_leader: !request.serializable,
            ..self.sending(Rpc::RangeStream)
        };
        let stream = ask!(self, sending, KvClient.range_stream(request))?;
        Ok(RangeParts {
            parts: Parts::new(stream),
            namespace: self.namespace.clone(),
        })
    }

    /// Writes a pair.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn put(&self, put: impl Into<Put>) -> Result<pb::PutResponse, Error> {
        let mut request = put.into().request;
        self.namespace.put(&mut request)?;
        let sending = self.sending(Rpc::Put);
        let mut response = ask!(self, sending, KvClient.put(request))?;
        self.namespace.strip_put(&mut response);
        Ok(response)
    }

    /// Removes.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn delete(
        &self,
        delete: impl Into<Delete>,
    ) -> Result<pb::DeleteRangeResponse, Error> {
        let mut request = delete.into().request;
        self.namespace.delete(&mut request)?;
        let sending = self.sending(Rpc::DeleteRange);
        let mut response = ask!(self, sending, KvClient.delete_range(request))?;
        self.namespace.strip_pairs(&mut response.prev_kvs);
        Ok(response)
    }

    /// Does one of two lists of operations, under one revision.
    ///
    /// # Errors
    /// See [`Error`]. A transaction of plain reads alone counts as a read.
    pub async fn txn(&self, txn: Txn) -> Result<pb::TxnResponse, Error> {
        let mut request = txn.request;
        self.namespace.txn(&mut request)?;
        let sending = self.sending(Rpc::Txn(&request));
        let mut response = ask!(self, sending, KvClient.txn(request))?;
        self.namespace.strip_txn(&mut response);
        Ok(response)
    }

    /// Forgets what was overwritten or deleted before `revision`: reads below it are refused, watches cannot begin
    /// below it. With `physical` it returns once the space is given back, and has no limit of time.
    ///
    /// # Errors
    /// See [`Error`]; refused where `revision` is compacted already or not there yet.
    pub async fn compact(
        &self,
        revision: i64,
        physical: bool,
    ) -> Result<pb::CompactionResponse, Error> {
        let mut sending = self.sending(Rpc::Compact);
        if physical {
            sending.limit = None;
        }
        let request = pb::CompactionRequest { revision, physical };
        ask!(self, sending, KvClient.compact(request))
    }

    /// Begins to watch, and returns once the server confirmed it: whatever happens from then on is told.
    /// Several watches can be begun in one round trip, by joining the futures; all watches of a client
    /// share one stream.
    ///
    /// Dropping the future cancels the watch.
    ///
    /// # Errors
    /// See [`WatchError`].
    pub async fn watch(&self, watch: Watch) -> Result<Watcher, WatchError> {
        let options = &self.shared.core.options;
        let mut request = watch.request;
        self.namespace.watch(&mut request);
        let id = self.shared.next_watch.fetch_add(1, Ordering::Relaxed);
        let mailbox = Arc::new(Mailbox::new(options.watch_buffer));
        let (created, confirmation) = oneshot::channel();
        let hub = served(&self.shared.watches, |commands| {
            tokio::spawn(watch_hub::serve(self.shared.core.clone(), commands));
        });
        let mut watcher = Watcher::new(id, mailbox.clone(), hub.clone(), confirmation);
        let _ = hub.send(Command::Begin(Box::new(Begin {
            id,
            request,
            namespace: self.namespace.clone(),
            mailbox,
            created,
        })));
        match tokio::time::timeout(options.request_timeout, watcher.created()).await {
            Ok(created) => created.map(|()| watcher),
            Err(_) => {
                let waited = options.request_timeout;
                Err(WatchError::Failed(self.shared.core.unavailable(waited)))
            }
        }
    }

    /// An endpoint's connection, with the client's token and without its namespace, for the generated
    /// clients of [`pb`]: what is sent there is sent once, and fails as the connection fails.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if no endpoint can be reached, or the refusal of user and password.
    pub async fn raw(&self) -> Result<Raw, Error> {
        let core = &self.shared.core;
        let limit = core.options.request_timeout;
        match tokio::time::timeout(limit, core.connected(false)).await {
            Ok(connected) => connected.map(|(_, via)| via),
            Err(_) => Err(core.unavailable(limit)),
        }
    }

    /// The task that serves renewals.
    pub(crate) fn renewals(&self) -> mpsc::UnboundedSender<renewals::Ask> {
        served(&self.shared.renewals, |asks| {
            tokio::spawn(renewals::serve(self.shared.core.clone(), asks));
        })
    }
}

/// The way to a task, which is spawned if there is none (any more: its runtime may be gone).
fn served<T>(
    sender: &Mutex<Option<mpsc::UnboundedSender<T>>>,
    spawn: impl FnOnce(mpsc::UnboundedReceiver<T>),
) -> mpsc::UnboundedSender<T> {
    let mut sender = sender.lock();
    if let Some(sender) = sender.as_ref().filter(|sender| !sender.is_closed()) {
        return sender.clone();
    }
    let (new, receiver) = mpsc::unbounded_channel();
    spawn(receiver);
    *sender = Some(new.clone());
    new
}

/// What [`Client::range_stream`] reads. Dropped, it ends.
#[derive(Debug)]
pub struct RangeParts {
    parts: Parts<pb::RangeStreamResponse>,
    namespace: Namespace,
}

impl RangeParts {
    /// The next pairs, `None` behind the last. Only the last part has header and count. Cancel safe.
    ///
    /// # Errors
    /// See [`Parts::next`].
    pub async fn next(&mut self) -> Result<Option<pb::RangeResponse>, Error> {
        while let Some(part) = self.parts.next().await? {
            if let Some(mut response) = part.range_response {
                self.namespace.strip_pairs(&mut response.kvs);
                return Ok(Some(response));
            }
        }
        Ok(None)
    }
}
