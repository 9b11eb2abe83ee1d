//! The writer: one batch after the other, and the segments they go to.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::entry::LogState;
use super::frame::{PAGE, SECTOR, framed_len, put_batch};
use super::recover::{Active, Place, Progress, Segment, SegmentId, next_after, recover};
use super::segment::{FILL_BYTES, Header, segment_len, serial_of, spare_name, spare_of};
use super::{LogOptions, Op, OpenError, Shared, Take};
use crate::chaos::{Mutant, Point, planted, point};
use crate::storage::{Disk, DiskFile};

/// Length of the first segment.
const FIRST_SEGMENT_BYTES: u64 = 4 << 20;
/// How many times longer the next segment is, up to the wanted length.
const GROWTH: u64 = 4;
/// Purged segments kept to be used again; more are removed.
const SPARES_MAX: usize = 2;

/// Owns the files that are written.
pub(super) struct Writer<D: Disk> {
    disk: Arc<D>,
    pub(super) options: LogOptions,
    segment: Arc<SegmentId>,
    file: D::File,
    /// Length of the segment.
    len: u64,
    /// Where the next batch goes.
    position: u64,
    /// What is written of the page that `position` lies in.
    page: Vec<u8>,
    /// Number of the next batch.
    batch: u64,
    chain: u32,
    /// Files ready to become a segment, with their lengths.
    spares: Vec<(String, u64)>,
    /// The next spare, while it is filled with zeros.
    filling: Option<Filling<D::File>>,
    /// Position from which on a spare is tried again after the disk was full.
    fill_again_at: u64,
    next_spare: u64,
    /// Encoded records of the batch.
    records: Vec<u8>,
}

struct Filling<F> {
    file: F,
    name: String,
    filled: u64,
    len: u64,
}

/// A batch that was written and not yet synced.
struct Written {
    place: Place,
    /// The segment that the batch begins.
    begins: Option<Segment>,
}

/// Writes the first `len` bytes of a file over themselves.
///
/// After a sync that failed, what was to be synced may stand in the kernel's memory alone, marked as written: it is read back,
/// and a later sync that succeeds does not write it (Rebello et al., "Can Applications Recover from fsync Failures?",
/// ATC 2020). What is written again is.
fn write_again(file: &mut impl DiskFile, len: u64) -> io::Result<()> {
    const STEP: u64 = 1 << 20;
    let mut bytes = Vec::new();
    let mut at = 0;
    while at < len {
        bytes.resize((len - at).min(STEP) as usize, 0);
        file.read_at(at, &mut bytes)?;
        file.write_at(at, &bytes)?;
        at += bytes.len() as u64;
    }
    Ok(())
}

impl<D: Disk> Writer<D> {
    /// Reads the log back, and makes it ready to be written.
    pub(super) fn open(disk: Arc<D>, options: LogOptions) -> Result<(Self, Progress), OpenError> {
        let mut names = disk.list().map_err(|source| OpenError::io("", source))?;
        let mut segments = segments(&names);
        if segments.is_empty() {
            if !options.create {
                return Err(OpenError::Missing);
            }
            begin(&*disk, options.segment_bytes, &names).map_err(|e| OpenError::io("", e))?;
            names = disk.list().map_err(|source| OpenError::io("", source))?;
            segments = self::segments(&names);
        }
        let mut progress = Progress::default();
        let active = recover(&*disk, &segments, &mut progress, options.tail_bytes)?;
        let writer = Self::after(disk, options, &active, &names).map_err(|source| {
            OpenError::io(segments.last().map_or("", |(_, name)| name), source)
        })?;
        Ok((writer, progress))
    }

    /// Settles what was read: after this it does not depend on what the kernel has not yet written.
    fn after(
        disk: Arc<D>,
        options: LogOptions,
        active: &Active,
        names: &[String],
    ) -> io::Result<Self> {
        let header = &active.header;
        let name = header.name();
        let mut file = disk.open(&name)?;
        let position = active.position;
        // What an unfinished write left behind carries the number of the next batch, and must not
        // be taken for a part of it.
        let remains = active.remains - position;
        if remains > 0 {
            file.write_at(position, &vec![0; remains as usize])?;
        }
        write_again(&mut file, position)?;
        file.sync()?;
        disk.sync_dir()?;
        let mut page = vec![0; position as usize % PAGE];
        file.read_at(position - page.len() as u64, &mut page)?;
        let mut writer = Self {
            segment: Arc::new(SegmentId {
                name,
                serial: header.serial,
            }),
            file,
            len: header.len,
            position,
            page,
            batch: active.batch,
            chain: active.chain,
            spares: Vec::new(),
            filling: None,
            fill_again_at: 0,
            next_spare: names
                .iter()
                .filter_map(|name| spare_of(name))
                .max()
                .map_or(0, |number| number + 1),
            records: Vec::new(),
            disk,
            options,
        };
        for name in names.iter().filter(|name| spare_of(name).is_some()) {
            let len = writer.disk.open(name)?.len()?;
            if len >= writer.next_len() && writer.spares.len() < SPARES_MAX {
                writer.spares.push((name.clone(), len));
            } else {
                writer.disk.remove(name)?;
            }
        }
        Ok(writer)
    }

