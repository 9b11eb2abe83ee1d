//! Debian's etcd 3.4 as a server that is known to be bad: its defects have to be reported, and nothing else.
//!
//! A campaign that finds nothing in a server in which there is something to find proves nothing about others.

use std::collections::BTreeSet;

use crate::campaign;
use crate::plan::{DiskKind, Fault, Load, Plan, Server, Target, Workload, in_turn};
use crate::seed;
use crate::verdict::{Outcome, Verdict};

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
    /// How long each fault is held.
    hold_ms: u64,
    /// The checkers that have to find something; where there are none, the run has to be valid. No others may.
    broken: &'static [&'static str],
}

/// What a run says of a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// What is wrong with the server was found, and nothing else; or there was nothing, and nothing was found.
    AsItIs,
    /// Nothing was found, though there is something: another run may.
    NotYet,
    /// Too little was seen to say anything, of a host that cannot make a fault, or is too busy.
    Nothing,
    /// A checker found something that is not known to be wrong, or the harness failed.
    Wrong,
}

/// The cases.
pub const CASES: &[Case] = &[
    Case {
        name: "plain",
        about: "nothing is wrong with keys, lists, leases, queues and barriers while all members run",
        workloads: &[
            Workload::Register,
            Workload::Append,
            Workload::Lease,
            Workload::Queue,
            Workload::Barrier,
        ],
        clients: 4,
        faults: &[],
        hold_ms: 0,
        broken: &[],
    },
    Case {
        name: "lines",
        about: "a lock or a leadership is given to a session that ended while it waited: whoever waited does not look whether \
                its own key is still there; and an observer of an election asks who leads now when a leader has gone, and is \
                not told of those in between (by intention: pull request 7756)",
        workloads: &[Workload::Lock, Workload::Election],
        // In many lines, for few are outlived while they wait.
        clients: 30,
        faults: &[],
        hold_ms: 0,
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
        hold_ms: 2500,
        broken: &[],
    },
    Case {
        name: "compaction",
        about: "a deletion at the compact revision is lost to watches (etcd issue 18089), and progress is told ahead of \
                events (issue 15220)",
        workloads: &[Workload::Watch, Workload::Maintenance],
        clients: 4,
        faults: &[],
        hold_ms: 0,
        broken: &["watch"],
    },
    Case {
        name: "leases",
        about: "a leader whose disk hangs is replaced, and when it goes on, it ends leases that are renewed elsewhere (issue \
                15247); around a change of leader a lease is said to have centuries left (pull request 17642)",
        workloads: &[Workload::Lease],
        clients: 4,
        faults: &[
            Fault::DiskHang {
                target: Target::Leader,
            },
            Fault::DiskHang {
                target: Target::Leader,
            },
            Fault::Kill {
                target: Target::Leader,
            },
        ],
        // The leases of the workload live shorter than that.
        hold_ms: 6000,
        broken: &["lease"],
    },
];

impl Case {
    /// The plan of run number `run` of it.
    pub fn plan(&self, seed: u64, run: u64) -> Plan {
        const GAP_MS: u64 = 1500;
        let held = self
            .faults
            .iter()
            .map(|fault| (self.hold_ms, fault.clone()));
        let faults = in_turn(3000, GAP_MS, held);
        let ends = faults.last().map_or(0, |last| last.at_ms + last.hold_ms);
        let load = |workload: &Workload| Load {
            workload: *workload,
            clients: self.clients,
            pause_ms: 20,
        };
        campaign::with_gates(Plan {
            name: format!("known-bad {} {run}", self.name),
            seed: seed::stream_seed(seed, &format!("{} {run}", self.name)),
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

    /// What a run of it says that came to this verdict.
    pub fn said(&self, verdict: &Verdict) -> Said {
        let found: BTreeSet<&str> = verdict
            .judgements
            .iter()
            .filter(|judgement| !judgement.violations.is_empty())
            .map(|judgement| judgement.checker.as_str())
            .collect();
        let known: BTreeSet<&str> = self.broken.iter().copied().collect();
        match verdict.outcome {
            Outcome::HarnessError => Said::Wrong,
            _ if !found.is_subset(&known) => Said::Wrong,
            Outcome::Inconclusive => Said::Nothing,
            Outcome::Valid | Outcome::Invalid if found == known => Said::AsItIs,
            Outcome::Valid | Outcome::Invalid => Said::NotYet,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::{Judgement, Violation};

    fn case(name: &str) -> &'static Case {
        CASES.iter().find(|case| case.name == name).unwrap()
    }

    /// What a case says of a run in which these checkers found these things.
    fn said(case_name: &str, found: &[(&str, &str)]) -> Said {
        let judged = found.iter().map(|(checker, what)| {
            let mut judgement = Judgement::new(checker, "");
            judgement.violated(Violation::new(*what));
            judgement
        });
        case(case_name).said(&Verdict::of(judged.collect(), &[]))
    }

    #[test]
    fn what_is_not_known_to_be_wrong_must_not_be_found() {
        assert_eq!(said("plain", &[("watch", "a gap")]), Said::Wrong);
        assert_eq!(said("leases", &[("lease", "early")]), Said::AsItIs);
        let more = [("lease", "early"), ("watch", "a gap")];
        assert_eq!(said("leases", &more), Said::Wrong);
        let one_of_two = [("election", "late")];
        assert_eq!(said("lines", &one_of_two), Said::NotYet);
    }

    #[test]
    fn what_is_known_to_be_wrong_has_to_be_found() {
        assert_eq!(said("plain", &[]), Said::AsItIs);
        assert_eq!(said("leases", &[]), Said::NotYet);
    }

    #[test]
    fn a_run_that_saw_too_little_says_nothing() {
        let mut unsure = Judgement::new("faults", "");
        unsure.inconclusive.push("no disk of its own".into());
        let verdict = Verdict::of(vec![unsure], &[]);
        for case in CASES {
            assert_eq!(case.said(&verdict), Said::Nothing);
        }
    }
}
