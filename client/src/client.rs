//! The client: one method per request.

use std::sync::Arc;
use std::time::Duration;

use baton_proto::etcdserverpb as pb;
use pb::kv_client::KvClient;
use pb::lease_client::LeaseClient;
use pb::watch_client::WatchClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

use crate::{
    BootInstant, Delete, Error, Get, Options, Put, Renewal, Txn, Watch, WatchError, Watcher,
};

struct Shared {
    channel: Channel,
}

/// A client of a cluster. Cheap to clone; clones share connections and streams.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

impl Client {
    /// A client of the cluster behind `endpoints` (`host:port`, `http://…`, `https://…`, `unix:…`), with
    /// default options. Connects when it is used.
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
        let first = endpoints.into_iter().next();
        let first = first.ok_or_else(|| Error::Invalid("no endpoint given".to_owned()))?;
        let first = first.as_ref();
        let url = if first.contains("://") {
            first.to_owned()
        } else {
            format!("http://{first}")
        };
        let endpoint = Endpoint::from_shared(url)
            .map_err(|error| Error::Invalid(format!("{first}: {error}")))?
            .connect_timeout(options.connect_timeout);
        Ok(Self {
            shared: Arc::new(Shared {
                channel: endpoint.connect_lazy(),
            }),
        })
    }

    fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.shared.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    fn lease(&self) -> LeaseClient<Channel> {
        LeaseClient::new(self.shared.channel.clone())
    }

    /// Reads.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn get(&self, get: impl Into<Get>) -> Result<pb::RangeResponse, Error> {
        let answer = self.kv().range(get.into().request).await;
        Ok(answer
            .map_err(|status| Error::of_read(&status))?
            .into_inner())
    }

    /// Writes a pair.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn put(&self, put: impl Into<Put>) -> Result<pb::PutResponse, Error> {
        let answer = self.kv().put(put.into().request).await;
        Ok(answer
            .map_err(|status| Error::of_change(&status))?
            .into_inner())
    }

    /// Removes.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn delete(
        &self,
        delete: impl Into<Delete>,
    ) -> Result<pb::DeleteRangeResponse, Error> {
        let answer = self.kv().delete_range(delete.into().request).await;
        Ok(answer
            .map_err(|status| Error::of_change(&status))?
            .into_inner())
    }

    /// Does one of two lists of operations, under one revision.
    ///
    /// # Errors
    /// See [`Error`]. A transaction of reads alone counts as a read.
    pub async fn txn(&self, txn: Txn) -> Result<pb::TxnResponse, Error> {
        let answer = self.kv().txn(txn.request).await;
        Ok(answer
            .map_err(|status| Error::of_change(&status))?
            .into_inner())
    }

    /// Begins to watch. Ends with the client's last clone, or when it is dropped.
    ///
    /// # Errors
    /// See [`WatchError`].
    pub async fn watch(&self, watch: Watch) -> Result<Watcher, WatchError> {
        let (requests, receiver) = mpsc::channel(4);
        let create = pb::WatchRequest {
            request_union: Some(pb::watch_request::RequestUnion::CreateRequest(
                watch.request,
            )),
        };
        let _ = requests.send(create).await;
        let mut client =
            WatchClient::new(self.shared.channel.clone()).max_decoding_message_size(usize::MAX);
        let responses = client
            .watch(ReceiverStream::new(receiver))
            .await
            .map_err(|status| WatchError::Failed(Error::of_read(&status)))?;
        Ok(Watcher::new(responses.into_inner(), requests))
    }

    /// Grants a lease of `ttl`, which the server rounds up to whole seconds and to its minimum; the
    /// answer has the time that was granted. `id` 0 lets the server choose.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn grant(&self, ttl: Duration, id: i64) -> Result<pb::LeaseGrantResponse, Error> {
        let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
        let request = pb::LeaseGrantRequest {
            ttl: i64::try_from(seconds).unwrap_or(i64::MAX),
            id,
        };
        let answer = self.lease().lease_grant(request).await;
        Ok(answer
            .map_err(|status| Error::of_change(&status))?
            .into_inner())
    }

    /// Ends a lease; its keys are deleted under one revision.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn revoke(&self, id: i64) -> Result<pb::LeaseRevokeResponse, Error> {
        let answer = self
            .lease()
            .lease_revoke(pb::LeaseRevokeRequest { id })
            .await;
        Ok(answer
            .map_err(|status| Error::of_change(&status))?
            .into_inner())
    }

    /// Renews a lease once. `None` where it is not there any more. Renewals of many leases share one
    /// stream.
    ///
    /// # Errors
    /// See [`Error`]; a renewal may always be repeated.
    pub async fn renew(&self, id: i64) -> Result<Option<Renewal>, Error> {
        let sent = BootInstant::now();
        let request = tokio_stream::once(pb::LeaseKeepAliveRequest { id });
        let answers = self.lease().lease_keep_alive(request).await;
        let mut answers = answers
            .map_err(|status| Error::of_read(&status))?
            .into_inner();
        let answer = answers
            .message()
            .await
            .map_err(|status| Error::of_read(&status))?
            .ok_or_else(|| Error::Malformed("no answer to a renewal".to_owned()))?;
        let ttl = u64::try_from(answer.ttl).unwrap_or(0);
        Ok((ttl > 0).then_some(Renewal {
            sent,
            ttl: Duration::from_secs(ttl),
        }))
    }
}
