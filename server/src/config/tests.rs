use super::*;

fn strings(args: &[&str]) -> Vec<String> {
    args.iter().map(|arg| (*arg).to_owned()).collect()
}

fn load_all(args: &[&str], env: &[(&str, &str)], file: &str) -> Result<Action, Refusal> {
    let env: Vec<_> = env
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    load_with(&strings(args), &env, &|_| Ok(file.to_owned()))
}

fn config(args: &[&str], env: &[(&str, &str)], file: &str) -> Config {
    match load_all(args, env, file).unwrap() {
        Action::Serve(config) => *config,
        Action::Print(text) => panic!("printed {text}"),
    }
}

fn flags(args: &[&str]) -> Config {
    config(args, &[], "")
}

fn refusal(args: &[&str]) -> Refusal {
    load_all(args, &[], "").unwrap_err()
}

fn texts(urls: &[Url]) -> Vec<&str> {
    urls.iter().map(Url::as_str).collect()
}

#[test]
fn without_flags_a_member_serves_localhost_alone() {
    let config = flags(&[]);
    assert_eq!(config.name, "default");
    assert_eq!(config.data_dir, PathBuf::from("default.etcd"));
    assert_eq!(texts(&config.listen_client_urls), ["http://localhost:2379"]);
    assert_eq!(config.bootstrap().unwrap().members.len(), 1);
    assert_eq!(config.quota_backend_bytes, Some(2 << 30));
    assert_eq!(config.auto_compaction, AutoCompaction::Off);
}

#[test]
fn every_spelling_of_go_is_read() {
    for args in [
        &["-name", "a"][..],
        &["--name", "a"],
        &["--name=a"],
        &["-name=a"],
        &["--name=b", "--name=a"],
    ] {
        assert_eq!(flags(args).name, "a", "{args:?}");
    }
    for args in [
        &["--socket-reuse-port"][..],
        &["--socket-reuse-port=true"],
        &["-socket-reuse-port=T"],
    ] {
        assert!(flags(args).socket_reuse_port, "{args:?}");
    }
}

#[test]
fn a_bool_takes_no_separate_value() {
    let refusal = refusal(&["--pre-vote", "true"]);
    assert!(refusal.message.contains("'true' is not a valid flag"));
    assert!(!refusal.is_usage);
}

#[test]
fn a_command_line_that_cannot_be_read_is_a_usage_error() {
    for (args, error) in [
        (&["--foo"][..], "flag provided but not defined: -foo"),
        (&["--nam", "x"], "did you mean --name?"),
        (&["--name"], "flag needs an argument: -name"),
        (
            &["--pre-vote=maybe"],
            "invalid boolean value \"maybe\" for -pre-vote: parse error",
        ),
        (
            &["--max-txn-ops=x"],
            "invalid value \"x\" for flag -max-txn-ops: parse error",
        ),
        (&["---name=x"], "bad flag syntax: ---name=x"),
    ] {
        let refusal = refusal(args);
        assert!(refusal.message.contains(error), "{}", refusal.message);
        assert!(refusal.is_usage, "{args:?}");
    }
}

#[test]
fn help_names_every_flag_that_does_something() {
    let Action::Print(help) = load_all(&["-h"], &[], "").unwrap() else {
        panic!("help is printed");
    };
    for name in [
        "--listen-client-urls",
        "--rpc-threads",
        "--auto-compaction-mode",
    ] {
        assert!(help.contains(name), "{name}");
    }
}

#[test]
fn the_first_line_of_the_version_is_the_etcd_version() {
    let Action::Print(version) = load_all(&["--version"], &[], "").unwrap() else {
        panic!("the version is printed");
    };
    assert!(version.starts_with("etcd Version: 3.6.14\n"));
    assert!(version.contains("\nBaton Version: "));
}

#[test]
fn the_environment_fills_in_what_the_command_line_left_out() {
    let env = [
        ("ETCD_NAME", "a"),
        ("BATON_DATA_DIR", "/d"),
        ("ETCD_MAX_TXN_OPS", ""),
        ("BATON_RPC_THREADS", "3"),
    ];
    let config = config(&["--max-request-bytes=7"], &env, "");
    assert_eq!(config.name, "a");
    assert_eq!(config.data_dir, PathBuf::from("/d"));
    assert_eq!(config.max_txn_ops, 128);
    assert_eq!(config.max_request_bytes, 7);
    assert_eq!(config.rpc_threads, 3);
}

