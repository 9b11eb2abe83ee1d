//! `v3electionpb.Election`: leadership by one call each.
//!
//! Beyond etcd, on the same wire: the answer to `Campaign` has the fencing token as metadata
//! `baton-fencing-token`, the same number as the `rev` of its leader key. A candidate whose key is gone
//! is told so at once and never wins.

use baton_proto::log::command::Op;
use baton_proto::v3electionpb as pb;
use baton_state_machine::{KeyRange, Response as Applied};
use tonic::{Request, Response, Status};

use super::hold::Kind;
use super::observe::{self, Leaders};
use super::status::RpcError;
use super::{Services, header, metadata, scan};
use crate::admission::txn_cost;
use crate::line;

/// The service.
pub(super) struct Election {
    services: Services,
}

impl Election {
    pub(super) fn new(services: &Services) -> Self {
        Self {
            services: services.clone(),
        }
    }

    /// Puts the value if the key is still that of the leadership. Gives the revision after.
    async fn put(&self, request: pb::ProclaimRequest) -> Result<i64, RpcError> {
        let Services {
            core, admission, ..
        } = &self.services;
        let leader = request.leader.ok_or(RpcError::LeaderNotProvided)?;
        if leader.key.is_empty() {
            return Err(RpcError::KeyNotProvided);
        }
        // A revision of 0 would be that of a key which is missing.
        if leader.rev <= 0 {
            return Err(RpcError::ElectionNotLeader);
        }
        let put = line::put_if_created(&leader.key, leader.rev, request.value);
        admission.space(txn_cost(&put)).await?;
        admission.backlog()?;
        let committed = core.propose(Op::Txn(put)).await?;
        match committed.response {
            Applied::Txn(response) if response.succeeded => Ok(committed.revision),
            _ => Err(RpcError::ElectionNotLeader),
        }
    }

    /// Deletes the key if it is still that of the leadership. Gives the revision after.
    async fn delete(&self, leader: Option<pb::LeaderKey>) -> Result<i64, RpcError> {
        let Services {
            core, admission, ..
        } = &self.services;
        let leader = leader.ok_or(RpcError::LeaderNotProvided)?;
        if leader.key.is_empty() {
            return Err(RpcError::KeyNotProvided);
        }
        admission.backlog()?;
        let delete = line::delete_if_created(&leader.key, leader.rev);
        Ok(core.propose(Op::Txn(delete)).await?.revision)
    }

    async fn first(&self, name: &[u8]) -> Result<pb::LeaderResponse, RpcError> {
        let Services {
            core, compactor, ..
        } = &self.services;
        core.read_barrier().await?;
        let first = line::first_created(&KeyRange::directory(name));
        let (range, revision) = scan::range(core, compactor.pins(), &first).await?;
        let kv = range.kvs.into_iter().next();
        Ok(pb::LeaderResponse {
            header: Some(header::at(core, revision)),
            kv: Some(kv.ok_or(RpcError::ElectionNoLeader)?),
        })
    }
}

#[tonic::async_trait]
impl pb::election_server::Election for Election {
    async fn campaign(
        &self,
        request: Request<pb::CampaignRequest>,
    ) -> Result<Response<pb::CampaignResponse>, Status> {
        let core = &self.services.core;
        metadata::admit(core, request.metadata(), metadata::Call::Unary)?;
        let pb::CampaignRequest { name, lease, value } = request.get_ref();
        let value = Some(value.clone());
        let held = self
            .services
            .hold(Kind::Election, request.metadata(), name, *lease, value)
            .await
            .map_err(RpcError::beneath)?;
        let response = pb::CampaignResponse {
            // As in etcd that of the key's creation, however long the candidate waited afterwards.
            header: Some(header::at(core, held.place.entered_at)),
            leader: Some(pb::LeaderKey {
                name: name.clone(),
                key: held.place.key.clone(),
                rev: held.place.create_revision,
                lease: held.lease,
            }),
        };
        Ok(held.answer(response))
    }

    async fn proclaim(
        &self,
        request: Request<pb::ProclaimRequest>,
    ) -> Result<Response<pb::ProclaimResponse>, Status> {
        let core = &self.services.core;
        metadata::admit(core, request.metadata(), metadata::Call::Unary)?;
        let put = self.put(request.into_inner()).await;
        let revision = put.map_err(RpcError::beneath)?;
        Ok(Response::new(pb::ProclaimResponse {
            header: Some(header::at(core, revision)),
        }))
    }

    async fn leader(
        &self,
        request: Request<pb::LeaderRequest>,
    ) -> Result<Response<pb::LeaderResponse>, Status> {
        let core = &self.services.core;
        metadata::admit(core, request.metadata(), metadata::Call::Unary)?;
        let first = self.first(&request.get_ref().name).await;
        Ok(Response::new(first.map_err(RpcError::beneath)?))
    }

    type ObserveStream = Leaders;

    async fn observe(
        &self,
        request: Request<pb::LeaderRequest>,
    ) -> Result<Response<Leaders>, Status> {
        let core = &self.services.core;
        metadata::admit(core, request.metadata(), metadata::Call::Stream)?;
        let end = metadata::stream_end(core.clone(), metadata::requires_leader(request.metadata()));
        let name = &request.get_ref().name;
        Ok(Response::new(observe::leaders(
            self.services.clone(),
            name,
            end,
        )))
    }

    async fn resign(
        &self,
        request: Request<pb::ResignRequest>,
    ) -> Result<Response<pb::ResignResponse>, Status> {
        let core = &self.services.core;
        metadata::admit(core, request.metadata(), metadata::Call::Unary)?;
        let delete = self.delete(request.into_inner().leader).await;
        let revision = delete.map_err(RpcError::beneath)?;
        Ok(Response::new(pb::ResignResponse {
            header: Some(header::at(core, revision)),
        }))
    }
}
