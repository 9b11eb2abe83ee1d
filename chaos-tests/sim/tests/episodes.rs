//! The simulation repeats itself, finds out a disk that lies, and finds nothing where nothing is wrong.

use baton_chaos_sim::cluster::LYING_DISK;
use baton_chaos_sim::episode::{self, Episode};
use chaos_tests::plan::{DiskKind, Fault, Load, Plan, PlannedFault, Server, Target, Workload};
use chaos_tests::verdict::Outcome;

fn plan(seed: u64, workloads: &[Workload], faults: &[(u64, u64, Fault)]) -> Plan {
    let loads = workloads.iter().map(|workload| Load {
        workload: *workload,
        clients: 2,
        pause_ms: 60,
    });
    let faults = faults.iter().map(|(at_ms, hold_ms, fault)| PlannedFault {
        at_ms: *at_ms,
        hold_ms: *hold_ms,
        fault: fault.clone(),
    });
    Plan {
        name: "a test".into(),
        seed,
        members: 3,
        server: Server {
            snapshot_count: 20,
            disk: DiskKind::Directory,
            ..Server::default()
        },
        duration_ms: 6000,
        workloads: loads.collect(),
        faults: faults.collect(),
        gates: Vec::new(),
    }
}

fn run(plan: &Plan) -> Episode {
    episode::run(plan).expect("a run that ends")
}

#[test]
fn a_seed_does_the_same_twice_and_breaks_no_promise() {
    let target = Target::Leader;
    let faults = [
        (500, 1500, Fault::Isolate { target }),
        (
            2000,
            3000,
            Fault::KillLoop {
                target: Target::Any,
                period_ms: 500,
            },
        ),
        (2500, 300, Fault::PowerCut { target }),
        (
            5200,
            800,
            Fault::Pause {
                target: Target::Any,
            },
        ),
        (
            500,
            5000,
            Fault::Messages {
                broken: 5,
                late: 20,
                twice: 50,
                replayed: 50,
            },
        ),
    ];
    let workloads = [Workload::Register, Workload::Watch, Workload::Lock];
    let plan = plan(1, &workloads, &faults);
    let (first, second) = (run(&plan), run(&plan));
    assert_eq!(first.difference(&second).expect("records"), None);
    assert_eq!(
        first.verdict.outcome,
        Outcome::Valid,
        "{:#?}",
        first.verdict
    );
    let proved = first.faults();
    assert_eq!(proved.len(), 5, "{proved:?}");
}

#[test]
fn a_disk_that_only_says_that_it_synced_is_found_out() {
    let target = Target::All;
    let faults: Vec<_> = (1..6)
        .map(|second| (second * 1000, 100, Fault::PowerCut { target }))
        .collect();
    let found = (1..10).any(|seed| {
        let mut plan = plan(seed, &[Workload::Register], &faults);
        plan.server.mutant = Some(LYING_DISK.into());
        run(&plan).verdict.outcome == Outcome::Invalid
    });
    assert!(found, "nothing was lost");
}
