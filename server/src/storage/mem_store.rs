//! A state store in memory, which forgets on a crash what was not synced.

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::sync::Arc;

use baton_state_machine::{RowChange, Table};
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;

use super::{Rows, SCAN_BYTES, Snapshot, StateStore};

/// Ordered tables in memory. Clones are the same store.
#[derive(Clone, Debug, Default)]
pub struct MemStore {
    state: Arc<Mutex<State>>,
}

type Tables = BTreeMap<(Table, Bytes), Bytes>;

#[derive(Debug, Default)]
struct State {
    rows: Arc<Tables>,
    /// What undoes each batch since the last sync, oldest first.
    undo: Vec<Vec<RowChange>>,
    fails: bool,
}

impl State {
    fn check(&self) -> io::Result<()> {
        if self.fails {
            return Err(io::Error::other("injected error of the state store"));
        }
        Ok(())
    }
}

impl MemStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Batches that a crash could take back.
    pub fn unsynced(&self) -> usize {
        self.state.lock().undo.len()
    }

    /// The power fails: of the batches since the last sync, only the first `kept` are left.
    pub fn crash(&self, kept: usize) {
        let mut state = self.state.lock();
        let State { rows, undo, .. } = &mut *state;
        for batch in undo.drain(..).skip(kept).rev() {
            change(Arc::make_mut(rows), batch);
        }
    }

    /// From now on every write and sync fails, or none any more.
    pub fn fail(&self, fails: bool) {
        self.state.lock().fails = fails;
    }

    /// The disk is lost, or what is on it cannot be used.
    pub fn wipe(&self) {
        *self.state.lock() = State::default();
    }
}

/// Changes rows, and returns what undoes it.
fn change(tables: &mut Tables, rows: Vec<RowChange>) -> Vec<RowChange> {
    let mut undo: Vec<_> = rows
        .into_iter()
        .map(|row| {
            let place = (row.table, row.key.clone());
            let value = match row.value {
                Some(value) => tables.insert(place, value),
                None => tables.remove(&place),
            };
            RowChange {
                table: row.table,
                key: row.key,
                value,
            }
        })
        .collect();
    undo.reverse();
    undo
}

impl StateStore for MemStore {
    fn write(&self, rows: Vec<RowChange>) -> io::Result<()> {
        let mut state = self.state.lock();
        state.check()?;
        let undo = change(Arc::make_mut(&mut state.rows), rows);
        state.undo.push(undo);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        state.check()?;
        state.undo.clear();
        Ok(())
    }

    fn get(&self, table: Table, key: &[u8]) -> io::Result<Option<Bytes>> {
        self.snapshot().get(table, key)
    }

    fn scan(&self, table: Table, from: Bound<&[u8]>, limit: usize) -> io::Result<Rows> {
        self.snapshot().scan(table, from, limit)
    }

    fn snapshot(&self) -> Arc<dyn Snapshot> {
        Arc::new(MemSnapshot(self.state.lock().rows.clone()))
    }

    fn replace(
        &self,
        rows: &mut dyn Iterator<Item = io::Result<(Table, Bytes, Bytes)>>,
    ) -> io::Result<()> {
        let rows = rows
            .map(|row| row.map(|(table, key, value)| ((table, key), value)))
            .collect::<io::Result<Tables>>()?;
        let mut state = self.state.lock();
        state.check()?;
        state.rows = Arc::new(rows);
        state.undo.clear();
        Ok(())
    }

    fn disk_bytes(&self) -> u64 {
        let rows = self.state.lock().rows.clone();
        let bytes = |((_, key), value): (&(Table, Bytes), &Bytes)| key.len() + value.len();
        rows.iter().map(bytes).sum::<usize>() as u64
    }

    fn reclaim(self: Arc<Self>) -> BoxFuture<'static, io::Result<()>> {
        std::future::ready(Ok(())).boxed()
    }
}

struct MemSnapshot(Arc<Tables>);

impl Snapshot for MemSnapshot {
    fn get(&self, table: Table, key: &[u8]) -> io::Result<Option<Bytes>> {
        Ok(self.0.get(&(table, Bytes::copy_from_slice(key))).cloned())
    }

    fn scan(&self, table: Table, from: Bound<&[u8]>, limit: usize) -> io::Result<Rows> {
        let from = from.map(|key| (table, Bytes::copy_from_slice(key)));
        let from = match from {
            Bound::Unbounded => Bound::Included((table, Bytes::new())),
            bound => bound,
        };
        let mut bytes = 0;
        let rows = self.0.range((from, Bound::Unbounded));
        Ok(rows
            .take_while(|((of, _), _)| *of == table)
            .take(limit)
            .take_while(|((_, key), value)| {
                let had = bytes;
                bytes += key.len() + value.len();
                had < SCAN_BYTES
            })
            .map(|((_, key), value)| (key.clone(), value.clone()))
            .collect())
    }
}
