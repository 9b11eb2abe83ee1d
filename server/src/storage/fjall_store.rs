//! The state store on disk: one fjall database, in a directory that is replaced as a whole.

use std::fs::{self, File};
use std::io;
use std::ops::Bound;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use baton_state_machine::{RowChange, Table};
use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::{Mutex, RwLock};

use super::{Rows, SCAN_BYTES, Snapshot, StateStore};
use crate::chaos::{Point, point};

/// Names the directory in use.
const CURRENT: &str = "CURRENT";
const CACHE_BYTES: u64 = 32 << 20;
/// Recovery after a crash reads at most this much journal, at about 10 ms per MB.
const JOURNAL_BYTES: u64 = 128 << 20;
/// How often a tree that changes underfoot is walked before that counts as an error.
const SYNC_WALKS_MAX: usize = 100;
const MEMTABLE_BYTES: u64 = 16 << 20;

/// Bytes of disk that the files below `dir` occupy. Journals are mostly holes, so their lengths say
/// little; files that vanish while they are looked at count as nothing.
fn allocated(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(found) if found.is_dir() => allocated(&entry.path()),
            Ok(found) if found.is_file() => found.blocks() * 512,
            _ => 0,
        })
        .sum()
}

/// Tables in a fjall database at `<dir>/state-<n>`, where `<dir>/CURRENT` says which.
///
/// After a crash it has a prefix of the batches, at least those before the last
/// [`sync`](StateStore::sync). After any error it must be opened anew.
pub struct FjallStore {
    dir: PathBuf,
    open: RwLock<Arc<Open>>,
    /// One replacement at a time.
    replacing: Mutex<()>,
}

/// Why the state cannot be opened. What it held can always be rebuilt: from the log if that goes back
/// far enough, otherwise from another member.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// What is there cannot be read.
    #[error("the state in {path} is damaged: {what}")]
    Damaged {
        /// The directory.
        path: PathBuf,
        /// What the store said.
        what: String,
    },
    /// The system refused to read or write.
    #[error("cannot use the state in {path}: {source}")]
    Io {
        /// The directory.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

/// An open database.
struct Open {
    /// `None` only while it is dropped.
    database: Option<Database>,
    rev: Keyspace,
    meta: Keyspace,
    path: PathBuf,
    /// Something else is in use now: the directory goes with the last reader.
    replaced: AtomicBool,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.database = None;
        if self.replaced.load(Ordering::Relaxed)
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            tracing::warn!(%error, path = %self.path.display(), "cannot remove replaced state");
        }
    }
}

impl Open {
    fn at(path: PathBuf) -> fjall::Result<Self> {
        let database = Database::builder(&path)
            .worker_threads(1)
            .manual_journal_persist(true)
            .max_journaling_size(JOURNAL_BYTES)
            .cache_size(CACHE_BYTES)
            .journal_compression(fjall::CompressionType::None)
            .open()?;
        let options = || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES);
        Ok(Self {
            rev: database.keyspace("rev", options)?,
            meta: database.keyspace("meta", options)?,
            database: Some(database),
            path,
            replaced: AtomicBool::new(false),
        })
    }

    fn database(&self) -> &Database {
        self.database.as_ref().expect("there until dropped")
    }

    fn table(&self, table: Table) -> &Keyspace {
        match table {
            Table::Rev => &self.rev,
            Table::Meta => &self.meta,
        }
    }

    fn tables(&self) -> [&Keyspace; 2] {
        [&self.rev, &self.meta]
    }
}

impl FjallStore {
    /// Opens the store in `dir`, or begins an empty one, and removes what an unfinished
    /// [`replace`](StateStore::replace) left there.
    ///
    /// # Errors
    /// [`StateError::Damaged`] if it must be [discarded](Self::discard) and rebuilt.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, StateError> {
        let dir = dir.into();
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| StateError::Io { path, source }
        };
        let name = match current(&dir).map_err(io(&dir))? {
            Some(name) => name,
            None => {
                let name = state_name(1);
                set_current(&dir, &name).map_err(io(&dir))?;
                name
            }
        };
        for other in state_names(&dir).map_err(io(&dir))? {
            if other != name {
                fs::remove_dir_all(dir.join(&other)).map_err(io(&dir.join(&other)))?;
            }
        }
        let path = dir.join(name);
        let open = Open::at(path.clone()).map_err(|error| match into_io(error) {
            Ok(source) => StateError::Io { path, source },
            Err(what) => StateError::Damaged { path, what },
        })?;
        Ok(Self {
            dir,
            open: RwLock::new(Arc::new(open)),
            replacing: Mutex::new(()),
        })
    }

    /// Removes the store in `dir`, which is not open, so that an empty one can be opened.
    ///
    /// # Errors
    /// What the system says.
    pub fn discard(dir: &Path) -> io::Result<()> {
        match fs::remove_file(dir.join(CURRENT)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => sync_dir(dir)?,
        }
        for name in state_names(dir)? {
            fs::remove_dir_all(dir.join(name))?;
        }
        sync_dir(dir)
    }

    fn current(&self) -> Arc<Open> {
        self.open.read().clone()
    }
}

