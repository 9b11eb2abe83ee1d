//! Records: what one batch of the log consists of.

use bytes::Bytes;

use super::entry::{LogEntry, LogId, LogState, Payload, Vote};

/// One change of the log. Replaying all of them in order gives the log's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    Entry(LogEntry),
    Vote(Vote),
    /// Entries after this one are void; all of them if `None`.
    Truncate(Option<LogId>),
    /// Entries up to this one are no longer needed.
    Purge(LogId),
    Commit(LogId),
}

const ENTRY: u8 = 1;
const VOTE: u8 = 2;
const TRUNCATE: u8 = 3;
const PURGE: u8 = 4;
const COMMIT: u8 = 5;

const BLANK: u8 = 0;
const COMMAND: u8 = 1;
const MEMBERSHIP: u8 = 2;

impl Record {
    /// Bytes that [`encode`](Self::encode) adds, or a few more.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Entry(entry) => 22 + entry.payload.len(),
            _ => 18,
        }
    }

    /// Appends the record: its kind, then fixed-width little-endian fields.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Entry(entry) => {
                out.push(ENTRY);
                put_id(out, entry.id);
                let (kind, bytes): (u8, &[u8]) = match &entry.payload {
                    Payload::Blank => (BLANK, &[]),
                    Payload::Command(bytes) => (COMMAND, bytes),
                    Payload::Membership(bytes) => (MEMBERSHIP, bytes),
                };
                out.push(kind);
                out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
                out.extend_from_slice(bytes);
            }
            Self::Vote(vote) => {
                out.push(VOTE);
                put_vote(out, *vote);
            }
            Self::Truncate(last) => {
                out.push(TRUNCATE);
                put_option(out, *last, put_id);
            }
            Self::Purge(id) => {
                out.push(PURGE);
                put_id(out, *id);
            }
            Self::Commit(id) => {
                out.push(COMMIT);
                put_id(out, *id);
            }
        }
    }

    /// The records of a batch; `None` if they cannot be decoded.
    pub(super) fn decode_all(mut input: &[u8]) -> Option<Vec<Self>> {
        let mut records = Vec::new();
        while !input.is_empty() {
            records.push(Self::decode(&mut input)?);
        }
        Some(records)
    }

    fn decode(input: &mut &[u8]) -> Option<Self> {
        Some(match take::<1>(input)? {
            [ENTRY] => {
                let id = take_id(input)?;
                let [kind] = take::<1>(input)?;
                let len = u32::from_le_bytes(take(input)?) as usize;
                let (bytes, rest) = input.split_at_checked(len)?;
                *input = rest;
                let bytes = Bytes::copy_from_slice(bytes);
                let payload = match kind {
                    BLANK if len == 0 => Payload::Blank,
                    COMMAND => Payload::Command(bytes),
                    MEMBERSHIP => Payload::Membership(bytes),
                    _ => return None,
                };
                Self::Entry(LogEntry { id, payload })
            }
            [VOTE] => Self::Vote(take_vote(input)?),
            [TRUNCATE] => Self::Truncate(take_option(input, take_id)?),
            [PURGE] => Self::Purge(take_id(input)?),
            [COMMIT] => Self::Commit(take_id(input)?),
            _ => return None,
        })
    }
}

/// Encodes the state a segment starts from.
pub(super) fn encode_state(state: &LogState, out: &mut Vec<u8>) {
    put_option(out, state.vote, put_vote);
    for id in [state.committed, state.purged, state.last] {
        put_option(out, id, put_id);
    }
}

/// The counterpart of [`encode_state`].
pub(super) fn decode_state(input: &mut &[u8]) -> Option<LogState> {
    Some(LogState {
        vote: take_option(input, take_vote)?,
        committed: take_option(input, take_id)?,
        purged: take_option(input, take_id)?,
        last: take_option(input, take_id)?,
    })
}

fn put_id(out: &mut Vec<u8>, id: LogId) {
    out.extend_from_slice(&id.term.to_le_bytes());
    out.extend_from_slice(&id.index.to_le_bytes());
}

fn put_vote(out: &mut Vec<u8>, vote: Vote) {
    out.extend_from_slice(&vote.term.to_le_bytes());
    out.extend_from_slice(&vote.member_id.to_le_bytes());
    out.push(u8::from(vote.committed));
}

fn put_option<T>(out: &mut Vec<u8>, value: Option<T>, put: fn(&mut Vec<u8>, T)) {
    out.push(u8::from(value.is_some()));
    if let Some(value) = value {
        put(out, value);
    }
}

/// Takes the next `N` bytes.
pub(super) fn take<const N: usize>(input: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = input.split_first_chunk::<N>()?;
    *input = rest;
    Some(*head)
}

fn take_u64(input: &mut &[u8]) -> Option<u64> {
    take(input).map(u64::from_le_bytes)
}

fn take_bool(input: &mut &[u8]) -> Option<bool> {
    match take::<1>(input)? {
        [0] => Some(false),
        [1] => Some(true),
        _ => None,
    }
}

fn take_id(input: &mut &[u8]) -> Option<LogId> {
    Some(LogId {
        term: take_u64(input)?,
        index: take_u64(input)?,
    })
}

fn take_vote(input: &mut &[u8]) -> Option<Vote> {
    Some(Vote {
        term: take_u64(input)?,
        member_id: take_u64(input)?,
        committed: take_bool(input)?,
    })
}

fn take_option<T>(input: &mut &[u8], take: fn(&mut &[u8]) -> Option<T>) -> Option<Option<T>> {
    Some(if take_bool(input)? {
        Some(take(input)?)
    } else {
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_record_survives_encoding() {
        let id = LogId { term: 3, index: 9 };
        let vote = Vote {
            term: 4,
            member_id: u64::MAX,
            committed: true,
        };
        let entry = |payload| Record::Entry(LogEntry { id, payload });
        let records = vec![
            entry(Payload::Blank),
            entry(Payload::Command(Bytes::from_static(b"command"))),
            entry(Payload::Membership(Bytes::new())),
            Record::Vote(vote),
            Record::Truncate(None),
            Record::Truncate(Some(id)),
            Record::Purge(id),
            Record::Commit(id),
        ];
        let mut out = Vec::new();
        for record in &records {
            let before = out.len();
            record.encode(&mut out);
            assert!(out.len() - before <= record.size(), "{record:?}");
        }
        assert_eq!(Record::decode_all(&out), Some(records));
    }

    #[test]
    fn a_cut_record_is_not_decoded() {
        let mut out = Vec::new();
        Record::Purge(LogId { term: 1, index: 2 }).encode(&mut out);
        for len in 1..out.len() {
            assert_eq!(Record::decode_all(&out[..len]), None);
        }
    }
}
