//! The hash that tells whether two members hold the same.

use baton_proto::mvccpb::KeyValue;
use bytes::Bytes;
use prost::Message;

use crate::index::Change;
use crate::key_range::KeyRange;
use crate::{Archive, State, rows};

/// A hash of everything readable between two revisions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashKv {
    /// CRC-32C over the name of etcd's bucket, then key and value of each row, in revision order.
    pub hash: u32,
    /// The lower bound: the compact revision when the hash was begun.
    pub compact_revision: i64,
    /// The upper bound.
    pub hash_revision: i64,
}

/// A hash under way. Equal to etcd's `HashKV` for the same history.
#[derive(Debug)]
pub struct HashScan {
    revision: i64,
    compact_revision: i64,
    after: Option<Bytes>,
    found: Vec<Hashed>,
}

#[derive(Debug)]
struct Hashed {
    key: Bytes,
    change: Change,
    /// `None`: the archive has it.
    value: Option<Bytes>,
}

impl HashScan {
    pub(crate) fn new(revision: i64, compact_revision: i64) -> Self {
        HashScan {
            revision,
            compact_revision,
            after: None,
            found: Vec::new(),
        }
    }

    /// The lowest revision it reads at: what compaction must leave in place until it is finished.
    pub fn oldest(&self) -> i64 {
        self.compact_revision
    }

    /// Visits up to `max_keys` more keys (at least one). True once there is nothing left to visit.
    pub fn step(&mut self, state: &State, max_keys: usize) -> bool {
        let everything = KeyRange::all();
        let after = self.after.take();
        let mut last: Option<&Bytes> = None;
        for (visited, (key, entry)) in state
            .index
            .range_after(&everything, after.as_ref())
            .enumerate()
        {
            if visited >= max_keys.max(1) {
                self.after = last.cloned();
                return false;
            }
            last = Some(key);
            let visible = entry.at(self.revision).map(|(change, _)| change.rev());
            for (change, value) in entry.changes() {
                if change.main > self.revision {
                    break;
                }
                // Below the compact revision only what is still visible counts, so that the hash
                // does not depend on how far the removal of the rest has come.
                if change.main > self.compact_revision || visible == Some(change.rev()) {
                    self.found.push(Hashed {
                        key: key.clone(),
                        change: *change,
                        value: value.cloned(),
                    });
                }
            }
        }
        true
    }

    /// Fetches the values that were not in memory, and hashes.
    pub fn finish(mut self, archive: &dyn Archive) -> HashKv {
        self.found.sort_unstable_by_key(|found| found.change.rev());
        let mut hash = crc32c::crc32c(b"key");
        let mut pair = Vec::new();
        for Hashed { key, change, value } in self.found {
            let kv = if change.is_tombstone() {
                KeyValue {
                    key,
                    ..Default::default()
                }
            } else {
                change.pair(
                    key,
                    value.unwrap_or_else(|| archive.read(change.rev()).value),
                )
            };
            pair.clear();
            kv.encode_raw(&mut pair);
            hash = crc32c::crc32c_append(hash, &change.rev().row_key());
            if change.is_tombstone() {
                hash = crc32c::crc32c_append(hash, &[rows::TOMBSTONE_MARK]);
            }
            hash = crc32c::crc32c_append(hash, &pair);
        }
        HashKv {
            hash,
            compact_revision: self.compact_revision,
            hash_revision: self.revision,
        }
    }
}
