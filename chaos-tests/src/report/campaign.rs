//! What many runs amount to.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::check::growth::{Growth, RESOURCES, Resource};
use crate::report::totals::{Totals, percentile};
use crate::report::{Summary, words};
use crate::verdict::Outcome;

/// A run of a campaign.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Episode {
    /// What it was for.
    pub name: String,
    /// Where it lies.
    pub directory: PathBuf,
    /// What it proved.
    pub outcome: Outcome,
    /// Checkers that found something, and how much.
    pub broken: BTreeMap<String, usize>,
    /// Why it is no valid run, in a line.
    pub why: Option<String>,
    /// What each member took of the host.
    #[serde(default)]
    pub growth: Vec<Growth>,
}

/// Many runs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Campaign {
    /// The runs that were made.
    pub episodes: Vec<Episode>,
    /// Their numbers together.
    pub totals: Totals,
    /// How many facts of each kind the checkers examined, by checker and fact.
    pub facts: BTreeMap<String, u64>,
    /// What all runs together should have met, and did not.
    #[serde(default)]
    pub missed: Vec<String>,
}

impl Campaign {
    /// Adds a run.
    pub fn add(&mut self, name: &str, directory: PathBuf, summary: &Summary) {
        let Summary {
            verdict,
            totals,
            growth,
        } = summary;
        self.totals.add(totals);
        let mut broken = BTreeMap::new();
        for judgement in &verdict.judgements {
            for (fact, count) in &judgement.facts {
                *self
                    .facts
                    .entry(format!("{}/{fact}", judgement.checker))
                    .or_default() += count;
            }
            if !judgement.violations.is_empty() {
                broken.insert(judgement.checker.clone(), judgement.violations.len());
            }
        }
        self.episodes.push(Episode {
            name: name.to_owned(),
            directory,
            outcome: verdict.outcome,
            broken,
            why: verdict.first(),
            growth: growth.clone(),
        });
    }

    /// How many facts of this kind, named as in a gate, the checkers examined.
    pub fn counted(&self, fact: &str) -> u64 {
        self.facts.get(fact).copied().unwrap_or_default()
    }

    /// The gravest verdict; inconclusive if nothing was run, or something missed.
    pub fn outcome(&self) -> Outcome {
        let outcomes = self.episodes.iter().map(|episode| episode.outcome);
        let is_enough = !self.episodes.is_empty() && self.missed.is_empty();
        outcomes
            .chain((!is_enough).then_some(Outcome::Inconclusive))
            .max()
            .unwrap_or(Outcome::Inconclusive)
    }

    /// A line for the terminal when a run has ended.
    pub fn line(&self) -> String {
        let Some(last) = self.episodes.last() else {
            return String::new();
        };
        let why = last
            .why
            .as_ref()
            .map(|why| format!("  {why}"))
            .unwrap_or_default();
        format!(
            "{:>4}  {:13}  {}{why}",
            self.episodes.len(),
            last.outcome.to_string(),
            last.name
        )
    }
}

/// From here on it is told of a run how what a member takes has grown in it.
const LONG_MS: u64 = 240_000;

