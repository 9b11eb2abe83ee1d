//! Building the state from its rows.

use baton_proto::log::{StoredLease, StoredMember};
use baton_proto::mvccpb::KeyValue;
use bytes::Bytes;
use prost::Message;

use crate::index::Change;
use crate::planted::{Mutant, planted};
use crate::{Rev, RowChange, State, Table, rows};

/// The rows are not those of a state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// A key that no row of the table can have, or content that does not belong to it.
    #[error("row {key:?} of table {table:?} cannot be read: {reason}")]
    Malformed {
        /// The table.
        table: Table,
        /// Key of the row.
        key: Bytes,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Rows have to come as they stand in the tables.
    #[error("row {key:?} of table {table:?} comes after a higher one")]
    OutOfOrder {
        /// The table.
        table: Table,
        /// Key of the row.
        key: Bytes,
    },
    /// A key is attached to a lease that is not there.
    #[error("key {key:?} is attached to lease {lease:x}, which does not exist")]
    LeaseMissing {
        /// The key.
        key: Bytes,
        /// Id of the lease.
        lease: i64,
    },
}

impl State {
    /// Builds the state from all rows of the state store: the revision rows in key order, then the
    /// meta rows. Rows of the layer above (`server/`) are passed over.
    ///
    /// # Errors
    /// See [`LoadError`]: the store holds something this version did not write.
    pub fn load(rows: &mut dyn Iterator<Item = (Table, Bytes, Bytes)>) -> Result<Self, LoadError> {
        let mut state = State::new();
        let mut last_rev = None;
        let mut last_table = Table::Rev;
        for (table, key, value) in rows {
            if table < last_table {
                return Err(LoadError::OutOfOrder { table, key });
            }
            last_table = table;
            match table {
                Table::Rev => state.load_change(&mut last_rev, key, value)?,
                Table::Meta => state.load_meta(key, value)?,
            }
        }
        state.revision = state.revision.max(state.compact_revision);
        state.attach_loaded_keys()?;
        Ok(state)
    }

    fn load_change(
        &mut self,
        last: &mut Option<Rev>,
        key: Bytes,
        value: Bytes,
    ) -> Result<(), LoadError> {
        let table = Table::Rev;
        let malformed = |reason| LoadError::Malformed {
            table,
            key: key.clone(),
            reason,
        };
        let (rev, tombstone) =
            Rev::from_row_key(&key).ok_or_else(|| malformed("not a revision"))?;
        if last.is_some_and(|last| last >= rev) {
            return Err(LoadError::OutOfOrder { table, key });
        }
        *last = Some(rev);
        let row_bytes =
            u32::try_from(key.len() + value.len()).map_err(|_| malformed("too large"))?;
        let kv = KeyValue::decode(value).map_err(|_| malformed("not a pair"))?;
        if !tombstone && (kv.mod_revision != rev.main || kv.version < 1) {
            return Err(malformed("the pair belongs to another revision"));
        }
        let change = Change {
            main: rev.main,
            sub: rev.sub as u32,
            row_bytes,
            create_revision: kv.create_revision,
            version: kv.version,
            lease: kv.lease,
        };
        if tombstone && (change.version, change.lease, kv.value.len()) != (0, 0, 0) {
            return Err(malformed("a tombstone with content"));
        }
        if !(tombstone && planted(Mutant::RevisionReused)) {
            self.revision = self.revision.max(rev.main);
        }
        self.index.restore(change, kv.key, kv.value);
        Ok(())
    }

    fn load_meta(&mut self, key: Bytes, value: Bytes) -> Result<(), LoadError> {
        let malformed = |reason| LoadError::Malformed {
            table: Table::Meta,
            key: key.clone(),
            reason,
        };
        if key.starts_with(rows::SERVER) {
        } else if key == rows::COMPACT {
            let revision = value[..]
                .try_into()
                .map_err(|_| malformed("not a revision"))?;
            self.compact_revision = i64::from_be_bytes(revision);
        } else if key.starts_with(rows::LEASE) {
            let StoredLease { id, ttl } =
                StoredLease::decode(value).map_err(|_| malformed("not a lease"))?;
            let row = rows::lease(id, ttl);
            if row.key != key || !self.leases.grant(id, ttl, &row) {
                return Err(malformed("the lease has another id"));
            }
        } else if key.starts_with(rows::MEMBER) {
            let StoredMember { member, version } =
                StoredMember::decode(value).map_err(|_| malformed("not a member"))?;
            let member = member.ok_or_else(|| malformed("not a member"))?;
            if rows::removed_member(member.id).key != key {
                return Err(malformed("the member has another id"));
            }
            self.members.restore(member, version);
        } else if let Some((member, alarm)) = key.strip_prefix(rows::ALARM).and_then(rows::alarm_of)
        {
            self.alarms.restore(member, alarm);
        } else {
            return Err(malformed("of no known kind"));
        }
        Ok(())
    }

    fn attach_loaded_keys(&mut self) -> Result<(), LoadError> {
        for (key, entry) in self.index.entries() {
            let lease = entry.live().map_or(0, |(change, _)| change.lease);
            if lease != 0
                && !self.leases.attach(lease, key.clone())
                && !planted(Mutant::SnapshotWithoutLeases)
            {
                return Err(LoadError::LeaseMissing {
                    key: key.clone(),
                    lease,
                });
            }
        }
        Ok(())
    }
}

impl RowChange {
    /// Bytes of key and value together.
    pub fn bytes(&self) -> u64 {
        (self.key.len() + self.value.as_ref().map_or(0, Bytes::len)) as u64
    }
}
