//! Proof that the checkers have teeth: correct histories that they must pass, and mutations of them that they must catch.

pub mod evidence;
pub mod honest;
pub mod keys;

use rand::rngs::SmallRng;

use crate::check;
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
    keys::MUTATIONS.to_vec()
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
