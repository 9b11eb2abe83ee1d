//! Many runs one after another: which, and what they amount to.

use rand::Rng;

use crate::generate::{self, Wish};
use crate::plan::{DiskKind, Fault, FileKind, Gate, Load, Plan, Server, Target, Workload, in_turn};
use crate::report::campaign::Campaign;
use crate::seed;

/// The runs of the quick campaign, which every change has to pass: each aims at another promise. `seed` draws what they
/// leave open.
pub fn quick(seed: u64) -> Vec<Plan> {
    use Workload::{
        Append, Barrier, Election, Lease, Lock, Maintenance, Queue, Register, Watch as Watching,
    };
    let leader = Target::Leader;
    let runs = [
        Aim {
            name: "leaders-die",
            members: 3,
            workloads: &[Register, Watching],
            faults: vec![
                Fault::Kill { target: leader },
                Fault::KillLoop {
                    target: leader,
                    period_ms: 1200,
                },
                Fault::Kill {
                    target: Target::All,
                },
            ],
            hold_ms: 2500,
            gates: &[
                ("leaders/changes", 3),
                ("processes/ended by a fault", 5),
                ("watch/events after a resume", 1),
            ],
        },
        Aim {
            name: "leaders-are-cut-off",
            members: 3,
            workloads: &[Register, Lock],
            faults: vec![
                Fault::Isolate { target: leader },
                Fault::OneWay {
                    target: leader,
                    inbound: true,
                },
                Fault::OneWay {
                    target: leader,
                    inbound: false,
                },
            ],
            hold_ms: 2800,
            gates: &[("leaders/changes", 2), ("faults/one_way proved", 2)],
        },
        Aim {
            name: "leaders-stand-still",
            members: 3,
            workloads: &[Register, Lease],
            faults: vec![
                Fault::Pause { target: leader },
                Fault::Pause {
                    target: Target::All,
                },
                Fault::Pause { target: leader },
            ],
            hold_ms: 3000,
            gates: &[
                ("leaders/changes", 2),
                ("lease/expired", 3),
                ("lease/survived a leader change", 1),
            ],
        },
        Aim {
            name: "power-fails-alone",
            members: 1,
            workloads: &[Register, Append],
            faults: vec![
                Fault::PowerCut {
                    target: Target::All,
                },
                Fault::PowerCut {
                    target: Target::All,
                },
                Fault::PowerCut {
                    target: Target::All,
                },
            ],
            hold_ms: 1000,
            gates: &[("faults/power_cut proved", 3)],
        },
        Aim {
            name: "power-fails-everywhere",
            members: 3,
            workloads: &[Register, Queue],
            faults: vec![
                Fault::PowerCut {
                    target: Target::All,
                },
                Fault::PowerCut { target: leader },
                Fault::PowerCut {
                    target: Target::Majority,
                },
            ],
            hold_ms: 2000,
            gates: &[("faults/power_cut proved", 3), ("queue/claims", 20)],
        },
        Aim {
            name: "history-is-compacted",
            members: 3,
            workloads: &[Register, Watching, Maintenance],
            faults: vec![
                Fault::Compact { behind: 0 },
                Fault::Isolate {
                    target: Target::Follower,
                },
                Fault::MoveLeader,
                Fault::Defragment {
                    target: Target::All,
                },
                Fault::RollingRestart,
            ],
            hold_ms: 2000,
            gates: &[
                ("watch/ended by compaction", 1),
                ("leaders/changes", 1),
                ("old revisions/compacted revisions refused", 1),
            ],
        },
        Aim {
            name: "disks-fail",
            members: 3,
            workloads: &[Register, Append],
            faults: vec![
                Fault::DiskFull { target: leader },
                Fault::FlipBits {
                    target: Target::Follower,
                    file: FileKind::Log,
                    bits: 5,
                },
                Fault::DiskHang { target: leader },
            ],
            hold_ms: 2500,
            gates: &[
                ("faults/disk_full proved", 1),
                ("faults/flip_bits proved", 1),
                ("faults/disk_hang proved", 1),
            ],
        },
        Aim {
            name: "links-are-bad",
            members: 5,
            workloads: &[Register, Election, Barrier],
            faults: vec![
                Fault::Reset {
                    target: Target::All,
                },
                Fault::Flap {
                    target: leader,
                    period_ms: 300,
                },
                Fault::Ring,
            ],
            hold_ms: 2500,
            gates: &[
                ("faults/reset proved", 1),
                ("faults/ring proved", 1),
                ("election/leaders observed", 3),
            ],
        },
    ];
    runs.into_iter().map(|aim| aim.plan(seed)).collect()
}

/// A run that is told in a few words.
struct Aim {
    name: &'static str,
    members: u64,
    workloads: &'static [Workload],
    /// One after another.
    faults: Vec<Fault>,
    /// How long each is held.
    hold_ms: u64,
    /// What else has to be seen.
    gates: &'static [(&'static str, u64)],
}

