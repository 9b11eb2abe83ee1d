//! `etcdserverpb.KV`: reads, writes, transactions, compactions.

use std::sync::Arc;

use baton_proto::etcdserverpb as pb;
use baton_proto::etcdserverpb::request_op::Request as Operation;
use baton_proto::log::command::Op;
use baton_state_machine::{Response as Applied, State};
use metrics::{counter, histogram};
use prost::Message;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::status::RpcError;
use super::{Services, header, metadata, scan, validate};
use crate::admission::{put_cost, txn_cost};
use crate::chaos::{Mutant, planted};
use crate::compactor::ReadPins;

/// Pairs in the first message of a streamed range.
const STREAM_FIRST_PAIRS: usize = 10;

/// The service.
pub(super) struct Kv {
    services: Services,
}

impl Kv {
    pub(super) fn new(services: &Services) -> Self {
        Self {
            services: services.clone(),
        }
    }

    fn pins(&self) -> &Arc<ReadPins> {
        self.services.compactor.pins()
    }

    async fn read(&self, request: &pb::RangeRequest) -> Result<pb::RangeResponse, RpcError> {
        let core = &self.services.core;
        if !request.serializable && !planted(Mutant::LocalReads) {
            core.read_barrier().await?;
        }
        counter!("etcd_mvcc_range_total").increment(1);
        let started = Instant::now();
        let found = scan::range(core, self.pins(), request).await;
        let success = if found.is_ok() { "true" } else { "false" };
        histogram!("etcd_server_range_duration_seconds", "success" => success)
            .record(started.elapsed());
        let (mut response, revision) = found?;
        response.header = Some(header::at(core, revision));
        Ok(response)
    }

    async fn read_txn(&self, request: &pb::TxnRequest) -> Result<pb::TxnResponse, RpcError> {
        let core = &self.services.core;
        let mut ops = request.success.iter().chain(&request.failure);
        let is_serializable = ops.all(|op| match &op.request {
            Some(Operation::RequestRange(range)) => range.serializable,
            _ => false,
        });
        if !is_serializable && !planted(Mutant::LocalReads) {
            core.read_barrier().await?;
        }
        counter!("etcd_mvcc_txn_total").increment(1);
        let history = core.history();
        let view = history.view();
        let (mut response, revision) = {
            let state = core.state().read();
            (state.read_txn(request, &view)?, state.revision())
        };
        if view.torn() {
            return Err(RpcError::HistoryLost);
        }
        response.header = Some(header::at(core, revision));
        Ok(response)
    }
}

#[tonic::async_trait]
impl pb::kv_server::Kv for Kv {
    async fn range(
        &self,
        request: Request<pb::RangeRequest>,
    ) -> Result<Response<pb::RangeResponse>, Status> {
        let core = &self.services.core;
        let call = if request.get_ref().serializable {
            metadata::Call::UnaryOnLearner
        } else {
            metadata::Call::Unary
        };
        metadata::admit(core, request.metadata(), call)?;
        let request = request.into_inner();
        validate::range(&request)?;
        Ok(Response::new(self.read(&request).await?))
    }

    type RangeStreamStream =
        tokio_stream::Iter<std::vec::IntoIter<Result<pb::RangeStreamResponse, Status>>>;

    async fn range_stream(
        &self,
        request: Request<pb::RangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        let core = &self.services.core;
        metadata::admit(core, request.metadata(), metadata::Call::Stream)?;
        let request = request.into_inner();
        validate::range_stream(&request)?;
        let response = self.read(&request).await?;
        let chunks = chunks(response, self.services.limits.max_request_bytes);
        let chunks: Vec<_> = chunks.into_iter().map(Ok).collect();
        Ok(Response::new(tokio_stream::iter(chunks)))
    }

    async fn put(
        &self,
        request: Request<pb::PutRequest>,
    ) -> Result<Response<pb::PutResponse>, Status> {
        let Services {
            core, admission, ..
        } = &self.services;
        metadata::admit(core, request.metadata(), metadata::Call::Unary)?;
        let request = request.into_inner();
        admission
            .space(put_cost(&request))
            .await
            .map_err(RpcError::from)?;
        validate::put(&request)?;
        admission.backlog().map_err(RpcError::from)?;
        let committed = core
            .propose(Op::Put(request))
            .await
            .map_err(RpcError::from)?;
        let Applied::Put(mut response) = committed.response else {
            return Err(RpcError::MalformedEntry.into());
        };
        response.header = Some(header::at(core, committed.revision));
        Ok(Response::new(response))
    }

