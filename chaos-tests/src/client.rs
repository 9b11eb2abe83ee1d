//! One client process at one member: no retry, no failover, every call in the history.
//!
//! What a failed call means is decided in one place, [`certainly_not_done`].

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use baton_proto::etcdserverpb as pb;
use baton_proto::v3electionpb::election_client::ElectionClient;
use baton_proto::v3lockpb::lock_client::LockClient;
use pb::cluster_client::ClusterClient;
use pb::kv_client::KvClient;
use pb::lease_client::LeaseClient;
use pb::maintenance_client::MaintenanceClient;
use pb::watch_client::WatchClient;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::history::{Answer, Error, Member, Operation, Outcome, Record, Recorder, Request};

/// Where a member is reached: makes a connection of its own at each call, over a network or in memory.
#[derive(Clone)]
pub struct Dial(Arc<dyn Fn(Member) -> Channel + Send + Sync>);

impl Dial {
    /// Dials by `dial`.
    pub fn new(dial: impl Fn(Member) -> Channel + Send + Sync + 'static) -> Self {
        Self(Arc::new(dial))
    }

    /// A new connection to `member`, made at its first call.
    pub fn channel(&self, member: Member) -> Channel {
        (self.0)(member)
    }
}

impl fmt::Debug for Dial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dial")
    }
}

/// A client process: at one member, one call at a time.
#[derive(Debug)]
pub struct Client {
    dial: Dial,
    recorder: Recorder,
    workload: &'static str,
    member: Member,
    number: u32,
    channel: Channel,
    patience: Duration,
}

impl Client {
    /// A client at `member` that gives a call up after `patience`.
    pub fn new(
        dial: &Dial,
        recorder: &Recorder,
        workload: &'static str,
        member: Member,
        patience: Duration,
    ) -> Self {
        Self {
            dial: dial.clone(),
            recorder: recorder.clone(),
            workload,
            member,
            number: recorder.next_client(),
            channel: dial.channel(member),
            patience,
        }
    }

    /// Its number now.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// The member it asks.
    pub fn member(&self) -> Member {
        self.member
    }

    /// A watch client on this client's connection.
    pub fn watch(&self) -> WatchClient<Channel> {
        WatchClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    /// An election client on this client's connection, to observe with.
    pub fn election(&self) -> ElectionClient<Channel> {
        ElectionClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    /// Goes to another member, as a new client process.
    pub fn move_to(&mut self, member: Member) {
        self.member = member;
        self.channel = self.dial.channel(member);
        self.number = self.recorder.next_client();
    }

    /// Makes a call and records it.
    pub async fn call(&mut self, request: impl Into<Request>) -> Outcome {
        self.call_within(request, self.patience).await
    }

    /// Makes a call that may take as long as `patience`, such as one that waits for a lock.
    ///
    /// Dropping the future gives the call up; it is recorded as unknown then.
    pub async fn call_within(
        &mut self,
        request: impl Into<Request>,
        patience: Duration,
    ) -> Outcome {
        let request = request.into();
        let mut pending = Pending {
            recorder: self.recorder.clone(),
            operation: Some(Operation {
                id: self.recorder.next_operation(),
                workload: self.workload.to_owned(),
                client: self.number,
                member: self.member,
                called: self.recorder.now(),
                returned: 0,
                request: request.clone(),
                outcome: Outcome::Unknown(Error {
                    code: Code::Cancelled as i32,
                    message: "given up by the client".into(),
                }),
            }),
        };
        let answer = tokio::time::timeout(patience, answer(self.channel.clone(), request)).await;
        let outcome = match answer {
            Ok(Ok(answer)) => Outcome::Ok(answer),
            Ok(Err(status)) if certainly_not_done(&status) => Outcome::Failed((&status).into()),
            Ok(Err(status)) => Outcome::Unknown((&status).into()),
            Err(_) => Outcome::Unknown(Error {
                code: Code::DeadlineExceeded as i32,
                message: "no answer in time".into(),
            }),
        };
        pending.finish(outcome.clone());
        if let Outcome::Unknown(_) = outcome {
            // A call that is still under way somewhere is another process's from here on.
            self.number = self.recorder.next_client();
            self.channel = self.dial.channel(self.member);
        }
        outcome
    }
}

/// A call that is recorded even if its caller goes away.
struct Pending {
    recorder: Recorder,
    operation: Option<Operation>,
}

impl Pending {
    fn finish(&mut self, outcome: Outcome) {
        if let Some(mut operation) = self.operation.take() {
            operation.outcome = outcome;
            operation.returned = self.recorder.now();
            self.recorder.add(Record::Operation(operation));
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(operation) = &self.operation {
            let outcome = operation.outcome.clone();
            self.finish(outcome);
        }
    }
}

impl From<&Status> for Error {
    fn from(status: &Status) -> Self {
        Self {
            code: status.code() as i32,
            message: status.message().to_owned(),
        }
    }
}

/// Whether an error says that the request was not and never will be done: refused for its shape or by what the state was,
/// before or instead of a change. Everything else may have happened.
pub fn certainly_not_done(status: &Status) -> bool {
    match status.code() {
        Code::InvalidArgument
        | Code::NotFound
        | Code::OutOfRange
        | Code::FailedPrecondition
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::Unimplemented => true,
        // A connection that is closed for too much traffic ends calls with this code, too, done or not.
        Code::ResourceExhausted => ["etcdserver: ", "grpc: received message larger than max"]
            .iter()
            .any(|known| status.message().starts_with(known)),
        Code::Unavailable => refused_before_it_was_sent(status),
        _ => false,
    }
}

/// Nobody listened, so nothing was sent.
fn refused_before_it_was_sent(status: &Status) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(status);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            return error.kind() == std::io::ErrorKind::ConnectionRefused;
        }
        cause = error.source();
    }
    false
}

