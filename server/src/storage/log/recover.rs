//! Reading the log back: replays every segment, and refuses what may be less than was acknowledged.

use std::collections::VecDeque;
use std::sync::Arc;

use super::OpenError;
use super::entry::{LogEntry, LogId, LogState};
use super::frame::{Found, SECTOR, read_batch};
use super::record::Record;
use super::segment::{self, Header};
use crate::storage::Disk;

/// Where a batch with entries stands.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// Index of its first entry that counts.
    pub(super) first: u64,
    pub(super) batch: u64,
    pub(super) offset: u64,
    pub(super) len: usize,
    pub(super) segment: Arc<SegmentId>,
}

/// A segment as readers know it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SegmentId {
    pub(super) name: String,
    pub(super) serial: u32,
}

/// A segment that holds something.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) id: Arc<SegmentId>,
    pub(super) len: u64,
    /// The index after the last one it holds that was not truncated since.
    pub(super) next_index: u64,
}

/// The durable log: its state, and where its entries stand.
#[derive(Debug, Default)]
pub(super) struct Content {
    pub(super) state: LogState,
    /// Index of the first entry that is still there, or where the next one goes.
    pub(super) first: u64,
    pub(super) places: VecDeque<Place>,
    /// Oldest first; the last one is written to.
    pub(super) segments: Vec<Segment>,
}

impl Content {
    /// The content of a log whose records up to `state` are gone.
    fn from_state(state: LogState) -> Self {
        Self {
            state,
            first: next_after(state.last),
            ..Self::default()
        }
    }

    /// Takes in the records of a batch that stands at `place` in the newest segment. An error says
    /// why they cannot follow what came before.
    pub(super) fn replay<'a>(
        &mut self,
        records: impl Iterator<Item = &'a Record>,
        place: Place,
    ) -> Result<(), String> {
        let mut first = None::<u64>;
        for record in records {
            match record {
                Record::Entry(LogEntry { id, .. }) => {
                    let next = next_after(self.state.last);
                    if id.index != next {
                        return Err(format!(
                            "entry {} stands where {next} is expected",
                            id.index
                        ));
                    }
                    self.state.last = Some(*id);
                    first = Some(first.unwrap_or(id.index));
                }
                Record::Vote(vote) => self.state.vote = Some(*vote),
                Record::Commit(id) => self.state.committed = self.state.committed.max(Some(*id)),
                Record::Truncate(last) => {
                    self.truncate(*last);
                    first = first.filter(|first| *first < next_after(*last));
                }
                Record::Purge(upto) => {
                    if self.state.last < Some(*upto) {
                        first = None;
                        self.truncate(Some(*upto));
                    }
                    self.purge(*upto);
                }
            }
        }
        if let Some(first) = first {
            if let Some(segment) = self.segments.last_mut() {
                segment.next_index = next_after(self.state.last);
            }
            self.places.push_back(Place { first, ..place });
        }
        Ok(())
    }

    fn truncate(&mut self, last: Option<LogId>) {
        let next = next_after(last);
        self.state.last = last;
        self.first = self.first.min(next);
        while self.places.back().is_some_and(|place| place.first >= next) {
            self.places.pop_back();
        }
        for segment in &mut self.segments {
            segment.next_index = segment.next_index.min(next);
        }
    }

    fn purge(&mut self, upto: LogId) {
        self.state.purged = self.state.purged.max(Some(upto));
        self.first = self.first.max(upto.index + 1);
        while self
            .places
            .get(1)
            .is_some_and(|next| next.first <= upto.index + 1)
        {
            self.places.pop_front();
        }
    }
}

/// The newest entries, in memory.
#[derive(Debug, Default)]
pub(super) struct Tail {
    pub(super) entries: VecDeque<LogEntry>,
    bytes: usize,
}

impl Tail {
    /// Takes in a record.
    pub(super) fn apply(&mut self, record: Record) {
        match record {
            Record::Entry(entry) => self.push(entry),
            Record::Truncate(last) => self.truncate(last),
            Record::Purge(upto) => self.purge(upto),
            Record::Vote(_) | Record::Commit(_) => {}
        }
    }

    fn push(&mut self, entry: LogEntry) {
        self.bytes += weight(&entry);
        self.entries.push_back(entry);
    }

    fn truncate(&mut self, last: Option<LogId>) {
        while self
            .entries
            .back()
            .is_some_and(|entry| entry.id.index >= next_after(last))
        {
            self.bytes -= self.entries.pop_back().as_ref().map_or(0, weight);
        }
    }

    /// Drops entries up to `upto`, and all if none comes after it.
    fn purge(&mut self, upto: LogId) {
        if self.entries.back().is_some_and(|entry| entry.id < upto) {
            self.truncate(None);
        }
        self.shrink(upto.index + 1, 0);
    }