    /// Writes until the last handle is dropped or the log fails.
    pub(super) fn run(mut self, shared: &Shared) {
        while let Some(ops) = shared.wait(self.options.batch_bytes) {
            let written = self.write(&ops, shared);
            let synced = written.and_then(|written| self.sync().map(|()| written));
            if !self.finish(synced, ops, shared) {
                return;
            }
        }
    }

    /// The same as a task.
    pub(super) async fn run_task(
        mut self,
        shared: Arc<Shared>,
        mut sync_delay: Box<dyn FnMut() -> Duration + Send>,
    ) {
        loop {
            let ops = match shared.take(self.options.batch_bytes) {
                Take::Ops(ops) => ops,
                Take::Closed => return,
                Take::Nothing => {
                    shared.work_task.notified().await;
                    continue;
                }
            };
            let written = self.write(&ops, &shared);
            tokio::time::sleep(sync_delay()).await;
            let synced = written.and_then(|written| self.sync().map(|()| written));
            if !self.finish(synced, ops, &shared) {
                return;
            }
        }
    }

    fn sync(&mut self) -> io::Result<()> {
        point(Point::LogBeforeSync);
        if !planted(Mutant::SkipLogSync) {
            self.file.sync()?;
        }
        point(Point::LogAfterSync);
        Ok(())
    }

    fn write(&mut self, ops: &[Op], shared: &Shared) -> io::Result<Written> {
        point(Point::LogBeforeWrite);
        self.records.clear();
        for record in ops.iter().flat_map(|op| &op.records) {
            record.encode(&mut self.records);
        }
        let len = framed_len(self.records.len());
        let mut begins = None;
        if self.position + len as u64 > self.len {
            let state = shared.inner.lock().content.state;
            begins = Some(self.begin_segment(state, len)?);
        }
        let page_at = self.position - self.page.len() as u64;
        let place = Place {
            first: 0,
            batch: self.batch,
            offset: self.position,
            len,
            segment: self.segment.clone(),
        };
        self.chain = put_batch(
            &mut self.page,
            self.position,
            self.segment.serial,
            self.batch,
            self.chain,
            &self.records,
        );
        let written = self.page.len();
        self.page.resize(written.next_multiple_of(PAGE), 0);
        self.file.write_at(page_at, &self.page)?;
        metrics::counter!("etcd_disk_wal_write_bytes_total").increment(len as u64);
        self.page.truncate(written);
        self.page.drain(..written / PAGE * PAGE);
        self.position += len as u64;
        self.batch += 1;
        Ok(Written { place, begins })
    }

    /// Tells everyone. False if the log has failed.
    fn finish(&mut self, synced: io::Result<Written>, mut ops: Vec<Op>, shared: &Shared) -> bool {
        let result = synced
            .and_then(|written| self.commit(written, &ops, shared))
            .and_then(|()| {
                for done in ops.iter_mut().filter_map(|op| op.done.take()) {
                    done(Ok(()));
                }
                self.retire(shared)?;
                self.prepare_next(shared)
            });
        if let Err(error) = &result {
            shared.fail(error, ops);
            (self.options.on_fatal)(error);
        }
        result.is_ok()
    }

    fn commit(&self, written: Written, ops: &[Op], shared: &Shared) -> io::Result<()> {
        let mut inner = shared.inner.lock();
        let inner = &mut *inner;
        inner.content.segments.extend(written.begins);
        inner
            .content
            .replay(ops.iter().flat_map(|op| &op.records), written.place)
            .map_err(|what| io::Error::new(io::ErrorKind::InvalidData, what))?;
        inner.voiding -= ops.iter().map(|op| op.voiding).sum::<usize>();
        if inner.voiding == 0 {
            let durable = next_after(inner.content.state.last);
            inner.tail.shrink(durable, shared.tail_bytes);
        }
        Ok(())
    }

    /// Length of the next segment.
    fn next_len(&self) -> u64 {
        segment_len(self.options.segment_bytes.min(self.len * GROWTH), 0)
    }

    /// Goes on in a new segment, which holds at least `needed` bytes.
    fn begin_segment(&mut self, state: LogState, needed: usize) -> io::Result<Segment> {
        let len = segment_len(self.next_len(), needed);
        let spare = loop {
            if let Some(i) = self.spares.iter().position(|(_, spare)| *spare >= len) {
                break self.spares.swap_remove(i);
            }
            if self
                .filling
                .as_ref()
                .is_none_or(|filling| filling.len < len)
            {
                self.drop_filling()?;
                self.start_filling(len)?;
            }
            self.fill_chunk()?;
        };
        let header = Header {
            serial: self.segment.serial + 1,
            len: spare.1,
            batch: self.batch,
            chain: self.chain,
            state,
        };
        self.file = make_segment(&*self.disk, &spare.0, &header)?;
        self.segment = Arc::new(SegmentId {
            name: header.name(),
            serial: header.serial,
        });
        self.len = header.len;
        self.position = SECTOR as u64;
        self.page = header.encode();
        self.fill_again_at = 0;
        Ok(Segment {
            id: self.segment.clone(),
            len: header.len,
            next_index: 0,
        })
    }

