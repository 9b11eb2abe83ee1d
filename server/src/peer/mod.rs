//! How members reach each other: streams of frames, one per peer and purpose.
//!
//! [`PeerNet`] is the seam: the real one carries frames over gRPC, the simulated one over seeded
//! channels. Everything above it, calls with their replies included, is the same in both.

mod accept;
mod calls;
mod grpc;
mod traffic;

pub use accept::Acceptor;
pub use calls::{CallError, Peers};
pub use grpc::{Accept, GrpcNet, serve};
pub use traffic::{Direction, Transfer};

use std::io;

use baton_proto::peer::{Frame, Hello};
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use tokio::sync::mpsc;

/// Lowest and highest version of the peer protocol this build speaks.
pub const PROTOCOL_VERSIONS: (u32, u32) = (1, 1);

/// Frames under way in one direction before the sender waits.
pub const FRAMES_BUFFERED: usize = 256;

/// One open stream between two members.
pub struct PeerStream {
    /// Towards the other member. Dropping it ends the stream.
    pub tx: mpsc::Sender<Frame>,
    /// From the other member; ends when the stream breaks.
    pub rx: BoxStream<'static, Frame>,
}

/// Opens streams to other members.
pub trait PeerNet: Send + Sync + 'static {
    /// Opens a stream to the member reached at one of `urls` and sends `hello` first.
    ///
    /// # Errors
    /// If nobody answers there, or whoever answers is of another cluster or is another member.
    fn open(&self, urls: Vec<String>, hello: Hello) -> BoxFuture<'static, io::Result<PeerStream>>;
}
