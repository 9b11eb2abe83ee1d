//! Leases, locks, elections, queues and barriers on real servers whose leaders are killed.
#![allow(clippy::print_stderr, reason = "a test says what it saw")]

use std::time::Duration;

use baton_proto::etcdserverpb as pb;
use baton_test_cluster::process::{Cluster, Program};
use chaos_tests::check;
use chaos_tests::client::{Client, Dial};
use chaos_tests::history::{
    Answer, FaultStep, History, MemberEvent, MemberStep, Outcome, Phase, Record, Recorder,
};
use chaos_tests::plan::{Load, Workload};
use chaos_tests::verdict::Judgement;
use chaos_tests::workload::witness::{Witnessed, Witnesses};
use chaos_tests::workload::{self, Context};
use tonic::transport::Endpoint;

/// The batond that was built beside this test.
fn baton() -> Option<Program> {
    let test = std::env::current_exe().expect("the test has a path");
    let beside = test.ancestors().nth(2).expect("it lies in target/*/deps");
    let batond = std::env::var_os("BATON_BATOND").map_or(beside.join("batond"), Into::into);
    if !batond.is_file() {
        eprintln!("skipped: there is no {}", batond.display());
        return None;
    }
    Some(Program::new(batond))
}

fn etcd() -> Option<Program> {
    let etcd = Program::installed_etcd();
    if etcd.is_none() {
        eprintln!("skipped: no etcd is installed");
    }
    etcd
}

/// Says every now and then who leads.
async fn look_on(context: Context) {
    let mut clients: Vec<Client> = (1..=context.members)
        .map(|member| context.client("status", member))
        .collect();
    loop {
        for client in &mut clients {
            let Outcome::Ok(Answer::Status(status)) = client.call(pb::StatusRequest {}).await
            else {
                continue;
            };
            let header = status.header.unwrap_or_default();
            context.recorder.add(Record::Member(MemberStep {
                member: client.member(),
                at: context.recorder.now(),
                event: MemberEvent::Status {
                    leads: status.leader == header.member_id,
                    term: status.raft_term,
                    applied_index: status.raft_applied_index,
                    revision: header.revision,
                },
            }));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn fault(context: &Context, number: usize, member: usize, phase: Phase) {
    context.recorder.add(Record::Fault(FaultStep {
        fault: number,
        kind: "kill".into(),
        members: vec![member as u64 + 1],
        at: context.recorder.now(),
        phase,
    }));
}

/// What happens in `rounds` of five seconds of `workloads`, in each of which the leader is killed.
async fn history(program: &Program, rounds: usize, workloads: &[(Workload, u32)]) -> History {
    let mut cluster = Cluster::start(program, 3).await.expect("a cluster");
    let urls = cluster.urls();
    let dial = Dial::new(move |member| {
        let url = urls[usize::try_from(member - 1).expect("a member")].clone();
        Endpoint::from_shared(url).expect("a URL").connect_lazy()
    });
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let context = Context {
        dial,
        members: 3,
        recorder: Recorder::begin(),
        seed: 1,
        patience: Duration::from_secs(2),
        pause: Duration::ZERO,
        stop: stopped,
        witnessed: Witnessed::default(),
    };
    let mut witnesses = Witnesses::start(&context);
    let looker = tokio::spawn(look_on(context.clone()));
    let mut load = tokio::task::JoinSet::new();
    for (workload, clients) in workloads {
        let load_of = Load {
            workload: *workload,
            clients: *clients,
            pause_ms: 40,
        };
        let context = context.clone();
        load.spawn(async move { workload::start(&load_of, context).await });
    }
    for round in 0..rounds {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let leader = cluster.leader().await.expect("a leader");
        fault(&context, round, leader, Phase::Installing);
        cluster.members[leader].kill();
        fault(&context, round, leader, Phase::Proved("it is gone".into()));
        tokio::time::sleep(Duration::from_secs(1)).await;
        fault(&context, round, leader, Phase::Healing);
        cluster.members[leader].start().expect("it starts");
        cluster.ready().await.expect("it serves");
        fault(&context, round, leader, Phase::Healed("it serves".into()));
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    stop.send_replace(true);
    load.join_all().await;
    let mut client = context.client("final", 1);
    let put = pb::PutRequest {
        key: "final".into(),
        ..Default::default()
    };
    let Outcome::Ok(answer) = client.call(put).await else {
        panic!("a write fails in the end");
    };
    let last = answer.header().revision;
    let late = witnesses
        .reach(&[1, 2, 3], last, Duration::from_secs(10))
        .await;
    assert!(late.is_empty(), "witnesses are behind {last}: {late:?}");
    witnesses.stop().await;
    looker.abort();
    context.recorder.history()
}

fn told(judgement: &Judgement) {
    eprintln!("{}: {:#?}", judgement.checker, judgement.facts);
    for violation in &judgement.violations {
        eprintln!("  {violation:?}");
    }
    for reason in &judgement.inconclusive {
        eprintln!("  inconclusive: {reason}");
    }
}

/// A little of everything.
const LOADS: [(Workload, u32); 5] = [
    (Workload::Lease, 4),
    (Workload::Lock, 6),
    (Workload::Election, 6),
    (Workload::Queue, 6),
    (Workload::Barrier, 6),
];

/// etcd 3.4 answers so about any lease while a leader is about to change.
const FOR_EVER: &str = "had 9223372036 s left";

/// And it gives a lock or a leadership to a session that ended while it waited.
const TO_THE_DEAD: [&str; 3] = [
    "where there is no such key",
    "and there was no such key",
    "and never was first",
];

/// Its observers of elections look who leads now, and go on from there.
const LEFT_OUT: &str = "it was not told of";

async fn judge(program: Option<Program>, known: &[&str]) {
    let Some(program) = program else { return };
    let history = history(&program, 2, &LOADS).await;
    let slack = check::lease::Slack::of_election(Duration::from_secs(1));
    let judgements = [
        check::lease::judge(&history, slack),
        check::exclusion::judge(&history),
        check::waiters::judge(&history),
        check::election::judge(&history, false),
        check::queue::judge(&history),
        check::barrier::judge(&history),
    ];
    for judgement in &judgements {
        told(judgement);
        let violations = judgement.violations.iter();
        let unknown: Vec<_> = violations
            .filter(|violation| !known.iter().any(|known| violation.what.contains(known)))
            .collect();
        assert!(unknown.is_empty(), "{}: {unknown:?}", judgement.checker);
        assert_eq!(judgement.harness_errors, [""; 0], "{}", judgement.checker);
    }
}

#[tokio::test]
async fn what_coordination_promises_holds_on_baton() {
    judge(baton(), &[]).await;
}

#[tokio::test]
async fn what_coordination_promises_holds_on_etcd() {
    judge(etcd(), &[&TO_THE_DEAD[..], &[FOR_EVER, LEFT_OUT]].concat()).await;
}
