//! From a seed to a plan.
//!
//! Every plan draws a subset of the workloads and of the faults, with weights of its own: a run that does everything a little
//! finds less than many runs that each do a few things a lot (swarm testing; Groce et al., ISSTA 2012).

use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::{IndexedRandom, SliceRandom};

use crate::plan::{DiskKind, Fault, FileKind, Load, Plan, PlannedFault, Server, Target, Workload};
use crate::seed;

/// What the plan must look like; everything left open is drawn.
#[derive(Debug, Clone, Default)]
pub struct Wish {
    /// Members of the cluster.
    pub members: Option<u64>,
    /// How long load and faults go on.
    pub seconds: Option<u64>,
    /// The workloads.
    pub workloads: Vec<Workload>,
    /// The kinds of faults, by their names in a plan; `none` for none at all.
    pub faults: Vec<String>,
    /// What data directories lie on.
    pub disk: Option<DiskKind>,
    /// Further flags of every server.
    pub flags: Vec<String>,
}

/// A kind of fault that can be drawn.
struct Kind {
    /// Its name in a plan.
    name: &'static str,
    /// How likely it is to be among those of a plan, in percent.
    likely: u32,
    /// The smallest cluster it makes sense in.
    members: u64,
    /// How long it is held, in milliseconds.
    hold_ms: (u64, u64),
    make: fn(&mut SmallRng) -> Fault,
}

/// Somebody, more often the leader than chance would have it.
pub fn someone(chance: &mut SmallRng) -> Target {
    const CHOICES: [Target; 5] = [
        Target::Leader,
        Target::Leader,
        Target::Follower,
        Target::Any,
        Target::Minority,
    ];
    *CHOICES.choose(chance).unwrap_or(&Target::Any)
}

/// The same, or so many that nothing can be agreed on.
fn some(chance: &mut SmallRng) -> Target {
    match chance.random_range(0..8) {
        0 => Target::All,
        1 => Target::Majority,
        _ => someone(chance),
    }
}

/// One member, whose data may be damaged without anything being lost.
fn one(chance: &mut SmallRng) -> Target {
    const CHOICES: [Target; 3] = [Target::Leader, Target::Follower, Target::Any];
    *CHOICES.choose(chance).unwrap_or(&Target::Any)
}

fn file(chance: &mut SmallRng) -> FileKind {
    const CHOICES: [FileKind; 3] = [FileKind::Log, FileKind::State, FileKind::Meta];
    *CHOICES.choose(chance).unwrap_or(&FileKind::Log)
}

macro_rules! kind {
    ($name:literal, $likely:literal, $members:literal, $hold_ms:expr, $make:expr) => {
        Kind {
            name: $name,
            likely: $likely,
            members: $members,
            hold_ms: $hold_ms,
            make: $make,
        }
    };
}

