//! Consensus. The only code that names openraft: an alpha is pinned behind this module.
//!
//! [`Raft`] is what the rest of the server sees. Commands go in as bytes bound to a term; committed
//! entries come out at the apply loop. A proposal is answered there, not here.

mod log_store;
mod network;
mod snapshot;
mod state_machine;
mod types;

pub use state_machine::read_position;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use baton_proto::log;
use baton_proto::peer::{
    AppendRequest, AppendResponse, Call, Frame, Reply, SnapshotResult, TransferRequest,
    TransferResponse, call, frame, reply,
};
use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::raft::TransferLeaderRequest;
use openraft::{Config, Instant, ReadPolicy, ServerState, SnapshotPolicy};
use tokio::sync::mpsc;

use crate::apply_loop::ApplyLoop;
use crate::flusher::Flusher;
use crate::peer::{PeerStream, Peers};
use crate::storage::log::Log;
use log_store::LogStore;
use network::Network;
use snapshot::SnapshotData;
use state_machine::StateMachine;
use types::{
    AppendResult, EncodedCommand, FnResponder, PeerNode, TypeConfig, append,
    append_result_to_proto, log_id, vote, vote_request, vote_response_to_proto, vote_to_proto,
};

/// Times and sizes of consensus.
#[derive(Clone, Debug)]
pub struct RaftOptions {
    /// Between heartbeats of a leader.
    pub heartbeat_interval: Duration,
    /// A follower that hears nothing for about this long campaigns.
    pub election_timeout: Duration,
    /// Entries between snapshots.
    pub snapshot_count: u64,
    /// Entries kept below a snapshot for members that are a little behind.
    pub catchup_entries: u64,
    /// Seed of everything left to chance.
    pub seed: u64,
}

/// What consensus knows of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// The current term.
    pub term: u64,
    /// This member leads `term`.
    pub leads: bool,
    /// The leader of `term`, 0 where unknown.
    pub leader: u64,
    /// This member has no vote.
    pub is_learner: bool,
    /// Index of the last committed entry known here.
    pub committed: u64,
    /// Time since a majority last answered this leader; `None` on others.
    pub quorum_silence: Option<Duration>,
    /// Consensus has stopped on an error and will not go on.
    pub failed: bool,
}

/// What became of a proposal on the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proposed {
    /// It was committed and applied.
    Applied,
    /// It is not in the log.
    Refused,
    /// It was cut from this log again. Another leader may still commit it; the apply loop sees it then.
    Discarded,
}

/// A running consensus member.
#[derive(Clone)]
pub struct Raft {
    inner: openraft::Raft<TypeConfig, StateMachine>,
    seed: u64,
}

fn config(options: &RaftOptions) -> io::Result<Config> {
    let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    let heartbeat = millis(options.heartbeat_interval);
    let election = millis(options.election_timeout);
    Config {
        cluster_name: "baton".into(),
        heartbeat_interval: heartbeat,
        // A follower campaigns after the leader's lease, which is `election_timeout_max`, and a
        // random time in this range: 1 to 1.33 of the configured timeout, where etcd takes 1 to 2.
        election_timeout_min: (election / 3).max(heartbeat + 1),
        election_timeout_max: (election * 2 / 3).max(heartbeat * 2 + 2),
        heartbeat_min_interval: Some(heartbeat / 2),
        enable_pre_vote: Some(true),
        // Without it a leader that reaches one bridging member keeps a connected majority from
        // electing another.
        quorum_loss_probe_interval: Some(2 * election),
        max_payload_entries: 1024,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(options.snapshot_count.max(1)),
        max_in_snapshot_log_to_keep: options.catchup_entries,
        purge_batch_size: (options.snapshot_count / 10).clamp(1, 4096),
        // Must exceed the distance between snapshots, or a member that could still be served from
        // the log is sent a snapshot.
        replication_lag_threshold: 2 * (options.snapshot_count + options.catchup_entries),
        install_snapshot_timeout: 60_000,
        // Unsafe shortcuts.
        enable_leader_restore: Some(false),
        allow_log_reversion: None,
        ..Config::default()
    }
    .validate()
    .map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))
}

