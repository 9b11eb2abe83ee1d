//! A network that exists only in memory, for clusters that run in one thread on paused time.
//!
//! Every frame is delayed by a time drawn from the seed; frames of one stream stay in order, as on TCP.
//! A cut link stalls its streams, and breaks them if it lasts. Everything delivered goes into a
//! [trace](SimNet::trace): two runs of one seed give the same.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use baton_proto::peer::{Frame, Hello, frame};
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt};
use parking_lot::Mutex;
use prost::Message;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

use crate::peer::{Accept, FRAMES_BUFFERED, PeerNet, PeerStream};

/// A stream over a link that stays cut this long breaks.
const STALL_MAX: Duration = Duration::from_secs(3);
/// How often a stalled stream looks whether its link is whole again.
const STALL_STEP: Duration = Duration::from_millis(10);

/// The network all members of a simulated cluster share.
#[derive(Clone)]
pub struct SimNet {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    rng: SmallRng,
    /// Shortest and longest time of a frame on its way.
    delay: (Duration, Duration),
    members: BTreeMap<u64, Endpoint>,
    /// Directed links that are cut.
    cut: BTreeSet<(u64, u64)>,
    starts: u64,
    started: Instant,
    trace: DefaultHasher,
    delivered: u64,
    snapshots: u64,
}

#[derive(Clone)]
struct Endpoint {
    /// Which start of the member this is: streams of an earlier one are dead.
    start: u64,
    /// Missing while the member is still starting: it can call, but is not answering yet.
    accept: Option<Accept>,
}

impl SimNet {
    /// A whole network. Must be called in the runtime of the simulation.
    pub fn new(seed: u64, delay: (Duration, Duration)) -> Self {
        Self {
            inner: Arc::new(Mutex::new(Inner {
                rng: SmallRng::seed_from_u64(seed),
                delay,
                members: BTreeMap::new(),
                cut: BTreeSet::new(),
                starts: 0,
                started: Instant::now(),
                trace: DefaultHasher::new(),
                delivered: 0,
                snapshots: 0,
            })),
        }
    }

    /// The member starts: it can reach others from now on.
    pub fn join(&self, member_id: u64) {
        let mut inner = self.inner.lock();
        inner.starts += 1;
        let endpoint = Endpoint {
            start: inner.starts,
            accept: None,
        };
        inner.members.insert(member_id, endpoint);
    }

    /// The member can be reached from now on.
    pub fn serve(&self, member_id: u64, accept: Accept) {
        if let Some(endpoint) = self.inner.lock().members.get_mut(&member_id) {
            endpoint.accept = Some(accept);
        }
    }

    /// The member crashed: its streams break and nothing it still sends arrives.
    pub fn leave(&self, member_id: u64) {
        self.inner.lock().members.remove(&member_id);
    }

    /// Cuts the directed links for which `is_cut` holds, and heals all others.
    pub fn cut(&self, is_cut: impl Fn(u64, u64) -> bool) {
        let mut inner = self.inner.lock();
        let ids: Vec<u64> = inner.members.keys().copied().collect();
        inner.cut = ids
            .iter()
            .flat_map(|a| ids.iter().map(|b| (*a, *b)))
            .filter(|(a, b)| a != b && is_cut(*a, *b))
            .collect();
    }

    /// Adds something that happened to the trace.
    pub fn note(&self, what: impl Hash) {
        let mut inner = self.inner.lock();
        let at = inner.started.elapsed();
        (at, what).hash(&mut inner.trace);
    }

    /// A hash over everything that was delivered and noted, and how many frames were delivered.
    pub fn trace(&self) -> (u64, u64) {
        let inner = self.inner.lock();
        (inner.trace.finish(), inner.delivered)
    }

    /// Snapshots that arrived whole.
    pub fn snapshots(&self) -> u64 {
        self.inner.lock().snapshots
    }

    /// A number drawn from the seed, within `range`.
    pub fn draw(&self, range: std::ops::Range<u64>) -> u64 {
        self.inner.lock().rng.random_range(range)
    }

