//! Asking a person.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;

use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use crate::failure::{Failure, Result};

/// Exit code of one who was interrupted.
const INTERRUPTED: u8 = 130;

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
    // Keys that would end or stop this process are read here instead: it must not leave a terminal that shows nothing.
    let modes = LocalModes::ECHO | LocalModes::ISIG | LocalModes::ICANON;
    hidden.local_modes.remove(modes);
    tcsetattr(terminal.as_fd(), OptionalActions::Flush, &hidden).map_err(|error| cannot(&error))?;
    let line = read_line(&mut terminal);
    tcsetattr(terminal.as_fd(), OptionalActions::Flush, &shown).map_err(|error| cannot(&error))?;
    writeln!(terminal)?;
    match line {
        Ok(line) => Ok(String::from_utf8_lossy(&line).into_owned()),
        Err(error) if error.kind() == ErrorKind::Interrupted => Err(Failure::silent(INTERRUPTED)),
        Err(error) => Err(error.into()),
    }
}

/// Up to the end of a line, key by key.
fn read_line(terminal: &mut File) -> std::io::Result<Vec<u8>> {
    let mut line = Vec::new();
    loop {
        let mut key = [0];
        if terminal.read(&mut key)? == 0 {
            return Ok(line);
        }
        match key[0] {
            b'\n' | b'\r' => return Ok(line),
            // Ctrl-C, Ctrl-\, and Ctrl-D where nothing was typed.
            0x03 | 0x1c => return Err(ErrorKind::Interrupted.into()),
            0x04 if line.is_empty() => return Err(ErrorKind::Interrupted.into()),
            // Backspace, and Ctrl-U.
            0x08 | 0x7f => drop(line.pop()),
            0x15 => line.clear(),
            key => line.push(key),
        }
    }
}