impl Raft {
    /// Starts consensus over `log`, feeding committed entries to `apply_loop`.
    ///
    /// # Errors
    /// If the log and the state contradict each other.
    pub async fn start(
        member_id: u64,
        options: RaftOptions,
        log: Log,
        apply_loop: ApplyLoop,
        store: &dyn crate::storage::StateStore,
        peers: Peers,
    ) -> io::Result<Self> {
        let config = Arc::new(config(&options)?);
        // The log is purged up to a snapshot; what a killed process left may not be durable yet.
        store.sync()?;
        let snapshot = match *apply_loop.applied.borrow() {
            Some(_) => Some(state_machine::snapshot_of(store.snapshot())?),
            None => None,
        };
        let state_machine = StateMachine::new(apply_loop, snapshot);
        let network = Network { member_id, peers };
        let seed = options.seed;
        let start = openraft::Raft::new(
            member_id,
            config,
            network,
            LogStore::new(log),
            state_machine,
        );
        let inner = seeded(seed, start).await.map_err(io::Error::other)?;
        Ok(Self { inner, seed })
    }

    /// Where everything left to chance comes from.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Makes `members` the first membership of a new cluster. Every member of it may do so: the
    /// resulting entry is the same.
    ///
    /// # Errors
    /// If consensus has stopped.
    pub async fn initialize(&self, members: BTreeMap<u64, Vec<String>>) -> io::Result<()> {
        let nodes: BTreeMap<u64, PeerNode> = members
            .into_iter()
            .map(|(id, peer_urls)| (id, PeerNode { peer_urls }))
            .collect();
        if self
            .inner
            .is_initialized()
            .await
            .map_err(io::Error::other)?
        {
            return Ok(());
        }
        match seeded(self.seed ^ 1, self.inner.initialize(nodes)).await {
            Ok(()) => Ok(()),
            // Another member was first, and its entry has already arrived.
            Err(openraft::errors::RaftError::APIError(
                openraft::errors::InitializeError::NotAllowed(_),
            )) => Ok(()),
            Err(e) => Err(io::Error::other(e)),
        }
    }

    /// Puts a command into the log if this member leads `term`. `done` is told, once, what became of
    /// it.
    ///
    /// # Errors
    /// If consensus has stopped; the command is not in the log.
    pub async fn propose(
        &self,
        command: Bytes,
        term: u64,
        done: impl FnOnce(Proposed) + Send + 'static,
    ) -> io::Result<()> {
        use openraft::errors::ClientWriteError;
        let responder = FnResponder(Box::new(|result: types::ClientWriteResult| {
            done(match result {
                Ok(_) => Proposed::Applied,
                Err(ClientWriteError::ForwardToLeader(_)) => Proposed::Refused,
                Err(_) => Proposed::Discarded,
            });
        }));
        self.inner
            .write(EncodedCommand(command))
            .with_leader(term)
            .responder(responder)
            .await
            .map_err(io::Error::other)
    }

    /// The index a linearizable read must wait for, after a round to a majority. `None` where this
    /// member does not lead, or cannot reach a majority.
    pub async fn read_index(&self) -> Option<log::LogId> {
        let (read, _) = self
            .inner
            .get_read_log_id(ReadPolicy::ReadIndex)
            .await
            .ok()?;
        Some(types::log_id_to_proto(*read.log_id()))
    }

    /// Asks for leadership to pass to `to`. Success is seen in [`view`](Self::view).
    ///
    /// # Errors
    /// If consensus has stopped.
    pub async fn transfer_leader(&self, to: u64) -> io::Result<()> {
        let trigger = self.inner.trigger();
        trigger.transfer_leader(to).await.map_err(io::Error::other)
    }

