//! Puts a member together, starts its parts in order and stops them in reverse.
//!
//! Everything here runs on the runtime it is started in, the core's: consensus, applying, peer traffic,
//! the lessor's clock. Only the log's writer and the state flusher are driven elsewhere, and in
//! simulation not even those.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use baton_proto::log::command::Op;
use baton_proto::log::{self, BeginStateHash, Publish};
use baton_proto::peer::{FetchSnapshot, Frame, Purpose, frame};
use baton_state_machine::{Effect, State, Table};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::apply_loop::{ApplyLoop, ApplyTimes};
use crate::chaos::{Point, reach};
use crate::core::{Core, Identity, Leadership, Shared};
use crate::flusher::{self, Flusher};
use crate::lessor::Lessor;
use crate::line::Wakes;
use crate::peer::{Acceptor, PeerNet, Peers};
use crate::raft::{self, Raft, RaftOptions};
use crate::read::{ReadRounds, Rounds};
use crate::state_hash::StateHashes;
use crate::storage::log::{Log, LogId};
use crate::storage::{AllRows, StateStore};
use crate::waiters::Waiters;
use crate::watch::ring::RingLimits;
use crate::watch::{History, Ring, WatchHub};

/// How long a stopping member waits for proposals that are under way.
const DRAIN_TIME: Duration = Duration::from_millis(500);

/// How long a follower may take to become the leader when it is asked to.
const HANDOVER_TIME: Duration = Duration::from_millis(400);
/// How many followers are asked.
const HANDOVERS_MAX: usize = 2;

/// What a member is told at its start.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// Ids and limits.
    pub identity: Identity,
    /// Name of this member.
    pub name: String,
    /// Where clients reach it.
    pub client_urls: Vec<String>,
    /// Its own version, published to the others.
    pub version: String,
    /// The members of a new cluster and their peer URLs.
    pub members: BTreeMap<u64, Vec<String>>,
    /// Times and sizes of consensus.
    pub raft: RaftOptions,
}

/// What a member stands on: the seams.
pub struct Parts {
    /// The durable log.
    pub log: Log,
    /// The applied state on disk.
    pub store: Arc<dyn StateStore>,
    /// The way to other members.
    pub net: Arc<dyn PeerNet>,
    /// Drives the flusher: a thread of its own, in simulation a task.
    pub drive: Box<dyn FnOnce(flusher::Work) + Send>,
    /// The store failed, or consensus did: the process must end.
    pub fatal: Arc<dyn Fn(String) + Send + Sync>,
}

/// A running member.
pub struct Node {
    core: Core,
    lessor: Arc<Lessor>,
    acceptor: Acceptor,
    tasks: Vec<JoinHandle<()>>,
}

