//! From a seed to a plan for the simulation: a few kinds of faults and of load, often, rather than all of them at once.

use std::collections::BTreeSet;

use chaos_tests::generate::someone;
use chaos_tests::plan::{
    DiskKind, Fault, Load, Plan, PlannedFault, PointAction, Server, Target, Workload,
};
use chaos_tests::seed;
use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::{IndexedRandom, SliceRandom};

/// The first fault comes after this, in milliseconds.
const WARM_UP_MS: u64 = 1000;
/// How many kinds of faults a plan has.
const KINDS_IN_PLAN: std::ops::RangeInclusive<usize> = 2..=5;

/// A kind of fault.
struct Kind {
    /// The smallest cluster it makes sense in.
    members: u64,
    /// How long it is held, in milliseconds.
    hold_ms: (u64, u64),
    make: fn(&mut SmallRng) -> Fault,
}

const fn kind(members: u64, hold_ms: (u64, u64), make: fn(&mut SmallRng) -> Fault) -> Kind {
    Kind {
        members,
        hold_ms,
        make,
    }
}

/// Somebody, or so many that nothing can be agreed on.
fn some(chance: &mut SmallRng) -> Target {
    match chance.random_range(0..6) {
        0 => Target::All,
        1 => Target::Majority,
        _ => someone(chance),
    }
}

const KINDS: &[Kind] = &[
    kind(3, (500, 5000), |c| Fault::Isolate { target: someone(c) }),
    kind(3, (500, 5000), |c| Fault::OneWay {
        target: someone(c),
        inbound: c.random(),
    }),
    kind(3, (500, 5000), |_| Fault::Bridge),
    kind(5, (500, 5000), |_| Fault::Ring),
    kind(1, (300, 3000), |c| Fault::CutClients { target: some(c) }),
    kind(3, (1000, 5000), |c| Fault::Flap {
        target: someone(c),
        period_ms: c.random_range(20..800),
    }),
    kind(3, (1000, 5000), |_| Fault::Swizzle),
    kind(3, (500, 5000), |c| {
        let ms = c.random_range(5..200);
        Fault::Delay {
            ms,
            jitter_ms: c.random_range(0..=ms),
        }
    }),
    kind(3, (500, 5000), |c| Fault::Loss {
        percent: c.random_range(1..30),
    }),
    kind(3, (500, 4000), |c| Fault::SlowLink {
        target: someone(c),
        kbit: c.random_range(64..2000),
    }),
    kind(3, (50, 500), |c| Fault::Reset { target: some(c) }),
    kind(3, (1000, 6000), |c| Fault::Messages {
        broken: c.random_range(0..20),
        late: c.random_range(0..80),
        twice: c.random_range(0..200),
        replayed: c.random_range(0..100),
    }),
    kind(3, (50, 500), |c| Fault::StaleSnapshot { target: some(c) }),
    kind(1, (50, 3000), |c| Fault::Kill { target: some(c) }),
    kind(1, (50, 3000), |c| Fault::PowerCut { target: some(c) }),
    kind(1, (50, 3000), |c| Fault::PowerCut { target: some(c) }),
    kind(1, (50, 2000), |c| Fault::Terminate { target: someone(c) }),
    kind(1, (500, 3000), |c| Fault::KillInStartUp {
        target: someone(c),
    }),
    kind(1, (1000, 5000), |c| Fault::KillLoop {
        target: someone(c),
        period_ms: c.random_range(50..2000),
    }),
    kind(1, (50, 6000), |c| Fault::Pause { target: some(c) }),
    kind(3, (50, 2000), |c| Fault::LoseState { target: someone(c) }),
    kind(1, (500, 4000), |c| Fault::DiskSlow {
        target: some(c),
        ms: c.random_range(5..500),
    }),
    kind(1, (300, 6000), |c| Fault::DiskHang { target: someone(c) }),
    kind(1, (200, 2000), |c| Fault::SyncError {
        target: someone(c),
        when: c.random_range(1..30),
    }),
    kind(1, (200, 2000), |c| Fault::DiskReadOnly {
        target: someone(c),
    }),
    kind(1, (500, 3000), |c| Fault::DiskFull { target: someone(c) }),
    kind(1, (300, 3000), |c| Fault::Point {
        target: some(c),
        point: (*POINTS.choose(c).unwrap_or(&"log.before_sync")).to_owned(),
        action: match c.random_range(0..4) {
            0 => PointAction::Stall(c.random_range(10..1500)),
            _ => PointAction::Crash,
        },
    }),
    kind(1, (0, 50), |c| Fault::Compact {
        behind: c.random_range(0..100),
    }),
    kind(1, (0, 50), |c| Fault::Defragment { target: some(c) }),
    kind(3, (0, 50), |_| Fault::MoveLeader),
    kind(3, (0, 50), |_| Fault::RollingRestart),
];

