//! From a configuration to a running member: whose data this is, the log, the state, the peer port.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use baton_proto::peer::{Call, Frame, Hello, Purpose, Reply, TookPartRequest, call, frame, reply};
use futures_util::StreamExt;

use crate::config::{self, Config};
use crate::core::Identity;
use crate::http::{Http, Paths};
use crate::metrics::Calls;
use crate::node::{Node, NodeOptions, Parts};
use crate::peer::{self, GrpcNet, PeerNet};
use crate::raft::RaftOptions;
use crate::serve::{Limits, Listener, Protocols, Runtimes, Server, Services, bind};
use crate::storage::log::{Driver, Log, LogOptions, OpenError};
use crate::storage::{self, DataDir, DataDirError, FjallStore, StateError};

/// What is refused by name, above the time an election may take.
const REQUEST_TIME: Duration = Duration::from_secs(5);

/// How long a first start waits for another member to say whether it knows this one.
const WITNESS_TIME: Duration = Duration::from_secs(2);

/// Why a member does not start. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The configuration contradicts itself.
    #[error(transparent)]
    Config(#[from] config::Refusal),
    /// The data directory is another's, or cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The log is damaged or gone.
    #[error("cannot open the log in {path}: {source}")]
    Log {
        /// Its directory.
        path: String,
        /// What is wrong.
        source: OpenError,
    },
    /// The applied state cannot be opened, and that is not because it is damaged.
    #[error("cannot open the applied state: {0}")]
    State(#[source] StateError),
    /// The applied state is damaged, and neither log nor another member can replace it.
    #[error(
        "{0}, and the log no longer reaches back to its beginning. Nothing was changed. If there are other members, start this one with the --initial-cluster and --initial-cluster-token of its first start, so that it can fetch the state from one of them; if it is the only one, restore the data directory from a backup"
    )]
    CannotRebuild(#[source] StateError),
    /// Joining a running cluster needs membership changes.
    #[error(
        "--initial-cluster-state=existing without data: this version cannot add members to a running cluster; start all members of a new cluster with --initial-cluster-state=new"
    )]
    CannotJoin,
    /// The others know this member, which has no data.
    #[error(
        "data directory {path} is empty, but member {member:x} has already served in this cluster, as member {witness:x} knows. It may have voted and acknowledged writes that it no longer knows of, so it must not go on under its id: restore its data directory, or remove it from the cluster and add it again"
    )]
    DataLost {
        /// The data directory.
        path: String,
        /// This member.
        member: u64,
        /// Who knows it.
        witness: u64,
    },
    /// The peer port is taken.
    #[error(transparent)]
    Listen(io::Error),
    /// Log and state do not fit, or the state could not be rebuilt.
    #[error("cannot start: {0}")]
    Start(#[source] io::Error),
}

/// A member that runs, and the lock on its data.
pub struct Member {
    /// The member.
    pub node: Node,
    /// How it was started.
    pub options: NodeOptions,
    /// Bound, so that other members already queue up.
    peer_listeners: Vec<Listener>,
    _data_dir: DataDir,
}

impl Member {
    /// Lets other members in, in the runtime of the core. The port also answers plain HTTP.
    ///
    /// # Errors
    /// A listener cannot be registered with the runtime.
    pub fn serve_peers(&mut self, http: Http, calls: Calls) -> io::Result<Server> {
        let services = Services {
            routes: peer::serve(self.node.acceptor().clone().into_accept()),
            calls,
            http,
            slow_call: None,
        };
        let listeners = std::mem::take(&mut self.peer_listeners);
        let listeners = listeners
            .into_iter()
            .map(|listener| (listener, Protocols::All(Paths::Peer)));
        let runtimes = Runtimes::one(tokio::runtime::Handle::current());
        Server::start(
            listeners.collect(),
            &services,
            &Limits::of_members(),
            &runtimes,
        )
    }

    /// Stops the member; see [`Node::stop`].
    pub async fn stop(self) {
        self.node.stop().await;
    }
}

