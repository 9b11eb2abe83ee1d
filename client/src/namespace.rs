//! A prefix before every key, put on by the client and taken off again.

use baton_proto::etcdserverpb as pb;
use baton_proto::mvccpb;
use bytes::{Bytes, BytesMut};
use pb::request_op::Request;
use pb::response_op::Response;

use crate::{Error, prefix_end};

/// The end of a range that has none.
const NO_END: &[u8] = b"\0";

/// The prefix; empty is none.
#[derive(Clone, Debug, Default)]
pub(crate) struct Namespace {
    prefix: Bytes,
}

fn no_key() -> Error {
    Error::Invalid("the key is empty; write \\0 for the first key".to_owned())
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
        if key.is_empty() {
            return Err(no_key());
        }
        if !self.prefix.is_empty() {
            *key = self.with(key);
            self.put_on_end(end);
        }
        Ok(())
    }

    pub(crate) fn range(&self, request: &mut pb::RangeRequest) -> Result<(), Error> {
        self.put_on_range(&mut request.key, &mut request.range_end)
    }

    pub(crate) fn put(&self, request: &mut pb::PutRequest) -> Result<(), Error> {
        if request.key.is_empty() {
            return Err(no_key());
        }
        if !self.prefix.is_empty() {
            request.key = self.with(&request.key);
        }
        Ok(())
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
                None => {
                    return Err(Error::Invalid(
                        "an operation of the transaction is empty".to_owned(),
                    ));
                }
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
