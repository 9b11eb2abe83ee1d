//! What is true of the state between any two entries.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::State;
use crate::index::KeyEntry;

impl State {
    /// Checks the parts of the state against each other, visiting all of it.
    ///
    /// # Errors
    /// A sentence on the first thing that does not hold: a bug, or damaged rows.
    pub fn check_invariants(&self) -> Result<(), String> {
        if self.compact_revision > self.revision {
            return Err(format!(
                "compact revision {} is above revision {}",
                self.compact_revision, self.revision
            ));
        }
        let mut live = 0;
        let mut bytes = 0;
        let mut places = BTreeSet::new();
        let mut attached: BTreeMap<i64, BTreeSet<Bytes>> = BTreeMap::new();
        for (key, entry) in self.index.entries() {
            check_key(entry, self.revision).map_err(|what| format!("key {key:?}: {what}"))?;
            for (change, _) in entry.changes() {
                bytes += u64::from(change.row_bytes);
                if !places.insert(change.rev()) {
                    return Err(format!("key {key:?}: {:?} is taken", change.rev()));
                }
            }
            if let Some((change, _)) = entry.live() {
                live += 1;
                if change.lease != 0 {
                    attached
                        .entry(change.lease)
                        .or_default()
                        .insert(key.clone());
                }
            }
        }
        if live != self.index.live() {
            return Err(format!(
                "{live} keys are live, counted {}",
                self.index.live()
            ));
        }
        if !self.index.check_directories() {
            return Err("the keys are not listed in the order of their creation".to_owned());
        }
        if bytes != self.index.bytes() {
            return Err(format!(
                "rows have {bytes} bytes, counted {}",
                self.index.bytes()
            ));
        }
        for (id, lease) in self.leases.iter() {
            let keys = attached.remove(&id).unwrap_or_default();
            if keys != lease.keys {
                return Err(format!(
                    "lease {id} lists {:?}, attached are {keys:?}",
                    lease.keys
                ));
            }
        }
        match attached.first_key_value() {
            Some((id, keys)) => Err(format!(
                "{keys:?} are attached to lease {id}, which does not exist"
            )),
            None => Ok(()),
        }
    }
}

fn check_key(entry: &KeyEntry, revision: i64) -> Result<(), String> {
    let mut before = None;
    for (change, value) in entry.changes() {
        let rev = change.rev();
        if change.main > revision {
            return Err(format!("{rev:?} is above revision {revision}"));
        }
        if change.is_tombstone() && value.is_some_and(|value| !value.is_empty()) {
            return Err(format!("the tombstone at {rev:?} has a value"));
        }
        let Some(last) = before.replace(change) else {
            continue;
        };
        if last.rev() >= rev {
            return Err(format!("{rev:?} follows {:?}", last.rev()));
        }
        let (create_revision, version) = match (last.is_tombstone(), change.is_tombstone()) {
            (true, true) => return Err(format!("{rev:?} deletes what is deleted")),
            (false, true) => (0, 0),
            (true, false) => (change.main, 1),
            (false, false) => (last.create_revision, last.version + 1),
        };
        if (create_revision, version) != (change.create_revision, change.version) {
            return Err(format!("{change:?} cannot follow {last:?}"));
        }
    }
    Ok(())
}