/// Starts the member that `config` describes, in the runtime of the core.
///
/// `fatal` is called when the member can no longer keep its promises; the process must end then.
///
/// # Errors
/// See [`BootError`].
pub async fn start(
    config: &Config,
    fatal: Arc<dyn Fn(String) + Send + Sync>,
) -> Result<Member, BootError> {
    let mut data_dir = DataDir::open(&config.data_dir)?;
    let found = data_dir.identity();
    let bootstrap = config.bootstrap();
    let configured = bootstrap.as_ref().ok().map(|b| storage::Identity {
        cluster_id: b.cluster_id,
        member_id: b.member_id,
    });
    // With data, etcd's rule: what describes a first start is not looked at again. But a cluster that
    // is named outright and is another than the data's is a mistake worth stopping for.
    let identity = match (found, configured) {
        (None, _) => {
            if config.initial_cluster_state == config::InitialClusterState::Existing {
                return Err(BootError::CannotJoin);
            }
            let bootstrap = bootstrap.as_ref().map_err(Clone::clone)?;
            storage::Identity {
                cluster_id: bootstrap.cluster_id,
                member_id: bootstrap.member_id,
            }
        }
        (Some(found), Some(configured)) if config.initial_cluster_given => {
            data_dir.claim(configured)?;
            found
        }
        (Some(found), _) => found,
    };
    let net = GrpcNet::default();
    if found.is_none()
        && let Ok(bootstrap) = &bootstrap
        && let Some(witness) = find_witness(&net, bootstrap).await
    {
        return Err(BootError::DataLost {
            path: data_dir.path().display().to_string(),
            member: bootstrap.member_id,
            witness,
        });
    }
    // Only now, so that members of a new cluster that start together do not wait for each other above.
    let peer_listeners = listen(config)?;

    let on_fatal = Arc::clone(&fatal);
    let options = LogOptions {
        create: found.is_none(),
        on_fatal: Box::new(move |error| on_fatal(format!("the log failed: {error}"))),
        ..LogOptions::default()
    };
    let log = Log::open(data_dir.log_disk(), options, Driver::Thread).map_err(|source| {
        BootError::Log {
            path: data_dir.path().join("member/log").display().to_string(),
            source,
        }
    })?;
    // The log exists before the directory is anyone's: a claimed directory without one has lost it.
    data_dir.claim(identity)?;
    let members: BTreeMap<u64, Vec<String>> = match &bootstrap {
        Ok(b) => b
            .members
            .iter()
            .map(|m| (m.id, m.peer_urls.clone()))
            .collect(),
        Err(_) => BTreeMap::new(),
    };
    let has_others = members.len() > 1 && members.contains_key(&identity.member_id);
    let can_rebuild = has_others || log.state().purged.is_none();
    let store = Arc::new(open_state(&data_dir, can_rebuild)?);

    let urls = config.advertise_client_urls.iter();
    let options = NodeOptions {
        identity: Identity {
            member_id: identity.member_id,
            cluster_id: identity.cluster_id,
            request_timeout: REQUEST_TIME + 2 * config.election_timeout,
            election_timeout: config.election_timeout,
            request_bytes_max: config.max_request_bytes,
        },
        name: config.name.clone(),
        client_urls: urls.map(|url| url.as_str().to_owned()).collect(),
        version: config::ETCD_VERSION.to_owned(),
        members,
        raft: RaftOptions {
            heartbeat_interval: config.heartbeat_interval,
            election_timeout: config.election_timeout,
            snapshot_count: config.snapshot_count,
            catchup_entries: config.snapshot_catchup_entries,
            #[allow(clippy::disallowed_methods)] // The one draw that is not replayed.
            seed: rand::random(),
        },
    };
    let parts = Parts {
        log,
        store,
        net: Arc::new(net),
        drive: {
            let fatal = Arc::clone(&fatal);
            Box::new(move |work| drive_flusher(work, &*fatal))
        },
        fatal,
    };
    let node = Node::start(options.clone(), parts)
        .await
        .map_err(BootError::Start)?;
    Ok(Member {
        node,
        options,
        peer_listeners,
        _data_dir: data_dir,
    })
}

/// A member that knows this one from an earlier life. Where none can be asked the cluster is taken to be
/// new: that is how every cluster begins.
async fn find_witness(net: &GrpcNet, bootstrap: &config::Bootstrap) -> Option<u64> {
    let asked = bootstrap
        .members
        .iter()
        .filter(|member| member.id != bootstrap.member_id)
        .map(|member| async {
            let took_part = ask_took_part(net, bootstrap, member);
            match tokio::time::timeout(WITNESS_TIME, took_part).await {
                Ok(Some(true)) => Some(member.id),
                _ => None,
            }
        });
    let known = futures_util::future::join_all(asked).await;
    known.into_iter().flatten().next()
}

/// `None` if the member does not answer.
async fn ask_took_part(
    net: &GrpcNet,
    bootstrap: &config::Bootstrap,
    member: &config::BootstrapMember,
) -> Option<bool> {
    let hello = Hello {
        cluster_id: bootstrap.cluster_id,
        from: bootstrap.member_id,
        to: member.id,
        purpose: Purpose::Calls.into(),
        version_min: peer::PROTOCOL_VERSIONS.0,
        version_max: peer::PROTOCOL_VERSIONS.1,
    };
    let mut stream = net.open(member.peer_urls.clone(), hello).await.ok()?;
    let question = call::Question::TookPart(TookPartRequest {
        member_id: bootstrap.member_id,
    });
    let call = Call {
        id: 1,
        question: Some(question),
    };
    let kind = Some(frame::Kind::Call(call));
    stream.tx.send(Frame { kind }).await.ok()?;
    match stream.rx.next().await?.kind? {
        frame::Kind::Reply(Reply {
            answer: Some(reply::Answer::TookPart(answer)),
            ..
        }) => Some(answer.took_part),
        _ => None,
    }
}

/// A damaged state is discarded if it can be rebuilt, from the log or from another member. Otherwise it
/// stays as it is: it may be the last copy.
fn open_state(data_dir: &DataDir, can_rebuild: bool) -> Result<FjallStore, BootError> {
    match data_dir.open_state() {
        Ok(store) => Ok(store),
        Err(error @ StateError::Damaged { .. }) if !can_rebuild => {
            Err(BootError::CannotRebuild(error))
        }
        Err(error @ StateError::Damaged { .. }) => {
            tracing::warn!(%error, "the applied state is damaged; rebuilding it");
            data_dir.discard_state().map_err(BootError::Start)?;
            data_dir.open_state().map_err(BootError::State)
        }
        Err(error) => Err(BootError::State(error)),
    }
}

fn listen(config: &Config) -> Result<Vec<Listener>, BootError> {
    let urls = config.listen_peer_urls.iter();
    urls.map(|url| bind(url, false))
        .collect::<io::Result<_>>()
        .map_err(BootError::Listen)
}

/// The state store's writes block, so they have a thread.
#[allow(clippy::disallowed_methods, reason = "the real driver of the flusher")]
fn drive_flusher(work: crate::flusher::Work, fatal: &(dyn Fn(String) + Send + Sync)) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    let spawned = runtime.and_then(|runtime| {
        std::thread::Builder::new()
            .name("flush".into())
            .spawn(move || runtime.block_on(work.run()))
    });
    if let Err(error) = spawned {
        fatal(format!("cannot start the state flusher: {error}"));
    }
}
