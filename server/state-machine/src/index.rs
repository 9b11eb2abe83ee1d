//! Every key, with all its changes that are still readable.
//!
//! A key lives in generations: a put begins one, a delete ends it with a tombstone, and the next put
//! begins another, counting versions from 1 again. All of them stand in one list, oldest first:
//!
//! ```text
//! put@2 put@5 del@7 put@9      versions 1 2 - 1, created 2 2 - 9
//! read at 6 -> put@5           the newest change at or below the revision
//! read at 8 -> nothing         a tombstone
//! compact 6 -> put@5 del@7 put@9
//! compact 7 -> del@7 put@9     a watch from 7 still has to see the delete
//! compact 8 -> put@9
//! ```
//!
//! The newest value stays in memory; of older changes only what finds, filters and orders them.

use std::collections::BTreeMap;
use std::collections::btree_map;

use baton_proto::etcdserverpb::PutRequest;
use baton_proto::mvccpb::KeyValue;
use bytes::Bytes;

use crate::directories::{Covering, Directories};
use crate::key_range::KeyRange;
use crate::planted::{Mutant, planted};
use crate::{Event, EventKind, Rev, RowChange, rows};

/// One change of one key, without its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub main: i64,
    pub sub: u32,
    /// Bytes of its row, key included.
    pub row_bytes: u32,
    pub create_revision: i64,
    /// 0 for a tombstone.
    pub version: i64,
    pub lease: i64,
}

impl Change {
    pub fn rev(&self) -> Rev {
        Rev {
            main: self.main,
            sub: i64::from(self.sub),
        }
    }

    pub fn is_tombstone(&self) -> bool {
        self.version == 0
    }

    /// The pair of this change.
    pub fn pair(&self, key: Bytes, value: Bytes) -> KeyValue {
        KeyValue {
            key,
            create_revision: self.create_revision,
            mod_revision: self.main,
            version: self.version,
            value,
            lease: self.lease,
        }
    }
}

/// A key's changes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct KeyEntry {
    newest: Change,
    /// Of `newest`; empty for a tombstone.
    value: Bytes,
    /// Oldest first; each below the next and below `newest`.
    older: Vec<Change>,
}

impl KeyEntry {
    /// The newest change and its value, unless the key is deleted.
    pub fn live(&self) -> Option<(&Change, &Bytes)> {
        (!self.newest.is_tombstone()).then_some((&self.newest, &self.value))
    }

    /// Where the key was created, unless it is deleted.
    pub fn created(&self) -> Option<i64> {
        self.live().map(|(change, _)| change.create_revision)
    }

    /// What is visible at `revision`. The value comes with it if it is in memory.
    pub fn at(&self, revision: i64) -> Option<(&Change, Option<&Bytes>)> {
        let (change, value) = if self.newest.main <= revision {
            (&self.newest, Some(&self.value))
        } else {
            (self.older[..self.older_upto(revision)].last()?, None)
        };
        (!change.is_tombstone()).then_some((change, value))
    }

    /// How many of the older changes are at or below `revision`.
    fn older_upto(&self, revision: i64) -> usize {
        self.older.partition_point(|change| change.main <= revision)
    }

    pub fn newest(&self) -> &Change {
        &self.newest
    }

    pub fn older(&self) -> &[Change] {
        &self.older
    }

    /// Changes with their values where these are in memory, oldest first.
    pub fn changes(&self) -> impl Iterator<Item = (&Change, Option<&Bytes>)> {
        let older = self.older.iter().map(|change| (change, None));
        older.chain([(&self.newest, Some(&self.value))])
    }

    fn push(&mut self, change: Change, value: Bytes) -> Bytes {
        self.older.push(std::mem::replace(&mut self.newest, change));
        std::mem::replace(&mut self.value, value)
    }

    /// Deletes a live key. Returns the row, its size and the pair that was.
    fn delete(&mut self, key: &Bytes, rev: Rev) -> (RowChange, Change, KeyValue) {
        let row = rows::tombstone(rev, key);
        let before = self.newest;
        let tombstone = Change {
            main: rev.main,
            sub: rev.sub as u32,
            row_bytes: row_bytes(&row),
            create_revision: 0,
            version: 0,
            lease: 0,
        };
        let value = self.push(tombstone, Bytes::new());
        (row, tombstone, before.pair(key.clone(), value))
    }

