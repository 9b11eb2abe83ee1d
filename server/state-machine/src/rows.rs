//! How the state is spelled in the rows of the state store.
//!
//! | Table | Key | Value |
//! |---|---|---|
//! | Rev | revision key, `t` appended on a tombstone | `mvccpb.KeyValue`; of a tombstone only the key |
//! | Meta | `alarm/` member (8 bytes) type (1 byte) | empty |
//! | Meta | `compact` | compact revision (8 bytes) |
//! | Meta | `lease/` id (8 bytes) | `log.StoredLease` |
//! | Meta | `member/` id (8 bytes) | `log.StoredMember` |
//!
//! The revision of the store has no row of its own: compaction never removes what lies above the
//! compact revision, so it is the highest revision among the rows, or the compact revision.
//! Numbers are big-endian, so that key order is number order.

use baton_proto::etcdserverpb as pb;
use baton_proto::log::{StoredLease, StoredMember};
use baton_proto::mvccpb::KeyValue;
use bytes::Bytes;
use prost::Message;

use crate::{Rev, RowChange, Table};

/// Bytes of a revision key, without the mark of a tombstone.
pub(crate) const REV_KEY_LEN: usize = 17;
pub(crate) const TOMBSTONE_MARK: u8 = b't';

pub(crate) const ALARM: &[u8] = b"alarm/";
pub(crate) const COMPACT: &[u8] = b"compact";
pub(crate) const LEASE: &[u8] = b"lease/";
pub(crate) const MEMBER: &[u8] = b"member/";
/// Rows of the layer above: not ours to judge.
pub(crate) const SERVER: &[u8] = b"server/";

impl Rev {
    /// The key of the row of a pair written here, in [`Table::Rev`]. (Tombstones have one byte more.)
    pub fn row_key(self) -> [u8; REV_KEY_LEN] {
        let mut key = [b'_'; REV_KEY_LEN];
        key[..8].copy_from_slice(&self.main.to_be_bytes());
        key[9..].copy_from_slice(&self.sub.to_be_bytes());
        key
    }

    /// Reads a row key of [`Table::Rev`]; the flag tells whether it is a tombstone. `None` if it is
    /// not a row key.
    pub fn from_row_key(key: &[u8]) -> Option<(Rev, bool)> {
        let (rev, mark) = key.split_at_checked(REV_KEY_LEN)?;
        let tombstone = match mark {
            [] => false,
            [TOMBSTONE_MARK] => true,
            _ => return None,
        };
        if rev[8] != b'_' {
            return None;
        }
        let main = i64::from_be_bytes(rev[..8].try_into().ok()?);
        let sub = i64::from_be_bytes(rev[9..].try_into().ok()?);
        (main > 0 && (0..=i64::from(u32::MAX)).contains(&sub))
            .then_some((Rev { main, sub }, tombstone))
    }
}

/// Encodes the row of a pair. Key and value of the returned pair are slices of the row, so that
/// keeping them does not keep the frame of the request alive.
pub(crate) fn put(rev: Rev, mut kv: KeyValue) -> (RowChange, KeyValue) {
    let mut row = Vec::with_capacity(REV_KEY_LEN + kv.encoded_len());
    row.extend_from_slice(&rev.row_key());
    kv.encode_raw(&mut row);
    let row = Bytes::from(row);
    if !kv.key.is_empty() {
        let at = REV_KEY_LEN + 1 + prost::length_delimiter_len(kv.key.len());
        kv.key = row.slice(at..at + kv.key.len());
    }
    if !kv.value.is_empty() {
        // Of the fields, only the lease stands behind the value.
        let lease = KeyValue {
            lease: kv.lease,
            ..Default::default()
        };
        let end = row.len() - lease.encoded_len();
        kv.value = row.slice(end - kv.value.len()..end);
    }
    let change = RowChange {
        table: Table::Rev,
        key: row.slice(..REV_KEY_LEN),
        value: Some(row.slice(REV_KEY_LEN..)),
    };
    (change, kv)
}

