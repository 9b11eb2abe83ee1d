//! Calls counted by method and outcome.

use std::collections::BTreeMap;
use std::sync::Arc;

use metrics::{Counter, Histogram};
use tokio::time::Instant;

/// Names of gRPC's codes, by number.
const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];
const CANCELED: usize = 1;
const UNKNOWN: usize = 2;

const UNARY: &str = "unary";
const SERVER_STREAM: &str = "server_stream";
const BIDI_STREAM: &str = "bidi_stream";

/// Services with their methods.
const SERVICES: &[(&str, &[(&str, &str)])] = &[
    (
        "etcdserverpb.KV",
        &[
            ("Range", UNARY),
            ("RangeStream", SERVER_STREAM),
            ("Put", UNARY),
            ("DeleteRange", UNARY),
            ("Txn", UNARY),
            ("Compact", UNARY),
        ],
    ),
    ("etcdserverpb.Watch", &[("Watch", BIDI_STREAM)]),
    (
        "etcdserverpb.Lease",
        &[
            ("LeaseGrant", UNARY),
            ("LeaseRevoke", UNARY),
            ("LeaseKeepAlive", BIDI_STREAM),
            ("LeaseTimeToLive", UNARY),
            ("LeaseLeases", UNARY),
        ],
    ),
    (
        "etcdserverpb.Cluster",
        &[
            ("MemberAdd", UNARY),
            ("MemberRemove", UNARY),
            ("MemberUpdate", UNARY),
            ("MemberList", UNARY),
            ("MemberPromote", UNARY),
        ],
    ),
    (
        "etcdserverpb.Maintenance",
        &[
            ("Alarm", UNARY),
            ("Status", UNARY),
            ("Defragment", UNARY),
            ("Hash", UNARY),
            ("HashKV", UNARY),
            ("Snapshot", SERVER_STREAM),
            ("MoveLeader", UNARY),
            ("Downgrade", UNARY),
        ],
    ),
    (
        "etcdserverpb.Auth",
        &[
            ("AuthEnable", UNARY),
            ("AuthDisable", UNARY),
            ("AuthStatus", UNARY),
            ("Authenticate", UNARY),
            ("UserAdd", UNARY),
            ("UserGet", UNARY),
            ("UserList", UNARY),
            ("UserDelete", UNARY),
            ("UserChangePassword", UNARY),
            ("UserGrantRole", UNARY),
            ("UserRevokeRole", UNARY),
            ("RoleAdd", UNARY),
            ("RoleGet", UNARY),
            ("RoleList", UNARY),
            ("RoleDelete", UNARY),
            ("RoleGrantPermission", UNARY),
            ("RoleRevokePermission", UNARY),
        ],
    ),
    ("v3lockpb.Lock", &[("Lock", UNARY), ("Unlock", UNARY)]),
    (
        "v3electionpb.Election",
        &[
            ("Campaign", UNARY),
            ("Proclaim", UNARY),
            ("Leader", UNARY),
            ("Observe", SERVER_STREAM),
            ("Resign", UNARY),
        ],
    ),
    (
        "grpc.health.v1.Health",
        &[("Check", UNARY), ("Watch", SERVER_STREAM)],
    ),
];

/// The series of every method. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Calls {
    series: Arc<Series>,
}

#[derive(Debug)]
struct Series {
    methods: BTreeMap<String, Arc<Method>>,
    received_bytes: Counter,
    sent_bytes: Counter,
}

#[derive(Debug)]
struct Method {
    path: String,
    is_unary: bool,
    started: Counter,
    handled: [Counter; CODES.len()],
    received: Counter,
    sent: Counter,
    seconds: Option<Histogram>,
}

