//! Rounds to the leader that make reads linearizable, shared by all who ask meanwhile.

use std::time::Duration;

use baton_proto::log;
use baton_proto::peer::{Purpose, ReadIndexRequest, call, reply};
use metrics::counter;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::chaos::{Mutant, Point, planted, reach};
use crate::core::{Leadership, ReadError};
use crate::peer::Peers;
use crate::raft::Raft;

/// Pause before a round is tried again.
const RETRY_INTERVAL: Duration = Duration::from_millis(10);
/// Time a leader on another member has to answer before it is asked again.
const ASK_TIMEOUT: Duration = Duration::from_millis(500);

enum Asked {
    /// Wait until the read index is applied here.
    Applied(oneshot::Sender<Result<(), ReadError>>),
    /// Only confirm that this member leads.
    Confirmed(oneshot::Sender<Result<(), ReadError>>),
}

impl Asked {
    fn tx(&self) -> &oneshot::Sender<Result<(), ReadError>> {
        match self {
            Self::Applied(tx) | Self::Confirmed(tx) => tx,
        }
    }
}

/// Where rounds are asked for. Cheap to clone.
#[derive(Clone)]
pub struct ReadRounds {
    asked: mpsc::UnboundedSender<Asked>,
}

/// What the rounds need to know.
pub struct Rounds {
    /// This member.
    pub member_id: u64,
    /// Consensus here.
    pub raft: Raft,
    /// The way to a leader elsewhere.
    pub peers: Peers,
    /// Who leads.
    pub leadership: watch::Receiver<Leadership>,
    /// What is applied here.
    pub applied: watch::Receiver<Option<log::LogId>>,
}

impl ReadRounds {
    /// The handle, and the work to be run on the core's runtime.
    pub fn new(rounds: Rounds) -> (Self, impl Future<Output = ()>) {
        let (asked, queue) = mpsc::unbounded_channel();
        (Self { asked }, rounds.run(queue))
    }

    async fn ask(
        &self,
        asked: impl FnOnce(oneshot::Sender<Result<(), ReadError>>) -> Asked,
    ) -> Result<(), ReadError> {
        let (tx, rx) = oneshot::channel();
        let _ = self.asked.send(asked(tx));
        rx.await.unwrap_or(Err(ReadError::Stopped))
    }

    /// Returns once everything committed before the call is applied here.
    pub async fn applied(&self) -> Result<(), ReadError> {
        self.ask(Asked::Applied).await
    }

    /// Returns once a majority confirmed that this member leads.
    pub async fn confirmed(&self) -> Result<(), ReadError> {
        self.ask(Asked::Confirmed).await
    }
}

impl Rounds {
    async fn run(mut self, mut queue: mpsc::UnboundedReceiver<Asked>) {
        let mut batch = Vec::new();
        while queue.recv_many(&mut batch, 4096).await > 0 {
            let Some((index, here)) = self.round(&mut batch).await else {
                continue;
            };
            let mut waiting = Vec::new();
            for asked in batch.drain(..) {
                match asked {
                    Asked::Applied(tx) => waiting.push(tx),
                    Asked::Confirmed(tx) => {
                        let _ = tx.send(if here {
                            Ok(())
                        } else {
                            Err(ReadError::Timeout)
                        });
                    }
                }
            }
            let index = if planted(Mutant::ReadBeforeApply) {
                0
            } else {
                index
            };
            let caught_up = self
                .applied
                .wait_for(|applied| applied.is_some_and(|id| id.index >= index))
                .await
                .is_ok();
            if !caught_up {
                return;
            }
            for tx in waiting {
                let _ = tx.send(Ok(()));
            }
        }
    }

    /// Asks until somebody answers or nobody waits any more: the read index, and whether it is this
    /// member's own.
    async fn round(&self, batch: &mut Vec<Asked>) -> Option<(u64, bool)> {
        let mut slow_at = Instant::now() + ASK_TIMEOUT;
        loop {
            let leader = self.leadership.borrow().leader;
            if leader == self.member_id {
                if let Some(id) = self.raft.read_index().await {
                    return Some((id.index, true));
                }
            } else if leader != 0 {
                reach(Point::ReadIndexSend).await;
                let question = call::Question::ReadIndex(ReadIndexRequest {});
                let call = self.peers.call(leader, Purpose::Calls, question);
                let answer = tokio::time::timeout(ASK_TIMEOUT, call).await;
                if let Ok(Ok(reply::Answer::ReadIndex(read))) = answer {
                    reach(Point::ReadIndexReceive).await;
                    return Some((read.index, false));
                }
            }
            if Instant::now() >= slow_at {
                counter!("etcd_server_slow_read_indexes_total").increment(1);
                slow_at = Instant::now() + ASK_TIMEOUT;
            }
            // Everyone in the batch asked before this attempt; the next one serves them as well.
            batch.retain(|asked| !asked.tx().is_closed());
            if batch.is_empty() {
                return None;
            }
            tokio::time::sleep(RETRY_INTERVAL).await;
        }
    }
}
