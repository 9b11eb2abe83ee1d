//! Elections: candidates by the election service and by keys in one line, who proclaim, resign, die and stand still; and
//! observers by the service and by keys.

use std::time::Duration;

use baton_proto::etcdserverpb as pb;
use baton_proto::mvccpb::KeyValue;
use baton_proto::v3electionpb as service;
use bytes::Bytes;
use pb::request_op::Request as Op;
use rand::Rng;
use rand::rngs::SmallRng;
use tokio::task::JoinSet;

use super::Context;
use super::ask::{created_at, delete, first_created, prefix_end, put, txn};
use super::line::{self, AGAIN, Attempt, Held, Manner, ask_service, patience_ends};
use super::session::Session;
use super::stream::Stream;
use crate::client::Client;
use crate::history::{Answer, HoldEnd, Nanos, Observed, Outcome, Record};

/// Its name in histories.
pub const ELECTION: &str = "election";
/// Where the lines are: `election/line/<election>/<lease in hex>`. Values begin with `c/` where the leader campaigned with
/// them, with `p/` where it proclaimed them.
pub const LINES: &str = "election/line/";

/// Clients of one election, and how many of them observe.
const CLIENTS: u32 = 8;
const OBSERVERS: u32 = 2;

/// Campaigns and observes until the load is to end.
pub async fn run(context: Context, clients: u32) {
    let elections = clients.div_ceil(CLIENTS).max(1);
    let mut tasks = JoinSet::new();
    for number in 0..clients {
        let mut chance = context.chance(&format!("election/{number}"));
        let member = context.any_member(&mut chance);
        let client = context.client(ELECTION, member);
        let election = format!("e{}", number % elections);
        let place = number / elections;
        // The first of an election is a candidate, the next ones observe.
        if (1..=OBSERVERS).contains(&place) {
            let observer = Observer {
                client,
                context: context.clone(),
                election,
                chance,
            };
            tasks.spawn(observer.run(place == 1));
        } else {
            let candidate = Candidate {
                client,
                context: context.clone(),
                election,
                chance,
                serial: 0,
            };
            tasks.spawn(candidate.run());
        }
    }
    while tasks.join_next().await.is_some() {}
}

struct Candidate {
    context: Context,
    client: Client,
    election: String,
    chance: SmallRng,
    serial: u64,
}

impl Candidate {
    async fn run(mut self) {
        while !self.context.stopped() {
            let seconds = self.chance.random_range(1..=3);
            let session = Session::open(
                &self.context,
                &mut self.client,
                ELECTION,
                seconds,
                &mut self.chance,
            );
            match session.await {
                Some(session) => self.stand(session).await,
                None => self.go_elsewhere().await,
            }
        }
    }

    fn go_elsewhere_at_once(&mut self) {
        let member = self.context.any_member(&mut self.chance);
        self.client.move_to(member);
    }

    async fn go_elsewhere(&mut self) {
        self.go_elsewhere_at_once();
        self.context.sleep(AGAIN).await;
    }

    fn value(&mut self, how: char) -> String {
        self.serial += 1;
        format!("{how}/{}/{}", self.client.number(), self.serial)
    }

    fn key(&self, session: &Session) -> String {
        format!("{LINES}{}/{:x}", self.election, session.lease())
    }

    /// Leads a few times with one session.
    async fn stand(&mut self, mut session: Session) {
        for _ in 0..self.chance.random_range(1..=4) {
            if self.context.stopped() || !session.is_alive() {
                break;
            }
            let manner = Manner::draw(&mut self.chance);
            let by_service = self.chance.random_bool(0.6);
            let attempt = self.campaign(&session, manner, by_service).await;
            let held = match attempt {
                Attempt::Held(held) => held,
                Attempt::Not => {
                    self.context.rest(&mut self.chance).await;
                    continue;
                }
                Attempt::Unclear => {
                    self.go_elsewhere_at_once();
                    break;
                }
            };
            match manner {
                Manner::Orderly | Manner::WalksAway | Manner::Outlived => {
                    if !self.lead(&session, held, by_service).await {
                        break;
                    }
                }
                Manner::Pauses => {
                    session.freeze().await;
                    let deadline = session.deadline();
                    let over = Duration::from_millis(self.chance.random_range(500..=2500));
                    let pause = session.ttl() + over;
                    self.context.sleep(pause).await;
                    // Deposed by now, in most cases, and unaware of it.
                    self.proclaim(&session, &held, by_service).await;
                    let until = deadline.min(self.context.recorder.now());
                    self.hold_ended(&session, &held, until, HoldEnd::Lost);
                    break;
                }
                Manner::Dies => {
                    session.freeze().await;
                    self.hold_ended(&session, &held, session.deadline(), HoldEnd::Lost);
                    return;
                }
            }
            self.context.rest(&mut self.chance).await;
        }
        session.close(&mut self.client).await;
    }

