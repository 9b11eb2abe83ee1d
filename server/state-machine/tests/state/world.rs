//! A state with the rows it wrote, as the server keeps them, and short words for requests.

use std::collections::BTreeMap;

use baton_proto::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, LeaseRevokeRequest, PutRequest,
    RangeRequest, RangeResponse, RequestOp, TxnRequest, request_op,
};
use baton_proto::log::command::Op;
use baton_proto::log::{Command, Expire};
use baton_proto::mvccpb::KeyValue;
use baton_state_machine::{
    Applied, ApplyError, Archive, CompactCursor, HashKv, KeyRange, PastEvent, Rev, RowChange,
    State, Table,
};
use bytes::Bytes;
use prost::Message;

/// The state store: rows as written so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows(BTreeMap<(Table, Bytes), Bytes>);

impl Rows {
    pub fn write(&mut self, changes: &[RowChange]) {
        for RowChange { table, key, value } in changes {
            match value {
                Some(value) => self.0.insert((*table, key.clone()), value.clone()),
                None => Some(
                    self.0
                        .remove(&(*table, key.clone()))
                        .expect("a removed row exists"),
                ),
            };
        }
    }

    pub fn all(&self) -> impl Iterator<Item = (Table, Bytes, Bytes)> {
        self.0
            .iter()
            .map(|((table, key), value)| (*table, key.clone(), value.clone()))
    }

    pub fn insert(&mut self, table: Table, key: &[u8], value: &[u8]) {
        self.0.insert(
            (table, Bytes::copy_from_slice(key)),
            Bytes::copy_from_slice(value),
        );
    }

    pub fn len_of(&self, table: Table) -> usize {
        self.0.keys().filter(|(of, _)| *of == table).count()
    }

    /// Bytes of the rows that count against the quota.
    pub fn bytes_of_keys_and_leases(&self) -> u64 {
        let counted = self
            .0
            .iter()
            .filter(|((table, key), _)| *table == Table::Rev || key.starts_with(b"lease/"));
        counted
            .map(|((_, key), value)| (key.len() + value.len()) as u64)
            .sum()
    }
}

impl Archive for Rows {
    fn read(&self, rev: Rev) -> KeyValue {
        let row = &self.0[&(Table::Rev, Bytes::copy_from_slice(&rev.row_key()))];
        KeyValue::decode(row.clone()).expect("a pair")
    }
}

#[derive(Debug, Default)]
pub struct World {
    pub state: State,
    pub rows: Rows,
    pub term: u64,
}

impl World {
    pub fn new() -> Self {
        Self::default()
    }

    /// Applies, and checks what holds for every entry.
    pub fn apply(&mut self, op: impl Into<Request>) -> Applied {
        let command = Command {
            op: op.into().0,
            ..Default::default()
        };
        let before = self.state.revision();
        let applied = self.state.apply(self.term, &command, &self.rows);
        self.rows.write(&applied.rows);
        assert_eq!(applied.revision, self.state.revision());
        let revisions: Vec<i64> = applied
            .events
            .iter()
            .map(|events| events.revision)
            .collect();
        assert_eq!(
            revisions,
            (before + 1..=applied.revision).collect::<Vec<_>>(),
            "revisions without a gap"
        );
        if applied.outcome.is_err() {
            assert!(
                applied.rows.is_empty() && applied.effects.is_empty() && applied.events.is_empty()
            );
        }
        self.state.check_invariants().unwrap();
        applied
    }

    pub fn refused(&mut self, op: impl Into<Request>) -> ApplyError {
        let before = State::load(&mut self.rows.all()).unwrap();
        let error = self.apply(op).outcome.expect_err("refused");
        assert_eq!(self.state, before, "a refused entry changes nothing");
        error
    }

    pub fn range(&self, request: RangeRequest) -> Result<RangeResponse, ApplyError> {
        let mut scan = self.state.begin_range(&request)?;
        while !scan.step(&self.state, 1) {}
        Ok(scan.finish(&self.rows))
    }

    /// Keys of a range, in the order of the answer.
    pub fn keys(&self, request: RangeRequest) -> String {
        let response = self.range(request).unwrap();
        let keys: Vec<_> = response
            .kvs
            .iter()
            .map(|kv| String::from_utf8_lossy(&kv.key))
            .collect();
        keys.join(" ")
    }

