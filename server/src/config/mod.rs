//! What a member is told at its start: flags, environment or a config file, all three in etcd's
//! spelling and meaning.
//!
//! [`flags`] is the table of everything that can be given; [`settings`] collects what was;
//! this module turns it into a [`Config`] in which every value is valid.

mod bootstrap;
mod file;
mod flags;
mod settings;
mod url;
mod value;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

pub use bootstrap::{Bootstrap, BootstrapMember, cluster_id, member_id};
pub use url::{Scheme, Url};

use settings::{Request, Settings};

/// The version of etcd whose API this server offers, as clients are told.
pub const ETCD_VERSION: &str = "3.6.14";
/// The version of the cluster and of the storage schema that goes with [`ETCD_VERSION`].
pub const CLUSTER_VERSION: &str = "3.6.0";
/// Baton's own version.
pub const BATON_VERSION: &str = env!("CARGO_PKG_VERSION");

const ELECTION_TIMEOUT_MS_MAX: u64 = 50_000;
const QUOTA_BYTES_DEFAULT: u64 = 2 << 30;
/// The store's keys are in memory, on every member.
const QUOTA_BYTES_ADVISED: u64 = 8 << 30;
const PROGRESS_INTERVAL_DEFAULT: Duration = Duration::from_secs(600);
const PROGRESS_INTERVAL_MIN: Duration = Duration::from_millis(100);
const COMPACTION_BATCH_DEFAULT: usize = 1000;
const COMPACTION_PAUSE_DEFAULT: Duration = Duration::from_millis(10);

/// Everything a member is told at its start.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of this member, unique in its cluster.
    pub name: String,
    /// Where everything this member keeps is kept.
    pub data_dir: PathBuf,

    /// Where other members connect to. Never empty.
    pub listen_peer_urls: Vec<Url>,
    /// Where clients connect to. Never empty.
    pub listen_client_urls: Vec<Url>,
    /// Where HTTP is served alone; if not empty, `listen_client_urls` serve gRPC alone.
    pub listen_client_http_urls: Vec<Url>,
    /// Where metrics and health checks are served besides.
    pub listen_metrics_urls: Vec<Url>,
    /// Where other members are told to reach this one. Never empty.
    pub initial_advertise_peer_urls: Vec<Url>,
    /// Where clients are told to reach this member. Never empty.
    pub advertise_client_urls: Vec<Url>,

    /// Members of a new cluster by name, with their peer URLs. Only used without data.
    pub initial_cluster: BTreeMap<String, Vec<Url>>,
    /// `initial_cluster` was given, not derived from the other flags.
    pub initial_cluster_given: bool,
    /// Whether a member without data starts a cluster or joins one.
    pub initial_cluster_state: InitialClusterState,
    /// Part of the ids of a new cluster.
    pub initial_cluster_token: String,

    /// Time between two heartbeats of the leader.
    pub heartbeat_interval: Duration,
    /// Time without a heartbeat after which a member stands for election; at least five heartbeats.
    pub election_timeout: Duration,
    /// Applied entries between two snapshots.
    pub snapshot_count: u64,
    /// Entries kept behind a snapshot for members that are a little late.
    pub snapshot_catchup_entries: u64,

    /// Bytes of state after which writes are refused; `None` is no limit.
    pub quota_backend_bytes: Option<u64>,
    /// Operations in one transaction.
    pub max_txn_ops: usize,
    /// Bytes of one request.
    pub max_request_bytes: usize,
    /// Calls in flight on one connection.
    pub max_concurrent_streams: u32,
    /// Idle time after which a client is pinged; `None` is never.
    pub grpc_keepalive_interval: Option<Duration>,
    /// Time a pinged client has to answer.
    pub grpc_keepalive_timeout: Duration,
    /// Several processes may listen on one port.
    pub socket_reuse_port: bool,

    /// What history is thrown away by itself.
    pub auto_compaction: AutoCompaction,
    /// Keys visited between two pauses of a compaction.
    pub compaction_batch_limit: usize,
    /// Length of these pauses.
    pub compaction_sleep_interval: Duration,
    /// Time between two progress notifications of an idle watch.
    pub watch_progress_notify_interval: Duration,
    /// Calls that take longer are logged; `None` is none.
    pub warning_unary_request_duration: Option<Duration>,

    /// Origins that browsers may send requests from; `*` is any.
    pub cors: Vec<String>,
    /// Host names that HTTP requests may carry; `*` is any.
    pub host_whitelist: Vec<String>,
    /// Whether the time every call takes is measured as well.
    pub extensive_metrics: bool,
    /// What is logged, how, and where to.
    pub log: Log,

    /// Threads that serve clients. At least one.
    pub rpc_threads: usize,
    /// What was given but does nothing, in sentences for the log.
    pub warnings: Vec<String>,
}

