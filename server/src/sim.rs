//! A network that exists only in memory, for clusters that run in one thread on paused time.
//!
//! Every frame is delayed by a time drawn from the seed; frames of one stream stay in order, as on TCP.
//! A cut link stalls its streams, and breaks them if it lasts. [Mishaps] befall single frames, some of
//! which TCP would never let happen: the protocol has to bear them all the same. Everything delivered
//! goes into a [trace](SimNet::trace): two runs of one seed give the same.
//!
//! The network lives in the runtime it was made in. Members may live in others.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use baton_proto::peer::{Call, Frame, Hello, Purpose, call, frame};
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt};
use parking_lot::Mutex;
use prost::Message;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

use crate::peer::{Accept, FRAMES_BUFFERED, PeerNet, PeerStream};

/// A stream over a link that stays cut this long breaks.
const STALL_MAX: Duration = Duration::from_secs(3);
/// How long a lost frame is late: until it is sent again.
const RETRANSMISSION: (Duration, Duration) =
    (Duration::from_millis(200), Duration::from_millis(800));
/// How much later than others of its stream a late frame may arrive.
const LATE_MAX: Duration = Duration::from_secs(2);
/// Questions remembered for each pair of members, to be asked again.
const REMEMBERED: usize = 64;
/// Set in the number of a question that is asked again, so that its reply is nobody's.
const ASKED_AGAIN: u64 = 1 << 63;

/// The network all members of a simulated cluster share.
#[derive(Clone)]
pub struct SimNet {
    runtime: Handle,
    inner: Arc<Mutex<Inner>>,
    /// Told whenever links or members may have changed.
    changed: watch::Sender<()>,
}

/// What befalls single frames; each is a chance between 0 and 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Mishaps {
    /// A frame is lost and sent again, and its stream waits for it.
    pub lost: f64,
    /// The stream breaks before the frame arrives.
    pub broken: f64,
    /// A question or its reply overtakes nothing and is overtaken.
    pub late: f64,
    /// A question or reply that may come twice does.
    pub twice: f64,
    /// A question that was asked before comes again.
    pub replayed: f64,
}

/// How often something happened to frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Counts {
    /// Frames that arrived, repeated ones included.
    pub delivered: u64,
    /// Snapshots that arrived whole.
    pub snapshots: u64,
    /// Frames that found their link cut.
    pub stalled: u64,
    /// Connections refused or timed out because of a cut.
    pub refused: u64,
    /// Frames that were sent again, see [`Mishaps::lost`].
    pub lost: u64,
    /// See [`Mishaps::broken`].
    pub broken: u64,
    /// See [`Mishaps::late`].
    pub late: u64,
    /// See [`Mishaps::twice`].
    pub twice: u64,
    /// See [`Mishaps::replayed`].
    pub replayed: u64,
    /// Snapshots that came again, see [`SimNet::replay_snapshot`].
    pub stale_snapshots: u64,
    /// Frames that took longer on a slow link, see [`SimNet::set_rate`].
    pub slowed: u64,
    /// Streams that were broken by [`SimNet::reset`].
    pub reset: u64,
}

struct Inner {
    rng: SmallRng,
    /// Shortest and longest time of a frame on its way.
    delay: (Duration, Duration),
    /// Bytes a second of members whose link is slow.
    rates: BTreeMap<u64, u64>,
    /// How often rates were set.
    rates_set: u64,
    mishaps: Mishaps,
    members: BTreeMap<u64, Endpoint>,
    /// Directed links that are cut.
    cut: BTreeSet<(u64, u64)>,
    starts: u64,
    /// Starts of members that lost power: nobody is told that they are gone.
    silent: BTreeSet<u64>,
    /// How often the connections of a member were reset.
    resets: BTreeMap<u64, u64>,
    started: Instant,
    trace: DefaultHasher,
    counts: Counts,
    asked: BTreeMap<(u64, u64), VecDeque<Call>>,
    /// The last snapshot each member was sent.
    snapshots: BTreeMap<u64, (Hello, Vec<Frame>)>,
}

#[derive(Clone)]
struct Endpoint {
    /// Which start of the member this is: streams of an earlier one are dead.
    start: u64,
    /// Missing while the member is still starting: it can call, but is not answering yet.
    accept: Option<Accept>,
}

