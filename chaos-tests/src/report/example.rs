//! A run as it might have been, for the tests of what is made from runs.

use baton_proto::etcdserverpb as pb;
use baton_proto::mvccpb::{Event, KeyValue};
use rand::Rng;
use rand::rngs::SmallRng;
use tonic::Code;

use crate::history::{
    Answer, Error, FaultStep, History, Member, MemberEvent, MemberStep, Nanos, Operation, Outcome,
    Phase, Record, Request, WatchEvent, WatchStep,
};
use crate::plan::{DiskKind, Fault, Gate, Load, Plan, PlannedFault, Server, Target, Workload};
use crate::run::{Made, Run};
use crate::seed;
use crate::verdict::{Judgement, Verdict, Violation};

const MS: Nanos = 1_000_000;
const SECOND: Nanos = 1000 * MS;

/// A value that would do harm in a page that shows it as it is.
pub const HARMFUL: &str = "<script>alert('&')</script>";

/// A plan of 24 seconds and what was seen: an isolated leader, a delay that nothing shows, a killed leader, a power cut that
/// could not be made, and a stale read.
pub fn run() -> (Plan, History) {
    let plan = plan();
    let mut records = Vec::new();
    members(&mut records);
    faults(&mut records);
    operations(&mut records);
    witness(&mut records);
    (plan, History::of(records))
}

/// The same, as it lies on a disk.
pub fn on_disk(directory: &std::path::Path) -> Run {
    let (plan, history) = run();
    let made = Made::Real {
        server: "target/release/batond".into(),
        version: "0.1.0".into(),
        began_unix_us: 1_767_323_045_000_000,
    };
    for member in 1..=plan.members {
        let log = directory.join(format!("members/m{member}"));
        std::fs::create_dir_all(&log).unwrap();
        let lines: Vec<String> = (0..240)
            .map(|tenth: u64| {
                let (seconds, tenths) = (5 + tenth / 10, tenth % 10);
                format!(
                    "{{\"level\":\"info\",\"ts\":\"2026-01-02T03:04:{seconds:02}.{tenths}00000Z\",\"caller\":\"raft\",\"msg\":\"line {tenth} of m{member} <b>\"}}\n"
                )
            })
            .collect();
        std::fs::write(log.join("log"), lines.concat()).unwrap();
    }
    Run {
        directory: directory.to_owned(),
        plan,
        made,
        history,
    }
}

/// A verdict on it: a stale read, a gate that was missed.
pub fn verdict(plan: &Plan, history: &History) -> Verdict {
    let mut order = Judgement::new(
        "revision_order",
        "Revisions are unique, grow by one per changing request, and are the same on every member.",
    );
    order.count("writes acknowledged", history.answered().count());
    order.count("events replayed", 9211);
    let mut real_time = Judgement::new(
        "real_time",
        "Reads and transactions are linearizable by default; serializable reads are never ahead.",
    );
    real_time.count("reads compared", 5120);
    real_time.count("real-time edges", 44_120);
    let read = history
        .operations
        .iter()
        .find(|operation| {
            matches!(operation.request, Request::Range(_)) && operation.called > 9 * SECOND
        })
        .expect("the example reads");
    let write = history
        .operations
        .iter()
        .rfind(|operation| {
            matches!(operation.request, Request::Put(_)) && operation.returned < read.called
        })
        .expect("the example writes");
    real_time.violated(
        Violation::new(format!(
            "operation {} read revision {} after operation {} had been answered with a later one",
            read.id,
            revision(read),
            write.id
        ))
        .by([write.id, read.id])
        .at_revision(revision(read))
        .at(read.returned)
        .seen_by(1),
    );
    let mut leaders = Judgement::new("leaders", "At most one member leads in a term.");
    leaders.count("changes", 2);
    leaders.count("terms", 3);
    Verdict::of(vec![order, real_time, leaders], &plan.gates)
}

fn revision(operation: &Operation) -> i64 {
    match &operation.outcome {
        Outcome::Ok(answer) => answer.header().revision,
        Outcome::Failed(_) | Outcome::Unknown(_) => 0,
    }
}

fn plan() -> Plan {
    let load = |workload, clients| Load {
        workload,
        clients,
        pause_ms: 20,
    };
    let fault = |at_ms, hold_ms, fault| PlannedFault {
        at_ms,
        hold_ms,
        fault,
    };
    Plan {
        name: "isolate and kill the leader".into(),
        seed: 42,
        members: 3,
        server: Server {
            disk: DiskKind::Xfs,
            ..Server::default()
        },
        duration_ms: 20_000,
        workloads: vec![
            load(Workload::Register, 6),
            load(Workload::Lock, 4),
            load(Workload::Lease, 4),
        ],
        faults: vec![
            fault(
                2500,
                5000,
                Fault::Isolate {
                    target: Target::Leader,
                },
            ),
            fault(
                5000,
                3000,
                Fault::Delay {
                    ms: 80,
                    jitter_ms: 40,
                },
            ),
            fault(
                10_500,
                2000,
                Fault::Kill {
                    target: Target::Leader,
                },
            ),
            fault(
                12_000,
                1000,
                Fault::PowerCut {
                    target: Target::Minority,
                },
            ),
            fault(
                15_000,
                2500,
                Fault::Pause {
                    target: Target::Follower,
                },
            ),
        ],
        gates: vec![
            Gate::new("leaders/changes", 3),
            Gate::new("real_time/reads compared", 100),
        ],
    }
}

