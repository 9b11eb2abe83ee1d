//! What operators do to a cluster that is in use: compaction, right at a deletion too, defragmentation, hashes compared
//! between members, leader moves, status and alarms read.

use baton_proto::etcdserverpb as pb;
use bytes::Bytes;
use rand::Rng;
use rand::rngs::SmallRng;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Context;
use super::stream::Stream;
use crate::client::Client;
use crate::history::{Answer, Member, Outcome, Request};

/// Its name in histories.
pub const WORKLOAD: &str = "maintenance";

/// How far behind the newest revision a compaction is asked for, at most.
const BEHIND: i64 = 300;

/// How far ahead of the newest revision that some member knows a revision is that none can have.
const AHEAD: i64 = 1_000_000;

/// Runs `clients` operators, each with a connection to every member.
pub async fn run(context: Context, clients: u32) {
    let mut tasks = JoinSet::new();
    for number in 0..clients {
        let chance = context.chance(&format!("{WORKLOAD}/{number}"));
        let members = 1..=context.members;
        let operator = Operator {
            clients: members.map(|m| context.client(WORKLOAD, m)).collect(),
            context: context.clone(),
            chance,
            number,
            serial: 0,
        };
        tasks.spawn(operator.run());
    }
    tasks.join_all().await;
}

struct Operator {
    context: Context,
    chance: SmallRng,
    /// One for each member, in their order.
    clients: Vec<Client>,
    number: u32,
    serial: u64,
}

impl Operator {
    async fn run(mut self) {
        while !self.context.stopped() {
            match self.chance.random_range(0..20) {
                0..=3 => self.compact().await,
                4..=6 => self.compact_at_a_deletion().await,
                7 => {
                    self.anywhere(pb::DefragmentRequest {}).await;
                }
                8..=12 => self.hashes().await,
                13..=16 => {
                    self.statuses().await;
                }
                17..=18 => self.move_leader().await,
                _ => {
                    // The default action reads them.
                    self.anywhere(pb::AlarmRequest::default()).await;
                }
            }
            self.context.rest(&mut self.chance).await;
        }
    }

    /// Asks any member.
    async fn anywhere(&mut self, request: impl Into<Request>) -> Option<Answer> {
        let at = self.chance.random_range(0..self.clients.len());
        answer(self.clients[at].call(request).await)
    }

    /// The newest revision by some member.
    async fn revision(&mut self) -> Option<i64> {
        let answer = self.anywhere(pb::StatusRequest {}).await;
        answer.map(|answer| answer.header().revision)
    }

    /// Compacts somewhere behind the newest revision, at it, or at one that is yet to come, which is refused.
    async fn compact(&mut self) {
        let Some(newest) = self.revision().await else {
            return;
        };
        let revision = match self.chance.random_range(0..8) {
            0..=1 => newest,
            2 => newest + AHEAD,
            _ => newest - self.chance.random_range(0..BEHIND),
        };
        if revision <= newest && !self.was_witnessed(revision).await {
            return;
        }
        let physical = self.chance.random_bool(0.3);
        self.anywhere(pb::CompactionRequest {
            revision: revision.max(1),
            physical,
        })
        .await;
    }

    /// Whether some witness has seen this revision, which can be compacted then without a loss to the log.
    async fn was_witnessed(&self, revision: i64) -> bool {
        let patience = self.context.patience;
        self.context.witnessed.has(revision, patience).await
    }

    /// Compacts at the very revision at which a key was deleted, and watches from there at every member: the deletion has to
    /// be seen, as the last thing that happened to the key up to that revision.
    async fn compact_at_a_deletion(&mut self) {
        let key = Bytes::from(format!("{WORKLOAD}/{}", self.number));
        for _ in 0..2 {
            let put = self.put(key.clone());
            if self.anywhere(put).await.is_none() {
                return;
            }
        }
        let deletion = pb::DeleteRangeRequest {
            key: key.clone(),
            ..Default::default()
        };
        let Some(deleted) = self.anywhere(deletion).await else {
            return;
        };
        let revision = deleted.header().revision;
        let put = self.put(key.clone());
        let Some(last) = self.anywhere(put).await else {
            return;
        };
        if !self.was_witnessed(revision).await {
            return;
        }
        let physical = self.chance.random_bool(0.5);
        let compaction = pb::CompactionRequest { revision, physical };
        if self.anywhere(compaction).await.is_none() {
            return;
        }
        for member in 1..=self.context.members {
            let last = last.header().revision;
            self.watch(member, key.clone(), revision, last).await;
        }
    }

    fn put(&mut self, key: Bytes) -> pb::PutRequest {
        self.serial += 1;
        let value = format!("{WORKLOAD}/{}/{}", self.number, self.serial);
        pb::PutRequest {
            key,
            value: value.into(),
            ..Default::default()
        }
    }

    /// Watches a key at `member` from revision `from` on, until it sees what happened at `to`.
    async fn watch(&mut self, member: Member, key: Bytes, from: i64, to: i64) {
        let watcher = self.context.recorder.next_watcher();
        let create = pb::WatchCreateRequest {
            key,
            start_revision: from,
            prev_kv: true,
            ..Default::default()
        };
        let opening = Stream::open(&self.context, WORKLOAD, member, watcher, create);
        let Ok(mut stream) = opening.await else {
            return;
        };
        let limit = Instant::now() + self.context.patience;
        while Instant::now() < limit {
            match stream.receive_within(limit - Instant::now()).await {
                Ok(Some((_, response))) => {
                    let last = response.events.last().and_then(|event| event.kv.as_ref());
                    if response.canceled || last.is_some_and(|last| last.mod_revision >= to) {
                        break;
                    }
                }
                Ok(None) => break,
                Err(_) => return,
            }
        }
        drop(stream);
    }

    /// The hash of the same revision at every member.
    async fn hashes(&mut self) {
        let Some(newest) = self.revision().await else {
            return;
        };
        let behind = self.chance.random_range(0..4) * self.chance.random_range(0..20);
        let revision = (newest - behind).max(1);
        for client in &mut self.clients {
            client.call(pb::HashKvRequest { revision }).await;
        }
    }

    /// What every member says of itself, by those that answer: their ids and whom they call leader.
    async fn statuses(&mut self) -> Vec<(usize, u64, u64)> {
        let mut ids = Vec::new();
        for (at, client) in self.clients.iter_mut().enumerate() {
            if let Outcome::Ok(Answer::Status(status)) = client.call(pb::StatusRequest {}).await {
                let header = status.header.unwrap_or_default();
                ids.push((at, header.member_id, status.leader));
            }
        }
        ids
    }

    /// Hands leadership to another member.
    async fn move_leader(&mut self) {
        let statuses = self.statuses().await;
        let leads = |(_, id, leader): &&(usize, u64, u64)| id == leader;
        let Some(&(leader, leader_id, _)) = statuses.iter().find(leads) else {
            return;
        };
        let others: Vec<u64> = statuses
            .iter()
            .map(|(_, id, _)| *id)
            .filter(|id| *id != leader_id)
            .collect();
        if others.is_empty() {
            return;
        }
        let target_id = others[self.chance.random_range(0..others.len())];
        let request = pb::MoveLeaderRequest { target_id };
        self.clients[leader].call(request).await;
    }
}

fn answer(outcome: Outcome) -> Option<Answer> {
    match outcome {
        Outcome::Ok(answer) => Some(answer),
        Outcome::Failed(_) | Outcome::Unknown(_) => None,
    }
}
