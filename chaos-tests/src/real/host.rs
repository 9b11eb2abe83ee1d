//! What this host can do.

use std::io;
use std::path::PathBuf;

use rustix::process;
use serde::Serialize;

/// Something a fault needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ability {
    /// What it is for.
    pub name: String,
    /// Why it is not there; nothing if it is.
    pub missing: Option<String>,
}

/// Programs, and what they are for.
const PROGRAMS: [(&str, &str); 13] = [
    ("unshare", "namespaces of its own"),
    ("nsenter", "members in them"),
    ("ip", "networks"),
    ("nft", "cuts, loss and duplication"),
    ("tc", "slow links"),
    ("iptables", "delays"),
    ("ss", "resets"),
    ("mkfs.ext4", "ext4 disks"),
    ("e2fsck", "read-only disks"),
    ("mkfs.xfs", "XFS disks"),
    ("xfs_io", "power cuts"),
    ("fsfreeze", "hung disks"),
    ("strace", "slow and failing syncs"),
];

/// The program `name` in `$PATH` or where an administrator's programs are.
///
/// # Errors
/// There is none; the text says so, and what it is missed for if that is known.
pub fn program(name: &str) -> Result<PathBuf, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|directory| directory.join(name))
        .find(|file| file.is_file())
        .ok_or_else(|| {
            let needed = PROGRAMS.iter().find(|(program, _)| *program == name);
            match needed {
                Some((_, purpose)) => format!("{name} is not installed, which {purpose} need"),
                None => format!("{name} is not installed"),
            }
        })
}

/// Every program that faults are made with, and whether it is here.
pub fn programs() -> Vec<Ability> {
    PROGRAMS
        .iter()
        .map(|(name, _)| Ability {
            name: (*name).to_owned(),
            missing: program(name).err(),
        })
        .collect()
}

/// Has this process end at once when its parent ends.
///
/// # Errors
/// The kernel refuses.
pub fn end_with_parent() -> io::Result<()> {
    Ok(process::set_parent_process_death_signal(Some(
        process::Signal::KILL,
    ))?)
}