async fn answer(channel: Channel, request: Request) -> Result<Answer, Status> {
    macro_rules! unary {
        ($client:ident.$method:ident($request:expr) as $answer:ident) => {
            $client::new(channel)
                .max_decoding_message_size(usize::MAX)
                .$method($request)
                .await
                .map(|answer| Answer::$answer(answer.into_inner()))
        };
    }
    match request {
        Request::Range(r) => unary!(KvClient.range(r) as Range),
        Request::Put(r) => unary!(KvClient.put(r) as Put),
        Request::DeleteRange(r) => unary!(KvClient.delete_range(r) as DeleteRange),
        Request::Txn(r) => unary!(KvClient.txn(r) as Txn),
        Request::Compact(r) => unary!(KvClient.compact(r) as Compact),
        Request::LeaseGrant(r) => unary!(LeaseClient.lease_grant(r) as LeaseGrant),
        Request::LeaseRevoke(r) => unary!(LeaseClient.lease_revoke(r) as LeaseRevoke),
        Request::LeaseKeepAlive(r) => keep_alive(channel, r).await.map(Answer::LeaseKeepAlive),
        Request::LeaseTimeToLive(r) => unary!(LeaseClient.lease_time_to_live(r) as LeaseTimeToLive),
        Request::LeaseLeases(r) => unary!(LeaseClient.lease_leases(r) as LeaseLeases),
        Request::Lock(r) => unary!(LockClient.lock(r) as Lock),
        Request::Unlock(r) => unary!(LockClient.unlock(r) as Unlock),
        Request::Campaign(r) => unary!(ElectionClient.campaign(r) as Campaign),
        Request::Proclaim(r) => unary!(ElectionClient.proclaim(r) as Proclaim),
        Request::Leader(r) => unary!(ElectionClient.leader(r) as Leader),
        Request::Resign(r) => unary!(ElectionClient.resign(r) as Resign),
        Request::Status(r) => unary!(MaintenanceClient.status(r) as Status),
        Request::HashKv(r) => unary!(MaintenanceClient.hash_kv(r) as HashKv),
        Request::Defragment(r) => unary!(MaintenanceClient.defragment(r) as Defragment),
        Request::MoveLeader(r) => unary!(MaintenanceClient.move_leader(r) as MoveLeader),
        Request::Alarm(r) => unary!(MaintenanceClient.alarm(r) as Alarm),
        Request::MemberList(r) => unary!(ClusterClient.member_list(r) as MemberList),
    }
}

async fn keep_alive(
    channel: Channel,
    request: pb::LeaseKeepAliveRequest,
) -> Result<pb::LeaseKeepAliveResponse, Status> {
    let requests = tokio_stream::once(request);
    let mut answers = LeaseClient::new(channel)
        .lease_keep_alive(requests)
        .await?
        .into_inner();
    answers
        .message()
        .await?
        .ok_or_else(|| Status::unavailable("the stream ended without an answer"))
}
