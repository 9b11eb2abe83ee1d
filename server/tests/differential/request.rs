//! Requests, and how one is put to a server.

use std::fmt;

use baton_proto::etcdserverpb as pb;
use baton_test_cluster::client::Client;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

/// One call of the API.
#[derive(Clone, PartialEq)]
pub enum Request {
    Range(pb::RangeRequest),
    Put(pb::PutRequest),
    DeleteRange(pb::DeleteRangeRequest),
    Txn(pb::TxnRequest),
    Compact(pb::CompactionRequest),
    LeaseGrant(pb::LeaseGrantRequest),
    LeaseRevoke(pb::LeaseRevokeRequest),
    LeaseKeepAlive(pb::LeaseKeepAliveRequest),
    LeaseTimeToLive(pb::LeaseTimeToLiveRequest),
    LeaseLeases,
    HashKv(pb::HashKvRequest),
    Alarm(pb::AlarmRequest),
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Range(request) => format!("{request:?}"),
            Self::Put(request) => format!("{request:?}"),
            Self::DeleteRange(request) => format!("{request:?}"),
            Self::Txn(request) => format!("{request:?}"),
            Self::Compact(request) => format!("{request:?}"),
            Self::LeaseGrant(request) => format!("{request:?}"),
            Self::LeaseRevoke(request) => format!("{request:?}"),
            Self::LeaseKeepAlive(request) => format!("{request:?}"),
            Self::LeaseTimeToLive(request) => format!("{request:?}"),
            Self::LeaseLeases => "LeaseLeasesRequest".to_owned(),
            Self::HashKv(request) => format!("{request:?}"),
            Self::Alarm(request) => format!("{request:?}"),
        };
        f.write_str(&shortened(&text))
    }
}

/// A megabyte of value helps nobody in a failure message.
pub fn shortened(text: &str) -> String {
    const SHOWN: usize = 6000;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}… ({} bytes)", &text[..end], text.len()),
        None => text.to_owned(),
    }
}

/// The response message of a call.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    Range(pb::RangeResponse),
    Put(pb::PutResponse),
    DeleteRange(pb::DeleteRangeResponse),
    Txn(pb::TxnResponse),
    Compact(pb::CompactionResponse),
    LeaseGrant(pb::LeaseGrantResponse),
    LeaseRevoke(pb::LeaseRevokeResponse),
    LeaseKeepAlive(pb::LeaseKeepAliveResponse),
    LeaseTimeToLive(pb::LeaseTimeToLiveResponse),
    LeaseLeases(pb::LeaseLeasesResponse),
    HashKv(pb::HashKvResponse),
    Alarm(pb::AlarmResponse),
}

impl Answer {
    /// Where the message keeps its header.
    pub fn header(&mut self) -> &mut Option<pb::ResponseHeader> {
        match self {
            Self::Range(answer) => &mut answer.header,
            Self::Put(answer) => &mut answer.header,
            Self::DeleteRange(answer) => &mut answer.header,
            Self::Txn(answer) => &mut answer.header,
            Self::Compact(answer) => &mut answer.header,
            Self::LeaseGrant(answer) => &mut answer.header,
            Self::LeaseRevoke(answer) => &mut answer.header,
            Self::LeaseKeepAlive(answer) => &mut answer.header,
            Self::LeaseTimeToLive(answer) => &mut answer.header,
            Self::LeaseLeases(answer) => &mut answer.header,
            Self::HashKv(answer) => &mut answer.header,
            Self::Alarm(answer) => &mut answer.header,
        }
    }
}

/// An error as a client sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    pub code: Code,
    pub message: String,
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        Self {
            code: status.code(),
            message: status.message().to_owned(),
        }
    }
}

/// What a call came to.
pub type Outcome = Result<Answer, Refusal>;

/// The calling side of one server.
pub struct Caller {
    client: Client,
    keep_alive: Option<(
        mpsc::Sender<pb::LeaseKeepAliveRequest>,
        Streaming<pb::LeaseKeepAliveResponse>,
    )>,
}

impl Caller {
    pub fn new(client: Client) -> Self {
        Self {
            client,
            keep_alive: None,
        }
    }

    pub async fn call(&mut self, request: Request) -> Outcome {
        let client = &self.client;
        let outcome = match request {
            Request::Range(request) => client
                .kv()
                .range(request)
                .await
                .map(|a| Answer::Range(a.into_inner())),
            Request::Put(request) => client
                .kv()
                .put(request)
                .await
                .map(|a| Answer::Put(a.into_inner())),
            Request::DeleteRange(request) => client
                .kv()
                .delete_range(request)
                .await
                .map(|a| Answer::DeleteRange(a.into_inner())),
            Request::Txn(request) => client
                .kv()
                .txn(request)
                .await
                .map(|a| Answer::Txn(a.into_inner())),
            Request::Compact(request) => client
                .kv()
                .compact(request)
                .await
                .map(|a| Answer::Compact(a.into_inner())),
            Request::LeaseGrant(request) => client
                .lease()
                .lease_grant(request)
                .await
                .map(|a| Answer::LeaseGrant(a.into_inner())),
            Request::LeaseRevoke(request) => client
                .lease()
                .lease_revoke(request)
                .await
                .map(|a| Answer::LeaseRevoke(a.into_inner())),
            Request::LeaseKeepAlive(request) => {
                self.keep_alive(request).await.map(Answer::LeaseKeepAlive)
            }
            Request::LeaseTimeToLive(request) => client
                .lease()
                .lease_time_to_live(request)
                .await
                .map(|a| Answer::LeaseTimeToLive(a.into_inner())),
            Request::LeaseLeases => client
                .lease()
                .lease_leases(pb::LeaseLeasesRequest {})
                .await
                .map(|a| Answer::LeaseLeases(a.into_inner())),
            Request::HashKv(request) => client
                .maintenance()
                .hash_kv(request)
                .await
                .map(|a| Answer::HashKv(a.into_inner())),
            Request::Alarm(request) => client
                .maintenance()
                .alarm(request)
                .await
                .map(|a| Answer::Alarm(a.into_inner())),
        };
        outcome.map_err(Refusal::from)
    }

    /// All keepalives go over one stream, so that one bad lease shows whether it disturbs the next.
    async fn keep_alive(
        &mut self,
        request: pb::LeaseKeepAliveRequest,
    ) -> Result<pb::LeaseKeepAliveResponse, Status> {
        match &mut self.keep_alive {
            Some((requests, _)) => {
                requests
                    .send(request)
                    .await
                    .map_err(|_| Status::unknown("the keepalive stream is closed"))?;
            }
            None => {
                let (requests, receiver) = mpsc::channel(16);
                // A new channel has room.
                let _ = requests.try_send(request);
                let responses = self
                    .client
                    .lease()
                    .lease_keep_alive(ReceiverStream::new(receiver))
                    .await?
                    .into_inner();
                self.keep_alive = Some((requests, responses));
            }
        }
        let Some((_, responses)) = &mut self.keep_alive else {
            return Err(Status::unknown("no stream"));
        };
        match responses.message().await {
            Ok(Some(response)) => Ok(response),
            Ok(None) => Err(Status::unknown("the keepalive stream ended")),
            Err(status) => {
                self.keep_alive = None;
                Err(status)
            }
        }
    }
}
