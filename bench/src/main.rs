//! Load for a running cluster (`load`), and two servers side by side in one run: plain requests (`compare`) and locks
//! (`locks`).
//!
//! Machines are noisy and shared, so the numbers to quote are ratios of rounds that ran in turn, and
//! processor time per operation rather than operations per second.
#![allow(clippy::print_stdout, reason = "a command line tool")]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "measures real time"
)]

mod latencies;
mod load;
mod locks;
mod side;
mod usage;

use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};

use latencies::median;
use load::{Kind, Load, Outcome};
use side::{Side, Sides};
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
        #[command(flatten)]
        sides: Sides,
        #[command(flatten)]
        shape: Shape,
    },
    /// Starts a cluster of each of two servers and measures in turn how fast a lock goes from hand to hand.
    Locks {
        #[command(flatten)]
        sides: Sides,
        #[command(flatten)]
        shape: locks::Shape,
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
        Command::Compare { sides, shape } => runtime.block_on(compare(&sides, &shape)),
        Command::Locks { sides, shape } => runtime.block_on(locks::run(&sides, &shape)),
    }
}

/// What the rounds of one side gave.
struct Rounds {
    side: Side,
    rows: Vec<(Outcome, Usage)>,
}

impl Rounds {
    async fn round(&mut self, shape: &Shape) -> Result<()> {
        let before = self.side.usage()?;
        let outcome = shape.load(self.side.urls()).run().await?;
        let used = self.side.usage()?.since(&before);
        println!(
            "{:>10}  {}  {:>6.1} us CPU/op  {:>5} MiB RSS",
            self.side.name,
            outcome.row(),
            used.cpu_micros / outcome.count().max(1) as f64,
            used.resident_bytes >> 20,
        );
        self.rows.push((outcome, used));
        Ok(())
    }

    fn median(&self, of: impl Fn(&(Outcome, Usage)) -> f64) -> f64 {
        median(self.rows.iter().map(of))
    }
}

async fn compare(sides: &Sides, shape: &Shape) -> Result<()> {
    let [mut a, mut b] = sides.start().await?.map(|side| Rounds {
        side,
        rows: Vec::new(),
    });
    for _ in 0..sides.rounds {
        a.round(shape).await?;
        b.round(shape).await?;
    }
    let ratio = |of: &dyn Fn(&(Outcome, Usage)) -> f64| a.median(of) / b.median(of);
    println!(
        "{} / {}, medians of {} rounds: throughput {:.2}, p50 {:.2}, p99 {:.2}, CPU per op {:.2}, RSS {:.2}",
        a.side.name,
        b.side.name,
        sides.rounds,
        ratio(&|(o, _)| o.per_second()),
        ratio(&|(o, _)| o.latencies.percentile_micros(50.0)),
        ratio(&|(o, _)| o.latencies.percentile_micros(99.0)),
        ratio(&|(o, u)| u.cpu_micros / o.count().max(1) as f64),
        ratio(&|(_, u)| u.resident_bytes as f64),
    );
    Ok(())
}
