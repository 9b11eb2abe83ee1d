//! Many seeds, shared by a few processes: one that hangs or dies takes the seed it is at with it, and nothing else.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Write, stderr};
use std::path::{Path, PathBuf};
use std::process::{ChildStderr, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use chaos_tests::plan::Plan;
use chaos_tests::report::Summary;
use chaos_tests::report::campaign::Campaign;
use chaos_tests::verdict::Outcome;
use serde::{Deserialize, Serialize};

use crate::coverage;
use crate::episode::{self, Episode};
use crate::generate;

/// What came of a seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// The seed.
    pub seed: u64,
    /// What it proves, and what it amounts to.
    #[serde(flatten)]
    pub summary: Summary,
    /// What happened to messages.
    pub messages: BTreeMap<String, u64>,
}

impl Line {
    /// What came of this run.
    fn of(episode: &Episode) -> Self {
        let messages = episode.messages;
        let messages = [
            ("delivered", messages.delivered),
            ("whole snapshots", messages.snapshots),
            ("stalled", messages.stalled),
            ("sent again", messages.lost),
            ("streams broken", messages.broken),
            ("late", messages.late),
            ("twice", messages.twice),
            ("replayed", messages.replayed),
            ("stale snapshots", messages.stale_snapshots),
        ];
        let named = messages.map(|(what, count)| (what.to_owned(), count));
        Self {
            seed: episode.plan.seed,
            summary: Summary::of(episode.verdict.clone(), &episode.recorder.history()),
            messages: named.into(),
        }
    }

    /// A seed that came to no verdict.
    fn failed(seed: u64, why: String) -> Self {
        Self {
            seed,
            summary: Summary::without_verdict(why),
            messages: BTreeMap::new(),
        }
    }

    /// What it proves.
    pub fn outcome(&self) -> Outcome {
        self.summary.verdict.outcome
    }

    /// The first things that are wrong, by checker.
    pub fn wrong(&self) -> Vec<String> {
        const OF_EACH: usize = 3;
        let verdict = &self.summary.verdict;
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
}

/// How a plan is run.
#[derive(Debug, Clone)]
pub struct Manner {
    /// Twice, and both have to do the same.
    pub twice: bool,
    /// Keep its directory even if it is valid.
    pub keep: bool,
    /// Where directories go.
    pub out: PathBuf,
}

impl Manner {
    /// Runs a plan, in the directory `name` if it is kept.
    ///
    /// # Errors
    /// It cannot be run, its directory not be written, or it does not do the same twice.
    pub fn run(&self, plan: &Plan, name: &str) -> Result<Line> {
        let episode = episode::run(plan)?;
        let directory = self.out.join(name);
        let save = |episode: &Episode, directory: &Path| {
            let saved = episode.save(directory);
            saved.with_context(|| directory.display().to_string())
        };
        if self.twice {
            let again = episode::run(plan)?;
            if let Some(difference) = episode.difference(&again)? {
                save(&episode, &directory)?;
                save(&again, &self.out.join(format!("{name}-again")))?;
                bail!("it does not do the same twice: {difference}");
            }
        }
        if self.keep || episode.verdict.outcome != Outcome::Valid {
            save(&episode, &directory)?;
        }
        Ok(Line::of(&episode))
    }
}

/// The name of the directory of a seed's run.
pub fn name(seed: u64) -> String {
    format!("sim-{seed}")
}

/// Which seeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seeds {
    /// The first.
    pub from: u64,
    /// How many.
    pub count: u64,
    /// The distance between two.
    pub stride: u64,
}

impl Seeds {
    /// Runs them one after the other, and tells what came of each.
    ///
    /// # Errors
    /// Nobody listens any more.
    pub fn work(&self, manner: &Manner, mut tell: impl FnMut(&Line) -> Result<()>) -> Result<()> {
        for number in 0..self.count {
            let seed = self.from + number * self.stride;
            let line = manner.run(&generate::plan(seed), &name(seed));
            tell(&line.unwrap_or_else(|error| Line::failed(seed, format!("{error:#}"))))?;
        }
        Ok(())
    }

