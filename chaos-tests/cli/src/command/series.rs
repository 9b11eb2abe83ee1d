//! Runs one after another, each in a process of its own: one that crashes or hangs does not take the others along.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use chaos_tests::campaign::missing;
use chaos_tests::plan::Plan;
use chaos_tests::report::Summary;
use chaos_tests::report::campaign::{self, Campaign};
use chaos_tests::run::{read_json, write_json};
use chaos_tests::verdict::{Outcome, Verdict};

/// What the runs of a series have in common.
#[derive(clap::Args)]
pub struct Common {
    /// The server. `batond` beside this program or in the path if it is not given.
    #[arg(long, value_name = "PATH")]
    pub bin: Option<PathBuf>,
    /// A further flag of every server.
    #[arg(long = "flag", value_name = "FLAG", allow_hyphen_values = true)]
    flags: Vec<String>,
    /// Where the runs are kept.
    #[arg(long, value_name = "DIRECTORY")]
    out: Option<PathBuf>,
}

impl Common {
    /// This server, and runs that are kept there.
    pub fn of(bin: PathBuf, out: PathBuf) -> Self {
        Self {
            bin: Some(bin),
            flags: Vec::new(),
            out: Some(out),
        }
    }
}

/// Runs one after another.
pub struct Series {
    campaign: Campaign,
    last: Option<Verdict>,
    bin: Option<PathBuf>,
    flags: Vec<String>,
    out: PathBuf,
}

impl Series {
    /// None yet; they go into `name` under `out` if nothing else is asked for.
    ///
    /// # Errors
    /// Its directory cannot be made.
    pub fn begin(common: Common, name: &str) -> Result<Self> {
        let out = common.out.unwrap_or_else(|| Path::new("out").join(name));
        fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
        Ok(Self {
            campaign: Campaign::default(),
            last: None,
            bin: common.bin,
            flags: common.flags,
            out,
        })
    }

    /// Plays a plan, says in a line what came of it, and keeps the whole run only if it is not valid.
    ///
    /// # Errors
    /// The run cannot be begun, or its directory not be written.
    pub fn play(&mut self, plan: &Plan) -> Result<Outcome> {
        let bin = self.bin.clone();
        self.make(plan, |planned, directory| {
            let mut replay = super::part(&std::env::current_exe()?);
            replay.arg("replay").arg(planned);
            replay.arg("--out").arg(directory);
            if let Some(bin) = &bin {
                replay.arg("--bin").arg(bin);
            }
            Ok((replay, directory.to_owned()))
        })
    }

    /// The same in simulation, by a build of this program that has what the plan needs.
    ///
    /// # Errors
    /// As those of [`play`](Self::play).
    pub fn simulate(&mut self, plan: &Plan, chaos: &Path) -> Result<Outcome> {
        self.make(plan, |planned, directory| {
            let mut replay = super::part(chaos);
            replay.arg("sim").arg("--plan").arg(planned);
            replay.arg("--out").arg(directory);
            Ok((replay, directory.join("sim-replay")))
        })
    }

    fn make(
        &mut self,
        plan: &Plan,
        replay: impl FnOnce(&Path, &Path) -> Result<(Command, PathBuf)>,
    ) -> Result<Outcome> {
        let directory = self.out.join(plan.name.replace(' ', "-"));
        fs::create_dir_all(&directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        let mut plan = plan.clone();
        plan.server.flags.extend(self.flags.iter().cloned());
        let planned = directory.join("plan.json");
        write_json(&planned, &plan)?;
        let output = directory.join("output");
        let (mut replay, directory) = replay(&planned, &directory)?;
        // An older run must not be taken for this one.
        let verdict = directory.join("verdict.json");
        let _ = fs::remove_file(&verdict);
        let to = File::create(&output)?;
        replay.stdin(Stdio::null());
        replay.stderr(to.try_clone()?).stdout(to);
        let status = replay.status().context("cannot begin a run")?;
        let summary: Summary = read_json(&verdict).unwrap_or_else(|_| {
            let said = fs::read_to_string(&output).unwrap_or_default();
            let last = said.trim_end().lines().last().unwrap_or_default();
            Summary::without_verdict(format!("no verdict ({status}): {last}"))
        });
        let outcome = summary.verdict.outcome;
        self.campaign.add(&plan.name, directory.clone(), &summary);
        self.last = Some(summary.verdict);
        println!("{}", self.campaign.line());
        if outcome == Outcome::Valid {
            let _ = fs::remove_file(directory.join("history.jsonl"));
            let _ = fs::remove_dir_all(directory.join("members"));
        }
        self.save()?;
        Ok(outcome)
    }

    /// Runs this program with other arguments, its output going where this one's goes, and takes its exit code for a
    /// verdict.
    ///
    /// # Errors
    /// It cannot be begun.
    pub fn ask(&mut self, arguments: &[&str]) -> Result<Outcome> {
        println!("chaos {}", arguments.join(" "));
        let status = super::part(&std::env::current_exe()?)
            .args(arguments)
            .stdin(Stdio::null())
            .status()
            .with_context(|| format!("cannot run chaos {}", arguments.join(" ")))?;
        let all = [Outcome::Valid, Outcome::Invalid, Outcome::Inconclusive];
        let said = all
            .into_iter()
            .find(|outcome| status.code() == Some(i32::from(outcome.exit_code())));
        Ok(said.unwrap_or(Outcome::HarnessError))
    }

    /// Where its runs are kept.
    pub fn out(&self) -> &Path {
        &self.out
    }

    /// The verdict of the last run, if there was one.
    pub fn last_verdict(&self) -> Option<&Verdict> {
        self.last.as_ref()
    }

    /// The checkers that found something in the last run, in the order of their names.
    pub fn last_broken(&self) -> Vec<&str> {
        let last = self.campaign.episodes.last();
        last.into_iter()
            .flat_map(|episode| episode.broken.keys().map(String::as_str))
            .collect()
    }

    /// How many runs there were.
    pub fn len(&self) -> u64 {
        u64::try_from(self.campaign.episodes.len()).unwrap_or(u64::MAX)
    }

    /// What all runs amount to, which have to have seen these facts together.
    pub fn end<'a>(mut self, wanted: impl IntoIterator<Item = &'a &'a str>) -> Outcome {
        self.campaign.missed = missing(&self.campaign, wanted);
        print!("{}", campaign::text(&self.campaign));
        println!("{}", self.out.display());
        self.campaign.outcome()
    }

    fn save(&self) -> Result<()> {
        Ok(write_json(&self.out.join("campaign.json"), &self.campaign)?)
    }
}
