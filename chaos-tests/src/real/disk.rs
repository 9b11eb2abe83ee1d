//! A disk of a member's own: an image in the run's directory, mounted through a loop device.
//!
//! The mount is the box's alone, so it goes with the box, and with it the loop device. A power cut shuts the filesystem down
//! without writing anything that was not synced, as if the machine had lost its power; what the device itself was given
//! stays, for the host goes on.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::boxed::Boxed;
use super::host::program;
use super::tool::run;
use crate::plan::DiskKind;

/// Its size. XFS takes no less than 300 MiB; the image is sparse.
const BYTES: u64 = 512 << 20;

/// Why members cannot have disks of this kind here; nothing if they can, or need none.
pub fn missing(boxed: Boxed, kind: DiskKind) -> Option<String> {
    let make = mkfs(kind)?;
    if !boxed.privileged() {
        return Some("only root may mount disks".into());
    }
    program(make).err()
}

/// What makes a filesystem.
fn mkfs(kind: DiskKind) -> Option<&'static str> {
    match kind {
        DiskKind::Directory => None,
        DiskKind::Ext4 => Some("mkfs.ext4"),
        DiskKind::Xfs => Some("mkfs.xfs"),
    }
}

/// A disk.
#[derive(Debug)]
pub struct Disk {
    image: PathBuf,
    mount: PathBuf,
    kind: DiskKind,
}

impl Disk {
    /// Makes a disk with its image at `image` and mounts it at `mount`; `None` if `kind` asks for none.
    ///
    /// # Errors
    /// The host cannot make filesystems of this kind or cannot mount them.
    pub async fn make(image: &Path, mount: &Path, kind: DiskKind) -> Result<Option<Self>> {
        let Some(make) = mkfs(kind) else {
            return Ok(None);
        };
        fs::create_dir_all(mount)?;
        fs::File::create(image)?.set_len(BYTES)?;
        let path = text(image)?;
        let options: &[&str] = match kind {
            // Nothing is kept back for root, who fills disks here.
            DiskKind::Ext4 => &["-q", "-F", "-m", "0", path],
            _ => &["-q", "-f", path],
        };
        run(make, options).await?;
        let disk = Self {
            image: image.to_owned(),
            mount: mount.to_owned(),
            kind,
        };
        disk.mount().await?;
        Ok(Some(disk))
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mount
    }

    /// How much of it is taken, in KiB; 0 where it cannot say. Asks the filesystem, which answers even while it hangs.
    pub fn used_kib(&self) -> u64 {
        rustix::fs::statvfs(&self.mount).map_or(0, |it| {
            (it.f_blocks - it.f_bfree).saturating_mul(it.f_frsize) / 1024
        })
    }

    /// Its filesystem.
    pub fn kind(&self) -> DiskKind {
        self.kind
    }

    /// Mounts it; its filesystem repairs itself by its journal.
    ///
    /// # Errors
    /// It cannot be mounted.
    pub async fn mount(&self) -> Result<()> {
        let options = match self.kind {
            DiskKind::Ext4 => "loop,errors=remount-ro",
            _ => "loop",
        };
        run(
            "mount",
            &["-o", options, text(&self.image)?, text(&self.mount)?],
        )
        .await?;
        Ok(())
    }

    /// Takes the mount away. Nothing may use it any more.
    ///
    /// # Errors
    /// Something does.
    pub async fn unmount(&self) -> Result<()> {
        run("umount", &[text(&self.mount)?]).await?;
        Ok(())
    }

    /// Cuts the power: from here on the filesystem fails every access, and what was not synced is lost.
    ///
    /// # Errors
    /// There is no `xfs_io`, or the filesystem cannot be shut down.
    pub async fn cut_power(&self) -> Result<()> {
        // Without -f the log is not flushed first.
        run("xfs_io", &["-x", "-c", "shutdown", text(&self.mount)?]).await?;
        Ok(())
    }

    /// Makes every change of the filesystem wait.
    ///
    /// # Errors
    /// There is no `fsfreeze`, or the filesystem refuses.
    pub async fn freeze(&self) -> Result<()> {
        run("fsfreeze", &["--freeze", text(&self.mount)?]).await?;
        Ok(())
    }

    /// Lets them go on.
    ///
    /// # Errors
    /// It was not frozen.
    pub async fn thaw(&self) -> Result<()> {
        run("fsfreeze", &["--unfreeze", text(&self.mount)?]).await?;
        Ok(())
    }

    /// Turns an ext4 read-only, as its driver does after an error of the device.
    ///
    /// # Errors
    /// It is no ext4, or the driver has no such trigger.
    pub fn turn_read_only(&self) -> Result<()> {
        let trigger = format!("/sys/fs/ext4/{}/trigger_fs_error", self.device()?);
        fs::write(&trigger, "1").with_context(|| format!("cannot write {trigger}"))
    }

    /// Unmounts an ext4 with errors, repairs it and mounts it again.
    ///
    /// # Errors
    /// It cannot be repaired.
    pub async fn repair(&self) -> Result<()> {
        self.unmount().await?;
        // The program's exit code 1 says that it corrected something, which is what it is asked for: mounting decides.
        let repaired = run("e2fsck", &["-f", "-y", text(&self.image)?]).await;
        self.mount().await.map_err(|error| match repaired {
            Ok(_) => error,
            Err(complaint) => error.context(format!("{complaint:#}")),
        })
    }

    /// The name of the loop device.
    fn device(&self) -> Result<String> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let mount = text(&self.mount)?;
        for line in mounts.lines() {
            let mut fields = line.split(' ');
            if fields.nth(4) == Some(mount)
                && let Some((_, source)) = line.split_once(" - ")
                && let Some(device) = source.split(' ').nth(1)
            {
                return Ok(device.trim_start_matches("/dev/").to_owned());
            }
        }
        bail!("{mount} is not mounted")
    }

    /// Unmounts it for good and removes its image.
    ///
    /// # Errors
    /// It is in use.
    pub async fn discard(&self) -> Result<()> {
        self.unmount().await?;
        fs::remove_file(&self.image)?;
        Ok(())
    }
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("paths of a run have to be UTF-8")
}
