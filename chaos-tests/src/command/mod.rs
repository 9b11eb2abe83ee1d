//! One file per command. Each ends with what its exit code is to say; an error is the harness's own.

mod probe;
mod run;

use anyhow::Result;
use chaos_tests::verdict::Outcome;
use clap::Subcommand;

/// What can be asked of `chaos`.
#[derive(Subcommand)]
pub enum Command {
    /// Plays a plan drawn from a seed with real processes and judges it.
    Run(run::Run),
    /// Says what this host can do to a cluster, and why it cannot do the rest.
    Probe(probe::Probe),
}

impl Command {
    /// Does it.
    pub fn run(self) -> Result<Outcome> {
        match self {
            Self::Run(run) => run.run(),
            Self::Probe(probe) => probe.run(),
        }
    }
}
