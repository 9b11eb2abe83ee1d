//! How fast a lock goes from hand to hand.
//!
//! A handoff is timed from just before the release is sent until the next contender's call returns, all in this process.
//! Rounds of both servers alternate; a row shows the medians of the rounds and, for the rate, the least and the greatest.

mod contender;
mod contention;
mod crash;

use std::time::{Duration, Instant};

use anyhow::Result;
use clap::{Args, ValueEnum};

use crate::latencies::{Latencies, median};
use crate::side::{Side, Sides};
use contender::{Contender, Way};
use contention::{Contention, Window};

/// What is measured.
#[derive(Args, Clone)]
pub struct Shape {
    /// How locks are taken.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Way::Rpc, Way::EtcdAlgorithm, Way::Recipe])]
    ways: Vec<Way>,
    /// The parts of the measurement.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Part::Handoff, Part::Line, Part::Uncontended, Part::Crash])]
    parts: Vec<Part>,
    /// Contenders of a handoff.
    #[arg(long, value_delimiter = ',', default_values_t = [2, 8, 32])]
    contenders: Vec<usize>,
    /// Milliseconds for which each holds the lock.
    #[arg(long, value_delimiter = ',', default_values_t = [0, 5, 20])]
    hold_ms: Vec<u64>,
    /// Contenders in long lines; each length gets fresh clusters.
    #[arg(long, value_delimiter = ',', default_values_t = [10, 1_000, 10_000])]
    waiters: Vec<usize>,
    /// Locks whose holders crash in each round.
    #[arg(long, default_value_t = 12)]
    crashes: usize,
    /// Seconds of a round.
    #[arg(long, default_value_t = 2)]
    seconds: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Some contenders that hold the lock for a while.
    Handoff,
    /// Long lines, held for no time.
    Line,
    /// One client that locks and unlocks.
    Uncontended,
    /// Holders that stop renewing.
    Crash,
}

/// Measures both sides and prints a table.
///
/// # Errors
/// If a server does not start, or a lock is not handed on.
pub async fn run(sides: &Sides, shape: &Shape) -> Result<()> {
    let time = Duration::from_secs(shape.seconds);
    let [a, b] = sides.start().await?;
    println!(
        "{} / {}, {} members each, medians of {} rounds in turn; latencies in ms, processor time of the servers in us",
        a.name, b.name, sides.members, sides.rounds
    );
    for &way in &shape.ways {
        let [way_a, way_b] = way.of_sides();
        for part in &shape.parts {
            match part {
                Part::Handoff => {
                    for &contenders in &shape.contenders {
                        for &hold in &shape.hold_ms {
                            let hold = Duration::from_millis(hold);
                            let name = format!("locks/{way:?}/{contenders}/{}", hold.as_millis());
                            let mut lines = [
                                Contention::start(&a, way_a, &name, contenders, hold).await?,
                                Contention::start(&b, way_b, &name, contenders, hold).await?,
                            ];
                            let label = format!("{contenders} contenders, hold {hold:?}");
                            let windows = in_turn(&mut lines, [&a, &b], sides.rounds, time).await?;
                            print_row(way, &label, &windows);
                            for line in lines {
                                line.end().await?;
                            }
                        }
                    }
                }
                Part::Line => {
                    for &waiters in &shape.waiters {
                        // A server may refuse a line this long; the other rows stand all the same.
                        if let Err(error) = long_line(sides, way, waiters, time).await {
                            println!("{:<15} {waiters} in line: {error:#}", way.name());
                        }
                    }
                }
                Part::Uncontended => {
                    let mut rounds = [Vec::new(), Vec::new()];
                    for _ in 0..sides.rounds {
                        rounds[0].push(uncontended(&a, way_a, time).await?);
                        rounds[1].push(uncontended(&b, way_b, time).await?);
                    }
                    print_row(way, "alone, lock and unlock", &rounds);
                }
                Part::Crash => {
                    let mut rounds = [Vec::new(), Vec::new()];
                    for round in 0..sides.rounds {
                        let name = format!("crash/{way:?}/{round}");
                        rounds[0].push(crash::crash(&a, way_a, &name, shape.crashes).await?);
                        rounds[1].push(crash::crash(&b, way_b, &name, shape.crashes).await?);
                    }
                    print_crash_row(way, &rounds);
                }
            }
        }
    }
    Ok(())
}

