//! Histories of a cluster that keeps its promises: the model, asked by clients all at once, with answers that get lost,
//! members that lag behind and are started again, watches that break, compactions and leases that end.

mod trouble;
mod witnesses;

use std::collections::{BTreeMap, BTreeSet};

use baton_proto::etcdserverpb as pb;
use bytes::Bytes;
use rand::Rng;
use rand::rngs::SmallRng;

use crate::check::effects;
use crate::history::{
    Answer, Error, History, Member, MemberEvent, Nanos, Operation, Outcome, Record, Request,
};
use crate::model::{Change, Draft, Model, Refusal};
use crate::seed;
use crate::workload::append::{self, APPEND, Appender};
use crate::workload::register::{self, REGISTER};
use crate::workload::requests::Draw;

/// What a server says of a revision below the floor.
pub const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";

/// What a server says of a revision that there is not yet.
pub const FUTURE: &str = "etcdserver: mvcc: required revision is a future revision";

/// How much of what there is in a history.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Operations, more or less.
    pub operations: usize,
    /// Clients of registers.
    pub registers: u32,
    /// Clients of lists.
    pub appenders: u32,
    /// Members.
    pub members: u64,
    /// How many answers of a thousand are lost.
    pub lost: u32,
    /// Whether members fail, history is compacted and leases end.
    pub faults: bool,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            operations: 400,
            registers: 6,
            appenders: 3,
            members: 3,
            lost: 40,
            faults: true,
        }
    }
}

/// A history of `shape`, drawn from `seed`.
pub fn history(seed: u64, shape: Shape) -> History {
    let mut cluster = Cluster::new(seed, shape);
    while cluster.operations < u64::try_from(shape.operations).unwrap_or(u64::MAX) {
        cluster.step();
    }
    cluster.finish()
}

/// What a client does next is drawn by what makes requests for real runs.
#[derive(Debug)]
enum Script {
    Register(Box<Draw>),
    Append(Appender, Option<Request>),
}

#[derive(Debug)]
struct Client {
    number: u32,
    index: u32,
    member: Member,
    script: Script,
    under_way: Option<UnderWay>,
}

#[derive(Debug)]
struct UnderWay {
    id: u64,
    called: Nanos,
    request: Request,
    outcome: Option<Outcome>,
}

/// A member: how far it has applied, how far its witness is, and whether that is cut off.
#[derive(Debug)]
struct Place {
    applied: i64,
    witnessed: i64,
    cut: bool,
}

struct Cluster {
    chance: SmallRng,
    shape: Shape,
    model: Model,
    now: Nanos,
    places: Vec<Place>,
    clients: Vec<Client>,
    /// Requests that their clients gave up on and that happen nevertheless.
    late: Vec<Request>,
    records: Vec<Record>,
    operations: u64,
    made: u64,
    numbers: u32,
    compacted: i64,
    lease: i64,
    leased: BTreeMap<i64, BTreeSet<Bytes>>,
    /// When the time of each lease is over.
    ends: BTreeMap<i64, Nanos>,
}

impl Cluster {
    fn new(seed: u64, shape: Shape) -> Self {
        let mut cluster = Self {
            chance: seed::stream(seed, "honest"),
            shape,
            model: Model::new(),
            now: 0,
            places: Vec::new(),
            clients: Vec::new(),
            late: Vec::new(),
            records: Vec::new(),
            operations: 0,
            made: 0,
            numbers: 0,
            compacted: 0,
            lease: 0x7000,
            leased: BTreeMap::new(),
            ends: BTreeMap::new(),
        };
        for member in 1..=shape.members {
            cluster.places.push(Place {
                applied: 1,
                witnessed: 1,
                cut: false,
            });
            cluster.member(member, MemberEvent::Started { pid: 1 });
            cluster.ask_witness(member, 1);
        }
        for index in 0..shape.registers + shape.appenders {
            cluster.numbers += 1;
            let script = if index < shape.registers {
                Script::Register(Box::new(Draw::new(format!("{REGISTER}/{index}"))))
            } else {
                Script::Append(Appender::new(index), None)
            };
            cluster.clients.push(Client {
                number: cluster.numbers,
                index,
                member: u64::from(index) % shape.members + 1,
                script,
                under_way: None,
            });
        }
        cluster
    }

