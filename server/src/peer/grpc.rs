//! Frames over gRPC: HTTP/2 carries many streams on one connection per peer.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use baton_proto::peer::peer_client::PeerClient;
use baton_proto::peer::peer_server::{Peer, PeerServer};
use baton_proto::peer::{Frame, Hello, frame};
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, Streaming};

use super::traffic::Traffic;
use super::{FRAMES_BUFFERED, PeerNet, PeerStream};

/// Largest frame taken: a snapshot chunk or a batch of entries stays far below, one entry of the
/// largest allowed request may not.
const FRAME_BYTES_MAX: usize = 512 << 20;

/// The real network.
#[derive(Clone, Default)]
pub struct GrpcNet {
    channels: Arc<Mutex<BTreeMap<String, Channel>>>,
}

impl GrpcNet {
    fn channel(&self, url: &str) -> io::Result<Channel> {
        let mut channels = self.channels.lock();
        if let Some(channel) = channels.get(url) {
            return Ok(channel.clone());
        }
        let endpoint = Endpoint::from_shared(url.to_owned())
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?
            .tcp_nodelay(true)
            .connect_timeout(Duration::from_secs(1))
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(16 << 20)
            // A peer that vanished without a word is noticed by the missing pong.
            .http2_keep_alive_interval(Duration::from_secs(2))
            .keep_alive_timeout(Duration::from_secs(3));
        let channel = endpoint.connect_lazy();
        channels.insert(url.to_owned(), channel.clone());
        Ok(channel)
    }

    async fn open_one(&self, url: &str, hello: Hello) -> io::Result<PeerStream> {
        let mut client = PeerClient::new(self.channel(url)?)
            .max_decoding_message_size(FRAME_BYTES_MAX)
            .max_encoding_message_size(FRAME_BYTES_MAX);
        let (tx, outgoing) = mpsc::channel(FRAMES_BUFFERED);
        let first = Frame {
            kind: Some(frame::Kind::Hello(hello)),
        };
        let _ = tx.send(first).await;
        let traffic = Traffic::with(hello.to);
        let sent = traffic.clone();
        let response = client
            .stream(ReceiverStream::new(outgoing).inspect(move |frame| sent.sent(frame)))
            .await
            .map_err(io::Error::other)?;
        let incoming = response.into_inner();
        Ok(PeerStream {
            tx,
            rx: until_error(incoming, traffic),
        })
    }
}

fn until_error(incoming: Streaming<Frame>, traffic: Traffic) -> BoxStream<'static, Frame> {
    futures_util::stream::unfold(incoming, |mut incoming| async move {
        let frame = incoming.message().await.ok()??;
        Some((frame, incoming))
    })
    .inspect(move |frame| traffic.received(frame))
    .boxed()
}

impl PeerNet for GrpcNet {
    fn open(&self, urls: Vec<String>, hello: Hello) -> BoxFuture<'static, io::Result<PeerStream>> {
        let net = self.clone();
        async move {
            let mut last = io::Error::other("the member has no peer URL");
            for url in urls {
                match net.open_one(&url, hello).await {
                    Ok(stream) => return Ok(stream),
                    Err(error) => last = error,
                }
            }
            Err(last)
        }
        .boxed()
    }
}

/// Takes a stream another member opened: its hello, and both directions.
pub type Accept = Arc<dyn Fn(Hello, PeerStream) -> Result<(), String> + Send + Sync>;

struct Service {
    accept: Accept,
}

#[tonic::async_trait]
impl Peer for Service {
    type StreamStream = BoxStream<'static, Result<Frame, Status>>;

    async fn stream(
        &self,
        request: Request<Streaming<Frame>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let mut incoming = request.into_inner();
        let Some(Frame {
            kind: Some(frame::Kind::Hello(hello)),
        }) = incoming.message().await?
        else {
            return Err(Status::invalid_argument("a stream opens with hello"));
        };
        let (tx, outgoing) = mpsc::channel(FRAMES_BUFFERED);
        let traffic = Traffic::with(hello.from);
        let stream = PeerStream {
            tx,
            rx: until_error(incoming, traffic.clone()),
        };
        (self.accept)(hello, stream).map_err(Status::failed_precondition)?;
        let outgoing = ReceiverStream::new(outgoing).inspect(move |frame| traffic.sent(frame));
        Ok(Response::new(outgoing.map(Ok).boxed()))
    }
}

/// The gRPC service that hands streams of other members to `accept`.
pub fn serve(accept: Accept) -> tonic::service::Routes {
    let service = PeerServer::new(Service { accept })
        .max_decoding_message_size(FRAME_BYTES_MAX)
        .max_encoding_message_size(FRAME_BYTES_MAX);
    tonic::service::Routes::new(service)
}
