//! Server processes on loopback.

use std::fs::{File, OpenOptions};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::client::Client;

/// A server executable and the flags every member of a cluster is given beside its own addresses.
#[derive(Debug, Clone)]
pub struct Program {
    path: PathBuf,
    flags: Vec<String>,
}

impl Program {
    /// The program at `path`, which takes etcd's flags.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            flags: Vec::new(),
        }
    }

    /// The installed etcd: `$BATON_ETCD` or the first `etcd` in `$PATH`; `None` if there is neither.
    pub fn installed_etcd() -> Option<Self> {
        Self::installed("BATON_ETCD", "etcd").map(Self::new)
    }

    /// The executable named by the environment variable `variable`, or the first `name` in `$PATH`.
    pub fn installed(variable: &str, name: &str) -> Option<PathBuf> {
        if let Some(path) = std::env::var_os(variable) {
            return Some(path.into());
        }
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path)
            .map(|directory| directory.join(name))
            .find(|file| file.is_file())
    }

    /// Adds a flag, such as `--snapshot-count=100`, to every member.
    #[must_use]
    pub fn flag(mut self, flag: impl Into<String>) -> Self {
        self.flags.push(flag.into());
        self
    }

    /// Where the executable is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// A loopback port that nothing listened on a moment ago.
///
/// Ports lie below the range the kernel gives to outgoing connections, and two calls never return the same one, so that
/// tests of one process do not meet; the process id sets tests of different processes apart.
pub fn free_port() -> u16 {
    const FIRST: u16 = 18_000;
    const COUNT: u16 = 14_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id().wrapping_mul(61) % u32::from(COUNT)).unwrap_or(0);
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
        let port = FIRST + (start + step) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// One member of a cluster: its addresses and directory, and its process while it runs.
#[derive(Debug)]
pub struct Member {
    program: Program,
    name: String,
    directory: PathBuf,
    client_port: u16,
    peer_port: u16,
    initial_cluster: String,
    child: Option<Child>,
}