    /// What consensus knows of itself now.
    pub fn view(&self) -> View {
        let metrics = self.inner.metrics();
        let m = metrics.borrow_watched();
        let leads = m.state == ServerState::Leader;
        let leader = m.current_leader.unwrap_or(0);
        let voters = m.membership_config.membership().get_joint_config();
        let alone = matches!(&voters[..], [all] if all.len() == 1);
        View {
            term: m.current_term,
            leads,
            leader,
            is_learner: m.state == ServerState::Learner
                && m.membership_config.membership().get_node(&m.id).is_some(),
            committed: m
                .cluster_committed
                .or(m.local_committed)
                .map_or(0, |id| id.index),
            quorum_silence: match &m.last_quorum_acked {
                Some(_) if alone => Some(Duration::ZERO),
                Some(at) if leads => Some(at.elapsed()),
                _ => None,
            },
            failed: m.running_state.is_err(),
        }
    }

    /// The other voters that answered within `recently`, and how far the log of each is known to
    /// match. Empty on others than the leader.
    pub fn voters_matched(&self, recently: Duration) -> BTreeMap<u64, u64> {
        let metrics = self.inner.metrics();
        let m = metrics.borrow_watched();
        let (Some(replication), Some(heard)) = (&m.replication, &m.heartbeat) else {
            return BTreeMap::new();
        };
        m.membership_config
            .voter_ids()
            .filter(|id| *id != m.id)
            .filter_map(|id| {
                let heard = heard.get(&id)?.as_ref()?;
                let matched = replication.get(&id)?;
                (heard.elapsed() < recently)
                    .then(|| (id, matched.as_ref().map_or(0, |id| id.index)))
            })
            .collect()
    }

    /// The members that vote.
    pub fn voters(&self) -> Vec<u64> {
        let metrics = self.inner.metrics();
        let m = metrics.borrow_watched();
        m.membership_config.voter_ids().collect()
    }

    /// Calls `changed` whenever the leader, the term or the membership may have changed, until
    /// consensus stops.
    pub async fn on_change(&self, mut changed: impl FnMut()) {
        let mut metrics = self.inner.server_metrics();
        while metrics.changed().await.is_ok() {
            changed();
        }
    }

    /// Waits until everything this member had applied before it stopped is known to be committed.
    pub async fn recovered(&self) {
        let _ = self.inner.wait_for_recovery(None).await;
    }

    /// Stops consensus; in-flight appends are finished first.
    pub async fn shutdown(&self) {
        let _ = self.inner.shutdown().await;
    }

    /// Answers a question of another member that concerns consensus; `None` for others.
    pub async fn answer(&self, call: &Call) -> Option<Reply> {
        let answer = match call.question.as_ref()? {
            call::Question::Vote(request) => {
                let response = self.inner.vote(vote_request(request)?);
                let response = seeded(self.seed ^ call.id, response).await.ok()?;
                reply::Answer::Vote(vote_response_to_proto(&response))
            }
            call::Question::PreVote(request) => {
                let response = self.inner.pre_vote(vote_request(request)?).await.ok()?;
                reply::Answer::Vote(vote_response_to_proto(&response))
            }
            call::Question::Append(request) => {
                reply::Answer::Append(self.append_one(request.clone()).await?)
            }
            call::Question::Transfer(request) => {
                reply::Answer::Transfer(self.take_over(request).await)
            }
            _ => return None,
        };
        Some(Reply {
            id: call.id,
            answer: Some(answer),
        })
    }

    async fn append_one(&self, request: AppendRequest) -> Option<AppendResponse> {
        let request = append(request)?;
        let prev = request.prev_log_id;
        let last = request.entries.last().map(|e| e.log_id).or(prev);
        let response = self.inner.append_entries(request).await.ok()?;
        let result: AppendResult = match response {
            // `into_stream_result` would panic on a conflict without a previous entry.
            openraft::raft::AppendEntriesResponse::Conflict if prev.is_none() => return None,
            response => response.into_stream_result(prev, last),
        };
        Some(append_result_to_proto(&result))
    }

    async fn take_over(&self, request: &TransferRequest) -> TransferResponse {
        let refused = |why: &str| TransferResponse {
            refused: why.to_owned(),
        };
        let Some(from) = &request.from_leader else {
            return refused("a transfer without a leader");
        };
        let request =
            TransferLeaderRequest::new(vote(from), request.to, request.last_log_id.map(log_id));
        match self.inner.handle_transfer_leader(request).await {
            Ok(Ok(())) => TransferResponse::default(),
            Ok(Err(e)) => refused(&format!("{e:?}")),
            Err(e) => refused(&e.to_string()),
        }
    }

