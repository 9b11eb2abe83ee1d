//! Pure functions that judge a history, one file per promise.
//!
//! Each says how many facts it examined, so that a quiet run is not mistaken for a good one. Each has tests that it passes
//! a correct history and that it catches one with a planted fault.

pub mod agree;
pub mod append;
pub mod barrier;
mod compactions;
mod creators;
mod cycles;
pub mod deleters;
pub mod effects;
pub mod election;
pub mod exclusion;
mod explain;
pub mod faults;
pub mod final_reads;
pub mod growth;
pub mod hashes;
pub mod known;
pub mod leaders;
pub mod lease;
pub mod line;
pub mod linearizable;
pub mod liveness;
pub mod lives;
pub mod old_revisions;
mod order;
pub mod overload;
pub mod processes;
pub mod queue;
pub mod real_time;
pub mod revisions;
pub mod timing;
pub mod waiters;
pub mod watch;
pub mod witness;

use std::time::Duration;

use crate::history::History;
use crate::plan::Plan;
use crate::verdict::{Judgement, Verdict};

/// What a run proves: what there is to judge about its history, what whoever made it found itself, and its gates.
pub fn verdict(history: &History, plan: &Plan) -> Verdict {
    let mut judgements = judge_all(history, plan);
    judgements.extend(history.judged.iter().cloned());
    if history.judged.is_empty() {
        let mut unfinished = Judgement::new("end", "The run came to its end.");
        let why = "its history breaks off: the run was not made to its end";
        unfinished.inconclusive.push(why.to_owned());
        judgements.push(unfinished);
    }
    Verdict::of(judgements, &plan.gates)
}

/// Everything that there is to judge about a history.
pub fn judge_all(history: &History, plan: &Plan) -> Vec<Judgement> {
    let mut flags = plan.server.flags.iter();
    let compacts_itself = flags.any(|flag| flag.contains("auto-compaction"));
    let election = Duration::from_millis(plan.server.election_ms);
    let mut judgements = keys(history);
    judgements.push(lease::judge(history, lease::Slack::of_election(election)));
    judgements.push(exclusion::judge(history));
    judgements.push(waiters::judge(history));
    judgements.push(watch::judge(history, compacts_itself));
    judgements.push(old_revisions::judge(history, compacts_itself));
    judgements.push(append::judge(history));
    judgements.push(final_reads::judge(history));
    judgements.push(election::judge(history, compacts_itself));
    judgements.push(queue::judge(history));
    judgements.push(barrier::judge(history));
    judgements.push(overload::judge(history));
    judgements.push(leaders::judge(history));
    judgements.push(hashes::judge(history));
    judgements.push(liveness::judge(history, plan.members));
    judgements.push(faults::judge(history, plan));
    judgements.push(processes::judge(history));
    judgements.push(growth::judge(history));
    judgements
}

/// What there is to judge about keys: by revisions, and by none.
fn keys(history: &History) -> Vec<Judgement> {
    let by_revision = [revisions::judge(history), real_time::judge(history)];
    compared(by_revision, linearizable::judge(history))
}

/// Where one of two opinions finds all well and the other does not, one of them is wrong, and nothing that they say of the
/// server counts. That of revisions may find more: it also sees what no answer told.
fn compared(by_revision: [Judgement; 2], mut by_order: Judgement) -> Vec<Judgement> {
    let fine = |judged: &Judgement| judged.violations.is_empty() && judged.inconclusive.is_empty();
    if by_revision.iter().all(fine) {
        for violation in std::mem::take(&mut by_order.violations) {
            by_order.harness_errors.push(format!(
                "by revisions and in real time all is well, but {}",
                violation.what
            ));
        }
    }
    by_revision.into_iter().chain([by_order]).collect()
}

#[cfg(test)]
mod testing;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::selftest;
    use crate::verdict::{Outcome, Violation};

    #[test]
    fn a_history_that_breaks_off_proves_nothing() {
        let plan = selftest::plan();
        let mut history = History::default();
        let breaks_off = |history: &History| {
            let judged = verdict(history, &plan).judgements;
            judged
                .iter()
                .any(|judged| judged.checker == "end" && !judged.inconclusive.is_empty())
        };
        assert!(breaks_off(&history));
        history.judged.push(fine());
        assert!(!breaks_off(&history));
    }

    #[test]
    fn what_went_wrong_while_a_run_was_made_counts_whenever_it_is_judged() {
        let mut harness = fine();
        harness.harness_errors.push("a workload crashed".into());
        let history = History {
            judged: vec![harness],
            ..History::default()
        };
        let outcome = verdict(&history, &selftest::plan()).outcome;
        assert_eq!(outcome, Outcome::HarnessError);
    }

    fn violated() -> Judgement {
        let mut judgement = Judgement::new("", "");
        judgement.violated(Violation::new("it is in no order"));
        judgement
    }

    fn fine() -> Judgement {
        Judgement::new("", "")
    }

    #[test]
    fn an_order_that_is_missing_though_all_is_well_by_revisions_is_a_harness_error() {
        let judged = compared([fine(), fine()], violated());
        assert_eq!(judged[2].violations, []);
        assert_eq!(judged[2].harness_errors.len(), 1);
    }

    #[test]
    fn checkers_that_agree_or_cannot_say_contradict_nobody() {
        let lost = Judgement {
            inconclusive: vec!["there was no witness".into()],
            ..fine()
        };
        for by_revision in [[fine(), violated()], [lost, fine()]] {
            let judged = compared(by_revision, violated());
            assert_eq!(judged[2].violations.len(), 1);
            assert_eq!(judged[2].harness_errors, [""; 0]);
        }
    }
}
