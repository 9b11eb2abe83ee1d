//! The handle every service holds: propose a change, wait until a read is safe, look at the state.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use baton_proto::etcdserverpb::PutResponse;
use baton_proto::log::command::Op;
use baton_proto::log::{self, Command};
use baton_proto::peer::{ProposeRequest, Purpose, call, reply};
use baton_state_machine::{ApplyError, Response, RowChange, State};
use bytes::Bytes;
use metrics::counter;
use parking_lot::RwLock;
use prost::Message;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use crate::chaos::{Mutant, Point, planted, reach};
use crate::flusher::{Flusher, QUEUE_BYTES_MAX};
use crate::lessor::Lessor;
use crate::line::Wakes;
use crate::peer::{CallError, Peers};
use crate::raft::{Proposed, Raft, View};
use crate::read::ReadRounds;
use crate::state_hash::StateHashes;
use crate::storage::StateStore;
pub use crate::waiters::Committed;
use crate::waiters::{Outcome, Waiters};
use crate::watch::{History, WatchHub};

/// Why a proposal has no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// It was applied and refused; nothing changed.
    #[error(transparent)]
    Refused(#[from] ApplyError),
    /// Nothing was proposed: committed entries wait too long to be applied.
    #[error("too many requests")]
    TooManyRequests,
    /// Nothing was proposed: the encoded command is over the limit.
    #[error("request is too large")]
    TooLarge,
    /// Time ran out. Whether it took effect is unknown.
    #[error("request timed out")]
    Timeout,
    /// Time ran out right after the leader was lost. Whether it took effect is unknown.
    #[error("request timed out, possibly due to previous leader failure")]
    TimeoutLeaderFailed,
    /// Time ran out while no majority was reachable. Whether it took effect is unknown.
    #[error("request timed out, possibly due to connection lost")]
    TimeoutConnectionLost,
    /// This member is stopping. Whether it took effect is unknown.
    #[error("server stopped")]
    Stopped,
    /// It took no effect, and nobody wants it made again.
    #[error("superseded by another proposal")]
    Superseded,
}

impl ProposeError {
    /// Whether the cluster is the reason, not what was proposed.
    fn is_failure(self) -> bool {
        self.is_unknown() || self == Self::Stopped
    }

    /// Whether it may have taken effect, and asking again would tell.
    pub fn is_unknown(self) -> bool {
        match self {
            Self::Timeout | Self::TimeoutLeaderFailed | Self::TimeoutConnectionLost => true,
            Self::Refused(_)
            | Self::TooManyRequests
            | Self::TooLarge
            | Self::Stopped
            | Self::Superseded => false,
        }
    }
}

/// Why a linearizable read cannot be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// No majority confirmed a leader in time.
    #[error("request timed out")]
    Timeout,
    /// This member is stopping.
    #[error("server stopped")]
    Stopped,
}

/// Why the leader did not answer a question.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// No leader is known.
    #[error("no leader")]
    NoLeader,
    /// This member is the leader itself.
    #[error("this member is the leader")]
    IsLeader,
    /// The leader did not answer; nothing is known of the outcome.
    #[error("request timed out")]
    Timeout,
    /// The leader could not be reached or refused.
    #[error(transparent)]
    Call(#[from] CallError),
}

/// Where this member stands in its cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RaftStatus {
    /// The current term.
    pub term: u64,
    /// The leader as far as this member knows, 0 if none.
    pub leader: u64,
    /// Index of the last entry known to be committed.
    pub committed: u64,
    /// Index of the last applied entry.
    pub applied: u64,
    /// This member has no vote.
    pub is_learner: bool,
}

/// Who leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leadership {
    /// The current term.
    pub term: u64,
    /// Its leader, 0 where none is known or it has not been heard of for an election timeout.
    pub leader: u64,
    /// Since when it has been so.
    pub since: Instant,
}

/// Fixed properties of this member.
#[derive(Clone, Debug)]
pub struct Identity {
    /// This member.
    pub member_id: u64,
    /// Its cluster.
    pub cluster_id: u64,
    /// Time a request may take.
    pub request_timeout: Duration,
    /// Time without a leader's sign of life after which one is elected.
    pub election_timeout: Duration,
    /// Largest encoded command in bytes.
    pub request_bytes_max: usize,
}