    /// Those for each of `jobs` processes.
    fn shares(&self, jobs: u64) -> Vec<Self> {
        let jobs = jobs.clamp(1, self.count.max(1));
        let share = |job| Self {
            from: self.from + job * self.stride,
            count: (self.count + jobs - 1 - job) / jobs,
            stride: self.stride * jobs,
        };
        (0..jobs).map(share).collect()
    }

    fn take_first(&mut self) {
        self.from += self.stride;
        self.count -= 1;
    }
}

/// How seeds are shared by processes.
#[derive(Debug, Clone, Copy)]
pub struct Labour {
    /// How many processes there are at a time.
    pub jobs: u64,
    /// How long one may be silent before it is killed: longer than any seed takes.
    pub limit: Duration,
    /// How often to tell of progress though nothing came.
    pub tick: Duration,
}

impl Labour {
    /// Runs seeds in processes that `worker` makes for a share. `tell` hears of each seed, and now and then of none.
    ///
    /// # Errors
    /// A process cannot be started.
    #[allow(clippy::disallowed_methods, reason = "outside of any simulation")]
    pub fn share(
        &self,
        seeds: Seeds,
        worker: impl Fn(&Seeds) -> Result<Command> + Sync,
        mut tell: impl FnMut(&Total, Option<&Line>),
    ) -> Result<Total> {
        let mut total = Total::default();
        let worker = &worker;
        thread::scope(|scope| {
            let (sender, lines) = mpsc::channel();
            let foremen: Vec<_> = seeds
                .shares(self.jobs)
                .into_iter()
                .map(|share| {
                    let sender = sender.clone();
                    scope.spawn(move || oversee(share, self.limit, worker, &sender))
                })
                .collect();
            drop(sender);
            loop {
                match lines.recv_timeout(self.tick) {
                    Ok(line) => {
                        total.add(&line);
                        tell(&total, Some(&line));
                    }
                    Err(RecvTimeoutError::Timeout) => tell(&total, None),
                    Err(RecvTimeoutError::Disconnected) => break,
                }
            }
            for foreman in foremen {
                match foreman.join() {
                    Ok(ended) => ended?,
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            Ok::<_, anyhow::Error>(())
        })?;
        total.campaign.missed = coverage::missing(&total);
        Ok(total)
    }
}

/// Has a share run to its end, in as many processes as that takes.
fn oversee(
    mut share: Seeds,
    limit: Duration,
    worker: impl Fn(&Seeds) -> Result<Command>,
    sender: &Sender<Line>,
) -> Result<()> {
    while share.count > 0 {
        let mut command = worker(&share)?;
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let told = listen(child.stdout.take().context("a process without output")?);
        let complaints = pass_on(child.stderr.take().context("a process without output")?);
        let hangs = loop {
            match told.recv_timeout(limit) {
                Ok(line) => {
                    share.take_first();
                    // Nobody waits for it any more if that fails.
                    let _ = sender.send(line);
                }
                Err(RecvTimeoutError::Timeout) => break true,
                Err(RecvTimeoutError::Disconnected) => break false,
            }
        };
        if hangs {
            child.kill()?;
        }
        let status = child.wait()?;
        if share.count > 0 {
            let why = if hangs {
                format!("it did not end within {} s", limit.as_secs())
            } else {
                // A panic ends the process where the build has it so.
                let last = complaints.join().unwrap_or_default();
                format!("its process ended: {status}; the last it said: {last}")
            };
            let _ = sender.send(Line::failed(share.from, why));
            share.take_first();
        }
    }
    Ok(())
}

/// What a process tells. It ends with the process.
#[allow(clippy::disallowed_methods, reason = "outside of any simulation")]
fn listen(output: ChildStdout) -> Receiver<Line> {
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for text in BufReader::new(output).lines().map_while(Result::ok) {
            if let Ok(line) = serde_json::from_str(&text)
                && sender.send(line).is_err()
            {
                return;
            }
        }
    });
    lines
}