    pub fn value(&self, key: &str) -> Option<String> {
        let response = self.range(get(key)).unwrap();
        response
            .kvs
            .first()
            .map(|kv| String::from_utf8_lossy(&kv.value).into_owned())
    }

    pub fn kv(&self, key: &str) -> KeyValue {
        self.range(get(key)).unwrap().kvs.remove(0)
    }

    pub fn history(&self, range: &KeyRange, from: i64, to: i64) -> Vec<PastEvent> {
        let mut scan = self.state.begin_history(range, from, to);
        while !scan.step(&self.state, 1) {}
        scan.finish()
    }

    pub fn hash(&self, revision: i64) -> Result<HashKv, ApplyError> {
        let mut scan = self.state.begin_hash(revision)?;
        while !scan.step(&self.state, 1) {}
        Ok(scan.finish(&self.rows))
    }

    /// Removes everything that can go.
    pub fn compact_physically(&mut self) {
        let mut cursor = CompactCursor::new();
        while !cursor.is_done() {
            let removed = self.state.compact_step(&mut cursor, 1, i64::MAX);
            self.rows.write(&removed);
        }
        self.state.check_invariants().unwrap();
    }

    /// The state as a restart finds it.
    pub fn reloaded(&self) -> State {
        State::load(&mut self.rows.all()).unwrap()
    }
}

/// Something to apply.
#[derive(Clone)]
pub struct Request(pub Option<Op>);

macro_rules! request {
    ($($message:ty => $variant:ident),+ $(,)?) => {
        $(impl From<$message> for Request {
            fn from(message: $message) -> Self {
                Request(Some(Op::$variant(message)))
            }
        })+
    };
}

request! {
    PutRequest => Put,
    DeleteRangeRequest => DeleteRange,
    TxnRequest => Txn,
    CompactionRequest => Compact,
    LeaseGrantRequest => LeaseGrant,
    LeaseRevokeRequest => LeaseRevoke,
    baton_proto::etcdserverpb::AlarmRequest => Alarm,
    baton_proto::log::Publish => Publish,
    Expire => Expire,
}

pub fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

pub fn put(key: &str, value: &str) -> PutRequest {
    PutRequest {
        key: bytes(key),
        value: bytes(value),
        ..Default::default()
    }
}

pub fn leased(key: &str, value: &str, lease: i64) -> PutRequest {
    PutRequest {
        lease,
        ..put(key, value)
    }
}

pub fn get(key: &str) -> RangeRequest {
    RangeRequest {
        key: bytes(key),
        ..Default::default()
    }
}

pub fn range(key: &str, range_end: &str) -> RangeRequest {
    RangeRequest {
        range_end: bytes(range_end),
        ..get(key)
    }
}

pub fn everything() -> RangeRequest {
    range("\0", "\0")
}

pub fn delete(key: &str) -> DeleteRangeRequest {
    delete_range(key, "")
}

pub fn delete_range(key: &str, range_end: &str) -> DeleteRangeRequest {
    DeleteRangeRequest {
        key: bytes(key),
        range_end: bytes(range_end),
        prev_kv: false,
    }
}

pub fn compact(revision: i64) -> CompactionRequest {
    CompactionRequest {
        revision,
        physical: false,
    }
}

pub fn grant(id: i64, ttl: i64) -> LeaseGrantRequest {
    LeaseGrantRequest { id, ttl }
}

pub fn revoke(id: i64) -> LeaseRevokeRequest {
    LeaseRevokeRequest { id }
}

pub trait IntoOp {
    fn op(self) -> RequestOp;
}

macro_rules! into_op {
    ($($message:ty => $variant:ident),+ $(,)?) => {
        $(impl IntoOp for $message {
            fn op(self) -> RequestOp {
                RequestOp { request: Some(request_op::Request::$variant(self)) }
            }
        })+
    };
}

into_op! {
    RangeRequest => RequestRange,
    PutRequest => RequestPut,
    DeleteRangeRequest => RequestDeleteRange,
    TxnRequest => RequestTxn,
}
