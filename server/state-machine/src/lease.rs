//! Leases and the keys attached to them. Deadlines are not here: time belongs to the leader.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::{RowChange, rows};

/// A lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Time to live in seconds, as granted.
    pub ttl: i64,
    /// The keys that go when it goes, in order: all members delete them in the same one.
    pub keys: BTreeSet<Bytes>,
}

/// All leases by id.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct LeaseTable {
    leases: BTreeMap<i64, Lease>,
    /// Bytes of their rows.
    bytes: u64,
}

impl LeaseTable {
    pub fn get(&self, id: i64) -> Option<&Lease> {
        self.leases.get(&id)
    }

    pub fn contains(&self, id: i64) -> bool {
        self.leases.contains_key(&id)
    }

    pub fn iter(&self) -> impl Iterator<Item = (i64, &Lease)> {
        self.leases.iter().map(|(id, lease)| (*id, lease))
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds a lease of which `row` is the row. False if there is one of that id already.
    pub fn grant(&mut self, id: i64, ttl: i64, row: &RowChange) -> bool {
        if self.contains(id) {
            return false;
        }
        self.leases.insert(
            id,
            Lease {
                ttl,
                keys: BTreeSet::new(),
            },
        );
        self.bytes += row.bytes();
        true
    }

    pub fn revoke(&mut self, id: i64) -> Option<Lease> {
        let lease = self.leases.remove(&id)?;
        self.bytes -= rows::lease(id, lease.ttl).bytes();
        Some(lease)
    }

    /// Attaches a key. False if there is no such lease.
    pub fn attach(&mut self, id: i64, key: Bytes) -> bool {
        match self.leases.get_mut(&id) {
            Some(lease) => {
                lease.keys.insert(key);
                true
            }
            None => false,
        }
    }

    /// Detaches a key, where the lease still exists.
    pub fn detach(&mut self, id: i64, key: &[u8]) {
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.keys.remove(key);
        }
    }
}
