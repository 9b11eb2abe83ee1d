//! Snapshots: a pointer into the state store here, a stream of rows in between, a new store there.

use std::io;
use std::ops::Bound;
use std::sync::Arc;

use baton_proto::log;
use baton_proto::peer::{Frame, SnapshotChunk, SnapshotEnd, SnapshotRow, SnapshotStart, frame};
use baton_state_machine::Table;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use tokio::sync::mpsc;

use super::types::{
    LogId, SnapshotMeta, TypeConfig, Vote, log_id, log_id_to_proto, stored_membership,
    stored_membership_to_proto, vote, vote_to_proto,
};
use crate::chaos::{Mutant, Point, planted, reach};
use crate::storage::Snapshot as View;

/// Rows read from the store, and sent, at a time; fewer where they are large, as the store sees to.
const CHUNK_ROWS: usize = 1024;

/// One row: table, key, value.
pub type Row = (Table, Bytes, Bytes);

/// What openraft moves around as a snapshot.
#[derive(Clone)]
pub enum SnapshotData {
    /// Of this member: a view of its state store.
    View(Arc<dyn View>),
    /// Received whole from another member, checked, in key order.
    Rows(Arc<Vec<Row>>),
}

pub type Snapshot = openraft::alias::SnapshotOf<TypeConfig, SnapshotData>;

fn add_to_crc(crc: u32, row: &SnapshotRow) -> u32 {
    let crc = crc32c::crc32c_append(crc, &row.table.to_le_bytes());
    let crc = crc32c::crc32c_append(crc, &(row.key.len() as u64).to_le_bytes());
    let crc = crc32c::crc32c_append(crc, &row.key);
    let crc = crc32c::crc32c_append(crc, &(row.value.len() as u64).to_le_bytes());
    crc32c::crc32c_append(crc, &row.value)
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the snapshot stream closed")
}

async fn send_frame(tx: &mpsc::Sender<Frame>, kind: frame::Kind) -> io::Result<()> {
    let frame = Frame { kind: Some(kind) };
    tx.send(frame).await.map_err(|_| closed())
}

/// Sends `snapshot`: start, chunks of rows in key order, end with a checksum over all of them.
///
/// # Errors
/// If the stream breaks or the store cannot be read.
pub async fn send(tx: &mpsc::Sender<Frame>, leader: Vote, snapshot: &Snapshot) -> io::Result<()> {
    let SnapshotData::View(view) = &snapshot.snapshot else {
        return Err(io::Error::other("a received snapshot is not passed on"));
    };
    let start = SnapshotStart {
        vote: Some(vote_to_proto(&leader)),
        last_log_id: snapshot.meta.last_log_id.map(log_id_to_proto),
        membership: Some(stored_membership_to_proto(&snapshot.meta.last_membership)),
    };
    send_frame(tx, frame::Kind::SnapshotStart(start)).await?;
    let mut end = SnapshotEnd { crc32c: 0, rows: 0 };
    for table in [Table::Rev, Table::Meta] {
        let mut last: Option<Bytes> = None;
        loop {
            let from = match &last {
                Some(key) => Bound::Excluded(&key[..]),
                None => Bound::Unbounded,
            };
            let rows = view.scan(table, from, CHUNK_ROWS)?;
            let Some((key, _)) = rows.last() else { break };
            last = Some(key.clone());
            let mut chunk = SnapshotChunk::default();
            for (key, value) in rows {
                if planted(Mutant::SnapshotWithoutLeases) && key.starts_with(b"lease/") {
                    continue;
                }
                let row = SnapshotRow {
                    table: table as u32,
                    key,
                    value,
                };
                end.crc32c = add_to_crc(end.crc32c, &row);
                end.rows += 1;
                chunk.rows.push(row);
            }
            reach(Point::SnapshotSend).await;
            send_frame(tx, frame::Kind::SnapshotChunk(chunk)).await?;
            // Reading blocks; others on this thread get their turn.
            tokio::task::yield_now().await;
        }
    }
    send_frame(tx, frame::Kind::SnapshotEnd(end)).await
}

/// Receives what [`send`] sent. Nothing of it is used before all of it has been checked.
///
/// # Errors
/// If the stream breaks, a required field is missing, or the checksum differs.
pub async fn receive(rx: &mut BoxStream<'static, Frame>) -> io::Result<(Vote, Snapshot)> {
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let Some(Frame {
        kind: Some(frame::Kind::SnapshotStart(start)),
    }) = rx.next().await
    else {
        return Err(closed());
    };
    let leader = vote(
        &start
            .vote
            .ok_or_else(|| invalid("a snapshot without a vote"))?,
    );
    let membership: log::StoredMembership = start
        .membership
        .ok_or_else(|| invalid("a snapshot without a membership"))?;
    let last_log_id: Option<LogId> = start.last_log_id.map(log_id);
    let mut rows = Vec::new();
    let mut crc = 0;
    loop {
        match rx.next().await.ok_or_else(closed)?.kind {
            Some(frame::Kind::SnapshotChunk(chunk)) => {
                reach(Point::SnapshotReceive).await;
                for row in chunk.rows {
                    crc = add_to_crc(crc, &row);
                    let table = match row.table {
                        t if t == Table::Rev as u32 => Table::Rev,
                        t if t == Table::Meta as u32 => Table::Meta,
                        _ => return Err(invalid("a snapshot row of an unknown table")),
                    };
                    rows.push((table, row.key, row.value));
                }
            }
            Some(frame::Kind::SnapshotEnd(end)) => {
                if end.crc32c != crc || end.rows != rows.len() as u64 {
                    return Err(invalid("the snapshot's checksum differs"));
                }
                break;
            }
            _ => return Err(invalid("an unexpected frame within a snapshot")),
        }
    }
    let meta = SnapshotMeta {
        last_log_id,
        last_membership: stored_membership(&membership),
    };
    let snapshot = SnapshotData::Rows(Arc::new(rows));
    Ok((leader, Snapshot { meta, snapshot }))
}