    fn tick(&mut self) -> Nanos {
        self.now += self.chance.random_range(1..1000);
        self.now
    }

    fn place(&mut self, member: Member) -> &mut Place {
        let at = usize::try_from(member - 1).unwrap_or(usize::MAX);
        &mut self.places[at]
    }

    fn any_member(&mut self) -> Member {
        self.chance.random_range(1..=self.shape.members)
    }

    fn step(&mut self) {
        match self.chance.random_range(0..1000) {
            0..60 => {
                let member = self.any_member();
                self.replicate(member);
            }
            60..120 => {
                let member = self.any_member();
                self.witness(member);
            }
            120..126 if !self.late.is_empty() => {
                let at = self.chance.random_range(0..self.late.len());
                let request = self.late.swap_remove(at);
                let mut draft = self.model.draft(self.model.revision());
                if let Some(Ok(_)) = effects::evaluate(&request, &mut draft) {
                    let changes = draft.into_changes();
                    self.push(changes);
                }
            }
            126..130 if self.shape.faults => self.restart(),
            130..134 if self.shape.faults => self.compact(),
            134..140 if self.shape.faults => self.grant(),
            140..144 if self.shape.faults => self.expire(),
            144..152 if self.shape.faults => {
                let member = self.any_member();
                self.cut_or_join(member);
            }
            _ => {
                let at = self.chance.random_range(0..self.clients.len());
                self.go_on(at);
            }
        }
    }

    fn push(&mut self, changes: Vec<Change>) {
        for keys in self.leased.values_mut() {
            for change in &changes {
                keys.remove(change.key());
            }
        }
        for change in &changes {
            if let Change::Put(kv) = change
                && let Some(keys) = self.leased.get_mut(&kv.lease)
            {
                keys.insert(kv.key.clone());
            }
        }
        if !changes.is_empty() {
            self.model.push(changes);
        }
    }

    /// One client goes on: it calls, or what it asked happens, or it is told.
    fn go_on(&mut self, at: usize) {
        if let Some(under_way) = &self.clients[at].under_way {
            if under_way.outcome.is_some() {
                self.answer(at);
            } else {
                let (request, member) = (under_way.request.clone(), self.clients[at].member);
                let outcome = self.happen(&request, member);
                if let Some(under_way) = &mut self.clients[at].under_way {
                    under_way.outcome = Some(outcome);
                }
            }
            return;
        }
        self.operations += 1;
        let (id, called) = (self.operations, self.tick());
        let client = &mut self.clients[at];
        let request = match &mut client.script {
            Script::Register(draw) => {
                draw.on(
                    &register::prefix(client.index / register::GROUP, self.made),
                    4,
                );
                self.made += 1;
                draw.next(&mut self.chance)
            }
            Script::Append(appender, next) => {
                let begin = || append::prefix(self.made / 4);
                next.take()
                    .unwrap_or_else(|| appender.begin(&mut self.chance, &begin()))
            }
        };
        client.under_way = Some(UnderWay {
            id,
            called,
            request,
            outcome: None,
        });
    }

    fn answer(&mut self, at: usize) {
        let returned = self.tick();
        let client = &mut self.clients[at];
        let (
            Some(UnderWay {
                id,
                called,
                request,
                outcome: Some(outcome),
            }),
            workload,
        ) = (
            client.under_way.take(),
            match client.script {
                Script::Register(_) => REGISTER,
                Script::Append(..) => APPEND,
            },
        )
        else {
            return;
        };
        match &mut client.script {
            Script::Register(draw) => draw.learn(&request, &outcome),
            Script::Append(appender, next) => *next = appender.go_on(&outcome),
        }
        self.records.push(Record::Operation(Operation {
            id,
            workload: workload.into(),
            client: client.number,
            member: client.member,
            called,
            returned,
            request,
            outcome: outcome.clone(),
        }));
        if matches!(outcome, Outcome::Unknown(_)) {
            self.numbers += 1;
            client.number = self.numbers;
        }
    }

