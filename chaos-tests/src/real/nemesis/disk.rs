//! Disks that lose their power, fill up, hang, slow down, fail or turn read-only. All but slow and failing syncs need a disk
//! of the member's own.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::process::Signal;
use tokio::sync::oneshot;

use super::process::{kill_all, settle, start_again};
use super::{Act, Trouble, need, skip};
use crate::plan::{DiskKind, Target};
use crate::real::disk::{self, Disk};
use crate::real::node::Node;

/// How long a write may take on a disk that answers.
const WRITES: Duration = Duration::from_secs(5);

/// A write that takes longer than this hangs.
const HANGS: Duration = Duration::from_millis(300);

pub(super) async fn power_cut(act: &mut Act, target: Target) -> Result<(), Trouble> {
    need("xfs_io")?;
    let nodes = act.take(target).await?;
    let disks = disks(act, &nodes)?;
    act.installing();
    let excuses: Vec<_> = nodes.iter().map(Node::excuse).collect();
    for disk in &disks {
        plant(&disk.path().join("kept"), true)?;
    }
    // The lights go out everywhere before anybody notices that a disk is gone.
    for node in &nodes {
        node.signal(Signal::STOP);
    }
    for disk in &disks {
        plant(&disk.path().join("lost"), false)?;
    }
    for disk in &disks {
        disk.cut_power().await?;
    }
    kill_all(&nodes).await;
    let mut proof = true;
    for disk in &disks {
        disk.unmount().await?;
        disk.mount().await?;
        let (kept, lost) = (disk.path().join("kept"), disk.path().join("lost"));
        proof &= is_planted(&kept) && !is_planted(&lost);
        for file in [kept, lost] {
            // Either may be gone already, which is what was just looked at.
            let _ = fs::remove_file(file);
        }
    }
    act.proved_if(proof, "what was synced is there, what was not is gone");
    act.hold().await;
    act.healing();
    drop(excuses);
    let text = start_again(&nodes).await?;
    act.healed(text);
    Ok(())
}

pub(super) async fn full(act: &mut Act, target: Target) -> Result<(), Trouble> {
    let nodes = act.take(target).await?;
    let disks = disks(act, &nodes)?;
    act.installing();
    let excuses: Vec<_> = nodes.iter().map(Node::excuse).collect();
    let mut proof = true;
    for disk in &disks {
        proof &= fill(&disk.path().join("filler"))?;
    }
    act.proved_if(proof, "a write fails with `no space left`");
    act.hold().await;
    act.healing();
    for disk in &disks {
        fs::remove_file(disk.path().join("filler"))?;
        let probe = disk.path().join("probe");
        plant(&probe, true).context("the disk is still full")?;
        fs::remove_file(probe)?;
    }
    settle(&nodes).await;
    drop(excuses);
    let text = start_again(&nodes).await?;
    act.healed(format!("writes go through; {text}"));
    Ok(())
}

pub(super) async fn hang(act: &mut Act, target: Target) -> Result<(), Trouble> {
    need("fsfreeze")?;
    let nodes = act.take(target).await?;
    let disks = disks(act, &nodes)?;
    act.installing();
    let frozen = Frozen::new(&disks).await?;
    let mut writes: Vec<_> = disks.iter().map(|disk| write_aside(disk)).collect();
    tokio::time::sleep(HANGS).await;
    let hang = writes.iter_mut().all(|write| write.try_recv().is_err());
    act.proved_if(hang, format!("a write has waited for {HANGS:?}"));
    act.hold().await;
    act.healing();
    frozen.thaw().await?;
    for write in writes {
        let written = tokio::time::timeout(WRITES, write).await;
        let ended = written.map_err(|_| anyhow!("a write still waits"))?;
        ended.context("the writing thread is gone")?;
    }
    act.healed("the write has ended");
    Ok(())
}

