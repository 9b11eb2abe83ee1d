//! Two servers given the same requests one after the other.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use baton_proto::etcdserverpb as pb;
use baton_proto::mvccpb::Event;
use baton_test_cluster::process::{Cluster, Program};
use bytes::Bytes;

use crate::compare;
use crate::generate::{Generator, STREAMS, Step, World};
use crate::intended;
use crate::request::{Answer, Caller, Outcome, Request};
use crate::streams::{Reader, revision_of};

/// A falsification of what the judged server said, to see that it is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plant {
    /// Leave everything as it is.
    Nothing,
    /// Raise the count of a range.
    Count,
    /// Drop one event of a watcher.
    LostEvent,
    /// Change the previous value in one event.
    PreviousValue,
    /// Change the hash.
    Hash,
}

struct Side {
    caller: Caller,
    client: baton_test_cluster::client::Client,
    /// Sees every event, with previous values.
    witness: Reader,
    streams: [Option<Reader>; STREAMS],
}

impl Side {
    async fn new(cluster: &Cluster) -> Result<Self, String> {
        let client = cluster.members[0].client();
        let create = pb::WatchCreateRequest {
            key: Bytes::from_static(b"\0"),
            range_end: Bytes::from_static(b"\0"),
            start_revision: 1,
            prev_kv: true,
            ..Default::default()
        };
        let mut witness = Reader::open(&client, create).await?;
        witness.control().await?;
        Ok(Self {
            caller: Caller::new(client.clone()),
            client,
            witness,
            streams: [None, None, None],
        })
    }

    /// Creates a watcher and returns the answer to that.
    async fn watch(
        &mut self,
        stream: usize,
        create: pb::WatchCreateRequest,
    ) -> Result<pb::WatchResponse, String> {
        let reader = match &mut self.streams[stream] {
            Some(reader) => {
                reader.create(create).await?;
                reader
            }
            none => none.insert(Reader::open(&self.client, create).await?),
        };
        reader.control().await
    }

    fn stream(&mut self, stream: usize) -> Result<&mut Reader, String> {
        self.streams[stream]
            .as_mut()
            .ok_or_else(|| format!("stream {stream} was never opened"))
    }
}

/// An event without its values: (revision, key, type).
type Outline = (i64, Bytes, i32);

struct Watcher {
    create: pb::WatchCreateRequest,
    from: i64,
    /// What it has to deliver next.
    expected: Vec<Outline>,
}

/// Whether a watcher created so, starting at `from`, is to be sent the event.
fn wants(create: &pb::WatchCreateRequest, from: i64, (revision, key, kind): &Outline) -> bool {
    let zero = Bytes::from_static(b"\0");
    let start = if create.key.is_empty() {
        &zero
    } else {
        &create.key
    };
    let end = &create.range_end;
    let inside = if end.is_empty() {
        key == start
    } else {
        key >= start && (*end == zero || key < end)
    };
    inside && *revision >= from && !create.filters.contains(kind)
}

/// A run over two single-member clusters.
pub struct Lockstep {
    baton: Side,
    etcd: Side,
    world: World,
    /// Everything that ever happened.
    truth: Vec<Outline>,
    watchers: BTreeMap<(usize, i64), Watcher>,
    /// Ids of watchers that a compaction ended, which etcd does not give again.
    spent_ids: BTreeSet<(usize, i64)>,
    plant: Plant,
}

/// Puts `count` random requests to both and returns how many watchers were created on the way.
///
/// # Errors
/// The first difference that is not intended.
pub async fn run(
    baton: &Program,
    etcd: &Program,
    seed: u64,
    count: usize,
    plant: Plant,
) -> Result<usize, String> {
    let clusters = tokio::try_join!(Cluster::start(baton, 1), Cluster::start(etcd, 1));
    let (baton, etcd) = clusters.map_err(|error| format!("{error:#}"))?;
    let mut lockstep = Lockstep {
        baton: Side::new(&baton).await?,
        etcd: Side::new(&etcd).await?,
        world: World {
            revision: 1,
            ..Default::default()
        },
        truth: Vec::new(),
        watchers: BTreeMap::new(),
        spent_ids: BTreeSet::new(),
        plant,
    };
    let mut generator = Generator::new(seed);
    let mut created = 0;
    for number in 0..count {
        let step = generator.next(&lockstep.world);
        created += usize::from(matches!(step, Step::Watch { .. }));
        let outcome = lockstep.step(step).await;
        let outcome = match outcome {
            Ok(()) if number % 500 == 499 => lockstep.compare_state().await,
            outcome => outcome,
        };
        outcome.map_err(|difference| {
            format!(
                "request {number} of seed {seed}: {difference}\nBaton's log ends:\n{}",
                baton.members[0].log_tail()
            )
        })?;
    }
    lockstep
        .finish()
        .await
        .map_err(|difference| format!("at the end of seed {seed}: {difference}"))?;
    Ok(created)
}

impl Lockstep {
    async fn step(&mut self, step: Step) -> Result<(), String> {
        match step {
            Step::Call(request) if intended::is_avoided(&request) => Ok(()),
            Step::Call(request) => self.call(request).await,
            Step::Watch { stream, create } => self.watch(stream, create).await,
            Step::Cancel { stream, choice } => self.cancel(stream, choice).await,
        }
    }

