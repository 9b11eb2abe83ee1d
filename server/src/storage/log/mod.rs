//! The log: votes and entries, synced before anything is acknowledged.
//!
//! Calls only change memory and queue the change. One writer drains the queue: everything that waits
//! becomes one batch, one write, one sync, and then the callbacks, in the order of the calls. So votes
//! and entries become durable strictly in the order in which they were given, and one sync serves as
//! many callers as there are.
//!
//! # Promises
//! After a crash, [`Log::open`] gives everything whose callback was called with `Ok`, in a prefix of
//! all that was given — or refuses and says why. [`frame`] has the reasoning.
//!
//! # Failure
//! A write or a sync that fails may have done anything; the kernel may even have dropped the data and
//! report success next time. So the log never tries again: the callbacks of that batch and all later
//! calls fail, and [`LogOptions::on_fatal`] is called, which is expected to end the process.
//!
//! A full disk is no different, but it comes late: segments are filled with zeros before they are
//! used, and the next one while the current one still has room. If the next one cannot be made,
//! [`Log::space_low`] turns true and the log goes on until the current segment is full; only then it
//! fails. Nothing that was acknowledged is lost, and after space was made the member can be started
//! again.
//!
//! # Files
//! `<serial>-<first index>.log` are the segments, `spare-<n>` files that can become one. A new log
//! starts with a small segment; each next one is four times as long, up to
//! [`LogOptions::segment_bytes`]. Purged segments become spares and are used again without being
//! zeroed: the serial number tells old content from new.

mod entry;
mod frame;
mod record;
mod recover;
mod segment;
mod writer;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::sync::Notify;

pub use entry::{LogEntry, LogId, LogState, Payload, Vote};
use record::Record;
use recover::{Content, Place, Tail, next_after};

use super::{Disk, DiskFile};

/// Called once, when a change is durable or never will be.
pub type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// How a log is kept.
pub struct LogOptions {
    /// Length of a segment, once the log has grown.
    pub segment_bytes: u64,
    /// Bytes of entries kept in memory.
    pub tail_bytes: usize,
    /// About how much one batch may hold; a single call may hold more.
    pub batch_bytes: usize,
    /// Start an empty log if there is none. Otherwise that is [`OpenError::Missing`].
    pub create: bool,
    /// Called once if the log failed. The process must end: nothing can be acknowledged any more.
    pub on_fatal: Box<dyn Fn(&io::Error) + Send + Sync>,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            tail_bytes: 16 << 20,
            batch_bytes: 4 << 20,
            create: true,
            on_fatal: Box::new(|_| {}),
        }
    }
}

/// Who runs the writer.
pub enum Driver {
    /// A thread of its own.
    Thread,
    /// A task on the current tokio runtime, for simulation.
    Task {
        /// How long the next sync takes.
        sync_delay: Box<dyn FnMut() -> Duration + Send>,
    },
}

/// Why a log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no log, and there should be one.
    #[error(
        "the log is gone. This member may have voted and acknowledged writes that it no longer knows of, so it must not go on under its id: remove it from the cluster and add it again with an empty data directory, or restore a backup if it is the only member"
    )]
    Missing,
    /// Something that was synced is no longer what it was.
    #[error(
        "the log is damaged in {0}. Nothing was changed. Entries that this member acknowledged may be lost, so it must not go on under its id: remove it from the cluster and add it again with an empty data directory, or restore a backup if it is the only member"
    )]
    Damaged(Damage),
    /// A later version of the program wrote it.
    #[error(
        "{file} has log format {found}, and this version knows formats up to {known}: start the version that wrote it"
    )]
    NewerFormat {
        /// Name of the file in the log directory.
        file: String,
        /// Its format.
        found: u32,
        /// The newest format known here.
        known: u32,
    },
    /// The system refused to read or write.
    #[error("cannot read or write {file:?} of the log: {source}")]
    Io {
        /// Name of the file in the log directory; empty for the directory itself.
        file: String,
        /// What the system said.
        source: io::Error,
    },
}

/// What is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file} at byte {offset}: {what}")]
pub struct Damage {
    /// Name of the file in the log directory.
    pub file: String,
    /// Offset in the file.
    pub offset: u64,
    /// What was found.
    pub what: String,
}

impl OpenError {
    fn damaged(file: &str, offset: u64, what: &str) -> Self {
        Self::Damaged(Damage {
            file: file.to_owned(),
            offset,
            what: what.to_owned(),
        })
    }

    fn io(file: &str, source: io::Error) -> Self {
        Self::Io {
            file: file.to_owned(),
            source,
        }
    }
}

/// The log of one member. Clones share it; when the last one is dropped, what was queued is written
/// and the writer ends.
#[derive(Clone)]
pub struct Log {
    shared: Arc<Shared>,
    _open: Arc<OpenGuard>,
}