/// Passes on what a process complains of, and gives the last lines of it in the end.
#[allow(clippy::disallowed_methods, reason = "outside of any simulation")]
fn pass_on(errors: ChildStderr) -> JoinHandle<String> {
    const KEPT: usize = 3;
    thread::spawn(move || {
        let mut last = VecDeque::new();
        for line in BufReader::new(errors).lines().map_while(Result::ok) {
            // Nothing that anybody hears is nothing to fail for.
            let _ = writeln!(stderr(), "{line}");
            last.push_back(line);
            last.drain(..last.len().saturating_sub(KEPT));
        }
        Vec::from(last).join(" ")
    })
}

/// What came of all seeds so far.
#[derive(Debug, Serialize)]
pub struct Total {
    /// The runs, and their numbers together.
    pub campaign: Campaign,
    /// What happened to messages.
    pub messages: BTreeMap<String, u64>,
    #[serde(skip)]
    began: Instant,
}

impl Default for Total {
    #[allow(clippy::disallowed_methods, reason = "outside of any simulation")]
    fn default() -> Self {
        Self {
            campaign: Campaign::default(),
            messages: BTreeMap::new(),
            began: Instant::now(),
        }
    }
}

impl Total {
    fn add(&mut self, line: &Line) {
        let directory = name(line.seed).into();
        self.campaign
            .add(&format!("seed {}", line.seed), directory, &line.summary);
        for (what, count) in &line.messages {
            *self.messages.entry(what.clone()).or_default() += count;
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use chaos_tests::verdict::Verdict;

    const SEEDS: Seeds = Seeds {
        from: 10,
        count: 7,
        stride: 1,
    };

    /// A process that tells of its seeds one after another, and does `at` when it comes to seed 12.
    fn worker(share: &Seeds, at: &str) -> Command {
        let lines = (0..share.count).map(|number| {
            let seed = share.from + number * share.stride;
            let mut line = Line::failed(seed, String::new());
            line.summary.verdict = Verdict::of(Vec::new(), &[]);
            let line = serde_json::to_string(&line).expect("JSON");
            let before = if seed == 12 { at } else { "" };
            format!("{before}\necho '{line}'\n")
        });
        let mut command = Command::new("sh");
        command.arg("-c").arg(lines.collect::<String>());
        command
    }

    /// What comes of seeds where a process does `at` when it comes to seed 12.
    fn shared(jobs: u64, at: &str) -> Vec<(u64, Outcome, Vec<String>)> {
        let labour = Labour {
            jobs,
            limit: Duration::from_secs(5),
            tick: Duration::from_secs(60),
        };
        let mut told = Vec::new();
        let tell = |_: &Total, line: Option<&Line>| {
            told.extend(line.map(|line| (line.seed, line.outcome(), line.wrong())));
        };
        let total = labour.share(SEEDS, |share| Ok(worker(share, at)), tell);
        let total = total.expect("processes");
        assert_eq!(total.campaign.episodes.len(), 7);
        let all: BTreeSet<u64> = told.iter().map(|(seed, _, _)| *seed).collect();
        assert_eq!(all, (10..17).collect());
        told.retain(|(_, outcome, _)| *outcome != Outcome::Valid);
        told
    }

    #[test]
    fn every_seed_is_run_once_however_many_processes_there_are() {
        for jobs in [1, 2, 3, 100] {
            assert_eq!(shared(jobs, ""), []);
        }
    }

    #[test]
    fn a_process_that_hangs_is_killed_and_costs_one_seed() {
        let wrong = vec!["harness: it did not end within 5 s".to_owned()];
        let hangs = (12, Outcome::HarnessError, wrong);
        assert_eq!(shared(2, "exec sleep 1000"), [hangs]);
    }

    #[test]
    fn a_process_that_dies_costs_one_seed() {
        for jobs in [1, 2] {
            let why = "harness: its process ended: exit status: 7; the last it said: it panicked";
            let dies = (12, Outcome::HarnessError, vec![why.to_owned()]);
            assert_eq!(shared(jobs, "echo it panicked >&2; exit 7"), [dies]);
        }
    }
}
