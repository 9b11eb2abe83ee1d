//! Removing what compaction made unreadable, in pieces.

use bytes::Bytes;

use crate::{RowChange, State, rows};

/// How far one removal has come. Begin a new one after every compaction, and after a restart.
#[derive(Clone, Debug, Default)]
pub struct CompactCursor {
    after: Option<Bytes>,
    done: bool,
}

impl CompactCursor {
    /// At the first key.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether all keys were visited.
    pub fn is_done(&self) -> bool {
        self.done
    }
}

impl State {
    /// Visits up to `max_keys` more keys (at least one) and forgets the changes that cannot be read
    /// at the compact revision or above, nor at `floor` or above: the lowest revision a scan under
    /// way still reads at, `i64::MAX` if there is none. Returns the rows to remove; those of one key
    /// must not be split over batches.
    pub fn compact_step(
        &mut self,
        cursor: &mut CompactCursor,
        max_keys: usize,
        floor: i64,
    ) -> Vec<RowChange> {
        if cursor.done {
            return Vec::new();
        }
        let revision = self.compact_revision.min(floor);
        let (removed, last) = self
            .index
            .compact(revision, cursor.after.as_ref(), max_keys);
        cursor.done = last.is_none();
        cursor.after = last;
        let rows = removed
            .iter()
            .map(|change| rows::removed_rev(change.rev(), change.is_tombstone()));
        rows.collect()
    }
}
