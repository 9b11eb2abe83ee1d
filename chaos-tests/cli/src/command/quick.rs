use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
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
        ensure_as_shipped(&super::server(self.common.bin.clone())?)?;
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
        outcome = outcome.max(series.end(campaign::SEEN_BY_QUICK));
        println!("{outcome}");
        Ok(outcome)
    }
}

/// Makes sure that the server is one as users get it, without fault points and planted bugs.
fn ensure_as_shipped(server: &Path) -> Result<()> {
    let named = || server.display().to_string();
    let program = fs::read(server).with_context(named)?;
    ensure!(
        memchr::memmem::find(&program, b"BATON_CHAOS_").is_none(),
        "{} was built with the feature `chaos`, and is no server for users: build it without",
        named()
    );
    Ok(())
}