    async fn call(&mut self, request: Request) -> Result<(), String> {
        if let Request::Compact(compact) = &request {
            // History that a watcher has not been sent yet would be gone for the slower server only.
            self.settle().await?;
            if self.world.deletions.contains(&compact.revision) {
                return Ok(());
            }
        }
        let (mut baton, etcd) = tokio::join!(
            self.baton.caller.call(request.clone()),
            self.etcd.caller.call(request.clone())
        );
        falsify(self.plant, &mut baton);
        if let Some(difference) = compare::difference(&request, &baton, &etcd) {
            return match &request {
                Request::HashKv(hash) if self.is_empty_at(hash.revision).await => Ok(()),
                _ => Err(difference),
            };
        }
        self.learn(&request, etcd);
        Ok(())
    }

    /// Whether etcd has no key at a revision, 0 for the newest.
    async fn is_empty_at(&mut self, revision: i64) -> bool {
        let count = pb::RangeRequest {
            key: Bytes::from_static(b"\0"),
            range_end: Bytes::from_static(b"\0"),
            revision,
            count_only: true,
            ..Default::default()
        };
        matches!(self.etcd.caller.call(Request::Range(count)).await, Ok(Answer::Range(answer)) if answer.count == 0)
    }

    fn learn(&mut self, request: &Request, outcome: Outcome) {
        let Ok(mut answer) = outcome else { return };
        if let Some(header) = answer.header() {
            self.world.revision = self.world.revision.max(header.revision);
        }
        match request {
            Request::Compact(compact) => self.world.compacted = compact.revision,
            Request::LeaseGrant(grant) => drop(self.world.leases.insert(grant.id)),
            Request::LeaseRevoke(revoke) => drop(self.world.leases.remove(&revoke.id)),
            _ => {}
        }
    }

