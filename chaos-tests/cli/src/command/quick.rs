use anyhow::Result;
use chaos_tests::campaign;
use chaos_tests::verdict::Outcome;

use super::series::{Common, Series};

/// The command `quick`.
#[derive(clap::Args)]
pub struct Quick {
    /// Where the runs draw what they leave open.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many simulated runs there are besides.
    #[arg(long, default_value_t = 20)]
    sim_seeds: u64,
    #[command(flatten)]
    common: Common,
}

impl Quick {
    /// Tries the checkers, simulates, and plays the runs.
    pub fn run(self) -> Result<Outcome> {
        let mut series = Series::begin(self.common, "quick")?;
        let mut outcome = series.ask(&["selftest", "--seeds", "10"])?;
        if self.sim_seeds > 0 {
            let seeds = self.sim_seeds.to_string();
            let from = self.seed.to_string();
            let out = series.out().display().to_string();
            let simulated = [
                "sim", "--twice", "--seeds", &seeds, "--from", &from, "--out", &out,
            ];
            let simulated = series.ask(&simulated)?;
            outcome = outcome.max(simulated);
        }
        for plan in campaign::quick(self.seed) {
            series.play(&plan)?;
        }
        outcome = outcome.max(series.end());
        println!("{outcome}");
        Ok(outcome)
    }
}