pub(crate) struct Shared {
    pub identity: Identity,
    pub state: Arc<RwLock<State>>,
    pub history: Arc<History>,
    pub hub: Arc<WatchHub>,
    pub wakes: Arc<Wakes>,
    pub waiters: Arc<Waiters>,
    pub hashes: Arc<StateHashes>,
    pub raft: Raft,
    pub peers: Peers,
    pub flusher: Flusher,
    pub store: Arc<dyn StateStore>,
    pub leadership: watch::Receiver<Leadership>,
    pub applied: watch::Receiver<Option<log::LogId>>,
    /// The highest index that was known to be committed.
    pub committed: AtomicU64,
    pub rounds: ReadRounds,
    pub stopping: watch::Sender<bool>,
    pub ready: watch::Sender<bool>,
    pub compacted: watch::Receiver<i64>,
}

/// Shared by every service. Cheap to clone.
#[derive(Clone)]
pub struct Core {
    pub(crate) shared: Arc<Shared>,
}

/// A proposal that has failed if it is dropped now: nobody waits for it any longer.
struct Failed(bool);

impl Drop for Failed {
    fn drop(&mut self) {
        if self.0 {
            counter!("etcd_server_proposals_failed_total").increment(1);
        }
    }
}

/// Forgets a waiter whose proposer went away.
struct Waiting<'a> {
    waiters: &'a Waiters,
    id: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.waiters.forget(self.id);
    }
}

impl Core {
    /// Ids and limits of this member.
    pub fn identity(&self) -> &Identity {
        &self.shared.identity
    }

    /// This member.
    pub fn member_id(&self) -> u64 {
        self.shared.identity.member_id
    }

    /// Its cluster.
    pub fn cluster_id(&self) -> u64 {
        self.shared.identity.cluster_id
    }

    /// The replicated state as applied so far. Hold the guard briefly: applying waits for it.
    pub fn state(&self) -> &RwLock<State> {
        &self.shared.state
    }

    /// What the state hashed to after the last entries.
    pub fn state_hashes(&self) -> &StateHashes {
        &self.shared.hashes
    }

    /// Older values.
    pub fn history(&self) -> &Arc<History> {
        &self.shared.history
    }

    /// Where watches are registered.
    pub fn hub(&self) -> &Arc<WatchHub> {
        &self.shared.hub
    }

    /// Where waiters of a line wait.
    pub fn wakes(&self) -> &Arc<Wakes> {
        &self.shared.wakes
    }