impl Aim {
    fn plan(self, seed: u64) -> Plan {
        const GAP_MS: u64 = 1500;
        let held = self.faults.into_iter().map(|fault| (self.hold_ms, fault));
        let faults = in_turn(2000, GAP_MS, held);
        let ends = faults.last().map_or(0, |last| last.at_ms + last.hold_ms);
        let loads = self.workloads.iter().map(|workload| load(*workload));
        with_gates(Plan {
            name: self.name.to_owned(),
            seed: seed::stream_seed(seed, self.name),
            members: self.members,
            server: Server {
                snapshot_count: 200,
                disk: DiskKind::Ext4,
                ..Server::default()
            },
            duration_ms: ends + GAP_MS,
            workloads: loads.collect(),
            faults,
            gates: self
                .gates
                .iter()
                .map(|(fact, at_least)| Gate::new(fact, *at_least))
                .collect(),
        })
    }
}

fn load(workload: Workload) -> Load {
    Load {
        workload,
        clients: match workload {
            Workload::Lock | Workload::Election => 6,
            Workload::Maintenance => 1,
            _ => 4,
        },
        pause_ms: 20,
    }
}

/// Of so many runs of a soak, one is long.
const LONG_EVERY: u64 = 20;

/// Run number `number` of a soak that began with `seed`: drawn whole, of one to three minutes; or, now and then, a [`long`]
/// one.
pub fn soak(seed: u64, number: u64) -> Plan {
    let seed = seed::stream_seed(seed, &format!("soak {number}"));
    if number % LONG_EVERY == LONG_EVERY / 4 {
        return long(seed, number);
    }
    let seconds = seed::stream(seed, "length").random_range(60..=180);
    let wish = Wish {
        seconds: Some(seconds),
        ..Wish::default()
    };
    with_gates(generate::plan(seed, &wish))
}

/// A run that keeps its processes alive for so long that it shows whether they take more and more of the host. The load is
/// the same in all of them, so that they can be compared, and what it leaves behind is compacted; the faults have
/// connections, streams, leaders and leases come and go, and end no process.
fn long(seed: u64, number: u64) -> Plan {
    const MEMBERS: u64 = 3;
    let faults = [
        "isolate",
        "one_way",
        "cut_clients",
        "flap",
        "swizzle",
        "loss",
        "reset",
        "pause",
        "compact",
        "defragment",
        "move_leader",
    ];
    let wish = Wish {
        members: Some(MEMBERS),
        seconds: Some(660),
        faults: faults.map(str::to_owned).to_vec(),
        disk: Some(DiskKind::Ext4),
        ..Wish::default()
    };
    let mut plan = generate::plan(seed, &wish);
    plan.name = format!("long {number}");
    plan.server = Server {
        disk: DiskKind::Ext4,
        ..Server::default()
    };
    plan.workloads = [
        (Workload::Register, 3),
        (Workload::Watch, 3),
        (Workload::Lease, 3),
        (Workload::Lock, 5),
        (Workload::Queue, 3),
        (Workload::Maintenance, 1),
    ]
    .map(|(workload, clients)| Load {
        workload,
        clients,
        pause_ms: 60,
    })
    .to_vec();
    plan.gates.push(Gate::new("growth/long lives", MEMBERS));
    with_gates(plan)
}

/// A plan with what has to be seen in any run like it, beside what it asks for already: that every member took a write in
/// the end, that a fault took hold if there was to be one, and that each workload got to do what it is for.
pub fn with_gates(mut plan: Plan) -> Plan {
    let mut gate = |fact: &str, at_least: u64| plan.gates.push(Gate::new(fact, at_least));
    gate("final reads/members that took a write", plan.members);
    gate("final reads/members that were read", plan.members);
    if !plan.faults.is_empty() {
        gate("faults/proved", 1);
    }
    for load in &plan.workloads {
        match load.workload {
            Workload::Register => {
                gate("revisions/writes acknowledged", 50);
                gate("revisions/reads compared", 50);
                gate("real time/linearizable reads ordered", 50);
                gate("real time/members that were read", plan.members);
                gate("linearizability/operations on keys", 50);
            }
            Workload::Append => gate("append/transactions on several lists", 10),
            Workload::Watch => gate("watch/events compared", 100),
            Workload::Lease => gate("lease/granted", 5),
            Workload::Lock => gate("exclusion/hand-overs", 5),
            Workload::Election => gate("election/leaderships", 3),
            Workload::Queue => gate("queue/acknowledgements", 5),
            Workload::Barrier => gate("barrier/barriers", 1),
            // Nobody else can say the same where there is one member.
            Workload::Maintenance if plan.members == 1 => gate("hashes/HashKV", 1),
            Workload::Maintenance => gate("hashes/revisions compared", 1),
            Workload::Overload => {
                gate("overload/taken", 1);
                gate("overload/too large and refused", 1);
                gate("overload/others served meanwhile", 1);
            }
        }
    }
    plan
}

