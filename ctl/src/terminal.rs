//! Asking a person.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;

use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use crate::failure::{Failure, Result};

/// Asks for a secret on the terminal, without showing it.
pub fn ask(prompt: &str) -> Result<String> {
    let cannot = |error: &dyn std::fmt::Display| {
        Failure::error(format!(
            "cannot ask for a password ({error}): give it with --user=NAME:PASSWORD or --password"
        ))
    };
    let mut terminal = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/tty")
        .map_err(|error| cannot(&error))?;
    write!(terminal, "{prompt}")?;
    let shown = tcgetattr(terminal.as_fd()).map_err(|error| cannot(&error))?;
    let mut hidden = shown.clone();
    hidden.local_modes.remove(LocalModes::ECHO);
    tcsetattr(terminal.as_fd(), OptionalActions::Flush, &hidden).map_err(|error| cannot(&error))?;
    let line = read_line(&terminal);
    tcsetattr(terminal.as_fd(), OptionalActions::Flush, &shown).map_err(|error| cannot(&error))?;
    writeln!(terminal)?;
    Ok(line?)
}

fn read_line(terminal: &File) -> std::io::Result<String> {
    let mut line = String::new();
    BufReader::new(terminal).read_line(&mut line)?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}
