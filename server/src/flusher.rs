//! Writes applied state to the state store, behind the answers.
//!
//! One task owns all writes, so batches land in apply order. An answer never waits for it; what waits
//! is the purge of the log, which goes only as far as a snapshot, and a snapshot is taken here after
//! a sync. When writing falls behind by more than [`QUEUE_BYTES_MAX`], proposals wait, and at
//! [`BACKLOG_BYTES_MAX`] applying does.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use baton_state_machine::{RowChange, Table};
use bytes::Bytes;
use tokio::sync::{Notify, mpsc, oneshot};

use crate::chaos::{Mutant, Point, planted, point};
use crate::storage::{Snapshot, StateStore};

/// Bytes of unwritten rows at which proposals begin to wait.
pub const QUEUE_BYTES_MAX: u64 = 64 << 20;
/// Bytes of unwritten rows at which applying waits. Only a member whose store is slower than the
/// leader's gets there: the proposals that feed it wait for another queue.
pub const BACKLOG_BYTES_MAX: u64 = 4 * QUEUE_BYTES_MAX;
/// A sync follows so many written bytes,
const SYNC_BYTES: u64 = 32 << 20;
/// or so much time with anything written.
const SYNC_INTERVAL: Duration = Duration::from_secs(5);
/// Rows written in one batch of the store.
const BATCH_ROWS: usize = 4096;

/// All rows of a snapshot, in key order.
pub type AllRows = Arc<Vec<(Table, Bytes, Bytes)>>;

enum Job {
    Write {
        rows: Vec<RowChange>,
        revision: Option<i64>,
        bytes: u64,
    },
    Snapshot(oneshot::Sender<io::Result<Arc<dyn Snapshot>>>),
    Replace {
        rows: AllRows,
        done: oneshot::Sender<io::Result<()>>,
    },
}

/// Where batches are handed over. Cheap to clone.
#[derive(Clone)]
pub struct Flusher {
    jobs: mpsc::UnboundedSender<Job>,
    queued: Arc<Queued>,
}

#[derive(Default)]
struct Queued {
    bytes: AtomicU64,
    drained: Notify,
}

/// What the flusher tells the rest of the server.
pub struct Hooks {
    /// Everything up to this revision can be read from the store.
    pub written: Box<dyn Fn(i64) + Send>,
    /// The store failed: state on disk is no longer what memory says.
    pub failed: Box<dyn Fn(io::Error) + Send>,
}

impl Flusher {
    /// The handle, and the work. [`Work::run`] is driven by a thread of its own, in simulation by a task.
    pub fn new(store: Arc<dyn StateStore>, hooks: Hooks) -> (Self, Work) {
        let (jobs, queue) = mpsc::unbounded_channel();
        let queued = Arc::new(Queued::default());
        let work = Work {
            store,
            hooks,
            queue,
            queued: queued.clone(),
            unsynced: 0,
        };
        (Self { jobs, queued }, work)
    }

    /// Queues rows. `revision` is the state's revision after them, `None` for rows that compaction
    /// removes. Called under the state's write lock, so that rows are queued in the order in which
    /// they changed.
    pub fn write(&self, rows: Vec<RowChange>, revision: Option<i64>) {
        let bytes = rows
            .iter()
            .map(|r| (r.key.len() + r.value.as_ref().map_or(0, Bytes::len) + 32) as u64)
            .sum();
        self.queued.bytes.fetch_add(bytes, Ordering::Relaxed);
        let _ = self.jobs.send(Job::Write {
            rows,
            revision,
            bytes,
        });
    }

    /// Waits while more than `bytes_max` are unwritten.
    pub async fn room(&self, bytes_max: u64) {
        while self.queued.bytes.load(Ordering::Relaxed) > bytes_max {
            let drained = self.queued.drained.notified();
            if self.queued.bytes.load(Ordering::Relaxed) <= bytes_max {
                return;
            }
            drained.await;
        }
    }