/// Whether a member without data starts a cluster or joins one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InitialClusterState {
    /// It starts one together with the members of `initial_cluster`.
    New,
    /// It was added to a running one.
    Existing,
}

/// What history is thrown away by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoCompaction {
    /// None.
    Off,
    /// What is older than this.
    Periodic(Duration),
    /// What lies more than this many revisions back.
    Revisions(i64),
}

/// What is logged, how, and where to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// The least level that is logged.
    pub level: LogLevel,
    /// How a line looks.
    pub format: LogFormat,
    /// Where lines go. Never empty.
    pub outputs: Vec<LogOutput>,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            level: LogLevel::Info,
            format: LogFormat::Json,
            outputs: vec![LogOutput::Stderr],
        }
    }
}

/// Levels, least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Of use to developers.
    Debug,
    /// What happens in normal operation.
    Info,
    /// Something an operator may want to change.
    Warn,
    /// Something failed.
    Error,
}

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object.
    Json,
    /// Words for people.
    Text,
}

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogOutput {
    /// Standard error.
    Stderr,
    /// Standard output.
    Stdout,
    /// The end of a file.
    File(PathBuf),
}

/// Why there is no [`Config`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// What is wrong and, where it is not plain, what to do.
    pub message: String,
    /// The command line could not even be read: the usage is shown and the exit code is 2, not 1.
    pub is_usage: bool,
}

impl Refusal {
    fn fatal(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            is_usage: false,
        }
    }

    fn usage(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            is_usage: true,
        }
    }
}

/// What the command line asks for.
#[derive(Debug)]
pub enum Action {
    /// Print this and leave.
    Print(String),
    /// Start a member.
    Serve(Box<Config>),
}

/// Short text on how to call the program.
pub fn usage() -> &'static str {
    flags::USAGE
}

/// Reads the command line (without the program's name) and the environment, or the config file
/// that one of them names.
///
/// # Errors
/// What was given is not a valid configuration.
pub fn load(args: &[String], env: &[(String, String)]) -> Result<Action, Refusal> {
    load_with(args, env, &|path| std::fs::read_to_string(path))
}

fn load_with(
    args: &[String],
    env: &[(String, String)],
    read_file: &dyn Fn(&str) -> std::io::Result<String>,
) -> Result<Action, Refusal> {
    match settings::read(args, env, read_file)? {
        Request::Help => Ok(Action::Print(flags::help())),
        Request::Version => Ok(Action::Print(version())),
        Request::Start(settings) => resolve(settings)
            .map(|config| Action::Serve(Box::new(config)))
            .map_err(|message| {
                Refusal::fatal(format!(
                    "error verifying flags, {message}. See 'batond --help'."
                ))
            }),
    }
}

/// The first line is what tools read; it names the etcd that this server stands in for.
fn version() -> String {
    format!(
        "etcd Version: {ETCD_VERSION}\nBaton Version: {BATON_VERSION}\nOS/Arch: {}/{}\n",
        std::env::consts::OS,
        std::env::consts::ARCH
    )
}

impl Config {
    /// The cluster this member starts or joins when it has no data.
    ///
    /// # Errors
    /// `--initial-cluster` does not name this member as it advertises itself, or names an address
    /// twice.
    pub fn bootstrap(&self) -> Result<Bootstrap, Refusal> {
        bootstrap::bootstrap(
            &self.name,
            &self.initial_advertise_peer_urls,
            &self.initial_cluster,
            &self.initial_cluster_token,
        )
        .map_err(Refusal::fatal)
    }
}

