//! Metrics under etcd's names, so that its dashboards and alerts work unchanged.
//!
//! Parts record through the `metrics` macros, by name and with labels in alphabetical order. Here
//! is what a name means, how its buckets lie, and which series exist from the start: a dashboard
//! that subtracts two series shows nothing while one of them is missing. What can be read off at
//! any time (sizes, revisions, the leader) is written into its gauge when somebody asks.

use std::io;
use std::time::Duration;

use metrics_exporter_prometheus::{
    Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};

mod grpc;
mod process;

pub use grpc::{Call, Calls, Received};

use crate::config::{BATON_VERSION, CLUSTER_VERSION, ETCD_VERSION};

/// What the Prometheus text format is announced as.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// How often recorded samples are folded into their histograms; until then they take memory each.
pub const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Everything recorded in this process. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    handle: PrometheusHandle,
}

/// Facts that are read when metrics are asked for, not recorded as they change.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// This member's id.
    pub member_id: u64,
    /// The leader's id, 0 if there is none.
    pub leader: u64,
    /// This member has no vote.
    pub is_learner: bool,
    /// Index of the last entry known to be committed.
    pub committed: u64,
    /// Index of the last applied entry.
    pub applied: u64,
    /// Proposals without an answer yet.
    pub pending: usize,
    /// Whether the cluster's version is settled, which it is once a leader was known.
    pub is_cluster_version_known: bool,
    /// Newest revision.
    pub revision: i64,
    /// Last compacted revision, -1 if none.
    pub compact_revision: i64,
    /// Keys that exist.
    pub keys: usize,
    /// Bytes on disk.
    pub disk_bytes: u64,
    /// Bytes of keys and values that are kept.
    pub used_bytes: u64,
    /// Bytes after which writes are refused; `None` is no limit.
    pub quota_bytes: Option<u64>,
    /// Active alarms: member and name.
    pub alarms: Vec<(u64, &'static str)>,
}

impl Metrics {
    /// Starts recording for the whole process.
    ///
    /// # Errors
    /// The process records already.
    pub fn install() -> io::Result<Self> {
        let recorder = recorder();
        let handle = recorder.handle();
        metrics::set_global_recorder(recorder).map_err(io::Error::other)?;
        start_series();
        Ok(Self { handle })
    }

    /// Of a recorder that only records what the test tells it to.
    #[cfg(test)]
    pub(crate) fn local() -> (PrometheusRecorder, Self) {
        let recorder = recorder();
        let handle = recorder.handle();
        (recorder, Self { handle })
    }

    /// Folds recorded samples into their histograms. To be called every [`UPKEEP_INTERVAL`].
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }

    /// Everything in Prometheus's text format, with `facts` as they are now.
    pub fn render(&self, facts: &Facts) -> String {
        write_facts(facts);
        process::write();
        self.handle.render()
    }
}

/// `count` bounds from `start` on, each twice the one before.
fn doubling(start: f64, count: usize) -> Vec<f64> {
    std::iter::successors(Some(start), |bound| Some(bound * 2.0))
        .take(count)
        .collect()
}

/// Bounds of Go's client for anything that does not say otherwise.
const DEFAULT_BUCKETS: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// Histograms: name, first bound in the unit of the name, number of bounds, meaning.
const HISTOGRAMS: &[(&str, f64, usize, &str)] = &[
    (
        "etcd_disk_wal_fsync_duration_seconds",
        0.001,
        14,
        "Time to sync the log.",
    ),
    (
        "etcd_disk_wal_write_duration_seconds",
        0.001,
        14,
        "Time to write to the log, without syncing it.",
    ),
    (
        "etcd_disk_backend_commit_duration_seconds",
        0.001,
        14,
        "Time to store a batch of applied state.",
    ),
    (
        "etcd_disk_backend_snapshot_duration_seconds",
        0.01,
        17,
        "Time to send a snapshot to a client.",
    ),
    (
        "etcd_disk_backend_defrag_duration_seconds",
        0.1,
        13,
        "Time to give back unused space.",
    ),
    (
        "etcd_network_peer_round_trip_time_seconds",
        0.0001,
        16,
        "Round trip to another member.",
    ),
    (
        "etcd_server_apply_duration_seconds",
        0.0001,
        20,
        "Time to apply an entry.",
    ),
    (
        "etcd_server_range_duration_seconds",
        0.0001,
        20,
        "Time to read a range, without waiting until it may be read.",
    ),
    (
        "etcd_network_snapshot_send_total_duration_seconds",
        0.1,
        10,
        "Time to send a snapshot to another member.",
    ),
    (
        "etcd_network_snapshot_receive_total_duration_seconds",
        0.1,
        10,
        "Time to receive a snapshot of the leader and install it.",
    ),
    (
        "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds",
        100.0,
        14,
        "Time to remove what a compaction made unreadable.",
    ),
    (
        "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds",
        1.0,
        12,
        "Time for which removing keeps entries from being applied, each time.",
    ),
    (
        "etcd_mvcc_hash_duration_seconds",
        0.01,
        15,
        "Time to hash the whole store.",
    ),
    (
        "etcd_mvcc_hash_rev_duration_seconds",
        0.01,
        15,
        "Time to hash the store at a revision.",
    ),
    (
        "etcd_debugging_lease_ttl_total",
        1.0,
        24,
        "Times to live of granted leases, in seconds.",
    ),
];

