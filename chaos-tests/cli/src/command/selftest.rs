use anyhow::Result;
use chaos_tests::selftest::{self, Trial};
use chaos_tests::verdict::Outcome;

/// The command `selftest`.
#[derive(clap::Args)]
pub struct Selftest {
    /// How many histories each mutation is tried on.
    #[arg(long, default_value_t = 50)]
    seeds: u64,
    /// Only checkers and mutations whose names hold this.
    #[arg(long, default_value = "", hide_default_value = true)]
    only: String,
}

impl Selftest {
    /// Tries all mutations and says what became of each.
    pub fn run(self) -> Result<Outcome> {
        let mutations: Vec<_> = selftest::mutations()
            .into_iter()
            .filter(|mutation| {
                mutation.name.contains(&self.only) || mutation.checker.contains(&self.only)
            })
            .collect();
        let checker = mutations
            .iter()
            .map(|m| m.checker.len())
            .max()
            .unwrap_or_default();
        let name = mutations
            .iter()
            .map(|m| m.name.chars().count())
            .max()
            .unwrap_or_default();
        println!(
            "{:checker$}  {:name$}  correct  caught  missed  no place",
            "checker", "mutation"
        );
        let mut bad = 0;
        for mutation in &mutations {
            let trial = Trial::of(mutation, 0..self.seeds);
            let verdict = if trial.passed() { "" } else { "  FAILED" };
            println!(
                "{:checker$}  {:name$}  {:7}  {:6}  {:6}  {:8}{verdict}",
                mutation.checker,
                mutation.name,
                trial.correct,
                trial.caught,
                trial.missed,
                trial.no_place
            );
            for why in &trial.complaints {
                println!("    {why}");
            }
            bad += usize::from(!trial.passed());
        }
        println!("{} mutations, {bad} failed", mutations.len());
        let nothing_proved = mutations.is_empty() || bad > 0;
        Ok(if nothing_proved {
            Outcome::HarnessError
        } else {
            Outcome::Valid
        })
    }
}
