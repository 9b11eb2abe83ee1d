//! One connection to one member, without retries or failover.

use std::time::Duration;

use baton_proto::etcdserverpb as pb;
use baton_proto::v3electionpb::election_client::ElectionClient;
use baton_proto::v3lockpb::lock_client::LockClient;
use bytes::Bytes;
use pb::cluster_client::ClusterClient;
use pb::kv_client::KvClient;
use pb::lease_client::LeaseClient;
use pb::maintenance_client::MaintenanceClient;
use pb::watch_client::WatchClient;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

/// Generated stubs over one lazily dialled connection; answers of any size are accepted.
#[derive(Debug, Clone)]
pub struct Client {
    channel: Channel,
}

/// How long a call may take before its outcome is called unknown.
pub const CALL_LIMIT: Duration = Duration::from_secs(2);

impl Client {
    /// A client of the member at `url`; dials at the first call, and again after a failure.
    ///
    /// # Panics
    /// If `url` is not a URL.
    pub fn new(url: &str) -> Self {
        let endpoint = Endpoint::from_shared(url.to_owned())
            .expect("a URL")
            .connect_timeout(Duration::from_secs(1));
        Self {
            channel: endpoint.connect_lazy(),
        }
    }

    /// The key-value service.
    pub fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    /// The watch service.
    pub fn watch(&self) -> WatchClient<Channel> {
        WatchClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    /// The lease service.
    pub fn lease(&self) -> LeaseClient<Channel> {
        LeaseClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    /// The maintenance service.
    pub fn maintenance(&self) -> MaintenanceClient<Channel> {
        MaintenanceClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    /// The cluster service.
    pub fn cluster(&self) -> ClusterClient<Channel> {
        ClusterClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    /// The lock service.
    pub fn lock(&self) -> LockClient<Channel> {
        LockClient::new(self.channel.clone())
    }

    /// The election service.
    pub fn election(&self) -> ElectionClient<Channel> {
        ElectionClient::new(self.channel.clone())
    }

    /// Puts a value and returns the revision it was given.
    ///
    /// # Errors
    /// Whatever the server said, or that it said nothing within [`CALL_LIMIT`]: the put may still happen.
    pub async fn put(&self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Result<i64, Status> {
        let request = pb::PutRequest {
            key: key.into(),
            value: value.into(),
            ..Default::default()
        };
        let mut kv = self.kv();
        let answer = limited(kv.put(request)).await?;
        Ok(revision_of(answer.into_inner().header))
    }

    /// A linearizable look at the store's revision.
    ///
    /// # Errors
    /// As for [`Client::put`].
    pub async fn revision(&self) -> Result<i64, Status> {
        let request = pb::RangeRequest {
            key: Bytes::from_static(b"\0"),
            count_only: true,
            ..Default::default()
        };
        let mut kv = self.kv();
        let answer = limited(kv.range(request)).await?;
        Ok(revision_of(answer.into_inner().header))
    }

    /// Discards history before `revision`.
    ///
    /// # Errors
    /// As for [`Client::put`].
    pub async fn compact(&self, revision: i64) -> Result<(), Status> {
        let mut kv = self.kv();
        limited(kv.compact(pb::CompactionRequest {
            revision,
            physical: false,
        }))
        .await
        .map(drop)
    }

    /// The member's view of itself and its cluster.
    ///
    /// # Errors
    /// As for [`Client::put`].
    pub async fn status(&self) -> Result<pb::StatusResponse, Status> {
        let mut maintenance = self.maintenance();
        Ok(limited(maintenance.status(pb::StatusRequest {}))
            .await?
            .into_inner())
    }

    /// Hash of the history up to `revision`, 0 for all of it.
    ///
    /// # Errors
    /// As for [`Client::put`], though hashing may take a minute.
    pub async fn hash_kv(&self, revision: i64) -> Result<pb::HashKvResponse, Status> {
        Ok(self
            .maintenance()
            .hash_kv(pb::HashKvRequest { revision })
            .await?
            .into_inner())
    }
}

/// Ends a call after [`CALL_LIMIT`].
async fn limited<T>(call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    match tokio::time::timeout(CALL_LIMIT, call).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Status::deadline_exceeded("no answer in time")),
    }
}

fn revision_of(header: Option<pb::ResponseHeader>) -> i64 {
    header.map(|header| header.revision).unwrap_or_default()
}
