//! Whether a cluster is as fast as its task needs.

use std::time::Duration;

use baton_client::{Delete, Get, Put};
use clap::{Args, Subcommand};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::cli::Context;
use crate::failure::{BAD_FEATURE, ERROR, Failure, INVALID_INPUT, Result};
use crate::go;
use crate::output;

/// Checks of what a cluster can do
#[derive(Debug, Subcommand)]
pub enum Check {
    Perf(Perf),
}

/// Write for a minute at a set rate, and judge throughput and latency
#[derive(Args, Debug)]
#[command(after_help = "\
Loads: s is 150 writes a second of 50 clients, m 1000 of 200, l 8000 of 500, xl 15000 of 1000. Passes if nine tenths of
the rate were reached, no write took more than half a second, and the deviation is below a tenth of a second.

Example:
  batonctl check perf --load=m --auto-compact")]
pub struct Perf {
    /// s(mall), m(edium), l(arge) or xl(arge)
    #[arg(long, default_value = "s")]
    load: String,
    /// What the keys begin with that are written, and deleted afterwards
    #[arg(long, default_value = "/etcdctl-check-perf/")]
    prefix: String,
    /// Compact the store afterwards
    #[arg(long)]
    auto_compact: bool,
    /// Defragment the members of --endpoints afterwards
    #[arg(long)]
    auto_defrag: bool,
}

impl Check {
    pub async fn run(self, context: &Context) -> Result<()> {
        let Self::Perf(perf) = self;
        perf.run(context).await
    }
}

/// How much is asked of the cluster.
#[derive(Clone, Copy)]
struct Load {
    writes_per_second: u32,
    clients: u32,
}

const LENGTH: Duration = Duration::from_secs(60);
const KEY_BYTES: usize = 256;
const VALUE_BYTES: usize = 1024;
/// Of the rate that has to be reached, in percent.
const ENOUGH: f64 = 90.0;
const SLOWEST: Duration = Duration::from_millis(500);
const DEVIATION: Duration = Duration::from_millis(100);

impl Perf {
    async fn run(self, context: &Context) -> Result<()> {
        let (writes_per_second, clients) = match self.load.as_str() {
            "s" | "small" => (150, 50),
            "m" | "medium" => (1_000, 200),
            "l" | "large" => (8_000, 500),
            "xl" | "xLarge" => (15_000, 1_000),
            other => {
                let text = format!("unknown load option {other}");
                return Err(Failure::new(BAD_FEATURE, text));
            }
        };
        let load = Load {
            writes_per_second,
            clients,
        };
        let prefix = &self.prefix;
        let there = context.client.get(Get::prefix(prefix).limit(1)).await?;
        if !there.kvs.is_empty() {
            return Err(Failure::new(
                INVALID_INPUT,
                format!(
                    "prefix {} has keys. Delete with 'batonctl del --prefix {prefix}' first",
                    go::quote(prefix.as_bytes())
                ),
            ));
        }
        let result = tokio::select! {
            result = write(context, prefix, load) => Some(result),
            _ = tokio::signal::ctrl_c() => None,
        };
        let deleted = context.client.delete(Delete::prefix(prefix)).await?;
        if self.auto_compact {
            let revision = deleted.header.map_or(0, |header| header.revision);
            output::print(format!("Compacting with revision {revision}\n"))?;
            context.client.compact(revision, true).await?;
            output::print(format!("Compacted with revision {revision}\n"))?;
        }
        if self.auto_defrag {
            for endpoint in context.client.endpoints() {
                output::print(format!("Defragmenting {endpoint:?}\n"))?;
                context.client.at(&endpoint)?.defragment().await?;
                output::print(format!("Defragmented {endpoint:?}\n"))?;
            }
        }
        let Some(writes) = result else {
            return Err(Failure::silent(130));
        };
        judge(&writes, load)
    }
}

/// What became of the writes.
struct Writes {
    took: Vec<Duration>,
    errors: Vec<String>,
    length: Duration,
}

/// Each client writes in its turn, at its share of the rate. A client that is late does not catch up in a burst.
async fn write(context: &Context, prefix: &str, load: Load) -> Writes {
    let started = Instant::now();
    let pace = Duration::from_secs(1) * load.clients / load.writes_per_second;
    let mut clients = JoinSet::new();
    for number in 0..load.clients {
        let client = context.client.clone();
        let prefix = prefix.to_owned();
        let first = started + pace * number / load.clients;
        clients.spawn(async move {
            let mut took = Vec::new();
            let mut errors = Vec::new();
            let mut ticks = tokio::time::interval_at(first, pace);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            let value = vec![0; VALUE_BYTES];
            for count in 0_u64.. {
                ticks.tick().await;
                if started.elapsed() >= LENGTH {
                    break;
                }
                let key = format!("{prefix}{number:04}-{count:0KEY_BYTES$}");
                let began = Instant::now();
                match client.put(Put::new(key, &value)).await {
                    Ok(_) => took.push(began.elapsed()),
                    Err(error) => errors.push(error.to_string()),
                }
            }
            (took, errors)
        });
    }
    let mut writes = Writes {
        took: Vec::new(),
        errors: Vec::new(),
        length: LENGTH,
    };
    for (took, errors) in clients.join_all().await {
        writes.took.extend(took);
        writes.errors.extend(errors);
    }
    writes.length = started.elapsed();
    writes
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts and times of a minute, for people"
)]
fn judge(writes: &Writes, load: Load) -> Result<()> {
    let mut text = String::new();
    let mut passed = true;
    let mut line = |good: bool, pass: String, fail: String| {
        passed &= good;
        text.push_str(if good { &pass } else { &fail });
        text.push('\n');
    };
    if let Some(error) = writes.errors.first() {
        let count = writes.errors.len();
        line(false, String::new(), "FAIL: too many errors".to_owned());
        line(
            false,
            String::new(),
            format!("FAIL: ERROR({error}) -> {count}"),
        );
    }
    let seconds: Vec<f64> = writes.took.iter().map(Duration::as_secs_f64).collect();
    let count = seconds.len().max(1) as f64;
    let rate = seconds.len() as f64 / writes.length.as_secs_f64();
    let mean = seconds.iter().sum::<f64>() / count;
    let square = seconds.iter().map(|it| (it - mean).powi(2)).sum::<f64>();
    let deviation = (square / count).sqrt();
    let slowest = seconds.iter().copied().fold(0.0, f64::max);
    let shown = rate as u64 + 1;
    line(
        rate * 100.0 > ENOUGH * f64::from(load.writes_per_second),
        format!("PASS: Throughput is {shown} writes/s"),
        format!("FAIL: Throughput too low: {shown} writes/s"),
    );
    line(
        slowest <= SLOWEST.as_secs_f64(),
        format!("PASS: Slowest request took {slowest:.6}s"),
        format!("Slowest request took too long: {slowest:.6}s"),
    );
    line(
        deviation <= DEVIATION.as_secs_f64(),
        format!("PASS: Stddev is {deviation:.6}s"),
        format!("Stddev too high: {deviation:.6}s"),
    );
    output::print(format!("{text}{}\n", if passed { "PASS" } else { "FAIL" }))?;
    if passed {
        Ok(())
    } else {
        Err(Failure::silent(ERROR))
    }
}
