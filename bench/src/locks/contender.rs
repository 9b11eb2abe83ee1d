//! One client that takes a lock and lets go of it, in one of the ways there are.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use baton_client::Client;
use baton_proto::etcdserverpb as pb;
use baton_proto::v3lockpb::lock_client::LockClient;
use baton_proto::v3lockpb::{LockRequest, UnlockRequest};
use baton_recipes::{Mutex, MutexGuard, Session};
use bytes::Bytes;
use pb::compare::{CompareResult, CompareTarget, TargetUnion};
use pb::kv_client::KvClient;
use pb::lease_client::LeaseClient;
use pb::range_request::{SortOrder, SortTarget};
use pb::request_op::Request;
use pb::response_op::Response;
use pb::watch_client::WatchClient;
use pb::watch_request::RequestUnion;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

/// How a lock is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Way {
    /// The server's lock service, one call for each step.
    Rpc,
    /// What Go's `concurrency.Mutex` does with transactions and watches.
    EtcdAlgorithm,
    /// Baton's recipes. The other side is measured with etcd's algorithm, which is what its users have.
    Recipe,
}

impl Way {
    /// The ways of the first and of the second side.
    pub fn of_sides(self) -> [Self; 2] {
        match self {
            Self::Recipe => [Self::Recipe, Self::EtcdAlgorithm],
            Self::Rpc | Self::EtcdAlgorithm => [self; 2],
        }
    }