    async fn watch(
        &mut self,
        stream: usize,
        mut create: pb::WatchCreateRequest,
    ) -> Result<(), String> {
        self.settle().await?;
        let is_old = (1..=self.world.revision).contains(&create.start_revision);
        let nothing_is_due = !self
            .truth
            .iter()
            .any(|event| wants(&create, create.start_revision, event));
        // etcd fills old watchers from history every 100 ms, and a compaction in between cancels them. The first event shows
        // that it has been done; without one there is nothing to wait for but time, so that case is kept rare.
        let wait = is_old && nothing_is_due && create.start_revision % 8 == 0;
        if is_old && nothing_is_due && !wait {
            create.key = Bytes::from_static(b"\0");
            create.range_end = Bytes::from_static(b"\0");
            create.filters.clear();
        }
        let ends_at_once = (1..self.world.compacted).contains(&create.start_revision);
        if ends_at_once || self.spent_ids.contains(&(stream, create.watch_id)) {
            create.watch_id = 0;
        }
        let (baton, etcd) = tokio::try_join!(
            self.baton.watch(stream, create.clone()),
            self.etcd.watch(stream, create.clone())
        )?;
        same("answer to", &create, &baton, &etcd)?;
        if etcd.canceled {
            return Ok(());
        }
        if create.start_revision > 0 && create.start_revision < self.world.compacted {
            let (baton, etcd) = tokio::try_join!(
                self.baton.stream(stream)?.control(),
                self.etcd.stream(stream)?.control()
            )?;
            self.spent_ids.insert((stream, etcd.watch_id));
            return same("end of", &create, &baton, &etcd);
        }
        let now = etcd
            .header
            .map(|header| header.revision)
            .unwrap_or_default();
        let from = if create.start_revision > 0 {
            create.start_revision
        } else {
            now + 1
        };
        let expected = self
            .truth
            .iter()
            .filter(|event| wants(&create, from, event))
            .cloned()
            .collect();
        self.watchers.insert(
            (stream, etcd.watch_id),
            Watcher {
                create,
                from,
                expected,
            },
        );
        if wait {
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        Ok(())
    }

    async fn cancel(&mut self, stream: usize, choice: usize) -> Result<(), String> {
        let ids: Vec<i64> = self
            .watchers
            .keys()
            .filter(|(of, _)| *of == stream)
            .map(|(_, id)| *id)
            .collect();
        // Few watchers are cancelled while there are few, so that they live to see something.
        if ids.len() < 4 {
            if choice.is_multiple_of(10) && self.baton.streams[stream].is_some() {
                // Nothing answers this; that nothing breaks shows in what follows.
                self.baton.stream(stream)?.cancel(9_999).await?;
                self.etcd.stream(stream)?.cancel(9_999).await?;
            }
            return Ok(());
        }
        let id = ids[choice % ids.len()];
        self.settle().await?;
        self.end_watcher(stream, id).await
    }

    async fn end_watcher(&mut self, stream: usize, id: i64) -> Result<(), String> {
        self.baton.stream(stream)?.cancel(id).await?;
        self.etcd.stream(stream)?.cancel(id).await?;
        let (baton, etcd) = tokio::try_join!(
            self.baton.stream(stream)?.control(),
            self.etcd.stream(stream)?.control()
        )?;
        let Some(watcher) = self.watchers.remove(&(stream, id)) else {
            return Ok(());
        };
        same("end of", &watcher.create, &baton, &etcd)?;
        // Whatever came between the last comparison and the end was not due.
        let (baton, etcd) = tokio::try_join!(
            self.baton.stream(stream)?.events(id, 0),
            self.etcd.stream(stream)?.events(id, 0)
        )?;
        if !baton.is_empty() || !etcd.is_empty() {
            return Err(format!(
                "events that were not due: Baton {baton:?}, etcd {etcd:?}"
            ));
        }
        Ok(())
    }

    /// Waits until every watcher of both servers has delivered everything up to the newest revision and compares it.
    async fn settle(&mut self) -> Result<(), String> {
        let revision = self.world.revision;
        if revision > 1 {
            let (baton, etcd) = tokio::join!(
                self.baton.witness.events_to(0, revision),
                self.etcd.witness.events_to(0, revision)
            );
            let baton = baton.map_err(|error| format!("Baton: {error}"))?;
            let etcd = etcd.map_err(|error| format!("etcd: {error}"))?;
            same_events("a watch of everything", &baton, &etcd)?;
            for event in etcd {
                let outline = outline(&event);
                if outline.2 == 1 {
                    self.world.deletions.insert(outline.0);
                }
                for watcher in self.watchers.values_mut() {
                    if wants(&watcher.create, watcher.from, &outline) {
                        watcher.expected.push(outline.clone());
                    }
                }
                self.truth.push(outline);
            }
        }
        for ((stream, id), watcher) in &mut self.watchers {
            let due = watcher.expected.len();
            let (baton, etcd) = (self.baton.stream(*stream)?, self.etcd.stream(*stream)?);
            let (baton, etcd) = tokio::join!(baton.events(*id, due), etcd.events(*id, due));
            let context = || {
                format!(
                    "{:?}, due {:?}, compacted {}",
                    watcher.create, watcher.expected, self.world.compacted
                )
            };
            let mut baton = baton.map_err(|error| format!("Baton: {} {error}", context()))?;
            let etcd = etcd.map_err(|error| format!("etcd: {} {error}", context()))?;
            falsify_events(self.plant, &mut baton);
            same_events(&context(), &baton, &etcd)?;
            let got: Vec<Outline> = etcd.iter().map(outline).collect();
            if got != watcher.expected {
                return Err(format!(
                    "both delivered {got:?} to {}, due was {:?}",
                    context(),
                    watcher.expected
                ));
            }
            watcher.expected.clear();
        }
        Ok(())
    }

    async fn compare_state(&mut self) -> Result<(), String> {
        self.settle().await?;
        self.call(Request::HashKv(pb::HashKvRequest { revision: 0 }))
            .await?;
        let everything = pb::RangeRequest {
            key: Bytes::from_static(b"\0"),
            range_end: Bytes::from_static(b"\0"),
            ..Default::default()
        };
        self.call(Request::Range(everything)).await
    }

    async fn finish(&mut self) -> Result<(), String> {
        self.compare_state().await?;
        let left: Vec<(usize, i64)> = self.watchers.keys().copied().collect();
        for (stream, id) in left {
            self.end_watcher(stream, id).await?;
        }
        Ok(())
    }
}

fn outline(event: &Event) -> Outline {
    let key = event
        .kv
        .as_ref()
        .map(|kv| kv.key.clone())
        .unwrap_or_default();
    (revision_of(event), key, event.r#type)
}

fn same(
    what: &str,
    create: &pb::WatchCreateRequest,
    baton: &pb::WatchResponse,
    etcd: &pb::WatchResponse,
) -> Result<(), String> {
    if baton == etcd {
        return Ok(());
    }
    Err(format!(
        "{what} {create:?}\n  Baton: {baton:?}\n  etcd:  {etcd:?}"
    ))
}

fn same_events(of: &str, baton: &[Event], etcd: &[Event]) -> Result<(), String> {
    let differ =
        (0..baton.len().max(etcd.len())).find(|index| baton.get(*index) != etcd.get(*index));
    let Some(index) = differ else { return Ok(()) };
    Err(format!(
        "event {index} of {of}\n  Baton: {:?} ({} events)\n  etcd:  {:?} ({} events)",
        baton.get(index),
        baton.len(),
        etcd.get(index),
        etcd.len()
    ))
}

fn falsify(plant: Plant, outcome: &mut Outcome) {
    match (plant, outcome) {
        (Plant::Count, Ok(Answer::Range(answer))) => answer.count += 1,
        (Plant::Hash, Ok(Answer::HashKv(answer))) => answer.hash ^= 1,
        _ => {}
    }
}

fn falsify_events(plant: Plant, events: &mut Vec<Event>) {
    match plant {
        Plant::LostEvent => drop(events.pop()),
        Plant::PreviousValue => {
            if let Some(previous) = events.iter_mut().find_map(|event| event.prev_kv.as_mut()) {
                previous.version += 1;
            }
        }
        _ => {}
    }
}
