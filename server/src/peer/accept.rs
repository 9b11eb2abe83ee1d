//! Answers the streams other members open.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use baton_proto::peer::{
    Call, Frame, Hello, LeaseRemainingResponse, LeaseRenewResponse, ProposeResponse, Purpose,
    ReadIndexResponse, Refused, Reply, TookPartResponse, call, frame, refused, reply,
};
use futures_util::StreamExt;
use tokio::sync::{mpsc, oneshot};

use super::{Accept, Direction, PROTOCOL_VERSIONS, PeerStream, Transfer};
use crate::chaos::{Mutant, Point, planted, reach};
use crate::core::Core;
use crate::lessor::Lessor;
use crate::raft::{self, Proposed};

/// Takes streams for the member `core` is.
#[derive(Clone)]
pub struct Acceptor {
    core: Core,
    lessor: Arc<Lessor>,
    runtime: tokio::runtime::Handle,
    /// Told when the leader was heard of.
    heard: Arc<dyn Fn() + Send + Sync>,
    seeds: Arc<AtomicU64>,
}

impl Acceptor {
    /// Must be called within the runtime that is to carry the traffic.
    pub fn new(
        core: Core,
        lessor: Arc<Lessor>,
        heard: Arc<dyn Fn() + Send + Sync>,
        seed: u64,
    ) -> Self {
        Self {
            core,
            lessor,
            runtime: tokio::runtime::Handle::current(),
            heard,
            seeds: Arc::new(AtomicU64::new(seed)),
        }
    }

    /// As the network wants it.
    pub fn into_accept(self) -> Accept {
        Arc::new(move |hello, stream| {
            let accepted = self.accept(hello, stream);
            if let Err(refusal) = &accepted {
                tracing::warn!(
                    from = format!("{:x}", hello.from),
                    refusal,
                    "refused a member's stream; check --initial-cluster and --initial-cluster-token there"
                );
            }
            accepted
        })
    }

    /// Begins to serve a stream.
    ///
    /// # Errors
    /// If it is meant for another cluster or member, or speaks another protocol.
    pub fn accept(&self, hello: Hello, stream: PeerStream) -> Result<(), String> {
        if hello.cluster_id != self.core.cluster_id() {
            return Err(format!(
                "cluster ID mismatch: this member is of cluster {:x}, the caller of {:x}",
                self.core.cluster_id(),
                hello.cluster_id
            ));
        }
        if hello.to != self.core.member_id() {
            return Err(format!(
                "member ID mismatch: this is member {:x}, the caller wants {:x}",
                self.core.member_id(),
                hello.to
            ));
        }
        let (lowest, highest) = PROTOCOL_VERSIONS;
        if hello.version_max < lowest || hello.version_min > highest {
            return Err(format!(
                "peer protocol mismatch: this member speaks {lowest} to {highest}, the caller {} to {}",
                hello.version_min, hello.version_max
            ));
        }
        let this = self.clone();
        let seed = self.seed();
        match hello.purpose() {
            Purpose::Calls | Purpose::Heartbeats => {
                self.runtime.spawn(this.answer_calls(stream));
            }
            Purpose::Append => {
                let appends = async move {
                    let heard = Arc::clone(&this.heard);
                    let raft = &this.core.shared.raft;
                    raft.append_stream(stream.rx, stream.tx, move || heard())
                        .await;
                };
                self.runtime.spawn(raft::seeded(seed, appends));
            }
            Purpose::Snapshot => {
                self.runtime
                    .spawn(raft::seeded(seed, this.snapshot(hello.from, stream)));
            }
        }
        Ok(())
    }

    fn seed(&self) -> u64 {
        self.seeds.fetch_add(1, Ordering::Relaxed)
    }

    async fn answer_calls(self, mut stream: PeerStream) {
        while let Some(frame) = stream.rx.next().await {
            let Some(frame::Kind::Call(call)) = frame.kind else {
                return;
            };
            let this = self.clone();
            let tx = stream.tx.clone();
            let seed = self.seed();
            // Each on its own: a vote waits for the disk, a proposal for a majority.
            self.runtime
                .spawn(raft::seeded(seed, this.answer_call(call, tx)));
        }
    }

