//! Every flag there is: what it is called, what it defaults to, and what it does here.

use super::value::Kind;

/// What giving a flag does.
#[derive(Clone, Copy, Debug)]
pub(super) enum Effect {
    /// It is obeyed.
    Obeyed,
    /// It is accepted, with a warning that says why nothing comes of it.
    Inert(&'static str),
    /// Any value but the default stops the start: ignoring it would break what it asks for.
    Refused(&'static str),
    /// Another spelling of that flag.
    OldNameOf(&'static str),
}

/// One flag.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flag {
    pub(super) name: &'static str,
    pub(super) default: &'static str,
    pub(super) kind: Kind,
    pub(super) effect: Effect,
    /// One line for `--help`.
    pub(super) help: &'static str,
}

impl Flag {
    /// Flags of Baton that etcd does not have; they are not read from `ETCD_*`.
    pub(super) fn is_own(&self) -> bool {
        OWN.iter().any(|own| own.name == self.name)
    }
}

use Effect::{Inert, Obeyed, OldNameOf, Refused};
use Kind::{Bool, Duration, Int, Text, Uint};

const fn flag(
    name: &'static str,
    default: &'static str,
    kind: Kind,
    effect: Effect,
    help: &'static str,
) -> Flag {
    Flag {
        name,
        default,
        kind,
        effect,
        help,
    }
}

/// Flags that decide what the process does, before any other is looked at.
pub(super) const COMMANDS: &[Flag] = &[
    flag(
        "version",
        "false",
        Bool,
        Obeyed,
        "Print the version and exit.",
    ),
    flag(
        "config-file",
        "",
        Text,
        Obeyed,
        "YAML file with flag names as keys. All other flags and the environment are then ignored.",
    ),
];

/// What Baton has and etcd has not.
pub(super) const OWN: &[Flag] = &[flag(
    "rpc-threads",
    "0",
    Uint,
    Obeyed,
    "Threads that serve clients. 0 is half the cores, at least one.",
)];

pub(super) const MEMBER: &[Flag] = &[
    flag("name", "default", Text, Obeyed, "Name of this member."),
    flag(
        "data-dir",
        "",
        Text,
        Obeyed,
        "Data directory, '<name>.etcd' if empty. Created if missing.",
    ),
    flag(
        "wal-dir",
        "",
        Text,
        Refused("the log lives in <data-dir>/member/log; mount a disk of its own there instead"),
        "Not supported.",
    ),
    flag(
        "snapshot-count",
        "10000",
        Uint,
        Obeyed,
        "Applied entries between two snapshots.",
    ),
    flag(
        "snapshot-catchup-entries",
        "5000",
        Uint,
        Obeyed,
        "Entries kept behind a snapshot for members that are a little late.",
    ),
    flag(
        "heartbeat-interval",
        "100",
        Uint,
        Obeyed,
        "Milliseconds between two heartbeats of the leader.",
    ),
    flag(
        "election-timeout",
        "1000",
        Uint,
        Obeyed,
        "Milliseconds without a heartbeat after which a member stands for election.",
    ),
    flag(
        "initial-election-tick-advance",
        "true",
        Bool,
        Inert("the first election of a start is never delayed"),
        "",
    ),
    flag(
        "pre-vote",
        "true",
        Bool,
        Inert("a member always asks before it stands for election"),
        "",
    ),
    flag(
        "listen-peer-urls",
        "http://localhost:2380",
        Text,
        Obeyed,
        "Addresses to listen on for other members.",
    ),
    flag(
        "listen-client-urls",
        "http://localhost:2379",
        Text,
        Obeyed,
        "Addresses to listen on for clients, gRPC and HTTP.",
    ),
    flag(
        "listen-client-http-urls",
        "",
        Text,
        Obeyed,
        "Addresses for HTTP alone; those of --listen-client-urls are then for gRPC alone.",
    ),
    flag(
        "quota-backend-bytes",
        "0",
        Int,
        Obeyed,
        "Bytes after which writes are refused. 0 is 2 GiB, negative is no limit.",
    ),
    flag(
        "max-txn-ops",
        "128",
        Uint,
        Obeyed,
        "Operations in one transaction.",
    ),
    flag(
        "max-request-bytes",
        "1572864",
        Uint,
        Obeyed,
        "Bytes of one request.",
    ),
    flag(
        "max-concurrent-streams",
        "4294967295",
        Uint,
        Obeyed,
        "Calls in flight on one connection.",
    ),
    flag(
        "grpc-keepalive-min-time",
        "5s",
        Duration,
        Inert("clients may ping as often as they like"),
        "",
    ),
    flag(
        "grpc-keepalive-interval",
        "2h",
        Duration,
        Obeyed,
        "Idle time after which the server pings a client. 0 is never.",
    ),
    flag(
        "grpc-keepalive-timeout",
        "20s",
        Duration,
        Obeyed,
        "Time after which a client that did not answer a ping is gone.",
    ),
    flag(
        "socket-reuse-port",
        "false",
        Bool,
        Obeyed,
        "Set SO_REUSEPORT on the listeners for clients.",
    ),
    flag(
        "socket-reuse-address",
        "false",
        Bool,
        Inert("listeners always have SO_REUSEADDR"),
        "",
    ),
    flag(
        "max-wals",
        "5",
        Uint,
        Inert("the log is cut where the stored state no longer needs it"),
        "",
    ),
    flag(
        "max-snapshots",
        "5",
        Uint,
        Inert("one state is kept, and the one being received"),
        "",
    ),
    flag(
        "backend-batch-interval",
        "",
        Duration,
        Inert("the state is stored behind the answers"),
        "",
    ),
    flag(
        "backend-batch-limit",
        "0",
        Uint,
        Inert("the state is stored behind the answers"),
        "",
    ),
    flag(
        "backend-bbolt-freelist-type",
        "map",
        Text,
        Inert("the state is not stored in bbolt"),
        "",
    ),
    flag(
        "bootstrap-defrag-threshold-megabytes",
        "0",
        Uint,
        Inert("space is given back while running"),
        "",
    ),
    flag(
        "memory-mlock",
        "false",
        Bool,
        Inert("memory is not locked"),
        "",
    ),
    flag(
        "raft-read-timeout",
        "5s",
        Duration,
        Inert("peer streams are watched by heartbeats"),
        "",
    ),
    flag(
        "raft-write-timeout",
        "5s",
        Duration,
        Inert("peer streams are watched by heartbeats"),
        "",
    ),
];

pub(super) const CLUSTERING: &[Flag] = &[
    flag(
        "initial-advertise-peer-urls",
        "http://localhost:2380",
        Text,
        Obeyed,
        "Addresses at which other members reach this one.",
    ),
    flag(
        "initial-cluster",
        "",
        Text,
        Obeyed,
        "Members of a new cluster: name=url,name=url. This member alone if empty.",
    ),
    flag(
        "initial-cluster-state",
        "new",
        Text,
        Obeyed,
        "'new' or 'existing'.",
    ),
    flag(
        "initial-cluster-token",
        "etcd-cluster",
        Text,
        Obeyed,
        "Part of the ids of a new cluster, so that two clusters with the same addresses never mix.",
    ),
    flag(
        "advertise-client-urls",
        "http://localhost:2379",
        Text,
        Obeyed,
        "Addresses at which clients reach this member.",
    ),
    flag(
        "discovery-srv",
        "",
        Text,
        Refused(DISCOVERY),
        "Not supported.",
    ),
    flag(
        "discovery-srv-name",
        "",
        Text,
        Refused(DISCOVERY),
        "Not supported.",
    ),
    flag(
        "discovery-token",
        "",
        Text,
        Refused(DISCOVERY),
        "Not supported.",
    ),
    flag(
        "discovery-endpoints",
        "",
        Text,
        Refused(DISCOVERY),
        "Not supported.",
    ),
    flag("discovery", "", Text, Refused(DISCOVERY), "Not supported."),
    flag(
        "discovery-dial-timeout",
        "2s",
        Duration,
        Inert(NO_DISCOVERY),
        "",
    ),
    flag(
        "discovery-request-timeout",
        "5s",
        Duration,
        Inert(NO_DISCOVERY),
        "",
    ),
    flag(
        "discovery-keepalive-time",
        "2s",
        Duration,
        Inert(NO_DISCOVERY),
        "",
    ),
    flag(
        "discovery-keepalive-timeout",
        "6s",
        Duration,
        Inert(NO_DISCOVERY),
        "",
    ),
    flag(
        "discovery-insecure-transport",
        "true",
        Bool,
        Inert(NO_DISCOVERY),
        "",
    ),
    flag(
        "discovery-insecure-skip-tls-verify",
        "false",
        Bool,
        Inert(NO_DISCOVERY),
        "",
    ),
    flag("discovery-cert", "", Text, Inert(NO_DISCOVERY), ""),
    flag("discovery-key", "", Text, Inert(NO_DISCOVERY), ""),
    flag("discovery-cacert", "", Text, Inert(NO_DISCOVERY), ""),
    flag("discovery-user", "", Text, Inert(NO_DISCOVERY), ""),
    flag("discovery-password", "", Text, Inert(NO_DISCOVERY), ""),
    flag("discovery-fallback", "exit", Text, Inert(NO_DISCOVERY), ""),
    flag("discovery-proxy", "", Text, Inert(NO_DISCOVERY), ""),
    flag(
        "strict-reconfig-check",
        "true",
        Bool,
        Inert(NO_RECONFIGURATION),
        "",
    ),
    flag("max-learners", "1", Uint, Inert(NO_RECONFIGURATION), ""),
    flag(
        "auto-compaction-mode",
        "periodic",
        Text,
        Obeyed,
        "'periodic' or 'revision': what --auto-compaction-retention counts.",
    ),
    flag(
        "auto-compaction-retention",
        "0",
        Text,
        Obeyed,
        "History kept: hours or a duration, or a number of revisions. 0 keeps all.",
    ),
    flag(
        "compaction-batch-limit",
        "1000",
        Uint,
        Obeyed,
        "Keys visited between two pauses of a compaction.",
    ),
    flag(
        "compaction-sleep-interval",
        "10ms",
        Duration,
        Obeyed,
        "Length of these pauses.",
    ),
    flag(
        "watch-progress-notify-interval",
        "10m",
        Duration,
        Obeyed,
        "Time between two progress notifications of an idle watch.",
    ),
    flag(
        "v2-deprecation",
        "gone",
        Text,
        Inert("there is no v2 store"),
        "",
    ),
    flag("enable-v2", "false", Bool, Inert("there is no v2 API"), ""),
];

const DISCOVERY: &str = "a cluster is formed from --initial-cluster only";
const NO_DISCOVERY: &str = "a cluster is formed from --initial-cluster only";
const NO_RECONFIGURATION: &str = "members cannot be added or removed yet";
const NO_TLS: &str = "this version does not speak TLS; put a TLS proxy in front of http URLs";

pub(super) const SECURITY: &[Flag] = &[
    flag("cert-file", "", Text, Refused(NO_TLS), "Not supported."),
    flag("key-file", "", Text, Refused(NO_TLS), "Not supported."),
    flag(
        "client-cert-file",
        "",
        Text,
        Refused(NO_TLS),
        "Not supported.",
    ),
    flag(
        "client-key-file",
        "",
        Text,
        Refused(NO_TLS),
        "Not supported.",
    ),
    flag(
        "trusted-ca-file",
        "",
        Text,
        Refused(NO_TLS),
        "Not supported.",
    ),
    flag(
        "client-cert-auth",
        "false",
        Bool,
        Refused(NO_TLS),
        "Not supported.",
    ),
    flag(
        "client-crl-file",
        "",
        Text,
        Refused(NO_TLS),
        "Not supported.",
    ),
    flag(
        "client-cert-allowed-hostname",
        "",
        Text,
        Refused(NO_TLS),
        "Not supported.",
    ),
    flag("auto-tls", "false", Bool, Inert(HTTP_ONLY), ""),
    flag(
        "peer-cert-file",
        "",
        Text,
        Refused(NO_TLS),
        "Not supported.",
    ),
    flag("peer-key-file", "", Text, Refused(NO_TLS), "Not supported."),
    flag(
        "peer-client-cert-file",
        "",
        Text,
        Refused(NO_TLS),
        "Not supported.",
    ),
    flag(
        "peer-client-key-file",
        "",
        Text,
        Refused(NO_TLS),
        "Not supported.",
    ),
    flag(
        "peer-trusted-ca-file",
        "",
        Text,
        Refused(NO_TLS),
        "Not supported.",
    ),
    flag(
        "peer-client-cert-auth",
        "false",
        Bool,
        Refused(NO_TLS),
        "Not supported.",
    ),
    flag("peer-crl-file", "", Text, Refused(NO_TLS), "Not supported."),
    flag(
        "peer-cert-allowed-cn",
        "",
        Text,
        Refused(NO_TLS),
        "Not supported.",
    ),
    flag(
        "peer-cert-allowed-hostname",
        "",
        Text,
        Refused(NO_TLS),
        "Not supported.",
    ),
    flag(
        "peer-skip-client-san-verification",
        "false",
        Bool,
        Inert(HTTP_ONLY),
        "",
    ),
    flag("peer-auto-tls", "false", Bool, Inert(HTTP_ONLY), ""),
    flag("self-signed-cert-validity", "1", Uint, Inert(HTTP_ONLY), ""),
    flag("cipher-suites", "", Text, Refused(NO_TLS), "Not supported."),
    flag(
        "tls-min-version",
        "TLS1.2",
        Text,
        Refused(NO_TLS),
        "Not supported.",
    ),
    flag(
        "tls-max-version",
        "",
        Text,
        Refused(NO_TLS),
        "Not supported.",
    ),
    flag(
        "cors",
        "*",
        Text,
        Obeyed,
        "Origins that browsers may send requests from.",
    ),
    flag(
        "host-whitelist",
        "*",
        Text,
        Obeyed,
        "Host names that HTTP requests may carry; keeps web pages from rebinding a name to this server.",
    ),
    flag(
        "auth-token",
        "simple",
        Text,
        Refused("users and roles cannot be created yet, so there are no tokens"),
        "Only 'simple'.",
    ),
    flag(
        "auth-token-ttl",
        "300",
        Uint,
        Inert("there are no tokens yet"),
        "",
    ),
    flag(
        "bcrypt-cost",
        "10",
        Uint,
        Inert("there are no passwords yet"),
        "",
    ),
];

/// etcd, too, ignores these while every URL is http, and https URLs are refused here.
const HTTP_ONLY: &str = "it concerns https URLs, and there are none";

pub(super) const MONITORING: &[Flag] = &[
    flag(
        "logger",
        "zap",
        Text,
        Obeyed,
        "Only 'zap': structured logs.",
    ),
    flag(
        "log-level",
        "info",
        Text,
        Obeyed,
        "debug, info, warn, error, panic or fatal.",
    ),
    flag(
        "log-format",
        "json",
        Text,
        Obeyed,
        "'json', or 'text' (etcd: 'console').",
    ),
    flag(
        "log-outputs",
        "default",
        Text,
        Obeyed,
        "stderr (the default), stdout, or files; several with commas.",
    ),
    flag(
        "enable-log-rotation",
        "false",
        Bool,
        Inert("rotate log files from outside"),
        "",
    ),
    flag(
        "log-rotation-config-json",
        "",
        Text,
        Inert("rotate log files from outside"),
        "",
    ),
    flag(
        "metrics",
        "basic",
        Text,
        Obeyed,
        "'basic', or 'extensive' for the time every call takes.",
    ),
    flag(
        "listen-metrics-urls",
        "",
        Text,
        Obeyed,
        "Further addresses for /metrics and the health checks.",
    ),
    flag(
        "enable-pprof",
        "false",
        Bool,
        Inert("there are no profiles over HTTP"),
        "",
    ),
    flag(
        "enable-distributed-tracing",
        "false",
        Bool,
        Inert(NO_TRACING),
        "",
    ),
    flag(
        "distributed-tracing-address",
        "localhost:4317",
        Text,
        Inert(NO_TRACING),
        "",
    ),
    flag(
        "distributed-tracing-service-name",
        "etcd",
        Text,
        Inert(NO_TRACING),
        "",
    ),
    flag(
        "distributed-tracing-instance-id",
        "",
        Text,
        Inert(NO_TRACING),
        "",
    ),
    flag(
        "distributed-tracing-sampling-rate",
        "0",
        Uint,
        Inert(NO_TRACING),
        "",
    ),
    flag(
        "enable-grpc-gateway",
        "true",
        Bool,
        Inert("there is no JSON gateway yet"),
        "",
    ),
    flag(
        "warning-apply-duration",
        "100ms",
        Duration,
        Inert("slow entries are not logged one by one"),
        "",
    ),
    flag(
        "warning-unary-request-duration",
        "300ms",
        Duration,
        Obeyed,
        "Calls that take longer are logged as 'request stats'. 0 is never.",
    ),
    flag(
        "downgrade-check-time",
        "5s",
        Duration,
        Inert("there is no downgrade"),
        "",
    ),
    flag(
        "corrupt-check-time",
        "0s",
        Duration,
        Inert(NO_CORRUPT_CHECK),
        "",
    ),
    flag(
        "compact-hash-check-time",
        "1m",
        Duration,
        Inert(NO_CORRUPT_CHECK),
        "",
    ),
    flag(
        "compact-hash-check-enabled",
        "false",
        Bool,
        Inert(NO_CORRUPT_CHECK),
        "",
    ),
    flag(
        "initial-corrupt-check",
        "false",
        Bool,
        Inert(NO_CORRUPT_CHECK),
        "",
    ),
    flag(
        "feature-gates",
        "",
        Text,
        Obeyed,
        "etcd's feature gates, which have no effect here.",
    ),
];

const NO_TRACING: &str = "traces are not exported";
const NO_CORRUPT_CHECK: &str = "members do not compare their hashes by themselves yet";

pub(super) const UNSAFE: &[Flag] = &[
    flag(
        "force-new-cluster",
        "false",
        Bool,
        Refused("a lost majority cannot be replaced by force yet"),
        "Not supported.",
    ),
    flag(
        "unsafe-no-fsync",
        "false",
        Bool,
        Inert("the log is always synced"),
        "",
    ),
];

/// Names that older releases and deployments use.
pub(super) const OLD: &[Flag] = &[
    old(
        "experimental-initial-corrupt-check",
        Bool,
        "initial-corrupt-check",
    ),
    old(
        "experimental-corrupt-check-time",
        Duration,
        "corrupt-check-time",
    ),
    old(
        "experimental-compact-hash-check-enabled",
        Bool,
        "compact-hash-check-enabled",
    ),
    old(
        "experimental-compact-hash-check-time",
        Duration,
        "compact-hash-check-time",
    ),
    old(
        "experimental-compaction-batch-limit",
        Uint,
        "compaction-batch-limit",
    ),
    old(
        "experimental-compaction-sleep-interval",
        Duration,
        "compaction-sleep-interval",
    ),
    old(
        "experimental-watch-progress-notify-interval",
        Duration,
        "watch-progress-notify-interval",
    ),
    old(
        "experimental-downgrade-check-time",
        Duration,
        "downgrade-check-time",
    ),
    old(
        "experimental-warning-apply-duration",
        Duration,
        "warning-apply-duration",
    ),
    old(
        "experimental-warning-unary-request-duration",
        Duration,
        "warning-unary-request-duration",
    ),
    old("experimental-memory-mlock", Bool, "memory-mlock"),
    old(
        "experimental-bootstrap-defrag-threshold-megabytes",
        Uint,
        "bootstrap-defrag-threshold-megabytes",
    ),
    old(
        "experimental-snapshot-catchup-entries",
        Uint,
        "snapshot-catchup-entries",
    ),
    old(
        "experimental-peer-skip-client-san-verification",
        Bool,
        "peer-skip-client-san-verification",
    ),
    old("experimental-max-learners", Uint, "max-learners"),
    old(
        "experimental-enable-distributed-tracing",
        Bool,
        "enable-distributed-tracing",
    ),
    old(
        "experimental-distributed-tracing-address",
        Text,
        "distributed-tracing-address",
    ),
    old(
        "experimental-distributed-tracing-service-name",
        Text,
        "distributed-tracing-service-name",
    ),
    old(
        "experimental-distributed-tracing-instance-id",
        Text,
        "distributed-tracing-instance-id",
    ),
    old(
        "experimental-distributed-tracing-sampling-rate",
        Uint,
        "distributed-tracing-sampling-rate",
    ),
    flag(
        "experimental-enable-lease-checkpoint",
        "false",
        Bool,
        Inert(CHECKPOINT),
        "",
    ),
    flag(
        "experimental-enable-lease-checkpoint-persist",
        "false",
        Bool,
        Inert(CHECKPOINT),
        "",
    ),
    flag(
        "experimental-txn-mode-write-with-shared-buffer",
        "true",
        Bool,
        Inert("there is no such buffer"),
        "",
    ),
    flag(
        "experimental-stop-grpc-service-on-defrag",
        "false",
        Bool,
        Inert("defragmentation blocks nothing"),
        "",
    ),
    flag(
        "experimental-enable-v2v3",
        "",
        Text,
        Inert("there is no v2 API"),
        "",
    ),
    flag("proxy", "off", Text, Refused("this is not a proxy"), ""),
    flag("proxy-failure-wait", "5000", Uint, Inert(GONE), ""),
    flag("proxy-refresh-interval", "30000", Uint, Inert(GONE), ""),
    flag("proxy-dial-timeout", "1000", Uint, Inert(GONE), ""),
    flag("proxy-write-timeout", "5000", Uint, Inert(GONE), ""),
    flag("proxy-read-timeout", "0", Uint, Inert(GONE), ""),
    flag("cluster-active-size", "", Text, Inert(GONE), ""),
    flag("cluster-remove-delay", "", Text, Inert(GONE), ""),
    flag("cluster-sync-interval", "", Text, Inert(GONE), ""),
    flag("config", "", Text, Inert(GONE), ""),
    flag("force", "", Text, Inert(GONE), ""),
    flag("max-result-buffer", "", Text, Inert(GONE), ""),
    flag("max-retry-attempts", "", Text, Inert(GONE), ""),
    flag("peer-heartbeat-interval", "", Text, Inert(GONE), ""),
    flag("peer-election-timeout", "", Text, Inert(GONE), ""),
    flag("retry-interval", "", Text, Inert(GONE), ""),
    flag("snapshot", "", Text, Inert(GONE), ""),
    flag("v", "false", Bool, Inert(GONE), ""),
    flag("vv", "false", Bool, Inert(GONE), ""),
    flag("test.coverprofile", "", Text, Inert(GONE), ""),
    flag("test.outputdir", "", Text, Inert(GONE), ""),
];

const CHECKPOINT: &str = "a lease has its full time to live again after a change of leader";
const GONE: &str = "it has no meaning any more, in etcd either";

const fn old(name: &'static str, kind: Kind, new: &'static str) -> Flag {
    flag(name, "", kind, OldNameOf(new), "")
}

/// The flags by the headings they have in `--help`.
const SECTIONS: &[(&str, &[Flag])] = &[
    ("Start", COMMANDS),
    ("Member", MEMBER),
    ("Clustering", CLUSTERING),
    ("Security", SECURITY),
    ("Logging and monitoring", MONITORING),
    ("Baton", OWN),
    ("Unsafe", UNSAFE),
];

/// Every flag.
pub(super) fn all() -> impl Iterator<Item = &'static Flag> {
    SECTIONS
        .iter()
        .flat_map(|(_, flags)| flags.iter())
        .chain(OLD)
}

/// The flag of that name.
pub(super) fn find(name: &str) -> Option<&'static Flag> {
    all().find(|flag| flag.name == name)
}

