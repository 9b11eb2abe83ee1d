use anyhow::Result;
use chaos_tests::known_bad::{CASES, Case, Said};
use chaos_tests::real::host;
use chaos_tests::verdict::Outcome;

use super::series::{Common, Series};

/// How often a case may be run. A defect does not show in every run, and a busy host sees too little in some; what must not
/// be found must not be found in any.
const RUNS: u64 = 3;

/// The command `known-bad`.
#[derive(clap::Args)]
pub struct KnownBad {
    /// Where the runs are drawn from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    common: Common,
}

impl KnownBad {
    /// Runs the cases and says whether each came out as it has to.
    pub fn run(mut self) -> Result<Outcome> {
        if self.common.bin.is_none() {
            let etcd = host::program("etcd").map_err(anyhow::Error::msg)?;
            self.common.bin = Some(etcd);
        }
        let mut series = Series::begin(self.common, "known-bad")?;
        let mut gravest = Outcome::Valid;
        for case in CASES {
            let (said, found) = try_out(case, self.seed, &mut series)?;
            let (verdict, outcome) = match said {
                Said::AsItIs => ("as it is", Outcome::Valid),
                Said::NotYet => ("NOT FOUND", Outcome::HarnessError),
                Said::Nothing => ("nothing said", Outcome::Inconclusive),
                Said::Wrong => ("WRONG", Outcome::HarnessError),
            };
            println!("{:12} {verdict}: {found} ({})", case.name, case.about);
            gravest = gravest.max(outcome);
        }
        println!("{} cases, {gravest}", CASES.len());
        Ok(gravest)
    }
}

/// Runs a case until it says what it has to or what it must not, and tells what was found in the last run.
fn try_out(case: &Case, seed: u64, series: &mut Series) -> Result<(Said, String)> {
    let mut run = 1;
    loop {
        let outcome = series.play(&case.plan(seed, run))?;
        let said = series
            .last_verdict()
            .map_or(Said::Nothing, |verdict| case.said(verdict));
        if matches!(said, Said::AsItIs | Said::Wrong) || run == RUNS {
            let broken = series.last_broken();
            let found = match broken.is_empty() {
                true => outcome.to_string(),
                false => broken.join(", "),
            };
            return Ok((said, found));
        }
        run += 1;
    }
}