    async fn delete_range(
        &self,
        request: Request<pb::DeleteRangeRequest>,
    ) -> Result<Response<pb::DeleteRangeResponse>, Status> {
        let Services {
            core, admission, ..
        } = &self.services;
        metadata::admit(core, request.metadata(), metadata::Call::Unary)?;
        let request = request.into_inner();
        validate::delete_range(&request)?;
        admission.backlog().map_err(RpcError::from)?;
        let committed = core
            .propose(Op::DeleteRange(request))
            .await
            .map_err(RpcError::from)?;
        let Applied::DeleteRange(mut response) = committed.response else {
            return Err(RpcError::MalformedEntry.into());
        };
        response.header = Some(header::at(core, committed.revision));
        Ok(Response::new(response))
    }

    async fn txn(
        &self,
        request: Request<pb::TxnRequest>,
    ) -> Result<Response<pb::TxnResponse>, Status> {
        let Services {
            core,
            admission,
            limits,
            ..
        } = &self.services;
        metadata::admit(core, request.metadata(), metadata::Call::Unary)?;
        let request = request.into_inner();
        admission
            .space(txn_cost(&request))
            .await
            .map_err(RpcError::from)?;
        validate::txn(&request, limits.max_txn_ops)?;
        if !State::is_write_txn(&request) {
            return Ok(Response::new(self.read_txn(&request).await?));
        }
        admission.backlog().map_err(RpcError::from)?;
        let committed = core
            .propose(Op::Txn(request))
            .await
            .map_err(RpcError::from)?;
        let Applied::Txn(mut response) = committed.response else {
            return Err(RpcError::MalformedEntry.into());
        };
        counter!("etcd_mvcc_txn_total").increment(1);
        response.header = Some(header::at(core, committed.revision));
        Ok(Response::new(response))
    }

    async fn compact(
        &self,
        request: Request<pb::CompactionRequest>,
    ) -> Result<Response<pb::CompactionResponse>, Status> {
        let Services {
            core,
            admission,
            compactor,
            ..
        } = &self.services;
        metadata::admit(core, request.metadata(), metadata::Call::Unary)?;
        let request = request.into_inner();
        let pb::CompactionRequest { revision, physical } = request;
        admission.backlog().map_err(RpcError::from)?;
        let committed = core
            .propose(Op::Compact(request))
            .await
            .map_err(RpcError::from)?;
        if physical {
            compactor.removed(revision).await;
        }
        Ok(Response::new(pb::CompactionResponse {
            header: Some(header::at(core, committed.revision)),
        }))
    }
}

/// Cuts the answer to a streamed range into messages near `bytes_wanted`: small at first, so that the
/// client can begin. Only the last one has header, count and whether there is more.
fn chunks(response: pb::RangeResponse, bytes_wanted: usize) -> Vec<pb::RangeStreamResponse> {
    let pb::RangeResponse {
        header,
        kvs,
        more,
        count,
    } = response;
    let mut chunks = Vec::new();
    let mut kvs = kvs.into_iter().peekable();
    let mut pairs = STREAM_FIRST_PAIRS;
    loop {
        let mut chunk = pb::RangeResponse {
            kvs: kvs.by_ref().take(pairs).collect(),
            ..pb::RangeResponse::default()
        };
        let is_last = kvs.peek().is_none();
        if is_last {
            chunk.header = header;
            chunk.more = more;
            chunk.count = count;
        }
        let bytes = chunk.encoded_len();
        if bytes < bytes_wanted / 2 {
            pairs = pairs.saturating_mul(2);
        } else if bytes > bytes_wanted.saturating_mul(2) {
            pairs = (pairs / 2).max(1);
        }
        chunks.push(pb::RangeStreamResponse {
            range_response: Some(chunk),
        });
        if is_last {
            return chunks;
        }
    }
}

#[cfg(test)]
mod tests {
    use baton_proto::mvccpb::KeyValue;

    use super::*;

    #[test]
    fn streamed_chunks_concatenate_to_the_range_and_only_the_last_counts() {
        for pairs in [0, 1, 10, 11, 500] {
            let kvs: Vec<KeyValue> = (0..pairs)
                .map(|n: i64| KeyValue {
                    key: n.to_string().into(),
                    value: vec![0; 100].into(),
                    ..KeyValue::default()
                })
                .collect();
            let whole = pb::RangeResponse {
                header: Some(pb::ResponseHeader::default()),
                kvs,
                more: true,
                count: 1_000,
            };
            let chunks = chunks(whole.clone(), 10_000);
            let (last, others) = chunks.split_last().unwrap();
            let last = last.range_response.clone().unwrap();
            assert_eq!((last.more, last.count), (true, 1_000));
            assert_eq!(last.header, whole.header);
            let mut all = Vec::new();
            for chunk in others {
                let chunk = chunk.range_response.clone().unwrap();
                assert_eq!(
                    (chunk.header, chunk.count, chunk.more),
                    (None, 0, false),
                    "{pairs} pairs"
                );
                all.extend(chunk.kvs);
            }
            all.extend(last.kvs);
            assert_eq!(all, whole.kvs);
        }
    }
}
