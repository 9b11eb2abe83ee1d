//! Histories of leases, locks, elections, queues and barriers at a cluster that keeps its promises, told one thing after the
//! other.

use std::collections::BTreeMap;

use baton_proto::etcdserverpb as pb;
use baton_proto::mvccpb::{Event, KeyValue};
use baton_proto::v3electionpb as elections;
use baton_proto::v3lockpb as locks;
use bytes::Bytes;
use pb::compare::{CompareResult, TargetUnion};
use pb::request_op::Request as Op;
use rand::Rng;
use rand::rngs::SmallRng;

use crate::check::effects;
use crate::history::{
    Answer, Effect, Error, History, Hold, HoldEnd, Member, MemberEvent, MemberStep, Nanos,
    Observed, Operation, Outcome, Record, Request, WatchEvent, WatchStep,
};
use crate::model::{Change, Model};
use crate::seed;
use crate::selftest::honest::{header, with_header};
use crate::workload::ask::{by_creation, created_at, delete, prefix_end, put, txn};
use crate::workload::requests::compare;
use crate::workload::witness::WITNESS;
use crate::workload::{barrier, election, lease, lock, queue};

const MEMBERS: Member = 3;
const MILLISECOND: Nanos = 1_000_000;
const SECOND: Nanos = 1000 * MILLISECOND;

/// A history drawn from `seed`: a few scenes of everything.
pub fn history(seed: u64) -> History {
    let mut story = Story::new(seed);
    for _ in 0..3 {
        story.leases();
        story.locks();
        story.elections();
        story.queues();
        story.barriers();
        story.change_leader();
    }
    story.finish()
}

/// A call that is under way.
struct Call {
    id: u64,
    workload: &'static str,
    member: Member,
    called: Nanos,
    request: Request,
}

struct Story {
    chance: SmallRng,
    now: Nanos,
    model: Model,
    records: Vec<Record>,
    calls: u64,
    /// Until when each lease that lives has to live.
    leases: BTreeMap<i64, (i64, Nanos)>,
    last_lease: i64,
    term: u64,
    serial: u64,
}

impl Story {
    fn new(seed: u64) -> Self {
        let mut story = Self {
            chance: seed::stream(seed, "story"),
            now: 0,
            model: Model::new(),
            records: Vec::new(),
            calls: 0,
            leases: BTreeMap::new(),
            last_lease: 0x5000,
            term: 2,
            serial: 0,
        };
        for member in 1..=MEMBERS {
            story.witness(
                member,
                WatchEvent::Asked(pb::WatchCreateRequest {
                    key: Bytes::from_static(b"\0"),
                    range_end: Bytes::from_static(b"\0"),
                    start_revision: 1,
                    prev_kv: true,
                    ..Default::default()
                }),
            );
            story.witness(
                member,
                WatchEvent::Received(pb::WatchResponse {
                    header: Some(header(member, 1)),
                    created: true,
                    ..Default::default()
                }),
            );
        }
        story.look();
        story
    }

    /// A little later.
    fn tick(&mut self) -> Nanos {
        self.now += self.chance.random_range(MILLISECOND / 10..2 * MILLISECOND);
        self.now
    }

    fn wait(&mut self, milliseconds: std::ops::Range<u64>) {
        self.now += self.chance.random_range(milliseconds) * MILLISECOND;
    }

