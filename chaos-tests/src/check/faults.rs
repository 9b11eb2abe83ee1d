//! The faults of a run: that those that were made took hold, and that all are gone.
//!
//! A fault without effect tests nothing, and one that is still there at the end makes every later judgement doubtful. This
//! is about the harness, not about the server.

use std::collections::BTreeMap;

use crate::history::{FaultStep, History, Phase};
use crate::plan::Plan;
use crate::verdict::Judgement;

/// Its name.
pub const CHECKER: &str = "faults";

/// What it says.
const PROMISE: &str = "Every fault of the run shows that it took hold, and that it is gone.";

/// What is said of a member that does not start on what was done to its files.
pub const REFUSED: &str = "it refuses to start";

/// Judges it. Facts: `made`, `proved`, `skipped`, and for each kind `<kind> proved` and `<kind> refused`.
pub fn judge(history: &History, plan: &Plan) -> Judgement {
    let mut judgement = Judgement::new(CHECKER, PROMISE);
    let mut faults: BTreeMap<usize, Vec<&FaultStep>> = BTreeMap::new();
    for step in &history.faults {
        faults.entry(step.fault).or_default().push(step);
    }
    for (number, planned) in plan.faults.iter().enumerate() {
        if !faults.contains_key(&number) {
            judgement.inconclusive.push(format!(
                "fault {number} ({}) of the plan was never made",
                planned.fault.kind()
            ));
        }
    }
    for (number, steps) in faults {
        let kind = steps.first().map_or("", |step| &step.kind);
        let mut over = false;
        for step in &steps {
            match &step.phase {
                Phase::Installing => judgement.count("made", 1),
                Phase::Proved(proof) => {
                    judgement.count("proved", 1);
                    judgement.count(&format!("{kind} proved"), 1);
                    if proof.contains(REFUSED) {
                        judgement.count(&format!("{kind} refused"), 1);
                    }
                }
                Phase::Unproved(why) => judgement.inconclusive.push(format!(
                    "fault {number} ({kind}) had no effect that shows: {why}"
                )),
                Phase::Healing => {}
                Phase::Healed(_) => over = true,
                Phase::Skipped(_) => {
                    judgement.count("skipped", 1);
                    over = true;
                }
                Phase::Failed(why) => {
                    let error = format!("fault {number} ({kind}) failed: {why}");
                    judgement.harness_errors.push(error);
                    over = true;
                }
            }
        }
        if !over {
            let error = format!("fault {number} ({kind}) was made and never healed");
            judgement.harness_errors.push(error);
        }
    }
    judgement
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Record;
    use crate::plan::{Fault, PlannedFault, Target};
    use crate::selftest;

    fn history(phases: impl IntoIterator<Item = Phase>) -> History {
        History::of(phases.into_iter().zip(1..).map(|(phase, at)| {
            Record::Fault(FaultStep {
                fault: 0,
                kind: "isolate".into(),
                members: vec![1],
                at,
                phase,
            })
        }))
    }

    fn judged(history: &History) -> Judgement {
        let planned = PlannedFault {
            at_ms: 0,
            hold_ms: 0,
            fault: Fault::Isolate {
                target: Target::Leader,
            },
        };
        let plan = Plan {
            faults: vec![planned],
            ..selftest::plan()
        };
        judge(history, &plan)
    }

    fn cut(proof: Phase, end: Phase) -> History {
        history([Phase::Installing, proof, Phase::Healing, end])
    }

    #[test]
    fn a_fault_that_took_hold_and_is_gone_counts() {
        let good = cut(Phase::Proved("shown".into()), Phase::Healed("shown".into()));
        let judgement = judged(&good);
        assert_eq!(judgement.facts["isolate proved"], 1);
        assert!(judgement.inconclusive.is_empty() && judgement.harness_errors.is_empty());
    }

    #[test]
    fn a_fault_without_effect_makes_the_run_inconclusive() {
        let idle = cut(
            Phase::Unproved("open".into()),
            Phase::Healed("shown".into()),
        );
        assert_eq!(judged(&idle).inconclusive.len(), 1);
    }

    #[test]
    fn a_fault_that_is_not_healed_is_a_failure_of_the_harness() {
        let stuck = history([Phase::Installing, Phase::Proved("shown".into())]);
        assert_eq!(judged(&stuck).harness_errors.len(), 1);
        let failed = cut(Phase::Proved("shown".into()), Phase::Failed("stuck".into()));
        assert_eq!(judged(&failed).harness_errors.len(), 1);
    }

    #[test]
    fn a_fault_that_this_host_cannot_make_is_counted_as_such() {
        let judgement = judged(&history([Phase::Skipped("no nft".into())]));
        assert_eq!(judgement.facts["skipped"], 1);
        assert!(!judgement.facts.contains_key("proved"));
    }

    #[test]
    fn a_fault_of_the_plan_that_the_history_does_not_know_makes_the_run_inconclusive() {
        assert_eq!(judged(&History::default()).inconclusive.len(), 1);
    }
}
