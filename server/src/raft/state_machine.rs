//! The apply loop, as openraft asks for it.

use std::io;
use std::sync::Arc;

use baton_proto::log;
use baton_state_machine::Table;
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use openraft::EntryPayload;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use prost::Message;

use super::snapshot::{Snapshot, SnapshotData};
use super::types::{
    EncodedCommand, LogId, SnapshotMeta, StoredMembership, TypeConfig, log_id, log_id_to_proto,
    membership_to_proto, stored_membership, stored_membership_to_proto,
};
use crate::apply_loop::{APPLIED_KEY, ApplyLoop, Entry, MEMBERSHIP_KEY, Payload};
use crate::chaos::{Point, reach};
use crate::flusher::{BACKLOG_BYTES_MAX, Flusher};
use crate::storage::{self, AllRows};

/// Entries applied under one hold of the state's lock.
const BATCH_ENTRIES_MAX: usize = 256;

/// Gives openraft what it wants to know of the [`ApplyLoop`].
pub struct StateMachine {
    apply_loop: ApplyLoop,
    snapshot: Arc<parking_lot::Mutex<Option<Snapshot>>>,
}

impl StateMachine {
    /// `snapshot` is of the state as the store has it at start.
    pub fn new(apply_loop: ApplyLoop, snapshot: Option<Snapshot>) -> Self {
        Self {
            apply_loop,
            snapshot: Arc::new(parking_lot::Mutex::new(snapshot)),
        }
    }
}

/// Position and membership a state store or a view of it stands at.
///
/// # Errors
/// If a row cannot be read or decoded.
pub fn read_position(
    get: impl Fn(&[u8]) -> io::Result<Option<Bytes>>,
) -> io::Result<(Option<log::LogId>, log::StoredMembership)> {
    let invalid = |e| io::Error::new(io::ErrorKind::InvalidData, e);
    let applied = match get(APPLIED_KEY)? {
        Some(bytes) => Some(log::LogId::decode(bytes).map_err(invalid)?),
        None => None,
    };
    let membership = match get(MEMBERSHIP_KEY)? {
        Some(bytes) => log::StoredMembership::decode(bytes).map_err(invalid)?,
        None => log::StoredMembership::default(),
    };
    Ok((applied, membership))
}

/// The snapshot a view of a state store is.
///
/// # Errors
/// If its position cannot be read.
pub fn snapshot_of(view: Arc<dyn storage::Snapshot>) -> io::Result<Snapshot> {
    let (applied, membership) = read_position(|key| view.get(Table::Meta, key))?;
    Ok(Snapshot {
        meta: SnapshotMeta {
            last_log_id: applied.map(log_id),
            last_membership: stored_membership(&membership),
        },
        snapshot: SnapshotData::View(view),
    })
}

/// Flushes, and takes a view of the store.
pub struct SnapshotBuilder {
    flusher: Flusher,
    latest: Arc<parking_lot::Mutex<Option<Snapshot>>>,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        reach(Point::SnapshotBuild).await;
        let snapshot = snapshot_of(self.flusher.snapshot().await?)?;
        *self.latest.lock() = Some(snapshot.clone());
        Ok(snapshot)
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let last = *self.apply_loop.applied.borrow();
        let membership = stored_membership(&self.apply_loop.membership);
        Ok((last.map(log_id), membership))
    }

    async fn apply<Strm>(&mut self, entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + Send,
    {
        let mut batches = entries.ready_chunks(BATCH_ENTRIES_MAX);
        while let Some(batch) = batches.next().await {
            let mut applying = Vec::with_capacity(batch.len());
            let mut responders = Vec::new();
            for item in batch {
                let (entry, responder) = item?;
                responders.extend(responder);
                applying.push(Entry {
                    id: log_id_to_proto(entry.log_id),
                    payload: match entry.payload {
                        EntryPayload::Blank => Payload::Blank,
                        EntryPayload::Normal(EncodedCommand(bytes)) => Payload::Command(bytes),
                        EntryPayload::Membership(m) => Payload::Membership(membership_to_proto(&m)),
                    },
                });
            }
            self.apply_loop.flusher.room(BACKLOG_BYTES_MAX).await;
            self.apply_loop.apply(applying);
            for responder in responders {
                responder.send(());
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder {
            flusher: self.apply_loop.flusher.clone(),
            latest: self.snapshot.clone(),
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotData,
    ) -> io::Result<()> {
        let rows = match snapshot {
            SnapshotData::Rows(rows) => rows,
            // openraft re-installs its own snapshot only into a state that lost it; ours is kept.
            SnapshotData::View(view) => Arc::new(AllRows::of(&*view).collect::<io::Result<_>>()?),
        };
        let last = meta.last_log_id.map(log_id_to_proto).unwrap_or_default();
        let membership = stored_membership_to_proto(&meta.last_membership);
        let installing = metrics::gauge!("etcd_server_snapshot_apply_in_progress_total");
        installing.set(1.0);
        let installed = self.apply_loop.install(last, membership, rows).await;
        installing.set(0.0);
        installed?;
        *self.snapshot.lock() = None;
        // Later snapshots are of this content.
        let view = self.apply_loop.flusher.snapshot().await?;
        *self.snapshot.lock() = Some(snapshot_of(view)?);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        Ok(self.snapshot.lock().clone())
    }
}
