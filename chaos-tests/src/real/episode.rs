//! A plan, played with real processes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::boxed::Boxed;
use super::cluster::Cluster;
use super::nemesis::Scene;
use super::net::{self, Place};
use crate::check;
use crate::history::{History, Record, Recorder};
use crate::plan::Plan;
use crate::progress::{Progress, Stage};
use crate::report;
use crate::run::{Made, Run, write_json};
use crate::verdict::{Judgement, Outcome, Verdict};
use crate::workload::final_reads;
use crate::workload::witness::{Witnessed, Witnesses};
use crate::workload::{self, Context};

/// When a client gives a call up.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long the load goes on after everything is healed and the cluster answers again.
const AFTERMATH: Duration = Duration::from_secs(2);

/// How long a healed cluster may take until all members answer and one leads. What comes of a cluster that takes longer is
/// for the checkers: the run goes on.
const RECOVERY: Duration = Duration::from_secs(45);

/// How long clients may take to end their work.
const WINDING_UP: Duration = Duration::from_secs(60);

/// How long witnesses may take to see the last revision.
const CATCHING_UP: Duration = Duration::from_secs(20);

/// Plays a plan with members that run `server` and leaves everything in `directory`: plan, history, logs and verdict.
///
/// SIGINT and SIGTERM end load and faults early: what was seen until then is judged, and is not enough. The second of them
/// ends everything at once. What an earlier run left in the directory is removed.
///
/// # Errors
/// The cluster cannot be made or started, or something cannot be written: there is nothing to judge.
pub async fn play(boxed: Boxed, plan: &Plan, server: &Path, directory: &Path) -> Result<Verdict> {
    fs::create_dir_all(directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    let directory = fs::canonicalize(directory)?;
    let server = fs::canonicalize(server)
        .with_context(|| format!("there is no server at {}", server.display()))?;
    clear(&directory)?;
    write_json(&directory.join("plan.json"), plan)?;
    let recorder = Recorder::begin();
    let since = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let progress = Progress::show(&recorder, Duration::from_millis(plan.duration_ms));
    made(&server, since)?.save(&directory)?;
    let members = directory.join("members");
    let mut cluster = Cluster::lay_out(boxed, plan, &server, &members, &recorder).await?;
    let began = cluster
        .start(plan.server.mutant.as_deref(), &recorder)
        .await;
    let cluster = Arc::new(cluster);
    if began.is_ok() {
        let harness = drive(plan, &cluster, &recorder, &progress).await;
        recorder.add(Record::Judged(harness));
    }
    recorder.save(&directory.join("history.jsonl"))?;
    let cluster = Arc::into_inner(cluster).context("somebody still works on the cluster")?;
    if let Err(error) = began {
        cluster.end(true).await?;
        return Err(error);
    }
    progress.stage(Stage::Judging);
    // What is judged is what is kept, no more.
    let run = Run::load(&directory)?;
    let verdict = judge(run.history.clone(), plan).await;
    report::write(&run, &verdict)?;
    cluster.end(verdict.outcome != Outcome::Valid).await?;
    Ok(verdict)
}

/// Removes what an earlier run left: nothing of it may be taken for a part of the next.
fn clear(directory: &Path) -> Result<()> {
    let members = directory.join("members");
    let names = [
        "history.jsonl",
        "run.json",
        "verdict.json",
        "junit.xml",
        "report.html",
        "repro.sh",
    ];
    let files = names.map(|name| fs::remove_file(directory.join(name)));
    for removed in files.into_iter().chain([fs::remove_dir_all(&members)]) {
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let directory = directory.display();
                return Err(error).with_context(|| format!("cannot empty {directory}"));
            }
            _ => {}
        }
    }
    Ok(())
}

fn made(server: &Path, began: Duration) -> Result<Made> {
    let output = Command::new(server).arg("--version").output();
    let output = output.with_context(|| format!("cannot run {}", server.display()))?;
    let said = String::from_utf8_lossy(&output.stdout);
    Ok(Made::Real {
        server: server.to_owned(),
        version: said.lines().collect::<Vec<_>>().join("; "),
        began_unix_us: u64::try_from(began.as_micros())?,
    })
}