/// Points of the code at which it is worth to crash or to stall, by their names in the server.
const POINTS: &[&str] = &[
    "log.before_write",
    "log.before_sync",
    "log.after_sync",
    "segment.before_rename",
    "segment.after_rename",
    "purge.before_remove",
    "purge.after_remove",
    "vote.before_save",
    "vote.after_save",
    "truncate.before",
    "apply.before",
    "apply.before_rows",
    "apply.after_rows",
    "apply.before_answer",
    "flush.before_write",
    "flush.after_write",
    "flush.before_sync",
    "flush.after_sync",
    "snapshot.build",
    "snapshot.send",
    "snapshot.receive",
    "install.before_replace",
    "install.after_replace",
    "compact.batch",
    "watch.send",
    "watch.scan",
    "watch.reset",
    "lease.expire",
    "lease.renew",
    "read_index.send",
    "read_index.answer",
    "read_index.receive",
    "forward.send",
    "forward.receive",
];

/// The plan of `seed`.
pub fn plan(seed: u64) -> Plan {
    let mut chance = seed::stream(seed, "simulated plan");
    let members = *[1, 3, 3, 3, 5, 5].choose(&mut chance).unwrap_or(&3);
    let duration_ms = chance.random_range(8..20) * 1000;
    let mut plan = Plan {
        name: format!("simulated seed {seed}"),
        seed,
        members,
        server: server(&mut chance),
        duration_ms,
        workloads: workloads(&mut chance),
        faults: faults(members, duration_ms, &mut chance),
        gates: Vec::new(),
    };
    let is_stale = |planned: &PlannedFault| matches!(planned.fault, Fault::StaleSnapshot { .. });
    if plan.faults.iter().any(is_stale) {
        // Members that lag are sent some, then.
        plan.server.snapshot_count = 20;
    }
    plan
}

/// The kinds of faults that plans are drawn from.
pub fn kinds() -> BTreeSet<String> {
    let mut chance = seed::stream(0, "kinds");
    let kinds = KINDS.iter().map(|kind| (kind.make)(&mut chance).kind());
    kinds.collect()
}

fn server(chance: &mut SmallRng) -> Server {
    const TIMINGS: [(u64, u64); 4] = [(100, 1000), (100, 1000), (50, 500), (30, 300)];
    let (heartbeat_ms, election_ms) = *TIMINGS.choose(chance).unwrap_or(&(100, 1000));
    Server {
        heartbeat_ms,
        election_ms,
        snapshot_count: *[20, 100, 1000].choose(chance).unwrap_or(&100),
        disk: DiskKind::Directory,
        flags: vec![format!(
            "--experimental-compaction-batch-limit={}",
            [3, 20, 1000].choose(chance).unwrap_or(&20)
        )],
        mutant: None,
    }
}

fn workloads(chance: &mut SmallRng) -> Vec<Load> {
    const DRAWN: [Workload; 8] = [
        Workload::Append,
        Workload::Watch,
        Workload::Lease,
        Workload::Lock,
        Workload::Election,
        Workload::Queue,
        Workload::Barrier,
        Workload::Maintenance,
    ];
    let mut drawn = DRAWN.to_vec();
    drawn.shuffle(chance);
    drawn.truncate(chance.random_range(1..=3));
    // Registers always: every promise about revisions leans on them.
    drawn.push(Workload::Register);
    drawn.sort();
    drawn
        .into_iter()
        .map(|workload| Load {
            workload,
            clients: match workload {
                Workload::Lock | Workload::Election => chance.random_range(4..8),
                Workload::Maintenance => 1,
                _ => chance.random_range(2..6),
            },
            pause_ms: *[5, 20, 60, 200].choose(chance).unwrap_or(&20),
        })
        .collect()
}

fn faults(members: u64, duration_ms: u64, chance: &mut SmallRng) -> Vec<PlannedFault> {
    let mut kinds: Vec<&Kind> = KINDS.iter().filter(|k| k.members <= members).collect();
    kinds.shuffle(chance);
    kinds.truncate(chance.random_range(KINDS_IN_PLAN));
    let overlap = chance.random_bool(0.5);
    let mut planned = Vec::new();
    let mut at_ms = WARM_UP_MS + chance.random_range(0..1000);
    while at_ms < duration_ms {
        let Some(kind) = kinds.choose(chance) else {
            break;
        };
        let fault = (kind.make)(chance);
        let (shortest, longest) = kind.hold_ms;
        let hold_ms = chance.random_range(shortest..=longest);
        planned.push(PlannedFault {
            at_ms,
            hold_ms: hold_ms.min(duration_ms - at_ms),
            fault,
        });
        let rest = chance.random_range(50..2000);
        at_ms += if overlap && chance.random_bool(0.5) {
            rest
        } else {
            hold_ms + rest
        };
    }
    planned
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_gives_one_plan_and_another_seed_another() {
        assert_eq!(plan(1), plan(1));
        assert_ne!(plan(1), plan(2));
    }

    #[test]
    fn every_kind_of_fault_and_of_load_is_drawn_by_some_seed() {
        let plans: Vec<Plan> = (0..1000).map(plan).collect();
        let faults = plans.iter().flat_map(|plan| &plan.faults);
        let faults: BTreeSet<String> = faults.map(|planned| planned.fault.kind()).collect();
        assert_eq!(faults, kinds());
        let loads = plans.iter().flat_map(|plan| &plan.workloads);
        let loads: BTreeSet<Workload> = loads.map(|load| load.workload).collect();
        assert_eq!(loads.len(), 9);
    }
}