fn resolve(settings: Settings) -> Result<Config, String> {
    let get = |name: &str| settings.get(name).trim();
    let flag = |name: &str| value::parse_bool(get(name)).unwrap_or_default();
    let number = |name: &str| value::parse_int(get(name)).unwrap_or_default();
    let duration = |name: &str| value::parse_duration(get(name)).unwrap_or_default();

    let name = match get("name") {
        "" => "default".to_owned(),
        name => name.to_owned(),
    };
    let data_dir = match get("data-dir") {
        "" => PathBuf::from(format!("{name}.etcd")),
        dir => PathBuf::from(dir),
    };

    let listen_peer_urls = listen_urls(&settings, "listen-peer-urls")?;
    let listen_client_urls = listen_urls(&settings, "listen-client-urls")?;
    let initial_advertise_peer_urls = urls(&settings, "initial-advertise-peer-urls")?;
    let advertise_client_urls = urls(&settings, "advertise-client-urls")?;
    for url in listen_peer_urls.iter().chain(&initial_advertise_peer_urls) {
        if url.scheme() != Scheme::Http {
            return Err(format!("peer URLs have to be http, {url} is not supported"));
        }
    }
    if settings.is_given("listen-client-urls") && !settings.is_given("advertise-client-urls") {
        return Err(
            "--advertise-client-urls is required when --listen-client-urls is set explicitly"
                .to_owned(),
        );
    }

    let initial_cluster = match get("initial-cluster") {
        "" => BTreeMap::from([(name.clone(), initial_advertise_peer_urls.clone())]),
        text => bootstrap::parse_initial_cluster(text)?,
    };
    for url in initial_cluster.values().flatten() {
        if url.scheme() != Scheme::Http {
            return Err(format!("peer URLs have to be http, {url} is not supported"));
        }
    }
    let initial_cluster_state = match get("initial-cluster-state") {
        "new" => InitialClusterState::New,
        "existing" => InitialClusterState::Existing,
        other => {
            return Err(format!(
                "invalid value {other:?} for --initial-cluster-state: 'new' or 'existing'"
            ));
        }
    };

    let heartbeat_ms = number("heartbeat-interval");
    let election_ms = number("election-timeout");
    check_timeouts(heartbeat_ms, election_ms)?;

    let quota = number("quota-backend-bytes");
    let quota_backend_bytes = match u64::try_from(quota) {
        Ok(0) => Some(QUOTA_BYTES_DEFAULT),
        Ok(bytes) => Some(bytes),
        Err(_) if quota < 0 => None,
        Err(_) => return Err(format!("--quota-backend-bytes={quota} is too large")),
    };

    let logger = get("logger");
    if logger != "zap" {
        return Err(format!("unknown logger option {logger:?}"));
    }
    let extensive_metrics = match get("metrics") {
        "basic" => false,
        "extensive" => true,
        other => {
            return Err(format!(
                "invalid value {other:?} for --metrics: 'basic' or 'extensive'"
            ));
        }
    };
    let mut warnings = settings.warnings.clone();
    warnings.extend(check_feature_gates(get("feature-gates"))?);
    if quota_backend_bytes.is_some_and(|bytes| bytes > QUOTA_BYTES_ADVISED) {
        warnings.push(format!(
            "--quota-backend-bytes={quota} is more than the advised maximum of {QUOTA_BYTES_ADVISED}"
        ));
    }
    if get("data-dir").is_empty() {
        warnings.push(format!(
            "no data-dir provided, using default data-dir {}",
            data_dir.display()
        ));
    }

    Ok(Config {
        listen_client_http_urls: optional_listen_urls(&settings, "listen-client-http-urls")?,
        listen_metrics_urls: optional_listen_urls(&settings, "listen-metrics-urls")?,
        initial_cluster_token: get("initial-cluster-token").to_owned(),
        heartbeat_interval: millis(heartbeat_ms),
        election_timeout: millis(election_ms),
        snapshot_count: at_least_one("snapshot-count", number("snapshot-count"))?,
        snapshot_catchup_entries: within(
            "snapshot-catchup-entries",
            number("snapshot-catchup-entries"),
        )?,
        max_txn_ops: at_least_one("max-txn-ops", number("max-txn-ops"))?,
        max_request_bytes: at_least_one("max-request-bytes", number("max-request-bytes"))?,
        max_concurrent_streams: at_least_one(
            "max-concurrent-streams",
            number("max-concurrent-streams"),
        )?,
        grpc_keepalive_interval: not_zero(duration("grpc-keepalive-interval")),
        grpc_keepalive_timeout: duration("grpc-keepalive-timeout"),
        socket_reuse_port: flag("socket-reuse-port"),
        auto_compaction: auto_compaction(
            get("auto-compaction-mode"),
            get("auto-compaction-retention"),
        )?,
        compaction_batch_limit: match within(
            "compaction-batch-limit",
            number("compaction-batch-limit"),
        )? {
            0 => COMPACTION_BATCH_DEFAULT,
            keys => keys,
        },
        compaction_sleep_interval: not_zero(duration("compaction-sleep-interval"))
            .unwrap_or(COMPACTION_PAUSE_DEFAULT),
        watch_progress_notify_interval: progress_interval(duration(
            "watch-progress-notify-interval",
        ))?,
        warning_unary_request_duration: not_zero(duration("warning-unary-request-duration")),
        cors: list(get("cors")),
        host_whitelist: list(get("host-whitelist")),
        extensive_metrics,
        log: Log {
            level: log_level(get("log-level"))?,
            format: log_format(get("log-format"))?,
            outputs: log_outputs(get("log-outputs")),
        },
        rpc_threads: rpc_threads(within("rpc-threads", number("rpc-threads"))?),
        name,
        data_dir,
        listen_peer_urls,
        listen_client_urls,
        initial_advertise_peer_urls,
        advertise_client_urls,
        initial_cluster,
        initial_cluster_given: settings.is_given("initial-cluster"),
        initial_cluster_state,
        quota_backend_bytes,
        warnings,
    })
}

