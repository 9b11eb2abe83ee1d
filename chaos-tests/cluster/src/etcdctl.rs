//! The installed `etcdctl`: clients that nobody wrote with our server in mind.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::process::Program;

/// An `etcdctl` and the endpoints it is given.
#[derive(Debug, Clone)]
pub struct Etcdctl {
    path: PathBuf,
    endpoints: String,
}

impl Etcdctl {
    /// `$BATON_ETCDCTL` or the first `etcdctl` in `$PATH`; `None` if there is neither. Endpoints are passed on exactly as
    /// they are given, separated by commas.
    pub fn installed(endpoints: &[impl AsRef<str>]) -> Option<Self> {
        let path = Program::installed("BATON_ETCDCTL", "etcdctl")?;
        let endpoints: Vec<&str> = endpoints.iter().map(AsRef::as_ref).collect();
        Some(Self {
            path,
            endpoints: endpoints.join(","),
        })
    }

    /// Runs a command to its end and returns its standard output.
    ///
    /// # Errors
    /// If it cannot be run, or fails; the error carries what it printed.
    pub async fn run(&self, arguments: &[&str]) -> Result<String> {
        self.run_with_input(arguments, "").await
    }

    /// The same, with `input` typed in.
    ///
    /// # Errors
    /// As for [`Etcdctl::run`].
    pub async fn run_with_input(&self, arguments: &[&str], input: &str) -> Result<String> {
        let mut child = Command::new(&self.path)
            .env("ETCDCTL_API", "3")
            .arg(format!("--endpoints={}", self.endpoints))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", self.path.display()))?;
        let mut stdin = child.stdin.take().context("its input")?;
        // A command that does not read its input may have ended already.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
        let output = child.wait_with_output().await?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            let errors = String::from_utf8_lossy(&output.stderr);
            bail!("etcdctl {arguments:?}: {}\n{text}{errors}", output.status);
        }
        Ok(text)
    }
}
