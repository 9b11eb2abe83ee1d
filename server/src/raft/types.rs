//! openraft's type parameters, and the passage between its types and ours.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use baton_proto::{log, peer};
use bytes::Bytes;
use openraft::EntryPayload;
use openraft::impls::leader_id_std;
use openraft::raft::StreamAppendError;
use openraft::raft::responder::Responder;
use prost::Message;

use crate::storage::log as wal;

/// An encoded `log::Command`: the same bytes go to the log, to the followers and to the state machine.
#[derive(Clone, PartialEq, Eq)]
pub struct EncodedCommand(pub Bytes);

impl fmt::Debug for EncodedCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "command of {} bytes", self.0.len())
    }
}

impl fmt::Display for EncodedCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Where a member is reached by the others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerNode {
    /// As advertised; the first that answers is used.
    pub peer_urls: Vec<String>,
}

/// Answers a write by calling a function once. Outcomes are told by the apply loop, so only refusals
/// travel this way.
pub struct FnResponder<T>(pub Box<dyn FnOnce(T) + Send>);

impl<T: Send + 'static> Responder<TypeConfig, T> for FnResponder<T> {
    fn on_complete(self, result: T) {
        (self.0)(result);
    }
}

/// One leader per term, as in the Raft paper; chance comes from the seed of the running task.
#[derive(Debug, Clone, Copy, Default, Eq, PartialEq, Ord, PartialOrd)]
pub struct TypeConfig;

