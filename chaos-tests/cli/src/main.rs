//! `chaos`: fault campaigns from the command line.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line tool"
)]

mod command;

use std::process::ExitCode;

use chaos_tests::verdict::Outcome;
use clap::Parser;
use command::Command;

/// The exit code of a command line that cannot be understood: none of a verdict's.
const USAGE: u8 = 64;

/// Runs clusters under load and faults, and judges what clients saw.
///
/// Exits with 0 only if the verdict is VALID; with 1 for INVALID, 2 for INCONCLUSIVE and 3 for HARNESS ERROR.
#[derive(Parser)]
#[command(name = "chaos", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    if cfg!(panic = "abort") {
        // Nothing of the harness survives a panic in such a build, not even the verdict that says so.
        let tell = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            tell(panic);
            let outcome = Outcome::HarnessError;
            eprintln!("{outcome}");
            std::process::exit(outcome.exit_code().into());
        }));
    }
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Nothing is left to say it to if even that fails.
            let _ = error.print();
            let code = if error.use_stderr() { USAGE } else { 0 };
            return ExitCode::from(code);
        }
    };
    match arguments.command.run() {
        Ok(outcome) => ExitCode::from(outcome.exit_code()),
        Err(error) => {
            eprintln!("chaos: {error:#}");
            ExitCode::from(Outcome::HarnessError.exit_code())
        }
    }
}
