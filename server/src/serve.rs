//! Listeners: gRPC and plain HTTP on one port, over HTTP/1.1 and HTTP/2.
//!
//! Every connection is served by one of a few threads, each with a runtime of its own, so that
//! the calls of a connection never move between cores. This module knows bytes, paths and status
//! codes; what a call means is the services' business.

mod authority;
mod grpc;
mod listen;

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, Version};
use http_body_util::Full;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::{Builder, Handle};
use tokio::sync::{mpsc, oneshot, watch};
use tonic::service::Routes;

use crate::config::Config;
use crate::http::{Http, Paths};
use crate::metrics::Calls;

use authority::Mended;
use listen::Socket;
pub use listen::{Listener, bind};

const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// Half of it is what a connection may have in small messages that are not read yet, each counted as a
/// quarter of a kilobyte; beyond, it is taken for an attack and closed. A client that keeps 100,000
/// leases alive, or opens as many watches, sends as many small messages at once.
const CONNECTION_WINDOW_BYTES: u32 = 256 << 20;
/// A client that gives up many calls at once is not an attack yet.
const RESET_STREAMS_PENDING_MAX: usize = 4096;
/// Tokens and the like; what Go's server takes.
const HEADER_BYTES_MAX: u32 = 1 << 20;
/// How long a client that was told to go away may finish the calls it is in.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(500);
/// Pause after a failure to accept: mostly there are no descriptors left, and no event says when
/// there are again.
const ACCEPT_RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Runtimes that take turns at serving connections. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Runtimes {
    handles: Arc<[Handle]>,
    next: Arc<AtomicUsize>,
}

impl Runtimes {
    fn new(handles: Vec<Handle>) -> Self {
        Self {
            handles: handles.into(),
            next: Arc::default(),
        }
    }

    /// Just this one.
    pub fn one(handle: Handle) -> Self {
        Self::new(vec![handle])
    }

    /// The one whose turn it is.
    pub fn next(&self) -> &Handle {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        &self.handles[turn % self.handles.len()]
    }
}

/// Threads with a runtime each.
#[derive(Debug)]
pub struct Threads {
    threads: Vec<Thread>,
    runtimes: Runtimes,
}

#[derive(Debug)]
struct Thread {
    runtime: Handle,
    /// Dropped, it ends the thread.
    running: oneshot::Sender<Infallible>,
    join: JoinHandle<()>,
}

impl Threads {
    /// Starts `count` of them, at least one.
    ///
    /// # Errors
    /// The system refuses a thread or a runtime.
    pub fn start(count: usize) -> io::Result<Self> {
        let threads = (0..count.max(1))
            .map(Thread::start)
            .collect::<io::Result<Vec<_>>>()?;
        let handles = threads.iter().map(|thread| thread.runtime.clone());
        Ok(Self {
            runtimes: Runtimes::new(handles.collect()),
            threads,
        })
    }

    /// Their runtimes.
    pub fn runtimes(&self) -> &Runtimes {
        &self.runtimes
    }

    /// Ends them; tasks are dropped where they wait.
    pub fn stop(self) {
        for thread in self.threads {
            drop(thread.running);
            let _ = thread.join.join();
        }
    }
}

impl Thread {
    #[allow(clippy::disallowed_methods)] // Outside of simulation: there, services are called directly.
    fn start(number: usize) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (running, stopped) = oneshot::channel::<Infallible>();
        let join = std::thread::Builder::new()
            .name(format!("rpc-{number}"))
            .spawn(move || {
                let _ = runtime.block_on(stopped);
                runtime.shutdown_background();
            })?;
        Ok(Self {
            runtime: handle,
            running,
            join,
        })
    }
}

/// What a listener answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocols {
    /// gRPC and plain HTTP.
    All(Paths),
    /// gRPC alone.
    Grpc,
    /// Plain HTTP alone.
    Http(Paths),
}

/// What a connection may ask for, and how long it may be silent.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Calls in flight on one connection.
    pub streams: u32,
    /// Idle time after which the other side is pinged; `None` is never.
    pub ping_interval: Option<Duration>,
    /// Time the other side has to answer.
    pub ping_timeout: Duration,
}

impl Limits {
    /// Those that clients were given.
    pub fn of_clients(config: &Config) -> Self {
        Self {
            streams: config.max_concurrent_streams,
            ping_interval: config.grpc_keepalive_interval,
            ping_timeout: config.grpc_keepalive_timeout,
        }
    }

    /// Those of other members, who hold few streams and ping by themselves.
    pub fn of_members() -> Self {
        Self {
            streams: u32::MAX,
            ping_interval: Some(Duration::from_secs(2)),
            ping_timeout: Duration::from_secs(3),
        }
    }
}

/// What is served, the same on every listener.
#[derive(Clone)]
pub struct Services {
    /// The gRPC services.
    pub routes: Routes,
    /// Counts calls.
    pub calls: Calls,
    /// Plain HTTP.
    pub http: Http,
    /// Calls that take longer are logged.
    pub slow_call: Option<Duration>,
}

/// Listeners at work.
#[derive(Debug)]
pub struct Server {
    closing: watch::Sender<bool>,
    /// Ends when the last connection has ended, and the last call of one.
    connections: mpsc::Receiver<Infallible>,
}

impl Server {
    /// Starts accepting on `listeners`.
    ///
    /// # Errors
    /// A listener cannot be registered with its runtime.
    pub fn start(
        listeners: Vec<(Listener, Protocols)>,
        services: &Services,
        limits: &Limits,
        runtimes: &Runtimes,
    ) -> io::Result<Self> {
        let (closing, _) = watch::channel(false);
        let (alive, connections) = mpsc::channel(1);
        let connection_builder = Arc::new(connection_builder(limits, &alive));
        for (listener, protocols) in listeners {
            let door = Door {
                protocols,
                services: services.clone(),
                builder: Arc::clone(&connection_builder),
                closing: closing.subscribe(),
                alive: alive.clone(),
            };
            let runtime = runtimes.next();
            let listener = {
                let _context = runtime.enter();
                listener.register()?
            };
            runtime.spawn(accept(listener, door, runtimes.clone()));
        }
        Ok(Self {
            closing,
            connections,
        })
    }