/// What handles and writer share.
struct Shared {
    inner: Mutex<Inner>,
    /// Wakes the writer, whichever kind it is.
    work: Condvar,
    work_task: Notify,
    space_low: AtomicBool,
    tail_bytes: usize,
    /// Reads from a file of the log: name, offset, buffer.
    read: ReadFile,
}

type ReadFile = Box<dyn Fn(&str, u64, &mut [u8]) -> io::Result<()> + Send + Sync>;

struct Inner {
    /// The log as callers see it: what was given, durable or not.
    state: LogState,
    tail: Tail,
    /// The log on disk.
    content: Content,
    queue: VecDeque<Op>,
    /// Records in the queue that void entries. While there are any, `content` may hold other entries
    /// than `tail` at the same index.
    voiding: usize,
    closed: bool,
    failed: Option<Failure>,
}

/// One call, as the writer gets it.
struct Op {
    records: Vec<Record>,
    /// How many of them void entries.
    voiding: usize,
    done: Option<Done>,
}

/// What the writer does next.
enum Take {
    Ops(Vec<Op>),
    /// Nothing yet.
    Nothing,
    /// Nothing ever.
    Closed,
}

#[derive(Clone)]
struct Failure {
    kind: io::ErrorKind,
    text: String,
}

impl Failure {
    fn error(&self) -> io::Error {
        io::Error::new(self.kind, format!("the log has failed: {}", self.text))
    }
}

/// Ends the writer when the last handle goes.
struct OpenGuard {
    shared: Arc<Shared>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.shared.inner.lock().closed = true;
        self.shared.wake();
        if let Some(thread) = self.thread.lock().take()
            && thread.thread().id() != std::thread::current().id()
        {
            // A panic of the writer was reported when it happened.
            let _ = thread.join();
        }
    }
}

/// What can be read of a log.
#[derive(Debug)]
pub struct Survey {
    /// Its state, as far as it was read.
    pub state: LogState,
    /// The entries that are neither purged nor void, as far as they were read.
    pub entries: Vec<LogEntry>,
    /// File names and lengths in bytes of the segments that were read, and of the one that was not.
    pub segments: Vec<(String, u64)>,
    /// Why the log cannot be opened, if it cannot.
    pub error: Option<OpenError>,
}

/// Reads a log without changing it, as far as it goes.
pub fn survey<D: Disk>(disk: &D) -> Survey {
    let mut progress = recover::Progress::default();
    let result = disk
        .list()
        .map_err(|source| OpenError::io("", source))
        .and_then(|names| {
            let names = writer::segments(&names);
            recover::recover(disk, &names, &mut progress, usize::MAX)
        });
    let segments = progress.content.segments.iter();
    Survey {
        state: progress.content.state,
        segments: segments.map(|s| (s.id.name.clone(), s.len)).collect(),
        entries: progress.tail.entries.into(),
        error: result.err(),
    }
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Log").field(&self.state()).finish()
    }
}

impl Log {
    /// Opens the log in `disk`, replays it, and starts its writer.
    ///
    /// # Errors
    /// If the log cannot be read, or might hold less than was acknowledged. Nothing was changed then.
    ///
    /// # Panics
    /// With [`Driver::Task`] outside of a tokio runtime.
    pub fn open<D: Disk>(disk: D, options: LogOptions, driver: Driver) -> Result<Self, OpenError> {
        let disk = Arc::new(disk);
        let (writer, progress) = writer::Writer::open(disk.clone(), options)?;
        let tail_bytes = writer.options.tail_bytes;
        let shared = Arc::new(Shared {
            inner: Mutex::new(Inner {
                state: progress.content.state,
                tail: progress.tail,
                content: progress.content,
                queue: VecDeque::new(),
                voiding: 0,
                closed: false,
                failed: None,
            }),
            work: Condvar::new(),
            work_task: Notify::new(),
            space_low: AtomicBool::new(false),
            tail_bytes,
            read: Box::new(move |name, offset, buf| disk.open(name)?.read_at(offset, buf)),
        });
        let thread = match driver {
            #[allow(clippy::disallowed_methods)] // The real seam; in simulation it is a task.
            Driver::Thread => {
                let shared = shared.clone();
                let thread = std::thread::Builder::new()
                    .name("log".to_owned())
                    .spawn(move || writer.run(&shared))
                    .map_err(|source| OpenError::io("", source))?;
                Some(thread)
            }
            Driver::Task { sync_delay } => {
                tokio::spawn(writer.run_task(shared.clone(), sync_delay));
                None
            }
        };
        Ok(Self {
            _open: Arc::new(OpenGuard {
                shared: shared.clone(),
                thread: Mutex::new(thread),
            }),
            shared,
        })
    }

