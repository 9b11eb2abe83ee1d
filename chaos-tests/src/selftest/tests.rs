use super::honest::{self, Shape};
use super::{Fate, attempt, mutations, plan};
use crate::check;

#[test]
fn histories_of_a_cluster_that_keeps_its_promises_pass() {
    for seed in 0..60 {
        let history = honest::history(seed, Shape::default());
        for judged in check::judge_all(&history, &plan()) {
            assert_eq!(judged.violations, [], "{} of seed {seed}", judged.checker);
            assert_eq!(judged.harness_errors, [""; 0], "seed {seed}");
            assert_eq!(judged.inconclusive, [""; 0], "seed {seed}");
        }
    }
}

#[test]
fn every_mutation_is_caught_by_its_checker() {
    for mutation in mutations() {
        let mut caught = 0;
        for seed in 0..40 {
            match attempt(&mutation, seed) {
                Fate::Caught => caught += 1,
                Fate::NoPlace => {}
                Fate::Missed(judgements) => panic!(
                    "{} missed that {}, seed {seed}: {judgements:#?}",
                    mutation.checker, mutation.name
                ),
            }
            if caught == 5 {
                break;
            }
        }
        assert!(caught > 0, "no history has a place where {}", mutation.name);
    }
}
