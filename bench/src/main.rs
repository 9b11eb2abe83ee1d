//! Load for a running cluster (`load`), and two servers side by side in one run (`compare`).
//!
//! Machines are noisy and shared, so the numbers to quote are ratios of rounds that ran in turn, and
//! processor time per operation rather than operations per second.
#![allow(clippy::print_stdout, reason = "a command line tool")]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "measures real time"
)]

mod load;
mod usage;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use baton_chaos_tests::process::{Cluster, Program};
use clap::{Parser, Subcommand};

use load::{Kind, Load, Outcome};
use usage::Usage;

#[derive(Parser)]
#[command(name = "baton-bench", about = "Load, and servers side by side")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Puts load on servers that run already.
    Load {
        /// Client URLs.
        #[arg(long, value_delimiter = ',', default_value = "http://127.0.0.1:2379")]
        endpoints: Vec<String>,
        #[command(flatten)]
        shape: Shape,
    },
    /// Starts a cluster of each of two servers and measures them in turn.
    Compare {
        /// The first server. Default: batond beside this executable.
        #[arg(long)]
        a: Option<PathBuf>,
        /// The second. Default: the installed etcd.
        #[arg(long)]
        b: Option<PathBuf>,
        /// Members of each cluster.
        #[arg(long, default_value_t = 3)]
        members: usize,
        /// Rounds; each measures both.
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        #[command(flatten)]
        shape: Shape,
    },
}

#[derive(clap::Args, Clone)]
struct Shape {
    /// What clients do.
    #[arg(long, value_enum, default_value_t = Kind::Put)]
    kind: Kind,
    /// Closed-loop clients, spread over all endpoints.
    #[arg(long, default_value_t = 64)]
    clients: usize,
    /// Connections to each endpoint that the clients share.
    #[arg(long, default_value_t = 4)]
    connections: usize,
    /// Bytes of a value.
    #[arg(long, default_value_t = 256)]
    value_bytes: usize,
    /// Different keys.
    #[arg(long, default_value_t = 10_000)]
    keys: u64,
    /// Seconds of a round.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
}

impl Shape {
    fn load(&self, endpoints: Vec<String>) -> Load {
        Load {
            endpoints,
            kind: self.kind,
            clients: self.clients,
            connections: self.connections,
            value_bytes: self.value_bytes,
            keys: self.keys,
            time: Duration::from_secs(self.seconds),
        }
    }
}

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    match Arguments::parse().command {
        Command::Load { endpoints, shape } => {
            let outcome = runtime.block_on(shape.load(endpoints).run())?;
            println!("{}", outcome.row());
            Ok(())
        }
        Command::Compare {
            a,
            b,
            members,
            rounds,
            shape,
        } => runtime.block_on(compare(a, b, members, rounds, &shape)),
    }
}

/// One server of a comparison.
struct Side {
    name: String,
    cluster: Cluster,
    rows: Vec<(Outcome, Usage)>,
}

impl Side {
    async fn start(program: Program, members: usize) -> Result<Self> {
        let name = program
            .path()
            .file_name()
            .map_or_else(String::new, |n| n.to_string_lossy().into_owned());
        let cluster = Cluster::start(&program, members).await?;
        Ok(Self {
            name,
            cluster,
            rows: Vec::new(),
        })
    }

    fn usage(&self) -> Result<Usage> {
        let pids = self.cluster.members.iter().filter_map(|m| m.pid());
        Usage::of(pids)
    }

    async fn round(&mut self, shape: &Shape) -> Result<()> {
        let endpoints = self.cluster.members.iter().map(|m| m.url()).collect();
        let before = self.usage()?;
        let outcome = shape.load(endpoints).run().await?;
        let used = self.usage()?.since(&before);
        println!(
            "{:>10}  {}  {:>6.1} us CPU/op  {:>5} MiB RSS",
            self.name,
            outcome.row(),
            used.cpu_micros / outcome.count().max(1) as f64,
            used.resident_bytes >> 20,
        );
        self.rows.push((outcome, used));
        Ok(())
    }

    fn median(&self, of: impl Fn(&(Outcome, Usage)) -> f64) -> f64 {
        let mut all: Vec<f64> = self.rows.iter().map(of).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    }
}

async fn compare(
    a: Option<PathBuf>,
    b: Option<PathBuf>,
    members: usize,
    rounds: usize,
    shape: &Shape,
) -> Result<()> {
    let a = match a {
        Some(path) => path,
        None => std::env::current_exe()?.with_file_name("batond"),
    };
    let b = match b {
        Some(path) => Program::new(path),
        None => Program::installed_etcd().context("no etcd is installed; name a server by --b")?,
    };
    let mut a = Side::start(Program::new(a), members).await?;
    let mut b = Side::start(b, members).await?;
    for _ in 0..rounds {
        a.round(shape).await?;
        b.round(shape).await?;
    }
    let ratio = |of: &dyn Fn(&(Outcome, Usage)) -> f64| a.median(of) / b.median(of);
    println!(
        "{} / {}, medians of {rounds} rounds: throughput {:.2}, p50 {:.2}, p99 {:.2}, CPU per op {:.2}, RSS {:.2}",
        a.name,
        b.name,
        ratio(&|(o, _)| o.per_second()),
        ratio(&|(o, _)| o.percentile_micros(50.0)),
        ratio(&|(o, _)| o.percentile_micros(99.0)),
        ratio(&|(o, u)| u.cpu_micros / o.count().max(1) as f64),
        ratio(&|(_, u)| u.resident_bytes as f64),
    );
    Ok(())
}