    /// Stops accepting, tells clients to go elsewhere, and waits a moment for the calls they are in.
    pub async fn stop(mut self) {
        self.closing.send_replace(true);
        if tokio::time::timeout(DRAIN_TIMEOUT, self.connections.recv())
            .await
            .is_err()
        {
            tracing::info!("closing connections with calls still in progress");
        }
    }
}

/// Spawns the calls of a connection. They end after it: each is told by its own wake-up.
#[derive(Clone, Debug)]
struct Spawner {
    alive: mpsc::Sender<Infallible>,
}

impl<F> hyper::rt::Executor<F> for Spawner
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, call: F) {
        let alive = self.alive.clone();
        tokio::spawn(async move {
            call.await;
            drop(alive);
        });
    }
}

fn connection_builder(limits: &Limits, alive: &mpsc::Sender<Infallible>) -> auto::Builder<Spawner> {
    let mut builder = auto::Builder::new(Spawner {
        alive: alive.clone(),
    });
    builder.http1().timer(TokioTimer::new());
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(limits.streams)
        .max_pending_accept_reset_streams(RESET_STREAMS_PENDING_MAX)
        .max_header_list_size(HEADER_BYTES_MAX)
        .keep_alive_interval(limits.ping_interval)
        .keep_alive_timeout(limits.ping_timeout);
    builder
}

/// What every connection of a listener is given.
#[derive(Clone)]
struct Door {
    protocols: Protocols,
    services: Services,
    builder: Arc<auto::Builder<Spawner>>,
    closing: watch::Receiver<bool>,
    alive: mpsc::Sender<Infallible>,
}

async fn accept(listener: listen::Registered, door: Door, runtimes: Runtimes) {
    let mut closing = door.closing.clone();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = closing.wait_for(|is_closing| *is_closing) => return,
        };
        match accepted {
            Ok(socket) => {
                runtimes.next().spawn(welcome(socket, door.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_RETRY_PAUSE).await;
            }
        }
    }
}

/// Takes over a socket on the thread that will serve it.
async fn welcome(socket: Socket, door: Door) {
    let served = match socket {
        Socket::Tcp(socket) => match tokio::net::TcpStream::from_std(socket) {
            Ok(stream) => serve(stream, door).await,
            Err(error) => Err(error.into()),
        },
        Socket::Unix(socket) => match tokio::net::UnixStream::from_std(socket) {
            Ok(stream) => serve(stream, door).await,
            Err(error) => Err(error.into()),
        },
    };
    if let Err(error) = served {
        tracing::debug!(error, "a connection ended with an error");
    }
}

async fn serve<S>(stream: S, door: Door) -> Result<(), Box<dyn std::error::Error + Send + Sync>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Door {
        protocols,
        services,
        builder,
        mut closing,
        alive: _alive,
    } = door;
    let service = service_fn(move |request| {
        let services = services.clone();
        async move { Ok::<_, Infallible>(answer(protocols, services, request).await) }
    });
    let connection = builder.serve_connection(TokioIo::new(Mended::new(stream)), service);
    tokio::pin!(connection);
    tokio::select! {
        result = connection.as_mut() => return result,
        _ = closing.wait_for(|is_closing| *is_closing) => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}

async fn answer(
    protocols: Protocols,
    services: Services,
    request: Request<Incoming>,
) -> Response<Body> {
    let (paths, is_grpc_served) = match protocols {
        Protocols::All(paths) => (Some(paths), true),
        Protocols::Grpc => (None, true),
        Protocols::Http(paths) => (Some(paths), false),
    };
    if is_grpc_served && is_grpc(&request) {
        let Services {
            routes,
            calls,
            slow_call,
            ..
        } = services;
        let answer = grpc::answer(routes, &calls, slow_call, request).await;
        return answer.map(Body::Grpc);
    }
    match paths {
        Some(paths) => {
            let (request, _) = request.into_parts();
            let Ok(answer) = services.http.answer(paths, &request).await;
            answer.map(Body::Http)
        }
        None => {
            let mut answer = Response::new(Body::Http(Full::default()));
            *answer.status_mut() = http::StatusCode::NOT_FOUND;
            answer
        }
    }
}

/// Has a gRPC call of a connection answered that no listener accepted, such as one in memory.
pub async fn answer_grpc(
    routes: Routes,
    calls: &Calls,
    request: Request<Incoming>,
) -> Response<impl hyper::body::Body<Data = Bytes, Error = tonic::Status> + use<>> {
    grpc::answer(routes, calls, None, request).await
}

fn is_grpc(request: &Request<Incoming>) -> bool {
    request.version() == Version::HTTP_2
        && request
            .headers()
            .get(http::header::CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// The body of an answer.
enum Body {
    Grpc(grpc::Counted),
    Http(Full<Bytes>),
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        match self.get_mut() {
            Self::Grpc(body) => Pin::new(body).poll_frame(context),
            Self::Http(body) => Pin::new(body)
                .poll_frame(context)
                .map_err(|never| match never {}),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Grpc(body) => body.is_end_stream(),
            Self::Http(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Grpc(body) => body.size_hint(),
            Self::Http(body) => body.size_hint(),
        }
    }
}

/// `name` in headers or trailers, if it is text.
fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

#[cfg(test)]
mod tests;