#[test]
fn a_flag_given_twice_over_is_fatal() {
    let shadowed = load_all(&["--name", "b"], &[("ETCD_NAME", "a")], "").unwrap_err();
    assert!(
        shadowed
            .message
            .contains("conflicting environment variable \"ETCD_NAME\" is shadowed")
    );
    let both = [("ETCD_NAME", "a"), ("BATON_NAME", "a")];
    let twice = load_all(&[], &both, "").unwrap_err();
    assert!(
        twice
            .message
            .contains("both ETCD_NAME and BATON_NAME are set")
    );
}

#[test]
fn an_unknown_variable_only_warns() {
    let config = config(&[], &[("ETCD_VERIFY", "all"), ("HOME", "/")], "");
    let about: Vec<_> = config
        .warnings
        .iter()
        .filter(|warning| warning.contains("environment variable"))
        .collect();
    assert_eq!(
        about,
        ["unrecognized environment variable ETCD_VERIFY is ignored"]
    );
}

#[test]
fn a_harmless_flag_without_effect_is_accepted_and_named_in_a_warning() {
    let config = flags(&["--max-wals=3", "--experimental-memory-mlock", "--proxy=off"]);
    assert!(
        config
            .warnings
            .iter()
            .any(|w| w.starts_with("--max-wals has no effect"))
    );
    assert!(
        config
            .warnings
            .iter()
            .any(|w| w.contains("use --memory-mlock instead"))
    );
}

#[test]
fn a_flag_that_must_not_be_ignored_is_refused() {
    for args in [
        &["--cert-file=c.pem"][..],
        &["--client-cert-auth"],
        &["--peer-trusted-ca-file=ca.pem"],
        &["--auth-token=jwt,sign-method=RS256"],
        &["--force-new-cluster"],
        &["--wal-dir=/wal"],
        &["--discovery-srv=example.org"],
        &["--proxy=on"],
    ] {
        let refusal = refusal(args);
        assert!(
            refusal.message.contains("is not supported: "),
            "{}",
            refusal.message
        );
        assert!(!refusal.is_usage);
    }
}

#[test]
fn a_refused_flag_at_its_default_is_accepted() {
    flags(&[
        "--client-cert-auth=false",
        "--auth-token=simple",
        "--force-new-cluster=f",
    ]);
}

#[test]
fn an_old_name_sets_the_flag_of_today() {
    let config = flags(&["--experimental-snapshot-catchup-entries=10"]);
    assert_eq!(config.snapshot_catchup_entries, 10);
}

#[test]
fn settings_that_contradict_each_other_are_refused_in_etcds_words() {
    for (args, error) in [
        (
            &["--listen-client-urls=http://127.0.0.1:1"][..],
            "--advertise-client-urls is required when --listen-client-urls is set explicitly",
        ),
        (
            &["--election-timeout=100"],
            "--election-timeout[100ms] should be at least as 5 times as --heartbeat-interval[100ms]",
        ),
        (
            &["--election-timeout=50001"],
            "--election-timeout[50001ms] is too long, and should be set less than 50000ms",
        ),
        (
            &["--heartbeat-interval=0"],
            "--heartbeat-interval must be >0 (set to 0ms)",
        ),
        (
            &["--listen-peer-urls=http://example.org:1"],
            "expected IP in URL for binding (http://example.org:1)",
        ),
        (
            &["--listen-peer-urls=https://127.0.0.1:1"],
            "does not speak TLS",
        ),
        (
            &["--listen-metrics-urls=https://127.0.0.1:1"],
            "client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure url",
        ),
        (&["--initial-cluster-state=old"], "--initial-cluster-state"),
        (
            &["--auto-compaction-mode=x"],
            "unknown auto-compaction-mode \"x\"",
        ),
        (
            &["--auto-compaction-retention=-1"],
            "--auto-compaction-retention",
        ),
        (
            &["--feature-gates=Nope=true"],
            "unrecognized feature gate: Nope",
        ),
        (
            &["--feature-gates=LeaseCheckpointPersist=true"],
            "requires LeaseCheckpoint",
        ),
        (&["--log-level=loud"], "unrecognized level: \"loud\""),
        (&["--watch-progress-notify-interval=1ms"], "at least 100ms"),
        (&["--max-txn-ops=0"], "--max-txn-ops must be >0"),
        (&["--max-concurrent-streams=4294967296"], "out of range"),
    ] {
        let refusal = refusal(args);
        assert!(refusal.message.contains(error), "{}", refusal.message);
        assert!(!refusal.is_usage, "{args:?}");
    }
}

