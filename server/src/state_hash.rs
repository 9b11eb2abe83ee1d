//! A running hash over everything that entries change, so that members can be compared.
//!
//! The hash after an entry is made of the hash before it, the entry's place in the log and the rows it
//! writes. Batches, restarts, snapshots and the pace at which compaction removes rows leave no trace in it:
//! two members that differ after the same entry have a different state, or had one once.
//!
//! It is stored in the batch of the rows it covers, and so travels in snapshots. A state that was written by
//! a version without it has no hash, and one whose stored hash is of another entry than the last applied one
//! was in the hands of such a version since: it is unknown then, which is better than wrong. A member that
//! does not know its hash proposes to [begin](baton_proto::log::BeginStateHash) it anew on all members.

use std::collections::VecDeque;
use std::io;

use baton_proto::log::{LogId, StoredStateHash};
use baton_state_machine::{RowChange, Table};
use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use prost::Message;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::flusher::AllRows;

/// Row of the hash in [`Table::Meta`]: an encoded [`StoredStateHash`].
pub const STATE_HASH_KEY: &[u8] = b"server/state-hash";
/// How many hashes are kept to be asked for.
pub const HASHES_KEPT: usize = 4096;

/// What the hash is before the first entry.
const BEGINNING: u64 = 0;

/// The hash after an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateHash {
    /// The entry.
    pub id: LogId,
    /// What the state hashes to after it.
    pub hash: u64,
}

/// The hashes of this member: the running one, and the last [`HASHES_KEPT`]. Written by the apply loop,
/// read by anyone.
#[derive(Debug)]
pub struct StateHashes {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// `None` where it is not known.
    running: Option<u64>,
    recent: VecDeque<StateHash>,
}

impl StateHashes {
    /// Of a state store that stands at `applied`.
    ///
    /// # Errors
    /// If the row cannot be read or decoded.
    pub fn read(
        get: impl Fn(&[u8]) -> io::Result<Option<Bytes>>,
        applied: Option<LogId>,
    ) -> io::Result<Self> {
        let inner = match applied {
            None => Inner {
                running: Some(BEGINNING),
                recent: VecDeque::new(),
            },
            Some(applied) => Inner::after(known(get(STATE_HASH_KEY)?, applied)?),
        };
        Ok(Self {
            inner: Mutex::new(inner),
        })
    }

    /// Goes on from another place, where `known` is the hash if it is known. The ones before go: this member
    /// was at none of the places between.
    pub fn reset(&self, known: Option<StateHash>) {
        *self.inner.lock() = Inner::after(known);
    }

    /// To add the entries of a batch. Readers wait for as long as the value lives.
    pub fn extend(&self) -> Extend<'_> {
        Extend {
            inner: self.inner.lock(),
        }
    }

    /// Whether the hash after the last applied entry is known.
    pub fn is_known(&self) -> bool {
        self.inner.lock().running.is_some()
    }

    /// Those that are kept, from `index` on, in their order.
    pub fn since(&self, index: u64) -> Vec<StateHash> {
        let inner = self.inner.lock();
        let first = inner.recent.partition_point(|hash| hash.id.index < index);
        inner.recent.range(first..).copied().collect()
    }
}

impl Inner {
    fn after(known: Option<StateHash>) -> Self {
        Self {
            running: known.map(|known| known.hash),
            recent: known.into_iter().collect(),
        }
    }
}

/// What a stored row says of the state at `applied`.
///
/// # Errors
/// If the row cannot be decoded.
pub fn known(row: Option<Bytes>, applied: LogId) -> io::Result<Option<StateHash>> {
    let Some(row) = row else { return Ok(None) };
    let StoredStateHash { log_id, hash } = StoredStateHash::decode(row)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    let is_current = log_id == Some(applied);
    Ok(is_current.then_some(StateHash { id: applied, hash }))
}

/// The same of a snapshot, whose last entry is `applied`.
///
/// # Errors
/// If the row cannot be decoded.
pub fn known_to_snapshot(rows: &AllRows, applied: LogId) -> io::Result<Option<StateHash>> {
    let is_hash =
        |(table, key, _): &&(Table, Bytes, Bytes)| *table == Table::Meta && key == STATE_HASH_KEY;
    let row = rows.iter().rev().find(is_hash);
    known(row.map(|(_, _, value)| value.clone()), applied)
}

/// Adds the entries of a batch, one by one.
pub struct Extend<'a> {
    inner: MutexGuard<'a, Inner>,
}

impl Extend<'_> {
    /// The entry that is added next begins the hash anew.
    pub fn begin(&mut self) {
        self.inner.running = Some(BEGINNING);
    }

    /// Adds the entry `id`, which writes `rows`.
    pub fn add(&mut self, id: LogId, rows: &[RowChange]) {
        let Inner { running, recent } = &mut *self.inner;
        let Some(before) = *running else { return };
        let hash = after(before, id, rows);
        *running = Some(hash);
        if recent.len() == HASHES_KEPT {
            recent.pop_front();
        }
        recent.push_back(StateHash { id, hash });
    }

    /// The row to store with the batch; `None` where the hash is not known.
    pub fn row(&self) -> Option<Vec<u8>> {
        self.inner.running?;
        let StateHash { id, hash } = *self.inner.recent.back()?;
        let log_id = Some(id);
        Some(StoredStateHash { log_id, hash }.encode_to_vec())
    }
}

