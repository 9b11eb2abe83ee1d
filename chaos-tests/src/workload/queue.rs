//! Queues by keys: producers put jobs of a priority, workers claim the best one by a transaction with a lease, and
//! acknowledge it, give it back, die with it, or stand still until they have lost it.
//!
//! A claim is refused if a job or a claim came after the worker looked, so that it is the best one at its own revision,
//! but for jobs that were given back in between.

use std::sync::{Arc, Weak};
use std::time::Duration;

use baton_proto::etcdserverpb as pb;
use baton_proto::mvccpb::KeyValue;
use bytes::Bytes;
use pb::compare::{CompareResult, TargetUnion};
use pb::request_op::Request as Op;
use rand::Rng;
use rand::rngs::SmallRng;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Context;
use super::ask::{by_creation, created_at, delete, prefix_end, put, ranges, txn};
use super::line::{AGAIN, Held, Manner};
use super::requests::compare;
use super::session::Session;
use crate::client::Client;
use crate::history::{Answer, HoldEnd, Nanos, Outcome};

/// Its name in histories.
pub const QUEUE: &str = "queue";
/// Where jobs are: `queue/job/<queue>/<priority>/<id>`; their value is their id.
pub const JOBS: &str = "queue/job/";
/// Where claims are: `queue/claim/<queue>/<priority>/<id>`; their value is no other's.
pub const CLAIMS: &str = "queue/claim/";

/// Clients of one queue.
const CLIENTS: u32 = 9;
/// Jobs that a queue has at most, more or less.
const MOST_JOBS: i64 = 30;
/// How long workers go on after the end of the load, until producers are gone and their queue is empty.
const DRAIN: Duration = Duration::from_secs(20);

/// Produces and works until the load is to end, and works until the queues are empty.
pub async fn run(context: Context, clients: u32) {
    let queues = clients.div_ceil(CLIENTS).max(1);
    let mut tasks = JoinSet::new();
    let producing = Arc::new(());
    for number in 0..clients {
        let mut chance = context.chance(&format!("queue/{number}"));
        let member = context.any_member(&mut chance);
        let part = Part {
            client: context.client(QUEUE, member),
            context: context.clone(),
            queue: format!("q{}", number % queues),
            number,
            chance,
            serial: 0,
            producers: Arc::downgrade(&producing),
        };
        let producing = Arc::clone(&producing);
        // Of three, two work; of one, that one does both in turns.
        match (number / queues) % 3 {
            0 if clients > queues => tasks.spawn(async move {
                part.produce().await;
                drop(producing);
            }),
            0 => tasks.spawn(async move {
                let part = part.produce_for(Duration::from_secs(2)).await;
                drop(producing);
                part.work().await;
            }),
            _ => tasks.spawn(part.work()),
        };
    }
    drop(producing);
    while tasks.join_next().await.is_some() {}
}

/// A job that was read.
struct Job {
    /// `<queue>/<priority>/<id>`.
    name: String,
    created: i64,
}

struct Part {
    context: Context,
    client: Client,
    queue: String,
    number: u32,
    chance: SmallRng,
    serial: u64,
    /// Gone when nobody produces any more.
    producers: Weak<()>,
}

impl Part {
    /// Whether no job comes any more.
    fn no_more_come(&self) -> bool {
        self.context.stopped() && self.producers.strong_count() == 0
    }

    fn jobs(&self) -> String {
        format!("{JOBS}{}/", self.queue)
    }

    fn claims(&self) -> String {
        format!("{CLAIMS}{}/", self.queue)
    }

    async fn go_elsewhere(&mut self) {
        let member = self.context.any_member(&mut self.chance);
        self.client.move_to(member);
        tokio::time::sleep(AGAIN).await;
    }

    async fn pause(&mut self) {
        let pause = self.chance.random_range(5..=60);
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }

    fn unique(&mut self) -> String {
        self.serial += 1;
        format!("{}-{}", self.number, self.serial)
    }

    async fn produce(mut self) {
        while !self.context.stopped() {
            self.enqueue().await;
        }
    }