    /// Drops the oldest entries below `index` until the rest takes no more than `bytes`.
    pub(super) fn shrink(&mut self, index: u64, bytes: usize) {
        while self.bytes > bytes
            && self
                .entries
                .front()
                .is_some_and(|entry| entry.id.index < index)
        {
            self.bytes -= self.entries.pop_front().as_ref().map_or(0, weight);
        }
    }
}

/// What was read so far, which is worth something to a human even if the rest is damaged.
#[derive(Debug, Default)]
pub(super) struct Progress {
    pub(super) content: Content,
    pub(super) tail: Tail,
}

/// Where a log that was read back goes on.
pub(super) struct Active {
    /// Header of the segment that is written to.
    pub(super) header: Header,
    /// Where the next batch goes.
    pub(super) position: u64,
    /// Where the remains of an unfinished write end; `position` if there are none.
    pub(super) remains: u64,
    /// Number of the next batch.
    pub(super) batch: u64,
    pub(super) chain: u32,
}

/// Reads the segments, whose serial numbers and names are given in order. Keeps the newest entries, up
/// to `tail_bytes`.
pub(super) fn recover<D: Disk>(
    disk: &D,
    names: &[(u32, String)],
    progress: &mut Progress,
    tail_bytes: usize,
) -> Result<Active, OpenError> {
    let Progress { content, tail } = progress;
    let mut previous = None::<(u32, String, u64, u64, u32)>;
    let mut active = None;
    for (i, (serial, name)) in names.iter().enumerate() {
        let (header, file) = segment::load(disk, name, *serial)?;
        if header.name() != *name {
            let what = format!("the file has another name: it was {}", header.name());
            return Err(OpenError::damaged(name, 0, &what));
        }
        if i == 0 {
            *content = Content::from_state(header.state);
        }
        if let Some((before, before_name, position, batch, chain)) = &previous {
            if before + 1 != *serial {
                let what = format!("the segment {} before it is missing", serial - 1);
                return Err(OpenError::damaged(name, 0, &what));
            }
            if (*batch, *chain) != (header.batch, header.chain) {
                let what = format!(
                    "the segment ends before batch {batch}, but the next one begins with {}",
                    header.batch
                );
                return Err(OpenError::damaged(before_name, *position, &what));
            }
            if content.state != header.state {
                return Err(OpenError::damaged(
                    name,
                    0,
                    "the segment does not begin with what the one before it ends with",
                ));
            }
        }
        let id = Arc::new(SegmentId {
            name: name.clone(),
            serial: *serial,
        });
        content.segments.push(Segment {
            id: id.clone(),
            len: header.len,
            next_index: 0,
        });
        let (mut position, mut batch, mut chain) = (SECTOR, header.batch, header.chain);
        let remains = loop {
            match read_batch(&file, position, *serial, batch, chain) {
                Found::Damage { offset, what } => {
                    return Err(OpenError::damaged(name, offset as u64, &what));
                }
                Found::End { remains } => break remains,
                Found::Batch {
                    records,
                    len,
                    chain: with,
                } => {
                    let damaged = |what: &str| OpenError::damaged(name, position as u64, what);
                    let records = Record::decode_all(&records)
                        .ok_or_else(|| damaged("a record cannot be decoded"))?;
                    let place = Place {
                        first: 0,
                        batch,
                        offset: position as u64,
                        len,
                        segment: id.clone(),
                    };
                    content
                        .replay(records.iter(), place)
                        .map_err(|what| damaged(&what))?;
                    for record in records {
                        tail.apply(record);
                    }
                    tail.shrink(u64::MAX, tail_bytes);
                    position += len;
                    batch += 1;
                    chain = with;
                }
            }
        };
        previous = Some((*serial, name.clone(), position as u64, batch, chain));
        if i + 1 == names.len() {
            active = Some(Active {
                header,
                position: position as u64,
                remains: remains as u64,
                batch,
                chain,
            });
        }
    }
    let purged = next_after(content.state.purged);
    if content.first > purged {
        let name = names.first().map_or("", |(_, name)| name);
        let what = format!(
            "the log begins with entry {}, but only entries before {purged} were purged: a segment is missing",
            content.first
        );
        return Err(OpenError::damaged(name, 0, &what));
    }
    active.ok_or(OpenError::Missing)
}

/// The index that follows.
pub(super) fn next_after(last: Option<LogId>) -> u64 {
    last.map_or(0, |last| last.index + 1)
}

/// Bytes an entry counts for in memory.
fn weight(entry: &LogEntry) -> usize {
    entry.payload.len() + 64
}
