//! Programs of the host, run to their end.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::host::program;

/// The longest that any of them may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a program and returns what it wrote.
///
/// # Errors
/// It is missing or fails; the error carries what it complained about.
pub async fn run(name: &str, arguments: &[&str]) -> Result<String> {
    run_with(name, arguments, "").await
}

/// The same with something to read.
///
/// # Errors
/// As for [`run`].
pub async fn run_with(name: &str, arguments: &[&str], input: &str) -> Result<String> {
    let path = program(name).map_err(anyhow::Error::msg)?;
    let mut child = Command::new(path)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot run {name}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that reads nothing may be gone already; its exit says whether that is well.
        let _ = stdin.write_all(input.as_bytes()).await;
    }
    let Ok(output) = tokio::time::timeout(PATIENCE, child.wait_with_output()).await else {
        bail!("{name} {} does not end", arguments.join(" "));
    };
    let output = output?;
    if !output.status.success() {
        bail!(
            "{name} {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
