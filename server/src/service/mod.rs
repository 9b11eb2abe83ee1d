//! The gRPC services: one thin file each.
//!
//! A handler admits the request ([`metadata`]), looks at its shape ([`validate`]), proposes it or waits
//! until a read is safe, and maps the outcome: [`header`] and [`status`] are the only places that know
//! what a response header and an error look like. What a request *does* is the state machine's
//! business, when it takes effect the core's.

mod auth;
mod cluster;
mod election;
pub mod header;
mod health;
mod hold;
mod kv;
mod lease;
mod lock;
mod maintenance;
pub mod metadata;
mod observe;

pub mod receipt;
mod scan;
pub mod status;
pub mod validate;
mod watch;
mod watch_codec;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use baton_proto::etcdserverpb::auth_server::AuthServer;
use baton_proto::etcdserverpb::cluster_server::ClusterServer;
use baton_proto::etcdserverpb::kv_server::KvServer;
use baton_proto::etcdserverpb::lease_server::LeaseServer;
use baton_proto::etcdserverpb::maintenance_server::MaintenanceServer;
use baton_proto::v3electionpb::election_server::ElectionServer;
use baton_proto::v3lockpb::lock_server::LockServer;
use futures_util::future::{BoxFuture, OptionFuture};
use parking_lot::Mutex;
use tonic::service::Routes;
use tonic_health::server::HealthReporter;

use crate::admission::Admission;
use crate::compactor::{self, Compactor, Pace};
use crate::config::{AutoCompaction, CLUSTER_VERSION, Config};
use crate::core::Core;
use crate::lessor::Lessor;
use crate::line::Line;

/// The version of etcd whose behaviour the wire has.
pub const ETCD_VERSION: &str = crate::config::ETCD_VERSION;
/// The version of etcd's storage that goes with it.
pub const STORAGE_VERSION: &str = CLUSTER_VERSION;
/// What a frame may have beyond the largest request.
const FRAME_OVERHEAD_BYTES: usize = 512 << 10;

/// What requests may cost, and how often the services act by themselves.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Operations in each list of a transaction.
    pub max_txn_ops: usize,
    /// Bytes of a request.
    pub max_request_bytes: usize,
    /// Bytes the store may hold, `None` for no limit.
    pub quota_bytes: Option<u64>,
    /// Shortest time to live a lease is given, in seconds.
    pub min_lease_ttl: i64,
    /// Time between two progress notifications of a watch.
    pub watch_progress_interval: Duration,
    /// How fast compacted history is removed.
    pub compaction_pace: Pace,
    /// What the leader compacts by itself.
    pub auto_compaction: AutoCompaction,
}

impl Limits {
    /// As configured.
    pub fn of(config: &Config) -> Self {
        Self {
            max_txn_ops: config.max_txn_ops,
            max_request_bytes: config.max_request_bytes,
            quota_bytes: config.quota_backend_bytes,
            min_lease_ttl: min_lease_ttl(config.election_timeout, config.heartbeat_interval),
            watch_progress_interval: config.watch_progress_notify_interval,
            compaction_pace: Pace {
                batch_keys: config.compaction_batch_limit,
                rest: config.compaction_sleep_interval,
            },
            auto_compaction: config.auto_compaction,
        }
    }
}

/// One and a half election timeouts, counted in heartbeats and rounded up to seconds: a lease outlives
/// the election of a leader that can renew it.
fn min_lease_ttl(election_timeout: Duration, heartbeat_interval: Duration) -> i64 {
    let heartbeat_ms = heartbeat_interval.as_millis().max(1);
    let ticks = 3 * (election_timeout.as_millis() / heartbeat_ms) / 2;
    let seconds = (ticks * heartbeat_ms).div_ceil(1000);
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

/// All services of a member.
#[derive(Clone)]
pub struct Services {
    core: Core,
    lessor: Arc<Lessor>,
    compactor: Arc<Compactor>,
    admission: Admission,
    limits: Limits,
    health: HealthReporter,
    lease_ids: Arc<lease::Ids>,
    line: Line,
    /// The work of `line`, until it runs.
    line_work: Arc<Mutex<Option<BoxFuture<'static, ()>>>>,
}

impl fmt::Debug for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Services")
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

impl Services {
    /// The services over `core`. Nothing runs before [`run`](Self::run) does.
    pub fn new(core: Core, lessor: Arc<Lessor>, limits: Limits) -> Self {
        let (line, line_work) = Line::new(core.clone());
        Self {
            compactor: Arc::new(Compactor::new(limits.compaction_pace)),
            admission: Admission::new(core.clone(), limits.quota_bytes),
            health: HealthReporter::new(),
            lease_ids: Arc::new(lease::Ids::new(core.seed())),
            line,
            line_work: Arc::new(Mutex::new(Some(Box::pin(line_work)))),
            core,
            lessor,
            limits,
        }
    }

    /// Them, ready to be mounted.
    pub fn routes(&self) -> Routes {
        let decode_max = self.limits.max_request_bytes + FRAME_OVERHEAD_BYTES;
        macro_rules! sized {
            ($server:ident, $service:expr) => {
                $server::new($service)
                    .max_decoding_message_size(decode_max)
                    .max_encoding_message_size(usize::MAX)
            };
        }
        Routes::new(sized!(KvServer, kv::Kv::new(self)))
            .add_service(watch::WatchServer::new(self, decode_max))
            .add_service(sized!(LeaseServer, lease::Lease::new(self)))
            .add_service(sized!(ClusterServer, cluster::Cluster::new(self)))
            .add_service(sized!(
                MaintenanceServer,
                maintenance::Maintenance::new(self)
            ))
            .add_service(sized!(AuthServer, auth::Auth))
            .add_service(sized!(LockServer, lock::Lock::new(self)))
            .add_service(sized!(ElectionServer, election::Election::new(self)))
            .add_service(health::server(&self.health))
            .prepare()
    }

    /// Removes compacted history and the keys of waiters that went away, compacts by the clock and
    /// reports readiness, for as long as it is polled.
    pub async fn run(&self) {
        let core = &self.core;
        let line_work = self.line_work.lock().take();
        tokio::join!(
            OptionFuture::from(line_work),
            self.compactor
                .run(core.state(), core.compacted(), |rows| core
                    .remove_rows(rows)),
            compactor::auto_compact(self.limits.auto_compaction, core.clone()),
            health::follow(core.clone(), self.health.clone()),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_lease_outlives_an_election() {
        let ttl = |election, heartbeat| {
            min_lease_ttl(
                Duration::from_millis(election),
                Duration::from_millis(heartbeat),
            )
        };
        assert_eq!(ttl(1000, 100), 2);
        assert_eq!(ttl(500, 100), 1);
        assert_eq!(ttl(5000, 500), 8);
    }
}
