//! Watches, maintenance and overload on real servers that nothing happens to, and what the checker of watches says.
#![allow(clippy::print_stderr, reason = "a test says what it saw")]

use std::process::Command;
use std::time::Duration;

use baton_proto::etcdserverpb as pb;
use baton_test_cluster::process::{Cluster, Program};
use chaos_tests::check::watch;
use chaos_tests::client::Dial;
use chaos_tests::history::{History, Outcome, Recorder};
use chaos_tests::plan::{Load, Workload};
use chaos_tests::verdict::Judgement;
use chaos_tests::workload::witness::{Witnessed, Witnesses};
use chaos_tests::workload::{self, Context};
use tonic::transport::Endpoint;

/// The batond that was built beside this test.
fn baton() -> Program {
    let test = std::env::current_exe().expect("the test has a path");
    let beside = test.ancestors().nth(2).expect("it lies in target/*/deps");
    let batond = std::env::var_os("BATON_BATOND").map_or(beside.join("batond"), Into::into);
    assert!(
        batond.is_file(),
        "{} is missing: cargo build -p batond",
        batond.display()
    );
    Program::new(batond)
}

/// The etcd whose faults are known.
fn etcd() -> Option<Program> {
    let etcd = Program::installed_etcd().filter(|etcd| {
        let version = Command::new(etcd.path()).arg("--version").output();
        version.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("3.4.23"))
    });
    if etcd.is_none() {
        eprintln!("skipped: no etcd 3.4.23 is installed");
    }
    etcd
}

/// What happens in `seconds` of `workloads` on a cluster of `members`.
async fn history(
    program: &Program,
    members: usize,
    seconds: u64,
    workloads: &[(Workload, u32)],
) -> History {
    let cluster = Cluster::start(program, members).await.expect("a cluster");
    let urls = cluster.urls();
    let dial = Dial::new(move |member| {
        let url = urls[usize::try_from(member - 1).expect("a member")].clone();
        Endpoint::from_shared(url).expect("a URL").connect_lazy()
    });
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let context = Context {
        dial,
        members: members as u64,
        recorder: Recorder::begin(),
        seed: 1,
        patience: Duration::from_secs(2),
        pause: Duration::ZERO,
        stop: stopped,
        witnessed: Witnessed::default(),
    };
    let mut witnesses = Witnesses::start(&context);
    let mut load = tokio::task::JoinSet::new();
    for (workload, clients) in workloads {
        let load_of = Load {
            workload: *workload,
            clients: *clients,
            pause_ms: 20,
        };
        let context = context.clone();
        load.spawn(async move { workload::start(&load_of, context).await });
    }
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    stop.send_replace(true);
    load.join_all().await;
    let put = pb::PutRequest {
        key: "final".into(),
        ..Default::default()
    };
    let Outcome::Ok(answer) = context.client("final", 1).call(put).await else {
        panic!("a write fails in the end");
    };
    let all: Vec<u64> = (1..=context.members).collect();
    let end = answer.header().revision;
    let late = witnesses.reach(&all, end, Duration::from_secs(30)).await;
    assert_eq!(late, [], "not at {end}");
    witnesses.stop().await;
    context.recorder.history()
}

fn told(judgement: &Judgement) -> Vec<&str> {
    let violations = judgement.violations.iter();
    violations
        .map(|violation| violation.what.as_str())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_of_baton_keep_the_promise_under_maintenance_and_overload() {
    let load = [
        (Workload::Watch, 8),
        (Workload::Maintenance, 2),
        (Workload::Overload, 1),
    ];
    let history = history(&baton(), 3, 8, &load).await;
    let judgement = watch::judge(&history, false);
    eprintln!("{:#?}", judgement.facts);
    assert_eq!(told(&judgement), [""; 0]);
    assert_eq!(judgement.inconclusive, [""; 0]);
    for fact in [
        "events compared",
        "ended by compaction",
        "progress notifications",
    ] {
        assert!(judgement.facts.contains_key(fact), "no {fact}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_an_old_etcd_is_found_and_nothing_else() {
    let Some(etcd) = etcd() else { return };
    let plain = history(&etcd, 3, 5, &[(Workload::Watch, 6)]).await;
    let plain = watch::judge(&plain, false);
    eprintln!("{:#?}", plain.facts);
    // Progress is answered from the store, not from the stream. That a watch wants the values before is noted only after it
    // has begun, so that its first events may come without them.
    let known = |what: &&str| {
        what.contains("was told that it has everything up to")
            || what.contains("was told that the value before was nothing")
    };
    let others: Vec<&str> = told(&plain)
        .into_iter()
        .filter(|what| !known(what))
        .collect();
    assert_eq!(others, [""; 0]);
    assert!(plain.facts.contains_key("events compared"));

    let compacted = history(&etcd, 3, 8, &[(Workload::Maintenance, 1)]).await;
    let compacted = watch::judge(&compacted, false);
    let lost = |what: &&str| what.contains("was not told of revision") && what.ends_with("deleted");
    assert!(
        told(&compacted).iter().any(lost),
        "a deletion at the compacted revision is lost, unnoticed: {compacted:#?}"
    );
}