/// Encodes the row of a tombstone.
pub(crate) fn tombstone(rev: Rev, key: &Bytes) -> RowChange {
    let kv = KeyValue {
        key: key.clone(),
        ..Default::default()
    };
    let mut row = Vec::with_capacity(REV_KEY_LEN + 1 + kv.encoded_len());
    row.extend_from_slice(&rev.row_key());
    row.push(TOMBSTONE_MARK);
    kv.encode_raw(&mut row);
    let row = Bytes::from(row);
    RowChange {
        table: Table::Rev,
        key: row.slice(..=REV_KEY_LEN),
        value: Some(row.slice(REV_KEY_LEN + 1..)),
    }
}

/// The removal of what stands at `rev`.
pub(crate) fn removed_rev(rev: Rev, tombstone: bool) -> RowChange {
    let mut key = Vec::with_capacity(REV_KEY_LEN + 1);
    key.extend_from_slice(&rev.row_key());
    if tombstone {
        key.push(TOMBSTONE_MARK);
    }
    RowChange {
        table: Table::Rev,
        key: key.into(),
        value: None,
    }
}

fn meta(prefix: &[u8], number: u64, value: Option<Bytes>) -> RowChange {
    let mut key = prefix.to_vec();
    key.extend_from_slice(&number.to_be_bytes());
    RowChange {
        table: Table::Meta,
        key: key.into(),
        value,
    }
}

pub(crate) fn lease(id: i64, ttl: i64) -> RowChange {
    let value = StoredLease { id, ttl }.encode_to_vec();
    meta(LEASE, id as u64, Some(value.into()))
}

pub(crate) fn removed_lease(id: i64) -> RowChange {
    meta(LEASE, id as u64, None)
}

pub(crate) fn member(member: &pb::Member, version: &str) -> RowChange {
    let stored = StoredMember {
        member: Some(member.clone()),
        version: version.to_owned(),
    };
    meta(MEMBER, member.id, Some(stored.encode_to_vec().into()))
}

pub(crate) fn removed_member(id: u64) -> RowChange {
    meta(MEMBER, id, None)
}

pub(crate) fn alarm(member: u64, alarm: pb::AlarmType, raised: bool) -> RowChange {
    let mut key = ALARM.to_vec();
    key.extend_from_slice(&member.to_be_bytes());
    key.push(alarm as u8);
    RowChange {
        table: Table::Meta,
        key: key.into(),
        value: raised.then(Bytes::new),
    }
}

/// Reads what follows the prefix in the key of an alarm.
pub(crate) fn alarm_of(key: &[u8]) -> Option<(u64, pb::AlarmType)> {
    let (member, alarm) = key.split_first_chunk::<8>()?;
    let [alarm] = alarm else { return None };
    let alarm = pb::AlarmType::try_from(i32::from(*alarm)).ok()?;
    Some((u64::from_be_bytes(*member), alarm))
}

pub(crate) fn compact_revision(revision: i64) -> RowChange {
    RowChange {
        table: Table::Meta,
        key: Bytes::from_static(COMPACT),
        value: Some(Bytes::copy_from_slice(&revision.to_be_bytes())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_key_reads_back() {
        let rev = Rev { main: 77, sub: 3 };
        assert_eq!(Rev::from_row_key(&rev.row_key()), Some((rev, false)));
        let mark = removed_rev(rev, true);
        assert_eq!(Rev::from_row_key(&mark.key), Some((rev, true)));
    }

    #[test]
    fn what_is_not_a_row_key_is_refused() {
        let good = Rev { main: 77, sub: 3 }.row_key();
        let mut separator = good;
        separator[8] = b'-';
        let negative = Rev { main: -1, sub: 0 }.row_key();
        let marked = [&good[..], b"x"].concat();
        for key in [&good[..16], &separator, &negative, &marked, b""] {
            assert_eq!(Rev::from_row_key(key), None);
        }
    }

    #[test]
    fn key_and_value_of_an_encoded_pair_are_slices_of_its_row() {
        for lease in [0, 1, 300, -7] {
            for value in [&b""[..], b"v", &[7; 300]] {
                for key in [&b""[..], b"k", &[9; 200]] {
                    let before = KeyValue {
                        key: Bytes::copy_from_slice(key),
                        create_revision: 5,
                        mod_revision: 600,
                        version: 2,
                        value: Bytes::copy_from_slice(value),
                        lease,
                    };
                    let (row, after) = put(Rev { main: 600, sub: 0 }, before.clone());
                    assert_eq!(after, before);
                    assert_eq!(KeyValue::decode(row.value.unwrap()).unwrap(), before);
                }
            }
        }
    }
}
