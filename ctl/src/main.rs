//! `batonctl`: the command line. Everything etcdctl does, under its names and in its formats, and what etcdctl
//! lacks: commands that run under a lock or while being the leader, and a look at who waits for whom.

mod cli;
mod commands;
mod connection;
mod failure;
mod flags;
mod go;
mod output;
mod terminal;

use std::process::ExitCode;

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let outcome = match runtime {
        Ok(runtime) => {
            let outcome = runtime.block_on(cli::run());
            // A thread that reads standard input would hold the process back.
            runtime.shutdown_background();
            outcome
        }
        Err(error) => Err(failure::Failure::from(error)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.text.is_empty() {
                output::complain(format_args!("Error: {}", failure.text));
            }
            ExitCode::from(failure.code)
        }
    }
}