pub(super) async fn read_only(act: &mut Act, target: Target) -> Result<(), Trouble> {
    need("e2fsck")?;
    let nodes = act.take(target).await?;
    let disks = disks(act, &nodes)?;
    if disks.iter().any(|disk| disk.kind() != DiskKind::Ext4) {
        return skip("only ext4 turns read-only after an error");
    }
    act.installing();
    let excuses: Vec<_> = nodes.iter().map(Node::excuse).collect();
    for disk in &disks {
        disk.turn_read_only()?;
    }
    let refused = |disk: &&Disk| {
        let probe = File::create(disk.path().join("probe"));
        probe.is_err_and(|error| error.kind() == ErrorKind::ReadOnlyFilesystem)
    };
    let proof = disks.iter().all(refused);
    act.proved_if(proof, "a new file is refused with `read-only file system`");
    act.hold().await;
    act.healing();
    kill_all(&nodes).await;
    for disk in &disks {
        disk.repair().await?;
        let probe = disk.path().join("probe");
        plant(&probe, true).context("the disk is still read-only")?;
        fs::remove_file(probe)?;
    }
    drop(excuses);
    let text = start_again(&nodes).await?;
    act.healed(format!("repaired and written to; {text}"));
    Ok(())
}

/// The disks of members.
fn disks<'a>(act: &Act, nodes: &'a [Arc<Node>]) -> Result<Vec<&'a Disk>, Trouble> {
    let disks: Vec<&Disk> = nodes.iter().filter_map(|node| node.disk.as_ref()).collect();
    if disks.len() < nodes.len() {
        let boxed = act.cluster().boxed();
        let missing = [DiskKind::Ext4, DiskKind::Xfs].map(|kind| disk::missing(boxed, kind));
        let reason = missing.into_iter().flatten().next();
        return skip(format!(
            "members have no disks of their own: {}",
            reason.as_deref().unwrap_or("the plan gives them none")
        ));
    }
    Ok(disks)
}

const PLANTED: &[u8] = b"planted";

/// Writes a file, and makes it durable or not.
fn plant(path: &Path, sync: bool) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(PLANTED)?;
    if sync {
        file.sync_all()?;
        if let Some(directory) = path.parent() {
            File::open(directory)?.sync_all()?;
        }
    }
    Ok(())
}

fn is_planted(path: &Path) -> bool {
    fs::read(path).is_ok_and(|found| found == PLANTED)
}

/// Takes all space there is; whether none is left.
fn fill(path: &PathBuf) -> anyhow::Result<bool> {
    let file = File::create(path)?;
    let block = vec![1; 64 << 10];
    let mut end = 0;
    // The member may give space back meanwhile.
    for _ in 0..16 {
        let mut step = 256 << 20;
        while step >= 1 << 20 {
            match fallocate(&file, FallocateFlags::empty(), end, step) {
                Ok(()) => end += step,
                Err(_) => step /= 2,
            }
        }
        // More than there can be left.
        for _ in 0..64 {
            let written = file.write_all_at(&block, end);
            if let Err(error) = written.and_then(|()| file.sync_data()) {
                return Ok(error.kind() == ErrorKind::StorageFull);
            }
            end += 64 << 10;
        }
    }
    Ok(false)
}

/// Disks that hang until they are thawed, also if nobody gets around to it in good order.
struct Frozen<'a>(Vec<&'a Disk>);

impl<'a> Frozen<'a> {
    async fn new(disks: &[&'a Disk]) -> anyhow::Result<Self> {
        let mut frozen = Self(Vec::new());
        for disk in disks {
            disk.freeze().await?;
            frozen.0.push(disk);
        }
        Ok(frozen)
    }

    async fn thaw(mut self) -> anyhow::Result<()> {
        while let Some(disk) = self.0.pop() {
            disk.thaw().await?;
        }
        Ok(())
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        for disk in &self.0 {
            // A disk left frozen outlives its mount, and nothing is left to thaw it by.
            let _ = std::process::Command::new("fsfreeze")
                .arg("--unfreeze")
                .arg(disk.path())
                .status();
        }
    }
}

/// Writes to the disk in a thread of its own, which may have to wait for very long.
fn write_aside(disk: &Disk) -> oneshot::Receiver<()> {
    let path = disk.path().join("probe");
    let (done, is_done) = oneshot::channel();
    thread::spawn(move || {
        // What it tells is that it came to an end.
        let _ = plant(&path, true).and_then(|()| fs::remove_file(&path));
        let _ = done.send(());
    });
    is_done
}