/// The known name that takes the fewest edits to reach, if it is close enough to be meant; else the
/// shortest one of which it is a part.
pub(super) fn nearest(name: &str) -> Option<&'static str> {
    let slip = all()
        .map(|flag| (edit_distance(name, flag.name), flag.name))
        .min()
        .filter(|(distance, known)| {
            *distance <= 2.max(known.len() / 3) && *distance < name.len().min(known.len())
        });
    let part = || {
        all()
            .filter(|flag| name.len() >= PART_LEN_MIN && flag.name.contains(name))
            .map(|flag| (flag.name.len(), flag.name))
            .min()
    };
    slip.or_else(part).map(|(_, known)| known)
}

/// Shorter parts of a name say nothing.
const PART_LEN_MIN: usize = 4;

fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// How to call the program, in short.
pub(super) const USAGE: &str = "\
Usage:

  batond [flags]
    Start a member.

  batond inspect <data-dir> [--entries]
    Show vote, log and state in a data directory as JSON.

  batond --version
    Show the version.

  batond -h | --help
    Show all flags.

  batond --config-file <file>
    Start with the settings of a YAML file. All other flags and the environment are then ignored.
";

/// The flags that do something, by section, and the names of those that are only accepted.
pub(super) fn help() -> String {
    let mut text = format!(
        "{USAGE}\nEvery flag can also be set in the environment: ETCD_DATA_DIR or BATON_DATA_DIR \
         for --data-dir.\nThe flags are those of etcd, with the same meanings and defaults.\n"
    );
    let mut accepted = Vec::new();
    for (title, flags) in SECTIONS {
        text.push_str(&format!("\n{title}:\n"));
        for flag in *flags {
            match flag.effect {
                Obeyed => text.push_str(&format!(
                    "  --{} '{}'\n    {}\n",
                    flag.name, flag.default, flag.help
                )),
                Refused(why) => text.push_str(&format!(
                    "  --{} '{}'\n    {} ({why})\n",
                    flag.name, flag.default, flag.help
                )),
                Inert(_) | OldNameOf(_) => accepted.push(flag.name),
            }
        }
    }
    text.push_str("\nAccepted for etcd's sake, without effect:\n");
    for name in accepted {
        text.push_str(&format!("  --{name}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::config::value;

    #[test]
    fn no_two_flags_have_the_same_name() {
        let mut names = BTreeSet::new();
        for flag in all() {
            assert!(names.insert(flag.name), "{} is there twice", flag.name);
        }
    }

    #[test]
    fn every_default_is_a_value_of_its_kind() {
        for flag in all().filter(|flag| !flag.default.is_empty()) {
            value::check(flag.kind, flag.default).unwrap();
        }
    }

    #[test]
    fn every_old_name_stands_for_a_flag_of_the_same_kind() {
        for flag in all() {
            if let OldNameOf(new) = flag.effect {
                assert_eq!(find(new).unwrap().kind, flag.kind, "{}", flag.name);
            }
        }
    }

    #[test]
    fn a_slip_of_the_finger_finds_the_flag_that_was_meant() {
        assert_eq!(nearest("listen-client-url"), Some("listen-client-urls"));
        assert_eq!(nearest("datadir"), Some("data-dir"));
        assert_eq!(nearest("completely-different-thing-altogether"), None);
    }

    #[test]
    fn a_part_of_a_name_finds_the_flag_that_was_meant() {
        assert_eq!(nearest("quota"), Some("quota-backend-bytes"));
        assert_eq!(nearest("retention"), Some("auto-compaction-retention"));
        assert_eq!(nearest("to"), None);
    }
}
