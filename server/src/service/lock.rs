//! `v3lockpb.Lock`: not there yet.

use baton_proto::v3lockpb as pb;
use tonic::{Request, Response, Status};

use super::status::not_implemented;

/// What all of them need.
const MISSING: &str =
    "lock service; build locks from leases, transactions and watches, as clients do";

/// The service.
pub(super) struct Lock;

#[tonic::async_trait]
impl pb::lock_server::Lock for Lock {
    async fn lock(
        &self,
        _: Request<pb::LockRequest>,
    ) -> Result<Response<pb::LockResponse>, Status> {
        Err(not_implemented("Lock", MISSING))
    }

    async fn unlock(
        &self,
        _: Request<pb::UnlockRequest>,
    ) -> Result<Response<pb::UnlockResponse>, Status> {
        Err(not_implemented("Unlock", MISSING))
    }
}
