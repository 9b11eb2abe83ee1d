//! Bugs that are planted in the server are found in simulation, by the checkers that are to find them.
#![cfg(feature = "chaos")]

use baton_chaos_sim::episode;
use chaos_tests::mutants::{Place, TRIALS, Trial};

/// Whether one of its checkers finds something within its runs.
fn is_caught(trial: &Trial) -> bool {
    (1..=trial.runs).any(|run| {
        let episode = episode::run(&trial.plan(1, run)).expect("a run that ends");
        let judgements = &episode.verdict.judgements;
        let mut broken = judgements.iter().filter(|j| !j.violations.is_empty());
        broken.any(|judged| trial.checkers.contains(&judged.checker.as_str()))
    })
}

// One after another: only one bug at a time can be in effect in a process.
#[test]
fn every_bug_that_is_tried_in_simulation_is_found() {
    let simulated = TRIALS.iter().filter(|t| t.place == Place::Simulation);
    let missed: Vec<&str> = simulated
        .filter(|trial| !is_caught(trial))
        .map(|trial| trial.mutant)
        .collect();
    assert_eq!(missed, [""; 0]);
}
