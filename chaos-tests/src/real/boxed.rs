//! The box: namespaces of the run's own for processes, mounts and the network. Nothing in it reaches anything outside, and
//! everything in it ends with it, however it ends: members, mounts, loop devices, bridges and rules. Control groups belong to
//! the host; a run removes its own, unless it is killed.
//!
//! The command becomes `unshare`, which starts it again inside and ends it when it ends itself, also by SIGKILL.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::host::program;

/// Names, inside, the network namespace that the box was entered from.
const INSIDE: &str = "CHAOS_OUTSIDE_NETWORK";

/// Says that this process is in a box; only [`enter`] makes it.
#[derive(Debug, Clone, Copy)]
pub struct Boxed {
    privileged: bool,
}

impl Boxed {
    /// Whether the box was made by root, who may mount disks and use control groups.
    pub fn privileged(self) -> bool {
        self.privileged
    }
}

/// Makes sure that this process is in a box of its own: returns at once if it is, and otherwise does not return but runs
/// the same command line again, in a new box.
///
/// # Errors
/// This host has no namespaces to give, or the process claims to be in a box and is not.
pub fn enter() -> Result<Boxed> {
    if is_inside() {
        return settle();
    }
    let executable = std::env::current_exe().context("cannot find this program itself")?;
    let mut inside = command()?;
    inside.arg(executable).args(std::env::args_os().skip(1));
    Err(inside.exec()).context("cannot start unshare")
}

/// Whether this process was started in a box.
pub fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// A command that runs the program and arguments added to it in a new box.
///
/// # Errors
/// There is no `unshare`, or the kernel does not tell which network this is.
pub fn command() -> Result<Command> {
    let unshare = program("unshare").map_err(anyhow::Error::msg)?;
    let mut inside = Command::new(unshare);
    if !rustix::process::geteuid().is_root() {
        inside.args(["--user", "--map-root-user"]);
    }
    inside
        .args([
            "--net",
            "--mount",
            "--pid",
            "--fork",
            "--mount-proc",
            "--kill-child",
        ])
        .env(INSIDE, network()?.to_string_lossy().as_ref());
    Ok(inside)
}

/// Why no box can be made here; nothing if it can.
pub fn missing() -> Option<String> {
    if is_inside() {
        return None;
    }
    let tried = command().and_then(|mut inside| Ok(inside.arg("true").output()?));
    match tried {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Some(format!("{error:#}")),
    }
}

/// The network namespace of this process, as the kernel calls it.
fn network() -> io::Result<PathBuf> {
    fs::read_link("/proc/self/ns/net")
}

fn settle() -> Result<Boxed> {
    let outside = std::env::var(INSIDE).unwrap_or_default();
    ensure!(
        network()?.to_string_lossy() != outside,
        "this process is to be in a box and is not: it will not touch the network outside"
    );
    let privileged = whole_user_namespace()?;
    // `ip netns` keeps its names in /run, libfaketime its locks in /dev/shm: both are to end with the box.
    for place in ["/run", "/dev/shm"] {
        if Path::new(place).is_dir() {
            run("mount", &["-t", "tmpfs", "none", place])?;
        }
    }
    fs::create_dir_all("/run/netns")?;
    run("ip", &["link", "set", "lo", "up"])?;
    Ok(Boxed { privileged })
}

/// Whether this is the user namespace the system started in, in which root is root.
fn whole_user_namespace() -> Result<bool> {
    let map = fs::read_to_string("/proc/self/uid_map")?;
    let first = map.split_whitespace().nth(2).unwrap_or_default();
    Ok(first == u32::MAX.to_string())
}

/// Runs a program to its end.
fn run(name: &str, arguments: &[&str]) -> Result<()> {
    let path = program(name).map_err(anyhow::Error::msg)?;
    let output = Command::new(path).args(arguments).output()?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{name} {}: {}",
        arguments.join(" "),
        complaint.trim()
    );
    Ok(())
}