impl std::fmt::Debug for FjallStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("FjallStore")
            .field(&self.current().path)
            .finish()
    }
}

impl FjallStore {
    fn compact(&self) -> io::Result<()> {
        let open = self.current();
        for table in open.tables() {
            table.rotate_memtable_and_wait().map_err(to_io)?;
            table.major_compact().map_err(to_io)?;
        }
        Ok(())
    }
}

impl StateStore for FjallStore {
    fn write(&self, rows: Vec<RowChange>) -> io::Result<()> {
        let open = self.current();
        let mut batch = open.database().batch();
        for row in rows {
            let table = open.table(row.table);
            match row.value {
                Some(value) => batch.insert(table, &row.key[..], &value[..]),
                None => batch.remove(table, &row.key[..]),
            }
        }
        batch.commit().map_err(to_io)
    }

    #[allow(clippy::disallowed_methods)] // The real seam: how long a sync takes is measured, never acted on.
    fn sync(&self) -> io::Result<()> {
        let start = Instant::now();
        self.current()
            .database()
            .persist(PersistMode::SyncAll)
            .map_err(to_io)?;
        metrics::histogram!("etcd_disk_backend_commit_duration_seconds").record(start.elapsed());
        Ok(())
    }

    fn get(&self, table: Table, key: &[u8]) -> io::Result<Option<Bytes>> {
        let value = self.current().table(table).get(key).map_err(to_io)?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn scan(&self, table: Table, from: Bound<&[u8]>, limit: usize) -> io::Result<Rows> {
        self.snapshot().scan(table, from, limit)
    }

    fn snapshot(&self) -> Arc<dyn Snapshot> {
        let open = self.current();
        Arc::new(FjallSnapshot {
            view: open.database().snapshot(),
            open,
        })
    }

    fn replace(
        &self,
        rows: &mut dyn Iterator<Item = io::Result<(Table, Bytes, Bytes)>>,
    ) -> io::Result<()> {
        let _one = self.replacing.lock();
        let path = {
            let names = state_names(&self.dir)?;
            let last = names.iter().filter_map(|name| state_number(name)).max();
            self.dir.join(state_name(last.unwrap_or(0) + 1))
        };
        let open = Open::at(path).map_err(to_io)?;
        open.replaced.store(true, Ordering::Relaxed);
        ingest(&open, rows)?;
        open.database()
            .persist(PersistMode::SyncAll)
            .map_err(to_io)?;
        sync_tree(&open.path)?;
        let name = open.path.file_name().unwrap_or_default().to_string_lossy();
        point(Point::ReplaceBeforeCurrent);
        set_current(&self.dir, &name)?;
        point(Point::ReplaceAfterCurrent);
        open.replaced.store(false, Ordering::Relaxed);
        let old = std::mem::replace(&mut *self.open.write(), Arc::new(open));
        old.replaced.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn disk_bytes(&self) -> u64 {
        allocated(&self.current().path)
    }

    #[allow(clippy::disallowed_methods)] // The real seam: compacting blocks, and how long is measured.
    fn reclaim(self: Arc<Self>) -> BoxFuture<'static, io::Result<()>> {
        let compacted = tokio::task::spawn_blocking(move || {
            let started = Instant::now();
            let inflight = metrics::gauge!("etcd_disk_defrag_inflight");
            inflight.increment(1.0);
            let compacted = self.compact();
            inflight.decrement(1.0);
            metrics::histogram!("etcd_disk_backend_defrag_duration_seconds")
                .record(started.elapsed());
            compacted
        });
        compacted
            .map(|result| result.unwrap_or_else(|error| Err(io::Error::other(error))))
            .boxed()
    }
}

/// Writes rows that come table by table in key order.
fn ingest(
    open: &Open,
    rows: &mut dyn Iterator<Item = io::Result<(Table, Bytes, Bytes)>>,
) -> io::Result<()> {
    let mut rows = rows.peekable();
    while let Some(table) = rows
        .peek()
        .and_then(|row| row.as_ref().ok())
        .map(|row| row.0)
    {
        let mut ingestion = open.table(table).start_ingestion().map_err(to_io)?;
        let of_table = |row: &io::Result<(Table, Bytes, Bytes)>| {
            row.as_ref().is_ok_and(|(next, _, _)| *next == table)
        };
        while let Some(row) = rows.next_if(of_table) {
            let (_, key, value) = row?;
            ingestion.write(&key[..], &value[..]).map_err(to_io)?;
        }
        ingestion.finish().map_err(to_io)?;
    }
    match rows.next() {
        Some(Err(error)) => Err(error),
        _ => Ok(()),
    }
}

struct FjallSnapshot {
    view: fjall::Snapshot,
    open: Arc<Open>,
}

impl Snapshot for FjallSnapshot {
    fn get(&self, table: Table, key: &[u8]) -> io::Result<Option<Bytes>> {
        let value = self.view.get(self.open.table(table), key).map_err(to_io)?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn scan(&self, table: Table, from: Bound<&[u8]>, limit: usize) -> io::Result<Rows> {
        let range = (from, Bound::Unbounded);
        let mut rows = Rows::new();
        let mut bytes = 0;
        let found = self.view.range::<&[u8], _>(self.open.table(table), range);
        for row in found.take(limit) {
            let (key, value) = row.into_inner().map_err(to_io)?;
            bytes += key.len() + value.len();
            rows.push((Bytes::copy_from_slice(&key), Bytes::copy_from_slice(&value)));
            if bytes >= SCAN_BYTES {
                break;
            }
        }
        Ok(rows)
    }
}

/// The directory in use, if the store was ever opened.
pub(super) fn current(dir: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(dir.join(CURRENT)) {
        Ok(name) => Ok(Some(name.trim_end().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn set_current(dir: &Path, name: &str) -> io::Result<()> {
    super::data_dir::write_durably(dir, CURRENT, format!("{name}\n").as_bytes())
}

fn state_name(number: u64) -> String {
    format!("state-{number}")
}

fn state_number(name: &str) -> Option<u64> {
    name.strip_prefix("state-")?.parse().ok()
}

fn state_names(dir: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        names.extend(entry?.file_name().into_string());
    }
    names.retain(|name| state_number(name).is_some());
    names.sort();
    Ok(names)
}

/// Syncs every file and directory below `dir`, where fjall's own worker may still rename and remove
/// files: a tree that changed underfoot is walked again.
fn sync_tree(dir: &Path) -> io::Result<()> {
    for _ in 1..SYNC_WALKS_MAX {
        match sync_tree_once(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => return result,
        }
    }
    sync_tree_once(dir)
}

fn sync_tree_once(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree_once(&entry.path())?;
        } else {
            File::open(entry.path())?.sync_all()?;
        }
    }
    sync_dir(dir)
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// The system's error, or what is damaged.
fn into_io(error: fjall::Error) -> Result<io::Error, String> {
    let damaged = |error: &io::Error| {
        matches!(
            error.kind(),
            io::ErrorKind::NotFound
                // A store whose creation was cut short.
                | io::ErrorKind::AlreadyExists
                | io::ErrorKind::UnexpectedEof
                | io::ErrorKind::InvalidData
        )
    };
    match error {
        fjall::Error::Io(error) | fjall::Error::Storage(fjall::LsmError::Io(error))
            if !damaged(&error) =>
        {
            Ok(error)
        }
        fjall::Error::Locked => Ok(io::Error::other("another process uses it")),
        error => Err(format!("{error:?}")),
    }
}

fn to_io(error: fjall::Error) -> io::Error {
    into_io(error).unwrap_or_else(|what| io::Error::new(io::ErrorKind::InvalidData, what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods, reason = "races with the file system")]
    fn a_tree_whose_files_come_and_go_is_synced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_owned();
        let stop = Arc::new(AtomicBool::new(false));
        let churn = {
            let stop = Arc::clone(&stop);
            let path = path.clone();
            std::thread::spawn(move || {
                for n in 0_u64.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let (new, last) = (path.join(format!("new-{n}")), path.join("last"));
                    fs::write(&new, b"x").unwrap();
                    fs::rename(new, last).unwrap();
                }
            })
        };
        let synced: Vec<_> = (0..50).map(|_| sync_tree(&path)).collect();
        stop.store(true, Ordering::Relaxed);
        churn.join().unwrap();
        assert!(synced.iter().all(Result::is_ok), "{synced:?}");
    }
}