/// Measures a line of `waiters` on fresh clusters, which are thrown away: thousands of calls broken off at once are a
/// trial of its own.
async fn long_line(sides: &Sides, way: Way, waiters: usize, time: Duration) -> Result<()> {
    let [way_a, way_b] = way.of_sides();
    let [a, b] = sides.start().await?;
    let mut lines = [
        Contention::start(&a, way_a, "line", waiters, Duration::ZERO).await?,
        Contention::start(&b, way_b, "line", waiters, Duration::ZERO).await?,
    ];
    let windows = in_turn(&mut lines, [&a, &b], sides.rounds, time).await?;
    print_row(way, &format!("{waiters} in line, hold 0ns"), &windows);
    Ok(())
}

/// Rounds of both lines, one line at a time.
async fn in_turn(
    lines: &mut [Contention; 2],
    sides: [&Side; 2],
    rounds: usize,
    time: Duration,
) -> Result<[Vec<Window>; 2]> {
    let mut windows = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        for ((line, side), windows) in lines.iter_mut().zip(sides).zip(&mut windows) {
            windows.push(line.window(side, time).await?);
        }
    }
    Ok(windows)
}

async fn uncontended(side: &Side, way: Way, time: Duration) -> Result<Window> {
    let connections = contention::connect(&side.urls(), 1).await?;
    let mut alone = Contender::new(&connections[0], way, "alone", contention::LEASE).await?;
    let before = side.usage()?;
    let started = Instant::now();
    let mut pairs = Vec::new();
    while started.elapsed() < time {
        let sent = Instant::now();
        alone.lock().await?;
        alone.unlock().await?;
        pairs.push(sent.elapsed());
    }
    let elapsed = started.elapsed();
    let used = side.usage()?.since(&before);
    alone.leave().await?;
    Ok(Window {
        per_second: pairs.len() as f64 / elapsed.as_secs_f64(),
        cpu_micros: used.cpu_micros / pairs.len().max(1) as f64,
        latencies: Latencies::of(pairs),
    })
}

fn print_row(way: Way, label: &str, rounds: &[Vec<Window>; 2]) {
    let [a, b] = rounds.each_ref().map(|windows| {
        let of = |value: &dyn Fn(&Window) -> f64| median(windows.iter().map(value));
        let rates = || windows.iter().map(|window| window.per_second);
        let percentile =
            |percent: f64| of(&|window| window.latencies.percentile_micros(percent) / 1000.0);
        let (rate, p90, cpu) = (
            of(&|w| w.per_second),
            percentile(90.0),
            of(&|w| w.cpu_micros),
        );
        let text = format!(
            "{rate:>7.0}/s ({:.0}-{:.0}) p50 {:.2} p90 {p90:.2} p99 {:.2} CPU {cpu:.0}",
            rates().fold(f64::INFINITY, f64::min),
            rates().fold(0.0, f64::max),
            percentile(50.0),
            percentile(99.0),
        );
        (text, rate, p90, cpu)
    });
    println!(
        "{:<15} {label:<28} {:<62} | {:<62} | rate x{:.1}, p90 x{:.3}, CPU x{:.2}",
        way.name(),
        a.0,
        b.0,
        a.1 / b.1,
        a.2 / b.2,
        a.3 / b.3,
    );
}

fn print_crash_row(way: Way, rounds: &[Vec<Latencies>; 2]) {
    let [a, b] = rounds.each_ref().map(|rounds| {
        let percentile = |percent: f64| {
            median(rounds.iter().map(|late| late.percentile_micros(percent))) / 1000.0
        };
        format!(
            "TTL + p50 {:.0} p90 {:.0} max {:.0}",
            percentile(50.0),
            percentile(90.0),
            percentile(100.0)
        )
    });
    println!(
        "{:<15} {:<28} {a:<62} | {b:<62}",
        way.name(),
        "crash of the holder"
    );
}