/// What the runs of the quick campaign have to have seen together.
pub const SEEN_BY_QUICK: &[&str] = &[
    "exclusion/lost while holding",
    "hashes/revisions compared",
    "leaders/changes",
    "lease/expired",
    "lease/survived a leader change",
    "queue/claims that ended with a lease",
    "watch/events after a resume",
    "watch/progress notifications",
];

/// What those of a soak have to have seen besides.
pub const SEEN_BY_SOAK: &[&str] = &[
    "exclusion/control broken",
    "exclusion/fenced writes refused",
    "lease/expired across a leader change",
];

/// What the runs of a campaign have not seen of what they have to, in words.
pub fn missing<'a>(
    campaign: &Campaign,
    wanted: impl IntoIterator<Item = &'a &'a str>,
) -> Vec<String> {
    let mut missing = Vec::new();
    for fact in wanted {
        if campaign.counted(fact) == 0 {
            missing.push(format!("{fact}: none"));
        }
    }
    // A server that shows hashes of its state shows them for this.
    if campaign.counted("hashes/state hashes") > 0
        && campaign.counted("hashes/indexes compared") == 0
    {
        missing.push("hashes/indexes compared: none".to_owned());
    }
    let faults = campaign.counted("liveness/faults that left a quorum");
    let through = campaign.counted("liveness/faults that left a quorum and were served through");
    // A short one may not leave the time for an answer.
    if faults >= 8 && through * 2 < faults {
        missing.push(format!(
            "of {faults} faults that left a quorum, only {through} were served through"
        ));
    }
    missing
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_quick_campaign_has_every_workload_but_the_overload() {
        let loads: BTreeSet<Workload> = quick(1)
            .iter()
            .flat_map(|plan| plan.workloads.iter().map(|load| load.workload))
            .collect();
        assert_eq!(loads.len(), 9);
        assert!(!loads.contains(&Workload::Overload));
    }

    #[test]
    fn the_quick_campaign_fits_into_five_minutes() {
        let load_ms: u64 = quick(1).iter().map(|plan| plan.duration_ms).sum();
        assert!(load_ms < 150_000, "{load_ms} ms of load");
    }

    #[test]
    fn a_cluster_of_one_is_not_asked_for_what_takes_two() {
        let gates = |members| {
            let mut wish = Wish {
                members: Some(members),
                workloads: vec![Workload::Maintenance],
                ..Wish::default()
            };
            wish.faults.push("kill".to_owned());
            let plan = with_gates(generate::plan(1, &wish));
            let facts = plan.gates.iter().map(|gate| gate.fact.clone());
            facts.collect::<BTreeSet<String>>()
        };
        let takes_two = "hashes/revisions compared";
        assert!(gates(3).contains(takes_two));
        assert!(!gates(1).contains(takes_two));
    }

    #[test]
    fn a_campaign_is_told_what_it_has_not_seen() {
        let mut campaign = Campaign::default();
        assert_eq!(missing(&campaign, SEEN_BY_QUICK).len(), SEEN_BY_QUICK.len());
        for fact in SEEN_BY_QUICK {
            campaign.facts.insert((*fact).to_owned(), 1);
        }
        let faults = "liveness/faults that left a quorum";
        campaign.facts.insert(faults.to_owned(), 8);
        for (served, wanted) in [(3, 1), (4, 0)] {
            let through = format!("{faults} and were served through");
            campaign.facts.insert(through, served);
            assert_eq!(missing(&campaign, SEEN_BY_QUICK).len(), wanted);
        }
        let shown = "hashes/state hashes";
        campaign.facts.insert(shown.to_owned(), 9);
        let nothing = missing(&campaign, SEEN_BY_QUICK);
        assert_eq!(nothing, ["hashes/indexes compared: none"]);
    }

    #[test]
    fn a_soak_has_a_long_run_in_which_no_fault_ends_a_process() {
        let plans: Vec<Plan> = (0..LONG_EVERY).map(|number| soak(1, number)).collect();
        let long: Vec<&Plan> = plans
            .iter()
            .filter(|plan| plan.duration_ms >= 600_000)
            .collect();
        assert_eq!(long.len(), 1);
        let ends = |fault: &Fault| {
            let kind = fault.kind();
            ["kill", "terminate", "power", "restart", "disk", "sync"]
                .iter()
                .any(|word| kind.contains(word))
        };
        assert!(long[0].faults.len() > 50);
        assert!(long[0].faults.iter().all(|planned| !ends(&planned.fault)));
        assert_eq!(long[0].workloads.len(), 6);
    }

    #[test]
    fn runs_of_a_soak_differ_and_can_be_drawn_again() {
        assert_eq!(soak(1, 1), soak(1, 1));
        assert_ne!(soak(1, 1), soak(1, 2));
        assert_ne!(soak(1, 1), soak(2, 1));
    }
}
