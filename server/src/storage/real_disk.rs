//! The file system.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::time::Instant;

use super::{Disk, DiskFile};

/// A directory of the file system.
#[derive(Clone, Debug)]
pub struct RealDisk {
    dir: PathBuf,
}

impl RealDisk {
    /// The directory `dir`, which exists.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }
}

impl Disk for RealDisk {
    type File = RealFile;

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                names.extend(entry.file_name().into_string());
            }
        }
        names.sort();
        Ok(names)
    }

    fn open(&self, name: &str) -> io::Result<RealFile> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(self.dir.join(name))
            .map(RealFile)
    }

    fn create(&self, name: &str) -> io::Result<RealFile> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(self.dir.join(name))
            .map(RealFile)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.dir.join(from), self.dir.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.dir.join(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        File::open(&self.dir)?.sync_all()
    }
}

/// A file of a [`RealDisk`].
#[derive(Debug)]
pub struct RealFile(File);

impl DiskFile for RealFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(buf, offset)
    }

    #[allow(clippy::disallowed_methods)] // The real seam: how long a write takes is measured, never acted on.
    fn write_at(&mut self, offset: u64, buf: &[u8]) -> io::Result<()> {
        let start = Instant::now();
        self.0.write_all_at(buf, offset)?;
        metrics::histogram!("etcd_disk_wal_write_duration_seconds").record(start.elapsed());
        Ok(())
    }

    fn set_len(&mut self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    #[allow(clippy::disallowed_methods)] // The real seam: how long a sync takes is measured, never acted on.
    fn sync(&mut self) -> io::Result<()> {
        let start = Instant::now();
        self.0.sync_data()?;
        metrics::histogram!("etcd_disk_wal_fsync_duration_seconds").record(start.elapsed());
        Ok(())
    }
}
