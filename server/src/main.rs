//! The server's process: reads its configuration, starts the parts, waits to be told to stop.

use std::convert::Infallible;
use std::error::Error;
use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use batond::boot;
use batond::config::{self, Action, BATON_VERSION, Config, ETCD_VERSION, Refusal, Url};
use batond::core::Core;
use batond::http::{Http, Paths, Probe};
use batond::logging::{self, Logging};
use batond::metrics::{Calls, Metrics, UPKEEP_INTERVAL};
use batond::serve::{self, Limits, Listener, Protocols, Server, Services, Threads};
use batond::service;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// The command line could not be read.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let args: Result<Vec<String>, _> = std::env::args_os()
        .skip(1)
        .map(std::ffi::OsString::into_string)
        .collect();
    let Ok(args) = args else {
        return refuse_usage("an argument is not valid UTF-8");
    };
    if args.first().is_some_and(|arg| arg == "inspect") {
        return inspect(&args[1..]);
    }
    let env: Vec<(String, String)> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    match config::load(&args, &env) {
        Ok(Action::Print(text)) => print(&text),
        Ok(Action::Serve(config)) => serve(&config),
        Err(Refusal {
            message,
            is_usage: true,
        }) => refuse_usage(&message),
        Err(refusal) => {
            // Nothing says how to log yet: as by default.
            match logging::start(&config::Log::default()) {
                Ok(logging) => fail(&logging, &refusal),
                Err(error) => refuse_usage(&format!("{refusal} (and cannot log: {error})")),
            }
        }
    }
}

fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn refuse_usage(message: &str) -> ExitCode {
    let _ = writeln!(io::stderr(), "{message}\n{}", config::usage());
    ExitCode::from(EXIT_USAGE)
}

fn fail(logging: &Logging, error: &dyn Error) -> ExitCode {
    tracing::error!(%error, "cannot start");
    logging.flush();
    ExitCode::FAILURE
}

/// `batond inspect <data-dir> [--entries]`; fails if something in it cannot be read.
fn inspect(args: &[String]) -> ExitCode {
    let (flags, dirs): (Vec<&str>, Vec<&str>) = args
        .iter()
        .map(String::as_str)
        .partition(|arg| arg.starts_with('-'));
    let shows_entries = match flags[..] {
        [] => Some(false),
        ["--entries" | "-entries"] => Some(true),
        _ => None,
    };
    let (Some(shows_entries), [dir]) = (shows_entries, &dirs[..]) else {
        return refuse_usage("inspect takes a data directory, and --entries to show entries too");
    };
    let found = batond::storage::inspect(Path::new(dir), shows_entries);
    let printed = print(&format!("{found:#}\n"));
    let is_damaged = ["identity", "log", "state"].map(|part| !found[part]["error"].is_null());
    if is_damaged.contains(&true) {
        return ExitCode::FAILURE;
    }
    printed
}

/// Runs a member until it is told to stop.
fn serve(config: &Config) -> ExitCode {
    let logging = match logging::start(&config.log) {
        Ok(logging) => logging,
        Err(error) => return refuse_usage(&error.to_string()),
    };
    #[cfg(feature = "chaos")]
    if let Err(error) = batond::chaos::start() {
        return refuse_usage(&error);
    }
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    log_config(config);
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return fail(&logging, &error),
    };
    let result = runtime.block_on(run(config, &logging));
    // What still waits on something waits in vain.
    runtime.shutdown_background();
    match result {
        Ok(()) => {
            tracing::info!("stopped");
            logging.flush();
            ExitCode::SUCCESS
        }
        Err(error) => fail(&logging, &*error),
    }
}

fn log_config(config: &Config) {
    let list = |urls: &[Url]| urls.iter().map(Url::as_str).collect::<Vec<_>>().join(",");
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    tracing::info!(
        "etcd-version" = ETCD_VERSION,
        "baton-version" = BATON_VERSION,
        name = config.name,
        "data-dir" = %config.data_dir.display(),
        "heartbeat-interval-ms" = millis(config.heartbeat_interval),
        "election-timeout-ms" = millis(config.election_timeout),
        "snapshot-count" = config.snapshot_count,
        "snapshot-catchup-entries" = config.snapshot_catchup_entries,
        "listen-peer-urls" = list(&config.listen_peer_urls),
        "listen-client-urls" = list(&config.listen_client_urls),
        "listen-metrics-urls" = list(&config.listen_metrics_urls),
        "advertise-client-urls" = list(&config.advertise_client_urls),
        "initial-advertise-peer-urls" = list(&config.initial_advertise_peer_urls),
        "initial-cluster-token" = config.initial_cluster_token,
        "quota-backend-bytes" = config.quota_backend_bytes,
        "rpc-threads" = config.rpc_threads,
        "starting a member"
    );
}