    /// The log as it will be once everything given so far is durable.
    pub fn state(&self) -> LogState {
        self.shared.inner.lock().state
    }

    /// Whether the next segment could not be made because the disk is full. The log goes on until
    /// the current one is full.
    pub fn space_low(&self) -> bool {
        self.shared.space_low.load(Ordering::Relaxed)
    }

    /// Appends entries, which can be read at once. `done` is called when they are durable.
    ///
    /// Entries that do not follow the last one are refused through `done`; nothing is changed then.
    pub fn append(&self, entries: Vec<LogEntry>, done: Done) {
        self.submit(entries.into_iter().map(Record::Entry).collect(), Some(done));
    }

    /// Saves a vote. `done` is called when it is durable.
    pub fn save_vote(&self, vote: Vote, done: Done) {
        self.submit(vec![Record::Vote(vote)], Some(done));
    }

    /// Notes that entries up to `id` are committed. It is written with the next batch: what is lost
    /// is learned again from the leader.
    pub fn save_committed(&self, id: LogId) {
        self.submit(vec![Record::Commit(id)], None);
    }

    /// Voids the entries after `last`, all of them if `None`. `done` is called when that is durable.
    pub fn truncate_after(&self, last: Option<LogId>, done: Done) {
        self.submit(vec![Record::Truncate(last)], Some(done));
    }

    /// Drops the entries up to `upto`, which need not be there: after a snapshot the log begins
    /// behind it. Whole segments are freed. `done` is called when the purge is durable.
    pub fn purge(&self, upto: LogId, done: Done) {
        self.submit(vec![Record::Purge(upto)], Some(done));
    }

    fn submit(&self, records: Vec<Record>, done: Option<Done>) {
        let mut inner = self.shared.inner.lock();
        let refused = match &inner.failed {
            Some(failure) => Some(failure.error()),
            None => inner.gap(&records),
        };
        if let Some(error) = refused {
            drop(inner);
            if let Some(done) = done {
                done(Err(error));
            }
            return;
        }
        let before = inner.voiding;
        for record in &records {
            inner.accept(record);
        }
        let wake = done.is_some();
        let voiding = inner.voiding - before;
        inner.queue.push_back(Op {
            records,
            voiding,
            done,
        });
        drop(inner);
        if wake {
            self.shared.wake();
        }
    }

    /// Entries with an index from `from` up to, not including, `to`; at least one if there is one,
    /// and no more than fit into `max_bytes`. Those not in memory are read from the disk.
    ///
    /// # Errors
    /// `NotFound` if entry `from` is purged; otherwise what the disk said, or `InvalidData` if it
    /// gave something else than was written. A caller may treat every one of them as fatal if it
    /// does not ask for what it purged.
    pub fn entries(&self, from: u64, to: u64, max_bytes: usize) -> io::Result<Vec<LogEntry>> {
        let mut found = Vec::<LogEntry>::new();
        let mut bytes = 0;
        loop {
            let next = found.last().map_or(from, |entry| entry.id.index + 1);
            let (places, limit) = {
                let inner = self.shared.inner.lock();
                if next < next_after(inner.state.purged) {
                    return Err(io::Error::new(io::ErrorKind::NotFound, "entry is purged"));
                }
                let to = to.min(next_after(inner.state.last));
                if next >= to || (bytes >= max_bytes && !found.is_empty()) {
                    return Ok(found);
                }
                let first = inner
                    .tail
                    .entries
                    .front()
                    .map_or(to, |entry| entry.id.index);
                if next >= first {
                    let skip = (next - first) as usize;
                    for entry in inner.tail.entries.range(skip..(to - first) as usize) {
                        bytes += entry.payload.len();
                        if bytes > max_bytes && !found.is_empty() {
                            break;
                        }
                        found.push(entry.clone());
                    }
                    return Ok(found);
                }
                let limit = to.min(first);
                (
                    inner.places(next, limit, max_bytes.saturating_sub(bytes)),
                    limit,
                )
            };
            for (entry, end) in self.read_places(&places)? {
                let wanted = found.last().map_or(from, |entry| entry.id.index + 1);
                if entry.id.index == wanted && wanted < end.min(limit) {
                    bytes += entry.payload.len();
                    if bytes > max_bytes && !found.is_empty() {
                        return Ok(found);
                    }
                    found.push(entry);
                }
            }
            if found.last().is_none_or(|entry| entry.id.index < next) {
                // Purged and overwritten while we read, or something is very wrong.
                if next >= next_after(self.state().purged) {
                    let text = format!("entry {next} is not where it was written");
                    return Err(io::Error::new(io::ErrorKind::InvalidData, text));
                }
            }
        }
    }