    async fn produce_for(mut self, time: Duration) -> Self {
        let end = Instant::now() + time;
        while !self.context.stopped() && Instant::now() < end {
            self.enqueue().await;
        }
        self
    }

    async fn enqueue(&mut self) {
        let count = pb::RangeRequest {
            count_only: true,
            ..by_creation(&self.jobs())
        };
        let is_full = match self.client.call(count).await {
            Outcome::Ok(Answer::Range(answer)) => answer.count >= MOST_JOBS,
            _ => true,
        };
        if is_full {
            self.go_elsewhere().await;
            return;
        }
        let id = self.unique();
        let priority = self.chance.random_range(0..4);
        let key = format!("{}{priority:05}/{id}", self.jobs());
        let enqueue = txn(
            [created_at(&key, 0)],
            [Op::RequestPut(put(&key, id, 0))],
            [],
        );
        // One of unknown outcome is not sent again: it might come twice.
        self.client.call(enqueue).await;
        self.pause().await;
    }

    async fn work(mut self) {
        let mut end: Option<Instant> = None;
        loop {
            if self.context.stopped() {
                let end = end.get_or_insert_with(|| Instant::now() + DRAIN);
                if Instant::now() >= *end {
                    return;
                }
            }
            let seconds = self.chance.random_range(1..=3);
            let session = Session::open(
                &self.context,
                &mut self.client,
                QUEUE,
                seconds,
                &mut self.chance,
            );
            match session.await {
                Some(session) => {
                    if self.work_with(session, end).await {
                        return;
                    }
                }
                None => self.go_elsewhere().await,
            }
        }
    }

    /// Works on a few jobs with one session. Whether the queue was seen empty when no job came any more.
    async fn work_with(&mut self, mut session: Session, end: Option<Instant>) -> bool {
        let mut is_done = false;
        for _ in 0..self.chance.random_range(3..=30) {
            let is_over = end.is_some_and(|end| Instant::now() >= end);
            if !session.is_alive() || is_over || is_done {
                break;
            }
            let no_more_come = self.no_more_come();
            let (job, seen) = match self.best().await {
                Ok((Some(job), seen)) => (job, seen),
                Ok((None, left)) => {
                    is_done = no_more_come && left == 0;
                    self.pause().await;
                    continue;
                }
                Err(()) => {
                    self.go_elsewhere().await;
                    continue;
                }
            };
            let held = match self.claim(&session, &job, seen).await {
                Ok(Some(held)) => held,
                Ok(None) => continue,
                // It may have it and not know: that goes with the session.
                Err(()) => break,
            };
            let manner = if self.context.stopped() {
                Manner::Orderly
            } else {
                Manner::draw(&mut self.chance)
            };
            match manner {
                // There is no line to wait in.
                Manner::Orderly | Manner::Outlived => {
                    if !self.finish(&session, &job, &held, true).await {
                        break;
                    }
                }
                Manner::WalksAway => {
                    if !self.finish(&session, &job, &held, false).await {
                        break;
                    }
                }
                Manner::Dies => {
                    session.freeze().await;
                    self.ended(&session, &job, &held, session.deadline(), HoldEnd::Lost);
                    return false;
                }
                Manner::Pauses => {
                    session.freeze().await;
                    let over = Duration::from_millis(self.chance.random_range(300..=2000));
                    tokio::time::sleep(session.ttl() + over).await;
                    // Another has it by now, or had it.
                    let ack = self.end_of(&job, &held, true);
                    self.client.call(ack).await;
                    self.ended(&session, &job, &held, session.deadline(), HoldEnd::Lost);
                    break;
                }
            }
        }
        session.close(&mut self.client).await;
        is_done
    }