fn urls(settings: &Settings, flag: &str) -> Result<Vec<Url>, String> {
    let urls = Url::parse_list(settings.get(flag))
        .map_err(|error| format!("invalid value for --{flag}: {error}"))?;
    if urls.is_empty() {
        return Err(format!("--{flag} is empty"));
    }
    Ok(urls)
}

fn listen_urls(settings: &Settings, flag: &str) -> Result<Vec<Url>, String> {
    let urls = urls(settings, flag)?;
    for url in &urls {
        check_listen_url(flag, url)?;
    }
    Ok(urls)
}

fn optional_listen_urls(settings: &Settings, flag: &str) -> Result<Vec<Url>, String> {
    if settings.get(flag).trim().is_empty() {
        return Ok(Vec::new());
    }
    listen_urls(settings, flag)
}

fn check_listen_url(flag: &str, url: &Url) -> Result<(), String> {
    match url.scheme() {
        Scheme::Https if flag == "listen-metrics-urls" => Err(format!(
            "client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure \
             url {url}, and this version does not speak TLS"
        )),
        Scheme::Https => Err(format!(
            "--{flag} has {url}, but this version does not speak TLS; put a TLS proxy in front \
             of an http URL"
        )),
        Scheme::Http | Scheme::Unix if url.can_bind() => Ok(()),
        Scheme::Http | Scheme::Unix => Err(format!("expected IP in URL for binding ({url})")),
    }
}

fn check_timeouts(heartbeat_ms: i128, election_ms: i128) -> Result<(), String> {
    if heartbeat_ms <= 0 {
        return Err(format!(
            "--heartbeat-interval must be >0 (set to {heartbeat_ms}ms)"
        ));
    }
    if election_ms <= 0 {
        return Err(format!(
            "--election-timeout must be >0 (set to {election_ms}ms)"
        ));
    }
    if 5 * heartbeat_ms > election_ms {
        return Err(format!(
            "--election-timeout[{election_ms}ms] should be at least as 5 times as \
             --heartbeat-interval[{heartbeat_ms}ms]"
        ));
    }
    if election_ms > i128::from(ELECTION_TIMEOUT_MS_MAX) {
        return Err(format!(
            "--election-timeout[{election_ms}ms] is too long, and should be set less than \
             {ELECTION_TIMEOUT_MS_MAX}ms"
        ));
    }
    Ok(())
}

/// Of a number that [`check_timeouts`] let pass.
fn millis(ms: i128) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(ELECTION_TIMEOUT_MS_MAX))
}

fn within<N: TryFrom<i128>>(flag: &str, number: i128) -> Result<N, String> {
    N::try_from(number).map_err(|_| format!("--{flag}={number} is out of range"))
}

fn at_least_one<N: TryFrom<i128>>(flag: &str, number: i128) -> Result<N, String> {
    if number < 1 {
        return Err(format!("--{flag} must be >0 (set to {number})"));
    }
    within(flag, number)
}

fn not_zero(duration: Duration) -> Option<Duration> {
    (!duration.is_zero()).then_some(duration)
}

fn progress_interval(interval: Duration) -> Result<Duration, String> {
    if interval.is_zero() {
        return Ok(PROGRESS_INTERVAL_DEFAULT);
    }
    if interval < PROGRESS_INTERVAL_MIN {
        return Err(format!(
            "--watch-progress-notify-interval must be at least {}ms (set to {interval:?})",
            PROGRESS_INTERVAL_MIN.as_millis()
        ));
    }
    Ok(interval)
}

