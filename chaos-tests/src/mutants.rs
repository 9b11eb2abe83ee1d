//! Bugs that can be planted in the server, and what must catch each: the campaign proved on servers that are known to be bad.
//!
//! A build of `batond` with the feature `chaos` has them. Each trial aims a workload and faults at one of them; one of its
//! checkers has to find it within so many runs.

use crate::campaign;
use crate::plan::{
    self, DiskKind, Fault, Load, Plan, PlannedFault, PointAction, Server, Target, Workload,
};
use crate::seed;

/// A planted bug and what must catch it.
#[derive(Debug, Clone, Copy)]
pub struct Trial {
    /// The bug, by the name under which the server knows it.
    pub mutant: &'static str,
    /// Members of the cluster.
    members: u64,
    /// What brings it to light.
    workloads: &'static [Workload],
    faults: fn() -> Vec<PlannedFault>,
    /// The checkers that may find it; one is enough.
    pub checkers: &'static [&'static str],
    /// How many runs it may take.
    pub runs: u64,
    /// Where it is tried. A simulated cluster does in a second what takes luck on real ones.
    pub place: Place,
}

/// Where a run is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// With real processes.
    Real,
    /// In simulation.
    Simulation,
}

use Workload::{Election, Lease, Lock, Maintenance, Register, Watch as Watching};

const LEADER: Target = Target::Leader;
const FOLLOWER: Target = Target::Follower;
const ALL: Target = Target::All;
/// When the first fault is made, and the pause after each: milliseconds.
const FIRST_MS: u64 = 2500;
const GAP_MS: u64 = 1200;

fn point(target: Target, point: &str, action: PointAction) -> Fault {
    Fault::Point {
        target,
        point: point.to_owned(),
        action,
    }
}

/// Faults one after another, each held for so many milliseconds.
fn in_turn(faults: Vec<(u64, Fault)>) -> Vec<PlannedFault> {
    plan::in_turn(FIRST_MS, GAP_MS, faults)
}

/// The same, while others are held from the beginning to the end.
fn in_turn_during(all_the_time: Vec<Fault>, faults: Vec<(u64, Fault)>) -> Vec<PlannedFault> {
    let mut planned = in_turn(faults);
    let end_ms = planned.iter().map(|p| p.at_ms + p.hold_ms).max();
    let hold_ms = end_ms.unwrap_or_default();
    planned.extend(all_the_time.into_iter().map(|fault| PlannedFault {
        at_ms: 0,
        hold_ms,
        fault,
    }));
    planned
}

macro_rules! trial {
    ($mutant:literal, $members:literal, $workloads:expr, $faults:expr, $checkers:expr, $runs:literal) => {
        trial!(Real: $mutant, $members, $workloads, in_turn($faults), $checkers, $runs)
    };
    ($place:ident: $mutant:literal, $members:literal, $workloads:expr, $faults:expr, $checkers:expr, $runs:literal) => {
        Trial {
            mutant: $mutant,
            members: $members,
            workloads: $workloads,
            faults: || $faults,
            checkers: $checkers,
            runs: $runs,
            place: Place::$place,
        }
    };
}