/// Load and faults, then healing and a last look. Returns what went wrong with the harness itself.
async fn drive(
    plan: &Plan,
    cluster: &Arc<Cluster>,
    recorder: &Recorder,
    progress: &Progress,
) -> Judgement {
    let mut harness = Judgement::new("harness", "The run went as planned.");
    let errors = &mut harness.harness_errors;
    let (stop, stopped) = watch::channel(false);
    let (over, is_over) = watch::channel(false);
    let context = Context {
        dial: net::dial(Place::Clients),
        members: plan.members,
        recorder: recorder.clone(),
        seed: plan.seed,
        patience: PATIENCE,
        pause: Duration::ZERO,
        stop: stopped,
        witnessed: Witnessed::default(),
    };
    let mut witnesses = Witnesses::start(&context);
    let mut loads = JoinSet::new();
    for load in &plan.workloads {
        let (load, context) = (load.clone(), context.clone());
        loads.spawn(async move { workload::start(&load, context).await });
    }
    let scene = Arc::new(Scene::new(
        cluster.clone(),
        recorder.clone(),
        context.dial.clone(),
        context.witnessed.clone(),
        plan.seed,
        is_over.clone(),
    ));
    let began = Instant::now();
    let mut faults = JoinSet::new();
    for (number, planned) in plan.faults.iter().cloned().enumerate() {
        let scene = scene.clone();
        let mut over = is_over.clone();
        faults.spawn(async move {
            let begins = began + Duration::from_millis(planned.at_ms);
            let ends = over.wait_for(|over| *over);
            let in_time = tokio::time::timeout_at(begins, ends).await.is_err();
            if in_time {
                scene.play(number, planned).await;
            }
        });
    }
    progress.stage(Stage::Load);
    let interrupted = pass(Duration::from_millis(plan.duration_ms)).await;
    progress.stage(Stage::Healing);
    over.send_replace(true);
    while let Some(fault) = faults.join_next().await {
        if let Err(error) = fault {
            errors.push(format!("a fault crashed: {error}"));
        }
    }
    if let Err(error) = heal(cluster).await {
        errors.push(format!("cannot heal everything: {error:#}"));
    }
    recover(cluster).await;
    tokio::time::sleep(AFTERMATH).await;
    progress.stage(Stage::LastLooks);
    stop.send_replace(true);
    let winding_up = async {
        while let Some(load) = loads.join_next().await {
            if let Err(error) = load {
                errors.push(format!("a workload crashed: {error}"));
            }
        }
    };
    if tokio::time::timeout(WINDING_UP, winding_up).await.is_err() {
        errors.push(format!(
            "a workload goes on {WINDING_UP:?} after it was to end"
        ));
    }
    let everybody: Vec<u64> = (1..=plan.members).collect();
    let last = final_reads::run(&context, &everybody).await;
    let last = last.max(last_revision(cluster).await);
    witnesses.reach(&everybody, last, CATCHING_UP).await;
    witnesses.stop().await;
    for node in &cluster.nodes {
        node.scan_log();
    }
    if interrupted {
        let why = "it was interrupted before its time";
        harness.inconclusive.push(why.to_owned());
    }
    harness
}

/// Waits, or until somebody wants the run to end, which it then says. Whoever asks for that once more does not want to wait
/// for the rest.
async fn pass(time: Duration) -> bool {
    let (Ok(mut interrupted), Ok(mut terminated)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    ) else {
        tokio::time::sleep(time).await;
        return false;
    };
    let mut asked = async move || {
        tokio::select! {
            _ = interrupted.recv() => {}
            _ = terminated.recv() => {}
        }
    };
    let in_time = tokio::time::timeout(time, asked()).await.is_ok();
    tokio::spawn(async move {
        asked().await;
        std::process::exit(Outcome::Inconclusive.exit_code().into());
    });
    in_time
}

/// Takes back whatever faults may have left.
async fn heal(cluster: &Cluster) -> Result<()> {
    net::remove_all_rules().await?;
    for node in &cluster.nodes {
        node.signal(rustix::process::Signal::CONT);
        if !node.runs() {
            node.start()?;
        }
    }
    Ok(())
}

/// Waits until all members answer and one leads, for a while.
async fn recover(cluster: &Cluster) {
    let began = Instant::now();
    for node in &cluster.nodes {
        node.answers(RECOVERY.saturating_sub(began.elapsed())).await;
    }
    cluster
        .await_leader(RECOVERY.saturating_sub(began.elapsed()))
        .await;
}

/// The newest revision that a member knows of.
async fn last_revision(cluster: &Cluster) -> i64 {
    let mut last = 0;
    for node in &cluster.nodes {
        if let Ok(status) = node.status().await {
            last = last.max(status.header.unwrap_or_default().revision);
        }
    }
    last
}

/// Has all checkers judge the history, away from the threads that drive things; one that crashes is the harness's fault.
pub async fn judge(history: History, plan: &Plan) -> Verdict {
    let judged = plan.clone();
    let task = tokio::task::spawn_blocking(move || check::verdict(&history, &judged));
    task.await.unwrap_or_else(|error| {
        let mut crashed = Judgement::new("checkers", "Every checker comes to an end.");
        let error = format!("a checker crashed: {error}");
        crashed.harness_errors.push(error);
        Verdict::of(vec![crashed], &plan.gates)
    })
}

/// The server that is judged when none is named: `batond` beside this program, or in `$PATH`.
///
/// # Errors
/// There is none.
pub fn default_server() -> Result<PathBuf, String> {
    let beside = std::env::current_exe()
        .ok()
        .and_then(|program| Some(program.parent()?.join("batond")));
    match beside.filter(|server| server.is_file()) {
        Some(server) => Ok(server),
        None => super::host::program("batond"),
    }
}
