//! Watches, maintenance and overload on real servers that nothing happens to.
#![allow(clippy::print_stderr, reason = "a test says what it saw")]

use std::time::Duration;

use baton_test_cluster::process::{Cluster, Program};
use chaos_tests::client::Dial;
use chaos_tests::history::{History, Recorder};
use chaos_tests::plan::{Load, Workload};
use chaos_tests::workload::witness::Witnesses;
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
    };
    let mut witnesses = Witnesses::start(&context);
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
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    stop.send_replace(true);
    load.join_all().await;
    let mut client = context.client("final", 1);
    let chaos_tests::history::Outcome::Ok(answer) = client
        .call(baton_proto::etcdserverpb::PutRequest {
            key: "final".into(),
            ..Default::default()
        })
        .await
    else {
        panic!("a write fails in the end");
    };
    let all: Vec<u64> = (1..=context.members).collect();
    let end = answer.header().revision;
    let late = witnesses.reach(&all, end, Duration::from_secs(30)).await;
    assert_eq!(late, [], "not at {end}");
    witnesses.stop().await;
    if let Some(path) = std::env::var_os("BATON_CHAOS_KEEP") {
        context.recorder.save(path.as_ref()).expect("a file");
    }
    context.recorder.history()
}

#[tokio::test(flavor = "multi_thread")]
async fn probe() {
    let load = [
        (Workload::Watch, 8),
        (Workload::Maintenance, 2),
        (Workload::Overload, 1),
    ];
    for program in [baton(), etcd()].into_iter().flatten() {
        let history = history(&program, 3, 8, &load).await;
        eprintln!(
            "{} operations, {} steps of watches",
            history.operations.len(),
            history.watches.len()
        );
        let mut counts = std::collections::BTreeMap::<String, usize>::new();
        for op in &history.operations {
            use chaos_tests::history::Outcome;
            let outcome = match &op.outcome {
                Outcome::Ok(_) => "ok".to_owned(),
                Outcome::Failed(e) => format!("failed {} {}", e.code, e.message),
                Outcome::Unknown(e) => format!("unknown {} {}", e.code, e.message),
            };
            *counts
                .entry(format!("{} {} {outcome}", op.workload, op.request.name()))
                .or_default() += 1;
        }
        for s in &history.watches {
            use chaos_tests::history::WatchEvent as E;
            let w = match &s.step {
                E::Asked(_) => "asked".to_owned(),
                E::ProgressAsked => "progress asked".into(),
                E::Cancelled => "cancelled".into(),
                E::Broken(e) => format!("broken {} {}", e.code, e.message),
                E::Received(r) if r.created && r.canceled => format!("refused {}", r.cancel_reason),
                E::Received(r) if r.compact_revision > 0 => "compacted".into(),
                E::Received(r) if r.canceled => format!("canceled {}", r.cancel_reason),
                E::Received(r) if r.created => "created".into(),
                E::Received(r) if r.fragment => "fragment".into(),
                E::Received(r) if r.events.is_empty() => "progress".into(),
                E::Received(_) => "events".into(),
            };
            *counts
                .entry(format!("{} watch {w}", s.workload))
                .or_default() += 1;
        }
        let judgement = chaos_tests::check::watch::judge(&history, false);
        eprintln!("{:#?}", judgement.facts);
        for violation in &judgement.violations {
            eprintln!("  {}", violation.what);
        }
        eprintln!("{:?}", judgement.inconclusive);
        if let Some(path) = std::env::var_os("BATON_CHAOS_KEEP") {
            let to = format!("{}.{}", path.display(), program.path().file_name().unwrap().display());
            std::fs::rename(path, to).unwrap();
        }
        for (what, count) in counts {
            eprintln!("{count:8} {what}");
        }
    }
}