    fn delay(&self) -> Duration {
        let mut inner = self.inner.lock();
        let (shortest, longest) = inner.delay;
        inner.rng.random_range(shortest..=longest)
    }

    fn start_of(&self, member_id: u64) -> Option<u64> {
        self.inner.lock().members.get(&member_id).map(|m| m.start)
    }

    fn is_cut(&self, from: u64, to: u64) -> bool {
        self.inner.lock().cut.contains(&(from, to))
    }

    fn delivered(&self, from: u64, to: u64, frame: &Frame) {
        let mut inner = self.inner.lock();
        inner.delivered += 1;
        if let Some(frame::Kind::SnapshotEnd(_)) = frame.kind {
            inner.snapshots += 1;
        }
        let at = inner.started.elapsed();
        (at, from, to, frame.encode_to_vec()).hash(&mut inner.trace);
    }

    /// One direction of a stream.
    fn pipe(&self, from: End, to: End, input: mpsc::Receiver<Frame>) -> BoxStream<'static, Frame> {
        let (tx, output) = mpsc::channel(FRAMES_BUFFERED);
        tokio::spawn(self.clone().carry(from, to, input, tx));
        ReceiverStream::new(output).boxed()
    }

    async fn carry(
        self,
        from: End,
        to: End,
        mut input: mpsc::Receiver<Frame>,
        output: mpsc::Sender<Frame>,
    ) {
        // Frames overlap on their way: each arrives at its own time, but never before the last.
        let (queued, mut under_way) = mpsc::unbounded_channel::<(Instant, Frame)>();
        let net = self.clone();
        tokio::spawn(async move {
            while let Some(frame) = input.recv().await {
                let at = Instant::now() + net.delay();
                if queued.send((at, frame)).is_err() {
                    return;
                }
            }
        });
        while let Some((at, frame)) = under_way.recv().await {
            tokio::time::sleep_until(at).await;
            let mut stalled = Duration::ZERO;
            while self.is_cut(from.member, to.member) {
                if stalled >= STALL_MAX {
                    return;
                }
                tokio::time::sleep(STALL_STEP).await;
                stalled += STALL_STEP;
            }
            if self.start_of(from.member) != Some(from.start)
                || self.start_of(to.member) != Some(to.start)
            {
                return;
            }
            self.delivered(from.member, to.member, &frame);
            if output.send(frame).await.is_err() {
                return;
            }
        }
    }

    async fn connect(self, hello: Hello) -> io::Result<PeerStream> {
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        let start = self.start_of(hello.from).ok_or_else(refused)?;
        tokio::time::sleep(self.delay()).await;
        if self.is_cut(hello.from, hello.to) || self.is_cut(hello.to, hello.from) {
            tokio::time::sleep(Duration::from_millis(500)).await;
            return Err(io::Error::from(io::ErrorKind::TimedOut));
        }
        let endpoint = self.inner.lock().members.get(&hello.to).cloned();
        let endpoint = endpoint.ok_or_else(refused)?;
        let accept = endpoint.accept.ok_or_else(refused)?;
        let near = End {
            member: hello.from,
            start,
        };
        let far = End {
            member: hello.to,
            start: endpoint.start,
        };
        let (near_tx, near_sent) = mpsc::channel(FRAMES_BUFFERED);
        let (far_tx, far_sent) = mpsc::channel(FRAMES_BUFFERED);
        let kind = Some(frame::Kind::Hello(hello));
        self.delivered(hello.from, hello.to, &Frame { kind });
        let far_stream = PeerStream {
            tx: far_tx,
            rx: self.pipe(near, far, near_sent),
        };
        let accepted = accept(hello, far_stream);
        accepted.map_err(io::Error::other)?;
        Ok(PeerStream {
            tx: near_tx,
            rx: self.pipe(far, near, far_sent),
        })
    }
}

/// One end of a stream: a member in one of its starts.
#[derive(Clone, Copy)]
struct End {
    member: u64,
    start: u64,
}

impl PeerNet for SimNet {
    fn open(&self, _urls: Vec<String>, hello: Hello) -> BoxFuture<'static, io::Result<PeerStream>> {
        self.clone().connect(hello).boxed()
    }
}