impl Member {
    /// The member's `--name`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `host:port` of its client listener.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.client_port)
    }

    /// URL of its client listener.
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// The port peers dial.
    pub fn peer_port(&self) -> u16 {
        self.peer_port
    }

    /// Its `--data-dir`.
    pub fn data_directory(&self) -> PathBuf {
        self.directory.join(format!("{}.data", self.name))
    }

    /// The file that collects its standard output and error over all its starts.
    pub fn log_file(&self) -> PathBuf {
        self.directory.join(format!("{}.log", self.name))
    }

    /// The last lines it logged, for failure messages.
    pub fn log_tail(&self) -> String {
        let text = std::fs::read(self.log_file()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }

    /// Its flags as they would be typed.
    pub fn arguments(&self) -> Vec<String> {
        let client = self.url();
        let peer = format!("http://127.0.0.1:{}", self.peer_port);
        let mut arguments = vec![
            format!("--name={}", self.name),
            format!("--data-dir={}", self.data_directory().display()),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster={}", self.initial_cluster),
            "--initial-cluster-state=new".to_owned(),
            "--initial-cluster-token=baton-test".to_owned(),
        ];
        arguments.extend(self.program.flags.iter().cloned());
        arguments
    }

    /// A command that would start this member, for tests that expect a refusal.
    pub fn command(&self) -> Command {
        self.command_with(&[])
    }

    /// The same with some flags, such as `--name=other`, in place of or beside its own.
    pub fn command_with(&self, flags: &[String]) -> Command {
        let name = |flag: &str| flag.split('=').next().map(str::to_owned);
        let mut command = Command::new(self.program.path());
        // A developer's own cluster must not leak into the test through the environment.
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("ETCD_") || text.starts_with("BATON_") {
                command.env_remove(&name);
            }
        }
        let own = self.arguments();
        let kept = own
            .iter()
            .filter(|own| flags.iter().all(|flag| name(flag) != name(own)));
        command.args(kept).args(flags).stdin(Stdio::null());
        command
    }

    /// Starts the process; does not wait until it serves.
    ///
    /// # Errors
    /// If the program cannot be executed or its log cannot be opened.
    pub fn start(&mut self) -> Result<()> {
        self.start_with(&[])
    }

    /// The same with some flags in place of or beside its own.
    ///
    /// # Errors
    /// As for [`Member::start`].
    pub fn start_with(&mut self, flags: &[String]) -> Result<()> {
        assert!(self.child.is_none(), "{} is already running", self.name);
        let log: File = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_file())?;
        let child = self
            .command_with(flags)
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.path().display()))?;
        self.child = Some(child);
        Ok(())
    }

    /// Whether the process has been started and has not ended by itself.
    pub fn is_running(&mut self) -> bool {
        self.child
            .as_mut()
            .is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// The process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Sends a signal to the running process.
    pub fn signal(&self, signal: Signal) {
        let pid = self
            .child
            .as_ref()
            .and_then(|child| Pid::from_raw(child.id().cast_signed()));
        // The process may have ended by itself; a test notices that by what it answers.
        let _ = pid.map(|pid| kill_process(pid, signal));
    }

    /// SIGKILL, and waits until the kernel has taken the process away.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Waits until the process ends by itself.
    ///
    /// # Errors
    /// If it is still running after `limit`.
    pub async fn ended(&mut self, limit: Duration) -> Result<ExitStatus> {
        let started = Instant::now();
        loop {
            let Some(child) = self.child.as_mut() else {
                bail!("{} was not running", self.name)
            };
            if let Some(status) = child.try_wait()? {
                self.child = None;
                return Ok(status);
            }
            if started.elapsed() > limit {
                bail!(
                    "{} still runs after {limit:?}; its log ends:\n{}",
                    self.name,
                    self.log_tail()
                );
            }
            poll_again().await;
        }
    }

    /// SIGTERM, and waits until the process has left.
    ///
    /// # Errors
    /// If it does not leave within 15 s.
    pub async fn terminate(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::TERM);
        self.ended(Duration::from_secs(15)).await
    }

    /// A connection to this member.
    pub fn client(&self) -> Client {
        Client::new(&self.url())
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A cluster and its directory; dropping it kills every process and removes the directory.
#[derive(Debug)]
pub struct Cluster {
    /// The members, in the order of `--initial-cluster`.
    pub members: Vec<Member>,
    directory: TempDir,
}

impl Cluster {
    /// Lays out `count` members without starting them.
    ///
    /// # Errors
    /// If no temporary directory can be made.
    pub fn new(program: &Program, count: usize) -> Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("baton-cluster-")
            .tempdir()?;
        let ports: Vec<(u16, u16)> = (0..count).map(|_| (free_port(), free_port())).collect();
        let initial_cluster = ports
            .iter()
            .enumerate()
            .map(|(index, (_, peer))| format!("m{index}=http://127.0.0.1:{peer}"))
            .collect::<Vec<_>>()
            .join(",");
        let members = ports
            .into_iter()
            .enumerate()
            .map(|(index, (client_port, peer_port))| Member {
                program: program.clone(),
                name: format!("m{index}"),
                directory: directory.path().to_owned(),
                client_port,
                peer_port,
                initial_cluster: initial_cluster.clone(),
                child: None,
            })
            .collect();
        Ok(Self { members, directory })
    }

    /// Starts `count` members and waits until each of them serves.
    ///
    /// # Errors
    /// If a process ends or does not serve within a minute; the error carries the end of its log.
    pub async fn start(program: &Program, count: usize) -> Result<Self> {
        let mut cluster = Self::new(program, count)?;
        for member in &mut cluster.members {
            member.start()?;
        }
        cluster.ready().await?;
        Ok(cluster)
    }

    /// The directory that holds data and logs of all members.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Keeps the directory after the cluster is dropped, for a person to look at, and says where it is.
    pub fn keep_directory(&mut self) -> PathBuf {
        self.directory.disable_cleanup(true);
        self.directory.path().to_owned()
    }

    /// Client URLs of all members.
    pub fn urls(&self) -> Vec<String> {
        self.members.iter().map(Member::url).collect()
    }

    /// Waits until every running member answers a linearizable read.
    ///
    /// # Errors
    /// As for [`Cluster::start`].
    pub async fn ready(&mut self) -> Result<()> {
        let limit = Duration::from_secs(60);
        let started = Instant::now();
        for member in &mut self.members {
            if member.child.is_none() {
                continue;
            }
            let client = member.client();
            loop {
                if client.revision().await.is_ok() {
                    break;
                }
                if !member.is_running() {
                    bail!(
                        "{} ended while starting; its log ends:\n{}",
                        member.name,
                        member.log_tail()
                    );
                }
                if started.elapsed() > limit {
                    bail!(
                        "{} does not serve after {limit:?}; its log ends:\n{}",
                        member.name,
                        member.log_tail()
                    );
                }
                poll_again().await;
            }
        }
        Ok(())
    }

    /// Index of the member that the running members call leader, once they agree.
    ///
    /// # Errors
    /// If they do not agree within 30 s.
    pub async fn leader(&mut self) -> Result<usize> {
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(30) {
            let mut ids = Vec::new();
            let mut leaders = Vec::new();
            for (index, member) in self.members.iter().enumerate() {
                if member.child.is_some()
                    && let Ok(status) = member.client().status().await
                {
                    let id = status
                        .header
                        .map(|header| header.member_id)
                        .unwrap_or_default();
                    ids.push((id, index));
                    leaders.push(status.leader);
                }
            }
            let agreed = leaders
                .first()
                .copied()
                .filter(|first| leaders.iter().all(|leader| leader == first));
            let index = agreed
                .and_then(|leader| ids.iter().find(|(id, _)| *id == leader))
                .map(|(_, index)| *index);
            if let Some(index) = index {
                return Ok(index);
            }
            poll_again().await;
        }
        bail!("no leader that all running members agree on after 30 s")
    }
}

/// The pause between two looks at a process that has no way to tell us.
pub async fn poll_again() {
    tokio::time::sleep(Duration::from_millis(10)).await;
}