/// Every kind of fault that plans are drawn from. Faults at points of the code are not among them: they need a build made
/// for it, which simulation and the trials of planted bugs have.
const KINDS: &[Kind] = &[
    kind!("isolate", 60, 3, (800, 6000), |c| Fault::Isolate {
        target: someone(c)
    }),
    kind!("one_way", 40, 3, (800, 5000), |c| Fault::OneWay {
        target: someone(c),
        inbound: c.random()
    }),
    kind!("bridge", 25, 3, (800, 5000), |_| Fault::Bridge),
    kind!("ring", 25, 5, (800, 5000), |_| Fault::Ring),
    kind!("cut_clients", 20, 1, (500, 4000), |c| Fault::CutClients {
        target: some(c)
    }),
    kind!("flap", 30, 3, (1500, 5000), |c| Fault::Flap {
        target: someone(c),
        period_ms: c.random_range(100..500)
    }),
    kind!("swizzle", 25, 3, (1500, 5000), |_| Fault::Swizzle),
    kind!("delay", 30, 3, (1500, 5000), |c| {
        let ms = c.random_range(5..150);
        Fault::Delay {
            ms,
            jitter_ms: ms / 2,
        }
    }),
    kind!("loss", 30, 3, (1500, 5000), |c| Fault::Loss {
        percent: c.random_range(2..35)
    }),
    kind!("duplicate", 20, 3, (1500, 5000), |c| Fault::Duplicate {
        percent: c.random_range(10..60)
    }),
    kind!("slow_link", 20, 3, (1500, 5000), |c| Fault::SlowLink {
        target: someone(c),
        kbit: c.random_range(48..2000)
    }),
    kind!("reset", 25, 1, (300, 1000), |c| Fault::Reset {
        target: some(c)
    }),
    kind!("kill", 60, 1, (100, 4000), |c| Fault::Kill {
        target: some(c)
    }),
    kind!("kill_in_start_up", 20, 1, (1500, 4000), |c| {
        Fault::KillInStartUp { target: someone(c) }
    }),
    kind!("kill_loop", 20, 1, (2500, 6000), |c| Fault::KillLoop {
        target: someone(c),
        period_ms: c.random_range(200..1500)
    }),
    kind!("terminate", 25, 1, (100, 2000), |c| Fault::Terminate {
        target: someone(c)
    }),
    kind!("pause", 50, 1, (300, 6000), |c| Fault::Pause {
        target: some(c)
    }),
    kind!("cpu", 15, 3, (1500, 4000), |c| Fault::Cpu {
        target: someone(c),
        percent: c.random_range(1..8)
    }),
    kind!("memory", 10, 1, (1500, 4000), |c| Fault::Memory {
        target: someone(c),
        spare_mib: c.random_range(1..32)
    }),
    kind!("descriptors", 10, 1, (1500, 4000), |c| Fault::Descriptors {
        target: someone(c),
        spare: c.random_range(0..8)
    }),
    kind!("clock_jump", 25, 1, (1500, 5000), |c| Fault::ClockJump {
        target: some(c),
        seconds: *[-3600, -300, 300, 3600].choose(c).unwrap_or(&300)
    }),
    kind!("clock_strobe", 15, 1, (1500, 5000), |c| {
        Fault::ClockStrobe {
            target: some(c),
            ms: 4000,
            period_ms: c.random_range(50..200),
        }
    }),
    kind!("clock_rate", 15, 1, (2000, 6000), |c| Fault::ClockRate {
        target: someone(c),
        percent: *[50, 80, 150, 300].choose(c).unwrap_or(&150)
    }),
    kind!("power_cut", 50, 1, (200, 3000), |c| Fault::PowerCut {
        target: some(c)
    }),
    kind!("disk_full", 20, 1, (1000, 4000), |c| Fault::DiskFull {
        target: someone(c)
    }),
    kind!("disk_slow", 25, 1, (1500, 5000), |c| Fault::DiskSlow {
        target: someone(c),
        ms: c.random_range(20..400)
    }),
    kind!("disk_hang", 25, 1, (800, 6000), |c| Fault::DiskHang {
        target: someone(c)
    }),
    kind!("sync_error", 20, 1, (500, 2500), |c| Fault::SyncError {
        target: one(c),
        when: c.random_range(1..20)
    }),
    kind!("disk_read_only", 15, 1, (500, 2500), |c| {
        Fault::DiskReadOnly { target: one(c) }
    }),
    kind!("flip_bits", 20, 3, (500, 3000), |c| Fault::FlipBits {
        target: one(c),
        file: file(c),
        bits: c.random_range(1..20)
    }),
    kind!("truncate", 15, 3, (500, 3000), |c| Fault::Truncate {
        target: one(c),
        file: file(c)
    }),
    kind!("swap_files", 10, 3, (500, 3000), |c| Fault::SwapFiles {
        target: one(c),
        file: file(c)
    }),
    kind!("roll_back", 15, 3, (1500, 4000), |c| Fault::RollBack {
        target: one(c)
    }),
    kind!("compact", 30, 1, (0, 100), |c| Fault::Compact {
        behind: c.random_range(0..50)
    }),
    kind!("defragment", 20, 1, (0, 100), |c| Fault::Defragment {
        target: some(c)
    }),
    kind!("move_leader", 30, 3, (0, 100), |_| Fault::MoveLeader),
    kind!("rolling_restart", 10, 3, (0, 100), |_| {
        Fault::RollingRestart
    }),
];

/// The names of all kinds that can be asked for.
pub fn fault_names() -> impl Iterator<Item = &'static str> {
    KINDS.iter().map(|kind| kind.name)
}

/// Kinds that damage what a member has on disk: one member at most may have such a fault in a run, for a write is
/// safe only while all but a minority keep what they acknowledged.
fn damages(fault: &Fault) -> bool {
    matches!(
        fault,
        Fault::FlipBits { .. }
            | Fault::Truncate { .. }
            | Fault::SwapFiles { .. }
            | Fault::RollBack { .. }
    )
}

/// Whose processes, files or clocks a fault works on until it is healed, with nobody else working on them.
fn taken(fault: &Fault) -> Option<Target> {
    match fault {
        Fault::RollingRestart => Some(Target::All),
        // These work on what lies between processes, or only ask for something.
        Fault::Isolate { .. }
        | Fault::OneWay { .. }
        | Fault::CutClients { .. }
        | Fault::Flap { .. }
        | Fault::SlowLink { .. }
        | Fault::Reset { .. }
        | Fault::Defragment { .. } => None,
        fault => fault.target(),
    }
}

