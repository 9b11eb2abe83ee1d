use std::fs;
use std::io::{self, IsTerminal, stderr};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use chaos_tests::plan::Plan;
use chaos_tests::report::{Summary, words};
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
    /// The server, if it is to be another than in that run of real processes.
    #[arg(long, value_name = "PATH")]
    bin: Option<PathBuf>,
    /// How often a plan is run before it is taken not to break anything. What is simulated does the same every time, and is
    /// run once.
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
        if let Some(checker) = &self.checker {
            checkers.retain(|broken| broken == checker);
        }
        if checkers.is_empty() {
            bail!(
                "{} broke nothing that could be kept",
                self.directory.display()
            );
        }
        let plan: Plan = read_json(&self.directory.join("plan.json"))?;
        let made: Made = read_json(&self.directory.join("run.json"))?;
        let (server, tries) = match &made {
            Made::Real { server, .. } => {
                let server = self.bin.as_deref().unwrap_or(server);
                (Some(server), self.tries)
            }
            Made::Simulated => (self.bin.as_deref(), 1),
        };
        let (trial, kept) = (self.directory.join("trial"), self.directory.join("shrunk"));
        let mut number = 0;
        let run = |plan: &Plan| {
            number += 1;
            println!("{number}: {}", words::plan(plan));
            let verdict = play(plan, &made, server, &trial)?;
            let broken = shrink::broken(&verdict);
            let names: Vec<&str> = broken.iter().map(String::as_str).collect();
            println!("   {}  {}", verdict.outcome, names.join(", "));
            if verdict.outcome == Outcome::Invalid && !broken.is_disjoint(&checkers) {
                clear(&kept)?;
                fs::rename(&trial, &kept)?;
            }
            Ok(verdict)
        };
        let effort = Effort {
            tries,
            runs: self.runs,
        };
        let shrunk = shrink::shrink(&plan, &checkers, effort, run)?;
        clear(&trial)?;
        let file = self.directory.join("shrunk.json");
        write_json(&file, &shrunk.plan)?;
        println!("{}", words::plan(&shrunk.plan));
        let why = match shrunk.minimal {
            true => "no part of it can be left out",
            false => "the runs were used up",
        };
        println!("{} after {} runs; {why}", file.display(), shrunk.runs);
        println!("{}", kept.join("report.html").display());
        Ok(Outcome::Invalid)
    }
}

/// Plays a plan in a process of its own, the way a run was made. One that comes to no verdict counts as an error of the
/// harness.
fn play(plan: &Plan, made: &Made, server: Option<&Path>, directory: &Path) -> Result<Verdict> {
    clear(directory)?;
    fs::create_dir(directory)?;
    let planned = directory.join("plan.json");
    write_json(&planned, plan)?;
    made.save(directory)?;
    let mut replay = super::part(&std::env::current_exe()?);
    replay.arg("replay").arg(&planned);
    replay.arg("--out").arg(directory);
    if let Some(server) = server {
        replay.arg("--bin").arg(server);
    }
    replay.stdin(Stdio::null()).stdout(Stdio::null());
    if !stderr().is_terminal() {
        replay.stderr(fs::File::create(directory.join("output"))?);
    }
    let status = replay.status().context("cannot begin a run")?;
    let verdict = read_json(&directory.join("verdict.json"));
    Ok(verdict
        .unwrap_or_else(|_| Summary::without_verdict(format!("no verdict ({status})")).verdict))
}

fn clear(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