    async fn campaign(&mut self, session: &Session, manner: Manner, by_service: bool) -> Attempt {
        let value = Bytes::from(self.value('c'));
        if !by_service {
            let limit = manner.patience(&mut self.chance);
            let context = self.context.clone();
            let give_up = patience_ends(&context, session, limit);
            let line = format!("{LINES}{}/", self.election);
            let mut contender = line::Contender {
                context: &mut self.context,
                client: &mut self.client,
                chance: &mut self.chance,
                workload: ELECTION,
                line: &line,
                value,
            };
            return contender.stand(session, std::pin::pin!(give_up)).await;
        }
        let request = service::CampaignRequest {
            name: format!("{LINES}{}", self.election).into(),
            lease: session.lease(),
            value,
        };
        let asked = ask_service(
            manner,
            request,
            &self.context,
            &mut self.client,
            &mut self.chance,
            (ELECTION, session),
        );
        let Some(outcome) = asked.await else {
            return Attempt::Unclear;
        };
        match outcome {
            Outcome::Ok(Answer::Campaign(won)) => Attempt::Held(Held {
                key: self.key(session),
                token: won.leader.unwrap_or_default().rev,
                from: self.context.recorder.now(),
            }),
            Outcome::Failed(_) => Attempt::Not,
            _ => Attempt::Unclear,
        }
    }

    /// Leads, proclaims, and resigns. Whether the session can be used again.
    async fn lead(&mut self, session: &Session, held: Held, by_service: bool) -> bool {
        for _ in 0..self.chance.random_range(0..=3) {
            let work = Duration::from_millis(self.chance.random_range(5..=200));
            let lost = tokio::time::timeout(work, session.lost()).await.is_ok();
            if lost || !self.proclaim(session, &held, by_service).await {
                break;
            }
        }
        let now = self.context.recorder.now();
        let deadline = session.deadline();
        if now >= deadline {
            self.hold_ended(session, &held, deadline, HoldEnd::Lost);
            return false;
        }
        self.hold_ended(session, &held, now, HoldEnd::Released);
        for _ in 0..3 {
            let outcome = if by_service {
                let leader = Some(self.leader_key(session, &held));
                self.client.call(service::ResignRequest { leader }).await
            } else {
                let resign = txn(
                    [created_at(&held.key, held.token)],
                    [Op::RequestDeleteRange(delete(&held.key))],
                    [],
                );
                self.client.call(resign).await
            };
            match outcome {
                Outcome::Ok(_) => return true,
                _ if session.is_alive() => self.go_elsewhere().await,
                _ => return false,
            }
        }
        false
    }

    fn leader_key(&self, session: &Session, held: &Held) -> service::LeaderKey {
        service::LeaderKey {
            name: format!("{LINES}{}", self.election).into(),
            key: Bytes::copy_from_slice(held.key.as_bytes()),
            rev: held.token,
            lease: session.lease(),
        }
    }

    /// Says something as the leader. Whether it was heard.
    async fn proclaim(&mut self, session: &Session, held: &Held, by_service: bool) -> bool {
        let value = self.value('p');
        if by_service {
            let leader = Some(self.leader_key(session, held));
            let value = value.into();
            let request = service::ProclaimRequest { leader, value };
            return matches!(self.client.call(request).await, Outcome::Ok(_));
        }
        let proclaim = txn(
            [created_at(&held.key, held.token)],
            [Op::RequestPut(put(&held.key, value, session.lease()))],
            [],
        );
        match self.client.call(proclaim).await {
            Outcome::Ok(Answer::Txn(answer)) => answer.succeeded,
            _ => false,
        }
    }

