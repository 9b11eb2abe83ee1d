use std::path::PathBuf;

use anyhow::Result;
use chaos_tests::real::episode;
use chaos_tests::report;
use chaos_tests::run::Run;
use chaos_tests::verdict::Outcome;

/// The command `check`.
#[derive(clap::Args)]
pub struct Check {
    /// Directories of runs.
    #[arg(required = true, value_name = "DIRECTORY")]
    directories: Vec<PathBuf>,
}

impl Check {
    /// Judges all of them; the gravest verdict counts.
    pub fn run(self) -> Result<Outcome> {
        let runtime = super::runtime()?;
        let mut gravest = Outcome::Valid;
        for directory in &self.directories {
            let run = Run::load(directory)?;
            let verdict = runtime.block_on(episode::judge(run.history.clone(), &run.plan));
            report::write(&run, &verdict)?;
            super::show(&run, &verdict);
            gravest = gravest.max(verdict.outcome);
        }
        Ok(gravest)
    }
}
