use std::net::TcpStream;
use std::os::unix::net::UnixStream;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::Code;
use tonic::transport::Channel;
use tonic_health::ServingStatus;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::*;
use crate::config::Url;
use crate::http::Probe;
use crate::metrics::{Facts, Metrics};

/// A server of one listener, with the health service for gRPC.
struct Running {
    address: String,
    server: Server,
    threads: Threads,
    metrics: Metrics,
}

fn probe() -> Probe {
    Probe {
        facts: Box::new(|| Facts {
            leader: 1,
            ..Facts::default()
        }),
        local_read: Box::new(|| Ok(())),
        linearizable_read: Box::new(|| Box::pin(async { Ok(()) })),
        members: Box::new(Vec::new),
        state_hashes: Box::new(|_| Vec::new()),
    }
}

async fn start(url: &str, protocols: Protocols) -> Running {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter
        .set_service_status("", ServingStatus::Serving)
        .await;
    let (recorder, metrics) = Metrics::local();
    let calls = ::metrics::with_local_recorder(&recorder, || Calls::new(false));
    let services = Services {
        routes: Routes::new(health),
        calls,
        http: Http::new(probe(), metrics.clone(), Vec::new(), Vec::new()),
        slow_call: None,
    };
    let listener = bind(&Url::parse(url).unwrap(), false).unwrap();
    let address = listener.address().unwrap();
    let threads = Threads::start(2).unwrap();
    let listeners = vec![(listener, protocols)];
    let server = Server::start(
        listeners,
        &services,
        &Limits::of_members(),
        threads.runtimes(),
    )
    .unwrap();
    Running {
        address,
        server,
        threads,
        metrics,
    }
}

async fn start_local(protocols: Protocols) -> Running {
    start("http://127.0.0.1:0", protocols).await
}

impl Running {
    async fn grpc(&self) -> HealthClient<Channel> {
        let url = format!("http://{}", self.address);
        let channel = Channel::from_shared(url).unwrap().connect().await;
        HealthClient::new(channel.unwrap())
    }

    async fn http1(&self, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(&self.address).await.unwrap();
        exchange(&mut stream, path).await
    }

    /// Waits for every connection to end, then returns the line of a metric.
    async fn stop_and_read(self, metric: &str) -> String {
        self.server.stop().await;
        let text = self.metrics.render(&Facts::default());
        let line = text.lines().find(|line| line.starts_with(metric));
        line.unwrap_or_else(|| panic!("no {metric} in {text}"))
            .to_owned()
    }
}

async fn exchange(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

fn question(service: &str) -> HealthCheckRequest {
    HealthCheckRequest {
        service: service.to_owned(),
    }
}

#[tokio::test]
async fn one_port_answers_grpc_and_plain_http() {
    let running = start_local(Protocols::All(Paths::Client)).await;
    let answer = running.grpc().await.check(question("")).await.unwrap();
    assert_eq!(answer.into_inner().status, 1);
    let answer = running.http1("/health").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with(r#"{"health":"true","reason":""}"#));
}

#[tokio::test]
async fn a_port_for_grpc_alone_has_no_pages() {
    let running = start_local(Protocols::Grpc).await;
    running.grpc().await.check(question("")).await.unwrap();
    let answer = running.http1("/health").await;
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
}

#[tokio::test]
async fn a_port_for_http_alone_serves_no_calls() {
    let running = start_local(Protocols::Http(Paths::Monitoring)).await;
    assert!(running.grpc().await.check(question("")).await.is_err());
    let answer = running.http1("/version").await;
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
}

#[tokio::test]
async fn a_socket_in_the_file_system_is_served_and_removed_at_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("b.sock");
    // What a killed process leaves behind.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let running = start(
        &format!("unix://{}", path.display()),
        Protocols::All(Paths::Client),
    )
    .await;
    let stream = UnixStream::connect(&path).unwrap();
    stream.set_nonblocking(true).unwrap();
    let mut stream = tokio::net::UnixStream::from_std(stream).unwrap();
    assert!(exchange(&mut stream, "/livez").await.ends_with("ok\n"));
    running.server.stop().await;
    running.threads.stop();
    assert!(!path.exists());
}

#[tokio::test]
async fn calls_are_counted_by_their_outcome() {
    let running = start_local(Protocols::All(Paths::Client)).await;
    let mut client = running.grpc().await;
    client.check(question("")).await.unwrap();
    client.check(question("nobody")).await.unwrap_err();
    drop(client);
    let handled = |code: &str| {
        format!(
            "grpc_server_handled_total{{grpc_code=\"{code}\",grpc_method=\"Check\",\
             grpc_service=\"grpc.health.v1.Health\",grpc_type=\"unary\"}} "
        )
    };
    let metrics = running.metrics.clone();
    let line = running.stop_and_read(&handled("OK")).await;
    assert!(line.ends_with(" 1"), "{line}");
    let text = metrics.render(&Facts::default());
    assert!(text.contains(&format!("{}1\n", handled("NotFound"))));
}

#[tokio::test]
async fn a_stream_its_caller_left_counts_as_canceled() {
    let running = start_local(Protocols::All(Paths::Client)).await;
    let mut client = running.grpc().await;
    let mut stream = client.watch(question("")).await.unwrap().into_inner();
    assert!(stream.message().await.unwrap().is_some());
    drop(stream);
    drop(client);
    let metric = "grpc_server_handled_total{grpc_code=\"Canceled\",grpc_method=\"Watch\",\
                  grpc_service=\"grpc.health.v1.Health\"";
    let line = running.stop_and_read(metric).await;
    assert!(line.ends_with(" 1"), "{line}");
}

#[tokio::test]
async fn a_message_over_the_limit_is_refused_and_the_next_one_is_served() {
    let running = start_local(Protocols::All(Paths::Client)).await;
    let mut client = running.grpc().await;
    let refusal = client
        .check(question(&"x".repeat(5 << 20)))
        .await
        .unwrap_err();
    assert_eq!(refusal.code(), Code::ResourceExhausted);
    assert_eq!(
        refusal.message(),
        "grpc: received message larger than max (5242885 vs. 4194304)"
    );
    client.check(question("")).await.unwrap();
}

#[tokio::test]
async fn bytes_that_are_no_protocol_end_only_their_own_connection() {
    let running = start_local(Protocols::All(Paths::Client)).await;
    let mut stream = tokio::net::TcpStream::connect(&running.address)
        .await
        .unwrap();
    stream.write_all(&[0xff; 64]).await.unwrap();
    let mut answer = Vec::new();
    // Refused or reset, as the system likes.
    let _ = stream.read_to_end(&mut answer).await;
    running.grpc().await.check(question("")).await.unwrap();
}

#[tokio::test]
async fn a_stopped_server_accepts_nobody_and_lets_go_of_idle_clients() {
    let running = start_local(Protocols::All(Paths::Client)).await;
    let mut client = running.grpc().await;
    client.check(question("")).await.unwrap();
    running.server.stop().await;
    running.threads.stop();
    assert!(TcpStream::connect(&running.address).is_err());
}

#[test]
fn a_taken_port_is_refused_in_the_words_of_go() {
    let taken = bind(&Url::parse("http://127.0.0.1:0").unwrap(), false).unwrap();
    let address = taken.address().unwrap();
    let url = Url::parse(&format!("http://{address}")).unwrap();
    let refusal = bind(&url, false).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        format!("listen tcp {address}: bind: address already in use")
    );
}
