use anyhow::Result;
use chaos_tests::real::host::{self, Ability};
use chaos_tests::verdict::Outcome;

/// The command `probe`.
#[derive(clap::Args)]
pub struct Probe {
    /// As JSON instead of a table.
    #[arg(long)]
    json: bool,
}

impl Probe {
    /// Looks, and says what it found.
    pub fn run(self) -> Result<Outcome> {
        let abilities = host::abilities();
        if self.json {
            println!("{}", serde_json::to_string_pretty(&abilities)?);
            return Ok(Outcome::Valid);
        }
        for Ability { name, missing } in &abilities {
            match missing {
                None => println!("{name:<24} yes"),
                Some(reason) => println!("{name:<24} no: {reason}"),
            }
        }
        Ok(Outcome::Valid)
    }
}
