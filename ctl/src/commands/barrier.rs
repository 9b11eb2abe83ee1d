//! Barriers: gates that scripts wait at.

use std::time::Duration;

use baton_recipes::Barrier as Gate;
use clap::Subcommand;

use super::hold::seconds;
use crate::cli::Context;
use crate::failure::{Failure, NOT_OBTAINED, Result};
use crate::go;
use crate::output;

/// Gates: closed, everybody waits; opened, everybody goes
#[derive(Debug, Subcommand)]
#[command(after_help = "\
A barrier is open until somebody closes it, and stays closed until somebody opens it, whoever that is.

Example:
  batonctl barrier close migrated
  batonctl barrier wait migrated && ./start-server      on each server
  batonctl barrier open migrated                        when the migration is done")]
pub enum Barrier {
    /// Close it: who comes from now on, waits
    Close {
        /// The name of the barrier, which is its key
        name: String,
    },
    /// Open it: all who wait go
    Open {
        /// The name of the barrier, which is its key
        name: String,
    },
    /// Come back when it is open
    Wait {
        /// The name of the barrier, which is its key
        name: String,
        /// Give up after waiting so long, with exit code 75
        #[arg(long, value_name = "TIME", value_parser = seconds)]
        timeout: Option<Duration>,
    },
    /// Tell which it is
    Status {
        /// The name of the barrier, which is its key
        name: String,
    },
}

impl Barrier {
    pub async fn run(self, context: &Context) -> Result<()> {
        let gate = |name: &str| Gate::new(&context.client, name).map_err(Failure::from);
        match self {
            Self::Close { name } => {
                gate(&name)?.close().await?;
                output::print(format!("Barrier {name} closed\n"))
            }
            Self::Open { name } => {
                gate(&name)?.open().await?;
                output::print(format!("Barrier {name} opened\n"))
            }
            Self::Wait { name, timeout } => {
                let gate = gate(&name)?;
                let Some(limit) = timeout else {
                    gate.wait().await?;
                    return Ok(());
                };
                match tokio::time::timeout(limit, gate.wait()).await {
                    Ok(opened) => Ok(opened.map(|_| ())?),
                    Err(_) => Err(Failure::new(
                        NOT_OBTAINED,
                        format!(
                            "the barrier {name:?} was not opened within {}",
                            go::duration(limit)
                        ),
                    )),
                }
            }
            Self::Status { name } => {
                let closed = gate(&name)?.is_closed().await?;
                let word = if closed { "closed" } else { "open" };
                output::print(format!("Barrier {name} is {word}\n"))
            }
        }
    }
}
