//! Mutations about leases, locks, elections, queues and barriers.

mod mutations;
pub mod story;

pub use mutations::MUTATIONS;

#[cfg(test)]
mod tests {
    use crate::check;
    use crate::selftest::plan;

    #[test]
    fn stories_of_a_cluster_that_keeps_its_promises_pass() {
        for seed in 0..20 {
            let history = super::story::history(seed);
            for judged in check::judge_all(&history, &plan()) {
                let what: Vec<&str> = judged
                    .violations
                    .iter()
                    .map(|violation| &violation.what)
                    .chain(&judged.harness_errors)
                    .chain(&judged.inconclusive)
                    .map(String::as_str)
                    .collect();
                assert_eq!(what, [""; 0], "{} of seed {seed}", judged.checker);
            }
        }
    }
}
