use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use chaos_tests::mutants::{Place, TRIALS, Trial};
use chaos_tests::plan::Plan;
use chaos_tests::verdict::Outcome;
use serde::Deserialize;

use super::series::{Common, Series};

/// The command `mutants`.
#[derive(clap::Args)]
pub struct Mutants {
    /// Only bugs whose names hold one of these.
    #[arg(value_name = "NAME")]
    only: Vec<String>,
    /// Only this many of them: which, the seed says.
    #[arg(long)]
    some: Option<usize>,
    /// Where the runs are drawn from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    common: Common,
}

impl Mutants {
    /// Builds the server with planted bugs, unless one is given, and tries whether each is found.
    pub fn run(mut self) -> Result<Outcome> {
        let bin = match self.common.bin.take() {
            Some(bin) => bin,
            None => build()?,
        };
        self.common.bin = Some(bin.clone());
        let mut hunter = Hunter {
            series: Series::begin(self.common, "mutants")?,
            chaos: bin.with_file_name("chaos"),
            seed: self.seed,
        };
        let mut trials: Vec<&Trial> = TRIALS
            .iter()
            .filter(|trial| {
                self.only.is_empty() || self.only.iter().any(|name| trial.mutant.contains(name))
            })
            .collect();
        ensure!(!trials.is_empty(), "there is no such bug");
        let turn = usize::try_from(self.seed).unwrap_or_default() % trials.len();
        trials.rotate_left(turn);
        trials.truncate(self.some.unwrap_or(trials.len()));
        let mut caught = BTreeMap::new();
        for trial in trials {
            caught.insert(trial.mutant, hunter.hunt(trial)?);
        }
        let mut missed = 0;
        for (mutant, found) in &caught {
            match found {
                Some((run, checker)) => println!("{mutant:26} caught in run {run} by {checker}"),
                None => println!("{mutant:26} NOT CAUGHT"),
            }
            missed += usize::from(found.is_none());
        }
        println!("{} bugs, {missed} not caught", caught.len());
        Ok(match missed {
            0 => Outcome::Valid,
            _ => Outcome::HarnessError,
        })
    }
}

/// Looks for planted bugs.
pub struct Hunter {
    series: Series,
    /// A build of this program that can simulate them.
    chaos: PathBuf,
    seed: u64,
}

impl Hunter {
    /// One for a server with planted bugs, with this program, built like it, beside it.
    ///
    /// # Errors
    /// As those of [`Series::begin`].
    pub fn begin(bin: PathBuf, out: PathBuf, seed: u64) -> Result<Self> {
        Ok(Self {
            chaos: bin.with_file_name("chaos"),
            series: Series::begin(Common::of(bin, out), "")?,
            seed,
        })
    }

    /// Plays runs until a checker that is to find the bug has, and says in which and by whom. That same run without the bug
    /// must not be found to be wrong.
    ///
    /// # Errors
    /// As those of [`Series::play`].
    pub fn hunt(&mut self, trial: &Trial) -> Result<Option<(u64, String)>> {
        for run in 1..=trial.runs {
            let plan = trial.plan(self.seed, run);
            if self.play(trial.place, &plan)? != Outcome::Invalid {
                continue;
            }
            let broken = self.series.last_broken();
            let found = broken
                .into_iter()
                .find(|checker| trial.checkers.contains(checker));
            if let Some(checker) = found.map(str::to_owned) {
                let without = self.play(trial.place, &Trial::without(plan))?;
                return Ok((without != Outcome::Invalid).then_some((run, checker)));
            }
        }
        Ok(None)
    }

    fn play(&mut self, place: Place, plan: &Plan) -> Result<Outcome> {
        match place {
            Place::Real => self.series.play(plan),
            Place::Simulation => self.series.simulate(plan, &self.chaos),
        }
    }
}

/// Builds `batond`, and this program to simulate it, with fault points and planted bugs, beside the ordinary builds, and says
/// where the server is.
pub fn build() -> Result<PathBuf> {
    #[derive(Deserialize)]
    struct Metadata {
        target_directory: PathBuf,
    }
    let metadata = Command::new("cargo")
        .args(["metadata", "--format-version=1", "--no-deps"])
        .output()
        .context("cannot run cargo")?;
    let Metadata { target_directory } = serde_json::from_slice(&metadata.stdout)
        .context("this is not the directory of the project: name a server with --bin")?;
    let target = target_directory.join("chaos");
    let status = Command::new("cargo")
        .args(["build", "--package=batond", "--package=chaos"])
        .arg("--features=batond/chaos,chaos/chaos")
        .arg("--target-dir")
        .arg(&target)
        .status()?;
    if !status.success() {
        bail!("batond cannot be built with the feature chaos");
    }
    Ok(target.join("debug/batond"))
}
