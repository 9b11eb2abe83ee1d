//! The durable log, as openraft asks for it.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};

use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use tokio::sync::oneshot;

use super::types::{
    Entry, LogId, TypeConfig, Vote, entry_from_wal, entry_to_wal, log_id_from_wal, log_id_to_wal,
    vote_from_wal, vote_to_wal,
};
use crate::chaos::{Mutant, Point, planted, reach};
use crate::storage::log::Log;

/// Entries handed to one replication message: enough to fill a link, small enough to interleave.
const REPLICATION_BYTES: usize = 1 << 20;

/// Reader and writer are the same handle: [`Log`] orders what it is told.
#[derive(Clone)]
pub struct LogStore {
    log: Log,
}

impl LogStore {
    pub fn new(log: Log) -> Self {
        Self { log }
    }

    fn read(&self, from: u64, to: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        self.log
            .entries(from, to, bytes_max)?
            .into_iter()
            .map(|e| entry_from_wal(e).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e)))
            .collect()
    }

    /// Waits until an operation of the log's own thread is durable.
    async fn durable(start: impl FnOnce(Box<dyn FnOnce(io::Result<()>) + Send>)) -> io::Result<()> {
        let (tx, rx) = oneshot::channel();
        start(Box::new(move |result| {
            let _ = tx.send(result);
        }));
        rx.await
            .unwrap_or_else(|_| Err(io::Error::other("the log was closed")))
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        let from = match range.start_bound() {
            Bound::Included(i) => *i,
            Bound::Excluded(i) => i + 1,
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(i) => i + 1,
            Bound::Excluded(i) => *i,
            Bound::Unbounded => u64::MAX,
        };
        self.read(from, to, usize::MAX)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.log.state().vote.map(vote_from_wal))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.read(start, end, REPLICATION_BYTES)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let state = self.log.state();
        Ok(LogState {
            last_purged_log_id: state.purged.map(log_id_from_wal),
            last_log_id: state.last.or(state.purged).map(log_id_from_wal),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        reach(Point::VoteBeforeSave).await;
        if planted(Mutant::VoteNotSaved) && !vote.committed {
            return Ok(());
        }
        Self::durable(|done| self.log.save_vote(vote_to_wal(vote), done)).await?;
        reach(Point::VoteAfterSave).await;
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        if let Some(committed) = committed {
            self.log.save_committed(log_id_to_wal(&committed));
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.log.state().committed.map(log_id_from_wal))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let entries = entries.into_iter().map(entry_to_wal).collect();
        if planted(Mutant::AckBeforeSync) {
            callback.io_completed(Ok(()));
            self.log.append(entries, Box::new(|_| {}));
            return Ok(());
        }
        self.log
            .append(entries, Box::new(|result| callback.io_completed(result)));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        reach(Point::TruncateBefore).await;
        let last = last.as_ref().map(log_id_to_wal);
        Self::durable(|done| self.log.truncate_after(last, done)).await
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        Self::durable(|done| self.log.purge(log_id_to_wal(&upto), done)).await
    }
}
