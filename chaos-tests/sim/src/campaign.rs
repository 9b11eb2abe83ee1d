//! Many seeds, in a few processes at once: a process that dies takes one seed with it, and is told apart from one that ends.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use chaos_tests::history::Record;
use chaos_tests::verdict::{Outcome, Verdict};
use serde::{Deserialize, Serialize};

use crate::episode::{self, Episode};
use crate::generate;

/// What came of a seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// The seed.
    pub seed: u64,
    /// What it proves; missing while it runs.
    pub outcome: Option<Outcome>,
    /// The first things that are wrong.
    pub wrong: Vec<String>,
    /// Milliseconds of simulated time.
    pub simulated_ms: u64,
    /// What was counted: operations, faults by kind, facts of checkers, messages.
    pub counts: BTreeMap<String, u64>,
}

impl Line {
    fn begun(seed: u64) -> Self {
        Self {
            seed,
            outcome: None,
            wrong: Vec::new(),
            simulated_ms: 0,
            counts: BTreeMap::new(),
        }
    }

    fn failed(seed: u64, why: String) -> Self {
        Self {
            outcome: Some(Outcome::HarnessError),
            wrong: vec![why],
            ..Self::begun(seed)
        }
    }

    /// What came of this run.
    pub fn of(seed: u64, episode: &Episode) -> Self {
        let mut counts = BTreeMap::new();
        for (kind, proved) in episode.faults() {
            counts.insert(format!("fault {kind}"), proved);
        }
        for judgement in &episode.verdict.judgements {
            for (fact, count) in &judgement.facts {
                counts.insert(format!("{}: {fact}", judgement.checker), *count);
            }
        }
        let messages = &episode.messages;
        for (what, count) in [
            ("delivered", messages.delivered),
            ("whole snapshots", messages.snapshots),
            ("stalled", messages.stalled),
            ("sent again", messages.lost),
            ("streams broken", messages.broken),
            ("late", messages.late),
            ("twice", messages.twice),
            ("replayed", messages.replayed),
            ("stale snapshots", messages.stale_snapshots),
        ] {
            counts.insert(format!("messages: {what}"), count);
        }
        episode.recorder.look(0, |records| {
            for record in records {
                if let Record::Operation(operation) = record {
                    use chaos_tests::history::Outcome;
                    let outcome = match operation.outcome {
                        Outcome::Ok(_) => "ok",
                        Outcome::Failed(_) => "failed",
                        Outcome::Unknown(_) => "unknown",
                    };
                    *counts.entry(format!("operations {outcome}")).or_default() += 1;
                }
            }
        });
        Self {
            outcome: Some(episode.verdict.outcome),
            wrong: wrong(&episode.verdict),
            simulated_ms: episode.simulated_ms,
            counts,
            ..Self::begun(seed)
        }
    }
}

/// The first things that are wrong with a verdict, by checker.
fn wrong(verdict: &Verdict) -> Vec<String> {
    const OF_EACH: usize = 3;
    let mut wrong = Vec::new();
    for judgement in &verdict.judgements {
        let violations = judgement.violations.iter().map(|v| &v.what);
        let all = violations
            .chain(&judgement.harness_errors)
            .chain(&judgement.inconclusive);
        wrong.extend(
            all.take(OF_EACH)
                .map(|what| format!("{}: {what}", judgement.checker)),
        );
    }
    let missed = verdict.missed.iter();
    wrong.extend(missed.map(|(gate, counted)| {
        format!(
            "{} is {counted}, and has to be {}",
            gate.fact, gate.at_least
        )
    }));
    wrong
}

/// Which seeds, and what to do with them.
#[derive(Debug, Clone)]
pub struct Seeds {
    /// The first.
    pub from: u64,
    /// How many.
    pub count: u64,
    /// The distance between two.
    pub stride: u64,
    /// Run each twice and compare.
    pub twice: bool,
    /// A directory for those that are not valid.
    pub out: PathBuf,
}

impl Seeds {
    /// Runs them one after the other, telling each before and after.
    ///
    /// # Errors
    /// Nobody listens any more.
    pub fn work(&self, mut tell: impl FnMut(&Line) -> Result<()>) -> Result<()> {
        for number in 0..self.count {
            let seed = self.from + number * self.stride;
            tell(&Line::begun(seed))?;
            let line = match self.one(seed) {
                Ok(line) => line,
                Err(error) => Line::failed(seed, format!("{error:#}")),
            };
            tell(&line)?;
        }
        Ok(())
    }

