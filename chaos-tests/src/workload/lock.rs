//! Locks: contenders in one line per lock, some by the lock service, some by the client-side algorithm with keys, which is
//! the same line to the server.
//!
//! Who holds a lock writes a record in the store, guarded by its own key, and counts on two resources outside of it: one
//! that checks tokens and, as the control, one that does not. Now and then a holder stands still for longer than its lease
//! lives and goes on as if it still held; dies; or walks away from the line.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use baton_proto::etcdserverpb as pb;
use baton_proto::v3lockpb as service;
use bytes::Bytes;
use parking_lot::Mutex;
use pb::request_op::Request as Op;
use rand::Rng;
use rand::rngs::SmallRng;
use tokio::task::JoinSet;

use super::Context;
use super::ask::{by_creation, created_at, delete, get, put, txn};
use super::line::{self, AGAIN, Attempt, Held, Manner, ask_service, patience_ends};
use super::session::Session;
use crate::client::Client;
use crate::history::{Answer, Effect, HoldEnd, Nanos, Outcome, Record};

/// Its name in histories.
pub const LOCK: &str = "lock";
/// Where the lines are: `lock/line/<lock>/<lease in hex>`.
pub const LINES: &str = "lock/line/";
/// Where the guarded records are: `lock/data/<lock>`, with `<token>/<client>/<serial>` as the value.
pub const RECORDS: &str = "lock/data/";

/// Contenders of one lock.
const CONTENDERS: u32 = 6;

/// Contends for locks until the load is to end.
pub async fn run(context: Context, clients: u32) {
    let locks = clients.div_ceil(CONTENDERS).max(1);
    let resources = Arc::new(Mutex::new(BTreeMap::new()));
    let mut contenders = JoinSet::new();
    for number in 0..clients {
        let mut chance = context.chance(&format!("lock/{number}"));
        let member = context.any_member(&mut chance);
        let contender = Contender {
            client: context.client(LOCK, member),
            context: context.clone(),
            lock: format!("l{}", number % locks),
            resources: Arc::clone(&resources),
            chance,
            serial: 0,
        };
        contenders.spawn(contender.run());
    }
    while contenders.join_next().await.is_some() {}
}

/// A resource outside of the cluster: a number, and the greatest token it was shown.
#[derive(Debug, Clone, Copy, Default)]
struct Resource {
    value: u64,
    token: i64,
}

struct Contender {
    context: Context,
    client: Client,
    lock: String,
    resources: Arc<Mutex<BTreeMap<(String, bool), Resource>>>,
    chance: SmallRng,
    serial: u64,
}

impl Contender {
    async fn run(mut self) {
        while !self.context.stopped() {
            let seconds = self.chance.random_range(1..=3);
            let session = Session::open(
                &self.context,
                &mut self.client,
                LOCK,
                seconds,
                &mut self.chance,
            );
            match session.await {
                Some(session) => self.contend(session).await,
                None => self.go_elsewhere().await,
            }
        }
    }

    /// Goes on as a new process, which it has to where a call was given up.
    fn go_elsewhere_at_once(&mut self) {
        let member = self.context.any_member(&mut self.chance);
        self.client.move_to(member);
    }

    async fn go_elsewhere(&mut self) {
        self.go_elsewhere_at_once();
        self.context.sleep(AGAIN).await;
    }