/// Each part seeds the hash of the next, and the hash of a part depends on its length too, so that no two
/// lists of rows run into each other.
fn after(before: u64, id: LogId, rows: &[RowChange]) -> u64 {
    let mut place = [0; 16];
    place[..8].copy_from_slice(&id.index.to_be_bytes());
    place[8..].copy_from_slice(&id.term.to_be_bytes());
    rows.iter()
        .fold(xxh3_64_with_seed(&place, before), |hash, row| {
            let shape = [row.table as u8, u8::from(row.value.is_some())];
            let hash = xxh3_64_with_seed(&shape, hash);
            let hash = xxh3_64_with_seed(&row.key, hash);
            let value = row.value.as_deref();
            value.map_or(hash, |value| xxh3_64_with_seed(value, hash))
        })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn id(index: u64) -> LogId {
        LogId { term: 3, index }
    }

    fn row(key: &'static str, value: Option<&'static str>) -> RowChange {
        RowChange {
            table: Table::Meta,
            key: Bytes::from_static(key.as_bytes()),
            value: value.map(|value| Bytes::from_static(value.as_bytes())),
        }
    }

    fn fresh() -> StateHashes {
        StateHashes::read(|_| Ok(None), None).unwrap()
    }

    /// Adds one entry per list of rows, from index 1 on, and returns the last hash.
    fn hash_of(entries: &[&[RowChange]]) -> u64 {
        let hashes = fresh();
        for (entry, index) in entries.iter().zip(1..) {
            hashes.extend().add(id(index), entry);
        }
        hashes.since(0).last().unwrap().hash
    }

    #[test]
    fn it_tells_apart_what_differs_in_any_way() {
        let set = row("k", Some("v"));
        let other_table = RowChange {
            table: Table::Rev,
            ..set.clone()
        };
        let hashes = [
            hash_of(&[&[]]),
            hash_of(&[&[], &[]]),
            hash_of(&[std::slice::from_ref(&set)]),
            hash_of(&[&[other_table]]),
            hash_of(&[&[row("k", None)]]),
            hash_of(&[&[row("k", Some(""))]]),
            hash_of(&[&[row("kv", Some(""))]]),
            hash_of(&[&[row("", Some("kv"))]]),
            hash_of(&[&[row("k", None), row("v", None)]]),
            hash_of(&[&[row("v", None), row("k", None)]]),
            hash_of(&[&[row("k", None)], &[row("v", None)]]),
        ];
        let distinct: std::collections::BTreeSet<u64> = hashes.into();
        assert_eq!(distinct.len(), hashes.len());
    }

    #[test]
    fn a_difference_once_is_a_difference_for_good() {
        let last = [row("last", Some("same"))];
        let one = hash_of(&[&[row("k", Some("1"))], &last]);
        let two = hash_of(&[&[row("k", Some("2"))], &last]);
        assert_ne!(one, two);
    }

    #[test]
    fn it_goes_on_from_what_was_stored_as_if_never_interrupted() {
        let rows = [row("k", Some("v"))];
        let whole = fresh();
        let stored = {
            let mut extend = whole.extend();
            extend.add(id(1), &rows);
            extend.row()
        };
        let stored = stored.map(Bytes::from);
        let restarted = StateHashes::read(|_| Ok(stored.clone()), Some(id(1))).unwrap();
        assert_eq!(restarted.since(0), whole.since(0));
        let snapshot = vec![(
            Table::Meta,
            Bytes::from_static(STATE_HASH_KEY),
            stored.unwrap(),
        )];
        let installed = fresh();
        installed.reset(known_to_snapshot(&Arc::new(snapshot), id(1)).unwrap());
        for hashes in [&whole, &restarted, &installed] {
            hashes.extend().add(id(2), &rows);
        }
        assert_eq!(restarted.since(0), whole.since(0));
        assert_eq!(installed.since(0), whole.since(0));
    }

    #[test]
    fn without_a_stored_hash_there_is_none_until_it_begins_anew() {
        let older = StateHashes::read(|_| Ok(None), Some(id(7))).unwrap();
        older.extend().add(id(8), &[]);
        assert!(!older.is_known());
        assert_eq!(older.extend().row(), None);
        assert_eq!(older.since(0), []);
        let newer = fresh();
        newer.extend().add(id(8), &[]);
        for hashes in [&older, &newer] {
            let mut extend = hashes.extend();
            extend.begin();
            extend.add(id(9), &[]);
        }
        assert_eq!(older.since(9), newer.since(9));
        assert!(older.is_known());
    }

    #[test]
    fn a_stored_hash_of_another_entry_counts_as_none() {
        let hashes = fresh();
        let stored = {
            let mut extend = hashes.extend();
            extend.add(id(1), &[]);
            extend.row().map(Bytes::from)
        };
        let read = StateHashes::read(|_| Ok(stored.clone()), Some(id(2))).unwrap();
        assert!(!read.is_known());
    }

    #[test]
    fn only_the_last_are_kept() {
        let hashes = fresh();
        let all = HASHES_KEPT as u64 + 10;
        let mut extend = hashes.extend();
        (1..=all).for_each(|index| extend.add(id(index), &[]));
        drop(extend);
        assert_eq!(hashes.since(0).len(), HASHES_KEPT);
        let two = hashes.since(all - 1);
        assert_eq!(
            two.iter().map(|h| h.id.index).collect::<Vec<_>>(),
            [all - 1, all]
        );
    }
}