    /// Forgets what is not visible at `revision` or above, keeping every change *at* `revision`.
    /// True if nothing is left.
    fn compact(&mut self, revision: i64, removed: &mut Vec<Change>) -> bool {
        let drops = |change: &Change| {
            planted(Mutant::DropTombstone) && change.is_tombstone() && change.main == revision
        };
        if self.newest.main < revision || drops(&self.newest) {
            removed.append(&mut self.older);
            if self.newest.is_tombstone() {
                removed.push(self.newest);
                return true;
            }
            return false;
        }
        let is_below = |change: &Change| change.main < revision || drops(change);
        let below = self.older.partition_point(is_below);
        let at_revision = self.older.get(below).unwrap_or(&self.newest).main == revision;
        let keeps_one = !at_revision && below > 0 && !self.older[below - 1].is_tombstone();
        removed.extend(self.older.drain(..below - usize::from(keeps_one)));
        false
    }
}

fn row_bytes(row: &RowChange) -> u32 {
    let len = row.key.len() + row.value.as_ref().map_or(0, Bytes::len);
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// What one change of a key did.
pub(crate) struct Written {
    pub row: RowChange,
    pub event: Event,
    /// The same revision had changed the key before.
    pub repeated: bool,
}

/// All keys in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Index {
    keys: BTreeMap<Bytes, KeyEntry>,
    /// The live ones by the order in which they were created.
    directories: Directories,
    /// Keys that are not deleted.
    live: usize,
    /// Bytes of all rows.
    bytes: u64,
}

impl Index {
    pub fn live(&self) -> usize {
        self.live
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn get(&self, key: &[u8]) -> Option<&KeyEntry> {
        self.keys.get(key)
    }

    /// The key as the index holds it: on its own, not a slice of something larger.
    pub fn key(&self, key: &[u8]) -> Option<&Bytes> {
        self.keys.get_key_value(key).map(|(key, _)| key)
    }

    pub fn entries(&self) -> btree_map::Iter<'_, Bytes, KeyEntry> {
        self.keys.iter()
    }