    /// As it is typed.
    pub fn name(self) -> String {
        let value = clap::ValueEnum::to_possible_value(&self);
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// A contender and the session or lease its key lives by.
pub enum Contender {
    /// Speaks the wire itself.
    Raw(Raw),
    /// A session of the recipes, and what it holds.
    Recipe {
        mutex: Mutex,
        guard: Option<MutexGuard>,
    },
}

impl Contender {
    /// A contender for the lock `name` with a session or lease of its own, which lasts `ttl`. A lease is not renewed.
    ///
    /// # Errors
    /// If the lease is not granted.
    pub async fn new(servers: &Servers, way: Way, name: &str, ttl: Duration) -> Result<Self> {
        match way {
            Way::Rpc | Way::EtcdAlgorithm => {
                let raw = Raw::new(servers.channel.clone(), way, name, ttl).await?;
                Ok(Self::Raw(raw))
            }
            Way::Recipe => {
                let session = Session::open(&servers.client, ttl).await?;
                let mutex = session.mutex(name);
                Ok(Self::Recipe { mutex, guard: None })
            }
        }
    }

    /// Returns when the lock is held.
    ///
    /// # Errors
    /// Whatever the server said; the contender may still stand in line.
    pub async fn lock(&mut self) -> Result<()> {
        match self {
            Self::Raw(raw) => raw.lock().await,
            Self::Recipe { mutex, guard } => {
                *guard = Some(mutex.lock().await?);
                Ok(())
            }
        }
    }

    /// Lets go.
    ///
    /// # Errors
    /// Whatever the server said; the lock may or may not be held afterwards.
    pub async fn unlock(&mut self) -> Result<()> {
        match self {
            Self::Raw(raw) => raw.unlock().await,
            Self::Recipe { guard, .. } => {
                guard.take().context("nothing is held")?.release().await?;
                Ok(())
            }
        }
    }

    /// Ends its session or lease.
    ///
    /// # Errors
    /// Whatever the server said.
    pub async fn leave(self) -> Result<()> {
        match self {
            Self::Raw(raw) => raw.leave().await,
            Self::Recipe { mutex, guard } => {
                drop((mutex, guard));
                Ok(())
            }
        }
    }
}

/// Connections that contenders share.
#[derive(Clone)]
pub struct Servers {
    pub channel: Channel,
    pub client: Client,
}

/// A contender that speaks the wire itself.
pub struct Raw {
    channel: Channel,
    way: Way,
    name: String,
    lease: i64,
    key: Bytes,
}

impl Raw {
    /// A contender whose lease is not renewed.
    ///
    /// # Errors
    /// If the lease is not granted.
    pub async fn new(channel: Channel, way: Way, name: &str, ttl: Duration) -> Result<Self> {
        let grant = pb::LeaseGrantRequest {
            ttl: i64::try_from(ttl.as_secs())?,
            id: 0,
        };
        let lease = LeaseClient::new(channel.clone())
            .lease_grant(grant)
            .await?
            .into_inner()
            .id;
        Ok(Self {
            channel,
            way,
            name: name.to_owned(),
            lease,
            key: Bytes::from(format!("{name}/{lease:x}")),
        })
    }

    /// The lease its key lives by.
    pub fn lease(&self) -> i64 {
        self.lease
    }

    /// As [`Contender::lock`].
    pub async fn lock(&mut self) -> Result<()> {
        match self.way {
            Way::Rpc => {
                let request = LockRequest {
                    name: self.name.clone().into(),
                    lease: self.lease,
                };
                let mut service = LockClient::new(self.channel.clone());
                self.key = service.lock(request).await?.into_inner().key;
                Ok(())
            }
            Way::EtcdAlgorithm | Way::Recipe => self.stand_in_line().await,
        }
    }

    async fn unlock(&self) -> Result<()> {
        let key = self.key.clone();
        match self.way {
            Way::Rpc => {
                let mut service = LockClient::new(self.channel.clone());
                service.unlock(UnlockRequest { key }).await?;
            }
            Way::EtcdAlgorithm | Way::Recipe => {
                let request = pb::DeleteRangeRequest {
                    key,
                    ..Default::default()
                };
                KvClient::new(self.channel.clone())
                    .delete_range(request)
                    .await?;
            }
        }
        Ok(())
    }

    async fn leave(self) -> Result<()> {
        let request = pb::LeaseRevokeRequest { id: self.lease };
        LeaseClient::new(self.channel).lease_revoke(request).await?;
        Ok(())
    }

    /// Creates its key, then waits for the key created last before its own to go, until there is none.
    async fn stand_in_line(&self) -> Result<()> {
        let mut kv = KvClient::new(self.channel.clone());
        let answer = kv.txn(self.entry()).await?.into_inner();
        let mut responses = answer.responses.into_iter().map(|op| op.response);
        let mine = match responses.next().flatten() {
            Some(Response::ResponsePut(put)) => put.header.context("no header")?.revision,
            Some(Response::ResponseRange(got)) => first_created(got).context("no own key")?,
            _ => bail!("an answer of another kind"),
        };
        let Some(Response::ResponseRange(first)) = responses.next().flatten() else {
            bail!("an answer of another kind");
        };
        if first_created(first).is_none_or(|first| first == mine) {
            return Ok(());
        }
        loop {
            let request = pb::RangeRequest {
                limit: 1,
                sort_order: SortOrder::Descend.into(),
                sort_target: SortTarget::Create.into(),
                max_create_revision: mine - 1,
                ..self.line()
            };
            let answer = kv.range(request).await?.into_inner();
            let Some(predecessor) = answer.kvs.into_iter().next() else {
                break;
            };
            // From the revision of the read, not the one after it: this is what Go does.
            let from = answer.header.context("no header")?.revision;
            self.deleted(predecessor.key, from).await?;
        }
        let own = pb::RangeRequest {
            key: self.key.clone(),
            ..Default::default()
        };
        if kv.range(own).await?.into_inner().kvs.is_empty() {
            bail!("the session is expired");
        }
        Ok(())
    }

    /// Creates the key unless it is there, and reads who is first either way.
    fn entry(&self) -> pb::TxnRequest {
        let put = pb::PutRequest {
            key: self.key.clone(),
            lease: self.lease,
            ..Default::default()
        };
        let own = pb::RangeRequest {
            key: self.key.clone(),
            ..Default::default()
        };
        let first = pb::RangeRequest {
            limit: 1,
            sort_order: SortOrder::Ascend.into(),
            sort_target: SortTarget::Create.into(),
            ..self.line()
        };
        let op = |request| pb::RequestOp {
            request: Some(request),
        };
        pb::TxnRequest {
            compare: vec![pb::Compare {
                result: CompareResult::Equal.into(),
                target: CompareTarget::Create.into(),
                key: self.key.clone(),
                target_union: Some(TargetUnion::CreateRevision(0)),
                ..Default::default()
            }],
            success: vec![
                op(Request::RequestPut(put)),
                op(Request::RequestRange(first.clone())),
            ],
            failure: vec![
                op(Request::RequestRange(own)),
                op(Request::RequestRange(first)),
            ],
        }
    }

    /// Everyone who holds or waits.
    fn line(&self) -> pb::RangeRequest {
        line(&self.name)
    }

    /// Returns once `key` is deleted in revision `from` or later.
    async fn deleted(&self, key: Bytes, from: i64) -> Result<()> {
        let create = pb::WatchCreateRequest {
            key,
            start_revision: from,
            ..Default::default()
        };
        let request = pb::WatchRequest {
            request_union: Some(RequestUnion::CreateRequest(create)),
        };
        // The call lasts until its requests end: dropping the answers alone would leave the watch running.
        let (_open, closed) = tokio::sync::mpsc::channel(1);
        let requests = tokio_stream::once(request).chain(ReceiverStream::new(closed));
        let mut answers = WatchClient::new(self.channel.clone())
            .watch(requests)
            .await?
            .into_inner();
        while let Some(answer) = answers.message().await? {
            if answer.canceled {
                bail!("the watch was cancelled: {}", answer.cancel_reason);
            }
            let delete = baton_proto::mvccpb::event::EventType::Delete;
            if answer.events.iter().any(|event| event.r#type() == delete) {
                return Ok(());
            }
        }
        bail!("the watch ended")
    }
}

/// Everyone who holds the lock `name` or waits for it.
pub fn line(name: &str) -> pb::RangeRequest {
    pb::RangeRequest {
        key: format!("{name}/").into(),
        range_end: format!("{name}0").into(),
        ..Default::default()
    }
}

fn first_created(response: pb::RangeResponse) -> Option<i64> {
    response.kvs.first().map(|kv| kv.create_revision)
}