    fn unique(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    fn witness(&mut self, member: Member, step: WatchEvent) {
        let at = self.tick();
        self.records.push(Record::Watch(WatchStep {
            workload: WITNESS.into(),
            watcher: u32::try_from(member).unwrap_or(u32::MAX),
            member,
            at,
            step,
        }));
    }

    /// A look at who leads.
    fn look(&mut self) {
        let (at, term, revision) = (self.tick(), self.term, self.model.revision());
        for member in 1..=MEMBERS {
            self.records.push(Record::Member(MemberStep {
                member,
                at,
                event: MemberEvent::Status {
                    leads: member == term % MEMBERS + 1,
                    term,
                    applied_index: revision.cast_unsigned(),
                    revision,
                },
            }));
        }
    }

    /// Another member leads, and gives every lease its whole time again.
    fn change_leader(&mut self) {
        self.look();
        self.wait(900..1200);
        self.term += 1;
        self.look();
    }

    fn begin(&mut self, workload: &'static str, request: impl Into<Request>) -> Call {
        self.calls += 1;
        Call {
            id: self.calls,
            workload,
            member: self.chance.random_range(1..=MEMBERS),
            called: self.tick(),
            request: request.into(),
        }
    }

    fn end(&mut self, call: Call, outcome: Outcome) -> u64 {
        let returned = self.tick();
        self.records.push(Record::Operation(Operation {
            id: call.id,
            workload: call.workload.into(),
            client: u32::try_from(call.id).unwrap_or(u32::MAX),
            member: call.member,
            called: call.called,
            returned,
            request: call.request,
            outcome,
        }));
        call.id
    }

    fn answer(&mut self, call: Call, answer: Answer) {
        let header = header(call.member, self.model.revision());
        let answer = with_header(answer, header);
        self.end(call, Outcome::Ok(answer));
    }

    fn header(&self, call: &Call) -> Option<pb::ResponseHeader> {
        Some(header(call.member, self.model.revision()))
    }

    /// Changes keys in one revision, and the witnesses hear of it.
    fn change(&mut self, changes: Vec<Change>) -> i64 {
        if changes.is_empty() {
            return self.model.revision();
        }
        let before: Vec<Option<KeyValue>> = changes
            .iter()
            .map(|change| self.model.get(change.key(), self.model.revision()).cloned())
            .collect();
        let revision = self.model.push(changes);
        let changes = self.model.changes(revision).iter();
        let events: Vec<Event> = changes
            .zip(before)
            .map(|(change, prev_kv)| match change {
                Change::Put(kv) => Event {
                    r#type: 0,
                    kv: Some(kv.clone()),
                    prev_kv,
                },
                Change::Delete(key) => Event {
                    r#type: 1,
                    kv: Some(KeyValue {
                        key: key.clone(),
                        mod_revision: revision,
                        ..Default::default()
                    }),
                    prev_kv,
                },
            })
            .collect();
        for member in 1..=MEMBERS {
            self.witness(
                member,
                WatchEvent::Received(pb::WatchResponse {
                    header: Some(header(member, revision)),
                    events: events.clone(),
                    ..Default::default()
                }),
            );
        }
        revision
    }

    /// A call about keys, from beginning to end. Gives the revision of the answer, and whether a transaction succeeded.
    fn keys(&mut self, workload: &'static str, request: impl Into<Request>) -> (i64, bool) {
        let call = self.begin(workload, request);
        let mut draft = self.model.draft(self.model.revision());
        let evaluated = effects::evaluate(&call.request, &mut draft);
        let changes = draft.into_changes();
        let Some(Ok(answer)) = evaluated else {
            return (0, false);
        };
        let revision = self.change(changes);
        let succeeded = matches!(&answer, Answer::Txn(answer) if answer.succeeded);
        self.answer(call, answer);
        (revision, succeeded)
    }

    fn remove(&mut self, keys: Vec<Bytes>) -> i64 {
        self.change(keys.into_iter().map(Change::Delete).collect())
    }

    // Leases.

    fn grant(&mut self, workload: &'static str, ttl: i64) -> i64 {
        let call = self.begin(workload, pb::LeaseGrantRequest { ttl, id: 0 });
        self.last_lease += 1;
        let id = self.last_lease;
        self.leases
            .insert(id, (ttl, call.called + ttl.cast_unsigned() * SECOND));
        let answer = Answer::LeaseGrant(pb::LeaseGrantResponse {
            header: self.header(&call),
            id,
            ttl,
            error: String::new(),
        });
        self.end(call, Outcome::Ok(answer));
        id
    }

    fn renew(&mut self, workload: &'static str, id: i64) {
        let call = self.begin(workload, pb::LeaseKeepAliveRequest { id });
        let ttl = match self.leases.get_mut(&id) {
            Some((ttl, until)) => {
                *until = call.called + ttl.cast_unsigned() * SECOND;
                *ttl
            }
            None => 0,
        };
        let answer = Answer::LeaseKeepAlive(pb::LeaseKeepAliveResponse {
            header: self.header(&call),
            id,
            ttl,
        });
        self.end(call, Outcome::Ok(answer));
    }

    fn ask_after(&mut self, id: i64) {
        let call = self.begin(lease::LEASE, pb::LeaseTimeToLiveRequest { id, keys: false });
        let left = self.leases.get(&id).map(|(ttl, until)| {
            let left = until.saturating_sub(self.now) / SECOND;
            (*ttl, left.cast_signed())
        });
        let answer = Answer::LeaseTimeToLive(pb::LeaseTimeToLiveResponse {
            header: self.header(&call),
            id,
            ttl: left.map_or(-1, |(_, left)| left),
            granted_ttl: left.map_or(0, |(granted, _)| granted),
            keys: Vec::new(),
        });
        self.end(call, Outcome::Ok(answer));
    }

    fn list(&mut self) {
        let call = self.begin(lease::LEASE, pb::LeaseLeasesRequest {});
        let leases = self.leases.keys();
        let answer = Answer::LeaseLeases(pb::LeaseLeasesResponse {
            header: self.header(&call),
            leases: leases.map(|id| pb::LeaseStatus { id: *id }).collect(),
        });
        self.end(call, Outcome::Ok(answer));
    }

    fn keys_of(&self, lease: i64) -> Vec<Bytes> {
        let all = self.model.scan(b"\0", b"\0", self.model.revision());
        all.filter(|kv| kv.lease == lease)
            .map(|kv| kv.key.clone())
            .collect()
    }

    /// The time of a lease passes, and it ends.
    fn expire(&mut self, lease: i64) -> i64 {
        if let Some((_, until)) = self.leases.remove(&lease) {
            self.now = self.now.max(until) + 100 * MILLISECOND;
        }
        self.remove(self.keys_of(lease))
    }

    fn revoke(&mut self, workload: &'static str, id: i64) {
        let call = self.begin(workload, pb::LeaseRevokeRequest { id });
        self.leases.remove(&id);
        self.remove(self.keys_of(id));
        let answer = Answer::LeaseRevoke(pb::LeaseRevokeResponse {
            header: self.header(&call),
        });
        self.end(call, Outcome::Ok(answer));
    }

    /// Leases with keys: renewed for a while, then left alone or revoked.
    fn leases(&mut self) {
        for ends_by_itself in [true, false] {
            let id = self.grant(lease::LEASE, 2);
            for key in 0..3 {
                let value = self.unique().to_string();
                let key = format!("{}{id:x}/{key}", lease::KEYS);
                self.keys(lease::LEASE, put(&key, value, id));
            }
            for _ in 0..self.chance.random_range(2..5) {
                self.wait(300..1500);
                self.renew(lease::LEASE, id);
                self.ask_after(id);
                self.list();
            }
            if ends_by_itself {
                self.expire(id);
            } else {
                self.revoke(lease::LEASE, id);
            }
            self.renew(lease::LEASE, id);
            self.ask_after(id);
        }
    }

    // Lines.

    fn place(prefix: &str, name: &str, lease: i64) -> String {
        format!("{prefix}{name}/{lease:x}")
    }

    fn enter(&mut self, key: &str, value: String, lease: i64) -> i64 {
        let mut draft = self.model.draft(self.model.revision());
        draft.set(&Bytes::copy_from_slice(key.as_bytes()), value.into(), lease);
        let changes = draft.into_changes();
        self.change(changes)
    }

    fn hold(
        &mut self,
        workload: &'static str,
        name: &str,
        key: &str,
        (lease, token): (i64, i64),
        (from, until): (Nanos, Nanos),
        end: HoldEnd,
    ) {
        self.records.push(Record::Hold(Hold {
            workload: workload.into(),
            client: u32::try_from(lease).unwrap_or(u32::MAX),
            name: name.into(),
            key: key.into(),
            token,
            lease,
            from,
            until,
            end,
        }));
    }

    fn effect(&mut self, name: &str, token: i64, fenced: bool, (read, found): (u64, u64)) {
        let at = self.tick();
        self.records.push(Record::Effect(Effect {
            workload: lock::LOCK.into(),
            client: 1,
            name: name.into(),
            token,
            at,
            fenced,
            accepted: true,
            read,
            found,
        }));
    }

    /// Four stand in line for a lock: one works and gives it back, one goes away, one dies with it, and one gets it after that.
    fn locks(&mut self) {
        let name = format!("l{}", self.unique());
        let mut line = Vec::new();
        for _ in 0..4 {
            let id = self.grant(lock::LOCK, 3);
            let call = self.begin(
                lock::LOCK,
                locks::LockRequest {
                    name: format!("{}{name}", lock::LINES).into(),
                    lease: id,
                },
            );
            let key = Self::place(lock::LINES, &name, id);
            let token = self.enter(&key, String::new(), id);
            line.push((call, key, token, id));
        }
        // The third one goes away.
        let (call, key, _, gone) = line.remove(2);
        self.wait(20..200);
        self.end(call, Outcome::Unknown(error(1, "given up")));
        self.remove(vec![key.into()]);
        for (number, (call, key, token, id)) in (0..).zip(line) {
            let answer = Answer::Lock(locks::LockResponse {
                header: self.header(&call),
                key: key.clone().into(),
            });
            self.end(call, Outcome::Ok(answer));
            let from = self.now;
            for _ in 0..2 {
                self.wait(10..100);
                let record = format!("{token}/{number}/{}", self.unique());
                let record = put(&format!("{}{name}", lock::RECORDS), record, 0);
                let guarded = txn([created_at(&key, token)], [Op::RequestPut(record)], []);
                self.keys(lock::LOCK, guarded);
            }
            self.effect(&name, token, true, (number, number));
            self.effect(&name, token, false, (number, number));
            if number == 1 {
                self.renew(lock::LOCK, id);
                let until = self.leases.get(&id).map_or(0, |(_, until)| *until);
                self.hold(
                    lock::LOCK,
                    &name,
                    &key,
                    (id, token),
                    (from, until),
                    HoldEnd::Lost,
                );
                for (other, _) in self.leases.clone() {
                    if other != id {
                        self.renew(lock::LOCK, other);
                    }
                }
                self.expire(id);
                continue;
            }
            let until = self.now;
            self.hold(
                lock::LOCK,
                &name,
                &key,
                (id, token),
                (from, until),
                HoldEnd::Released,
            );
            let call = self.begin(
                lock::LOCK,
                locks::UnlockRequest {
                    key: key.clone().into(),
                },
            );
            self.remove(vec![key.into()]);
            let header = self.header(&call);
            self.end(
                call,
                Outcome::Ok(Answer::Unlock(locks::UnlockResponse { header })),
            );
            self.revoke(lock::LOCK, id);
        }
        self.revoke(lock::LOCK, gone);
    }

    fn observe(&mut self, observer: u32, name: &str, key: &str) {
        let at = self.tick();
        let kv = self.model.get(key.as_bytes(), self.model.revision());
        let kv = kv.cloned().unwrap_or_default();
        self.records.push(Record::Observed(Observed {
            workload: election::ELECTION.into(),
            observer,
            member: 1,
            at,
            election: name.into(),
            key: key.into(),
            token: kv.create_revision,
            revision: kv.mod_revision,
            value: String::from_utf8_lossy(&kv.value).into_owned(),
        }));
    }

    /// Four campaign; one goes away, each other leads in turn, proclaims, and resigns or dies.
    fn elections(&mut self) {
        let name = format!("e{}", self.unique());
        let observer = u32::try_from(self.unique()).unwrap_or(u32::MAX);
        let line_name = Bytes::from(format!("{}{name}", election::LINES));
        let mut line = Vec::new();
        for _ in 0..4 {
            let id = self.grant(election::ELECTION, 3);
            let value = format!("c/{}", self.unique());
            let call = self.begin(
                election::ELECTION,
                elections::CampaignRequest {
                    name: line_name.clone(),
                    lease: id,
                    value: value.clone().into(),
                },
            );
            let key = Self::place(election::LINES, &name, id);
            let token = self.enter(&key, value, id);
            line.push((call, key, token, id));
        }
        let (call, key, _, gone) = line.remove(2);
        self.wait(20..200);
        self.end(call, Outcome::Unknown(error(1, "given up")));
        self.remove(vec![key.into()]);
        for (number, (call, key, token, id)) in line.into_iter().enumerate() {
            let leader = elections::LeaderKey {
                name: line_name.clone(),
                key: key.clone().into(),
                rev: token,
                lease: id,
            };
            let answer = Answer::Campaign(elections::CampaignResponse {
                header: self.header(&call),
                leader: Some(leader.clone()),
            });
            self.end(call, Outcome::Ok(answer));
            let from = self.now;
            self.observe(observer, &name, &key);
            for _ in 0..2 {
                self.wait(10..100);
                let value = format!("p/{}", self.unique());
                let call = self.begin(
                    election::ELECTION,
                    elections::ProclaimRequest {
                        leader: Some(leader.clone()),
                        value: value.clone().into(),
                    },
                );
                self.enter(&key, value, id);
                let header = self.header(&call);
                let answer = Answer::Proclaim(elections::ProclaimResponse { header });
                self.end(call, Outcome::Ok(answer));
                self.observe(observer, &name, &key);
            }
            let call = self.begin(
                election::ELECTION,
                elections::LeaderRequest {
                    name: line_name.clone(),
                },
            );
            let answer = Answer::Leader(elections::LeaderResponse {
                header: self.header(&call),
                kv: self
                    .model
                    .get(key.as_bytes(), self.model.revision())
                    .cloned(),
            });
            self.end(call, Outcome::Ok(answer));
            if number == 1 {
                self.renew(election::ELECTION, id);
                let until = self.leases.get(&id).map_or(0, |(_, until)| *until);
                self.hold(
                    election::ELECTION,
                    &name,
                    &key,
                    (id, token),
                    (from, until),
                    HoldEnd::Lost,
                );
                for (other, _) in self.leases.clone() {
                    if other != id {
                        self.renew(election::ELECTION, other);
                    }
                }
                self.expire(id);
                // What it says now is not heard.
                let value = format!("p/{}", self.unique()).into();
                let call = self.begin(
                    election::ELECTION,
                    elections::ProclaimRequest {
                        leader: Some(leader),
                        value,
                    },
                );
                self.end(call, Outcome::Unknown(error(2, "election: not leader")));
                continue;
            }
            let until = self.now;
            self.hold(
                election::ELECTION,
                &name,
                &key,
                (id, token),
                (from, until),
                HoldEnd::Released,
            );
            let leader = Some(leader);
            let call = self.begin(election::ELECTION, elections::ResignRequest { leader });
            self.remove(vec![key.into()]);
            let header = self.header(&call);
            self.end(
                call,
                Outcome::Ok(Answer::Resign(elections::ResignResponse { header })),
            );
            self.revoke(election::ELECTION, id);
        }
        self.revoke(election::ELECTION, gone);
    }

    /// Jobs of several priorities, one of which is claimed by a worker that dies.
    fn queues(&mut self) {
        let name = format!("q{}", self.unique());
        let mut jobs = Vec::new();
        for _ in 0..6 {
            let priority = self.chance.random_range(0..3);
            let job = format!("{name}/{priority:05}/{}", self.unique());
            let key = format!("{}{job}", queue::JOBS);
            let enqueue = txn(
                [created_at(&key, 0)],
                [Op::RequestPut(put(&key, job.clone(), 0))],
                [],
            );
            let (created, _) = self.keys(queue::QUEUE, enqueue);
            jobs.push((priority, created, job));
        }
        jobs.sort();
        for (number, (_, created, job)) in jobs.into_iter().enumerate() {
            let worker = self.grant(queue::QUEUE, 2);
            let dies = number == 2;
            let mut claimed = self.claim(&name, &job, created, worker);
            if dies {
                let until = self.leases.get(&worker).map_or(0, |(_, until)| *until);
                self.hold(
                    queue::QUEUE,
                    &job,
                    &claimed.0,
                    (worker, claimed.1),
                    (claimed.2, until),
                    HoldEnd::Lost,
                );
                self.expire(worker);
                let next = self.grant(queue::QUEUE, 2);
                claimed = self.claim(&name, &job, created, next);
            }
            self.wait(5..50);
            let (key, token, from) = claimed;
            let until = self.now;
            self.hold(
                queue::QUEUE,
                &job,
                &key,
                (worker, token),
                (from, until),
                HoldEnd::Released,
            );
            let ack = txn(
                [created_at(&key, token)],
                [
                    Op::RequestDeleteRange(delete(&format!("{}{job}", queue::JOBS))),
                    Op::RequestDeleteRange(delete(&key)),
                ],
                [],
            );
            self.keys(queue::QUEUE, ack);
        }
        let rest: Vec<i64> = self.leases.keys().copied().collect();
        for lease in rest {
            self.revoke(queue::QUEUE, lease);
        }
    }

    fn claim(&mut self, queue: &str, job: &str, created: i64, worker: i64) -> (String, i64, Nanos) {
        let seen = self.model.revision();
        let key = format!("{}{job}", queue::CLAIMS);
        let no_later = |prefix: String, union| {
            let end = prefix_end(&prefix);
            compare(Bytes::from(prefix), end, CompareResult::Less, union)
        };
        let claim = txn(
            [
                created_at(&format!("{}{job}", queue::JOBS), created),
                created_at(&key, 0),
                no_later(
                    format!("{}{queue}/", queue::JOBS),
                    TargetUnion::ModRevision(seen + 1),
                ),
                no_later(
                    format!("{}{queue}/", queue::CLAIMS),
                    TargetUnion::CreateRevision(seen + 1),
                ),
            ],
            [Op::RequestPut(put(&key, self.unique().to_string(), worker))],
            [],
        );
        let (token, _) = self.keys(queue::QUEUE, claim);
        (key, token, self.now)
    }

    /// A barrier that two wait for, and a double barrier of three.
    fn barriers(&mut self) {
        let keeper = self.grant(barrier::BARRIER, 3);
        let generation = self.unique();
        let gate = format!("{}{generation}", barrier::GATES);
        self.keys(barrier::BARRIER, put(&gate, "up", keeper));
        self.wait(20..200);
        let (open, _) = self.keys(barrier::BARRIER, delete(&gate));
        for client in 0..2 {
            let passed = format!("{}{generation}/{client}", barrier::PASSED);
            self.keys(barrier::BARRIER, put(&passed, open.to_string(), 0));
        }
        let place = format!("{}{generation}/", barrier::DOUBLES);
        let mut last = 0;
        for client in 0..3 {
            self.wait(5..50);
            (last, _) = self.keys(
                barrier::BARRIER,
                put(&format!("{place}m/{client}"), "3", keeper),
            );
        }
        for client in 0..3 {
            let entered = put(&format!("{place}in/{client}"), last.to_string(), 0);
            self.keys(barrier::BARRIER, entered);
        }
        for client in 0..3 {
            (last, _) = self.keys(barrier::BARRIER, delete(&format!("{place}m/{client}")));
        }
        for client in 0..3 {
            let left = put(&format!("{place}out/{client}"), last.to_string(), 0);
            self.keys(barrier::BARRIER, left);
        }
        self.keys(barrier::BARRIER, by_creation(&place));
        self.revoke(barrier::BARRIER, keeper);
    }

    fn finish(mut self) -> History {
        self.wait(100..200);
        self.keys("final", put("final", "final", 0));
        self.look();
        History::of(self.records)
    }
}

fn error(code: i32, message: &str) -> Error {
    Error {
        code,
        message: message.into(),
    }
}