    async fn answer_call(self, call: Call, tx: mpsc::Sender<Frame>) {
        let id = call.id;
        let answer = match &call.question {
            Some(call::Question::ReadIndex(_)) => self.read_index().await,
            Some(call::Question::Propose(_)) => self.propose(call).await,
            Some(call::Question::LeaseRenew(renew)) => {
                let id = renew.id;
                self.renew(id).await
            }
            Some(call::Question::LeaseRemaining(remaining)) => {
                let id = remaining.id;
                self.remaining(id).await
            }
            Some(call::Question::TookPart(asked)) => self.took_part(asked.member_id),
            Some(call::Question::Append(_)) => {
                (self.heard)();
                self.consensus(&call).await
            }
            _ => self.consensus(&call).await,
        };
        let reply = Reply {
            id,
            answer: Some(answer),
        };
        let kind = Some(frame::Kind::Reply(reply));
        let _ = tx.send(Frame { kind }).await;
    }

    async fn consensus(&self, call: &Call) -> reply::Answer {
        let reply = self.core.shared.raft.answer(call).await;
        reply
            .and_then(|reply| reply.answer)
            .unwrap_or_else(|| refuse(refused::Reason::Invalid, "the question has no answer here"))
    }

    async fn read_index(&self) -> reply::Answer {
        let index = self.core.shared.raft.read_index().await;
        reach(Point::ReadIndexAnswer).await;
        match index {
            Some(id) => reply::Answer::ReadIndex(ReadIndexResponse {
                index: id.index,
                term: id.term,
            }),
            None => not_leader(),
        }
    }

    async fn propose(&self, call: Call) -> reply::Answer {
        let Some(call::Question::Propose(request)) = call.question else {
            return not_leader();
        };
        let (tx, rx) = oneshot::channel();
        let done = move |proposed| {
            let _ = tx.send(proposed);
        };
        reach(Point::ForwardReceive).await;
        let raft = &self.core.shared.raft;
        if planted(Mutant::AppliedTwice) {
            let again = request.command.clone();
            let _ = raft.propose(again, request.term, |_| {}).await;
        }
        if raft
            .propose(request.command, request.term, done)
            .await
            .is_err()
        {
            return not_leader();
        }
        match rx.await {
            Ok(Proposed::Refused) => not_leader(),
            // The proposer sees the outcome in its own log.
            Ok(Proposed::Applied | Proposed::Discarded) | Err(_) => {
                reply::Answer::Propose(ProposeResponse {})
            }
        }
    }

    /// A member publishes itself before it serves its first client.
    fn took_part(&self, member_id: u64) -> reply::Answer {
        let state = self.core.state().read();
        let member = state.members().get(&member_id);
        reply::Answer::TookPart(TookPartResponse {
            took_part: member.is_some_and(|member| !member.name.is_empty()),
        })
    }

    async fn renew(&self, id: i64) -> reply::Answer {
        match self.core.renew_here(&self.lessor, id).await {
            Some(ttl) => reply::Answer::LeaseRenew(LeaseRenewResponse { ttl }),
            None => not_leader(),
        }
    }

    async fn remaining(&self, id: i64) -> reply::Answer {
        match self.core.remaining_here(&self.lessor, id).await {
            Some(remaining) => reply::Answer::LeaseRemaining(LeaseRemainingResponse {
                found: remaining.is_some(),
                remaining: remaining.map_or(0, |left| left.as_secs().cast_signed()),
            }),
            None => not_leader(),
        }
    }

    async fn snapshot(self, from: u64, mut stream: PeerStream) {
        let Some(first) = stream.rx.next().await else {
            return;
        };
        let shared = &self.core.shared;
        if let Some(frame::Kind::FetchSnapshot(_)) = first.kind {
            if let Err(error) = raft::send_state(&shared.flusher, &stream.tx).await {
                tracing::warn!(%error, "a member asked for a snapshot and did not get it");
            }
            return;
        }
        (self.heard)();
        let rx = futures_util::stream::once(std::future::ready(first)).chain(stream.rx);
        let transfer = Transfer::begin(Direction::Receive, from);
        if shared.raft.receive_snapshot(rx.boxed(), stream.tx).await {
            transfer.end();
        }
    }
}

fn refuse(reason: refused::Reason, detail: &str) -> reply::Answer {
    reply::Answer::Refused(Refused {
        reason: reason.into(),
        leader: 0,
        detail: detail.to_owned(),
    })
}

fn not_leader() -> reply::Answer {
    refuse(refused::Reason::NotLeader, "this member does not lead")
}