async fn run(config: &Config, logging: &Logging) -> Result<(), Box<dyn Error>> {
    let metrics = Metrics::install()?;
    let threads = Threads::start(config.rpc_threads)?;
    let mut stop_asked = listen_to_signals(&threads, logging);
    let clients = bind_clients(config)?;
    let monitors = bind_all(&config.listen_metrics_urls, config)?;

    // A start may wait for other members for as long as it takes.
    let mut member = tokio::select! {
        started = boot::start(config, fatal(logging)) => started?,
        _ = stop_asked.wait_for(|asked| *asked) => return Ok(()),
    };
    let core = member.node.core().clone();
    let calls = Calls::new(config.extensive_metrics);
    let http = Http::new(
        Probe::of(core.clone(), config.quota_backend_bytes),
        metrics.clone(),
        config.cors.clone(),
        config.host_whitelist.clone(),
    );
    let peers = member.serve_peers(http.clone(), calls.clone())?;
    let background = threads.runtimes().next();
    background.spawn(upkeep(metrics));
    background.spawn(count_leader_changes(core.clone()));

    let etcd = service::Services::new(
        core,
        Arc::clone(member.node.lessor()),
        service::Limits::of(config),
    );
    let routes = etcd.routes();
    background.spawn(async move { etcd.run().await });

    let services = Services {
        routes,
        calls,
        http,
        slow_call: config.warning_unary_request_duration,
    };
    let limits = Limits::of_clients(config);
    let monitors = monitors
        .into_iter()
        .map(|listener| (listener, Protocols::Http(Paths::Monitoring)));
    let monitors = Server::start(monitors.collect(), &services, &limits, threads.runtimes())?;

    tokio::select! {
        () = member.node.serve_ready(&member.options) => {}
        _ = stop_asked.wait_for(|asked| *asked) => {
            member.stop().await;
            return Ok(());
        }
    }
    tracing::info!("ready to serve client requests");
    for (listener, protocols) in &clients {
        log_listener(listener, *protocols)?;
    }
    let clients = Server::start(clients, &services, &limits, threads.runtimes())?;
    notify_supervisor("READY=1");

    let _ = stop_asked.wait_for(|asked| *asked).await;
    notify_supervisor("STOPPING=1");
    // Clients are served until another member leads and can take their requests.
    member.stop().await;
    clients.stop().await;
    monitors.stop().await;
    threads.stop();
    // Other members keep their streams open for good: nothing to wait for.
    drop(peers);
    Ok(())
}

/// Whatever the member can no longer keep its promises for.
fn fatal(logging: &Logging) -> Arc<dyn Fn(String) + Send + Sync> {
    let logging = logging.clone();
    Arc::new(move |error| {
        tracing::error!(error, "cannot go on");
        logging.flush();
        std::process::exit(1);
    })
}

/// Becomes true at the first SIGTERM or SIGINT; the second ends the process at once.
///
/// On a thread of its own, so that it works even if the core hangs.
fn listen_to_signals(threads: &Threads, logging: &Logging) -> watch::Receiver<bool> {
    let (asked, stop_asked) = watch::channel(false);
    let logging = logging.clone();
    threads.runtimes().next().spawn(async move {
        let (mut terminate, mut interrupt) = match (
            signal(SignalKind::terminate()),
            signal(SignalKind::interrupt()),
        ) {
            (Ok(terminate), Ok(interrupt)) => (terminate, interrupt),
            (Err(error), _) | (_, Err(error)) => {
                tracing::warn!(%error, "cannot listen to signals");
                return;
            }
        };
        loop {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            if asked.send_replace(true) {
                tracing::warn!(signal = name, "received a second signal; leaving at once");
                logging.flush();
                std::process::exit(1);
            }
            tracing::info!(signal = name, "received signal; shutting down");
        }
    });
    stop_asked
}

fn bind_all(urls: &[Url], config: &Config) -> io::Result<Vec<Listener>> {
    urls.iter()
        .map(|url| serve::bind(url, config.socket_reuse_port))
        .collect()
}

/// With listeners for HTTP of its own, the others are for gRPC alone.
fn bind_clients(config: &Config) -> io::Result<Vec<(Listener, Protocols)>> {
    let clients = bind_all(&config.listen_client_urls, config)?;
    let pages = bind_all(&config.listen_client_http_urls, config)?;
    let of_clients = if pages.is_empty() {
        Protocols::All(Paths::Client)
    } else {
        Protocols::Grpc
    };
    let clients = clients.into_iter().map(|listener| (listener, of_clients));
    let pages = pages
        .into_iter()
        .map(|listener| (listener, Protocols::Http(Paths::Client)));
    Ok(clients.chain(pages).collect())
}

fn log_listener(listener: &Listener, protocols: Protocols) -> io::Result<()> {
    let traffic = match protocols {
        Protocols::All(_) => "grpc+http",
        Protocols::Grpc => "grpc",
        Protocols::Http(_) => "http",
    };
    tracing::info!(
        traffic,
        address = listener.address()?,
        "serving client traffic insecurely; this is strongly discouraged!"
    );
    Ok(())
}

/// Tells the service manager, if there is one.
fn notify_supervisor(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let sent = UnixDatagram::unbound()
        .and_then(|socket| send_to(&socket, path.as_encoded_bytes(), state.as_bytes()));
    if let Err(error) = sent {
        tracing::warn!(%error, "cannot notify the service manager");
    }
}

/// A path that begins with `@` is a name outside of the file system.
fn send_to(socket: &UnixDatagram, path: &[u8], bytes: &[u8]) -> io::Result<usize> {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::net::SocketAddr;

    let address = match path.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path))?,
    };
    socket.send_to_addr(bytes, &address)
}

async fn upkeep(metrics: Metrics) -> Infallible {
    let mut tick = tokio::time::interval(UPKEEP_INTERVAL);
    loop {
        tick.tick().await;
        metrics.upkeep();
    }
}

async fn count_leader_changes(core: Core) {
    let mut leadership = core.leadership();
    let mut last = 0;
    loop {
        let leader = leadership.borrow_and_update().leader;
        if leader != 0 && leader != last {
            metrics::counter!("etcd_server_leader_changes_seen_total").increment(1);
        }
        last = leader;
        if leadership.changed().await.is_err() {
            return;
        }
    }
}