    /// A durable view of everything queued before.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn snapshot(&self) -> io::Result<Arc<dyn Snapshot>> {
        let (tx, rx) = oneshot::channel();
        let _ = self.jobs.send(Job::Snapshot(tx));
        rx.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// Replaces the content of the store durably.
    ///
    /// # Errors
    /// If the store fails; it then holds all of the old content.
    pub async fn replace(&self, rows: AllRows) -> io::Result<()> {
        let (done, rx) = oneshot::channel();
        let _ = self.jobs.send(Job::Replace { rows, done });
        rx.await.unwrap_or_else(|_| Err(stopped()))
    }
}

fn stopped() -> io::Error {
    io::Error::other("the state flusher stopped")
}

/// The flusher's own half.
pub struct Work {
    store: Arc<dyn StateStore>,
    hooks: Hooks,
    queue: mpsc::UnboundedReceiver<Job>,
    queued: Arc<Queued>,
    unsynced: u64,
}

impl Work {
    /// Runs until every [`Flusher`] is gone, or the store fails.
    pub async fn run(mut self) {
        if let Err(error) = self.flush_all().await {
            (self.hooks.failed)(error);
        }
    }

    async fn flush_all(&mut self) -> io::Result<()> {
        let mut jobs = Vec::new();
        loop {
            let received = if self.unsynced > 0 {
                let more = self.queue.recv_many(&mut jobs, 256);
                match tokio::time::timeout(SYNC_INTERVAL, more).await {
                    Ok(n) => n,
                    Err(_) => {
                        self.sync()?;
                        continue;
                    }
                }
            } else {
                self.queue.recv_many(&mut jobs, 256).await
            };
            if received == 0 {
                return self.sync();
            }
            self.run_jobs(&mut jobs)?;
            if self.unsynced >= SYNC_BYTES {
                self.sync()?;
            }
        }
    }

    fn run_jobs(&mut self, jobs: &mut Vec<Job>) -> io::Result<()> {
        let mut batch = Vec::new();
        let mut batch_bytes = 0;
        let mut batch_revision = None;
        for job in jobs.drain(..) {
            match job {
                Job::Write {
                    rows,
                    revision,
                    bytes,
                } => {
                    batch.extend(rows);
                    batch_bytes += bytes;
                    batch_revision = revision.or(batch_revision);
                    if batch.len() < BATCH_ROWS {
                        continue;
                    }
                    self.write(&mut batch, &mut batch_bytes, &mut batch_revision)?;
                }
                Job::Snapshot(tx) => {
                    self.write(&mut batch, &mut batch_bytes, &mut batch_revision)?;
                    self.sync()?;
                    let _ = tx.send(Ok(self.store.snapshot()));
                }
                Job::Replace { rows, done } => {
                    self.write(&mut batch, &mut batch_bytes, &mut batch_revision)?;
                    let mut rows = rows.iter().cloned().map(Ok);
                    self.store.replace(&mut rows)?;
                    self.unsynced = 0;
                    let _ = done.send(Ok(()));
                }
            }
        }
        self.write(&mut batch, &mut batch_bytes, &mut batch_revision)
    }

    fn write(
        &mut self,
        batch: &mut Vec<RowChange>,
        bytes: &mut u64,
        revision: &mut Option<i64>,
    ) -> io::Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        point(Point::FlushBeforeWrite);
        if planted(Mutant::AppliedApart) {
            let is_position = |row: &mut RowChange| row.key.starts_with(b"server/");
            let positions = batch.extract_if(.., is_position).collect();
            self.store.write(positions)?;
            point(Point::FlushAfterWrite);
        }
        self.store.write(std::mem::take(batch))?;
        point(Point::FlushAfterWrite);
        self.unsynced += *bytes;
        let before = self.queued.bytes.fetch_sub(*bytes, Ordering::Relaxed);
        if before > QUEUE_BYTES_MAX {
            self.queued.drained.notify_waiters();
        }
        *bytes = 0;
        if let Some(revision) = revision.take() {
            (self.hooks.written)(revision);
        }
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        if self.unsynced > 0 {
            point(Point::FlushBeforeSync);
            self.store.sync()?;
            point(Point::FlushAfterSync);
            self.unsynced = 0;
        }
        Ok(())
    }
}
