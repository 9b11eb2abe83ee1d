//! One HTTP/2 connection, and whether a request ever left on it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::header::{HeaderName, HeaderValue, USER_AGENT};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tonic::body::Body;

use crate::address::{Address, Target};
use crate::{Error, Options, tls};

/// What a server may send on one stream before the client has taken it in.
const STREAM_WINDOW: u32 = 4 << 20;
/// The same for all streams of a connection together.
const CONNECTION_WINDOW: u32 = 16 << 20;

const TOKEN: HeaderName = HeaderName::from_static("token");
const REQUIRE_LEADER: HeaderName = HeaderName::from_static("hasleader");
const CLIENT_API_VERSION: HeaderName = HeaderName::from_static("client-api-version");
/// The version of the API this client speaks, as the server's metrics tell it.
const API_VERSION: HeaderValue = HeaderValue::from_static("3.6.0");
const AGENT: HeaderValue =
    HeaderValue::from_static(concat!("baton-client/", env!("CARGO_PKG_VERSION")));

/// How connections are opened.
pub(crate) struct Dialer {
    options: Arc<Options>,
    tls: tls::Ready,
}

impl Dialer {
    /// # Errors
    /// [`Error::Invalid`] if certificates or keys cannot be read.
    pub(crate) fn new(options: Arc<Options>) -> Result<Self, Error> {
        let tls = tls::Ready::new(&options.tls)?;
        Ok(Self { options, tls })
    }

    /// Connects, within the time the options give for it.
    ///
    /// # Errors
    /// Why not, for a person.
    pub(crate) async fn open(&self, address: Arc<Address>) -> Result<Connection, String> {
        let limit = self.options.connect_timeout;
        match tokio::time::timeout(limit, self.dial(&address)).await {
            Ok(Ok(send)) => Ok(Connection { send, address }),
            Ok(Err(error)) => Err(format!("{address}: {error}")),
            Err(_) => Err(format!("{address}: no connection within {limit:?}")),
        }
    }

    async fn dial(&self, address: &Address) -> Result<SendRequest<Body>, String> {
        match &address.target {
            Target::Tcp { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port))
                    .await
                    .map_err(|error| error.to_string())?;
                // Requests are small and waited for.
                stream
                    .set_nodelay(true)
                    .map_err(|error| error.to_string())?;
                self.secure(stream, address).await
            }
            Target::Unix(path) => {
                let stream = UnixStream::connect(path)
                    .await
                    .map_err(|error| error.to_string())?;
                self.secure(stream, address).await
            }
        }
    }

    async fn secure(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        address: &Address,
    ) -> Result<SendRequest<Body>, String> {
        if !address.tls {
            return self.handshake(stream).await;
        }
        let connector = self.tls.connector(&self.options.tls)?;
        let name = tls::server_name(&self.options.tls, &address.host)?;
        let stream = connector
            .connect(name, stream)
            .await
            .map_err(|error| error.to_string())?;
        self.handshake(stream).await
    }

    async fn handshake(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> Result<SendRequest<Body>, String> {
        let (send, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .keep_alive_interval(self.options.keep_alive)
            .keep_alive_timeout(self.options.keep_alive_timeout)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended");
            }
        });
        Ok(send)
    }
}

/// An open connection. Clones share it.
#[derive(Clone)]
pub(crate) struct Connection {
    send: SendRequest<Body>,
    address: Arc<Address>,
}

impl Connection {
    /// It takes no more requests.
    pub(crate) fn is_closed(&self) -> bool {
        self.send.is_closed()
    }
}

/// A failure below gRPC. It travels as the source of a [`tonic::Status`].
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// Not one byte of the request was sent.
    #[error("the connection was closed before the request was sent")]
    NotSent(#[source] hyper::Error),
    /// It may have arrived.
    #[error("the connection broke: {0}")]
    Broke(#[source] hyper::Error),
}

/// A connection with what is said beside every request: who asks, and whether the member has to know a
/// leader. The generated clients of [`pb`](crate::pb) send through it. See [`Client::raw`](crate::Client::raw).
#[derive(Clone)]
pub struct Raw {
    pub(crate) connection: Connection,
    pub(crate) token: Option<HeaderValue>,
    pub(crate) require_leader: bool,
}

impl std::fmt::Debug for Raw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Raw")
            .field("endpoint", &self.connection.address.text)
            .finish_non_exhaustive()
    }
}

impl tower::Service<http::Request<Body>> for Raw {
    type Response = http::Response<Incoming>;
    type Error = SendError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, SendError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let address = &self.connection.address;
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        parts.scheme = Some(address.scheme());
        parts.authority = Some(address.authority.clone());
        // Built from a path of the generated client and a checked authority: it is a URI.
        *request.uri_mut() = http::Uri::from_parts(parts).unwrap_or_default();
        let headers = request.headers_mut();
        headers.insert(USER_AGENT, AGENT);
        headers.insert(CLIENT_API_VERSION, API_VERSION);
        if self.require_leader {
            headers.insert(REQUIRE_LEADER, HeaderValue::from_static("true"));
        }
        if let Some(token) = &self.token {
            headers.insert(TOKEN, token.clone());
        }
        let sent = self.connection.send.try_send_request(request);
        Box::pin(async move {
            sent.await.map_err(|mut error| {
                // hyper gives the request back exactly if it never began to send it.
                if error.take_message().is_some() {
                    SendError::NotSent(error.into_error())
                } else {
                    SendError::Broke(error.into_error())
                }
            })
        })
    }
}