fn auto_compaction(mode: &str, retention: &str) -> Result<AutoCompaction, String> {
    let invalid =
        || format!("invalid value {retention:?} for --auto-compaction-retention in mode {mode}");
    match mode {
        "revision" => match value::parse_int(retention) {
            Some(0) => Ok(AutoCompaction::Off),
            Some(n) if n > 0 => i64::try_from(n)
                .map(AutoCompaction::Revisions)
                .map_err(|_| invalid()),
            _ => Err(invalid()),
        },
        "periodic" => {
            let hours = |n: i128| {
                let seconds = u64::try_from(n).ok()?.checked_mul(3600)?;
                Some(Duration::from_secs(seconds))
            };
            let period = match value::parse_int(retention) {
                Some(n) => hours(n).ok_or_else(invalid)?,
                None if retention.is_empty() => Duration::ZERO,
                None => value::parse_duration(retention).ok_or_else(invalid)?,
            };
            Ok(not_zero(period).map_or(AutoCompaction::Off, AutoCompaction::Periodic))
        }
        "" => Err("undefined auto-compaction-mode".to_owned()),
        other => Err(format!("unknown auto-compaction-mode {other:?}")),
    }
}

fn log_level(text: &str) -> Result<LogLevel, String> {
    match text {
        "debug" => Ok(LogLevel::Debug),
        "info" => Ok(LogLevel::Info),
        "warn" => Ok(LogLevel::Warn),
        "error" | "dpanic" | "panic" | "fatal" => Ok(LogLevel::Error),
        other => Err(format!("unrecognized level: {other:?}")),
    }
}

fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "json" | "" => Ok(LogFormat::Json),
        "text" | "console" => Ok(LogFormat::Text),
        other => Err(format!(
            "unknown log format: {other:?}, supported values json, text, console"
        )),
    }
}

/// Under systemd, the journal is what standard error is connected to.
fn log_outputs(text: &str) -> Vec<LogOutput> {
    let outputs: Vec<_> = list(text)
        .iter()
        .map(|output| match output.as_str() {
            "default" | "stderr" | "/dev/stderr" | "systemd/journal" => LogOutput::Stderr,
            "stdout" | "/dev/stdout" => LogOutput::Stdout,
            path => LogOutput::File(PathBuf::from(path)),
        })
        .collect();
    if outputs.is_empty() {
        vec![LogOutput::Stderr]
    } else {
        outputs
    }
}

fn rpc_threads(given: usize) -> usize {
    if given > 0 {
        return given;
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (cores / 2).max(1)
}

fn list(text: &str) -> Vec<String> {
    text.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
        .map(str::to_owned)
        .collect()
}

/// etcd's gates with their defaults.
const FEATURE_GATES: &[(&str, bool)] = &[
    ("AllAlpha", false),
    ("AllBeta", false),
    ("CompactHashCheck", false),
    ("FastLeaseKeepAlive", true),
    ("InitialCorruptCheck", false),
    ("LeaseCheckpoint", false),
    ("LeaseCheckpointPersist", false),
    ("PriorityRequest", false),
    ("SetMemberLocalAddr", false),
    ("StopGRPCServiceOnDefrag", false),
    ("TxnModeWriteWithSharedBuffer", true),
];

/// Refuses unknown gates; returns a warning for each one that is set to something else than it is.
fn check_feature_gates(text: &str) -> Result<Vec<String>, String> {
    let mut warnings = Vec::new();
    let mut set = BTreeMap::new();
    for pair in list(text) {
        let (gate, on) = pair
            .split_once('=')
            .ok_or_else(|| format!("missing bool value for feature gate {pair:?}"))?;
        let default = FEATURE_GATES
            .iter()
            .find(|(name, _)| *name == gate)
            .map(|(_, default)| *default)
            .ok_or_else(|| format!("unrecognized feature gate: {gate}"))?;
        let on = value::parse_bool(on)
            .ok_or_else(|| format!("invalid value {on:?} for feature gate {gate}"))?;
        if on != default {
            warnings.push(format!("the feature gate {gate}={on} has no effect"));
        }
        set.insert(gate.to_owned(), on);
    }
    let is_on = |gate: &str| set.get(gate) == Some(&true);
    if is_on("LeaseCheckpointPersist") && !is_on("LeaseCheckpoint") {
        return Err(
            "setting feature gate LeaseCheckpointPersist requires LeaseCheckpoint".to_owned(),
        );
    }
    Ok(warnings)
}

#[cfg(test)]
mod tests;
