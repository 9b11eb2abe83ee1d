//! Debian's etcd 3.4 as a server that is known to be bad: its defects have to be reported, and nothing else.
//!
//! A campaign that finds nothing in a server in which there is something to find proves nothing about others.

use crate::campaign;
use crate::plan::{DiskKind, Fault, Load, Plan, PlannedFault, Server, Target, Workload};
use crate::seed;

/// What is run on the server, and what has to come of it.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// Its name.
    pub name: &'static str,
    /// What is wrong with the server, or that nothing is.
    pub about: &'static str,
    workloads: &'static [Workload],
    /// Of each workload.
    clients: u32,
    faults: &'static [Fault],
    /// The checkers that have to find something; where there are none, the run has to be valid. No others may.
    pub broken: &'static [&'static str],
}

/// The cases.
pub const CASES: &[Case] = &[
    Case {
        name: "plain",
        about: "nothing is wrong with keys, lists and queues while all members run",
        workloads: &[Workload::Register, Workload::Append, Workload::Queue],
        clients: 4,
        faults: &[],
        broken: &[],
    },
    Case {
        name: "lines",
        about: "a lock or a leadership is given to a session that ended while it waited: whoever waited does not look whether \
                its own key is still there",
        workloads: &[Workload::Lock, Workload::Election],
        // In many lines, for few are outlived while they wait.
        clients: 30,
        faults: &[],
        broken: &["election", "exclusion"],
    },
    Case {
        name: "members-die",
        about: "nor while they die and are cut off",
        workloads: &[Workload::Register, Workload::Append],
        clients: 4,
        faults: &[
            Fault::Kill {
                target: Target::Leader,
            },
            Fault::Isolate {
                target: Target::Leader,
            },
            Fault::PowerCut {
                target: Target::All,
            },
        ],
        broken: &[],
    },
    Case {
        name: "compaction",
        about: "a deletion at the compact revision is lost to watches (etcd issue 18089), and progress is told ahead of \
                events (issue 15220)",
        workloads: &[Workload::Watch, Workload::Maintenance],
        clients: 4,
        faults: &[],
        broken: &["watch"],
    },
    Case {
        name: "leases",
        about: "around a change of leader a lease is said to have centuries left",
        workloads: &[Workload::Lease],
        clients: 4,
        faults: &[
            Fault::Kill {
                target: Target::Leader,
            },
            Fault::Kill {
                target: Target::Leader,
            },
            Fault::Pause {
                target: Target::Leader,
            },
        ],
        broken: &["lease"],
    },
];

impl Case {
    /// The plan of it.
    pub fn plan(&self, seed: u64) -> Plan {
        const HOLD_MS: u64 = 2500;
        let faults: Vec<PlannedFault> = (0..)
            .zip(self.faults)
            .map(|(number, fault)| PlannedFault {
                at_ms: 3000 + 4000 * number,
                hold_ms: HOLD_MS,
                fault: fault.clone(),
            })
            .collect();
        let ends = faults.last().map_or(0, |last| last.at_ms + last.hold_ms);
        let load = |workload: &Workload| Load {
            workload: *workload,
            clients: self.clients,
            pause_ms: 20,
        };
        campaign::with_gates(Plan {
            name: format!("known-bad {}", self.name),
            seed: seed::stream_seed(seed, self.name),
            members: 3,
            server: Server {
                disk: DiskKind::Ext4,
                ..Server::default()
            },
            duration_ms: (ends + 1500).max(20_000),
            workloads: self.workloads.iter().map(load).collect(),
            faults,
            gates: Vec::new(),
        })
    }
}
