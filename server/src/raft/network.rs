//! What openraft sends to other members, as frames on peer streams.

use std::future::Future;
use std::io;
use std::time::Duration;

use baton_proto::peer::{Frame, Purpose, call, frame, reply};
use futures_util::{FutureExt, Stream, StreamExt};
use metrics::counter;
use openraft::RPCTypes;
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{
    NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable,
};
use openraft::network::{
    Backoff, NetBackoff, NetSnapshot, NetStreamAppend, NetTransferLeader, NetVote, RPCOption,
    RaftNetworkFactory,
};
use openraft::raft::{SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::snapshot::{self, SnapshotData};
use super::types::{
    AppendRequest, AppendResult, PeerNode, TypeConfig, Vote, VoteRequest, VoteResponse,
    append_result, append_to_proto, log_id_to_proto, vote, vote_request_to_proto, vote_response,
    vote_to_proto,
};
use crate::peer::{CallError, Direction, PeerStream, Peers, Transfer};

type Snapshot = openraft::alias::SnapshotOf<TypeConfig, SnapshotData>;

/// Append messages sent before the first of them is answered.
const APPENDS_IN_FLIGHT_MAX: usize = 64;

/// How long replication waits before it tries an unreachable member again.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// Makes one [`Connection`] for each member and purpose.
pub struct Network {
    pub member_id: u64,
    pub peers: Peers,
}

impl Network {
    fn connect(&self, target: u64, node: &PeerNode, appends: Appends) -> Connection {
        self.peers.set_urls(target, node.peer_urls.clone());
        Connection {
            member_id: self.member_id,
            target,
            peers: self.peers.clone(),
            appends,
        }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Connection;

    async fn new_client(&mut self, target: u64, node: &PeerNode) -> Connection {
        let appends = Appends::Streamed {
            stream: Mutex::new(None),
            in_flight: 0,
            retry_at: None,
        };
        self.connect(target, node, appends)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &PeerNode) -> Connection {
        self.connect(target, node, Appends::Called)
    }
}

/// How append messages travel.
enum Appends {
    /// Replication: one stream, kept over sessions as long as every message was answered.
    Streamed {
        /// Never locked: openraft wants its connections shareable between threads, streams are not.
        stream: Mutex<Option<PeerStream>>,
        in_flight: usize,
        /// Not before this is an unreachable member tried again. openraft's own backoff does not hold
        /// where proposals keep coming.
        retry_at: Option<Instant>,
    },
    /// Heartbeats: single questions that never queue behind entries.
    Called,
}

/// The way to one member.
pub struct Connection {
    member_id: u64,
    target: u64,
    peers: Peers,
    appends: Appends,
}

fn unreachable(error: impl ToString) -> RPCError<TypeConfig> {
    RPCError::Unreachable(Unreachable::from_string(error))
}

fn broken(error: impl ToString) -> RPCError<TypeConfig> {
    RPCError::Network(NetworkError::from_string(error))
}

fn rpc_error(error: CallError) -> RPCError<TypeConfig> {
    match error {
        CallError::Unreachable(..) => unreachable(error),
        CallError::Lost(_) | CallError::Refused(_) => broken(error),
    }
}

fn unexpected() -> RPCError<TypeConfig> {
    broken("the member answered something else than was asked")
}

impl Connection {
    async fn ask(
        &self,
        question: call::Question,
        option: &RPCOption,
        action: RPCTypes,
    ) -> Result<reply::Answer, RPCError<TypeConfig>> {
        let call = self.peers.call(self.target, Purpose::Heartbeats, question);
        match tokio::time::timeout(option.hard_ttl(), call).await {
            Ok(answer) => answer.map_err(rpc_error),
            Err(_) => Err(RPCError::Timeout(Timeout {
                action,
                id: self.member_id,
                target: self.target,
                timeout: option.hard_ttl(),
            })),
        }
    }

    async fn ask_vote(
        &self,
        question: call::Question,
        option: &RPCOption,
    ) -> Result<VoteResponse, RPCError<TypeConfig>> {
        match self.ask(question, option, RPCTypes::Vote).await? {
            reply::Answer::Vote(response) => vote_response(&response).ok_or_else(unexpected),
            _ => Err(unexpected()),
        }
    }

    async fn heartbeat(
        &self,
        request: AppendRequest,
        option: &RPCOption,
    ) -> Result<AppendResult, RPCError<TypeConfig>> {
        let question = call::Question::Append(append_to_proto(request));
        let answer = self.ask(question, option, RPCTypes::AppendEntries).await;
        if answer.is_err() {
            counter!("etcd_server_heartbeat_send_failures_total").increment(1);
        }
        match answer? {
            reply::Answer::Append(response) => append_result(response).ok_or_else(unexpected),
            _ => Err(unexpected()),
        }
    }
}

/// One session of streamed appends: requests go out as they come, answers are yielded in order.
struct Session<'s, S> {
    stream: &'s mut Option<PeerStream>,
    in_flight: &'s mut usize,
    input: Option<S>,
}

impl<S: Stream<Item = AppendRequest> + Send + Unpin> Session<'_, S> {
    async fn next(&mut self) -> Option<Result<AppendResult, RPCError<TypeConfig>>> {
        loop {
            let stream = self.stream.as_mut()?;
            let may_send = self.input.is_some() && *self.in_flight < APPENDS_IN_FLIGHT_MAX;
            if *self.in_flight == 0 && !may_send {
                return None;
            }
            let answered = tokio::select! {
                biased;
                frame = stream.rx.next(), if *self.in_flight > 0 => frame,
                request = next_of(&mut self.input), if may_send => {
                    let Some(request) = request else {
                        self.input = None;
                        continue;
                    };
                    *self.in_flight += 1;
                    let kind = Some(frame::Kind::Append(append_to_proto(request)));
                    if stream.tx.send(Frame { kind }).await.is_ok() {
                        continue;
                    }
                    None
                }
            };
            let result = match answered {
                Some(Frame {
                    kind: Some(frame::Kind::Appended(response)),
                }) => append_result(response),
                _ => None,
            };
            *self.in_flight -= 1;
            // After anything but an acknowledgement the other side closes the stream.
            if !matches!(result, Some(Ok(_))) {
                *self.stream = None;
            }
            return Some(result.ok_or_else(|| broken("the append stream broke")));
        }
    }
}

