//! What campaigns have found stays mended.

use std::path::Path;

use baton_chaos_sim::episode;
use chaos_tests::plan::Plan;
use chaos_tests::run::read_json;

/// What is broken in a run of the plan. Whether it proves that nothing else is is another matter.
fn broken(name: &str) -> Vec<String> {
    let plans = Path::new(env!("CARGO_MANIFEST_DIR")).join("../regress");
    let plan: Plan = read_json(&plans.join(name)).expect("a plan");
    let episode = episode::run(&plan).expect("a run that ends");
    let judgements = episode.verdict.judgements.into_iter();
    judgements
        .flat_map(|judged| judged.violations)
        .map(|violation| violation.what)
        .collect()
}

#[test]
fn a_proposal_ends_where_consensus_has_ended() {
    assert_eq!(broken("consensus-ended.json"), Vec::<String>::new());
}

#[test]
fn what_a_failed_sync_left_unwritten_is_not_built_upon() {
    assert_eq!(
        broken("sync-failed-then-power-cut.json"),
        Vec::<String>::new()
    );
}

#[test]
fn an_observer_that_compaction_overtook_skips_nothing_that_can_be_told() {
    assert_eq!(
        broken("observer-overtaken-by-compaction.json"),
        Vec::<String>::new()
    );
}
