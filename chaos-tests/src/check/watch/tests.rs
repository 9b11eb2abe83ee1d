use super::judge;
use crate::selftest::watching;

#[test]
fn watches_of_a_cluster_that_keeps_its_promises_pass() {
    let mut seen = std::collections::BTreeMap::new();
    for seed in 0..60 {
        let judged = judge(&watching::history(seed), false);
        assert_eq!(judged.violations, [], "seed {seed}");
        assert_eq!(judged.inconclusive, [""; 0], "seed {seed}");
        for (fact, count) in judged.facts {
            *seen.entry(fact).or_insert(0) += count;
        }
    }
    for fact in [
        "watches taken up again",
        "watches of the future",
        "watches of the present",
        "events compared",
        "events filtered out",
        "messages in fragments",
        "previous values compared",
        "progress notifications",
        "ended by compaction",
        "starts below the floor",
        "watches that had to keep up",
    ] {
        assert!(
            seen.contains_key(fact),
            "{fact}: nothing like it in {seen:?}"
        );
    }
}
