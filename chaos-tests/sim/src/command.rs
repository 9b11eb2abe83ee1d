//! `chaos sim`: simulated runs from the command line.

use std::io::{IsTerminal, Write, stderr, stdout};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use chaos_tests::report::campaign::text;
use chaos_tests::report::words;
use chaos_tests::run::{read_json, write_json};
use chaos_tests::verdict::Outcome;
use clap::Args;

use crate::campaign::{self, Labour, Line, Manner, Seeds, Total};
use crate::generate;

/// How often progress is told where no terminal shows it.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// Runs simulated clusters from seeds, in one thread each and faster than time: the same seed does the same again.
#[derive(Debug, Args)]
pub struct Sim {
    /// How many seeds.
    #[arg(long, default_value_t = 100, conflicts_with_all = ["seed", "plan"])]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Just this seed; its run is kept whatever it proves.
    #[arg(long)]
    seed: Option<u64>,
    /// A plan instead of a seed, such as that of an earlier run.
    #[arg(long, conflicts_with = "seed")]
    plan: Option<PathBuf>,
    /// How many processes share the seeds.
    #[arg(long, default_value_t = 2)]
    jobs: u64,
    /// Run every seed twice: that they do the same is a part of the verdict.
    #[arg(long)]
    twice: bool,
    /// After how many seconds a run is killed and its seed given up.
    #[arg(long, default_value_t = 600, value_name = "SECONDS")]
    limit: u64,
    /// Where the directories of runs go that are not valid.
    #[arg(long, default_value = "out")]
    out: PathBuf,
    /// The distance between two seeds.
    #[arg(long, default_value_t = 1, hide = true)]
    stride: u64,
    /// Tell what comes of each seed in JSON, to the process that asked for it.
    #[arg(long, hide = true)]
    worker: bool,
}

impl Sim {
    /// Runs them.
    ///
    /// # Errors
    /// A run cannot be made, or not be written down.
    pub fn run(self) -> Result<Outcome> {
        if self.worker {
            self.seeds()
                .work(&self.manner(), |line| campaign::print(line, &mut stdout()))?;
            return Ok(Outcome::Valid);
        }
        if let Some(plan) = &self.plan {
            let line = self.manner().run(&read_json(plan)?, "sim-replay")?;
            return told(&line);
        }
        if let Some(seed) = self.seed {
            let plan = generate::plan(seed);
            let line = self.manner().run(&plan, &campaign::name(seed))?;
            return told(&line);
        }
        let labour = Labour {
            jobs: self.jobs,
            limit: Duration::from_secs(self.limit),
            tick: TELL_EVERY,
        };
        let mut progress = Progress::begin(self.seeds, &self.out);
        let total = labour.share(
            self.seeds(),
            |share| self.command(share),
            |total, line| progress.tell(total, line),
        )?;
        progress.end(&total)?;
        let mut out = stdout().lock();
        write!(out, "{}", text(&total.campaign))?;
        let messages = total.messages.iter();
        let messages = messages.map(|(what, count)| format!("{} {what}", words::number(*count)));
        let messages: Vec<String> = messages.collect();
        writeln!(out, "messages: {}", messages.join(", "))?;
        let outcome = total.campaign.outcome();
        writeln!(out, "{outcome} in {:.0} s", total.elapsed().as_secs_f64())?;
        Ok(outcome)
    }

    fn seeds(&self) -> Seeds {
        Seeds {
            from: self.from,
            count: self.seeds,
            stride: self.stride,
        }
    }

    fn manner(&self) -> Manner {
        Manner {
            twice: self.twice,
            keep: self.seed.is_some() || self.plan.is_some(),
            out: self.out.clone(),
        }
    }

    fn command(&self, share: &Seeds) -> Result<Command> {
        let program = std::env::current_exe().context("this program")?;
        let mut command = Command::new(program);
        command.args(["sim", "--worker"]);
        command.args(["--from", &share.from.to_string()]);
        command.args(["--seeds", &share.count.to_string()]);
        command.args(["--stride", &share.stride.to_string()]);
        command.arg("--out").arg(&self.out);
        if self.twice {
            command.arg("--twice");
        }
        Ok(command)
    }
}

/// Tells of a single run, with all that was counted in it.
fn told(line: &Line) -> Result<Outcome> {
    let mut out = stdout().lock();
    tell(line, &mut out)?;
    for judgement in &line.summary.verdict.judgements {
        for (fact, count) in &judgement.facts {
            writeln!(out, "  {}/{fact}: {count}", judgement.checker)?;
        }
    }
    for (what, count) in &line.messages {
        writeln!(out, "  messages {what}: {count}")?;
    }
    Ok(line.outcome())
}

fn tell(line: &Line, out: &mut impl Write) -> std::io::Result<()> {
    writeln!(out, "seed {}: {}", line.seed, line.outcome())?;
    for what in line.wrong() {
        writeln!(out, "  {what}")?;
    }
    if line.outcome() != Outcome::Valid {
        writeln!(out, "  replay: chaos sim --seed {}", line.seed)?;
    }
    Ok(())
}

/// What is told while seeds are run: of those that are not valid at once, and of how far it is.
struct Progress {
    seeds: u64,
    /// Where all is written down now and then, for campaigns that somebody ends before their time.
    file: PathBuf,
    is_terminal: bool,
    told: Instant,
    written: Instant,
}

impl Progress {
    #[allow(clippy::disallowed_methods, reason = "outside of any simulation")]
    fn begin(seeds: u64, out: &Path) -> Self {
        Self {
            seeds,
            file: out.join("sim-campaign.json"),
            written: Instant::now(),
            is_terminal: stderr().is_terminal(),
            told: Instant::now(),
        }
    }

    #[allow(clippy::disallowed_methods, reason = "outside of any simulation")]
    fn tell(&mut self, total: &Total, line: Option<&Line>) {
        let mut err = stderr().lock();
        // Progress that nobody sees is nothing to fail for.
        if let Some(line) = line.filter(|line| line.outcome() != Outcome::Valid) {
            if self.is_terminal {
                let _ = writeln!(err);
            }
            let _ = tell(line, &mut err);
        }
        if self.written.elapsed() >= TELL_EVERY {
            self.written = Instant::now();
            let _ = self.save(total);
        }
        if !self.is_terminal && self.told.elapsed() < TELL_EVERY {
            return;
        }
        self.told = Instant::now();
        let episodes = &total.campaign.episodes;
        let bad = episodes.iter().filter(|e| e.outcome != Outcome::Valid);
        let text = format!(
            "{} of {} seeds, {} not valid, {:.0} simulated seconds in {:.0}",
            words::number(episodes.len() as u64),
            words::number(self.seeds),
            bad.count(),
            total.campaign.totals.duration_ms as f64 / 1000.0,
            total.elapsed().as_secs_f64(),
        );
        let _ = if self.is_terminal {
            write!(err, "\r{text}")
        } else {
            writeln!(err, "{text}")
        };
    }

    fn save(&self, total: &Total) -> std::io::Result<()> {
        if let Some(out) = self.file.parent() {
            std::fs::create_dir_all(out)?;
        }
        write_json(&self.file, total)
    }

    fn end(self, total: &Total) -> std::io::Result<()> {
        if self.is_terminal {
            let _ = writeln!(stderr());
        }
        self.save(total)
    }
}
