//! The reference: what a multi-version store of the etcd v3 API is in after each revision, and what it answers.
//!
//! Written from the text of the API and from nothing of any server. It only grows: a revision is a list of changes, and the
//! state after any of them is at hand. Compaction, leases that end and permissions are not its business: it knows every
//! revision for ever, and a lease is a number on a key.

mod draft;
mod range;

use std::collections::BTreeMap;
use std::ops::Bound;

use baton_proto::mvccpb::KeyValue;
use bytes::Bytes;

pub use draft::{Draft, Refusal};
pub use range::{SortKey, sort_keys};

/// The revision of a store that nothing was ever written to.
pub const FIRST_REVISION: i64 = 1;

/// A change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It has this value now.
    Put(KeyValue),
    /// It is gone.
    Delete(Bytes),
}

impl Change {
    /// The key.
    pub fn key(&self) -> &Bytes {
        match self {
            Self::Put(kv) => &kv.key,
            Self::Delete(key) => key,
        }
    }
}

/// What a key was from a revision on; nothing, if it was deleted then.
#[derive(Debug, Clone)]
struct Version {
    from: i64,
    kv: Option<KeyValue>,
}

/// A store with all of its history.
#[derive(Debug, Clone, Default)]
pub struct Model {
    keys: BTreeMap<Bytes, Vec<Version>>,
    /// The changes of revision 2, 3 and so on.
    revisions: Vec<Vec<Change>>,
}

impl Model {
    /// A store that nothing was ever written to.
    pub fn new() -> Self {
        Self::default()
    }

    /// The newest revision.
    pub fn revision(&self) -> i64 {
        FIRST_REVISION + i64::try_from(self.revisions.len()).unwrap_or(i64::MAX - FIRST_REVISION)
    }

    /// Adds a revision made of these changes, in this order, and says which it is.
    pub fn push(&mut self, changes: Vec<Change>) -> i64 {
        let from = self.revision() + 1;
        for change in &changes {
            let kv = match change {
                Change::Put(kv) => Some(kv.clone()),
                Change::Delete(_) => None,
            };
            let versions = self.keys.entry(change.key().clone()).or_default();
            versions.push(Version { from, kv });
        }
        self.revisions.push(changes);
        from
    }

    /// What a revision changed, in order. Nothing for a revision that there is not.
    pub fn changes(&self, revision: i64) -> &[Change] {
        usize::try_from(revision - FIRST_REVISION - 1)
            .ok()
            .and_then(|at| self.revisions.get(at))
            .map_or(&[], Vec::as_slice)
    }

    /// A key after a revision.
    pub fn get(&self, key: &[u8], revision: i64) -> Option<&KeyValue> {
        at(self.keys.get(key)?, revision)
    }

    /// The keys from `key` to `end`, in the API's reading of the two, after a revision, in order.
    pub fn scan<'a>(
        &'a self,
        key: &'a [u8],
        end: &'a [u8],
        revision: i64,
    ) -> impl Iterator<Item = &'a KeyValue> {
        span(key, end)
            .into_iter()
            .flat_map(|bounds| self.keys.range::<[u8], _>(bounds))
            .filter_map(move |(_, versions)| at(versions, revision))
    }

    /// A request about to be evaluated on the state after `revision`.
    pub fn draft(&self, revision: i64) -> Draft<'_> {
        Draft::new(self, revision)
    }
}

fn at(versions: &[Version], revision: i64) -> Option<&KeyValue> {
    let after = versions.partition_point(|version| version.from <= revision);
    versions[..after].last()?.kv.as_ref()
}

/// From which key to which.
type Span<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

/// The keys that a `key` and a `range_end` mean; `None` for no key at all.
fn span<'a>(key: &'a [u8], end: &'a [u8]) -> Option<Span<'a>> {
    match end {
        [] => Some((Bound::Included(key), Bound::Included(key))),
        [0] => Some((Bound::Included(key), Bound::Unbounded)),
        _ if end <= key => None,
        _ => Some((Bound::Included(key), Bound::Excluded(end))),
    }
}

/// Whether `key` and `range_end` mean `candidate` among others.
pub fn covers(key: &[u8], end: &[u8], candidate: &[u8]) -> bool {
    match end {
        [] => key == candidate,
        [0] => key <= candidate,
        _ => key <= candidate && candidate < end,
    }
}

#[cfg(test)]
mod tests;
