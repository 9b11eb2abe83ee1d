//! Runs fault campaigns against a cluster of real processes.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line tool"
)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use baton_chaos_tests::kill::{Campaign, Plan, Victim};
use baton_chaos_tests::process::Program;
use baton_chaos_tests::watch;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "baton-chaos-tests",
    about = "Fault campaigns against a cluster of real processes on loopback"
)]
struct Arguments {
    /// The server to judge: any program that takes etcd's flags. Default: batond beside this executable.
    #[arg(long, global = true)]
    server: Option<PathBuf>,
    /// A flag for every member, such as --flag=--snapshot-count=100; may be repeated.
    #[arg(long, global = true, allow_hyphen_values = true)]
    flag: Vec<String>,
    #[command(subcommand)]
    campaign: Command,
}

#[derive(Subcommand)]
enum Command {
    /// SIGKILL of the leader, a follower and all members, and SIGTERM of the leader, in turn, under load.
    Kill {
        /// Rounds; each kills once.
        #[arg(long, default_value_t = 100)]
        rounds: usize,
        /// Members of the cluster.
        #[arg(long, default_value_t = 3)]
        members: usize,
    },
    /// Reconnecting watchers on a store that is written to and compacted.
    Watch {
        /// Compactions.
        #[arg(long, default_value_t = 100)]
        rounds: usize,
        /// Members of the cluster.
        #[arg(long, default_value_t = 3)]
        members: usize,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("FAILED: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<()> {
    let path = match arguments.server {
        Some(path) => path,
        None => std::env::current_exe()?
            .parent()
            .context("no directory")?
            .join("batond"),
    };
    let mut program = Program::new(path);
    for flag in arguments.flag {
        program = program.flag(flag);
    }
    match arguments.campaign {
        Command::Kill { rounds, members } => kill(&program, rounds, members).await,
        Command::Watch { rounds, members } => {
            let coverage = watch::run(&program, members, rounds).await?;
            println!(
                "no gap, duplicate or disorder in {} events over {} reconnects; {} watches met a compaction",
                coverage.events, coverage.reconnects, coverage.compactions_met
            );
            Ok(())
        }
    }
}

async fn kill(program: &Program, rounds: usize, members: usize) -> Result<()> {
    let turns = [
        Victim::Leader,
        Victim::Follower,
        Victim::All,
        Victim::LeaderAsked,
    ];
    let mut silences: Vec<(Victim, Duration)> = Vec::new();
    let mut campaign = Campaign::start(
        program,
        Plan {
            members,
            ..Plan::default()
        },
    )
    .await?;
    for number in 0..rounds {
        let victim = turns[number % turns.len()];
        let round = campaign
            .round(victim)
            .await
            .with_context(|| format!("round {number}, {victim}"))?;
        println!(
            "round {number:3}: {victim}, {:?} without a write, revision {}",
            round.silence, round.revision
        );
        silences.push((victim, round.silence));
    }
    let revision = campaign.finish().await?;
    println!(
        "{rounds} rounds, {} writes: none acknowledged missing, no revision twice, hashes equal",
        revision - 1
    );
    for victim in turns {
        let mut of_victim: Vec<Duration> = silences
            .iter()
            .filter(|(who, _)| *who == victim)
            .map(|(_, silence)| *silence)
            .collect();
        of_victim.sort();
        if let (Some(median), Some(worst)) = (of_victim.get(of_victim.len() / 2), of_victim.last())
        {
            println!("{victim}: writes stood still for {median:?} (median), {worst:?} (worst)");
        }
    }
    Ok(())
}
