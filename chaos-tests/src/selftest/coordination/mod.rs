//! Mutations about leases, locks, elections, queues and barriers.

mod mutations;
pub mod story;

pub use mutations::MUTATIONS;

#[cfg(test)]
mod tests {
    use crate::check::{self, barrier, election, exclusion, lease, liveness, queue, waiters};
    use crate::selftest::plan;

    #[test]
    fn stories_of_a_cluster_that_keeps_its_promises_pass() {
        // Others have to see more than coordination before they say that all is well.
        let conclusive = [
            lease::CHECKER,
            exclusion::CHECKER,
            waiters::CHECKER,
            election::CHECKER,
            queue::CHECKER,
            barrier::CHECKER,
        ];
        for seed in 0..20 {
            let history = super::story::history(seed);
            let judgements = check::judge_all(&history, &plan());
            // A story has no last look at every member.
            for judged in judgements.iter().filter(|j| j.checker != liveness::CHECKER) {
                let inconclusive = judged.inconclusive.iter();
                let is_ours = conclusive.contains(&judged.checker.as_str());
                let what: Vec<&str> = judged
                    .violations
                    .iter()
                    .map(|violation| &violation.what)
                    .chain(&judged.harness_errors)
                    .chain(inconclusive.filter(|_| is_ours))
                    .map(String::as_str)
                    .collect();
                assert_eq!(what, [""; 0], "{} of seed {seed}", judged.checker);
            }
        }
    }
}