/// Whether a fault can be made while another one holds: there is somebody left whom it may be about. Of members that are as
/// good as others, those are chosen that no fault works on; there is only one leader.
fn goes_beside(fault: &Fault, before: &Fault, members: u64) -> bool {
    let (Some(mine), Some(theirs)) = (taken(fault), taken(before)) else {
        return true;
    };
    let many = |target| matches!(target, Target::All | Target::Majority);
    let leader_again = mine == Target::Leader && theirs != Target::Follower;
    members > 1 && !many(mine) && !many(theirs) && !leader_again
}

/// The first fault comes after this, so that there is something to disturb.
const WARM_UP_MS: u64 = 2000;

/// The plan of `seed` under a wish.
pub fn plan(seed: u64, wish: &Wish) -> Plan {
    let mut chance = seed::stream(seed, "plan");
    let members = wish
        .members
        .unwrap_or_else(|| *[1, 3, 3, 3, 5].choose(&mut chance).unwrap_or(&3));
    let duration_ms = wish
        .seconds
        .unwrap_or_else(|| chance.random_range(20..60))
        .saturating_mul(1000);
    let server = server(wish, &mut chance);
    let workloads = workloads(wish, &mut chance);
    let faults = faults(wish, members, duration_ms, &mut chance);
    Plan {
        name: format!("seed {seed}"),
        seed,
        members,
        server,
        duration_ms,
        workloads,
        faults,
        gates: Vec::new(),
    }
}

fn server(wish: &Wish, chance: &mut SmallRng) -> Server {
    const TIMINGS: [(u64, u64); 3] = [(100, 1000), (50, 500), (30, 300)];
    let (heartbeat_ms, election_ms) = *TIMINGS.choose(chance).unwrap_or(&(100, 1000));
    let snapshot_count = *[50, 100, 1000].choose(chance).unwrap_or(&1000);
    let disk = *[DiskKind::Ext4, DiskKind::Xfs]
        .choose(chance)
        .unwrap_or(&DiskKind::Ext4);
    Server {
        heartbeat_ms,
        election_ms,
        snapshot_count,
        disk: wish.disk.unwrap_or(disk),
        flags: wish.flags.clone(),
        mutant: None,
    }
}

fn workloads(wish: &Wish, chance: &mut SmallRng) -> Vec<Load> {
    const DRAWN: [Workload; 9] = [
        Workload::Register,
        Workload::Append,
        Workload::Watch,
        Workload::Lease,
        Workload::Lock,
        Workload::Election,
        Workload::Queue,
        Workload::Barrier,
        Workload::Maintenance,
    ];
    let chosen = if wish.workloads.is_empty() {
        // Registers always: they cost little, and every promise about revisions leans on them.
        let mut drawn: Vec<Workload> = DRAWN[1..].to_vec();
        drawn.shuffle(chance);
        drawn.truncate(chance.random_range(1..=3));
        if chance.random_range(0..12) == 0 {
            drawn.push(Workload::Overload);
        }
        drawn.push(Workload::Register);
        drawn.sort();
        drawn
    } else {
        wish.workloads.clone()
    };
    chosen
        .into_iter()
        .map(|workload| Load {
            workload,
            clients: match workload {
                Workload::Lock | Workload::Election => chance.random_range(5..10),
                Workload::Maintenance | Workload::Overload => chance.random_range(1..3),
                _ => chance.random_range(3..7),
            },
            pause_ms: *[5, 20, 60].choose(chance).unwrap_or(&20),
        })
        .collect()
}