    /// What comes of a request at a member.
    fn happen(&mut self, request: &Request, member: Member) -> Outcome {
        let lost = self.chance.random_range(0..1000) < self.shape.lost;
        if lost {
            let unknown = Outcome::Unknown(error(4, "no answer in time"));
            match self.chance.random_range(0..4) {
                0 => return unknown,
                1 => return Outcome::Failed(error(14, "connection refused")),
                2 => {
                    self.late.push(request.clone());
                    return unknown;
                }
                _ => {}
            }
        }
        let serializable = matches!(request, Request::Range(range) if range.serializable);
        let newest = self.model.revision();
        if !serializable {
            self.place(member).applied = newest;
        }
        let base = self.place(member).applied;
        if let Some(refused) = self.below_the_floor(request) {
            return Outcome::Failed(refused);
        }
        let mut draft: Draft<'_> = self.model.draft(base);
        let evaluated = effects::evaluate(request, &mut draft);
        let changes = draft.into_changes();
        let Some(Ok(answer)) = evaluated else {
            return Outcome::Failed(match evaluated {
                Some(Err(Refusal::FutureRevision)) => error(11, FUTURE),
                _ => error(3, "etcdserver: key not found"),
            });
        };
        self.push(changes);
        let revision = self
            .model
            .revision()
            .min(if serializable { base } else { i64::MAX });
        self.place(member).applied = revision;
        if lost {
            return Outcome::Unknown(error(4, "no answer in time"));
        }
        Outcome::Ok(with_header(answer, header(member, revision)))
    }

    fn below_the_floor(&self, request: &Request) -> Option<Error> {
        let below = effects::old_revisions(request)
            .into_iter()
            .any(|revision| revision < self.compacted);
        below.then(|| error(11, COMPACTED))
    }

    /// Records an operation of a client that exists for it alone.
    fn other(&mut self, workload: &str, called: Nanos, request: Request, answer: Answer) {
        self.other_at(1, workload, called, request, answer);
    }

    fn other_at(
        &mut self,
        member: Member,
        workload: &str,
        called: Nanos,
        request: Request,
        answer: Answer,
    ) {
        self.operations += 1;
        self.numbers += 1;
        let returned = self.tick();
        let applied = answer.header().revision;
        let place = self.place(member);
        place.applied = place.applied.max(applied);
        self.records.push(Record::Operation(Operation {
            id: self.operations,
            workload: workload.into(),
            client: self.numbers,
            member,
            called,
            returned,
            request,
            outcome: Outcome::Ok(answer),
        }));
    }

    /// Everything under way ends, and the witnesses are told of it all.
    fn finish(mut self) -> History {
        for at in 0..self.clients.len() {
            while self.clients[at].under_way.is_some() {
                self.go_on(at);
            }
        }
        self.look();
        for member in 1..=self.shape.members {
            if self.place(member).cut {
                self.cut_or_join(member);
            }
            self.tell(member, self.model.revision());
        }
        History::of(self.records)
    }
}

/// An error of a server.
pub fn error(code: i32, message: &str) -> Error {
    Error {
        code,
        message: message.into(),
    }
}

/// The header of an answer of `member`.
pub fn header(member: Member, revision: i64) -> pb::ResponseHeader {
    pb::ResponseHeader {
        cluster_id: 0xc,
        member_id: 0xa0 + member,
        revision,
        raft_term: 2,
    }
}

pub(super) fn with_header(answer: Answer, header: pb::ResponseHeader) -> Answer {
    let header = Some(header);
    match answer {
        Answer::Range(answer) => Answer::Range(pb::RangeResponse { header, ..answer }),
        Answer::Put(answer) => Answer::Put(pb::PutResponse { header, ..answer }),
        Answer::DeleteRange(answer) => {
            Answer::DeleteRange(pb::DeleteRangeResponse { header, ..answer })
        }
        Answer::Txn(answer) => Answer::Txn(pb::TxnResponse { header, ..answer }),
        other => other,
    }
}