    /// Frees segments whose entries are all purged. One after the other, oldest first, so that what
    /// is left has no hole whenever the power fails.
    fn retire(&mut self, shared: &Shared) -> io::Result<()> {
        loop {
            let segment = {
                let content = &mut shared.inner.lock().content;
                let purged = next_after(content.state.purged);
                if content.segments.len() < 2 || content.segments[0].next_index > purged {
                    return Ok(());
                }
                content.segments.remove(0)
            };
            point(Point::PurgeBeforeRemove);
            if segment.len >= self.next_len() && self.spares.len() < SPARES_MAX {
                let name = self.spare_name();
                self.disk.rename(&segment.id.name, &name)?;
                self.spares.push((name, segment.len));
            } else {
                self.disk.remove(&segment.id.name)?;
            }
            point(Point::PurgeAfterRemove);
            self.disk.sync_dir()?;
        }
    }

    /// Fills the next segment with zeros while the second half of this one is written.
    fn prepare_next(&mut self, shared: &Shared) -> io::Result<()> {
        let half = self.len / 2;
        if !self.spares.is_empty() {
            shared.space_low.store(false, Ordering::Relaxed);
            return Ok(());
        }
        if self.position < half.max(self.fill_again_at) {
            return Ok(());
        }
        let mut step = || {
            if self.filling.is_none() {
                self.start_filling(self.next_len())?;
            }
            match &self.filling {
                Some(next) if next.filled * half < next.len * (self.position - half) => {
                    self.fill_chunk()
                }
                _ => Ok(()),
            }
        };
        match step() {
            Err(error) if out_of_space(&error) => {
                tracing::warn!(%error, "no space for the next segment of the log");
                shared.space_low.store(true, Ordering::Relaxed);
                self.fill_again_at = self.position + FILL_BYTES as u64;
                self.drop_filling()
            }
            result => {
                shared.space_low.store(false, Ordering::Relaxed);
                result
            }
        }
    }

    fn start_filling(&mut self, len: u64) -> io::Result<()> {
        let name = self.spare_name();
        self.filling = Some(Filling {
            file: self.disk.create(&name)?,
            name,
            filled: 0,
            len,
        });
        Ok(())
    }

    /// Fills on, and turns the file into a spare when it is full.
    fn fill_chunk(&mut self) -> io::Result<()> {
        let Some(mut filling) = self.filling.take() else {
            return Ok(());
        };
        let result = filling.step();
        if result.is_ok() && filling.filled == filling.len {
            self.spares.push((filling.name, filling.len));
        } else {
            self.filling = Some(filling);
        }
        result
    }

    fn drop_filling(&mut self) -> io::Result<()> {
        match self.filling.take() {
            Some(filling) => self.disk.remove(&filling.name),
            None => Ok(()),
        }
    }

    fn spare_name(&mut self) -> String {
        self.next_spare += 1;
        spare_name(self.next_spare - 1)
    }
}

impl<F: DiskFile> Filling<F> {
    fn step(&mut self) -> io::Result<()> {
        let len = (self.len - self.filled).min(FILL_BYTES as u64);
        self.file.write_at(self.filled, &vec![0; len as usize])?;
        self.filled += len;
        self.file.sync()
    }
}

/// The segments among the files, in order.
pub(super) fn segments(names: &[String]) -> Vec<(u32, String)> {
    let mut segments: Vec<_> = names
        .iter()
        .filter_map(|name| Some((serial_of(name)?, name.clone())))
        .collect();
    segments.sort();
    segments
}

/// Makes the first segment of a new log.
fn begin<D: Disk>(disk: &D, segment_bytes: u64, names: &[String]) -> io::Result<()> {
    for name in names.iter().filter(|name| spare_of(name).is_some()) {
        disk.remove(name)?;
    }
    let header = Header {
        serial: 1,
        len: segment_len(segment_bytes.min(FIRST_SEGMENT_BYTES), 0),
        batch: 1,
        chain: 0,
        state: LogState::default(),
    };
    let mut filling = Filling {
        name: spare_name(0),
        file: disk.create(&spare_name(0))?,
        filled: 0,
        len: header.len,
    };
    while filling.filled < filling.len {
        filling.step()?;
    }
    make_segment(disk, &filling.name, &header).map(|_| ())
}

/// Turns a spare into a segment. It has its name only once its header is durable.
fn make_segment<D: Disk>(disk: &D, spare: &str, header: &Header) -> io::Result<D::File> {
    let mut file = disk.open(spare)?;
    let mut page = header.encode();
    page.resize(PAGE, 0);
    file.write_at(0, &page)?;
    file.sync()?;
    point(Point::SegmentBeforeRename);
    disk.rename(spare, &header.name())?;
    point(Point::SegmentAfterRename);
    disk.sync_dir()?;
    Ok(file)
}

fn out_of_space(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}
