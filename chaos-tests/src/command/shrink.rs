use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, bail};
use chaos_tests::plan::Plan;
use chaos_tests::real::{boxed, episode};
use chaos_tests::report::words;
use chaos_tests::run::{Made, read_json, write_json};
use chaos_tests::shrink::{self, Effort};
use chaos_tests::verdict::{Outcome, Verdict};

/// The command `shrink`.
#[derive(clap::Args)]
pub struct Shrink {
    /// The directory of a run that was INVALID.
    #[arg(value_name = "DIRECTORY")]
    directory: PathBuf,
    /// The checker whose violation is to be kept. Any of those that found one if it is not given.
    #[arg(long)]
    checker: Option<String>,
    /// The server, if it is to be another than in that run.
    #[arg(long, value_name = "PATH")]
    bin: Option<PathBuf>,
    /// How often a plan is run before it is taken not to break anything.
    #[arg(long, default_value_t = 3)]
    tries: u32,
    /// How many runs there may be in all.
    #[arg(long, default_value_t = 100)]
    runs: u32,
}

impl Shrink {
    /// Looks, and leaves the smallest plan as `shrunk.json`, and the run of it that broke something in `shrunk/`.
    pub fn run(self) -> Result<Outcome> {
        let verdict: Verdict = read_json(&self.directory.join("verdict.json"))?;
        let mut checkers = shrink::broken(&verdict);
        if let Some(checker) = self.checker {
            checkers.retain(|broken| *broken == checker);
        }
        if checkers.is_empty() {
            bail!(
                "{} broke nothing that could be kept",
                self.directory.display()
            );
        }
        let plan: Plan = read_json(&self.directory.join("plan.json"))?;
        let Made::Real { server, .. } = read_json(&self.directory.join("run.json"))? else {
            bail!(
                "{} was simulated: `chaos-sim shrink` makes it smaller",
                self.directory.display()
            );
        };
        let server = self.bin.unwrap_or(server);
        let boxed = boxed::enter()?;
        let (trial, kept) = (self.directory.join("trial"), self.directory.join("shrunk"));
        let runtime = super::runtime()?;
        let interrupted = Arc::new(AtomicBool::new(false));
        let heard = interrupted.clone();
        runtime.spawn(async move {
            if tokio::signal::ctrl_c().await.is_ok() {
                heard.store(true, Ordering::Relaxed);
            }
        });
        let mut number = 0;
        let run = async |plan: &Plan| {
            number += 1;
            println!("{number}: {}", words::plan(plan));
            clear(&trial)?;
            let verdict = episode::play(boxed, plan, &server, &trial).await?;
            if interrupted.load(Ordering::Relaxed) {
                bail!(
                    "interrupted; the smallest plan so far is {}",
                    kept.join("plan.json").display()
                );
            }
            let broken: BTreeSet<String> = shrink::broken(&verdict);
            println!(
                "   {}  {}",
                verdict.outcome,
                broken.iter().cloned().collect::<Vec<_>>().join(", ")
            );
            if !broken.is_disjoint(&checkers) {
                clear(&kept)?;
                fs::rename(&trial, &kept)?;
            }
            Ok(verdict)
        };
        let effort = Effort {
            tries: self.tries,
            runs: self.runs,
        };
        let shrunk = runtime.block_on(shrink::shrink(&plan, &checkers, effort, run))?;
        clear(&trial)?;
        let file = self.directory.join("shrunk.json");
        write_json(&file, &shrunk.plan)?;
        println!("{}", words::plan(&shrunk.plan));
        let why = if shrunk.minimal {
            "no part of it can be left out"
        } else {
            "the runs were used up"
        };
        println!("{} after {} runs; {why}", file.display(), shrunk.runs);
        Ok(Outcome::Invalid)
    }
}

fn clear(directory: &std::path::Path) -> std::io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
