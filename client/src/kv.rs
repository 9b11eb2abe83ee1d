//! Requests on keys, as values.

use baton_proto::etcdserverpb as pb;
use bytes::Bytes;
use pb::compare::{CompareResult, CompareTarget, TargetUnion};
use pb::range_request::{SortOrder, SortTarget};
use pb::request_op::Request;

/// The first key behind all that begin with `prefix`; `\0` (no end) if there is none.
pub fn prefix_end(prefix: impl AsRef<[u8]>) -> Bytes {
    let prefix = prefix.as_ref();
    match prefix.iter().rposition(|byte| *byte != 0xff) {
        None => Bytes::from_static(b"\0"),
        Some(at) => {
            let mut end = prefix[..=at].to_vec();
            end[at] += 1;
            end.into()
        }
    }
}

fn bytes(data: impl AsRef<[u8]>) -> Bytes {
    Bytes::copy_from_slice(data.as_ref())
}

/// etcd's wire has no empty key: the least one is `\0`.
fn prefix_start(prefix: &[u8]) -> Bytes {
    if prefix.is_empty() {
        Bytes::from_static(b"\0")
    } else {
        bytes(prefix)
    }
}

macro_rules! from_keys {
    ($request:ident) => {
        impl From<&str> for $request {
            fn from(key: &str) -> Self {
                Self::key(key)
            }
        }
        impl From<String> for $request {
            fn from(key: String) -> Self {
                Self::key(key)
            }
        }
        impl From<&[u8]> for $request {
            fn from(key: &[u8]) -> Self {
                Self::key(key)
            }
        }
        impl From<Bytes> for $request {
            fn from(key: Bytes) -> Self {
                Self::key(key)
            }
        }
        impl From<&Bytes> for $request {
            fn from(key: &Bytes) -> Self {
                Self::key(key)
            }
        }
    };
}

/// A read of one key or of a range. Linearizable unless [`serializable`](Self::serializable).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Get {
    /// The message of the wire.
    pub request: pb::RangeRequest,
}

from_keys!(Get);

impl Get {
    /// One key.
    pub fn key(key: impl AsRef<[u8]>) -> Self {
        Self::range(key, "")
    }

    /// All keys that begin with `prefix`.
    pub fn prefix(prefix: impl AsRef<[u8]>) -> Self {
        let prefix = prefix.as_ref();
        Self::range(prefix_start(prefix), prefix_end(prefix))
    }

    /// Keys from `start` to `end`, which is not among them; `\0` is no end.
    pub fn range(start: impl AsRef<[u8]>, end: impl AsRef<[u8]>) -> Self {
        Self {
            request: pb::RangeRequest {
                key: bytes(start),
                range_end: bytes(end),
                ..Default::default()
            },
        }
    }

    /// At most so many pairs; 0 is all.
    #[must_use]
    pub fn limit(mut self, limit: i64) -> Self {
        self.request.limit = limit;
        self
    }

    /// As of this revision; 0 is now.
    #[must_use]
    pub fn revision(mut self, revision: i64) -> Self {
        self.request.revision = revision;
        self
    }

    /// In this order.
    #[must_use]
    pub fn sort(mut self, target: SortTarget, order: SortOrder) -> Self {
        self.request.sort_target = target.into();
        self.request.sort_order = order.into();
        self
    }

    /// The pair created first.
    #[must_use]
    pub fn first_created(self) -> Self {
        self.sort(SortTarget::Create, SortOrder::Ascend).limit(1)
    }

    /// The pair created last.
    #[must_use]
    pub fn last_created(self) -> Self {
        self.sort(SortTarget::Create, SortOrder::Descend).limit(1)
    }

    /// Only pairs created at or below this revision.
    #[must_use]
    pub fn max_create_revision(mut self, revision: i64) -> Self {
        self.request.max_create_revision = revision;
        self
    }

    /// Whatever the member asked has applied: never ahead, perhaps behind.
    #[must_use]
    pub fn serializable(mut self) -> Self {
        self.request.serializable = true;
        self
    }

    /// Without values.
    #[must_use]
    pub fn keys_only(mut self) -> Self {
        self.request.keys_only = true;
        self
    }

    /// Only how many there are.
    #[must_use]
    pub fn count_only(mut self) -> Self {
        self.request.count_only = true;
        self
    }
}

/// A write of one pair.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Put {
    /// The message of the wire.
    pub request: pb::PutRequest,
}

impl<K: AsRef<[u8]>, V: AsRef<[u8]>> From<(K, V)> for Put {
    fn from((key, value): (K, V)) -> Self {
        Self::new(key, value)
    }
}

impl Put {
    /// This pair.
    pub fn new(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        Self {
            request: pb::PutRequest {
                key: bytes(key),
                value: bytes(value),
                ..Default::default()
            },
        }
    }

    /// The pair ends with this lease; 0 is none.
    #[must_use]
    pub fn lease(mut self, id: i64) -> Self {
        self.request.lease = id;
        self
    }

    /// The answer has the pair as it was.
    #[must_use]
    pub fn prev_kv(mut self) -> Self {
        self.request.prev_kv = true;
        self
    }
}

/// A removal of one key or of a range.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Delete {
    /// The message of the wire.
    pub request: pb::DeleteRangeRequest,
}

from_keys!(Delete);

impl Delete {
    /// One key.
    pub fn key(key: impl AsRef<[u8]>) -> Self {
        Self::range(key, "")
    }