    fn hold_ended(&self, session: &Session, held: &Held, until: Nanos, end: HoldEnd) {
        let who = (ELECTION, &self.client);
        let what = (self.election.as_str(), session.lease());
        held.ended(&self.context, who, what, until, end);
    }
}

struct Observer {
    context: Context,
    client: Client,
    election: String,
    chance: SmallRng,
}

impl Observer {
    async fn run(mut self, by_service: bool) {
        while !self.context.stopped() {
            let name = format!("{LINES}{}", self.election).into();
            self.client.call(service::LeaderRequest { name }).await;
            let observer = self.context.recorder.next_observer();
            // Begins anew now and then, though nothing is wrong.
            let most = Duration::from_millis(self.chance.random_range(1000..=20_000));
            let context = self.context.clone();
            let observing = async {
                if by_service {
                    self.by_service(observer).await;
                } else {
                    self.by_keys(observer).await;
                }
            };
            let mut stop = context.stop.clone();
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                () = tokio::time::sleep(most) => {}
                () = observing => {}
            }
            let member = self.context.any_member(&mut self.chance);
            self.client.move_to(member);
            self.context.sleep(AGAIN).await;
        }
    }

    fn told(&self, observer: u32, kv: &KeyValue) {
        self.context.recorder.add(Record::Observed(Observed {
            workload: ELECTION.to_owned(),
            observer,
            member: self.client.member(),
            at: self.context.recorder.now(),
            election: self.election.clone(),
            key: String::from_utf8_lossy(&kv.key).into_owned(),
            token: kv.create_revision,
            revision: kv.mod_revision,
            value: String::from_utf8_lossy(&kv.value).into_owned(),
        }));
    }

    /// Observes by one stream of the election service, until it ends.
    async fn by_service(&self, observer: u32) {
        let request = service::LeaderRequest {
            name: format!("{LINES}{}", self.election).into(),
        };
        let Ok(answer) = self.client.election().observe(request).await else {
            return;
        };
        let mut told = answer.into_inner();
        while let Ok(Some(answer)) = told.message().await {
            if let Some(kv) = answer.kv {
                self.told(observer, &kv);
            }
        }
    }

    /// Observes by reads and watches: who is first now, then its key until that is deleted, then who was first at that very
    /// revision. Returns when a watch breaks.
    async fn by_keys(&mut self, observer: u32) {
        let line = format!("{LINES}{}/", self.election);
        let mut at = 0;
        loop {
            let look = pb::RangeRequest {
                revision: at,
                ..first_created(&line)
            };
            let Outcome::Ok(Answer::Range(found)) = self.client.call(look).await else {
                return;
            };
            if at == 0 {
                at = found.header.unwrap_or_default().revision;
            }
            let first = found.kvs.into_iter().next();
            if let Some(first) = &first {
                self.told(observer, first);
            }
            let watched = match first {
                Some(first) => (first.key, Bytes::new()),
                None => (Bytes::from(line.clone()), prefix_end(&line)),
            };
            match self.follow(observer, watched, at + 1).await {
                Some(end) => at = end,
                None => return,
            }
        }
    }

    /// Follows the key of who leads until it is deleted, and gives the revision of that; or, where nobody leads, all keys
    /// until somebody does, whom it tells of and follows then.
    async fn follow(&self, observer: u32, watched: (Bytes, Bytes), from: i64) -> Option<i64> {
        let request = pb::WatchCreateRequest {
            key: watched.0,
            range_end: watched.1,
            start_revision: from,
            progress_notify: true,
            ..Default::default()
        };
        let watcher = self.context.recorder.next_watcher();
        let opening = Stream::open_on(&self.context, ELECTION, &self.client, watcher, request);
        let mut stream = opening.await.ok()?;
        let mut leader: Option<Bytes> = None;
        loop {
            let (_, response) = stream.receive().await.ok()?;
            if response.canceled {
                return None;
            }
            for event in &response.events {
                let kv = event.kv.as_ref()?;
                // Where all keys are watched, the first that comes leads, and the others stand behind it.
                if *leader.get_or_insert_with(|| kv.key.clone()) != kv.key {
                    continue;
                }
                if event.r#type == 0 {
                    self.told(observer, kv);
                } else {
                    drop(stream);
                    return Some(kv.mod_revision);
                }
            }
        }
    }
}
