//! The clock of the day of a member, moved by libfaketime while the member runs. Its monotonic clock goes on as it does.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use memchr::memmem;
use tokio::time::Instant;

use super::http;
use super::node::Node;
use super::wait::LOOK_AGAIN;
use crate::plan::{Fault, Plan};

/// The setting of a clock that is right. The rate is part of it: without, the one set before stays in force.
pub const RIGHT: &str = "+0 x1";

/// How long a server may take to log a line.
const LOGS: Duration = Duration::from_secs(2);

/// A clock that can be moved.
#[derive(Debug)]
pub struct Clock {
    file: PathBuf,
}

impl Clock {
    /// A clock that is right, set by a file in `home`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn make(home: &Path) -> Result<Self> {
        let clock = Self {
            file: home.join("clock"),
        };
        clock.set(RIGHT)?;
        Ok(clock)
    }

    /// What a process needs in its environment to go by it.
    pub fn environment(&self) -> Vec<(OsString, OsString)> {
        let library = library().unwrap_or_default();
        [
            ("LD_PRELOAD", library.into_os_string()),
            (
                "FAKETIME_TIMESTAMP_FILE",
                self.file.clone().into_os_string(),
            ),
            ("FAKETIME_NO_CACHE", "1".into()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
        ]
        .map(|(name, value)| (name.into(), value))
        .into()
    }

    /// Sets it, in the words of libfaketime: an offset in seconds, and a rate behind an `x`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn set(&self, setting: &str) -> Result<()> {
        // It may be read at any moment, and must never be found half written.
        let new = self.file.with_extension("new");
        fs::write(&new, format!("{setting}\n"))?;
        fs::rename(&new, &self.file)?;
        Ok(())
    }
}

/// Whether a plan moves clocks.
pub fn is_moved_by(plan: &Plan) -> bool {
    let moves = |fault: &Fault| {
        matches!(
            fault,
            Fault::ClockJump { .. } | Fault::ClockStrobe { .. } | Fault::ClockRate { .. }
        )
    };
    plan.faults.iter().any(|planned| moves(&planned.fault))
}

/// Why the clock of a server cannot be moved; nothing if it can.
pub fn missing(server: &Path) -> Option<String> {
    if library().is_none() {
        return Some("libfaketime is not installed".into());
    }
    let program = fs::read(server).unwrap_or_default();
    // Both ask the kernel themselves, and nothing can come between.
    if memmem::find(&program, b"Go buildinf:").is_some() {
        return Some(
            "a server written in Go asks the kernel for the time, past libfaketime".into(),
        );
    }
    // The loader of a program that has one is named among its first bytes.
    let head = program.get(..4096).unwrap_or(&program);
    if memmem::find(head, b"/ld-").is_none() {
        return Some("a statically linked server does not load libfaketime".into());
    }
    None
}

fn library() -> Option<PathBuf> {
    let places = fs::read_dir("/usr/lib").ok()?.filter_map(Result::ok);
    places
        .map(|place| place.path().join("faketime/libfaketimeMT.so.1"))
        .find(|library| library.is_file())
}

/// How far the clock of a member is ahead of the right time, in seconds; negative if it is behind. The member is made to
/// log a line with its time in it, by a request that it refuses for its host.
///
/// # Errors
/// It logs no such line, or one without a time.
pub async fn ahead(node: &Node) -> Result<f64> {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let host = format!("clock-{}.invalid", NEXT.fetch_add(1, Ordering::Relaxed));
    http::ask_as(node.member, "GET", "/version", &host).await?;
    let began = Instant::now();
    loop {
        let log = fs::read(node.log())?;
        let log = String::from_utf8_lossy(&log);
        if let Some(line) = log.lines().rev().find(|line| line.contains(&host)) {
            let entry: serde_json::Value = serde_json::from_str(line)?;
            let written = entry["ts"].as_str().context("the line has no `ts`")?;
            let theirs = humantime::parse_rfc3339(written)?;
            let ours = SystemTime::now();
            return Ok(match theirs.duration_since(ours) {
                Ok(ahead) => ahead.as_secs_f64(),
                Err(behind) => -behind.duration().as_secs_f64(),
            });
        }
        anyhow::ensure!(
            began.elapsed() < LOGS,
            "it logs nothing of a request for {host}"
        );
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}