impl Calls {
    /// Brings the series of every method and code into being; those of the time calls take only if
    /// `extensive`.
    pub fn new(extensive: bool) -> Self {
        let mut methods = BTreeMap::new();
        for (service, names) in SERVICES {
            for (name, kind) in *names {
                let method = Method::new(service, name, kind, extensive);
                methods.insert(method.path.clone(), Arc::new(method));
            }
        }
        Self {
            series: Arc::new(Series {
                methods,
                received_bytes: metrics::counter!("etcd_network_client_grpc_received_bytes_total"),
                sent_bytes: metrics::counter!("etcd_network_client_grpc_sent_bytes_total"),
            }),
        }
    }

    /// Whether there is a service of this name.
    pub fn has_service(&self, name: &str) -> bool {
        SERVICES.iter().any(|(service, _)| *service == name)
    }

    /// Counts a call as started; `None` if there is no such method, which is not counted.
    pub fn start(&self, path: &str) -> Option<Call> {
        let method = Arc::clone(self.series.methods.get(path)?);
        method.started.increment(1);
        Some(Call {
            method,
            series: Arc::clone(&self.series),
            started: Instant::now(),
            is_finished: false,
        })
    }
}

impl Method {
    fn new(service: &'static str, name: &'static str, kind: &'static str, extensive: bool) -> Self {
        let counter = |metric: &'static str| {
            let counter = metrics::counter!(
                metric,
                "grpc_method" => name,
                "grpc_service" => service,
                "grpc_type" => kind
            );
            counter.increment(0);
            counter
        };
        Self {
            path: format!("/{service}/{name}"),
            is_unary: kind == UNARY,
            started: counter("grpc_server_started_total"),
            received: counter("grpc_server_msg_received_total"),
            sent: counter("grpc_server_msg_sent_total"),
            handled: CODES.map(|code| {
                let handled = metrics::counter!(
                    "grpc_server_handled_total",
                    "grpc_code" => code,
                    "grpc_method" => name,
                    "grpc_service" => service,
                    "grpc_type" => kind
                );
                handled.increment(0);
                handled
            }),
            seconds: extensive.then(|| {
                metrics::histogram!(
                    "grpc_server_handling_seconds",
                    "grpc_method" => name,
                    "grpc_service" => service,
                    "grpc_type" => kind
                )
            }),
        }
    }
}

/// A call being served. Dropped before it is finished, it counts as cancelled by its caller.
#[derive(Debug)]
pub struct Call {
    method: Arc<Method>,
    series: Arc<Series>,
    started: Instant,
    is_finished: bool,
}

impl Call {
    /// Counts the call's outcome, once.
    pub fn finish(&mut self, code: usize) {
        if std::mem::replace(&mut self.is_finished, true) {
            return;
        }
        let handled = self.method.handled.get(code);
        handled
            .unwrap_or(&self.method.handled[UNKNOWN])
            .increment(1);
        if let Some(seconds) = &self.method.seconds {
            seconds.record(self.started.elapsed());
        }
    }

    /// What counts the messages its caller sends, which may outlive the call.
    pub fn received(&self) -> Received {
        Received {
            method: Arc::clone(&self.method),
            series: Arc::clone(&self.series),
        }
    }

    /// Counts messages sent, and their bytes.
    pub fn sent(&self, messages: u64, bytes: u64) {
        self.method.sent.increment(messages);
        self.series.sent_bytes.increment(bytes);
    }

    /// The time since it started, of a call with one answer; other calls take as long as they are
    /// wanted.
    pub fn unary_time(&self) -> Option<std::time::Duration> {
        self.method.is_unary.then(|| self.started.elapsed())
    }

    /// The method, as in a request's path.
    pub fn path(&self) -> &str {
        &self.method.path
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.finish(CANCELED);
    }
}

/// The caller's half of a call.
#[derive(Debug)]
pub struct Received {
    method: Arc<Method>,
    series: Arc<Series>,
}

impl Received {
    /// Counts messages received, and their bytes.
    pub fn add(&self, messages: u64, bytes: u64) {
        self.method.received.increment(messages);
        self.series.received_bytes.increment(bytes);
    }
}
