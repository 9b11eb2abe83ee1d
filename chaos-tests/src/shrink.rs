//! The smallest plan that still breaks a promise: delta debugging over faults, then time, then load.

use std::collections::BTreeSet;

use anyhow::{Result, bail};

use crate::plan::Plan;
use crate::verdict::{Outcome, Verdict};

/// A run shorter than this is not tried, in milliseconds.
const DURATION_MIN: u64 = 1000;
/// What is left of a run before its first fault and after its last one, in milliseconds.
const MARGIN: u64 = 1000;

/// How hard to look.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// How often a plan is run before it is taken not to break anything. More than once for real processes, which do not do
    /// the same twice.
    pub tries: u32,
    /// How many runs there may be in all.
    pub runs: u32,
}

/// What was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Shrunk {
    /// The plan; without gates, since little happens in it.
    pub plan: Plan,
    /// How many runs it took.
    pub runs: u32,
    /// Whether every smaller plan that delta debugging knows of was tried; if not, the runs were used up before.
    pub minimal: bool,
}

/// The checkers that found violations.
pub fn broken(verdict: &Verdict) -> BTreeSet<String> {
    let broken = verdict
        .judgements
        .iter()
        .filter(|judgement| !judgement.violations.is_empty());
    broken.map(|judgement| judgement.checker.clone()).collect()
}

/// Looks for a smaller plan that makes one of `checkers` find a violation, by having plans run.
///
/// # Errors
/// A run fails, or the plan as it is breaks nothing that these checkers see.
pub fn shrink(
    plan: &Plan,
    checkers: &BTreeSet<String>,
    effort: Effort,
    run: impl FnMut(&Plan) -> Result<Verdict>,
) -> Result<Shrunk> {
    let mut smallest = plan.clone();
    smallest.gates.clear();
    let mut search = Search {
        smallest,
        checkers,
        effort,
        runs: 0,
        run,
    };
    if !search.breaks(&search.smallest.clone())? {
        let checkers: Vec<&str> = checkers.iter().map(String::as_str).collect();
        bail!(
            "the plan as it is does not break {} in {} runs",
            checkers.join(" or "),
            search.runs
        );
    }
    let faults = plan.faults.clone();
    search.reduce(faults, |plan, faults| plan.faults = faults)?;
    search.shorten()?;
    let workloads = plan.workloads.clone();
    search.reduce(workloads, |plan, workloads| plan.workloads = workloads)?;
    search.thin()?;
    Ok(Shrunk {
        minimal: search.runs < effort.runs,
        plan: search.smallest,
        runs: search.runs,
    })
}

struct Search<'a, R> {
    smallest: Plan,
    checkers: &'a BTreeSet<String>,
    effort: Effort,
    runs: u32,
    run: R,
}