/// Those with labels: there is one per peer, operation or outcome, and it appears with the first of them.
const LABELLED_HISTOGRAMS: &[&str] = &[
    "etcd_network_peer_round_trip_time_seconds",
    "etcd_network_snapshot_send_total_duration_seconds",
    "etcd_network_snapshot_receive_total_duration_seconds",
    "etcd_server_apply_duration_seconds",
    "etcd_server_range_duration_seconds",
];

/// Counters without labels that exist from the start.
const COUNTERS: &[(&str, &str)] = &[
    (
        "etcd_disk_wal_write_bytes_total",
        "Bytes written to the log.",
    ),
    (
        "etcd_server_leader_changes_seen_total",
        "Changes of leader seen.",
    ),
    (
        "etcd_server_proposals_failed_total",
        "Proposals that failed.",
    ),
    (
        "etcd_server_heartbeat_send_failures_total",
        "Heartbeats that could not be sent in time.",
    ),
    (
        "etcd_server_slow_apply_total",
        "Batches of entries that took long to apply.",
    ),
    (
        "etcd_server_slow_read_indexes_total",
        "Read barriers that took long.",
    ),
    (
        "etcd_server_read_indexes_failed_total",
        "Read barriers that failed.",
    ),
    ("etcd_server_health_success", "Health checks passed."),
    ("etcd_server_health_failures", "Health checks failed."),
    (
        "etcd_server_learner_promote_successes",
        "Learners promoted while leading.",
    ),
    (
        "etcd_network_client_grpc_received_bytes_total",
        "Bytes of messages received from clients.",
    ),
    (
        "etcd_network_client_grpc_sent_bytes_total",
        "Bytes of messages sent to clients.",
    ),
    ("etcd_mvcc_put_total", "Puts applied."),
    ("etcd_mvcc_delete_total", "Keys deleted."),
    ("etcd_mvcc_range_total", "Ranges answered."),
    ("etcd_mvcc_txn_total", "Transactions applied."),
    (
        "etcd_debugging_mvcc_events_total",
        "Events sent to watchers.",
    ),
    (
        "etcd_debugging_mvcc_db_compaction_keys_total",
        "Revisions of keys removed by compaction.",
    ),
    ("etcd_debugging_lease_granted_total", "Leases granted."),
    ("etcd_debugging_lease_revoked_total", "Leases revoked."),
    (
        "etcd_debugging_lease_renewed_total",
        "Leases renewed while leading.",
    ),
    (
        "etcd_debugging_server_lease_expired_total",
        "Leases that expired.",
    ),
    ("baton_lock_granted_total", "Locks granted by calls."),
    (
        "baton_lock_cancelled_total",
        "Lock calls whose client went away before it was answered.",
    ),
    (
        "baton_lock_expired_total",
        "Lock calls whose key went away while they waited.",
    ),
    (
        "baton_lock_cleanup_failures_total",
        "Attempts to remove keys of clients that went away which failed and were made again.",
    ),
    ("baton_election_granted_total", "Campaigns that were won."),
    (
        "baton_election_cancelled_total",
        "Campaigns whose client went away before it was answered.",
    ),
    (
        "baton_election_expired_total",
        "Campaigns whose key went away while they waited.",
    ),
    (
        "baton_log_lines_dropped_total",
        "Lines dropped because the reader of the log was too slow.",
    ),
];

