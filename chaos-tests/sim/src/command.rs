//! `chaos sim`: simulated runs from the command line.

use std::io::{IsTerminal, Write, stderr, stdout};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use chaos_tests::verdict::Outcome;
use clap::Args;

use crate::campaign::{self, Line, Seeds, Total};

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
                .work(|line| campaign::print(line, &mut stdout()))?;
            return Ok(Outcome::Valid);
        }
        if let Some(plan) = &self.plan {
            let episode = campaign::replay(plan, &self.out.join("sim-replay"))?;
            return self.told(&Line::of(episode.plan.seed, &episode));
        }
        if let Some(seed) = self.seed {
            let plan = crate::generate::plan(seed);
            let episode = crate::episode::run(&plan)?;
            episode.save(&self.out.join(format!("sim-{seed}")))?;
            return self.told(&Line::of(seed, &episode));
        }
        let total = self
            .seeds()
            .share(self.jobs, |share| self.command(share), progress)?;
        let mut out = stdout().lock();
        writeln!(stderr())?;
        for line in &total.bad {
            self.tell(line, &mut out)?;
        }
        summary(&total, &mut out)?;
        Ok(total.outcome())
    }

    fn seeds(&self) -> Seeds {
        Seeds {
            from: self.from,
            count: self.seeds,
            stride: self.stride,
            twice: self.twice,
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
        command.arg("--out").arg(&share.out);
        if share.twice {
            command.arg("--twice");
        }
        Ok(command)
    }

    fn told(&self, line: &Line) -> Result<Outcome> {
        let mut out = stdout().lock();
        self.tell(line, &mut out)?;
        for (what, count) in &line.counts {
            writeln!(out, "  {what}: {count}")?;
        }
        Ok(line.outcome.unwrap_or(Outcome::HarnessError))
    }

    fn tell(&self, line: &Line, out: &mut impl Write) -> Result<()> {
        let outcome = line.outcome.unwrap_or(Outcome::HarnessError);
        writeln!(out, "seed {}: {outcome}", line.seed)?;
        for what in &line.wrong {
            writeln!(out, "  {what}")?;
        }
        if outcome != Outcome::Valid {
            writeln!(out, "  replay: chaos sim --seed {}", line.seed)?;
        }
        Ok(())
    }
}

fn progress(total: &Total) {
    let mut err = stderr().lock();
    let seconds = total.elapsed().as_secs_f64();
    let simulated = total.simulated_ms as f64 / 1000.0;
    let text = format!(
        "{} seeds, {} not valid, {simulated:.0} simulated seconds in {seconds:.0}",
        total.seeds,
        total.bad.len(),
    );
    // Progress that nobody sees is nothing to fail for.
    let _ = if err.is_terminal() {
        write!(err, "\r{text}")
    } else if total.seeds.is_multiple_of(100) {
        writeln!(err, "{text}")
    } else {
        Ok(())
    };
}

fn summary(total: &Total, out: &mut impl Write) -> Result<()> {
    let hours = total.simulated_ms as f64 / 3_600_000.0;
    let seconds = total.elapsed().as_secs_f64();
    writeln!(
        out,
        "{}: {} seeds, {} not valid, {hours:.2} simulated hours in {seconds:.0} s",
        total.outcome(),
        total.seeds,
        total.bad.len(),
    )?;
    for (what, count) in &total.counts {
        writeln!(out, "  {what}: {count}")?;
    }
    Ok(())
}
