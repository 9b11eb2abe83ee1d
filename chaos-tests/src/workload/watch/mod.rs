//! Watches of every kind, cut and taken up again at other members, beside writers that give them something to see.
//!
//! A client that watches takes one turn after another: it follows one watch from member to member, has many watchers on one
//! stream, or plays with ids. It always reads what it is sent in the end: a pause of a slow reader is far below the time that
//! the checker of watches gives an event to arrive, and where the load ends it reads until it has come to the newest write.

pub(crate) mod wish;
mod writers;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use baton_proto::etcdserverpb as pb;
use rand::Rng;
use rand::rngs::SmallRng;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::Status;

pub use self::wish::{Place, prefix};

use self::writers::Newest;
use super::Context;
use super::stream::Stream;

/// Its name in histories.
pub const WORKLOAD: &str = "watch";

/// The longest a watcher reads on after the load has ended.
const READ_ON: Duration = Duration::from_secs(12);

/// The longest time a reader does not read.
const SLOW: Duration = Duration::from_millis(2500);

/// Runs `clients` clients that watch, and a third as many that write.
pub async fn run(context: Context, clients: u32) {
    let newest = Newest::default();
    let mut tasks = JoinSet::new();
    for writer in 0..clients.div_ceil(3) {
        tasks.spawn(writers::run(context.clone(), writer, newest.clone()));
    }
    for number in 0..clients {
        let chance = context.chance(&format!("{WORKLOAD}/{number}"));
        let watching = Watching {
            context: context.clone(),
            chance,
            newest: newest.clone(),
        };
        tasks.spawn(watching.run());
    }
    tasks.join_all().await;
}

/// A client that watches.
struct Watching {
    context: Context,
    chance: SmallRng,
    newest: Newest,
}

/// How a turn at a stream is taken.
struct Manner {
    /// When it ends.
    until: Instant,
    /// How many messages it takes at most.
    messages: u32,
    /// How likely it is that the client asks for progress after a message.
    asks: f64,
    /// The longest pause between two messages.
    pause: Duration,
}

/// Why a turn ended.
enum Ended {
    /// The client has had enough of it.
    Enough,
    /// The stream is gone, or nobody is left on it.
    Gone,
}

impl Watching {
    async fn run(mut self) {
        while !self.context.stopped() {
            match self.chance.random_range(0..10) {
                0..=6 => self.wander().await,
                7..=8 => self.crowd().await,
                _ => self.ids().await,
            }
            self.context.rest(&mut self.chance).await;
        }
    }

    fn manner(&mut self) -> Manner {
        let chance = &mut self.chance;
        Manner {
            until: Instant::now() + Duration::from_millis(chance.random_range(20..3000)),
            messages: if chance.random_bool(0.5) {
                chance.random_range(1..20)
            } else {
                u32::MAX
            },
            asks: [0.0, 0.05, 0.3][chance.random_range(0..3)],
            pause: match chance.random_range(0..6) {
                0 => SLOW,
                1..=2 => Duration::from_millis(20),
                _ => Duration::ZERO,
            },
        }
    }

    /// One watch, followed from member to member.
    async fn wander(&mut self) {
        let watcher = self.context.recorder.next_watcher();
        let wish = wish::draw(&mut self.chance, self.newest.get());
        let mut place = Place::of(&wish, self.chance.random_bool(0.5));
        let sittings = self.chance.random_range(1..8);
        for _ in 0..sittings {
            if self.context.stopped() {
                return;
            }
            let member = self.context.any_member(&mut self.chance);
            let create = pb::WatchCreateRequest {
                start_revision: place.next,
                ..wish.clone()
            };
            let opened = Stream::open(&self.context, WORKLOAD, member, watcher, create).await;
            let Ok(stream) = opened else {
                self.context.rest(&mut self.chance).await;
                continue;
            };
            let manner = self.manner();
            let mut places = BTreeMap::from([(watcher, place)]);
            self.sit(stream, &mut places, &manner).await;
            let overtaken = places.remove(&watcher);
            place = overtaken.unwrap_or(place);
        }
    }

    /// Many watchers on one stream.
    async fn crowd(&mut self) {
        let newest = self.newest.get();
        let many = if self.chance.random_bool(0.1) {
            self.chance.random_range(300..500)
        } else {
            self.chance.random_range(5..50)
        };
        let trusts_progress = self.chance.random_bool(0.5);
        let member = self.context.any_member(&mut self.chance);
        let mut places = BTreeMap::new();
        let mut stream: Option<Stream> = None;
        for _ in 0..many {
            let watcher = self.context.recorder.next_watcher();
            let create = wish::narrow(&mut self.chance, newest);
            places.insert(watcher, Place::of(&create, trusts_progress));
            match &mut stream {
                Some(stream) => stream.watch(watcher, create),
                None => {
                    let opening = Stream::open(&self.context, WORKLOAD, member, watcher, create);
                    let Ok(opened) = opening.await else {
                        return;
                    };
                    stream = Some(opened);
                }
            }
        }
        if let Some(stream) = stream {
            let manner = Manner {
                pause: Duration::from_millis(if self.chance.random_bool(0.3) { 10 } else { 0 }),
                ..self.manner()
            };
            self.sit(stream, &mut places, &manner).await;
        }
    }

