//! What a run proves: VALID, INVALID, INCONCLUSIVE or HARNESS ERROR.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::history::Nanos;
use crate::plan::Gate;

/// What a checker found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Judgement {
    /// The checker.
    pub checker: String,
    /// The promise it judges, in the words of the documentation.
    pub promise: String,
    /// How many facts of each kind it examined.
    pub facts: BTreeMap<String, u64>,
    /// Where the promise was broken.
    pub violations: Vec<Violation>,
    /// Why it cannot say more: a budget ran out, a history is not whole.
    pub inconclusive: Vec<String>,
    /// What shows the harness itself at fault.
    pub harness_errors: Vec<String>,
}

impl Judgement {
    /// Nothing examined yet.
    pub fn new(checker: &str, promise: &str) -> Self {
        Self {
            checker: checker.to_owned(),
            promise: promise.to_owned(),
            ..Self::default()
        }
    }

    /// Counts facts.
    pub fn count(&mut self, fact: &str, how_many: usize) {
        let how_many = u64::try_from(how_many).unwrap_or(u64::MAX);
        *self.facts.entry(fact.to_owned()).or_default() += how_many;
    }

    /// Says that the promise was broken.
    pub fn violated(&mut self, violation: Violation) {
        self.violations.push(violation);
    }
}

/// A place where a promise was broken.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// What happened, in a sentence that names the keys, revisions and members.
    pub what: String,
    /// The operations that show it, by id.
    pub operations: Vec<u64>,
    /// The watchers that show it.
    pub watchers: Vec<u32>,
    /// The revision it is about, if it is about one.
    pub revision: Option<i64>,
    /// When it showed.
    pub at: Option<Nanos>,
}

impl Violation {
    /// A violation with nothing but its sentence.
    pub fn new(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            ..Self::default()
        }
    }

    /// Shown by these operations.
    #[must_use]
    pub fn by(mut self, operations: impl IntoIterator<Item = u64>) -> Self {
        self.operations.extend(operations);
        self
    }

    /// Shown by this watcher.
    #[must_use]
    pub fn seen_by(mut self, watcher: u32) -> Self {
        self.watchers.push(watcher);
        self
    }

    /// About this revision.
    #[must_use]
    pub fn at_revision(mut self, revision: i64) -> Self {
        self.revision = Some(revision);
        self
    }

    /// Shown at this time.
    #[must_use]
    pub fn at(mut self, at: Nanos) -> Self {
        self.at = Some(at);
        self
    }
}

/// What a run proves. The order is that of precedence: the harness at fault outweighs everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Every promise held, and enough was examined to say so.
    Valid,
    /// Nothing was broken, but too little was seen.
    Inconclusive,
    /// A promise was broken.
    Invalid,
    /// The harness failed or contradicts itself; nothing it says about the server counts.
    HarnessError,
}

impl Outcome {
    /// The exit code that tells it: 0 only for a valid run.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Valid => 0,
            Self::Invalid => 1,
            Self::Inconclusive => 2,
            Self::HarnessError => 3,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Valid => "VALID",
            Self::Invalid => "INVALID",
            Self::Inconclusive => "INCONCLUSIVE",
            Self::HarnessError => "HARNESS ERROR",
        })
    }
}

/// The verdict of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The verdict.
    pub outcome: Outcome,
    /// What each checker found.
    pub judgements: Vec<Judgement>,
    /// Gates that were missed: the gate and what was counted.
    pub missed: Vec<(Gate, u64)>,
}

impl Verdict {
    /// Weighs what the checkers found.
    pub fn of(judgements: Vec<Judgement>, gates: &[Gate]) -> Self {
        let mut facts = BTreeMap::new();
        for judgement in &judgements {
            for (fact, count) in &judgement.facts {
                facts.insert(format!("{}/{fact}", judgement.checker), *count);
            }
        }
        let missed: Vec<(Gate, u64)> = gates
            .iter()
            .map(|gate| {
                let counted = facts.get(&gate.fact).copied().unwrap_or_default();
                (gate.clone(), counted)
            })
            .filter(|(gate, counted)| *counted < gate.at_least)
            .collect();
        let any = |judged: fn(&Judgement) -> bool| judgements.iter().any(judged);
        let outcome = if any(|j| !j.harness_errors.is_empty()) {
            Outcome::HarnessError
        } else if any(|j| !j.violations.is_empty()) {
            Outcome::Invalid
        } else if any(|j| !j.inconclusive.is_empty()) || !missed.is_empty() {
            Outcome::Inconclusive
        } else {
            Outcome::Valid
        };
        Self {
            outcome,
            judgements,
            missed,
        }
    }

    /// What a reader has to know first of a verdict that is not valid.
    pub fn first(&self) -> Option<String> {
        let in_any = |found: fn(&Judgement) -> Option<&String>| {
            let mut found = self
                .judgements
                .iter()
                .filter_map(|judged| Some((judged, found(judged)?)));
            found
                .next()
                .map(|(judged, what)| format!("{}: {what}", judged.checker))
        };
        match self.outcome {
            Outcome::Valid => None,
            Outcome::HarnessError => in_any(|judged| judged.harness_errors.first()),
            Outcome::Invalid => {
                in_any(|judged| judged.violations.first().map(|violation| &violation.what))
            }
            Outcome::Inconclusive => in_any(|judged| judged.inconclusive.first()).or_else(|| {
                let (gate, counted) = self.missed.first()?;
                Some(format!(
                    "{}: {counted} seen, at least {} wanted",
                    gate.fact, gate.at_least
                ))
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_in_which_nothing_was_examined_is_inconclusive() {
        let verdict = Verdict::of(
            vec![Judgement::new("leaders", "")],
            &[Gate::new("leaders/changes", 1)],
        );
        assert_eq!(verdict.outcome, Outcome::Inconclusive);
    }

    #[test]
    fn a_violation_outweighs_a_missed_gate_and_a_harness_error_outweighs_both() {
        let mut judgement = Judgement::new("leaders", "");
        judgement.violated(Violation::new("two of them"));
        let gates = [Gate::new("leaders/changes", 1)];
        let verdict = Verdict::of(vec![judgement.clone()], &gates);
        assert_eq!(verdict.outcome, Outcome::Invalid);
        judgement
            .harness_errors
            .push("two checkers disagree".into());
        let verdict = Verdict::of(vec![judgement], &gates);
        assert_eq!(verdict.outcome, Outcome::HarnessError);
    }

    #[test]
    fn only_a_valid_run_exits_with_zero() {
        let all = [
            Outcome::Valid,
            Outcome::Inconclusive,
            Outcome::Invalid,
            Outcome::HarnessError,
        ];
        let zero: Vec<Outcome> = all.into_iter().filter(|o| o.exit_code() == 0).collect();
        assert_eq!(zero, [Outcome::Valid]);
    }
}