    /// All keys that begin with `prefix`.
    pub fn prefix(prefix: impl AsRef<[u8]>) -> Self {
        let prefix = prefix.as_ref();
        Self::range(prefix_start(prefix), prefix_end(prefix))
    }

    /// Keys from `start` to `end`, which is not among them; `\0` is no end.
    pub fn range(start: impl AsRef<[u8]>, end: impl AsRef<[u8]>) -> Self {
        Self {
            request: pb::DeleteRangeRequest {
                key: bytes(start),
                range_end: bytes(end),
                prev_kv: false,
            },
        }
    }

    /// The answer has the pairs as they were.
    #[must_use]
    pub fn prev_kv(mut self) -> Self {
        self.request.prev_kv = true;
        self
    }
}

/// A condition of a transaction. With [`over`](Self::over) it is one on every key of a range; a range
/// without keys counts as one key that is absent.
#[derive(Clone, Debug, PartialEq)]
pub struct Compare {
    /// The message of the wire.
    pub compare: pb::Compare,
}

impl Compare {
    fn new(
        key: impl AsRef<[u8]>,
        result: CompareResult,
        target: CompareTarget,
        union: TargetUnion,
    ) -> Self {
        Self {
            compare: pb::Compare {
                result: result.into(),
                target: target.into(),
                key: bytes(key),
                range_end: Bytes::new(),
                target_union: Some(union),
            },
        }
    }

    /// The revision `key` was created at; 0 where it is absent.
    pub fn create_revision(key: impl AsRef<[u8]>, result: CompareResult, revision: i64) -> Self {
        let union = TargetUnion::CreateRevision(revision);
        Self::new(key, result, CompareTarget::Create, union)
    }

    /// The revision `key` was last changed at; 0 where it is absent.
    pub fn mod_revision(key: impl AsRef<[u8]>, result: CompareResult, revision: i64) -> Self {
        let union = TargetUnion::ModRevision(revision);
        Self::new(key, result, CompareTarget::Mod, union)
    }

    /// How often `key` was put since it was created; 0 where it is absent.
    pub fn version(key: impl AsRef<[u8]>, result: CompareResult, version: i64) -> Self {
        let union = TargetUnion::Version(version);
        Self::new(key, result, CompareTarget::Version, union)
    }

    /// The value of `key`. False where it is absent.
    pub fn value(key: impl AsRef<[u8]>, result: CompareResult, value: impl AsRef<[u8]>) -> Self {
        let union = TargetUnion::Value(bytes(value));
        Self::new(key, result, CompareTarget::Value, union)
    }

    /// The lease of `key`; 0 where it has none or is absent.
    pub fn lease(key: impl AsRef<[u8]>, result: CompareResult, id: i64) -> Self {
        let union = TargetUnion::Lease(id);
        Self::new(key, result, CompareTarget::Lease, union)
    }

    /// `key` is absent.
    pub fn absent(key: impl AsRef<[u8]>) -> Self {
        Self::create_revision(key, CompareResult::Equal, 0)
    }

    /// `key` is there, and was created at this revision.
    pub fn created_at(key: impl AsRef<[u8]>, revision: i64) -> Self {
        Self::create_revision(key, CompareResult::Equal, revision)
    }

    /// On every key from the one given to `end`, which is not among them.
    #[must_use]
    pub fn over(mut self, end: impl AsRef<[u8]>) -> Self {
        self.compare.range_end = bytes(end);
        self
    }
}

/// One operation of a transaction.
#[derive(Clone, Debug, PartialEq)]
pub struct Op {
    /// The message of the wire.
    pub op: pb::RequestOp,
}

impl Op {
    fn new(request: Request) -> Self {
        Self {
            op: pb::RequestOp {
                request: Some(request),
            },
        }
    }
}

impl From<Get> for Op {
    fn from(get: Get) -> Self {
        Self::new(Request::RequestRange(get.request))
    }
}

impl From<Put> for Op {
    fn from(put: Put) -> Self {
        Self::new(Request::RequestPut(put.request))
    }
}

impl From<Delete> for Op {
    fn from(delete: Delete) -> Self {
        Self::new(Request::RequestDeleteRange(delete.request))
    }
}

impl From<Txn> for Op {
    fn from(txn: Txn) -> Self {
        Self::new(Request::RequestTxn(txn.request))
    }
}

/// A transaction: if every condition holds, one list of operations, else the other, under one revision.
///
/// ```
/// use baton_client::{Compare, Get, Put, Txn};
///
/// let txn = Txn::new()
///     .when(Compare::absent("config/leader"))
///     .then(Put::new("config/leader", "me"))
///     .or_else(Get::key("config/leader"));
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Txn {
    /// The message of the wire.
    pub request: pb::TxnRequest,
}

impl Txn {
    /// One that does nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Another condition; all have to hold.
    #[must_use]
    pub fn when(mut self, compare: Compare) -> Self {
        self.request.compare.push(compare.compare);
        self
    }

    /// Another operation where all conditions hold.
    #[must_use]
    pub fn then(mut self, op: impl Into<Op>) -> Self {
        self.request.success.push(op.into().op);
        self
    }

    /// Another operation where one does not.
    #[must_use]
    pub fn or_else(mut self, op: impl Into<Op>) -> Self {
        self.request.failure.push(op.into().op);
        self
    }
}
