//! Values that are not the newest of their key: from the ring, else from the state store.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use baton_proto::mvccpb::KeyValue;
use baton_state_machine::{Archive, EventKind, Rev};
use bytes::Bytes;
use prost::Message;

use super::ring::Ring;

/// Reads one row of the revision table of the state store.
pub type ReadRow = Box<dyn Fn(&[u8]) -> io::Result<Option<Bytes>> + Send + Sync>;

/// Every pair that was ever written and is not compacted away.
///
/// A revision is in the [`Ring`] until the state store has it, so it is found in one of the two.
pub struct History {
    ring: Arc<Ring>,
    read_row: ReadRow,
}

impl fmt::Debug for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("History").finish_non_exhaustive()
    }
}

impl History {
    /// `read_row` reads the revision table of the state store.
    pub fn new(ring: Arc<Ring>, read_row: ReadRow) -> Self {
        Self { ring, read_row }
    }

    /// The recent part.
    pub fn ring(&self) -> &Arc<Ring> {
        &self.ring
    }

    /// A reader for one request, outside the apply loop.
    pub fn view(&self) -> HistoryView<'_> {
        HistoryView {
            history: self,
            torn: AtomicBool::new(false),
        }
    }

    /// `None` where nothing stands at `rev`.
    ///
    /// # Panics
    /// If the state store fails or has a row that is no key-value pair: what it holds can no longer
    /// be trusted, and the log is there to rebuild it.
    fn find(&self, rev: Rev) -> Option<KeyValue> {
        if let Some(recorded) = self.ring.get(rev.main) {
            let index = usize::try_from(rev.sub).ok()?;
            let event = recorded.events().get(index)?;
            return Some(match event.kind {
                EventKind::Put => event.kv.clone(),
                // As the state store keeps a tombstone.
                EventKind::Delete => KeyValue {
                    key: event.kv.key.clone(),
                    ..KeyValue::default()
                },
            });
        }
        let key = row_key(rev);
        // A tombstone's key is one byte longer than a put's.
        [&key[..17], &key[..]].into_iter().find_map(|key| {
            let row = (self.read_row)(key)
                .unwrap_or_else(|error| panic!("reading {rev:?} from the state store: {error}"))?;
            let pair = KeyValue::decode(row).unwrap_or_else(|error| {
                panic!("the row of {rev:?} in the state store is damaged: {error}")
            });
            Some(pair)
        })
    }
}

impl Archive for History {
    fn read(&self, rev: Rev) -> KeyValue {
        self.find(rev)
            .unwrap_or_else(|| panic!("nothing stands at {rev:?}, though the index names it"))
    }
}

/// The key of a tombstone's row at `rev`; without its last byte, the key of a put's row.
fn row_key(rev: Rev) -> [u8; 18] {
    let mut key = [0; 18];
    key[..8].copy_from_slice(&rev.main.to_be_bytes());
    key[8] = b'_';
    key[9..17].copy_from_slice(&rev.sub.to_be_bytes());
    key[17] = b't';
    key
}

/// Reads history while the state may be replaced underneath by a snapshot of the leader.
///
/// A request looks up the index under the state's lock and reads old values after letting go of it.
/// A snapshot installed in between may have compacted what the index named; then the view is
/// [`torn`](Self::torn), what was read from it is worthless and the request starts over.
#[derive(Debug)]
pub struct HistoryView<'a> {
    history: &'a History,
    torn: AtomicBool,
}

impl HistoryView<'_> {
    /// Something was not found.
    pub fn torn(&self) -> bool {
        self.torn.load(Ordering::Relaxed)
    }
}

impl Archive for HistoryView<'_> {
    fn read(&self, rev: Rev) -> KeyValue {
        self.history.find(rev).unwrap_or_else(|| {
            self.torn.store(true, Ordering::Relaxed);
            KeyValue::default()
        })
    }
}
