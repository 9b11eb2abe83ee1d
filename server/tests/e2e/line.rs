//! Words for standing in line: leases, calls that wait, and what the store says of who stands where.

use std::collections::BTreeSet;
use std::time::Duration;

use baton_proto::etcdserverpb as pb;
use baton_proto::mvccpb::event::EventType;
use baton_proto::mvccpb::{Event, KeyValue};
use baton_proto::v3electionpb as election;
use baton_proto::v3lockpb as lock;
use baton_test_cluster::client::Client;
use baton_test_cluster::process::{Cluster, Program};
use baton_test_cluster::watcher::{Stream, create_request};
use bytes::Bytes;
use pb::range_request::{SortOrder, SortTarget};
use tokio::task::JoinHandle;
use tonic::{Code, Response, Status};

use crate::baton;

/// What turns a hang into a failure.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A lock call under way. Aborted when it is dropped.
pub struct Call<T>(JoinHandle<Result<Response<T>, Status>>);

impl<T: Send + 'static> Call<T> {
    pub fn start(call: impl Future<Output = Result<Response<T>, Status>> + Send + 'static) -> Self {
        Self(tokio::spawn(call))
    }

    /// What it was answered.
    pub async fn answer(mut self) -> Result<Response<T>, Status> {
        let answered = tokio::time::timeout(PATIENCE, &mut self.0).await;
        answered.expect("an answer in time").expect("no panic")
    }

    /// The client goes away.
    pub async fn abort(mut self) {
        self.0.abort();
        let _ = (&mut self.0).await;
    }

    pub fn is_answered(&self) -> bool {
        self.0.is_finished()
    }
}

impl<T> Drop for Call<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A cluster, and a client of each member.
pub struct Site {
    pub cluster: Cluster,
    pub clients: Vec<Client>,
}

impl Site {
    pub async fn of(members: usize) -> Self {
        Self::with(&baton(), members).await
    }

    pub async fn with(program: &Program, members: usize) -> Self {
        let cluster = Cluster::start(program, members)
            .await
            .expect("the cluster starts");
        let clients = cluster.members.iter().map(|m| m.client()).collect();
        Self { cluster, clients }
    }

    /// The client of the first member.
    pub fn client(&self) -> &Client {
        &self.clients[0]
    }
}

pub async fn grant(client: &Client, ttl: i64) -> i64 {
    let request = pb::LeaseGrantRequest { id: 0, ttl };
    let granted = client.lease().lease_grant(request).await.expect("a lease");
    granted.into_inner().id
}

/// Renews a lease once.
pub async fn renew(client: &Client, id: i64) {
    let requests = tokio_stream::once(pb::LeaseKeepAliveRequest { id });
    let answers = client.lease().lease_keep_alive(requests).await;
    let answer = answers.expect("a stream").into_inner().message().await;
    let ttl = answer.expect("an answer").expect("an open stream").ttl;
    assert!(ttl > 0, "the lease is over");
}

pub async fn revoke(client: &Client, id: i64) {
    let request = pb::LeaseRevokeRequest { id };
    let revoked = client.lease().lease_revoke(request).await;
    revoked.expect("the lease is revoked");
}

pub fn lock(client: &Client, name: &str, lease: i64) -> Call<lock::LockResponse> {
    let mut client = client.lock();
    let name = Bytes::from(name.to_owned());
    Call::start(async move { client.lock(lock::LockRequest { name, lease }).await })
}

pub async fn unlock(client: &Client, key: &Bytes) -> i64 {
    let request = lock::UnlockRequest { key: key.clone() };
    let unlocked = client.lock().unlock(request).await.expect("unlocked");
    unlocked.into_inner().header.expect("a header").revision
}

pub fn campaign(
    client: &Client,
    name: &str,
    lease: i64,
    value: &str,
) -> Call<election::CampaignResponse> {
    let mut client = client.election();
    let request = election::CampaignRequest {
        name: Bytes::from(name.to_owned()),
        lease,
        value: Bytes::from(value.to_owned()),
    };
    Call::start(async move { client.campaign(request).await })
}

/// The token an answer carries.
pub fn token<T>(answer: &Response<T>) -> i64 {
    let token = answer.metadata().get("baton-fencing-token");
    let token = token.expect("a fencing token").to_str().expect("text");
    token.parse().expect("a number")
}

/// Code and text of a refusal.
pub fn refusal<T>(answer: Result<Response<T>, Status>) -> (Code, String) {
    match answer {
        Ok(_) => (Code::Ok, String::new()),
        Err(status) => (status.code(), status.message().to_owned()),
    }
}

fn prefix_of(name: &str) -> (Bytes, Bytes) {
    (format!("{name}/").into(), format!("{name}0").into())
}

/// The keys in line for `name`, first created first, and the revision they were read at.
pub async fn line_at(client: &Client, name: &str) -> (Vec<KeyValue>, i64) {
    let (key, range_end) = prefix_of(name);
    let request = pb::RangeRequest {
        key,
        range_end,
        sort_order: SortOrder::Ascend.into(),
        sort_target: SortTarget::Create.into(),
        ..Default::default()
    };
    let range = client.kv().range(request).await.expect("a range");
    let range = range.into_inner();
    (range.kvs, range.header.expect("a header").revision)
}

/// The leases that stand in line for `name`, first come first.
pub async fn line(client: &Client, name: &str) -> Vec<i64> {
    let (kvs, _) = line_at(client, name).await;
    kvs.iter().map(|kv| kv.lease).collect()
}

/// What happens in the line for `name` from `revision` on.
async fn happenings(client: &Client, name: &str, revision: i64) -> Stream {
    let (key, range_end) = prefix_of(name);
    let create = pb::WatchCreateRequest {
        key,
        range_end,
        start_revision: revision,
        ..Default::default()
    };
    let stream = Stream::open(client, create_request(create)).await;
    stream.expect("a stream")
}

async fn next_events(stream: &mut Stream) -> Vec<Event> {
    let response = tokio::time::timeout(PATIENCE, stream.responses.message()).await;
    let response = response.expect("something happens in the line");
    response.expect("a stream").expect("a response").events
}

/// Returns once exactly these leases stand in line, in this order.
pub async fn until_line_is(client: &Client, name: &str, leases: &[i64]) {
    let mut stream = happenings(client, name, 0).await;
    loop {
        next_events(&mut stream).await;
        if line(client, name).await == leases {
            return;
        }
    }
}

/// Returns once so many stand in line.
pub async fn until_line_has(client: &Client, name: &str, count: usize) {
    let (line, revision) = line_at(client, name).await;
    let mut standing = line.len();
    let mut stream = happenings(client, name, revision + 1).await;
    while standing != count {
        for event in next_events(&mut stream).await {
            let kv = event.kv.as_ref().expect("a pair");
            match event.r#type() {
                EventType::Put => standing += usize::from(kv.version == 1),
                EventType::Delete => standing -= 1,
            }
        }
    }
}

/// Returns once a key in line was written again after it was created.
pub async fn until_written_again(client: &Client, name: &str) {
    let mut stream = happenings(client, name, 1).await;
    let is_again = |event: &Event| event.kv.as_ref().is_some_and(|kv| kv.version > 1);
    while !next_events(&mut stream).await.iter().any(is_again) {}
}

/// The leases in line as a set.
pub async fn standing(client: &Client, name: &str) -> BTreeSet<i64> {
    line(client, name).await.into_iter().collect()
}