    /// The best job that nobody has claimed, and the revision at which that is so; or how many jobs there are, if there is
    /// none to claim.
    async fn best(&mut self) -> Result<(Option<Job>, i64), ()> {
        let look = txn(
            [],
            [
                Op::RequestRange(by_creation(&self.jobs())),
                Op::RequestRange(pb::RangeRequest {
                    keys_only: true,
                    ..by_creation(&self.claims())
                }),
            ],
            [],
        );
        let Outcome::Ok(Answer::Txn(looked)) = self.client.call(look).await else {
            return Err(());
        };
        let revision = looked.header.unwrap_or_default().revision;
        let found = ranges(looked);
        let [jobs, claims] = found.as_slice() else {
            return Err(());
        };
        let name = |kv: &KeyValue, prefix: &str| {
            let key = String::from_utf8_lossy(&kv.key);
            key.strip_prefix(prefix).unwrap_or_default().to_owned()
        };
        let claimed: Vec<String> = claims.kvs.iter().map(|kv| name(kv, CLAIMS)).collect();
        let free = jobs.kvs.iter().map(|kv| Job {
            name: name(kv, JOBS),
            created: kv.create_revision,
        });
        let priority = |job: &Job| job.name.split('/').nth(1).map(str::to_owned);
        let best = free
            .filter(|job| !claimed.contains(&job.name))
            .min_by_key(|job| (priority(job), job.created));
        Ok(match best {
            Some(best) => (Some(best), revision),
            None => (None, jobs.count),
        })
    }

    /// Claims a job if nothing better came since `seen`. `Err` if that is not known.
    async fn claim(&mut self, session: &Session, job: &Job, seen: i64) -> Result<Option<Held>, ()> {
        let key = format!("{CLAIMS}{}", job.name);
        let value = self.unique();
        let no_later = |prefix: String, union| {
            let end = prefix_end(&prefix);
            compare(Bytes::from(prefix), end, CompareResult::Less, union)
        };
        let claim = txn(
            [
                created_at(&format!("{JOBS}{}", job.name), job.created),
                created_at(&key, 0),
                no_later(self.jobs(), TargetUnion::ModRevision(seen + 1)),
                no_later(self.claims(), TargetUnion::CreateRevision(seen + 1)),
            ],
            [Op::RequestPut(put(&key, value, session.lease()))],
            [],
        );
        match self.client.call(claim).await {
            Outcome::Ok(Answer::Txn(answer)) if answer.succeeded => Ok(Some(Held {
                key,
                token: answer.header.unwrap_or_default().revision,
                from: self.context.recorder.now(),
            })),
            Outcome::Ok(_) | Outcome::Failed(_) => Ok(None),
            Outcome::Unknown(_) => Err(()),
        }
    }

    /// The acknowledgement of a job, or its return.
    fn end_of(&self, job: &Job, held: &Held, is_done: bool) -> pb::TxnRequest {
        let guard = [created_at(&held.key, held.token)];
        let claim = Op::RequestDeleteRange(delete(&held.key));
        if is_done {
            let job = delete(&format!("{JOBS}{}", job.name));
            txn(guard, [Op::RequestDeleteRange(job), claim], [])
        } else {
            txn(guard, [claim], [])
        }
    }

    /// Works, and acknowledges the job or gives it back. Whether the session can be used again.
    async fn finish(&mut self, session: &Session, job: &Job, held: &Held, is_done: bool) -> bool {
        let work = Duration::from_millis(self.chance.random_range(5..=60));
        let lost = tokio::time::timeout(work, session.lost()).await.is_ok();
        let now = self.context.recorder.now();
        let deadline = session.deadline();
        if lost || now >= deadline {
            self.ended(session, job, held, deadline.min(now), HoldEnd::Lost);
            return false;
        }
        self.ended(session, job, held, now, HoldEnd::Released);
        for _ in 0..5 {
            let end = self.end_of(job, held, is_done);
            if let Outcome::Ok(_) = self.client.call(end).await {
                return true;
            }
            self.go_elsewhere().await;
        }
        false
    }

    fn ended(&self, session: &Session, job: &Job, held: &Held, until: Nanos, end: HoldEnd) {
        let who = (QUEUE, &self.client);
        let what = (job.name.as_str(), session.lease());
        held.ended(&self.context, who, what, until, end);
    }
}
