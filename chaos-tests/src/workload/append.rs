//! Transactions that read lists and append to them, a few at a time.
//!
//! A list is the value of a key: numbers with commas between them, each unique in the run. A transaction reads its lists in
//! one go and then writes them back longer, guarded by their `mod_revision`s, so that it happens as if all at once or not
//! at all. What a list shows is in which order everybody appended to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use baton_proto::etcdserverpb as pb;
use bytes::Bytes;
use pb::compare::{CompareResult, TargetUnion};
use pb::request_op::Request as Op;
use pb::response_op::Response as OpAnswer;
use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use tokio::task::JoinSet;

use super::Context;
use super::requests::{compare, op};
use crate::history::{Answer, Outcome, Request};

/// Its name in histories, and where its keys begin.
pub const APPEND: &str = "append";

/// Lists that there are at a time.
const LISTS: usize = 4;

/// Transactions on a set of lists before everybody goes on to the next, so that lists stay short.
const PER_LISTS: u64 = 200;

/// How often a transaction is tried again with what it was told by a comparison that failed.
const TRIES: u32 = 3;

/// Runs `clients` clients until the load is to end.
pub async fn run(context: Context, clients: u32) {
    let made: Arc<AtomicU64> = Arc::default();
    let mut tasks = JoinSet::new();
    for client in 0..clients {
        tasks.spawn(work(context.clone(), client, Arc::clone(&made)));
    }
    while tasks.join_next().await.is_some() {}
}

/// Where the keys are, after so many transactions were made.
pub fn prefix(made: u64) -> String {
    format!("{APPEND}/{:06}/", made / PER_LISTS)
}

async fn work(mut context: Context, number: u32, made: Arc<AtomicU64>) {
    let mut chance = context.chance(&format!("{APPEND}/{number}"));
    let member = u64::from(number) % context.members + 1;
    let mut client = context.client(APPEND, member);
    let mut appender = Appender::new(number);
    loop {
        context.rest(&mut chance).await;
        if context.stopped() {
            return;
        }
        let mut begun =
            Some(appender.begin(&mut chance, &prefix(made.fetch_add(1, Ordering::Relaxed))));
        while let Some(request) = begun {
            let outcome = client.call(request).await;
            if !matches!(outcome, Outcome::Ok(_)) && chance.random_bool(0.3) {
                client.move_to(context.any_member(&mut chance));
            }
            begun = appender.go_on(&outcome);
        }
    }
}

/// The transactions of one client.
#[derive(Debug)]
pub struct Appender {
    number: u32,
    serial: u64,
    /// The lists of the transaction under way, and which of them it appends to.
    lists: Vec<(Bytes, bool)>,
    tries: u32,
}

impl Appender {
    /// The client `number`.
    pub fn new(number: u32) -> Self {
        Self {
            number,
            serial: 0,
            lists: Vec::new(),
            tries: 0,
        }
    }

    /// Begins a transaction on some of the lists at `prefix`: a read of all of them.
    pub fn begin(&mut self, chance: &mut SmallRng, prefix: &str) -> Request {
        let mut lists: Vec<Bytes> = (b'a'..)
            .take(LISTS)
            .map(|letter| format!("{prefix}{}", char::from(letter)).into())
            .collect();
        lists.shuffle(chance);
        lists.truncate(chance.random_range(1..=LISTS));
        self.lists = lists
            .into_iter()
            .map(|list| (list, chance.random_bool(0.5)))
            .collect();
        self.tries = TRIES;
        pb::TxnRequest {
            success: self.reads(),
            ..Default::default()
        }
        .into()
    }

    fn reads(&self) -> Vec<pb::RequestOp> {
        self.lists.iter().map(|(list, _)| read(list)).collect()
    }

    /// The next request of the transaction, or nothing where it is over.
    pub fn go_on(&mut self, outcome: &Outcome) -> Option<Request> {
        let Outcome::Ok(Answer::Txn(answer)) = outcome else {
            return None;
        };
        let wrote = answer
            .responses
            .iter()
            .any(|op| matches!(&op.response, Some(OpAnswer::ResponsePut(_))));
        if wrote || self.tries == 0 || !self.lists.iter().any(|(_, appends)| *appends) {
            return None;
        }
        self.tries -= 1;
        let mut request = pb::TxnRequest {
            failure: self.reads(),
            ..Default::default()
        };
        for ((list, appends), response) in std::iter::zip(&self.lists, &answer.responses) {
            let Some(OpAnswer::ResponseRange(answer)) = &response.response else {
                return None;
            };
            let seen = answer.kvs.first().cloned().unwrap_or_default();
            request.compare.push(compare(
                list.clone(),
                Bytes::new(),
                CompareResult::Equal,
                TargetUnion::ModRevision(seen.mod_revision),
            ));
            request.success.push(if *appends {
                self.serial += 1;
                let element = u64::from(self.number) * 1_000_000_000 + self.serial;
                let mut value = String::from_utf8_lossy(&seen.value).into_owned();
                if !value.is_empty() {
                    value.push(',');
                }
                value += &element.to_string();
                op(Op::RequestPut(pb::PutRequest {
                    key: list.clone(),
                    value: value.into(),
                    ..Default::default()
                }))
            } else {
                read(list)
            });
        }
        Some(request.into())
    }
}

fn read(list: &Bytes) -> pb::RequestOp {
    op(Op::RequestRange(pb::RangeRequest {
        key: list.clone(),
        ..Default::default()
    }))
}