/// What becomes of a frame that got through.
enum Fate {
    Arrives,
    Breaks,
    Late(Duration),
    Twice,
    Behind(Call),
}

impl SimNet {
    /// A whole network. Must be called in the runtime of the simulation.
    pub fn new(seed: u64, delay: (Duration, Duration)) -> Self {
        Self {
            runtime: Handle::current(),
            inner: Arc::new(Mutex::new(Inner {
                rng: SmallRng::seed_from_u64(seed),
                delay,
                rates: BTreeMap::new(),
                rates_set: 0,
                mishaps: Mishaps::default(),
                members: BTreeMap::new(),
                cut: BTreeSet::new(),
                starts: 0,
                silent: BTreeSet::new(),
                resets: BTreeMap::new(),
                started: Instant::now(),
                trace: DefaultHasher::new(),
                counts: Counts::default(),
                asked: BTreeMap::new(),
                snapshots: BTreeMap::new(),
            })),
            changed: watch::Sender::new(()),
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

    /// The member's process ended: its streams break and nothing it still sends arrives.
    pub fn leave(&self, member_id: u64) {
        self.inner.lock().members.remove(&member_id);
        self.changed.send_replace(());
    }

    /// The member's machine lost power: as [`leave`](Self::leave), but nobody is told. Others wait for it as long as for
    /// one behind a cut.
    pub fn vanish(&self, member_id: u64) {
        {
            let mut inner = self.inner.lock();
            if let Some(endpoint) = inner.members.remove(&member_id) {
                inner.silent.insert(endpoint.start);
            }
        }
        self.changed.send_replace(());
    }

    /// Breaks every stream of the member.
    pub fn reset(&self, member_id: u64) {
        *self.inner.lock().resets.entry(member_id).or_default() += 1;
        self.changed.send_replace(());
    }

    /// Cuts the directed links for which `is_cut` holds, and heals all others.
    pub fn cut(&self, is_cut: impl Fn(u64, u64) -> bool) {
        {
            let mut inner = self.inner.lock();
            let ids: Vec<u64> = inner.members.keys().copied().collect();
            inner.cut = ids
                .iter()
                .flat_map(|a| ids.iter().map(|b| (*a, *b)))
                .filter(|(a, b)| a != b && is_cut(*a, *b))
                .collect();
        }
        self.changed.send_replace(());
    }

    /// Cuts just these directed links, of members that run and of others.
    pub fn cut_links(&self, links: BTreeSet<(u64, u64)>) {
        self.inner.lock().cut = links;
        self.changed.send_replace(());
    }

    /// Shortest and longest time of a frame on its way, from now on.
    pub fn set_delay(&self, delay: (Duration, Duration)) {
        self.inner.lock().delay = delay;
    }

    /// Bytes a second that a member can send and receive; `None` for no limit.
    pub fn set_rate(&self, member_id: u64, bytes: Option<u64>) {
        {
            let mut inner = self.inner.lock();
            match bytes {
                Some(bytes) => inner.rates.insert(member_id, bytes.max(1)),
                None => inner.rates.remove(&member_id),
            };
            inner.rates_set += 1;
        }
        self.changed.send_replace(());
    }

    /// What befalls single frames from now on.
    pub fn set_mishaps(&self, mishaps: Mishaps) {
        self.inner.lock().mishaps = mishaps;
    }

    /// The last snapshot that was sent to the member arrives again, from whoever sent it. False if there is none, or the
    /// member is down.
    pub fn replay_snapshot(&self, member_id: u64) -> bool {
        let (accept, hello, frames) = {
            let inner = self.inner.lock();
            let accept = inner.members.get(&member_id).and_then(|m| m.accept.clone());
            let (Some(accept), Some((hello, frames))) = (accept, inner.snapshots.get(&member_id))
            else {
                return false;
            };
            (accept, *hello, frames.clone())
        };
        let (tx, mut answers) = mpsc::channel(FRAMES_BUFFERED);
        let stream = PeerStream {
            tx,
            rx: futures_util::stream::iter(frames).boxed(),
        };
        let accepted = accept(hello, stream).is_ok();
        if accepted {
            self.inner.lock().counts.stale_snapshots += 1;
            self.runtime
                .spawn(async move { while answers.recv().await.is_some() {} });
        }
        accepted
    }

    /// Adds something that happened to the trace.
    pub fn note(&self, what: impl Hash) {
        let _guard = self.runtime.enter();
        let mut inner = self.inner.lock();
        let at = inner.started.elapsed();
        (at, what).hash(&mut inner.trace);
    }

    /// A hash over everything that was delivered and noted, and how many frames were delivered.
    pub fn trace(&self) -> (u64, u64) {
        let inner = self.inner.lock();
        (inner.trace.finish(), inner.counts.delivered)
    }

    /// Snapshots that arrived whole.
    pub fn snapshots(&self) -> u64 {
        self.counts().snapshots
    }

    /// How often what happened.
    pub fn counts(&self) -> Counts {
        self.inner.lock().counts
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

    /// When a frame that is sent now arrives.
    fn arrival(&self, from: u64, to: u64, frame: &Frame, last: Instant) -> Instant {
        let mut at = Instant::now() + self.delay();
        let mut inner = self.inner.lock();
        let rate = [from, to].iter().filter_map(|m| inner.rates.get(m)).min();
        if let Some(rate) = rate {
            let nanos = frame.encoded_len() as u64 * 1_000_000_000 / rate;
            at = at.max(last) + Duration::from_nanos(nanos);
            inner.counts.slowed += 1;
        }
        let lost = inner.mishaps.lost;
        if inner.happens(lost) {
            inner.counts.lost += 1;
            at += inner.rng.random_range(RETRANSMISSION.0..=RETRANSMISSION.1);
        }
        at
    }

    /// Lets frames that are under way on a link that is not slow any more go as fast as others.
    fn hasten(&self, from: u64, to: u64, under_way: &mut VecDeque<(Instant, Frame)>) {
        let inner = self.inner.lock();
        if [from, to].iter().any(|m| inner.rates.contains_key(m)) {
            return;
        }
        let latest = Instant::now() + inner.delay.1;
        for (at, _) in under_way {
            *at = latest.min(*at);
        }
    }

    fn fate(&self, from: u64, to: u64, frame: &Frame) -> Fate {
        let mut inner = self.inner.lock();
        let mishaps = inner.mishaps;
        if mishaps == Mishaps::default() {
            return Fate::Arrives;
        }
        let paired = matches!(
            frame.kind,
            Some(frame::Kind::Call(_) | frame::Kind::Reply(_))
        );
        let repeatable = match &frame.kind {
            Some(frame::Kind::Call(call)) => is_repeatable(call),
            Some(frame::Kind::Reply(_)) => true,
            _ => false,
        };
        if inner.happens(mishaps.broken) {
            inner.counts.broken += 1;
            return Fate::Breaks;
        }
        if paired && inner.happens(mishaps.late) {
            inner.counts.late += 1;
            return Fate::Late(inner.rng.random_range(Duration::ZERO..=LATE_MAX));
        }
        if repeatable && inner.happens(mishaps.twice) {
            inner.counts.twice += 1;
            return Fate::Twice;
        }
        if let Some(frame::Kind::Call(call)) = &frame.kind
            && mishaps.replayed > 0.0
        {
            let asked = inner.asked.entry((from, to)).or_default();
            // A renewal of long ago would prolong a lease that nobody wants any more.
            let is_renewal = matches!(call.question, Some(call::Question::LeaseRenew(_)));
            if is_repeatable(call) && !is_renewal {
                asked.push_back(call.clone());
                if asked.len() > REMEMBERED {
                    asked.pop_front();
                }
            }
            let remembered = asked.len();
            if remembered > 0 && inner.happens(mishaps.replayed) {
                let which = inner.rng.random_range(0..remembered);
                let mut call = inner.asked[&(from, to)][which].clone();
                call.id |= ASKED_AGAIN;
                inner.counts.replayed += 1;
                return Fate::Behind(call);
            }
        }
        Fate::Arrives
    }

    fn start_of(&self, member_id: u64) -> Option<u64> {
        self.inner.lock().members.get(&member_id).map(|m| m.start)
    }

    fn is_cut(&self, from: u64, to: u64) -> bool {
        self.inner.lock().cut.contains(&(from, to))
    }

    fn delivered(&self, from: u64, to: u64, frame: &Frame) {
        let mut inner = self.inner.lock();
        inner.counts.delivered += 1;
        if let Some(frame::Kind::SnapshotEnd(_)) = frame.kind {
            inner.counts.snapshots += 1;
        }
        let at = inner.started.elapsed();
        (at, from, to, frame.encode_to_vec()).hash(&mut inner.trace);
    }

    /// Returns when a stream between these ends cannot go on.
    async fn broken(&self, from: End, to: End) {
        let mut changed = self.changed.subscribe();
        let resets = |inner: &Inner| {
            [from, to].map(|end| inner.resets.get(&end.member).copied().unwrap_or_default())
        };
        let before = resets(&self.inner.lock());
        loop {
            {
                let mut inner = self.inner.lock();
                let is_alive = |end: End| {
                    let start = inner.members.get(&end.member).map(|m| m.start);
                    start == Some(end.start)
                };
                if !is_alive(from) || !is_alive(to) {
                    return;
                }
                if resets(&inner) != before {
                    inner.counts.reset += 1;
                    return;
                }
            }
            // The sender is `self`.
            let _ = changed.changed().await;
        }
    }

    /// Whether one of the ends is gone and the other was not told.
    fn is_silent(&self, from: End, to: End) -> bool {
        let inner = self.inner.lock();
        [from, to]
            .iter()
            .any(|end| inner.silent.contains(&end.start))
    }

    /// Waits until frames get from one member to another; false if that takes too long.
    async fn whole(&self, from: u64, to: u64) -> bool {
        let mut changed = self.changed.subscribe();
        if !self.is_cut(from, to) {
            return true;
        }
        self.inner.lock().counts.stalled += 1;
        let healed = async {
            while self.is_cut(from, to) {
                let _ = changed.changed().await;
            }
        };
        tokio::time::timeout(STALL_MAX, healed).await.is_ok()
    }

    /// One direction of a stream.
    fn pipe(
        &self,
        from: End,
        to: End,
        hello: Hello,
        input: mpsc::Receiver<Frame>,
    ) -> BoxStream<'static, Frame> {
        let (tx, output) = mpsc::channel(FRAMES_BUFFERED);
        let net = self.clone();
        self.runtime.spawn(async move {
            tokio::select! {
                biased;
                () = net.broken(from, to) => {}
                () = net.carry(from, to, hello, input, &tx) => {}
            }
            if net.is_silent(from, to) {
                tokio::time::sleep(STALL_MAX).await;
            }
            drop(tx);
        });
        ReceiverStream::new(output).boxed()
    }

    async fn carry(
        &self,
        from: End,
        to: End,
        hello: Hello,
        mut input: mpsc::Receiver<Frame>,
        output: &mpsc::Sender<Frame>,
    ) {
        let (from, to) = (from.member, to.member);
        // Frames overlap on their way: each arrives at its own time, but never before the last.
        let mut under_way = VecDeque::<(Instant, Frame)>::new();
        let mut last = Instant::now();
        let mut snapshot = Vec::new();
        let mut open = true;
        let mut changed = self.changed.subscribe();
        let mut rates_set = self.inner.lock().rates_set;
        loop {
            let due = under_way.front().map(|(at, _)| *at);
            let arrives = async {
                match due {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let sent = tokio::select! {
                biased;
                sent = input.recv(), if open && under_way.len() < FRAMES_BUFFERED => Some(sent),
                // The sender is `self`.
                _ = changed.changed() => {
                    let set = self.inner.lock().rates_set;
                    if set != rates_set {
                        rates_set = set;
                        self.hasten(from, to, &mut under_way);
                        last = under_way.back().map_or_else(Instant::now, |(at, _)| *at);
                    }
                    continue;
                }
                () = arrives => None,
            };
            match sent {
                Some(Some(frame)) => {
                    last = self.arrival(from, to, &frame, last);
                    under_way.push_back((last, frame));
                    continue;
                }
                Some(None) => open = false,
                None => {}
            }
            if !open && under_way.is_empty() {
                return;
            }
            let is_due = due.is_some_and(|at| at <= Instant::now());
            let Some((_, frame)) = under_way.pop_front_if(|_| is_due) else {
                continue;
            };
            if !self.whole(from, to).await {
                return;
            }
            if hello.purpose() == Purpose::Snapshot && hello.from == from {
                self.remember_snapshot(hello, &mut snapshot, &frame);
            }
            match self.fate(from, to, &frame) {
                Fate::Arrives => {}
                Fate::Breaks => return,
                Fate::Late(by) => {
                    self.deliver_late(from, to, frame, by, output);
                    continue;
                }
                Fate::Twice => {
                    self.delivered(from, to, &frame);
                    if output.send(frame.clone()).await.is_err() {
                        return;
                    }
                }
                Fate::Behind(call) => {
                    let kind = Some(frame::Kind::Call(call));
                    let again = Frame { kind };
                    self.delivered(from, to, &again);
                    if output.send(again).await.is_err() {
                        return;
                    }
                }
            }
            self.delivered(from, to, &frame);
            if output.send(frame).await.is_err() {
                return;
            }
        }
    }

    fn deliver_late(
        &self,
        from: u64,
        to: u64,
        frame: Frame,
        by: Duration,
        output: &mpsc::Sender<Frame>,
    ) {
        let net = self.clone();
        // A stream that broke meanwhile takes the frame with it.
        let output = output.downgrade();
        self.runtime.spawn(async move {
            tokio::time::sleep(by).await;
            if !net.is_cut(from, to)
                && let Some(output) = output.upgrade()
            {
                net.delivered(from, to, &frame);
                let _ = output.send(frame).await;
            }
        });
    }

    fn remember_snapshot(&self, hello: Hello, frames: &mut Vec<Frame>, frame: &Frame) {
        match &frame.kind {
            Some(frame::Kind::SnapshotStart(_) | frame::Kind::SnapshotChunk(_)) => {
                frames.push(frame.clone());
            }
            Some(frame::Kind::SnapshotEnd(_)) => {
                frames.push(frame.clone());
                let snapshot = (hello, std::mem::take(frames));
                self.inner.lock().snapshots.insert(hello.to, snapshot);
            }
            _ => {}
        }
    }

    async fn connect(self, hello: Hello) -> io::Result<PeerStream> {
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        let start = self.start_of(hello.from).ok_or_else(refused)?;
        tokio::time::sleep(self.delay()).await;
        if self.is_cut(hello.from, hello.to) || self.is_cut(hello.to, hello.from) {
            self.inner.lock().counts.refused += 1;
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
            rx: self.pipe(near, far, hello, near_sent),
        };
        let accepted = accept(hello, far_stream);
        accepted.map_err(io::Error::other)?;
        Ok(PeerStream {
            tx: near_tx,
            rx: self.pipe(far, near, hello, far_sent),
        })
    }
}

impl Inner {
    fn happens(&mut self, chance: f64) -> bool {
        chance > 0.0 && self.rng.random_bool(chance)
    }
}

/// Whether a question may be asked twice, or again much later: it changes nothing, or says of which term it is and is refused
/// in another. A proposal is neither; that it comes once is left to the stream.
fn is_repeatable(call: &Call) -> bool {
    use call::Question;
    matches!(
        call.question,
        Some(
            Question::Vote(_)
                | Question::PreVote(_)
                | Question::Append(_)
                | Question::ReadIndex(_)
                | Question::LeaseRenew(_)
                | Question::LeaseRemaining(_)
                | Question::TookPart(_)
        )
    )
}

/// One end of a stream: a member in one of its starts.
#[derive(Clone, Copy)]
struct End {
    member: u64,
    start: u64,
}

impl PeerNet for SimNet {
    fn open(&self, _urls: Vec<String>, hello: Hello) -> BoxFuture<'static, io::Result<PeerStream>> {
        let opening = self.runtime.spawn(self.clone().connect(hello));
        async move { opening.await.unwrap_or_else(|e| Err(io::Error::other(e))) }.boxed()
    }
}