    /// The entries of batches that stand one after the other in one segment, each with the index
    /// at which its batch ends to count.
    fn read_places(&self, places: &[(Place, u64)]) -> io::Result<Vec<(LogEntry, u64)>> {
        let (Some((first, _)), Some((last, _))) = (places.first(), places.last()) else {
            return Ok(Vec::new());
        };
        let mut bytes = vec![0; (last.offset - first.offset) as usize + last.len];
        match (self.shared.read)(&first.segment.name, first.offset, &mut bytes) {
            // The segment was purged meanwhile; the caller looks at that.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            result => result?,
        }
        let mut entries = Vec::new();
        for (place, end) in places {
            let at = (place.offset - first.offset) as usize;
            let batch = &bytes[at..at + place.len];
            let records =
                frame::reread_batch(batch, place.offset, place.segment.serial, place.batch);
            let Some(records) = records.and_then(|records| Record::decode_all(&records)) else {
                break;
            };
            let mut batch = Tail::default();
            for record in records {
                batch.apply(record);
            }
            entries.extend(batch.entries.into_iter().map(|entry| (entry, *end)));
        }
        Ok(entries)
    }
}

impl Inner {
    /// Why the entries in `records` cannot be appended, if they cannot.
    fn gap(&self, records: &[Record]) -> Option<io::Error> {
        let entries = records.iter().filter_map(|record| match record {
            Record::Entry(entry) => Some(entry),
            _ => None,
        });
        let (next, entry) = (next_after(self.state.last)..)
            .zip(entries)
            .find(|(next, entry)| entry.id.index != *next)?;
        let text = format!("entry {} given where {next} comes next", entry.id.index);
        Some(io::Error::new(io::ErrorKind::InvalidInput, text))
    }

    /// Changes what callers see.
    fn accept(&mut self, record: &Record) {
        let state = &mut self.state;
        match record {
            Record::Entry(entry) => state.last = Some(entry.id),
            Record::Vote(vote) => state.vote = Some(*vote),
            Record::Commit(id) => state.committed = state.committed.max(Some(*id)),
            Record::Truncate(last) => {
                state.last = *last;
                self.voiding += 1;
            }
            Record::Purge(upto) => {
                state.purged = state.purged.max(Some(*upto));
                if state.last < Some(*upto) {
                    state.last = Some(*upto);
                    self.voiding += 1;
                }
            }
        }
        self.tail.apply(record.clone());
    }

    /// Takes what goes into the next batch.
    fn take(&mut self, batch_bytes: usize) -> Take {
        if !self.closed && self.queue.iter().all(|op| op.done.is_none()) {
            return Take::Nothing;
        }
        let mut bytes = 0;
        let mut ops = Vec::new();
        while bytes < batch_bytes
            && let Some(op) = self.queue.pop_front()
        {
            bytes += op.records.iter().map(Record::size).sum::<usize>();
            ops.push(op);
        }
        if ops.is_empty() {
            Take::Closed
        } else {
            Take::Ops(ops)
        }
    }

    /// Where entries from `from` up to `to` stand: batches of one segment that lie side by side,
    /// about `max_bytes` of them, each with the index at which it ends to count.
    fn places(&self, from: u64, to: u64, max_bytes: usize) -> Vec<(Place, u64)> {
        let places = &self.content.places;
        let start = places.partition_point(|place| place.first <= from);
        let mut found = Vec::<(Place, u64)>::new();
        for i in start.saturating_sub(1)..places.len() {
            let place = &places[i];
            let end = places.get(i + 1).map_or(u64::MAX, |next| next.first);
            if let Some((first, _)) = found.first() {
                if place.first >= to || place.segment != first.segment {
                    break;
                }
                let span = (place.offset - first.offset) as usize + place.len;
                if span > max_bytes {
                    break;
                }
            }
            found.push((place.clone(), end));
        }
        found
    }
}

impl Shared {
    fn wake(&self) {
        self.work.notify_one();
        self.work_task.notify_one();
    }

    /// Waits for work. `None` if there is none and never will be.
    fn wait(&self, batch_bytes: usize) -> Option<Vec<Op>> {
        let mut inner = self.inner.lock();
        loop {
            match inner.take(batch_bytes) {
                Take::Ops(ops) => return Some(ops),
                Take::Closed => return None,
                Take::Nothing => self.work.wait(&mut inner),
            }
        }
    }

    fn take(&self, batch_bytes: usize) -> Take {
        self.inner.lock().take(batch_bytes)
    }

    /// Fails the log: `ops` and whatever is queued.
    fn fail(&self, error: &io::Error, ops: Vec<Op>) {
        let failure = Failure {
            kind: error.kind(),
            text: error.to_string(),
        };
        let queued = {
            let mut inner = self.inner.lock();
            inner.failed = Some(failure.clone());
            std::mem::take(&mut inner.queue)
        };
        for done in ops.into_iter().chain(queued).filter_map(|op| op.done) {
            done(Err(failure.error()));
        }
    }
}