    /// Obtains the lock a few times with one session.
    async fn contend(&mut self, mut session: Session) {
        let rounds = self.chance.random_range(1..=5);
        for _ in 0..rounds {
            if self.context.stopped() || !session.is_alive() {
                break;
            }
            let manner = Manner::draw(&mut self.chance);
            let by_service = self.chance.random_bool(0.6);
            let attempt = if by_service {
                self.lock_by_service(&session, manner).await
            } else {
                self.lock_by_keys(&session, manner).await
            };
            let held = match attempt {
                Attempt::Held(held) => held,
                Attempt::Not => {
                    self.context.rest(&mut self.chance).await;
                    continue;
                }
                Attempt::Unclear => {
                    self.look_for_what_is_left(&session).await;
                    break;
                }
            };
            let goes_on = match manner {
                Manner::Orderly | Manner::WalksAway | Manner::Outlived => {
                    self.work_and_release(&session, held, by_service).await
                }
                Manner::Pauses => {
                    self.work_through_a_pause(&mut session, held).await;
                    false
                }
                Manner::Dies => {
                    session.freeze().await;
                    self.hold_ended(&session, &held, session.deadline(), HoldEnd::Lost);
                    return;
                }
            };
            if !goes_on {
                break;
            }
            self.context.rest(&mut self.chance).await;
        }
        session.close(&mut self.client).await;
    }

    fn key(&self, session: &Session) -> String {
        format!("{LINES}{}/{:x}", self.lock, session.lease())
    }

    async fn lock_by_service(&mut self, session: &Session, manner: Manner) -> Attempt {
        let key = self.key(session);
        let request = service::LockRequest {
            name: format!("{LINES}{}", self.lock).into(),
            lease: session.lease(),
        };
        let asked = ask_service(
            manner,
            request,
            &self.context,
            &mut self.client,
            &mut self.chance,
            (LOCK, session),
        );
        let Some(outcome) = asked.await else {
            return Attempt::Unclear;
        };
        match outcome {
            Outcome::Ok(Answer::Lock(_)) => {}
            Outcome::Failed(_) => return Attempt::Not,
            _ => return Attempt::Unclear,
        }
        let from = self.context.recorder.now();
        for _ in 0..5 {
            match self.client.call(get(&key)).await {
                Outcome::Ok(Answer::Range(answer)) => {
                    return match answer.kvs.first() {
                        Some(kv) => Attempt::Held(Held {
                            key,
                            token: kv.create_revision,
                            from,
                        }),
                        None => Attempt::Not,
                    };
                }
                _ => self.go_elsewhere().await,
            }
        }
        Attempt::Unclear
    }

    async fn lock_by_keys(&mut self, session: &Session, manner: Manner) -> Attempt {
        let limit = manner.patience(&mut self.chance);
        let context = self.context.clone();
        let give_up = patience_ends(&context, session, limit);
        let attempt = {
            let mut give_up = std::pin::pin!(give_up);
            let line = format!("{LINES}{}/", self.lock);
            let mut contender = line::Contender {
                context: &mut self.context,
                client: &mut self.client,
                chance: &mut self.chance,
                workload: LOCK,
                line: &line,
                value: Bytes::new(),
            };
            contender.stand(session, give_up.as_mut()).await
        };
        match attempt {
            Attempt::Unclear if manner == Manner::WalksAway && session.is_alive() => {
                // By keys, who walks away takes its key along.
                self.go_elsewhere_at_once();
                match self.client.call(delete(&self.key(session))).await {
                    Outcome::Ok(_) => Attempt::Not,
                    _ => Attempt::Unclear,
                }
            }
            attempt => attempt,
        }
    }