/// Gauges without labels that exist from the start.
const GAUGES: &[(&str, &str)] = &[
    ("etcd_server_has_leader", "Whether a leader is known."),
    ("etcd_server_is_leader", "Whether this member leads."),
    ("etcd_server_is_learner", "Whether this member has no vote."),
    (
        "etcd_server_proposals_committed_total",
        "Index of the last committed entry.",
    ),
    (
        "etcd_server_proposals_applied_total",
        "Index of the last applied entry.",
    ),
    (
        "etcd_server_proposals_pending",
        "Proposals without an answer yet.",
    ),
    (
        "etcd_server_quota_backend_bytes",
        "Bytes after which writes are refused.",
    ),
    (
        "etcd_server_snapshot_apply_in_progress_total",
        "Snapshots being installed.",
    ),
    ("etcd_mvcc_db_total_size_in_bytes", "Bytes on disk."),
    (
        "etcd_mvcc_db_total_size_in_use_in_bytes",
        "Bytes of keys and values that are kept.",
    ),
    ("etcd_mvcc_db_open_read_transactions", "Scans in progress."),
    (
        "etcd_disk_defrag_inflight",
        "Whether unused space is being given back.",
    ),
    ("etcd_debugging_mvcc_keys_total", "Keys that exist."),
    ("etcd_debugging_mvcc_current_revision", "Newest revision."),
    (
        "etcd_debugging_mvcc_compact_revision",
        "Last compacted revision.",
    ),
    (
        "etcd_debugging_mvcc_total_put_size_in_bytes",
        "Bytes of keys and values that were put.",
    ),
    ("etcd_debugging_mvcc_watcher_total", "Watchers."),
    ("etcd_debugging_mvcc_watch_stream_total", "Watch streams."),
    (
        "etcd_debugging_mvcc_slow_watcher_total",
        "Watchers that still read what was there before them.",
    ),
    (
        "etcd_debugging_mvcc_pending_events_total",
        "Events buffered for watchers: always 0, a watcher that is behind reads them again.",
    ),
    (
        "baton_lock_waiting",
        "Lock calls that are not answered yet.",
    ),
    (
        "baton_election_waiting",
        "Campaigns that are not answered yet.",
    ),
    (
        "process_cpu_seconds_total",
        "CPU time of this process, in seconds.",
    ),
    ("process_open_fds", "Open file descriptors."),
    ("process_max_fds", "Limit of open file descriptors."),
    ("process_resident_memory_bytes", "Resident memory."),
    ("process_virtual_memory_bytes", "Virtual memory."),
    (
        "process_start_time_seconds",
        "Start of this process, in seconds since 1970.",
    ),
    ("os_fd_used", "Open file descriptors."),
    ("os_fd_limit", "Limit of open file descriptors."),
];

fn recorder() -> PrometheusRecorder {
    let mut builder = PrometheusBuilder::new();
    for (name, start, count, _) in HISTOGRAMS {
        builder = builder
            .set_buckets_for_metric(Matcher::Full((*name).to_owned()), &doubling(*start, *count))
            .expect("there are bounds");
    }
    builder
        .set_buckets(DEFAULT_BUCKETS)
        .expect("there are bounds")
        .build_recorder()
}

/// Brings into being what exists before it is first recorded.
fn start_series() {
    for (name, _, _, meaning) in HISTOGRAMS {
        metrics::describe_histogram!(*name, *meaning);
        if !LABELLED_HISTOGRAMS.contains(name) {
            let _ = metrics::histogram!(*name);
        }
    }
    for (name, meaning) in COUNTERS {
        metrics::describe_counter!(*name, *meaning);
        metrics::counter!(*name).increment(0);
    }
    for (name, meaning) in GAUGES {
        metrics::describe_gauge!(*name, *meaning);
        metrics::gauge!(*name).set(0.0);
    }
    metrics::gauge!("etcd_server_version", "server_version" => ETCD_VERSION).set(1.0);
    metrics::gauge!("baton_version", "version" => BATON_VERSION).set(1.0);
}