    fn one(&self, seed: u64) -> Result<Line> {
        let plan = generate::plan(seed);
        let episode = episode::run(&plan)?;
        if self.twice {
            let again = episode::run(&plan)?;
            if episode.fingerprint()? != again.fingerprint()? {
                bail!("it did not do the same twice");
            }
        }
        if episode.verdict.outcome != Outcome::Valid {
            let directory = self.out.join(format!("sim-{seed}"));
            let saved = episode.save(&directory);
            saved.with_context(|| directory.display().to_string())?;
        }
        Ok(Line::of(seed, &episode))
    }

    /// Runs them in `jobs` processes of this program, each started with `worker` for its share.
    ///
    /// # Errors
    /// A process cannot be started.
    pub fn share(
        &self,
        jobs: u64,
        worker: impl Fn(&Self) -> Result<Command>,
        mut tell: impl FnMut(&Total),
    ) -> Result<Total> {
        let (sender, lines) = mpsc::channel();
        let mut children = Vec::new();
        for job in 0..jobs.clamp(1, self.count.max(1)) {
            let share = Self {
                from: self.from + job * self.stride,
                count: (self.count + jobs - 1 - job) / jobs,
                stride: self.stride * jobs,
                ..self.clone()
            };
            children.push(follow(worker(&share)?, share, sender.clone())?);
        }
        drop(sender);
        let mut total = Total::default();
        for line in lines {
            total.add(line);
            tell(&total);
        }
        for mut child in children {
            child.wait()?;
        }
        Ok(total)
    }
}

/// Reads what a process tells, and what it does not get to tell.
#[allow(clippy::disallowed_methods, reason = "outside of any simulation")]
fn follow(mut command: Command, share: Seeds, sender: mpsc::Sender<Line>) -> Result<Child> {
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let output = child.stdout.take().context("a process without output")?;
    std::thread::spawn(move || {
        let mut under_way = None;
        for text in BufReader::new(output).lines().map_while(Result::ok) {
            let Ok(line) = serde_json::from_str::<Line>(&text) else {
                continue;
            };
            under_way = line.outcome.is_none().then_some(line.seed);
            if line.outcome.is_some() && sender.send(line).is_err() {
                return;
            }
        }
        if let Some(seed) = under_way {
            let why = "the process died of it".to_owned();
            let left = share.from + share.count * share.stride - seed;
            let lost = left / share.stride;
            let why = format!(
                "{why}, and {} more seeds were not run",
                lost.saturating_sub(1)
            );
            let _ = sender.send(Line {
                outcome: Some(Outcome::Invalid),
                ..Line::failed(seed, why)
            });
        }
    });
    Ok(child)
}

/// What came of all seeds so far.
#[derive(Debug)]
pub struct Total {
    /// How many were run.
    pub seeds: u64,
    /// Those that are not valid.
    pub bad: Vec<Line>,
    /// Milliseconds of simulated time.
    pub simulated_ms: u64,
    /// Sums of everything counted.
    pub counts: BTreeMap<String, u64>,
    began: Instant,
}

impl Default for Total {
    #[allow(clippy::disallowed_methods, reason = "outside of any simulation")]
    fn default() -> Self {
        Self {
            seeds: 0,
            bad: Vec::new(),
            simulated_ms: 0,
            counts: BTreeMap::new(),
            began: Instant::now(),
        }
    }
}

impl Total {
    fn add(&mut self, line: Line) {
        self.seeds += 1;
        self.simulated_ms += line.simulated_ms;
        for (what, count) in &line.counts {
            *self.counts.entry(what.clone()).or_default() += count;
        }
        if line.outcome != Some(Outcome::Valid) {
            self.bad.push(line);
        }
    }

    /// The worst outcome of any seed.
    pub fn outcome(&self) -> Outcome {
        let worst = self.bad.iter().filter_map(|line| line.outcome).max();
        match worst {
            Some(worst) => worst,
            None if self.seeds == 0 => Outcome::Inconclusive,
            None => Outcome::Valid,
        }
    }

    /// Time since the first.
    #[allow(clippy::disallowed_methods, reason = "outside of any simulation")]
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }
}

/// A line for a pipe.
///
/// # Errors
/// Nobody reads it.
pub fn print(line: &Line, to: &mut impl Write) -> Result<()> {
    serde_json::to_writer(&mut *to, line)?;
    to.write_all(b"\n")?;
    to.flush()?;
    Ok(())
}

/// Reads a plan and runs it, into a directory.
///
/// # Errors
/// The plan cannot be read or run, or the directory not be written.
pub fn replay(plan: &Path, out: &Path) -> Result<Episode> {
    let plan = chaos_tests::run::read_json(plan)?;
    let episode = episode::run(&plan)?;
    episode.save(out)?;
    Ok(episode)
}