impl<R: FnMut(&Plan) -> Result<Verdict>> Search<'_, R> {
    /// Whether a plan breaks what is to be broken, in as many runs as are left for it.
    fn breaks(&mut self, plan: &Plan) -> Result<bool> {
        for _ in 0..self.effort.tries {
            if self.runs >= self.effort.runs {
                return Ok(false);
            }
            self.runs += 1;
            let verdict = (self.run)(plan)?;
            if verdict.outcome == Outcome::Invalid && !broken(&verdict).is_disjoint(self.checkers) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Keeps a plan if it breaks what is to be broken.
    fn keep(&mut self, plan: Plan) -> Result<bool> {
        let breaks = plan != self.smallest && self.breaks(&plan)?;
        if breaks {
            self.smallest = plan;
        }
        Ok(breaks)
    }

    /// Leaves out parts of a list, halves first, then ever smaller ones, until no single item can be left out.
    fn reduce<T: Clone>(
        &mut self,
        mut items: Vec<T>,
        put: impl Fn(&mut Plan, Vec<T>),
    ) -> Result<()> {
        let mut parts = 2;
        while !items.is_empty() {
            let size = items.len().div_ceil(parts);
            let mut smaller = None;
            for from in (0..items.len()).step_by(size) {
                let mut rest = items.clone();
                rest.drain(from..(from + size).min(items.len()));
                let mut plan = self.smallest.clone();
                put(&mut plan, rest.clone());
                if !plan.workloads.is_empty() && self.keep(plan)? {
                    smaller = Some(rest);
                    break;
                }
            }
            match smaller {
                Some(rest) => {
                    items = rest;
                    parts = (parts - 1).max(2);
                }
                None if size == 1 => break,
                None => parts = (parts * 2).min(items.len()),
            }
        }
        Ok(())
    }

    /// Moves what is left to the front, and ends earlier and earlier.
    fn shorten(&mut self) -> Result<()> {
        let mut plan = self.smallest.clone();
        let first = plan
            .faults
            .iter()
            .map(|planned| planned.at_ms)
            .min()
            .unwrap_or_default();
        let shift = first.saturating_sub(MARGIN);
        for planned in &mut plan.faults {
            planned.at_ms -= shift;
        }
        plan.duration_ms =
            last_end(&plan).map_or(plan.duration_ms, |end| plan.duration_ms.min(end + MARGIN));
        self.keep(plan)?;
        loop {
            let mut shorter = false;
            for part in [2, 4] {
                let mut plan = self.smallest.clone();
                let duration = plan.duration_ms - plan.duration_ms / part;
                plan.duration_ms = duration
                    .max(last_end(&plan).unwrap_or_default())
                    .max(DURATION_MIN);
                if plan.duration_ms < self.smallest.duration_ms && self.keep(plan)? {
                    shorter = true;
                    break;
                }
            }
            if !shorter {
                return Ok(());
            }
        }
    }

    /// Halves the clients of each workload as long as that does no harm.
    fn thin(&mut self) -> Result<()> {
        for place in 0..self.smallest.workloads.len() {
            while self.smallest.workloads[place].clients > 1 {
                let mut plan = self.smallest.clone();
                plan.workloads[place].clients /= 2;
                if !self.keep(plan)? {
                    break;
                }
            }
        }
        Ok(())
    }
}

/// When the last fault ends.
fn last_end(plan: &Plan) -> Option<u64> {
    plan.faults
        .iter()
        .map(|planned| planned.at_ms + planned.hold_ms)
        .max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Fault, Gate, Load, PlannedFault, Server, Target, Workload};
    use crate::verdict::{Judgement, Violation};

    const EFFORT: Effort = Effort {
        tries: 1,
        runs: 1000,
    };

    fn plan() -> Plan {
        let all = [
            Workload::Register,
            Workload::Watch,
            Workload::Lease,
            Workload::Lock,
        ];
        let kinds = [
            Fault::Bridge,
            Fault::Kill {
                target: Target::Leader,
            },
            Fault::Swizzle,
            Fault::Pause {
                target: Target::Follower,
            },
            Fault::MoveLeader,
            Fault::RollingRestart,
        ];
        let faults = kinds
            .iter()
            .cycle()
            .take(18)
            .enumerate()
            .map(|(place, fault)| PlannedFault {
                at_ms: 2000 + 1000 * place as u64,
                hold_ms: 1500,
                fault: fault.clone(),
            });
        Plan {
            name: "much".into(),
            seed: 5,
            members: 3,
            server: Server::default(),
            duration_ms: 30_000,
            workloads: all
                .map(|workload| Load {
                    workload,
                    clients: 8,
                    pause_ms: 10,
                })
                .to_vec(),
            faults: faults.collect(),
            gates: vec![Gate::new("leaders/changes", 3)],
        }
    }

    fn verdict(checker: &str, broken: bool) -> Verdict {
        let mut judgement = Judgement::new(checker, "");
        if broken {
            judgement.violated(Violation::new("broken"));
        }
        Verdict::of(vec![judgement], &[])
    }

    /// Breaks if a kill comes before a pause, leases have two clients, and it goes on for three seconds.
    fn planted(plan: &Plan) -> bool {
        let at = |kind: &str| {
            plan.faults
                .iter()
                .find(|planned| planned.fault.kind() == kind)
                .map(|p| p.at_ms)
        };
        let leases = plan
            .workloads
            .iter()
            .any(|l| l.workload == Workload::Lease && l.clients >= 2);
        let order = at("kill").is_some_and(|kill| at("pause").is_some_and(|pause| kill < pause));
        order && leases && plan.duration_ms >= 3000
    }

    fn wanted() -> BTreeSet<String> {
        BTreeSet::from(["leases".to_owned()])
    }

    #[test]
    fn a_planted_failure_is_found_in_its_smallest_plan() {
        let run = |plan: &Plan| Ok(verdict("leases", planted(plan)));
        let shrunk = shrink(&plan(), &wanted(), EFFORT, run).unwrap();
        let kinds: Vec<String> = shrunk
            .plan
            .faults
            .iter()
            .map(|planned| planned.fault.kind())
            .collect();
        assert_eq!(kinds, ["kill", "pause"]);
        let leases = Load {
            workload: Workload::Lease,
            clients: 2,
            pause_ms: 10,
        };
        assert_eq!(shrunk.plan.workloads, [leases]);
        assert!(
            shrunk.plan.duration_ms < 8000,
            "{}",
            shrunk.plan.duration_ms
        );
        assert!(shrunk.minimal && shrunk.runs < 100, "{}", shrunk.runs);
        assert!(planted(&shrunk.plan));
    }

    #[test]
    fn a_failure_that_needs_no_fault_is_left_without_one() {
        let run = |_: &Plan| Ok(verdict("leases", true));
        let shrunk = shrink(&plan(), &wanted(), EFFORT, run).unwrap();
        assert_eq!(shrunk.plan.faults, []);
        assert_eq!(shrunk.plan.duration_ms, DURATION_MIN);
        assert_eq!(shrunk.plan.workloads.len(), 1);
        assert_eq!(shrunk.plan.workloads[0].clients, 1);
    }

    #[test]
    fn a_plan_that_breaks_something_else_is_not_kept() {
        let run = |plan: &Plan| {
            let all = plan.faults.len() == 18;
            Ok(verdict(if all { "leases" } else { "leaders" }, true))
        };
        let shrunk = shrink(&plan(), &wanted(), EFFORT, run).unwrap();
        assert_eq!(shrunk.plan.faults.len(), 18);
    }

    #[test]
    fn what_breaks_only_now_and_then_is_tried_again() {
        let mut runs = 0;
        let run = |plan: &Plan| {
            runs += 1;
            Ok(verdict("leases", planted(plan) && runs % 3 == 0))
        };
        let effort = Effort {
            tries: 3,
            runs: 1000,
        };
        let shrunk = shrink(&plan(), &wanted(), effort, run).unwrap();
        assert_eq!(shrunk.plan.faults.len(), 2);
    }

    #[test]
    fn it_ends_with_what_it_has_when_the_runs_are_used_up() {
        let run = |plan: &Plan| Ok(verdict("leases", planted(plan)));
        let effort = Effort { tries: 1, runs: 4 };
        let shrunk = shrink(&plan(), &wanted(), effort, run).unwrap();
        assert_eq!(shrunk.runs, 4);
        assert!(!shrunk.minimal && planted(&shrunk.plan));
    }

    #[test]
    fn a_plan_that_breaks_nothing_is_an_error() {
        let run = |_: &Plan| Ok(verdict("leases", false));
        assert!(shrink(&plan(), &wanted(), EFFORT, run).is_err());
    }
}
