use anyhow::Result;
use chaos_tests::real::host::{self, Ability};
use chaos_tests::real::{boxed, probe};
use chaos_tests::verdict::Outcome;

/// The command `probe`.
#[derive(clap::Args)]
pub struct Probe {
    /// As JSON instead of a table.
    #[arg(long)]
    json: bool,
}

impl Probe {
    /// Tries everything, and says what works.
    pub fn run(self) -> Result<Outcome> {
        let mut abilities = vec![Ability {
            name: "a box".into(),
            missing: boxed::missing(),
        }];
        abilities.extend(host::programs());
        if abilities[0].missing.is_none() {
            let boxed = boxed::enter()?;
            abilities.extend(super::runtime()?.block_on(probe::abilities(boxed)));
        }
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
