//! Clients that give watchers something to see: single writes, deletions, transactions of many events, and now and then a
//! revision that is too large for one message.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use baton_proto::etcdserverpb as pb;
use bytes::Bytes;
use pb::request_op::Request as Op;
use rand::Rng;
use rand::rngs::SmallRng;

use super::{WORKLOAD, wish};
use crate::history::{Outcome, Request};
use crate::workload::Context;

/// Where the keys lie.
pub const PREFIX: &str = "watch/";

/// How many there are.
const KEYS: u32 = 16;

/// Keys of a revision that does not fit a message, and the size of each value in bytes. They fit a request, but not a message
/// that carries the values before as well.
const LARGE: (u32, usize) = (6, 150_000);

/// After how many writes the first writer makes such a revision; it takes two.
const LARGE_AT: [u64; 2] = [40, 41];

/// One of the keys.
pub fn key(chance: &mut SmallRng) -> Bytes {
    Bytes::from(format!("{PREFIX}{:02}", chance.random_range(0..KEYS)))
}

/// The highest revision that a writer of the run was answered.
#[derive(Debug, Clone, Default)]
pub struct Newest(Arc<AtomicI64>);

impl Newest {
    /// Reads it.
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }

    fn raise(&self, revision: i64) {
        self.0.fetch_max(revision, Ordering::Relaxed);
    }
}

/// Values that nobody else writes.
struct Values {
    writer: u32,
    serial: u64,
}

impl Values {
    fn next(&mut self, bytes: usize) -> Bytes {
        self.serial += 1;
        let mut value = format!("{WORKLOAD}/{}/{}", self.writer, self.serial);
        if bytes > 0 {
            value.push('/');
        }
        while value.len() < bytes {
            value.push('.');
        }
        Bytes::from(value)
    }
}

/// Writes until the load ends.
pub async fn run(mut context: Context, writer: u32, newest: Newest) {
    let mut chance = context.chance(&format!("{WORKLOAD}/writer/{writer}"));
    let member = context.any_member(&mut chance);
    let mut client = context.client(WORKLOAD, member);
    let mut values = Values { writer, serial: 0 };
    let mut writes = 0;
    while !context.stopped() {
        writes += 1;
        let request = if writer == 0 && LARGE_AT.contains(&writes) {
            large(&mut values)
        } else {
            draw(&mut chance, &mut values)
        };
        match client.call(request).await {
            Outcome::Ok(answer) => newest.raise(answer.header().revision),
            Outcome::Failed(_) | Outcome::Unknown(_) => {
                client.move_to(context.any_member(&mut chance));
            }
        }
        context.rest(&mut chance).await;
    }
}

fn put(key: Bytes, value: Bytes) -> pb::PutRequest {
    pb::PutRequest {
        key,
        value,
        ..Default::default()
    }
}

fn op(request: Op) -> pb::RequestOp {
    pb::RequestOp {
        request: Some(request),
    }
}

fn draw(chance: &mut SmallRng, values: &mut Values) -> Request {
    match chance.random_range(0..10) {
        0..=4 => {
            let bytes = if chance.random_bool(0.02) { 8192 } else { 0 };
            put(key(chance), values.next(bytes)).into()
        }
        5..=6 => pb::DeleteRangeRequest {
            key: key(chance),
            ..Default::default()
        }
        .into(),
        7 => {
            let (key, range_end) = wish::prefix(&format!("{PREFIX}{}", chance.random_range(0..2)));
            pb::DeleteRangeRequest {
                key,
                range_end,
                ..Default::default()
            }
            .into()
        }
        _ => transaction(chance, values),
    }
}

/// Puts and deletions of different keys in one revision.
fn transaction(chance: &mut SmallRng, values: &mut Values) -> Request {
    let mut ops = Vec::new();
    for number in 0..KEYS {
        if !chance.random_bool(0.4) {
            continue;
        }
        let key = Bytes::from(format!("{PREFIX}{number:02}"));
        ops.push(op(if chance.random_bool(0.7) {
            Op::RequestPut(put(key, values.next(0)))
        } else {
            Op::RequestDeleteRange(pb::DeleteRangeRequest {
                key,
                ..Default::default()
            })
        }));
    }
    pb::TxnRequest {
        success: ops,
        ..Default::default()
    }
    .into()
}

/// A revision of large values.
fn large(values: &mut Values) -> Request {
    let (keys, bytes) = LARGE;
    let puts = (0..keys).map(|number| {
        let key = Bytes::from(format!("{PREFIX}large/{number}"));
        op(Op::RequestPut(put(key, values.next(bytes))))
    });
    pb::TxnRequest {
        success: puts.collect(),
        ..Default::default()
    }
    .into()
}
