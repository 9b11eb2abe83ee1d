//! What many seeds together must have met, or they prove nothing: every kind of fault took hold, every checker had something
//! to judge, leaders changed, and every mishap befell messages.

use std::collections::BTreeSet;

use chaos_tests::check;
use chaos_tests::history::History;

use crate::campaign::Total;
use crate::{generate, points};

/// So many seeds can be expected to have met everything.
const ENOUGH: usize = 200;

/// What none of the seeds met, in words; nothing if they are too few to say.
pub fn missing(total: &Total) -> Vec<String> {
    if total.campaign.episodes.len() < ENOUGH {
        return Vec::new();
    }
    let totals = &total.campaign.totals;
    let mut missing = Vec::new();
    for kind in kinds() {
        if !totals.proved.contains_key(&kind) {
            missing.push(format!("no fault of the kind {kind} was proved"));
        }
    }
    for checker in checkers() {
        let prefix = format!("{checker}/");
        let mut facts = total.campaign.facts.iter();
        if !facts.any(|(fact, count)| fact.starts_with(&prefix) && *count > 0) {
            missing.push(format!("the checker {checker} examined nothing"));
        }
    }
    for (what, count) in &total.messages {
        if *count == 0 {
            missing.push(format!("messages {what}: none"));
        }
    }
    for (what, count) in [
        ("changes of the leader", totals.leader_changes),
        ("operations of unknown outcome", totals.unknown),
        ("events of watches", totals.watch_events),
    ] {
        if count == 0 {
            missing.push(format!("{what}: none"));
        }
    }
    missing
}

/// Kinds of faults that plans for this build are drawn from.
fn kinds() -> BTreeSet<String> {
    let mut kinds = generate::kinds();
    if !points::BUILT_IN {
        kinds.remove("point");
    }
    kinds
}

/// The checkers of the loads that are drawn.
fn checkers() -> Vec<String> {
    let judged = check::judge_all(&History::default(), &generate::plan(0));
    let names = judged.into_iter().map(|judgement| judgement.checker);
    // No load is too much for members whose disks and networks lie in memory, and they take nothing of the host by themselves.
    let unseen = [check::overload::CHECKER, check::growth::CHECKER];
    names
        .filter(|name| !unseen.contains(&name.as_str()))
        .chain(["simulation".to_owned()])
        .collect()
}

#[cfg(test)]
mod tests {
    use chaos_tests::report::Summary;
    use chaos_tests::report::totals::Totals;
    use chaos_tests::verdict::{Judgement, Outcome, Verdict};

    use super::*;

    /// So many seeds that met all but what has this name.
    fn seeds(how_many: usize, unmet: &str) -> Total {
        let judged = checkers().into_iter().map(|checker| {
            let mut judgement = Judgement::new(&checker, "");
            judgement.count("facts", usize::from(checker != unmet));
            judgement
        });
        let verdict = Verdict::of(judged.collect(), &[]);
        let proved = kinds().into_iter().filter(|kind| kind != unmet);
        let totals = Totals {
            leader_changes: u64::from(unmet != "leader"),
            unknown: 1,
            watch_events: 1,
            proved: proved.map(|kind| (kind, 1)).collect(),
            ..Totals::default()
        };
        let summary = Summary {
            verdict,
            totals,
            growth: Vec::new(),
        };
        let mut total = Total::default();
        for _ in 0..how_many {
            total.campaign.add("", "".into(), &summary);
        }
        for what in ["late", "twice"] {
            let count = u64::from(what != unmet);
            total.messages.insert(what.to_owned(), count);
        }
        total.campaign.missed = missing(&total);
        total
    }

    #[test]
    fn seeds_that_met_everything_are_valid() {
        let total = seeds(ENOUGH, "");
        assert_eq!(total.campaign.missed, Vec::<String>::new());
        assert_eq!(total.campaign.outcome(), Outcome::Valid);
    }

    #[test]
    fn what_no_seed_met_is_named_and_makes_all_of_them_inconclusive() {
        for (unmet, said) in [
            (
                "stale_snapshot",
                "no fault of the kind stale_snapshot was proved",
            ),
            ("queue", "the checker queue examined nothing"),
            ("late", "messages late: none"),
            ("leader", "changes of the leader: none"),
        ] {
            let total = seeds(ENOUGH, unmet);
            assert_eq!(total.campaign.missed, [said]);
            assert_eq!(total.campaign.outcome(), Outcome::Inconclusive);
        }
    }

    #[test]
    fn few_seeds_need_not_meet_everything() {
        assert_eq!(
            seeds(ENOUGH - 1, "queue").campaign.outcome(),
            Outcome::Valid
        );
    }
}