fn faults(wish: &Wish, members: u64, duration_ms: u64, chance: &mut SmallRng) -> Vec<PlannedFault> {
    let possible = KINDS.iter().filter(|kind| kind.members <= members);
    let kinds: Vec<&Kind> = if wish.faults.is_empty() {
        let mut drawn: Vec<&Kind> = possible
            .filter(|kind| chance.random_range(0..100) < kind.likely)
            .collect();
        drawn.shuffle(chance);
        drawn.truncate(chance.random_range(2..=6));
        drawn
    } else {
        possible
            .filter(|kind| wish.faults.iter().any(|name| name == kind.name))
            .collect()
    };
    let mut planned: Vec<PlannedFault> = Vec::new();
    let mut damaged = false;
    let mut at_ms = WARM_UP_MS;
    while at_ms < duration_ms {
        let Some(kind) = kinds.choose(chance) else {
            break;
        };
        let fault = (kind.make)(chance);
        let is_nobody = matches!(fault.target(), Some(Target::Follower | Target::Minority));
        if members == 1 && is_nobody {
            continue;
        }
        let (shortest, longest) = kind.hold_ms;
        let hold_ms = chance.random_range(shortest..=longest);
        let in_the_way = planned
            .iter()
            .filter(|held| !goes_beside(&fault, &held.fault, members))
            .map(|held| held.at_ms + held.hold_ms);
        if let Some(end) = in_the_way.max().filter(|end| *end > at_ms) {
            at_ms = end + chance.random_range(500..3000);
        }
        let again = damages(&fault) && damaged;
        if !again && at_ms + hold_ms <= duration_ms {
            damaged |= damages(&fault);
            planned.push(PlannedFault {
                at_ms,
                hold_ms,
                fault,
            });
        }
        // Now and then the next fault comes while this one holds, but none beside damage: who is damaged is
        // missing already.
        let alone = planned.last().is_some_and(|last| damages(&last.fault));
        let overlap = !alone && chance.random_range(0..4) == 0;
        at_ms += if overlap {
            hold_ms / 2 + 1
        } else {
            hold_ms + chance.random_range(500..3000)
        };
    }
    planned
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn one_seed_gives_one_plan_and_another_seed_another() {
        let wish = Wish::default();
        assert_eq!(plan(1, &wish), plan(1, &wish));
        assert_ne!(plan(1, &wish), plan(2, &wish));
    }

    #[test]
    fn every_kind_of_fault_is_made_under_its_own_name() {
        for kind in KINDS {
            let fault = (kind.make)(&mut seed::stream(1, "name"));
            assert_eq!(fault.kind(), kind.name);
        }
    }

    #[test]
    fn every_kind_of_fault_and_every_workload_is_drawn_by_some_seed() {
        let mut faults = BTreeSet::new();
        let mut workloads = BTreeSet::new();
        for seed in 0..500 {
            let plan = plan(seed, &Wish::default());
            faults.extend(plan.faults.iter().map(|planned| planned.fault.kind()));
            workloads.extend(plan.workloads.iter().map(|load| load.workload));
        }
        assert_eq!(faults.len(), KINDS.len());
        assert_eq!(workloads.len(), 10);
    }

    #[test]
    fn no_plan_damages_two_members_and_every_fault_is_healed_before_the_load_ends() {
        for seed in 0..500 {
            let plan = plan(seed, &Wish::default());
            let damaging = plan.faults.iter().filter(|f| damages(&f.fault)).count();
            assert!(damaging <= 1, "seed {seed} damages {damaging} times");
            for planned in &plan.faults {
                assert!(planned.at_ms + planned.hold_ms <= plan.duration_ms);
            }
        }
    }

    #[test]
    fn faults_that_overlap_find_members_of_their_own() {
        let mut overlaps = 0;
        for seed in 0..500 {
            let plan = plan(seed, &Wish::default());
            for (number, fault) in plan.faults.iter().enumerate() {
                for before in &plan.faults[..number] {
                    if before.at_ms + before.hold_ms <= fault.at_ms {
                        continue;
                    }
                    let (mine, theirs) = (taken(&fault.fault), taken(&before.fault));
                    let (Some(mine), Some(theirs)) = (mine, theirs) else {
                        continue;
                    };
                    overlaps += 1;
                    assert!(plan.members > 1, "seed {seed}: {before:?}, {fault:?}");
                    assert_ne!(theirs, Target::All, "seed {seed}: {before:?}, {fault:?}");
                    assert_ne!(
                        (mine, theirs),
                        (Target::Leader, Target::Leader),
                        "seed {seed}: {before:?}, {fault:?}"
                    );
                }
            }
        }
        assert!(overlaps > 50, "{overlaps} overlaps");
    }

    #[test]
    fn a_wish_is_granted() {
        let wish = Wish {
            members: Some(5),
            seconds: Some(30),
            workloads: vec![Workload::Queue],
            faults: vec!["ring".into()],
            ..Wish::default()
        };
        let plan = plan(7, &wish);
        assert_eq!(plan.members, 5);
        assert_eq!(plan.duration_ms, 30_000);
        assert!(plan.workloads.iter().all(|l| l.workload == Workload::Queue));
        assert!(plan.faults.iter().all(|f| f.fault == Fault::Ring));
        assert!(!plan.faults.is_empty());
    }

    #[test]
    fn a_plan_survives_its_file() {
        let plan = plan(3, &Wish::default());
        let text = serde_json::to_string(&plan).unwrap();
        assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan);
    }
}
