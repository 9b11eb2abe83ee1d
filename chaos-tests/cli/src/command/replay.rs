use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use baton_chaos_sim::episode as simulated;
use chaos_tests::plan::Plan;
use chaos_tests::real::{boxed, episode};
use chaos_tests::run::{Made, Run, read_json};
use chaos_tests::verdict::Outcome;

/// The command `replay`.
#[derive(clap::Args)]
pub struct Replay {
    /// The plan, such as a run leaves as `plan.json`, or the directory of a run. What was simulated is simulated again; a
    /// plan that lies alone is played with real processes.
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
        let planned = match self.plan.is_dir() {
            true => self.plan.join("plan.json"),
            false => self.plan,
        };
        let plan: Plan = read_json(&planned)?;
        let directory = self.out.unwrap_or_else(|| free(&planned, "replay"));
        if let Ok(Made::Simulated) = read_json(&planned.with_file_name("run.json")) {
            ensure!(
                self.bin.is_none(),
                "this run was simulated: the server of a simulation is built into this program"
            );
            let episode = simulated::run(&plan)?;
            episode.save(&directory)?;
            super::show(&Run::load(&directory)?, &episode.verdict);
            return Ok(episode.verdict.outcome);
        }
        let boxed = boxed::enter()?;
        let server = super::server(self.bin)?;
        let verdict =
            super::runtime()?.block_on(episode::play(boxed, &plan, &server, &directory))?;
        super::show(&Run::load(&directory)?, &verdict);
        Ok(verdict.outcome)
    }
}

/// The first of `name-1`, `name-2`, … that is not there yet, beside a file.
fn free(beside: &Path, name: &str) -> PathBuf {
    let mut directory = beside.with_file_name(format!("{name}-1"));
    for number in 2.. {
        if !directory.exists() {
            break;
        }
        directory = beside.with_file_name(format!("{name}-{number}"));
    }
    directory
}
