use anyhow::Result;
use chaos_tests::known_bad::{CASES, Case};
use chaos_tests::real::host;
use chaos_tests::verdict::Outcome;

use super::series::{Common, Series};

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
        let mut wrong = 0;
        for case in CASES {
            let outcome = series.play(&case.plan(self.seed))?;
            let broken = series.last_broken();
            let right = is_right(case, outcome, &broken);
            let found = if broken.is_empty() {
                outcome.to_string()
            } else {
                broken.join(", ")
            };
            let verdict = if right { "as it is" } else { "WRONG" };
            println!("{:12} {verdict}: {found} ({})", case.name, case.about);
            wrong += usize::from(!right);
        }
        println!("{} cases, {wrong} wrong", CASES.len());
        Ok(match wrong {
            0 => Outcome::Valid,
            _ => Outcome::HarnessError,
        })
    }
}

fn is_right(case: &Case, outcome: Outcome, broken: &[&str]) -> bool {
    let expected = if case.broken.is_empty() {
        Outcome::Valid
    } else {
        Outcome::Invalid
    };
    outcome == expected && broken == case.broken
}