/// All trials. A fault comes with the milliseconds for which it is held.
pub const TRIALS: &[Trial] = &[
    trial!(
        "skip-log-sync",
        3,
        &[Register],
        vec![
            (800, Fault::PowerCut { target: ALL }),
            (800, Fault::PowerCut { target: ALL }),
        ],
        &["revisions"],
        2
    ),
    trial!(
        Simulation: "ack-before-sync",
        3,
        &[Register],
        in_turn_during(
            vec![Fault::DiskSlow { target: ALL, ms: 50 }],
            vec![(300, Fault::PowerCut { target: ALL }); 3]
        ),
        &["revisions"],
        10
    ),
    trial!(
        "ack-before-quorum",
        3,
        &[Register],
        vec![
            (4000, Fault::Isolate { target: LEADER }),
            (4000, Fault::Isolate { target: LEADER }),
        ],
        &["revisions", "real time", "linearizability"],
        2
    ),
    trial!(
        Simulation: "vote-not-saved",
        3,
        &[Register],
        in_turn_during(
            vec![Fault::Delay { ms: 100, jitter_ms: 100 }],
            vec![(
                4000,
                Fault::KillLoop {
                    target: Target::Any,
                    period_ms: 600,
                },
            ); 2]
        ),
        &["simulation"],
        20
    ),
    trial!(
        "local-reads",
        3,
        &[Register],
        vec![
            (3000, Fault::Isolate { target: FOLLOWER }),
            (3000, Fault::Isolate { target: LEADER }),
        ],
        &["real time", "linearizability"],
        2
    ),
    trial!(
        Simulation: "read-before-apply",
        3,
        &[Register],
        in_turn(vec![(8000, Fault::Loss { percent: 20 })]),
        &["real time", "linearizability"],
        10
    ),
    trial!(
        Simulation: "applied-apart",
        3,
        &[Register],
        in_turn(vec![
            (1500, point(FOLLOWER, "flush.before_write", PointAction::Crash)),
            (1500, point(LEADER, "flush.after_write", PointAction::Crash)),
            (1500, Fault::Kill { target: ALL }),
            (1500, point(LEADER, "flush.before_write", PointAction::Crash)),
            (1500, point(FOLLOWER, "flush.before_write", PointAction::Crash)),
        ]),
        &[
            "revisions",
            "hashes",
            "final reads",
            "liveness",
            "processes"
        ],
        10
    ),
    trial!("applied-twice", 3, &[Register], vec![], &["revisions"], 2),
    trial!(
        "revision-reused",
        1,
        &[Register],
        vec![
            (300, Fault::Kill { target: ALL }),
            (300, Fault::Kill { target: ALL }),
            (300, Fault::Kill { target: ALL }),
            (300, Fault::Terminate { target: ALL }),
        ],
        &["revisions", "real time"],
        3
    ),
    trial!(
        "compare-ignored",
        3,
        &[Register],
        vec![],
        &["revisions", "linearizability"],
        2
    ),
    trial!(
        "drop-tombstone",
        3,
        &[Watching, Maintenance],
        vec![
            (
                6000,
                Fault::KillLoop {
                    target: ALL,
                    period_ms: 1500,
                },
            ),
            (100, Fault::Compact { behind: 0 }),
            (100, Fault::RollingRestart),
        ],
        &["watch"],
        4
    ),
    trial!(
        "watch-gap",
        3,
        &[Watching],
        vec![(1000, Fault::Reset { target: ALL })],
        &["watch"],
        2
    ),
    trial!(
        "watch-duplicate",
        3,
        &[Watching],
        vec![(1000, Fault::Reset { target: ALL })],
        &["watch"],
        2
    ),
    trial!(
        "progress-ahead",
        3,
        &[Watching, Register],
        vec![],
        &["watch"],
        4
    ),
    trial!(
        "split-events",
        3,
        &[Watching, Register],
        vec![],
        &["watch", "revisions"],
        2
    ),
    trial!(
        "wall-clock-leases",
        3,
        &[Lease],
        vec![
            (
                3000,
                Fault::ClockJump {
                    target: ALL,
                    seconds: 300,
                },
            ),
            (
                3000,
                Fault::ClockJump {
                    target: ALL,
                    seconds: 3600,
                },
            ),
        ],
        &["lease"],
        2
    ),
    trial!(
        "no-lease-extension",
        3,
        &[Lease],
        vec![
            (1500, Fault::Kill { target: LEADER }),
            (1500, Fault::Kill { target: LEADER }),
            (100, Fault::MoveLeader),
            (100, Fault::MoveLeader),
        ],
        &["lease"],
        3
    ),
    trial!(
        "stale-expiry",
        3,
        &[Lease],
        vec![
            (4000, Fault::Pause { target: LEADER }),
            (
                4000,
                point(LEADER, "lease.expire", PointAction::Stall(3000))
            ),
            (4000, Fault::Pause { target: LEADER }),
        ],
        &["lease"],
        6
    ),
    trial!("keepalive-after-revoke", 3, &[Lease], vec![], &["lease"], 2),
    trial!(
        "unordered-revoke",
        3,
        &[Lease],
        vec![],
        &["lease", "revisions", "hashes"],
        2
    ),
    trial!(
        "snapshot-without-leases",
        3,
        &[Lease, Register],
        vec![
            (6000, Fault::Isolate { target: FOLLOWER }),
            (100, Fault::MoveLeader),
            (100, Fault::MoveLeader),
            (1500, Fault::Kill { target: LEADER }),
        ],
        &["lease", "revisions", "hashes", "final reads"],
        3
    ),
    trial!(
        Simulation: "lock-unchecked",
        3,
        &[Lock],
        Vec::new(),
        &["exclusion", "waiters"],
        10
    ),
    trial!(
        Simulation: "lock-out-of-order",
        3,
        &[Lock],
        Vec::new(),
        &["exclusion", "waiters"],
        10
    ),
    trial!(
        "observe-skips",
        3,
        &[Election],
        vec![(2000, point(ALL, "observe.look", PointAction::Stall(300)))],
        &["election"],
        4
    ),
];

impl Trial {
    /// The plan of its run number `run`.
    pub fn plan(&self, seed: u64, run: u64) -> Plan {
        let faults = (self.faults)();
        let end_ms = faults.iter().map(|p| p.at_ms + p.hold_ms + GAP_MS).max();
        let load = |workload: &Workload| Load {
            workload: *workload,
            clients: 6,
            pause_ms: 5,
        };
        let plan = Plan {
            name: format!("{} {run}", self.mutant),
            seed: seed::stream_seed(seed, &format!("{} {run}", self.mutant)),
            members: self.members,
            server: Server {
                snapshot_count: 100,
                disk: DiskKind::Ext4,
                mutant: Some(self.mutant.to_owned()),
                ..Server::default()
            },
            duration_ms: end_ms.unwrap_or_default().max(10_000),
            workloads: self.workloads.iter().map(load).collect(),
            faults,
            gates: Vec::new(),
        };
        campaign::with_gates(plan)
    }

    /// What is left of one of its plans without the bug.
    pub fn without(mut plan: Plan) -> Plan {
        plan.name.push_str(" without it");
        plan.server.mutant = None;
        plan
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_bug_is_tried_once() {
        let names: BTreeSet<&str> = TRIALS.iter().map(|trial| trial.mutant).collect();
        assert_eq!(names.len(), TRIALS.len());
        assert!(TRIALS.len() >= 20);
    }
}