async fn next_of<S: Stream + Unpin>(input: &mut Option<S>) -> Option<S::Item> {
    match input {
        Some(input) => input.next().await,
        None => None,
    }
}

impl NetStreamAppend<TypeConfig> for Connection {
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<
        's,
        Result<BoxStream<'s, Result<AppendResult, RPCError<TypeConfig>>>, RPCError<TypeConfig>>,
    >
    where
        S: Stream<Item = AppendRequest> + Send + Unpin + 'static,
    {
        async move {
            if matches!(self.appends, Appends::Called) {
                let this = &*self;
                let answers = input.then(move |request| {
                    let option = option.clone();
                    async move { this.heartbeat(request, &option).await }
                });
                return Ok(answers.boxed());
            }
            let Appends::Streamed {
                stream,
                in_flight,
                retry_at,
            } = &mut self.appends
            else {
                return Err(unexpected());
            };
            let stream = stream.get_mut();
            // A session that was cut short leaves answers behind that are nobody's.
            if *in_flight > 0 {
                *stream = None;
                *in_flight = 0;
            }
            if stream.is_none() {
                if let Some(at) = retry_at.take() {
                    tokio::time::sleep_until(at).await;
                }
                match self.peers.open(self.target, Purpose::Append).await {
                    Ok(opened) => *stream = Some(opened),
                    Err(error) => {
                        *retry_at = Some(Instant::now() + RETRY_INTERVAL);
                        return Err(rpc_error(error));
                    }
                }
            }
            let session = Session {
                stream,
                in_flight,
                input: Some(input),
            };
            Ok(futures_util::stream::unfold(session, |mut session| async {
                let item = session.next().await?;
                Some((item, session))
            })
            .boxed())
        }
        .boxed()
    }
}

impl NetVote<TypeConfig> for Connection {
    async fn vote(
        &mut self,
        rpc: VoteRequest,
        option: RPCOption,
    ) -> Result<VoteResponse, RPCError<TypeConfig>> {
        let question = call::Question::Vote(vote_request_to_proto(&rpc));
        self.ask_vote(question, &option).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest,
        option: RPCOption,
    ) -> Result<VoteResponse, RPCError<TypeConfig>> {
        let question = call::Question::PreVote(vote_request_to_proto(&rpc));
        self.ask_vote(question, &option).await
    }
}

impl NetTransferLeader<TypeConfig> for Connection {
    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        let question = call::Question::Transfer(baton_proto::peer::TransferRequest {
            from_leader: Some(vote_to_proto(req.from_leader())),
            to: *req.to_node_id(),
            last_log_id: req.last_log_id().copied().map(log_id_to_proto),
        });
        match self
            .ask(question, &option, RPCTypes::TransferLeader)
            .await?
        {
            reply::Answer::Transfer(response) if response.refused.is_empty() => Ok(Ok(())),
            reply::Answer::Transfer(response) => Err(broken(response.refused)),
            _ => Err(unexpected()),
        }
    }
}

impl NetSnapshot<TypeConfig> for Connection {
    type SnapshotData = SnapshotData;

    async fn full_snapshot(
        &mut self,
        leader: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let send = async {
            let mut stream = self
                .peers
                .open(self.target, Purpose::Snapshot)
                .await
                .map_err(|e| io::Error::new(io::ErrorKind::NotConnected, e.to_string()))?;
            let transfer = Transfer::begin(Direction::Send, self.target);
            snapshot::send(&stream.tx, leader, &snapshot).await?;
            while let Some(frame) = stream.rx.next().await {
                if let Some(frame::Kind::SnapshotResult(result)) = frame.kind {
                    if let Some(v) = result.vote {
                        transfer.end();
                        return Ok(SnapshotResponse::new(vote(&v)));
                    }
                    return Err(io::Error::other(result.error));
                }
            }
            Err(io::Error::other("the stream broke before the result"))
        };
        tokio::select! {
            biased;
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = send => sent.map_err(|e: io::Error| match e.kind() {
                io::ErrorKind::NotConnected => StreamingError::Unreachable(Unreachable::from_string(e)),
                _ => StreamingError::Network(NetworkError::from_string(e)),
            }),
        }
    }
}

impl NetBackoff<TypeConfig> for Connection {
    fn backoff(&self) -> Option<Backoff> {
        Some(Backoff::new(std::iter::repeat(RETRY_INTERVAL)))
    }
}