impl openraft::RaftTypeConfig for TypeConfig {
    type D = EncodedCommand;
    type R = ();
    type NodeId = u64;
    type Node = PeerNode;
    type Term = u64;
    type LeaderId = leader_id_std::LeaderId<u64, u64>;
    type Vote = openraft::impls::Vote<Self::LeaderId>;
    type Payload = EntryPayload<EncodedCommand, u64, PeerNode>;
    type Entry = openraft::impls::Entry<
        <Self::LeaderId as openraft::vote::RaftLeaderId>::Committed,
        Self::Payload,
    >;
    type AsyncRuntime =
        openraft_rt::deterministic_rng::DeterministicRng<openraft_rt_tokio::TokioRuntime>;
    type Responder<T>
        = FnResponder<T>
    where
        T: Send + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: Send + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

pub type LogId = openraft::alias::LogIdOf<TypeConfig>;
pub type Vote = openraft::alias::VoteOf<TypeConfig>;
pub type Entry = openraft::alias::EntryOf<TypeConfig>;
pub type Membership = openraft::Membership<u64, PeerNode>;
pub type StoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;
pub type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;

pub type ClientWriteResult = openraft::raft::ClientWriteResult<TypeConfig>;

/// The term under which an entry was proposed.
pub fn term_of(id: &LogId) -> u64 {
    id.leader_id.term
}

pub fn log_id(id: log::LogId) -> LogId {
    LogId::new_term_index(id.term, id.index)
}

pub fn log_id_to_proto(id: LogId) -> log::LogId {
    log::LogId {
        term: term_of(&id),
        index: id.index,
    }
}

pub fn log_id_from_wal(id: wal::LogId) -> LogId {
    LogId::new_term_index(id.term, id.index)
}

pub fn log_id_to_wal(id: &LogId) -> wal::LogId {
    wal::LogId {
        term: term_of(id),
        index: id.index,
    }
}

fn make_vote(term: u64, member_id: u64, committed: bool) -> Vote {
    if committed {
        Vote::new_committed(term, member_id)
    } else {
        Vote::new(term, member_id)
    }
}

pub fn vote(v: &log::Vote) -> Vote {
    make_vote(v.term, v.member_id, v.committed)
}

pub fn vote_to_proto(v: &Vote) -> log::Vote {
    log::Vote {
        term: v.leader_id.term,
        member_id: v.leader_id.voted_for,
        committed: v.committed,
    }
}

pub fn vote_from_wal(v: wal::Vote) -> Vote {
    make_vote(v.term, v.member_id, v.committed)
}

pub fn vote_to_wal(v: &Vote) -> wal::Vote {
    wal::Vote {
        term: v.leader_id.term,
        member_id: v.leader_id.voted_for,
        committed: v.committed,
    }
}

pub fn membership_to_proto(m: &Membership) -> log::Membership {
    log::Membership {
        configs: m
            .get_joint_config()
            .iter()
            .map(|ids| log::membership::Voters {
                ids: ids.iter().copied().collect(),
            })
            .collect(),
        nodes: m
            .nodes()
            .map(|(id, node)| {
                let peer_urls = node.peer_urls.clone();
                (*id, log::Node { peer_urls })
            })
            .collect(),
    }
}

/// Empty where a voter has no address: such a membership is never written.
pub fn membership(m: &log::Membership) -> Membership {
    let configs: Vec<BTreeSet<u64>> = m
        .configs
        .iter()
        .map(|voters| voters.ids.iter().copied().collect())
        .collect();
    let nodes: BTreeMap<u64, PeerNode> = m
        .nodes
        .iter()
        .map(|(id, node)| {
            let peer_urls = node.peer_urls.clone();
            (*id, PeerNode { peer_urls })
        })
        .collect();
    Membership::new(configs, nodes).unwrap_or_default()
}

pub fn stored_membership(m: &log::StoredMembership) -> StoredMembership {
    let inner = m.membership.as_ref().map(membership).unwrap_or_default();
    StoredMembership::new(m.log_id.map(log_id), inner)
}

pub fn stored_membership_to_proto(m: &StoredMembership) -> log::StoredMembership {
    log::StoredMembership {
        log_id: m.log_id().map(log_id_to_proto),
        membership: Some(membership_to_proto(m.membership())),
    }
}

pub fn entry_to_wal(entry: Entry) -> wal::LogEntry {
    let payload = match entry.payload {
        EntryPayload::Blank => wal::Payload::Blank,
        EntryPayload::Normal(EncodedCommand(bytes)) => wal::Payload::Command(bytes),
        EntryPayload::Membership(m) => {
            wal::Payload::Membership(membership_to_proto(&m).encode_to_vec().into())
        }
    };
    wal::LogEntry {
        id: log_id_to_wal(&entry.log_id),
        payload,
    }
}

/// # Errors
/// If a membership cannot be decoded: the log is damaged in a way its checksums did not see.
pub fn entry_from_wal(entry: wal::LogEntry) -> Result<Entry, prost::DecodeError> {
    let payload = match entry.payload {
        wal::Payload::Blank => EntryPayload::Blank,
        wal::Payload::Command(bytes) => EntryPayload::Normal(EncodedCommand(bytes)),
        wal::Payload::Membership(bytes) => {
            EntryPayload::Membership(membership(&log::Membership::decode(bytes)?))
        }
    };
    Ok(Entry {
        log_id: log_id_from_wal(entry.id),
        payload,
    })
}

fn entry_to_proto(entry: Entry) -> log::Entry {
    let payload = match entry.payload {
        EntryPayload::Blank => None,
        EntryPayload::Normal(EncodedCommand(bytes)) => Some(log::entry::Payload::Command(bytes)),
        EntryPayload::Membership(m) => {
            Some(log::entry::Payload::Membership(membership_to_proto(&m)))
        }
    };
    log::Entry {
        id: Some(log_id_to_proto(entry.log_id)),
        payload,
    }
}

fn entry(e: log::Entry) -> Option<Entry> {
    let payload = match e.payload {
        None => EntryPayload::Blank,
        // A copy, because keys and values that live on are slices of it: a slice of the received frame
        // would keep every other entry of the frame alive with it.
        Some(log::entry::Payload::Command(bytes)) => {
            EntryPayload::Normal(EncodedCommand(Bytes::copy_from_slice(&bytes)))
        }
        Some(log::entry::Payload::Membership(m)) => EntryPayload::Membership(membership(&m)),
    };
    Some(Entry {
        log_id: log_id(e.id?),
        payload,
    })
}

pub type AppendRequest = openraft::raft::AppendEntriesRequest<TypeConfig>;
pub type AppendResult = openraft::raft::StreamAppendResult<TypeConfig>;

pub fn append_to_proto(request: AppendRequest) -> peer::AppendRequest {
    peer::AppendRequest {
        vote: Some(vote_to_proto(&request.vote)),
        prev: request.prev_log_id.map(log_id_to_proto),
        entries: request.entries.into_iter().map(entry_to_proto).collect(),
        committed: request.leader_commit.map(log_id_to_proto),
    }
}

/// `None` where a required field is missing.
pub fn append(request: peer::AppendRequest) -> Option<AppendRequest> {
    Some(AppendRequest {
        vote: vote(request.vote.as_ref()?),
        prev_log_id: request.prev.map(log_id),
        entries: request
            .entries
            .into_iter()
            .map(entry)
            .collect::<Option<Vec<_>>>()?,
        leader_commit: request.committed.map(log_id),
    })
}

pub fn append_result_to_proto(result: &AppendResult) -> peer::AppendResponse {
    use peer::append_response::Result as Wire;
    let result = match result {
        Ok(last) => Wire::Matched(peer::Matched {
            last: last.map(log_id_to_proto),
        }),
        Err(StreamAppendError::Conflict(at)) => Wire::Conflict(log_id_to_proto(*at)),
        Err(StreamAppendError::HigherVote(v)) => Wire::HigherVote(vote_to_proto(v)),
    };
    peer::AppendResponse {
        result: Some(result),
    }
}

/// `None` where the result is missing.
pub fn append_result(response: peer::AppendResponse) -> Option<AppendResult> {
    use peer::append_response::Result as Wire;
    Some(match response.result? {
        Wire::Matched(m) => Ok(m.last.map(log_id)),
        Wire::Conflict(at) => Err(StreamAppendError::Conflict(log_id(at))),
        Wire::HigherVote(v) => Err(StreamAppendError::HigherVote(vote(&v))),
    })
}

pub type VoteRequest = openraft::raft::VoteRequest<TypeConfig>;
pub type VoteResponse = openraft::raft::VoteResponse<TypeConfig>;

pub fn vote_request_to_proto(r: &VoteRequest) -> peer::VoteRequest {
    peer::VoteRequest {
        vote: Some(vote_to_proto(&r.vote)),
        last_log_id: r.last_log_id.map(log_id_to_proto),
        leadership_transfer: r.leadership_transfer,
    }
}

/// `None` where the vote is missing.
pub fn vote_request(r: &peer::VoteRequest) -> Option<VoteRequest> {
    let mut request = VoteRequest::new(vote(r.vote.as_ref()?), r.last_log_id.map(log_id));
    request.leadership_transfer = r.leadership_transfer;
    Some(request)
}

pub fn vote_response_to_proto(r: &VoteResponse) -> peer::VoteResponse {
    peer::VoteResponse {
        vote: Some(vote_to_proto(&r.vote)),
        granted: r.vote_granted,
        last_log_id: r.last_log_id.map(log_id_to_proto),
    }
}

/// `None` where the vote is missing.
pub fn vote_response(r: &peer::VoteResponse) -> Option<VoteResponse> {
    let vote = vote(r.vote.as_ref()?);
    Some(VoteResponse::new(
        vote,
        r.last_log_id.map(log_id),
        r.granted,
    ))
}