fn faults(records: &mut Vec<Record>) {
    let mut step = |fault: usize, kind: &str, members: &[Member], ms: Nanos, phase: Phase| {
        records.push(Record::Fault(FaultStep {
            fault,
            kind: kind.into(),
            members: members.to_vec(),
            at: ms * MS,
            phase,
        }));
    };
    let proof = |text: &str| Phase::Proved(text.into());
    let healed = |text: &str| Phase::Healed(text.into());
    step(0, "isolate", &[1], 3500, Phase::Installing);
    step(
        0,
        "isolate",
        &[1],
        3900,
        proof("418 packets dropped; m1 reaches neither m2 nor m3"),
    );
    step(0, "isolate", &[1], 8500, Phase::Healing);
    step(0, "isolate", &[1], 8800, healed("m1 reaches m2 and m3"));
    step(1, "delay", &[], 6000, Phase::Installing);
    step(
        1,
        "delay",
        &[],
        6500,
        Phase::Unproved("no packet went through the queue".into()),
    );
    step(1, "delay", &[], 9000, Phase::Healing);
    step(1, "delay", &[], 9100, healed("the queue is gone"));
    step(2, "kill", &[2], 11_500, Phase::Installing);
    step(2, "kill", &[2], 11_520, proof("process 4711 is gone"));
    step(2, "kill", &[2], 13_500, Phase::Healing);
    step(2, "kill", &[2], 13_900, healed("process 4720 serves"));
    step(
        3,
        "power_cut",
        &[],
        13_000,
        Phase::Skipped("no loop devices on this host".into()),
    );
    step(4, "pause", &[3], 16_000, Phase::Installing);
    step(4, "pause", &[3], 16_010, proof("state T"));
    step(4, "pause", &[3], 18_500, Phase::Healing);
    step(4, "pause", &[3], 18_510, healed("state S"));
}

/// Who leads, by the seconds of the run.
fn leader(at: Nanos) -> (Member, u64) {
    match at / MS {
        0..5200 => (1, 2),
        5200..12_800 => (2, 3),
        _ => (1, 4),
    }
}

fn members(records: &mut Vec<Record>) {
    let mut step = |member: Member, at: Nanos, event: MemberEvent| {
        records.push(Record::Member(MemberStep { member, at, event }));
    };
    for member in 1..=3 {
        step(
            member,
            100 * MS * member,
            MemberEvent::Started {
                pid: 4709 + u32::try_from(member).unwrap(),
            },
        );
    }
    for tick in 4..100_u64 {
        let at = tick * 250 * MS;
        let ms = at / MS;
        let (leads, term) = leader(at);
        for member in 1..=3 {
            let down = member == 2 && (11_500..13_750).contains(&ms);
            let silent = member == 3 && (16_000..18_500).contains(&ms);
            if member == 2 && ms == 11_500 {
                let status = "killed by signal 9".to_owned();
                step(
                    member,
                    at,
                    MemberEvent::Ended {
                        status,
                        expected: true,
                    },
                );
            }
            if member == 2 && ms == 13_750 {
                step(member, at, MemberEvent::Started { pid: 4720 });
            } else if !down && !silent {
                let cut = member == 1 && (3900..8800).contains(&ms);
                step(
                    member,
                    at,
                    MemberEvent::Status {
                        leads: member == leads || (cut && ms < 5000),
                        term: if cut { 2 } else { term },
                        applied_index: if cut { 3900 / 3 } else { ms / 3 },
                        revision: i64::try_from(ms / 3).unwrap(),
                    },
                );
            }
        }
    }
}

