use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use chaos_tests::plan::Plan;
use chaos_tests::real::{boxed, episode};
use chaos_tests::run::{Made, Run, read_json};
use chaos_tests::verdict::Outcome;

/// The command `replay`.
#[derive(clap::Args)]
pub struct Replay {
    /// The plan, such as a run leaves as `plan.json`.
    #[arg(value_name = "PLAN")]
    plan: PathBuf,
    /// The server. `batond` beside this program or in the path if it is not given.
    #[arg(long, value_name = "PATH")]
    bin: Option<PathBuf>,
    /// Where the run is kept. A new directory beside the plan if it is not given.
    #[arg(long, value_name = "DIRECTORY")]
    out: Option<PathBuf>,
}

impl Replay {
    /// Plays and judges it.
    pub fn run(self) -> Result<Outcome> {
        let plan: Plan = read_json(&self.plan)?;
        if let Ok(Made::Simulated) = read_json(&self.plan.with_file_name("run.json")) {
            bail!(
                "this run was simulated: chaos sim --plan {} makes it again",
                self.plan.display()
            );
        }
        let boxed = boxed::enter()?;
        let server = match self.bin {
            Some(server) => server,
            None => episode::default_server().map_err(anyhow::Error::msg)?,
        };
        let directory = self.out.unwrap_or_else(|| free(&self.plan, "replay"));
        let verdict =
            super::runtime()?.block_on(episode::play(boxed, &plan, &server, &directory))?;
        super::show(&Run::load(&directory)?, &verdict);
        Ok(verdict.outcome)
    }
}

/// The first of `name-1`, `name-2`, … that is not there yet, beside a file.
pub fn free(beside: &Path, name: &str) -> PathBuf {
    let mut directory = beside.with_file_name(format!("{name}-1"));
    for number in 2.. {
        if !directory.exists() {
            break;
        }
        directory = beside.with_file_name(format!("{name}-{number}"));
    }
    directory
}