fn write_facts(facts: &Facts) {
    let set = |name: &'static str, value: f64| metrics::gauge!(name).set(value);
    let flag = |is: bool| f64::from(u8::from(is));
    set("etcd_server_has_leader", flag(facts.leader != 0));
    set(
        "etcd_server_is_leader",
        flag(facts.leader != 0 && facts.leader == facts.member_id),
    );
    set("etcd_server_is_learner", flag(facts.is_learner));
    set(
        "etcd_server_proposals_committed_total",
        float(facts.committed),
    );
    set("etcd_server_proposals_applied_total", float(facts.applied));
    set("etcd_mvcc_db_total_size_in_bytes", float(facts.disk_bytes));
    set(
        "etcd_mvcc_db_total_size_in_use_in_bytes",
        float(facts.used_bytes),
    );
    set(
        "etcd_server_quota_backend_bytes",
        facts.quota_bytes.map_or(0.0, float),
    );
    set("etcd_debugging_mvcc_keys_total", float(facts.keys as u64));
    set("etcd_server_proposals_pending", float(facts.pending as u64));
    set(
        "etcd_debugging_mvcc_current_revision",
        float(facts.revision.unsigned_abs()),
    );
    set(
        "etcd_debugging_mvcc_compact_revision",
        float(facts.compact_revision.max(0).unsigned_abs()),
    );
    if facts.member_id != 0 {
        metrics::gauge!("etcd_server_id", "server_id" => format!("{:x}", facts.member_id)).set(1.0);
    }
    if facts.is_cluster_version_known {
        let minor = CLUSTER_VERSION
            .rsplit_once('.')
            .map_or(CLUSTER_VERSION, |(minor, _)| minor);
        metrics::gauge!("etcd_cluster_version", "cluster_version" => minor).set(1.0);
    }
    for kind in ["CORRUPT", "NOSPACE"] {
        let is_active = facts
            .alarms
            .iter()
            .any(|(member, name)| *member == facts.member_id && *name == kind);
        metrics::gauge!(
            "etcd_debugging_server_alarms",
            "alarm_type" => kind,
            "server_id" => format!("{:x}", facts.member_id)
        )
        .set(flag(is_active));
    }
}

/// Metrics are floating-point; beyond 2^53 they are rounded.
#[allow(clippy::cast_precision_loss)]
fn float(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(facts: &Facts) -> String {
        let (recorder, metrics) = Metrics::local();
        metrics::with_local_recorder(&recorder, || {
            start_series();
            let calls = Calls::new(true);
            calls.start("/etcdserverpb.KV/Put").unwrap().finish(0);
            metrics.render(facts)
        })
    }

    fn lines(text: &str) -> Vec<&str> {
        text.lines().filter(|line| !line.starts_with('#')).collect()
    }

    #[test]
    fn every_series_has_its_labels_in_alphabetical_order() {
        let text = render(&Facts {
            member_id: 1,
            is_cluster_version_known: true,
            ..Facts::default()
        });
        for line in lines(&text) {
            let Some((_, labels)) = line.split_once('{') else {
                continue;
            };
            let names: Vec<_> = labels
                .split(',')
                .filter_map(|label| label.split_once("=\"").map(|(name, _)| name))
                // Prometheus's own, always last.
                .filter(|name| *name != "le")
                .collect();
            assert!(names.is_sorted(), "{line}");
        }
    }

    #[test]
    fn facts_appear_as_etcds_lines() {
        let text = render(&Facts {
            member_id: 0x1f,
            leader: 0x1f,
            is_cluster_version_known: true,
            keys: 1,
            ..Facts::default()
        });
        for expected in [
            "etcd_server_has_leader 1",
            "etcd_server_is_leader 1",
            "etcd_server_is_learner 0",
            "etcd_debugging_mvcc_keys_total 1",
            "etcd_server_version{server_version=\"3.6.14\"} 1",
            "etcd_cluster_version{cluster_version=\"3.6\"} 1",
            "etcd_server_id{server_id=\"1f\"} 1",
            "etcd_mvcc_put_total 0",
            "etcd_disk_wal_fsync_duration_seconds_bucket{le=\"8.192\"} 0",
        ] {
            assert!(lines(&text).contains(&expected), "{expected} in\n{text}");
        }
    }

    #[test]
    fn every_method_has_a_series_for_every_code_from_the_start() {
        let text = render(&Facts::default());
        let of_watch = lines(&text)
            .into_iter()
            .filter(|line| line.starts_with("grpc_server_handled_total{"))
            .filter(|line| {
                line.contains("grpc_method=\"Watch\",grpc_service=\"etcdserverpb.Watch\"")
            })
            .count();
        assert_eq!(of_watch, 17);
        assert!(lines(&text).contains(
            &"grpc_server_handled_total{grpc_code=\"OK\",grpc_method=\"Put\",\
              grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} 1"
        ));
    }

    #[test]
    fn the_process_describes_itself() {
        let text = render(&Facts::default());
        let memory = lines(&text)
            .into_iter()
            .find_map(|line| line.strip_prefix("process_resident_memory_bytes "))
            .unwrap();
        assert!(memory.parse::<f64>().unwrap() > 0.0);
    }
}