fn invalid(error: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

/// Reads the applied state back from its store.
fn load(store: &dyn StateStore) -> io::Result<State> {
    let view = store.snapshot();
    let mut failed = None;
    let mut rows =
        AllRows::of(&*view).map_while(|row| row.map_err(|error| failed = Some(error)).ok());
    let state = State::load(&mut rows).map_err(invalid)?;
    match failed {
        Some(error) => Err(error),
        None => Ok(state),
    }
}

/// The state, its place in the log and its membership; fetched from another member where the log no
/// longer reaches back to it.
async fn open(
    options: &NodeOptions,
    peers: &Peers,
    log: &Log,
    store: &dyn StateStore,
) -> io::Result<(State, Option<log::LogId>, log::StoredMembership)> {
    let read = |key: &[u8]| store.get(Table::Meta, key);
    let (mut applied, mut membership) = raft::read_position(read)?;
    let purged = log.state().purged;
    if purged.is_some_and(|purged| applied.is_none_or(|a| a.index < purged.index)) {
        refill(options, peers, log, store).await?;
        (applied, membership) = raft::read_position(read)?;
    }
    Ok((load(store)?, applied, membership))
}

/// The state is older than what the log still has: gets a snapshot from another member, and waits for
/// one as long as it takes.
async fn refill(
    options: &NodeOptions,
    peers: &Peers,
    log: &Log,
    store: &dyn StateStore,
) -> io::Result<()> {
    let me = options.identity.member_id;
    let others: Vec<u64> = options
        .members
        .keys()
        .copied()
        .filter(|id| *id != me)
        .collect();
    // Without --initial-cluster the configuration describes a cluster of one, under whatever id.
    if others.is_empty() || !options.members.contains_key(&me) {
        return Err(io::Error::other(
            "the applied state is gone or cannot be read, and the log no longer reaches back to its beginning. If there \
             are other members, start this one with the --initial-cluster and --initial-cluster-token \
             of its first start, so that it can fetch the state from one of them; if it is the only \
             one, restore the data directory from a backup",
        ));
    }
    let purged = log.state().purged.map_or(0, |id| id.index);
    loop {
        for id in &others {
            match fetch(peers, *id).await {
                Ok(snapshot) if snapshot.last.index >= purged => {
                    void_conflicting_tail(log, snapshot.last).await?;
                    tracing::info!(
                        index = snapshot.last.index,
                        from = format!("{id:x}"),
                        "rebuilt the applied state from another member"
                    );
                    let mut rows = snapshot.rows.into_iter().map(Ok);
                    return store.replace(&mut rows);
                }
                Ok(snapshot) => tracing::warn!(
                    from = format!("{id:x}"),
                    index = snapshot.last.index,
                    purged,
                    "the applied state of the other member is older than what this log begins with; \
                     trying again"
                ),
                Err(error) => tracing::warn!(
                    from = format!("{id:x}"),
                    %error,
                    "cannot fetch a snapshot to rebuild the applied state; trying again"
                ),
            }
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Entries that never were committed may stand where the snapshot has others. Consensus takes a log that
/// contradicts the state for damaged, so they go first; the snapshot replaces all before them.
async fn void_conflicting_tail(log: &Log, snapshot: log::LogId) -> io::Result<()> {
    let snapshot = LogId {
        term: snapshot.term,
        index: snapshot.index,
    };
    let state = log.state();
    let conflicts = |last: LogId| last < snapshot && last.index >= snapshot.index;
    if !state.last.is_some_and(conflicts) {
        return Ok(());
    }
    let (tx, voided) = oneshot::channel();
    log.truncate_after(
        state.purged,
        Box::new(move |result| {
            let _ = tx.send(result);
        }),
    );
    voided
        .await
        .unwrap_or_else(|_| Err(io::Error::other("the log was closed")))
}

async fn fetch(peers: &Peers, from: u64) -> io::Result<raft::FetchedSnapshot> {
    let mut stream = peers
        .open(from, Purpose::Snapshot)
        .await
        .map_err(io::Error::other)?;
    let kind = Some(frame::Kind::FetchSnapshot(FetchSnapshot {}));
    stream
        .tx
        .send(Frame { kind })
        .await
        .map_err(|_| io::Error::other("the stream closed"))?;
    raft::fetch_snapshot(&mut stream).await
}

impl Node {
    /// Starts a member and returns at once; [`serve_ready`](Self::serve_ready) tells when it can serve.
    ///
    /// # Errors
    /// If log and state contradict each other, or the state cannot be rebuilt.
    pub async fn start(options: NodeOptions, parts: Parts) -> io::Result<Self> {
        let Parts {
            log,
            store,
            net,
            drive,
            fatal,
        } = parts;
        let identity = options.identity.clone();
        let me = identity.member_id;
        let peers = Peers::new(net, identity.cluster_id, me);
        for (id, urls) in &options.members {
            peers.set_urls(*id, urls.clone());
        }

        let (state, applied, membership) = match open(&options, &peers, &log, &*store).await {
            Ok(opened) => opened,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                tracing::warn!(%error, "the applied state cannot be read; rebuilding it");
                // What is there may be the last copy: it goes only when something can take its place.
                if log.state().purged.is_some() {
                    refill(&options, &peers, &log, &*store).await?;
                } else {
                    store.replace(&mut std::iter::empty())?;
                }
                open(&options, &peers, &log, &*store).await?
            }
            Err(error) => return Err(error),
        };
        let revision = state.revision();
        // Addresses of members that were added since are in the membership.
        for (id, node) in membership.membership.iter().flat_map(|m| &m.nodes) {
            peers.set_urls(*id, node.peer_urls.clone());
        }

        let read_meta = |key: &[u8]| store.get(Table::Meta, key);
        let hashes = Arc::new(StateHashes::read(read_meta, applied)?);
        let state = Arc::new(RwLock::new(state));
        let ring = Arc::new(Ring::new(revision, RingLimits::default()));
        let history = {
            let store = Arc::clone(&store);
            let read = move |key: &[u8]| store.get(Table::Rev, key);
            Arc::new(History::new(Arc::clone(&ring), Box::new(read)))
        };
        let hub = WatchHub::new(Arc::clone(&ring), revision);
        let wakes = Arc::new(Wakes::default());
        let lessor = Arc::new(Lessor::new(identity.election_timeout));
        let waiters = Arc::new(Waiters::new(options.raft.seed << 24));
        let hooks = flusher::Hooks {
            written: Box::new(move |revision| ring.flushed_to(revision)),
            failed: {
                let fatal = Arc::clone(&fatal);
                Box::new(move |error| fatal(format!("the state store failed: {error}")))
            },
        };
        let (flusher, work) = Flusher::new(Arc::clone(&store), hooks);
        drive(work);
        let (compactor_tx, compactor_rx) = watch::channel(0_i64);
        let (applied_tx, applied_rx) = watch::channel(applied);
        let apply_loop = ApplyLoop {
            member_id: me,
            state: Arc::clone(&state),
            history: Arc::clone(&history),
            hub: Arc::clone(&hub),
            wakes: Arc::clone(&wakes),
            effects: {
                let lessor = Arc::clone(&lessor);
                let peers = peers.clone();
                let state = Arc::clone(&state);
                Box::new(move |effects| {
                    lessor.effects(effects);
                    for effect in effects {
                        match effect {
                            Effect::Compacted { revision } => {
                                compactor_tx.send_replace(*revision);
                            }
                            Effect::MembersChanged => {
                                for (id, member) in state.read().members() {
                                    peers.set_urls(*id, member.peer_ur_ls.clone());
                                }
                            }
                            _ => {}
                        }
                    }
                })
            },
            waiters: Arc::clone(&waiters),
            flusher: flusher.clone(),
            hashes: Arc::clone(&hashes),
            applied: applied_tx,
            membership,
            times: ApplyTimes::new(),
        };
        let seed = options.raft.seed;
        let raft = Raft::start(
            me,
            options.raft.clone(),
            log,
            apply_loop,
            &*store,
            peers.clone(),
        )
        .await?;

        let (leadership_tx, leadership) = watch::channel(Leadership {
            term: 0,
            leader: 0,
            since: Instant::now(),
        });
        let (rounds, run_rounds) = ReadRounds::new(Rounds {
            member_id: me,
            raft: raft.clone(),
            peers: peers.clone(),
            leadership: leadership.clone(),
            applied: applied_rx.clone(),
        });
        let heard = Arc::new(Mutex::new(Instant::now()));
        let core = Core {
            shared: Arc::new(Shared {
                identity,
                state,
                history,
                hub,
                wakes,
                waiters,
                hashes,
                raft: raft.clone(),
                peers,
                flusher,
                store,
                leadership,
                applied: applied_rx,
                committed: AtomicU64::new(0),
                rounds,
                stopping: watch::Sender::new(false),
                ready: watch::Sender::new(false),
                compacted: compactor_rx,
            }),
        };
        let acceptor = {
            let heard = Arc::clone(&heard);
            let heard = Arc::new(move || *heard.lock() = Instant::now());
            Acceptor::new(core.clone(), Arc::clone(&lessor), heard, seed ^ 0xacce)
        };
        let node = Self {
            tasks: vec![
                tokio::spawn(run_rounds),
                tokio::spawn(watch_leadership(
                    core.clone(),
                    Arc::clone(&lessor),
                    heard,
                    leadership_tx,
                    fatal,
                )),
                tokio::spawn(run_lessor(core.clone(), Arc::clone(&lessor))),
            ],
            core,
            lessor,
            acceptor,
        };
        raft.initialize(options.members.clone()).await?;
        Ok(node)
    }

    /// What services hold.
    pub fn core(&self) -> &Core {
        &self.core
    }

    /// The leader's clock for leases.
    pub fn lessor(&self) -> &Arc<Lessor> {
        &self.lessor
    }

    /// Takes the streams other members open.
    pub fn acceptor(&self) -> &Acceptor {
        &self.acceptor
    }

    /// Returns once a leader is known, everything applied before a restart is applied again, and this
    /// member has published its name and client URLs.
    pub async fn serve_ready(&self, options: &NodeOptions) {
        let core = &self.core;
        core.shared.raft.recovered().await;
        loop {
            let published = {
                let state = core.state().read();
                state.members().get(&core.member_id()).is_some_and(|m| {
                    m.name == options.name && m.client_ur_ls == options.client_urls
                })
            };
            if published && core.read_barrier().await.is_ok() {
                break;
            }
            let publish = Op::Publish(Publish {
                member_id: core.member_id(),
                name: options.name.clone(),
                client_urls: options.client_urls.clone(),
                version: options.version.clone(),
            });
            if let Err(error) = core.propose(publish).await {
                tracing::warn!(%error, "cannot publish this member yet; trying again");
            }
        }
        if !core.state_hashes().is_known() {
            let begin = Op::BeginStateHash(BeginStateHash {});
            if let Err(error) = core.propose(begin).await {
                tracing::warn!(%error, "the state's hash stays unknown until the next start");
            }
        }
        core.shared.ready.send_replace(true);
    }

    /// Hands leadership over if this member has it, then stops every part.
    pub async fn stop(self) {
        let core = &self.core;
        // A successor may be leaving too, without having said so yet; then the next one is asked.
        for _ in 0..HANDOVERS_MAX {
            let Some(to) = core.successor().filter(|_| core.is_leader()) else {
                break;
            };
            match tokio::time::timeout(HANDOVER_TIME, core.transfer_leader(to)).await {
                Ok(Ok(())) => tracing::info!(to = format!("{to:x}"), "handed leadership over"),
                Ok(Err(_)) | Err(_) => {
                    tracing::warn!(to = format!("{to:x}"), "could not hand leadership over");
                }
            }
        }
        // What clients still wait for here is decided by the new leader in a moment.
        let decided = async {
            while core.proposals_pending() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let _ = tokio::time::timeout(DRAIN_TIME, decided).await;
        core.shared.stopping.send_replace(true);
        core.shared.raft.shutdown().await;
        // What is queued for the state store becomes durable, so that a restart has little to replay.
        let _ = core.shared.flusher.snapshot().await;
        for task in self.tasks {
            task.abort();
        }
    }
}

impl Node {
    /// Ends every part at once, as a crash would. What was not synced may be lost.
    pub async fn kill(self) {
        for task in &self.tasks {
            task.abort();
        }
        self.core.shared.stopping.send_replace(true);
        self.core.shared.raft.shutdown().await;
    }
}

/// Turns what consensus knows into [`Leadership`], and starts and stops the lessor with it.
async fn watch_leadership(
    core: Core,
    lessor: Arc<Lessor>,
    heard: Arc<Mutex<Instant>>,
    leadership: watch::Sender<Leadership>,
    fatal: Arc<dyn Fn(String) + Send + Sync>,
) {
    let raft = core.shared.raft.clone();
    let me = core.member_id();
    let silence_max = 2 * core.identity().election_timeout;
    let mut applied = core.shared.applied.clone();
    let mut leading = None;
    let changed = Arc::new(tokio::sync::Notify::new());
    let notify = Arc::clone(&changed);
    let on_change = raft.on_change(move || notify.notify_one());
    let mut on_change = std::pin::pin!(on_change);
    let mut tick = tokio::time::interval(core.identity().election_timeout / 5);
    loop {
        let view = raft.view();
        if *core.stopping().borrow() {
            return;
        }
        if view.failed {
            fatal("consensus stopped on a storage error".to_owned());
            return;
        }
        // A leader that cannot reach a majority, and one that has not been heard of, is none.
        let silence = match view.quorum_silence {
            Some(silence) if view.leads => silence,
            _ if view.leads => Duration::ZERO,
            _ => heard.lock().elapsed(),
        };
        let leader = if silence > silence_max {
            0
        } else {
            view.leader
        };
        leadership.send_if_modified(|current| {
            let same = current.term == view.term && current.leader == leader;
            if !same {
                *current = Leadership {
                    term: view.term,
                    leader,
                    since: Instant::now(),
                };
            }
            !same
        });
        if view.leads && view.leader == me {
            let opened = applied.borrow().is_some_and(|id| id.term == view.term);
            if opened && leading != Some(view.term) {
                leading = Some(view.term);
                // Under the lock, so that no grant falls between what is read here and the effects
                // that follow.
                let state = core.state().read();
                lessor.lead(view.term, state.leases().map(|(id, lease)| (id, lease.ttl)));
            }
        } else if leading.take().is_some() {
            lessor.follow();
        }
        let awaits_first_entry = view.leads && leading.is_none();
        tokio::select! {
            biased;
            () = &mut on_change => {
                if !*core.stopping().borrow() {
                    fatal("consensus stopped unexpectedly".to_owned());
                }
                return;
            }
            () = changed.notified() => {}
            _ = applied.changed(), if awaits_first_entry => {}
            _ = tick.tick() => {}
        }
    }
}

async fn run_lessor(core: Core, lessor: Arc<Lessor>) {
    lessor
        .run(|expire| {
            let core = core.clone();
            async move {
                reach(Point::LeaseExpire).await;
                core.propose(Op::Expire(expire)).await.map(|_| ())
            }
        })
        .await;
}
