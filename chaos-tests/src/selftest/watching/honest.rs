//! Watches of every kind on a cluster that keeps its promises.

use std::collections::BTreeMap;

use baton_proto::etcdserverpb as pb;
use baton_proto::mvccpb::Event;
use rand::Rng;
use rand::rngs::SmallRng;

use crate::check::lives;
use crate::check::watch::log::{Log, concerns, lets_pass};
use crate::check::witness;
use crate::history::{Error, History, Member, Nanos, Request, WatchEvent, WatchStep};
use crate::seed;
use crate::selftest::honest::{self, Shape, header};
use crate::workload::watch::wish;
use crate::workload::watch::{Place, WORKLOAD};

/// How many watchers there are.
const WATCHERS: u32 = 24;

/// The number of the first of them.
const FIRST: u32 = 1000;

/// How long they stay after the last event: long enough for one that is late to be noticed.
const STAY: Nanos = 30_000_000_000;

/// A history with watches, drawn from `seed`.
pub fn history(seed: u64) -> History {
    let mut history = honest::history(seed, Shape::default());
    let cluster = Cluster::of(&history);
    let mut chance = seed::stream(seed, "watching");
    for watcher in FIRST..FIRST + WATCHERS {
        let steps = cluster.watch(watcher, &mut chance);
        history.watches.extend(steps);
    }
    history.watches.sort_by_key(|step| step.at);
    history
}

struct Cluster {
    log: Log,
    /// When each revision was there, from the first on.
    seen: Vec<(Nanos, i64)>,
    /// When history was compacted, and where.
    compactions: Vec<(Nanos, i64)>,
    end: Nanos,
}

/// Writes the steps of one watcher.
struct Teller<'a> {
    cluster: &'a Cluster,
    watcher: u32,
    member: Member,
    now: Nanos,
    steps: Vec<WatchStep>,
}

impl Cluster {
    fn of(history: &History) -> Self {
        let compactions = history.operations.iter().filter_map(|op| match op.request {
            Request::Compact(request) => Some((op.called, request.revision)),
            _ => None,
        });
        let log = Log::of(witness::gather(history));
        let mut seen = BTreeMap::new();
        for entry in log.between(0, log.end()) {
            seen.insert(entry.revision, entry.at);
        }
        Self {
            seen: seen.into_iter().map(|(rev, at)| (at, rev)).collect(),
            compactions: compactions.collect(),
            end: lives::end(history),
            log,
        }
    }

    /// The newest revision at a time.
    fn newest(&self, at: Nanos) -> i64 {
        let there = self.seen.iter().take_while(|(seen, _)| *seen <= at);
        there.last().map_or(1, |(_, revision)| *revision)
    }

    fn floor(&self, at: Nanos) -> i64 {
        let made = self.compactions.iter().filter(|(made, _)| *made <= at);
        made.map(|(_, revision)| *revision)
            .max()
            .unwrap_or_default()
    }

    /// The life of a watcher: some streams, one after the other, the last of them up to the end of the run.
    fn watch(&self, watcher: u32, chance: &mut SmallRng) -> Vec<WatchStep> {
        let mut teller = Teller {
            cluster: self,
            watcher,
            member: 1,
            now: chance.random_range(0..self.end),
            steps: Vec::new(),
        };
        let mut create = wish::draw(chance, self.newest(teller.now));
        let (key, range_end) = match chance.random_range(0..3) {
            0 => (b"\0".to_vec().into(), b"\0".to_vec().into()),
            1 => wish::prefix("register/"),
            _ => wish::prefix("append/"),
        };
        (create.key, create.range_end) = (key, range_end);
        let mut place = Place::of(&create, false);
        while chance.random_bool(0.5) && teller.now < self.end {
            teller.member = chance.random_range(1..=3);
            create.start_revision = place.next;
            let until = chance.random_range(teller.now..=self.end);
            if teller.sit(&create, &mut place, until, chance) {
                teller.tell(WatchEvent::Broken(Error {
                    code: 14,
                    message: "reset".into(),
                }));
            }
        }
        create.start_revision = place.next;
        if teller.sit(&create, &mut place, self.end, chance) {
            teller.now = self.end + STAY;
            teller.tell(WatchEvent::Cancelled);
        }
        teller.steps
    }
}

impl Teller<'_> {
    fn tell(&mut self, step: WatchEvent) {
        self.now += 1;
        self.steps.push(WatchStep {
            workload: WORKLOAD.into(),
            watcher: self.watcher,
            member: self.member,
            at: self.now,
            step,
        });
    }

    fn send(&mut self, place: &mut Place, response: pb::WatchResponse) {
        place.take(&response);
        self.tell(WatchEvent::Received(response));
    }

    fn head(&self, revision: i64) -> pb::WatchResponse {
        pb::WatchResponse {
            header: Some(header(self.member, revision)),
            watch_id: 5,
            ..Default::default()
        }
    }

    /// One stream, until a time; `false` if the server ended the watch.
    fn sit(
        &mut self,
        create: &pb::WatchCreateRequest,
        place: &mut Place,
        until: Nanos,
        chance: &mut SmallRng,
    ) -> bool {
        self.tell(WatchEvent::Asked(create.clone()));
        let now = self.cluster.newest(self.now);
        let created = pb::WatchResponse {
            created: true,
            ..self.head(now)
        };
        self.send(place, created);
        let floor = self.cluster.floor(self.now - 1);
        if 0 < create.start_revision && create.start_revision < floor {
            let over = pb::WatchResponse {
                canceled: true,
                compact_revision: floor,
                ..self.head(0)
            };
            self.send(place, over);
            return false;
        }
        let mut covered = place.next - 1;
        loop {
            let to = self.cluster.newest(self.now);
            let events: Vec<Event> = self
                .cluster
                .log
                .between(covered + 1, to)
                .iter()
                .filter(|entry| concerns(create, &entry.event) && lets_pass(create, &entry.event))
                .map(|entry| Event {
                    prev_kv: entry.before.clone().filter(|_| create.prev_kv),
                    ..entry.event.clone()
                })
                .collect();
            self.deliver(create, place, events, to, chance);
            covered = covered.max(to);
            if chance.random_bool(0.3) && to >= create.start_revision {
                self.tell(WatchEvent::ProgressAsked);
                let mut progress = self.head(to);
                progress.watch_id = if chance.random() { -1 } else { 5 };
                self.send(place, progress);
            }
            if self.now >= until {
                return true;
            }
            let pause = chance.random_range(1..=self.cluster.end / 5 + 1);
            self.now = (self.now + pause).min(until);
        }
    }

    /// Sends events, in parts where the client takes them.
    fn deliver(
        &mut self,
        create: &pb::WatchCreateRequest,
        place: &mut Place,
        mut events: Vec<Event>,
        revision: i64,
        chance: &mut SmallRng,
    ) {
        while !events.is_empty() {
            let fits = if create.fragment && chance.random_bool(0.7) {
                chance.random_range(1..=events.len())
            } else {
                events.len()
            };
            let rest = events.split_off(fits);
            let part = pb::WatchResponse {
                fragment: !rest.is_empty(),
                events,
                ..self.head(revision)
            };
            self.send(place, part);
            events = rest;
        }
    }
}