    /// After a wait that was given up: the server is to take the key away by itself, while the lease lives on.
    async fn look_for_what_is_left(&mut self, session: &Session) {
        self.go_elsewhere_at_once();
        let wait = Duration::from_millis(self.chance.random_range(500..=1500));
        let mut stop = self.context.stop.clone();
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => {}
            () = session.lost() => {}
            () = tokio::time::sleep(wait) => {}
        }
        self.client.call(get(&self.key(session))).await;
    }

    /// Works with the lock as long as it certainly has it, and gives it back. Whether the session can be used again.
    async fn work_and_release(&mut self, session: &Session, held: Held, by_service: bool) -> bool {
        let most = if self.chance.random_bool(0.8) {
            100
        } else {
            500
        };
        let work = Duration::from_millis(self.chance.random_range(10..=most));
        let fenced = self.read(&held, true);
        let control = self.read(&held, false);
        let half = tokio::time::timeout(work / 2, session.lost()).await;
        if half.is_err() && self.write_record(&held).await {
            let rest = tokio::time::timeout(work / 2, session.lost()).await;
            if rest.is_err() && session.is_alive() {
                self.write(&held, true, fenced);
                self.write(&held, false, control);
            }
        }
        let now = self.context.recorder.now();
        let deadline = session.deadline();
        if now >= deadline {
            self.hold_ended(session, &held, deadline, HoldEnd::Lost);
            return false;
        }
        self.hold_ended(session, &held, now, HoldEnd::Released);
        self.release(session, &held, by_service).await
    }

    async fn release(&mut self, session: &Session, held: &Held, by_service: bool) -> bool {
        for _ in 0..3 {
            let outcome = if by_service {
                let key = Bytes::copy_from_slice(held.key.as_bytes());
                self.client.call(service::UnlockRequest { key }).await
            } else {
                let release = txn(
                    [created_at(&held.key, held.token)],
                    [Op::RequestDeleteRange(delete(&held.key))],
                    [],
                );
                self.client.call(release).await
            };
            match outcome {
                Outcome::Ok(_) => return true,
                // What was sent may still be done, and would take away a later key of this session.
                Outcome::Unknown(_) if by_service => return false,
                _ => self.go_elsewhere().await,
            }
            if !session.is_alive() {
                return false;
            }
        }
        false
    }

    /// Stands still for longer than the lease lives, as a process may, and goes on without looking.
    async fn work_through_a_pause(&mut self, session: &mut Session, held: Held) {
        let fenced = self.read(&held, true);
        let control = self.read(&held, false);
        session.freeze().await;
        let deadline = session.deadline();
        let over = self.chance.random_range(500..=2500);
        let pause = session.ttl() + Duration::from_millis(over);
        self.context.sleep(pause).await;
        self.write(&held, true, fenced);
        self.write(&held, false, control);
        self.write_record(&held).await;
        let until = deadline.min(self.context.recorder.now());
        self.hold_ended(session, &held, until, HoldEnd::Lost);
    }

    /// Writes the guarded record. Whether the session can be counted on as far as the store says.
    async fn write_record(&mut self, held: &Held) -> bool {
        self.serial += 1;
        let value = format!("{}/{}/{}", held.token, self.client.number(), self.serial);
        let record = put(&format!("{RECORDS}{}", self.lock), value, 0);
        let write = txn(
            [created_at(&held.key, held.token)],
            [Op::RequestPut(record)],
            [Op::RequestRange(by_creation(&format!(
                "{LINES}{}/",
                self.lock
            )))],
        );
        match self.client.call(write).await {
            Outcome::Ok(Answer::Txn(answer)) => answer.succeeded,
            _ => true,
        }
    }

    /// Reads a resource. One that checks tokens remembers the token from here on.
    fn read(&self, held: &Held, fenced: bool) -> u64 {
        let mut resources = self.resources.lock();
        let resource = resources.entry((self.lock.clone(), fenced)).or_default();
        if fenced {
            resource.token = resource.token.max(held.token);
        }
        resource.value
    }

    /// Writes one more than what was read to a resource.
    fn write(&self, held: &Held, fenced: bool, read: u64) {
        let mut resources = self.resources.lock();
        let resource = resources.entry((self.lock.clone(), fenced)).or_default();
        let found = resource.value;
        let accepted = !fenced || held.token >= resource.token;
        if accepted {
            resource.value = read + 1;
            resource.token = resource.token.max(held.token);
        }
        self.context.recorder.add(Record::Effect(Effect {
            workload: LOCK.to_owned(),
            client: self.client.number(),
            name: self.lock.clone(),
            token: held.token,
            at: self.context.recorder.now(),
            fenced,
            accepted,
            read,
            found,
        }));
    }

    fn hold_ended(&self, session: &Session, held: &Held, until: Nanos, end: HoldEnd) {
        let who = (LOCK, &self.client);
        let what = (self.lock.as_str(), session.lease());
        held.ended(&self.context, who, what, until, end);
    }
}