fn operations(records: &mut Vec<Record>) {
    let mut chance = seed::stream(7, "example");
    let mut clients = Vec::new();
    for (workload, count) in [("register", 6), ("lock", 4), ("lease", 4)] {
        clients.extend((0..count).map(|_| (workload, SECOND)));
    }
    let mut numbers: Vec<u32> = (1..).take(clients.len()).collect();
    let mut next_number = 15;
    for id in 1.. {
        let (who, (workload, at)) = clients
            .iter()
            .copied()
            .enumerate()
            .min_by_key(|(_, (_, at))| *at)
            .unwrap();
        if at > 21 * SECOND {
            break;
        }
        let member = chance.random_range(1..=3);
        let (took, outcome) = fate(&mut chance, member, at);
        let request = request(&mut chance, workload, id);
        let outcome = match outcome {
            None => Outcome::Ok(answer(&request, at, id)),
            Some(outcome) => outcome,
        };
        let unknown = matches!(outcome, Outcome::Unknown(_));
        records.push(Record::Operation(Operation {
            id,
            workload: workload.into(),
            client: numbers[who],
            member,
            called: at,
            returned: at + took,
            request,
            outcome,
        }));
        if unknown {
            numbers[who] = next_number;
            next_number += 1;
        }
        clients[who].1 = at + took + chance.random_range(1..20 * MS);
    }
    let id = u64::MAX;
    records.push(Record::Operation(Operation {
        id,
        workload: "final".into(),
        client: 1_000_000,
        member: 1,
        called: 23 * SECOND,
        returned: 23 * SECOND + 9 * MS,
        request: pb::RangeRequest {
            key: [0].to_vec().into(),
            range_end: [0].to_vec().into(),
            ..Default::default()
        }
        .into(),
        outcome: Outcome::Ok(Answer::Range(pb::RangeResponse::default())),
    }));
}

fn fate(chance: &mut SmallRng, member: Member, at: Nanos) -> (Nanos, Option<Outcome>) {
    let error = |code: Code, message: &str| Error {
        code: code as i32,
        message: message.into(),
    };
    let ms = at / MS;
    let cut = member == 1 && (3900..8800).contains(&ms);
    let no_leader = (3900..5200).contains(&ms) || (11_500..12_800).contains(&ms);
    if member == 2 && (11_500..13_900).contains(&ms) {
        return (
            MS,
            Some(Outcome::Failed(error(
                Code::Unavailable,
                "connection refused",
            ))),
        );
    }
    if cut || no_leader || (member == 3 && (16_000..18_500).contains(&ms)) {
        let lost = Outcome::Unknown(error(Code::DeadlineExceeded, "no answer in time"));
        return (SECOND, Some(lost));
    }
    let slow = (6000..9100).contains(&ms);
    let base = if slow { 60 * MS } else { MS };
    let tail = chance.random_range(0.0..1.0_f64).powi(6);
    (
        base + chance.random_range(0..2 * MS) + (40.0 * MS as f64 * tail) as u64,
        None,
    )
}

fn request(chance: &mut SmallRng, workload: &str, id: u64) -> Request {
    let key = format!("{workload}/{}", chance.random_range(0..4));
    if workload == "lease" {
        return pb::LeaseKeepAliveRequest { id: 0x1234 }.into();
    }
    if chance.random_bool(0.5) {
        return pb::RangeRequest {
            key: key.into(),
            ..Default::default()
        }
        .into();
    }
    let value = format!("{workload}/{id} {HARMFUL}");
    pb::PutRequest {
        key: key.into(),
        value: value.into(),
        ..Default::default()
    }
    .into()
}

fn answer(request: &Request, at: Nanos, id: u64) -> Answer {
    let revision = i64::try_from(at / MS / 3).unwrap();
    let header = Some(pb::ResponseHeader {
        revision,
        ..Default::default()
    });
    match request {
        Request::Put(_) => Answer::Put(pb::PutResponse {
            header,
            ..Default::default()
        }),
        Request::Range(r) => Answer::Range(pb::RangeResponse {
            header,
            kvs: vec![KeyValue {
                key: r.key.clone(),
                value: format!("{id} {HARMFUL}").into(),
                mod_revision: revision,
                ..Default::default()
            }],
            more: false,
            count: 1,
        }),
        _ => Answer::LeaseKeepAlive(pb::LeaseKeepAliveResponse {
            header,
            id: 0x1234,
            ttl: 5,
        }),
    }
}

fn witness(records: &mut Vec<Record>) {
    let mut step = |at: Nanos, step: WatchEvent| {
        records.push(Record::Watch(WatchStep {
            workload: "witness".into(),
            watcher: 1,
            member: 1,
            at,
            step,
        }));
    };
    step(
        SECOND,
        WatchEvent::Asked(pb::WatchCreateRequest {
            key: [0].to_vec().into(),
            range_end: [0].to_vec().into(),
            start_revision: 1,
            ..Default::default()
        }),
    );
    for tick in 12..230_u64 {
        let at = tick * 100 * MS;
        let revision = i64::try_from(at / MS / 3).unwrap();
        step(
            at,
            WatchEvent::Received(pb::WatchResponse {
                header: Some(pb::ResponseHeader {
                    revision,
                    ..Default::default()
                }),
                events: vec![Event {
                    kv: Some(KeyValue {
                        key: "register/1".into(),
                        value: HARMFUL.into(),
                        mod_revision: revision,
                        ..Default::default()
                    }),
                    ..Default::default()
                }],
                ..Default::default()
            }),
        );
    }
}
