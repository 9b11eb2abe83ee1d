//! `batonctl`: the command line. Everything etcdctl does, under its names and in its formats, and what etcdctl
//! lacks: commands that run under a lock or while being the leader, and a look at who waits for whom.

mod cli;
mod commands;
mod failure;
mod flags;
mod go;
mod guard;
mod output;
mod signals;
mod supervise;
mod terminal;

use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(code) = guard::run_if_asked() {
        return ExitCode::from(code);
    }
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
