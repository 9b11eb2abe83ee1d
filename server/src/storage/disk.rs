//! The seam under the log: a directory of files.

use std::io;

/// A directory. The real one is the file system; the simulated one loses what was not synced.
///
/// Calls block. They are made from the log's own thread (in simulation: from its task).
pub trait Disk: Send + Sync + 'static {
    /// An open file.
    type File: DiskFile;

    /// Names of the files in the directory, sorted.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Opens an existing file for reading and writing.
    fn open(&self, name: &str) -> io::Result<Self::File>;
    /// Creates a file; an error if it exists.
    fn create(&self, name: &str) -> io::Result<Self::File>;
    /// Renames a file, replacing `to`.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes creations, renames and removals durable.
    fn sync_dir(&self) -> io::Result<()>;
}

/// An open file of a [`Disk`].
#[allow(clippy::len_without_is_empty)] // No one asks whether a file of the log is empty.
pub trait DiskFile: Send + 'static {
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Reads exactly `buf.len()` bytes at `offset`.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;
    /// Writes all of `buf` at `offset`; durable only after [`sync`](Self::sync).
    fn write_at(&mut self, offset: u64, buf: &[u8]) -> io::Result<()>;
    /// Cuts or extends the file with zeros.
    fn set_len(&mut self, len: u64) -> io::Result<()>;
    /// Makes all writes to this file durable. After an error nothing may be assumed of them.
    fn sync(&mut self) -> io::Result<()>;
}
