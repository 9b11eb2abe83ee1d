//! Pure functions that judge a history, one file per promise.
//!
//! Each says how many facts it examined, so that a quiet run is not mistaken for a good one. Each has tests that it passes
//! a correct history and that it catches one with a planted fault.

pub mod agree;
pub mod append;
pub mod barrier;
mod compactions;
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
use crate::verdict::Judgement;

/// Everything that there is to judge about a run.
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
    judgements.push(faults::judge(history));
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
    use crate::verdict::Violation;

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
