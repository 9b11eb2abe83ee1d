//! One file per command. Each ends with what its exit code is to say; an error is the harness's own.

mod check;
mod known_bad;
mod mutants;
mod probe;
mod quick;
mod replay;
mod run;
mod selftest;
mod series;
mod shrink;
mod soak;

use std::path::{Path, PathBuf};
use std::process;

use anyhow::Result;
use baton_chaos_sim::command::Sim;
use chaos_tests::real::{boxed, episode, host};
use chaos_tests::report;
use chaos_tests::verdict::{Outcome, Verdict};
use clap::Subcommand;

/// What can be asked of `chaos`.
#[derive(Subcommand)]
pub enum Command {
    /// The campaign of five minutes that every change has to pass.
    Quick(quick::Quick),
    /// Plays drawn plans for hours.
    Soak(soak::Soak),
    /// Plays a plan drawn from a seed with real processes and judges it.
    Run(run::Run),
    /// Plays plans drawn from seeds with simulated clusters, much faster than time.
    Sim(Sim),
    /// Judges an old run with today's checkers, and writes its reports anew.
    Check(check::Check),
    /// Plays a plan again.
    Replay(replay::Replay),
    /// Looks for the smallest plan that still breaks what a run broke.
    Shrink(shrink::Shrink),
    /// Proves that the checkers pass correct histories and catch wrong ones.
    Selftest(selftest::Selftest),
    /// Proves that what is wrong with Debian's etcd is found, and nothing else.
    KnownBad(known_bad::KnownBad),
    /// Proves that bugs planted in the server are found.
    Mutants(mutants::Mutants),
    /// Says what this host can do to a cluster, and why it cannot do the rest.
    Probe(probe::Probe),
}

impl Command {
    /// Does it.
    pub fn run(self) -> Result<Outcome> {
        if std::env::var_os(PART).is_some() && !boxed::is_inside() {
            host::end_with_parent()?;
        }
        match self {
            Self::Quick(quick) => quick.run(),
            Self::Soak(soak) => soak.run(),
            Self::Run(run) => run.run(),
            Self::Sim(sim) => sim.run(),
            Self::Check(check) => check.run(),
            Self::Replay(replay) => replay.run(),
            Self::Shrink(shrink) => shrink.run(),
            Self::Selftest(selftest) => selftest.run(),
            Self::KnownBad(known_bad) => known_bad.run(),
            Self::Mutants(mutants) => mutants.run(),
            Self::Probe(probe) => probe.run(),
        }
    }
}

/// Says to a process that it does a part of what its parent does.
const PART: &str = "CHAOS_PART";

/// A command for a part of what this process does: it ends when this process does, however that comes.
fn part(program: &Path) -> process::Command {
    let mut part = process::Command::new(program);
    part.env(PART, "1");
    part
}

/// The server that was asked for, or else the one there is.
fn server(bin: Option<PathBuf>) -> Result<PathBuf> {
    match bin {
        Some(server) => Ok(server),
        None => episode::default_server().map_err(anyhow::Error::msg),
    }
}

/// Says on the terminal what came of a run, and where its report lies.
fn show(run: &chaos_tests::run::Run, verdict: &Verdict) {
    print!("{}", report::print(run, verdict));
    println!("{}", run.directory.join("report.html").display());
}

/// A runtime for real time.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
}
