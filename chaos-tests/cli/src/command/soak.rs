use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use chaos_tests::campaign;
use chaos_tests::mutants::TRIALS;
use chaos_tests::verdict::Outcome;

use super::mutants::Hunter;
use super::series::{Common, Series};

/// After so many runs a planted bug is looked for.
const PLANTED_EVERY: u64 = 10;

/// So many runs can be expected to have seen everything.
const ENOUGH: u64 = 30;

/// The command `soak`.
#[derive(clap::Args)]
pub struct Soak {
    /// How long it goes on. The run that is under way then is the last.
    #[arg(long)]
    hours: f64,
    /// Where everything is drawn from. Drawn itself if it is not given.
    #[arg(long)]
    seed: Option<u64>,
    /// The first run of it, to go on with one that was stopped.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// A server with planted bugs, built with the features `batond/chaos,chaos/chaos`, and `chaos` beside it: every now and
    /// then one of them is looked for, and has to be found.
    #[arg(long, value_name = "PATH")]
    planted_bin: Option<PathBuf>,
    #[command(flatten)]
    common: Common,
}

impl Soak {
    /// Plays one drawn run after another.
    pub fn run(self) -> Result<Outcome> {
        ensure!(
            self.hours.is_finite() && self.hours > 0.0,
            "--hours takes a number above 0, not {}",
            self.hours
        );
        let length = Duration::try_from_secs_f64(self.hours * 3600.0)?;
        let seed = self.seed.unwrap_or_else(rand::random);
        println!("seed {seed}");
        let mut series = Series::begin(self.common, &format!("soak-{seed}"))?;
        let planted = series.out().join("planted");
        let mut hunter = self
            .planted_bin
            .map(|bin| Hunter::begin(bin, planted, seed))
            .transpose()?;
        let mut missed = Vec::new();
        let began = Instant::now();
        while began.elapsed() < length {
            let number = self.from + series.len();
            series.play(&campaign::soak(seed, number))?;
            let turn = (number + 1) / PLANTED_EVERY;
            if let Some(hunter) = &mut hunter
                && (number + 1).is_multiple_of(PLANTED_EVERY)
                && let Some(trial) = TRIALS.iter().cycle().nth(usize::try_from(turn)?)
                && hunter.hunt(trial)?.is_none()
            {
                missed.push(trial.mutant);
            }
        }
        let wanted = [campaign::SEEN_BY_QUICK, campaign::SEEN_BY_SOAK].concat();
        let enough = series.len() >= ENOUGH;
        let mut outcome = series.end(wanted.iter().filter(|_| enough));
        if !missed.is_empty() {
            println!("planted and not found: {}", missed.join(", "));
            outcome = outcome.max(Outcome::HarnessError);
        }
        println!("{outcome}");
        Ok(outcome)
    }
}
