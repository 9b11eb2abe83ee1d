//! The seam under the applied state: two ordered tables.

use std::io;
use std::ops::Bound;
use std::sync::Arc;

use baton_state_machine::{RowChange, Table};
use bytes::Bytes;
use futures_util::future::BoxFuture;

/// Rows of a table in key order.
pub type Rows = Vec<(Bytes, Bytes)>;

/// Bytes of rows at which a scan returns: rows may be large, and who scans page by page holds a page in
/// memory and a thread while it is read.
pub const SCAN_BYTES: usize = 1 << 20;

/// Ordered tables with atomic batches. Written behind the answers by one flusher; read by anyone.
///
/// A batch is visible once [`write`](Self::write) returns, and durable after the next
/// [`sync`](Self::sync). A crash leaves a prefix of the batches, never a part of one.
pub trait StateStore: Send + Sync + 'static {
    /// Applies a batch.
    fn write(&self, rows: Vec<RowChange>) -> io::Result<()>;
    /// Makes every batch before it durable.
    fn sync(&self) -> io::Result<()>;
    /// One row.
    fn get(&self, table: Table, key: &[u8]) -> io::Result<Option<Bytes>>;
    /// Up to `limit` rows from `from` on, in key order; fewer where they would take much more than
    /// [`SCAN_BYTES`], and none only at the end.
    fn scan(&self, table: Table, from: Bound<&[u8]>, limit: usize) -> io::Result<Rows>;
    /// A view that later writes do not change. Cheap.
    fn snapshot(&self) -> Arc<dyn Snapshot>;
    /// Replaces everything by `rows` (table by table, in key order) in one durable step: after a
    /// crash there is all of the old or all of the new content.
    fn replace(
        &self,
        rows: &mut dyn Iterator<Item = io::Result<(Table, Bytes, Bytes)>>,
    ) -> io::Result<()>;
    /// Bytes on disk.
    fn disk_bytes(&self) -> u64;
    /// Gives back space that removed rows still occupy. Slow; reads and writes go on.
    fn reclaim(self: Arc<Self>) -> BoxFuture<'static, io::Result<()>>;
}

/// A view of a [`StateStore`] at one moment.
pub trait Snapshot: Send + Sync + 'static {
    /// One row.
    fn get(&self, table: Table, key: &[u8]) -> io::Result<Option<Bytes>>;
    /// Up to `limit` rows from `from` on, in key order; fewer where they would take much more than
    /// [`SCAN_BYTES`], and none only at the end.
    fn scan(&self, table: Table, from: Bound<&[u8]>, limit: usize) -> io::Result<Rows>;
}

/// Rows an [`AllRows`] asks for at a time.
const PAGE_ROWS: usize = 4096;

/// Every row of a view, table by table in key order, read page by page. Ends after the first error.
pub struct AllRows<'a> {
    view: &'a dyn Snapshot,
    table: Option<Table>,
    last: Option<Bytes>,
    page: std::vec::IntoIter<(Bytes, Bytes)>,
}

impl<'a> AllRows<'a> {
    /// From the first row on.
    pub fn of(view: &'a dyn Snapshot) -> Self {
        Self {
            view,
            table: Some(Table::Rev),
            last: None,
            page: Vec::new().into_iter(),
        }
    }
}

impl Iterator for AllRows<'_> {
    type Item = io::Result<(Table, Bytes, Bytes)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let table = self.table?;
            if let Some((key, value)) = self.page.next() {
                self.last = Some(key.clone());
                return Some(Ok((table, key, value)));
            }
            let from = match &self.last {
                Some(key) => Bound::Excluded(&key[..]),
                None => Bound::Unbounded,
            };
            match self.view.scan(table, from, PAGE_ROWS) {
                Ok(rows) if rows.is_empty() => {
                    self.last = None;
                    self.table = (table == Table::Rev).then_some(Table::Meta);
                }
                Ok(rows) => self.page = rows.into_iter(),
                Err(error) => {
                    self.table = None;
                    return Some(Err(error));
                }
            }
        }
    }
}
