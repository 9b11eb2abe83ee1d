//! Mutations about leases, locks, elections, queues and barriers.

mod mutations;
pub mod story;

pub use mutations::MUTATIONS;

#[cfg(test)]
mod tests {
    use baton_proto::etcdserverpb as pb;

    use crate::check::line::lines;
    use crate::check::{
        self, barrier, election, exclusion, lease, liveness, queue, waiters, witness,
    };
    use crate::history::{Operation, Outcome};
    use crate::selftest::honest::error;
    use crate::selftest::plan;
    use crate::workload::election::LINES;

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

    #[test]
    fn an_observer_may_miss_a_leader_only_where_that_was_compacted() {
        let mut history = super::story::history(1);
        let observer = history.observed[0].observer;
        let told = history.observed.iter().filter(|o| o.observer == observer);
        let missed = told
            .map(|told| told.token)
            .find(|token| *token > history.observed[0].token);
        let missed = missed.expect("a second leader");
        let lines = lines(&witness::gather(&history), LINES);
        let mut places = lines.values().flat_map(|line| &line.places);
        let place = places
            .find(|place| place.token == missed)
            .expect("its place");
        let end = place.end.expect("it ends");
        history.observed.retain(|told| told.token != missed);
        let mut found = |revision| {
            history.operations.push(Operation {
                id: 0,
                workload: "maintenance".into(),
                client: 0,
                member: 1,
                called: 0,
                returned: 1,
                request: pb::CompactionRequest {
                    revision,
                    ..Default::default()
                }
                .into(),
                outcome: Outcome::Unknown(error(1, "lost")),
            });
            election::judge(&history, false).violations.len()
        };
        assert_eq!(
            found(end - 1),
            1,
            "the last revision at which it led could be read"
        );
        assert_eq!(found(end), 0);
    }
}
