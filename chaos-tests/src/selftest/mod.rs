//! Proof that the checkers have teeth: correct histories that they must pass, and mutations of them that they must catch.

pub mod answers;
pub mod coordination;
pub mod evidence;
pub mod honest;
pub mod lists;
pub mod log;
pub mod looks;
pub mod serving;
pub mod watching;

use rand::rngs::SmallRng;

use crate::check::{self, liveness};
use crate::history::History;
use crate::plan::{Plan, Server};
use crate::seed;
use crate::verdict::Judgement;

/// A way in which a correct history can be made wrong.
#[derive(Debug, Clone, Copy)]
pub struct Mutation {
    /// What the server would have done, in a few words.
    pub name: &'static str,
    /// The checker that has to catch it.
    pub checker: &'static str,
    /// A correct history, drawn from a seed.
    pub history: fn(u64) -> History,
    /// Makes it wrong somewhere; `false`, and nothing changed, if there is no place for it.
    pub mutate: fn(&mut History, &mut SmallRng) -> bool,
}

/// What became of a mutation.
#[derive(Debug, Clone, PartialEq)]
pub enum Fate {
    /// The checker that has to catch it did.
    Caught,
    /// It did not; these are the judgements.
    Missed(Vec<Judgement>),
    /// This history has no place for it.
    NoPlace,
}

/// All mutations there are.
pub fn mutations() -> Vec<Mutation> {
    let tables = [
        log::MUTATIONS,
        answers::MUTATIONS,
        coordination::MUTATIONS,
        lists::MUTATIONS,
        looks::MUTATIONS,
        watching::MUTATIONS,
        serving::MUTATIONS,
    ];
    tables.concat()
}

/// Makes the history of `seed` wrong and has it judged.
pub fn attempt(mutation: &Mutation, seed: u64) -> Fate {
    let mut history = (mutation.history)(seed);
    let mut chance = seed::stream(seed, mutation.name);
    if !(mutation.mutate)(&mut history, &mut chance) {
        return Fate::NoPlace;
    }
    let judgements = check::judge_all(&history, &plan());
    let caught = judgements
        .iter()
        .any(|judged| judged.checker == mutation.checker && !judged.violations.is_empty());
    if caught {
        Fate::Caught
    } else {
        Fate::Missed(judgements)
    }
}

/// What became of a mutation on many histories.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trial {
    /// Histories that passed as they were.
    pub correct: u64,
    /// Wrong ones that were caught by the checker that has to.
    pub caught: u64,
    /// Wrong ones that it passed.
    pub missed: u64,
    /// Histories without a place for the mutation.
    pub no_place: u64,
    /// The first of what should not have been found, or was not found.
    pub complaints: Vec<String>,
}

impl Trial {
    /// Tries a mutation on the histories of these seeds, and of some more if none of them has a place for it.
    pub fn of(mutation: &Mutation, seeds: std::ops::Range<u64>) -> Self {
        const COMPLAINTS_MAX: usize = 3;
        const FURTHER: u64 = 50;
        let mut trial = Self::default();
        let mut complaints = Vec::new();
        for seed in seeds.start..seeds.end + FURTHER {
            if seed >= seeds.end && trial.caught + trial.missed > 0 {
                break;
            }
            let found = found((mutation.history)(seed), mutation.checker);
            if found.is_empty() {
                trial.correct += 1;
            }
            complaints.extend(
                found
                    .into_iter()
                    .map(|what| format!("seed {seed}, correct, but {what}")),
            );
            match attempt(mutation, seed) {
                Fate::Caught => trial.caught += 1,
                Fate::NoPlace => trial.no_place += 1,
                Fate::Missed(_) => {
                    trial.missed += 1;
                    complaints.push(format!("seed {seed}, missed"));
                }
            }
        }
        complaints.truncate(COMPLAINTS_MAX);
        trial.complaints = complaints;
        trial
    }

    /// Whether every correct history passed, something was caught and nothing missed.
    pub fn passed(&self) -> bool {
        self.correct == self.caught + self.missed + self.no_place
            && self.caught > 0
            && self.missed == 0
    }
}

/// Everything that speaks against a history, on which `checker` is tried. A story that is not about the end of a run may lack
/// the last look at its members.
fn found(history: History, checker: &str) -> Vec<String> {
    let judgements = check::judge_all(&history, &plan());
    let mut found = Vec::new();
    for judged in judgements {
        if judged.checker == liveness::CHECKER && checker != liveness::CHECKER {
            continue;
        }
        let violations = judged
            .violations
            .into_iter()
            .map(|violation| violation.what);
        let all = violations
            .chain(judged.inconclusive)
            .chain(judged.harness_errors);
        found.extend(all.map(|what| format!("{}: {what}", judged.checker)));
    }
    found
}

/// A plan such as histories made up here could have come from.
pub fn plan() -> Plan {
    Plan {
        name: "selftest".into(),
        seed: 0,
        members: 3,
        server: Server::default(),
        duration_ms: 10_000,
        workloads: Vec::new(),
        faults: Vec::new(),
        gates: Vec::new(),
    }
}

#[cfg(test)]
mod tests;
