//! A prefix before every key, put on by the client and taken off again.

use baton_proto::etcdserverpb as pb;
use baton_proto::mvccpb;
use bytes::{Bytes, BytesMut};
use pb::request_op::Request;
use pb::response_op::Response;

use tonic::Code;

use crate::{Error, Refusal, prefix_end};

/// The end of a range that has none.
const NO_END: &[u8] = b"\0";

/// The prefix; empty is none.
#[derive(Clone, Debug, Default)]
pub(crate) struct Namespace {
    prefix: Bytes,
}

/// What the server says to an empty key, which a prefix would make one that is not empty.
fn no_key() -> Error {
    Error::Refused(Refusal {
        code: Code::InvalidArgument,
        message: "etcdserver: key is not provided".to_owned(),
    })
}

impl Namespace {
    pub(crate) fn new(prefix: &[u8]) -> Self {
        Self {
            prefix: Bytes::copy_from_slice(prefix),
        }
    }

    /// One within this one.
    pub(crate) fn within(&self, prefix: &[u8]) -> Self {
        Self {
            prefix: self.with(prefix),
        }
    }

    /// The prefix and what is behind it.
    pub(crate) fn with(&self, key: &[u8]) -> Bytes {
        let mut full = BytesMut::with_capacity(self.prefix.len() + key.len());
        full.extend_from_slice(&self.prefix);
        full.extend_from_slice(key);
        full.freeze()
    }

    fn put_on_end(&self, end: &mut Bytes) {
        if end == NO_END {
            *end = prefix_end(&self.prefix);
        } else if !end.is_empty() {
            *end = self.with(end);
        }
    }

    fn put_on_range(&self, key: &mut Bytes, end: &mut Bytes) -> Result<(), Error> {
        if self.prefix.is_empty() {
            return Ok(());
        }
        if key.is_empty() {
            return Err(no_key());
        }
        *key = self.with(key);
        self.put_on_end(end);
        Ok(())
    }

    pub(crate) fn range(&self, request: &mut pb::RangeRequest) -> Result<(), Error> {
        self.put_on_range(&mut request.key, &mut request.range_end)
    }

    pub(crate) fn put(&self, request: &mut pb::PutRequest) -> Result<(), Error> {
        self.put_on_range(&mut request.key, &mut Bytes::new())
    }

    pub(crate) fn delete(&self, request: &mut pb::DeleteRangeRequest) -> Result<(), Error> {
        self.put_on_range(&mut request.key, &mut request.range_end)
    }

    pub(crate) fn txn(&self, request: &mut pb::TxnRequest) -> Result<(), Error> {
        for compare in &mut request.compare {
            self.put_on_range(&mut compare.key, &mut compare.range_end)?;
        }
        for op in request.success.iter_mut().chain(&mut request.failure) {
            match &mut op.request {
                Some(Request::RequestRange(request)) => self.range(request)?,
                Some(Request::RequestPut(request)) => self.put(request)?,
                Some(Request::RequestDeleteRange(request)) => self.delete(request)?,
                Some(Request::RequestTxn(request)) => self.txn(request)?,
                // The server refuses it.
                None => {}
            }
        }
        Ok(())
    }

    /// An empty key is the first one here.
    pub(crate) fn watch(&self, request: &mut pb::WatchCreateRequest) {
        if !self.prefix.is_empty() {
            request.key = self.with(&request.key);
            self.put_on_end(&mut request.range_end);
        }
    }

    pub(crate) fn strip(&self, key: &mut Bytes) {
        if key.starts_with(&self.prefix) {
            *key = key.slice(self.prefix.len()..);
        }
    }

    pub(crate) fn strip_pairs(&self, pairs: &mut [mvccpb::KeyValue]) {
        for pair in pairs {
            self.strip(&mut pair.key);
        }
    }

    pub(crate) fn strip_put(&self, response: &mut pb::PutResponse) {
        if let Some(pair) = &mut response.prev_kv {
            self.strip(&mut pair.key);
        }
    }

    pub(crate) fn strip_txn(&self, response: &mut pb::TxnResponse) {
        for response in &mut response.responses {
            match &mut response.response {
                Some(Response::ResponseRange(response)) => self.strip_pairs(&mut response.kvs),
                Some(Response::ResponsePut(response)) => self.strip_put(response),
                Some(Response::ResponseDeleteRange(response)) => {
                    self.strip_pairs(&mut response.prev_kvs);
                }
                Some(Response::ResponseTxn(response)) => self.strip_txn(response),
                None => {}
            }
        }
    }

    pub(crate) fn strip_events(&self, events: &mut [mvccpb::Event]) {
        for event in events {
            for pair in event.kv.iter_mut().chain(&mut event.prev_kv) {
                self.strip(&mut pair.key);
            }
        }
    }

    /// Keys of a lease that are not in the namespace are not told.
    pub(crate) fn strip_keys(&self, keys: &mut Vec<Bytes>) {
        keys.retain(|key| key.starts_with(&self.prefix));
        for key in keys {
            self.strip(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Compare, Get, Op, Put, Txn, Watch};

    fn range_in(prefix: &[u8], get: Get) -> (Bytes, Bytes) {
        let mut request = get.request;
        let namespace = Namespace::new(prefix);
        namespace.range(&mut request).expect("a key");
        (request.key, request.range_end)
    }

    #[test]
    fn ranges_stay_within_the_namespace() {
        let of = |key: &'static [u8], end: &'static [u8]| (Bytes::from(key), Bytes::from(end));
        assert_eq!(range_in(b"p/", Get::key("k")), of(b"p/k", b""));
        assert_eq!(range_in(b"p/", Get::range("a", "c")), of(b"p/a", b"p/c"));
        assert_eq!(range_in(b"p/", Get::range("a", "\0")), of(b"p/a", b"p0"));
        assert_eq!(range_in(b"p/", Get::prefix("")), of(b"p/\0", b"p0"));
        assert_eq!(
            range_in(b"p\xff", Get::range("a", "\0")),
            of(b"p\xffa", b"q")
        );
        assert_eq!(
            range_in(b"\xff", Get::range("a", "\0")),
            of(b"\xffa", b"\0")
        );
        // A prefix that ends where the namespace does.
        assert_eq!(range_in(b"p/", Get::prefix(b"\xff")), of(b"p/\xff", b"p0"));
        assert_eq!(range_in(b"", Get::range("", "")), of(b"", b""));

        let mut watch = Watch::key("").request;
        Namespace::new(b"p/").watch(&mut watch);
        assert_eq!(watch.key, "p/");
    }

    #[test]
    fn every_part_of_a_nested_transaction_gets_the_prefix() {
        let inner = Txn::new()
            .when(Compare::absent("a").over("\0"))
            .or_else(Put::new("b", "v"));
        let mut request = Txn::new().then(inner).or_else(Get::key("c")).request;
        Namespace::new(b"p/").txn(&mut request).expect("keys");
        let expected = Txn::new()
            .then(
                Txn::new()
                    .when(Compare::absent("p/a").over("p0"))
                    .or_else(Put::new("p/b", "v")),
            )
            .or_else(Get::key("p/c"));
        assert_eq!(request, expected.request);

        let mut empty_key = Txn::new().then(Op::from(Get::key(""))).request;
        let refused = Namespace::new(b"p/").txn(&mut empty_key);
        let error = refused.expect_err("an empty key would become the prefix");
        assert_eq!(error.to_string(), "etcdserver: key is not provided");
    }
}