    /// Watches whose ids the client chose: an id that is in use is asked for again, and one that was ended is used anew.
    async fn ids(&mut self) {
        let member = self.context.any_member(&mut self.chance);
        let mut places = BTreeMap::new();
        let (first, create) = self.with_id(7, &mut places);
        let opening = Stream::open(&self.context, WORKLOAD, member, first, create);
        let Ok(mut stream) = opening.await else {
            return;
        };
        for watch_id in [9, 7, 1 << 40] {
            let (watcher, create) = self.with_id(watch_id, &mut places);
            stream.watch(watcher, create);
        }
        // Until the first is there to be ended.
        match stream.receive_within(self.context.patience).await {
            Ok(Some((watchers, response))) => {
                let mut open = BTreeSet::from([first]);
                advance(&mut places, &mut open, &watchers, &response);
            }
            Ok(None) => {
                stream.give_up(&Status::deadline_exceeded("no answer in time"));
                return;
            }
            Err(_) => return,
        }
        stream.cancel(first);
        let (again, create) = self.with_id(7, &mut places);
        stream.watch(again, create);
        let manner = self.manner();
        self.sit(stream, &mut places, &manner).await;
    }

    fn with_id(
        &mut self,
        watch_id: i64,
        places: &mut BTreeMap<u32, Place>,
    ) -> (u32, pb::WatchCreateRequest) {
        let watcher = self.context.recorder.next_watcher();
        let mut create = wish::narrow(&mut self.chance, self.newest.get());
        // Compaction would end a watch of the past, and the id be free again without the client's doing.
        create.start_revision = 0;
        create.watch_id = watch_id;
        places.insert(watcher, Place::of(&create, false));
        (watcher, create)
    }

    /// Reads a stream for a turn, and leaves it in one way or another. A watcher that ended stays in `places` only if history
    /// was compacted under it: it may go on from there.
    async fn sit(
        &mut self,
        mut stream: Stream,
        places: &mut BTreeMap<u32, Place>,
        manner: &Manner,
    ) {
        let mut open: BTreeSet<u32> = places.keys().copied().collect();
        match self.read(&mut stream, places, &mut open, manner).await {
            Ended::Gone => return,
            Ended::Enough => {}
        }
        if self.context.stopped() {
            self.read_on(stream, places, &mut open).await;
            return;
        }
        match self.chance.random_range(0..3) {
            0 => stream.give_up(&Status::cancelled("cut off by the client")),
            1 => {
                for watcher in &open {
                    stream.cancel(*watcher);
                }
                // Confirmations come behind what is under way; a client that went at once would not see either.
                let limit = Instant::now() + self.context.patience;
                while !open.is_empty() && Instant::now() < limit {
                    let left = limit - Instant::now();
                    match stream.receive_within(left).await {
                        Ok(Some((watchers, response))) => {
                            advance(places, &mut open, &watchers, &response);
                        }
                        Ok(None) => break,
                        Err(_) => return,
                    }
                }
                drop(stream);
            }
            _ => drop(stream),
        }
    }

    async fn read(
        &mut self,
        stream: &mut Stream,
        places: &mut BTreeMap<u32, Place>,
        open: &mut BTreeSet<u32>,
        manner: &Manner,
    ) -> Ended {
        let mut messages = 0;
        while messages < manner.messages && Instant::now() < manner.until {
            if self.context.stopped() {
                break;
            }
            if self.chance.random_bool(manner.asks) {
                stream.ask_progress();
            }
            let left = manner.until - Instant::now();
            let step = left.min(Duration::from_millis(250));
            match stream.receive_within(step).await {
                Ok(Some((watchers, response))) => {
                    messages += 1;
                    advance(places, open, &watchers, &response);
                    if open.is_empty() {
                        return Ended::Gone;
                    }
                }
                Ok(None) => {}
                Err(_) => return Ended::Gone,
            }
            if manner.pause > Duration::ZERO {
                let pause = manner.pause.mul_f64(self.chance.random_range(0.0..=1.0));
                self.context.sleep(pause).await;
            }
        }
        Ended::Enough
    }

    /// The load has ended: reads until every watcher has come to the newest write, or time is up.
    async fn read_on(
        &mut self,
        mut stream: Stream,
        places: &mut BTreeMap<u32, Place>,
        open: &mut BTreeSet<u32>,
    ) {
        let newest = self.newest.get();
        let limit = Instant::now() + READ_ON;
        loop {
            let behind = open.iter().any(|watcher| {
                let place = places.get(watcher);
                place.is_some_and(|place| place.next <= newest)
            });
            if !behind || Instant::now() >= limit {
                drop(stream);
                return;
            }
            match stream.receive_within(Duration::from_millis(250)).await {
                Ok(Some((watchers, response))) => {
                    for place in places.values_mut() {
                        place.trusts_progress = true;
                    }
                    advance(places, open, &watchers, &response);
                }
                Ok(None) => stream.ask_progress(),
                Err(_) => return,
            }
        }
    }
}

/// Takes a message in.
fn advance(
    places: &mut BTreeMap<u32, Place>,
    open: &mut BTreeSet<u32>,
    watchers: &[u32],
    response: &pb::WatchResponse,
) {
    for watcher in watchers {
        if let Some(place) = places.get_mut(watcher) {
            place.take(response);
        }
        if response.canceled {
            open.remove(watcher);
        }
    }
}
