//! Runs that were simulated are made again and made smaller as runs of real processes are.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use baton_chaos_sim::cluster::LYING_DISK;
use chaos_tests::plan::{Fault, Load, Plan, PlannedFault, Server, Target, Workload};
use chaos_tests::run::{Made, read_json, write_json};
use chaos_tests::verdict::Outcome;

fn chaos(arguments: &[&str]) -> ExitStatus {
    let mut chaos = Command::new(env!("CARGO_BIN_EXE_chaos"));
    chaos.args(arguments).stdout(Stdio::null());
    chaos.status().expect("chaos")
}

fn ended_as(status: ExitStatus, outcome: Outcome) -> bool {
    status.code() == Some(i32::from(outcome.exit_code()))
}

/// Power fails where disks only say that they synced: some acknowledged write is lost.
fn plan(seed: u64) -> Plan {
    let cuts = (1..4).map(|second| PlannedFault {
        at_ms: second * 1000,
        hold_ms: 100,
        fault: Fault::PowerCut {
            target: Target::All,
        },
    });
    let load = |workload| Load {
        workload,
        clients: 2,
        pause_ms: 60,
    };
    Plan {
        name: "lies".into(),
        seed,
        members: 1,
        server: Server {
            mutant: Some(LYING_DISK.into()),
            ..Server::default()
        },
        duration_ms: 4000,
        workloads: vec![load(Workload::Register), load(Workload::Append)],
        faults: cuts.collect(),
        gates: Vec::new(),
    }
}

/// Leaves a simulated run in a directory that is `INVALID`.
fn make_invalid(run: &Path) {
    fs::create_dir(run).unwrap();
    let planned = run.join("plan.json");
    let found = (1..10).any(|seed| {
        write_json(&planned, &plan(seed)).unwrap();
        Made::Simulated.save(run).unwrap();
        let out = run.to_str().unwrap();
        let played = chaos(&["replay", planned.to_str().unwrap(), "--out", out]);
        ended_as(played, Outcome::Invalid)
    });
    assert!(found, "nothing was lost");
}

#[test]
fn a_simulated_run_is_replayed_to_the_last_record_and_shrunk() {
    let home = tempfile::tempdir().unwrap();
    let run = home.path().join("run");
    make_invalid(&run);
    let history = fs::read(run.join("history.jsonl")).unwrap();

    let run_path = run.to_str().unwrap();
    assert!(ended_as(chaos(&["replay", run_path]), Outcome::Invalid));
    let again = run.join("replay-1");
    assert!(history == fs::read(again.join("history.jsonl")).unwrap());

    assert!(ended_as(chaos(&["shrink", run_path]), Outcome::Invalid));
    let shrunk: Plan = read_json(&run.join("shrunk.json")).unwrap();
    assert!(shrunk.faults.len() < 3, "{shrunk:?}");
    let kept: Plan = read_json(&run.join("shrunk/plan.json")).unwrap();
    assert_eq!(kept, shrunk);
    let made: Made = read_json(&run.join("shrunk/run.json")).unwrap();
    assert_eq!(made, Made::Simulated);

    let other_server = chaos(&["replay", run_path, "--bin", "/bin/true"]);
    assert!(ended_as(other_server, Outcome::HarnessError));
}