#[test]
fn retention_counts_hours_durations_or_revisions() {
    for (mode, retention, expected) in [
        (
            "periodic",
            "2",
            AutoCompaction::Periodic(Duration::from_secs(7200)),
        ),
        (
            "periodic",
            "30m",
            AutoCompaction::Periodic(Duration::from_secs(1800)),
        ),
        ("periodic", "0", AutoCompaction::Off),
        ("revision", "1000", AutoCompaction::Revisions(1000)),
        ("revision", "0", AutoCompaction::Off),
    ] {
        assert_eq!(auto_compaction(mode, retention), Ok(expected));
    }
}

#[test]
fn the_quota_may_be_lifted() {
    assert_eq!(
        flags(&["--quota-backend-bytes=-1"]).quota_backend_bytes,
        None
    );
    assert_eq!(
        flags(&["--quota-backend-bytes=5"]).quota_backend_bytes,
        Some(5)
    );
}

#[test]
fn a_quota_above_eight_gibibytes_is_accepted_with_a_warning() {
    let warned = |flag| {
        let warnings = flags(&[flag]).warnings;
        warnings.iter().any(|warning| warning.contains("advised"))
    };
    assert!(warned("--quota-backend-bytes=8589934593"));
    assert!(!warned("--quota-backend-bytes=8589934592"));
    assert!(!warned("--quota-backend-bytes=-1"));
}

#[test]
fn three_members_are_read_from_initial_cluster() {
    let config = flags(&[
        "--name=b",
        "--initial-advertise-peer-urls=http://10.0.0.2:2380",
        "--initial-cluster=a=http://10.0.0.1:2380,b=http://10.0.0.2:2380,c=http://10.0.0.3:2380",
    ]);
    assert_eq!(config.bootstrap().unwrap().members.len(), 3);
}

const FILE: &str = "\
# A member of a cluster.
name: 'from-file'
data-dir: /var/lib/x
snapshot-count: 500
heartbeat-interval: 50
election-timeout: 600
listen-client-urls: http://localhost:2379,http://127.0.0.1:4001
advertise-client-urls: http://localhost:2379
grpc-keepalive-interval: 1000000000
auto-compaction-retention: \"1\"
discovery:
strict-reconfig-check: false
client-transport-security:
  cert-file:
  client-cert-auth: false
log-outputs: [stderr, /tmp/x.log]
log-level: debug
something-else: {a: 1}
";

#[test]
fn a_config_file_replaces_flags_and_environment() {
    let args = ["--config-file=x", "--name=from-flag"];
    let config = config(&args, &[("ETCD_MAX_TXN_OPS", "1")], FILE);
    assert_eq!(config.name, "from-file");
    assert_eq!(config.max_txn_ops, 128);
    assert_eq!(config.election_timeout, Duration::from_millis(600));
    assert_eq!(config.grpc_keepalive_interval, Some(Duration::from_secs(1)));
    assert_eq!(config.listen_client_urls.len(), 2);
    assert_eq!(config.log.level, LogLevel::Debug);
    assert_eq!(config.log.outputs.len(), 2);
    assert_eq!(
        config.auto_compaction,
        AutoCompaction::Periodic(Duration::from_secs(3600))
    );
    assert!(
        config
            .warnings
            .iter()
            .any(|w| w.contains("all other flags are ignored"))
    );
    assert!(
        config
            .warnings
            .iter()
            .any(|w| w.contains("unknown key something-else"))
    );
}

#[test]
fn the_environment_can_name_the_config_file() {
    let config = config(&[], &[("ETCD_CONFIG_FILE", "x")], "name: a");
    assert_eq!(config.name, "a");
}

#[test]
fn an_empty_config_file_means_the_defaults() {
    assert_eq!(
        config(&["--config-file=x"], &[], "# nothing\n").name,
        "default"
    );
}

#[test]
fn a_config_file_that_cannot_be_used_says_why() {
    for (file, error) in [
        ("name: [", "is not valid"),
        ("max-txn-ops: many", "\"many\" for max-txn-ops"),
        ("max-txn-ops: {a: 1}", "max-txn-ops is not a value"),
        (
            "peer-transport-security: {cert-file: x}",
            "--peer-cert-file=x is not supported",
        ),
        (
            "client-transport-security: 7",
            "client-transport-security is not a section",
        ),
        (
            "listen-client-urls: http://localhost:1",
            "--advertise-client-urls is required",
        ),
    ] {
        let refusal = load_all(&["--config-file=x"], &[], file).unwrap_err();
        assert!(refusal.message.contains(error), "{}", refusal.message);
    }
}
