//! `v3lockpb.Lock`: a fair lock by one call each way.
//!
//! Beyond etcd, on the same wire: the answer to `Lock` has the fencing token of the hold as metadata
//! `baton-fencing-token`, and an `Unlock` that brings it back releases that hold and no later one of the
//! same lease. Where the token's hold is over already, there is nothing to do and the answer is the same.

use baton_proto::log::command::Op;
use baton_proto::v3lockpb as pb;
use baton_state_machine::Response as Applied;
use bytes::Bytes;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use super::hold::{FENCING_TOKEN, Kind};
use super::status::RpcError;
use super::{Services, header, metadata};
use crate::line;

/// The service.
pub(super) struct Lock {
    services: Services,
}

/// What became of a release.
enum Released {
    /// There is no such key now; the store is at this revision.
    Gone(i64),
    /// The key is there, and younger.
    Younger,
}

impl Lock {
    pub(super) fn new(services: &Services) -> Self {
        Self {
            services: services.clone(),
        }
    }

    /// Releases the hold of `token`, or that which there is. Gives the revision after.
    async fn unlock(&self, key: &Bytes, token: Option<i64>) -> Result<i64, RpcError> {
        if key.is_empty() {
            return Err(RpcError::KeyNotProvided);
        }
        self.services.admission.backlog()?;
        let Some(token) = token else {
            return self.release_current(key).await;
        };
        match self.release(key, token).await? {
            Released::Gone(revision) => Ok(revision),
            Released::Younger => Ok(self.services.core.state().read().revision()),
        }
    }

    /// Deletes the key if it was created at `create_revision`.
    async fn release(&self, key: &Bytes, create_revision: i64) -> Result<Released, RpcError> {
        let txn = line::delete_if_created(key, create_revision);
        let committed = self.services.core.propose(Op::Txn(txn)).await?;
        let Applied::Txn(response) = committed.response else {
            return Err(RpcError::MalformedEntry);
        };
        Ok(if response.succeeded || line::found(&response).is_none() {
            Released::Gone(committed.revision)
        } else {
            Released::Younger
        })
    }

    /// Deletes the key as it is now, and not what may take its place meanwhile. Gives the revision after.
    ///
    /// What this member has applied is mostly what is now. Where the key is not as it says, it may be behind:
    /// then it catches up and looks again.
    async fn release_current(&self, key: &Bytes) -> Result<i64, RpcError> {
        let core = &self.services.core;
        let created = || core.state().read().create_revision(key);
        if let Some(create_revision) = created()
            && let Released::Gone(revision) = self.release(key, create_revision).await?
        {
            return Ok(revision);
        }
        core.read_barrier().await?;
        if let Some(create_revision) = created()
            && let Released::Gone(revision) = self.release(key, create_revision).await?
        {
            return Ok(revision);
        }
        Ok(core.state().read().revision())
    }
}

/// The hold an unlock request means, where it says so.
fn fencing_token(metadata: &MetadataMap) -> Result<Option<i64>, RpcError> {
    let Some(token) = metadata.get(FENCING_TOKEN) else {
        return Ok(None);
    };
    let token = token.to_str().ok().and_then(|text| text.parse().ok());
    let token = token.filter(|token| *token > 0);
    token.map(Some).ok_or(RpcError::MalformedFencingToken)
}

#[tonic::async_trait]
impl pb::lock_server::Lock for Lock {
    async fn lock(
        &self,
        request: Request<pb::LockRequest>,
    ) -> Result<Response<pb::LockResponse>, Status> {
        let core = &self.services.core;
        metadata::admit(core, request.metadata(), metadata::Call::Unary)?;
        let pb::LockRequest { name, lease } = request.get_ref();
        let held = self
            .services
            .hold(Kind::Lock, request.metadata(), name, *lease, None)
            .await
            .map_err(RpcError::beneath)?;
        let response = pb::LockResponse {
            header: Some(header::at(core, held.since)),
            key: held.place.key.clone(),
        };
        Ok(held.answer(response))
    }

    async fn unlock(
        &self,
        request: Request<pb::UnlockRequest>,
    ) -> Result<Response<pb::UnlockResponse>, Status> {
        let core = &self.services.core;
        metadata::admit(core, request.metadata(), metadata::Call::Unary)?;
        let token = fencing_token(request.metadata())?;
        let pb::UnlockRequest { key } = request.into_inner();
        let revision = self.unlock(&key, token).await.map_err(RpcError::beneath)?;
        Ok(Response::new(pb::UnlockResponse {
            header: Some(header::at(core, revision)),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fencing_token_is_a_positive_number_or_not_there() {
        let mut metadata = MetadataMap::new();
        assert_eq!(fencing_token(&metadata), Ok(None));
        for (text, token) in [
            ("17", Ok(Some(17))),
            ("0", Err(RpcError::MalformedFencingToken)),
            ("-3", Err(RpcError::MalformedFencingToken)),
            ("0x1f", Err(RpcError::MalformedFencingToken)),
            ("", Err(RpcError::MalformedFencingToken)),
        ] {
            metadata.insert(FENCING_TOKEN, text.parse().unwrap());
            assert_eq!(fencing_token(&metadata), token, "{text:?}");
        }
    }
}