/// All of it as text: verdicts, operations, faults by kind, facts, and every run that is not valid.
pub fn text(campaign: &Campaign) -> String {
    let mut out = String::new();
    let totals = &campaign.totals;
    let mut row = |name: &str, value: String| {
        let _ = writeln!(out, "  {name:22}{value}");
    };
    let of = |outcome: Outcome| {
        campaign
            .episodes
            .iter()
            .filter(|e| e.outcome == outcome)
            .count()
    };
    let verdicts: Vec<String> = [
        Outcome::Valid,
        Outcome::Invalid,
        Outcome::Inconclusive,
        Outcome::HarnessError,
    ]
    .into_iter()
    .filter(|outcome| of(*outcome) > 0)
    .map(|outcome| format!("{} {outcome}", of(outcome)))
    .collect();
    row(
        "episodes",
        format!("{} ({})", campaign.episodes.len(), verdicts.join(", ")),
    );
    row(
        "time under test",
        words::duration(totals.duration_ms * 1_000_000),
    );
    row(
        "operations",
        format!(
            "{} ({} ok, {} failed, {} unknown)",
            words::number(totals.operations()),
            words::number(totals.ok),
            words::number(totals.failed),
            words::number(totals.unknown)
        ),
    );
    row("watch events", words::number(totals.watch_events));
    row("leader changes", words::number(totals.leader_changes));
    row(
        "power cuts",
        words::number(totals.proved.get("power_cut").copied().unwrap_or_default()),
    );
    row(
        "processes",
        format!(
            "{} started, {} ended unexplained",
            totals.starts, totals.unexpected_ends
        ),
    );
    for (name, kinds) in [
        ("ended by faults", &totals.ended),
        ("faults proved", &totals.proved),
        ("faults not proved", &totals.unproved),
        ("faults skipped", &totals.skipped),
        ("faults failed", &totals.broken),
    ] {
        if !kinds.is_empty() {
            let kinds_told: Vec<String> = kinds
                .iter()
                .map(|(kind, count)| format!("{} {count}", words::spaced(kind)))
                .collect();
            row(
                name,
                format!("{}: {}", kinds.values().sum::<u64>(), kinds_told.join(", ")),
            );
        }
    }
    for Resource { name, unit, of, .. } in RESOURCES {
        let mut used: Vec<u64> = campaign
            .episodes
            .iter()
            .flat_map(|episode| &episode.growth)
            .map(|growth| of(&growth.last))
            .collect();
        if let (Some(usual), Some(most)) = (percentile(&mut used, 50), used.last()) {
            let told = format!("{usual}{unit} in the end of a run, at most {most}{unit}");
            row(name, told);
        }
    }
    for episode in &campaign.episodes {
        for growth in &episode.growth {
            if growth.watched_ms < LONG_MS {
                continue;
            }
            let grown = RESOURCES.map(|Resource { name, unit, of, .. }| {
                let (early, last) = (of(&growth.early), of(&growth.last));
                format!("{name} {early} to {last}{unit}")
            });
            let seconds = growth.watched_ms / 1000;
            let told = format!("m{} in {seconds} s: {}", growth.member, grown.join(", "));
            row(&episode.name, told);
        }
    }
    let examined: u64 = campaign.facts.values().sum();
    row("facts examined", words::number(examined));
    for (fact, count) in &campaign.facts {
        let _ = writeln!(out, "    {:>14}  {fact}", words::number(*count));
    }
    for episode in campaign
        .episodes
        .iter()
        .filter(|episode| episode.outcome != Outcome::Valid)
    {
        let _ = writeln!(
            out,
            "{}  {}  {}\n    {}",
            episode.outcome,
            episode.name,
            episode.directory.display(),
            episode.why.as_deref().unwrap_or_default()
        );
    }
    for missed in &campaign.missed {
        let _ = writeln!(out, "MISSED {missed}");
    }
    let _ = writeln!(out, "{}", campaign.outcome());
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Usage;
    use crate::report::example;
    use crate::verdict::Verdict;

    #[test]
    fn a_campaign_adds_up_and_names_what_was_not_valid() {
        let (plan, history) = example::run();
        let took = |mib: u64| Usage {
            memory_kib: mib * 1024,
            ..Usage::default()
        };
        let growth = |watched_ms| Growth {
            member: 3,
            watched_ms,
            early: took(60),
            last: took(90),
        };
        let summary = |verdict, growth| Summary {
            verdict,
            totals: Totals::of(&history),
            growth: vec![growth],
        };
        let mut campaign = Campaign::default();
        let good = Verdict::of(Vec::new(), &[]);
        campaign.add("good", "out/1".into(), &summary(good, growth(600_000)));
        let bad = example::verdict(&plan, &history);
        campaign.add("bad", "out/2".into(), &summary(bad, growth(60_000)));
        assert_eq!(campaign.outcome(), Outcome::Invalid);
        assert!(campaign.line().contains("INVALID"), "{}", campaign.line());
        let text = text(&campaign);
        assert!(text.contains("2 (1 VALID, 1 INVALID)"), "{text}");
        assert!(text.contains("6: isolate 2, kill 2, pause 2"), "{text}");
        assert!(text.contains("2: power cut 2"), "{text}");
        assert!(text.contains("5 120  real_time/reads compared"), "{text}");
        assert!(
            text.contains("INVALID  bad  out/2\n    real_time: operation"),
            "{text}"
        );
        assert!(
            text.contains("90 MiB in the end of a run, at most 90 MiB"),
            "{text}"
        );
        assert!(
            text.contains("m3 in 600 s: memory 60 to 90 MiB, descriptors 0 to 0"),
            "{text}"
        );
        assert!(!text.contains("m3 in 60 s"), "{text}");
        assert!(text.ends_with("INVALID\n"), "{text}");
    }

    #[test]
    fn a_campaign_of_nothing_proves_nothing() {
        assert_eq!(Campaign::default().outcome(), Outcome::Inconclusive);
    }
}