    pub fn range(&self, range: &KeyRange) -> btree_map::Range<'_, Bytes, KeyEntry> {
        self.keys.range::<[u8], _>(range.bounds())
    }

    /// The live keys of `range` by the order in which they were created, where they are kept in it.
    pub fn covering(&self, range: &KeyRange) -> Option<Covering<'_>> {
        self.directories.covering(range)
    }

    /// The directories, made anew.
    pub fn check_directories(&self) -> bool {
        let mut directories = Directories::default();
        for (key, entry) in &self.keys {
            directories.moved(key, None, entry.created());
        }
        directories == self.directories
    }

    /// The part of `range` above `after`.
    pub fn range_after(
        &self,
        range: &KeyRange,
        after: Option<&Bytes>,
    ) -> btree_map::Range<'_, Bytes, KeyEntry> {
        self.keys.range::<[u8], _>(range.bounds_after(after))
    }

    /// Whether every key there is lies in `range`.
    pub fn is_within(&self, range: &KeyRange) -> bool {
        let inside = |key: &Bytes| range.contains(key);
        self.keys
            .first_key_value()
            .is_none_or(|(key, _)| inside(key))
            && self
                .keys
                .last_key_value()
                .is_none_or(|(key, _)| inside(key))
    }

    /// Writes a pair. `ignore_value` and `ignore_lease` keep what a live key has; a missing key
    /// counts as empty there, refusing that is up to the caller.
    pub fn put(&mut self, rev: Rev, request: &PutRequest) -> Written {
        let entry = self.keys.get_mut(&request.key[..]);
        let live = entry.as_ref().and_then(|entry| entry.live());
        let value = match live {
            Some((_, value)) if request.ignore_value => value,
            _ => &request.value,
        };
        let kv = KeyValue {
            key: request.key.clone(),
            create_revision: live.map_or(rev.main, |(change, _)| change.create_revision),
            mod_revision: rev.main,
            version: live.map_or(1, |(change, _)| change.version + 1),
            value: value.clone(),
            lease: match live {
                Some((change, _)) if request.ignore_lease => change.lease,
                _ => request.lease,
            },
        };
        let (row, kv) = rows::put(rev, kv);
        let change = Change {
            main: rev.main,
            sub: rev.sub as u32,
            row_bytes: row_bytes(&row),
            create_revision: kv.create_revision,
            version: kv.version,
            lease: kv.lease,
        };
        let created_before = live.map(|(change, _)| change.create_revision);
        let mut prev_kv = None;
        let mut repeated = false;
        match entry {
            Some(entry) => {
                let before = entry.newest;
                repeated = before.main == rev.main;
                let value = entry.push(change, kv.value.clone());
                prev_kv = created_before.map(|_| before.pair(kv.key.clone(), value));
            }
            None => {
                // Its own copy: the key outlives this row and the frame of the request.
                let key = Bytes::copy_from_slice(&kv.key);
                let value = kv.value.clone();
                self.keys.insert(
                    key,
                    KeyEntry {
                        newest: change,
                        value,
                        older: Vec::new(),
                    },
                );
            }
        }
        if created_before.is_none() {
            self.live += 1;
            if let Some((key, _)) = self.keys.get_key_value(&kv.key[..]) {
                self.directories
                    .moved(key, None, Some(change.create_revision));
            }
        }
        self.bytes += u64::from(change.row_bytes);
        Written {
            row,
            event: Event {
                kind: EventKind::Put,
                kv,
                prev_kv,
            },
            repeated,
        }
    }

    /// Deletes every live key of `range`, in key order, each at the next `sub` from that of `first` on.
    pub fn delete(&mut self, first: Rev, range: &KeyRange, mut deleted: impl FnMut(Written)) {
        let mut rev = first;
        for (key, entry) in self.keys.range_mut::<[u8], _>(range.bounds()) {
            if entry.newest.is_tombstone() {
                continue;
            }
            let repeated = entry.newest.main == rev.main;
            let created = entry.newest.create_revision;
            let (row, tombstone, before) = entry.delete(key, rev);
            let kv = KeyValue {
                key: key.clone(),
                mod_revision: rev.main,
                ..Default::default()
            };
            let event = Event {
                kind: EventKind::Delete,
                kv,
                prev_kv: Some(before),
            };
            self.live -= 1;
            self.directories.moved(key, Some(created), None);
            self.bytes += u64::from(tombstone.row_bytes);
            rev.sub += 1;
            deleted(Written {
                row,
                event,
                repeated,
            });
        }
    }

    /// Takes a row of the state store back in. Rows come in the order they were written.
    pub fn restore(&mut self, change: Change, key: Bytes, value: Bytes) {
        self.bytes += u64::from(change.row_bytes);
        let created = (!change.is_tombstone()).then_some(change.create_revision);
        self.live += usize::from(created.is_some());
        match self.keys.get_mut(&key[..]) {
            Some(entry) => {
                let created_before = entry.created();
                self.live -= usize::from(created_before.is_some());
                entry.push(change, value);
                if created_before != created
                    && let Some((key, _)) = self.keys.get_key_value(&key[..])
                {
                    self.directories.moved(key, created_before, created);
                }
            }
            None => {
                let key = Bytes::copy_from_slice(&key);
                self.directories.moved(&key, None, created);
                self.keys.insert(
                    key,
                    KeyEntry {
                        newest: change,
                        value,
                        older: Vec::new(),
                    },
                );
            }
        }
    }

    /// Compacts up to `max_keys` keys above `after`. Returns the changes that are gone and the last
    /// key visited, `None` once there is none left.
    pub fn compact(
        &mut self,
        revision: i64,
        after: Option<&Bytes>,
        max_keys: usize,
    ) -> (Vec<Change>, Option<Bytes>) {
        let everything = KeyRange::all();
        let mut removed = Vec::new();
        let mut emptied = Vec::new();
        let mut visited = 0;
        let mut last = None;
        for (key, entry) in self
            .keys
            .range_mut::<[u8], _>(everything.bounds_after(after))
        {
            if entry.compact(revision, &mut removed) {
                emptied.push(key.clone());
            }
            visited += 1;
            if visited >= max_keys {
                last = Some(key.clone());
                break;
            }
        }
        for key in emptied {
            self.keys.remove(&key);
        }
        self.bytes -= removed
            .iter()
            .map(|change| u64::from(change.row_bytes))
            .sum::<u64>();
        (removed, last)
    }
}
