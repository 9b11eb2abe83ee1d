//! A server that crashes or stalls at points of its code keeps its promises.
#![cfg(feature = "chaos")]

use baton_chaos_sim::{episode, generate};
use chaos_tests::plan::Fault;
use chaos_tests::verdict::Outcome;

#[test]
fn a_server_that_crashes_at_points_of_its_code_keeps_its_promises() {
    const PLANS: usize = 4;
    let reaches = |fault: &Fault| matches!(fault, Fault::Point { .. });
    let plans = (1..).map(generate::plan);
    let plans = plans.filter(|plan| plan.faults.iter().any(|planned| reaches(&planned.fault)));
    let mut reached = 0;
    for plan in plans.take(PLANS) {
        let episode = episode::run(&plan).expect("a run that ends");
        let verdict = &episode.verdict;
        assert_eq!(
            verdict.outcome,
            Outcome::Valid,
            "{}: {:?}",
            plan.name,
            verdict.first()
        );
        reached += episode.faults().get("point").copied().unwrap_or_default();
    }
    assert!(reached > 0);
}
