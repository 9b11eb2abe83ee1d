use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use chaos_tests::campaign;
use chaos_tests::verdict::Outcome;

use super::series::{Common, Series};

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
        let began = Instant::now();
        while began.elapsed() < length {
            let plan = campaign::soak(seed, self.from + series.len());
            series.play(&plan)?;
        }
        let outcome = series.end();
        println!("{outcome}");
        Ok(outcome)
    }
}
