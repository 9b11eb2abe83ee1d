//! A run on disk: its plan, how it was made, and what was seen, side by side in one directory.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::history::{History, Member};
use crate::plan::Plan;

/// How a run was made: what its plan does not say, and a replay or a reader of its logs has to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Made {
    /// With real processes.
    Real {
        /// The program of the members.
        server: PathBuf,
        /// What it says of its version.
        version: String,
        /// When the clock of the history stood at zero, in microseconds since 1970: places lines of logs in time.
        began_unix_us: u64,
    },
    /// In simulation: the plan's seed makes it again.
    Simulated,
}

impl Made {
    /// Writes it into the directory of a run.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn save(&self, directory: &Path) -> io::Result<()> {
        write_json(&directory.join("run.json"), self)
    }
}

/// A run as it lies in its directory.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// Where it lies.
    pub directory: PathBuf,
    /// What it was to do.
    pub plan: Plan,
    /// How it was made.
    pub made: Made,
    /// What was seen.
    pub history: History,
}

impl Run {
    /// Reads `plan.json`, `run.json` and `history.jsonl`.
    ///
    /// # Errors
    /// One of them cannot be read or is not what it should be; it is named.
    pub fn load(directory: &Path) -> io::Result<Self> {
        Ok(Self {
            directory: directory.to_owned(),
            plan: read_json(&directory.join("plan.json"))?,
            made: read_json(&directory.join("run.json"))?,
            history: History::load(&directory.join("history.jsonl"))?,
        })
    }

    /// The log of a member.
    pub fn log(&self, member: Member) -> PathBuf {
        self.directory.join(format!("members/m{member}/log"))
    }
}

/// Reads a file of JSON.
///
/// # Errors
/// It cannot be read or is not what it should be; the file is named.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    let named =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let text = fs::read_to_string(path).map_err(named)?;
    serde_json::from_str(&text).map_err(|error| named(error.into()))
}

/// Writes a file of JSON, laid out for people.
///
/// # Errors
/// It cannot be written; the file is named.
pub fn write_json(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    fs::write(path, text)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}