    /// Takes the appends of a leader from one stream until it ends or one is not accepted.
    /// `heard` is called for each.
    pub async fn append_stream(
        &self,
        rx: impl Stream<Item = Frame> + Send + 'static,
        tx: mpsc::Sender<Frame>,
        heard: impl Fn() + Send + Sync + 'static,
    ) {
        let requests = tokio_stream::StreamExt::map_while(rx, move |frame| match frame.kind {
            Some(frame::Kind::Append(request)) => {
                heard();
                append(request)
            }
            _ => None,
        });
        let results = self.inner.stream_append(requests);
        let mut results = std::pin::pin!(results);
        while let Some(Ok(result)) = results.next().await {
            let accepted = result.is_ok();
            let kind = Some(frame::Kind::Appended(append_result_to_proto(&result)));
            if tx.send(Frame { kind }).await.is_err() || !accepted {
                return;
            }
        }
    }

    /// Takes a snapshot of the leader from one stream and installs it. False if that failed, as the
    /// leader is told.
    pub async fn receive_snapshot(
        &self,
        mut rx: BoxStream<'static, Frame>,
        tx: mpsc::Sender<Frame>,
    ) -> bool {
        let result = match snapshot::receive(&mut rx).await {
            Ok((leader, snapshot)) => self
                .inner
                .install_full_snapshot(leader, snapshot)
                .await
                .map_err(io::Error::other),
            Err(e) => Err(e),
        };
        let installed = result.is_ok();
        let result = match result {
            Ok(response) => SnapshotResult {
                vote: Some(vote_to_proto(&response.vote)),
                error: String::new(),
            },
            Err(e) => SnapshotResult {
                vote: None,
                error: e.to_string(),
            },
        };
        let kind = Some(frame::Kind::SnapshotResult(result));
        let _ = tx.send(Frame { kind }).await;
        installed
    }
}

/// Sends what this member has applied to one that lost its own state. It is a snapshot made for the
/// purpose: the last that consensus took may be older than what the other's log still reaches back to.
///
/// # Errors
/// If the store fails, or the stream breaks.
pub async fn send_state(flusher: &Flusher, tx: &mpsc::Sender<Frame>) -> io::Result<()> {
    let now = state_machine::snapshot_of(flusher.snapshot().await?)?;
    snapshot::send(tx, vote(&log::Vote::default()), &now).await
}

/// A snapshot as rows, fetched from another member.
pub struct FetchedSnapshot {
    /// Its last entry.
    pub last: log::LogId,
    /// Its content.
    pub rows: Vec<(baton_state_machine::Table, Bytes, Bytes)>,
}

/// Receives what [`send_state`] sends, before consensus runs here.
///
/// # Errors
/// If the stream breaks or what came is damaged.
pub async fn fetch_snapshot(stream: &mut PeerStream) -> io::Result<FetchedSnapshot> {
    let (_, snapshot) = snapshot::receive(&mut stream.rx).await?;
    let last = snapshot
        .meta
        .last_log_id
        .map(types::log_id_to_proto)
        .ok_or_else(|| io::Error::other("the snapshot is empty"))?;
    match snapshot.snapshot {
        SnapshotData::Rows(rows) => Ok(FetchedSnapshot {
            last,
            rows: Arc::try_unwrap(rows).unwrap_or_else(|rows| (*rows).clone()),
        }),
        SnapshotData::View(_) => Err(io::Error::other("a received snapshot has rows")),
    }
}

/// Runs `future` with openraft's chance drawn from `seed`. Whatever calls into consensus from a task of
/// its own runs in here.
pub async fn seeded<F: Future>(seed: u64, future: F) -> F::Output {
    type Rng = openraft_rt::deterministic_rng::DeterministicRng<openraft_rt_tokio::TokioRuntime>;
    Rng::scope(seed, future).await
}