    /// Who leads, and every change of it.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.shared.leadership.clone()
    }

    /// Where this member stands. Nothing in it goes back while the process runs, and the leader is that of the term.
    pub fn raft_status(&self) -> RaftStatus {
        let leadership = *self.shared.leadership.borrow();
        let applied = self.applied_index();
        let view = self.shared.raft.view();
        RaftStatus {
            term: view.term,
            // Where consensus has gone on to another term meanwhile, the leader of the one before is none.
            leader: match leadership.term == view.term {
                true => leadership.leader,
                false => view.leader,
            },
            committed: self.committed_index(view.committed.max(applied)),
            applied,
            is_learner: view.is_learner,
        }
    }

    /// The highest index ever known to be committed, at least `known`. Consensus goes back in what it says of it: a new
    /// leader tells its followers only what was committed in its own term.
    fn committed_index(&self, known: u64) -> u64 {
        let highest = &self.shared.committed;
        let before = highest.load(Ordering::Acquire);
        if before >= known {
            return before;
        }
        highest.fetch_max(known, Ordering::AcqRel).max(known)
    }

    /// Index of the last applied entry.
    pub fn applied_index(&self) -> u64 {
        self.shared.applied.borrow().map_or(0, |id| id.index)
    }

    /// Proposals of this member whose outcome is not known yet.
    pub fn proposals_pending(&self) -> usize {
        self.shared.waiters.count()
    }

    /// This member leads, as far as it knows.
    pub fn is_leader(&self) -> bool {
        self.shared.leadership.borrow().leader == self.member_id()
    }

    /// Becomes true when the server begins to stop.
    pub fn stopping(&self) -> watch::Receiver<bool> {
        self.shared.stopping.subscribe()
    }

    /// The revision below which history may be removed physically, and every rise of it.
    pub fn compacted(&self) -> watch::Receiver<i64> {
        self.shared.compacted.clone()
    }

    /// A leader was known and this member has published itself.
    pub fn is_ready(&self) -> bool {
        *self.shared.ready.borrow()
    }

    /// Becomes true when [`is_ready`](Self::is_ready) does.
    pub fn ready(&self) -> watch::Receiver<bool> {
        self.shared.ready.subscribe()
    }

    /// Bytes the applied state occupies on disk.
    pub fn disk_bytes(&self) -> u64 {
        self.shared.store.disk_bytes()
    }

    /// Gives space that removed rows occupy back to the file system.
    ///
    /// # Errors
    /// If the state store fails.
    pub async fn reclaim(&self) -> std::io::Result<()> {
        Arc::clone(&self.shared.store).reclaim().await
    }

    /// Where chance of this start of the member comes from.
    pub fn seed(&self) -> u64 {
        self.shared.raft.seed()
    }

    /// What consensus knows of itself now.
    pub fn view(&self) -> View {
        self.shared.raft.view()
    }

    /// Queues the removal of rows that compaction made unreachable. Call it under the state's write lock.
    pub fn remove_rows(&self, rows: Vec<RowChange>) {
        self.shared.flusher.write(rows, None);
    }

    /// Proposes a change and waits until it is applied *on this member*.
    ///
    /// A proposal that certainly did not reach the log, or lost its place in it for good, is proposed
    /// again until its time is over.
    ///
    /// # Errors
    /// See [`ProposeError`]: each variant says whether the outcome is known.
    pub async fn propose(&self, op: Op) -> Result<Committed, ProposeError> {
        let started = Instant::now();
        let proposed = self.propose_until_known(op, std::future::pending());
        let mut failed = Failed(true);
        let limit = self.shared.identity.request_timeout;
        let result = match tokio::time::timeout(limit, proposed).await {
            Ok(result) => result,
            Err(_) => Err(self.why_timed_out(started)),
        };
        failed.0 = result.as_ref().is_err_and(|error| error.is_failure());
        result
    }

    /// The same without a limit of time. Once `superseded` returns, what is not proposed yet, or was in
    /// vain, is not proposed any more, and ends as [`ProposeError::Superseded`].
    ///
    /// In one term of one leader it may go on for as long as that lasts: a message to the leader that
    /// was lost is never heard of. Dropped, the outcome is unknown.
    ///
    /// # Errors
    /// See [`ProposeError`]: each variant says whether the outcome is known.
    pub async fn propose_until_known(
        &self,
        op: Op,
        superseded: impl Future<Output = ()>,
    ) -> Result<Committed, ProposeError> {
        let identity = &self.shared.identity;
        let waiters = &*self.shared.waiters;
        let id = waiters.next_id();
        let command = Command {
            origin: identity.member_id,
            request_id: id,
            op: Some(op),
        };
        let command = Bytes::from(command.encode_to_vec());
        if command.len() > identity.request_bytes_max {
            return Err(ProposeError::TooLarge);
        }
        let _waiting = Waiting { waiters, id };
        let shared = &*self.shared;
        shared.flusher.room(QUEUE_BYTES_MAX).await;
        let mut stopping = shared.stopping.subscribe();
        let mut superseded = pin!(superseded);
        let mut pause = Pause::default();
        loop {
            let leadership = tokio::select! {
                biased;
                _ = stopping.wait_for(|stopping| *stopping) => return Err(ProposeError::Stopped),
                () = &mut superseded => return Err(ProposeError::Superseded),
                leadership = self.leader() => leadership?,
            };
            let outcome = shared.waiters.wait(id, leadership.term);
            // The status may be older than what was applied; a waiter of a past term waits in vain.
            let applied_term = shared.applied.borrow().map_or(0, |id| id.term);
            if applied_term > leadership.term {
                pause.wait(self).await?;
                continue;
            }
            let outcome = tokio::select! {
                biased;
                outcome = self.outcome(id, &command, leadership, outcome) => outcome,
                _ = stopping.changed() => return Err(ProposeError::Stopped),
            };
            match outcome {
                Outcome::Applied(result) => return Ok(result?),
                Outcome::NotProposed => pause.wait(self).await?,
                Outcome::Unknown => return Err(ProposeError::Timeout),
            }
        }
    }

    /// Hands the command to the leader and waits for what becomes of it.
    async fn outcome(
        &self,
        id: u64,
        command: &Bytes,
        leadership: Leadership,
        mut outcome: oneshot::Receiver<Outcome>,
    ) -> Outcome {
        let shared = &*self.shared;
        let term = leadership.term;
        if leadership.leader == self.member_id() {
            let waiters = Arc::clone(&shared.waiters);
            let done = move |proposed| {
                if proposed == Proposed::Refused {
                    waiters.refused(id, term);
                }
            };
            if shared
                .raft
                .propose(command.clone(), term, done)
                .await
                .is_err()
            {
                return Outcome::NotProposed;
            }
            if planted(Mutant::AckBeforeQuorum)
                && let Some(guess) = self.guess_outcome(command)
            {
                return guess;
            }
            return outcome.await.unwrap_or(Outcome::Unknown);
        }
        let question = call::Question::Propose(ProposeRequest {
            command: command.clone(),
            term,
        });
        let forwarded = async {
            reach(Point::ForwardSend).await;
            let peers = &shared.peers;
            peers
                .call(leadership.leader, Purpose::Calls, question)
                .await
        };
        tokio::select! {
            biased;
            known = &mut outcome => return known.unwrap_or(Outcome::Unknown),
            answer = forwarded => match answer {
                // Nothing happened there.
                Err(CallError::Unreachable(..) | CallError::Refused(_)) => return Outcome::NotProposed,
                Ok(_) | Err(CallError::Lost(_)) => {}
            },
        }
        outcome.await.unwrap_or(Outcome::Unknown)
    }

    /// What a put that is alone under way will probably be answered with.
    fn guess_outcome(&self, command: &Bytes) -> Option<Outcome> {
        let op = Command::decode(command.clone()).ok()?.op;
        let is_alone = self.proposals_pending() == 1;
        let revision = self.state().read().revision() + 1;
        let response = Response::Put(PutResponse::default());
        let guess = Outcome::Applied(Ok(Committed { response, revision }));
        (is_alone && matches!(op, Some(Op::Put(_)))).then_some(guess)
    }

    /// Waits until a leader is known.
    async fn leader(&self) -> Result<Leadership, ProposeError> {
        let mut leadership = self.shared.leadership.clone();
        let known = leadership.wait_for(|l| l.leader != 0).await;
        known.map(|l| *l).map_err(|_| ProposeError::Stopped)
    }

    fn why_timed_out(&self, started: Instant) -> ProposeError {
        let leadership = *self.shared.leadership.borrow();
        let lost_before = leadership.since - 2 * self.shared.identity.election_timeout;
        if leadership.leader != 0 && started > lost_before && started < leadership.since {
            return ProposeError::TimeoutLeaderFailed;
        }
        let silence = self.shared.raft.view().quorum_silence;
        if silence.is_some_and(|silence| silence > started.elapsed()) {
            return ProposeError::TimeoutConnectionLost;
        }
        ProposeError::Timeout
    }

    /// Returns once everything committed before the call is applied on this member (the read index of
    /// the Raft dissertation, 6.4). Calls made together share one round to the leader.
    ///
    /// # Errors
    /// If no majority confirms a leader within the request timeout, or the server stops.
    pub async fn read_barrier(&self) -> Result<(), ReadError> {
        let round = self.shared.rounds.applied();
        let result = match tokio::time::timeout(self.shared.identity.request_timeout, round).await {
            Ok(result) => result,
            Err(_) => Err(ReadError::Timeout),
        };
        if result.is_err() {
            counter!("etcd_server_read_indexes_failed_total").increment(1);
        }
        result
    }

    /// Returns once a majority confirmed, after the call, that this member leads.
    ///
    /// # Errors
    /// If it does not within an election timeout.
    pub async fn confirm_leader(&self) -> Result<(), ReadError> {
        let round = self.shared.rounds.confirmed();
        match tokio::time::timeout(self.shared.identity.election_timeout, round).await {
            Ok(result) => result,
            Err(_) => Err(ReadError::Timeout),
        }
    }

    /// Asks the leader, which is another member.
    ///
    /// # Errors
    /// If there is none, it is this one, or it does not answer within the request timeout.
    pub async fn ask_leader(&self, question: call::Question) -> Result<reply::Answer, AskError> {
        let leader = self.shared.leadership.borrow().leader;
        if leader == 0 {
            return Err(AskError::NoLeader);
        }
        if leader == self.member_id() {
            return Err(AskError::IsLeader);
        }
        let call = self.shared.peers.call(leader, Purpose::Calls, question);
        match tokio::time::timeout(self.shared.identity.request_timeout, call).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(AskError::Timeout),
        }
    }

    /// Renews a lease on this member and returns its time to live in seconds, 0 where there is no such
    /// lease. `None` where this member does not lead.
    ///
    /// Leadership is confirmed *after* the deadline was moved: whoever leads next was elected after the
    /// renewal and grants the full time from then on, so what is promised here holds.
    pub async fn renew_here(&self, lessor: &Lessor, id: i64) -> Option<i64> {
        // A revocation that was acknowledged anywhere is committed here, though maybe not applied yet.
        let committed = self.raft_status().committed;
        let mut applied = self.shared.applied.clone();
        let caught_up = applied.wait_for(|id| id.map_or(0, |id| id.index) >= committed);
        let caught_up = tokio::time::timeout(self.shared.identity.election_timeout, caught_up);
        drop(caught_up.await.ok()?.ok()?);
        let ttl = lessor.renew(id).await.ok()?;
        reach(Point::LeaseRenew).await;
        self.confirm_leader().await.ok()?;
        Some(ttl)
    }

    /// The time a lease has left by the clock of this member, inner `None` where there is no such
    /// lease. `None` where this member does not lead.
    pub async fn remaining_here(&self, lessor: &Lessor, id: i64) -> Option<Option<Duration>> {
        self.read_barrier().await.ok()?;
        lessor.remaining(id).ok()
    }

    /// Passes leadership to `to` and returns once another member leads.
    ///
    /// # Errors
    /// If it has not happened within the request timeout, or consensus has stopped.
    pub async fn transfer_leader(&self, to: u64) -> Result<(), ReadError> {
        let mut leadership = self.shared.leadership.clone();
        let term = leadership.borrow_and_update().term;
        self.shared
            .raft
            .transfer_leader(to)
            .await
            .map_err(|_| ReadError::Stopped)?;
        let moved = leadership.wait_for(|l| l.term > term && l.leader != 0);
        match tokio::time::timeout(self.shared.identity.request_timeout, moved).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(ReadError::Stopped),
            Err(_) => Err(ReadError::Timeout),
        }
    }

    /// The members that vote.
    pub fn voters(&self) -> Vec<u64> {
        self.shared.raft.voters()
    }

    /// On the leader, the follower to hand leadership to: one that answers, the furthest of them.
    pub fn successor(&self) -> Option<u64> {
        let recently = self.shared.identity.election_timeout;
        let matched = self.shared.raft.voters_matched(recently);
        Some(matched.into_iter().max_by_key(|(_, index)| *index)?.0)
    }
}

/// Growing pauses between attempts, cut short by a change of leader.
#[derive(Default)]
struct Pause {
    millis: u64,
}

impl Pause {
    /// Fails once consensus has ended: there will be no leader here any more, and nothing to wait for.
    async fn wait(&mut self, core: &Core) -> Result<(), ProposeError> {
        self.millis = (self.millis * 2).clamp(2, 64);
        let mut leadership = core.shared.leadership.clone();
        leadership.borrow_and_update();
        let pause = Duration::from_millis(self.millis);
        match tokio::time::timeout(pause, leadership.changed()).await {
            Ok(Err(_)) => Err(ProposeError::Stopped),
            Ok(Ok(())) | Err(_) => Ok(()),
        }
    }
}
