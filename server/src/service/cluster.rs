//! `etcdserverpb.Cluster`: who the members are.

use baton_proto::etcdserverpb as pb;
use tonic::{Request, Response, Status};

use super::status::{RpcError, not_implemented};
use super::{Services, header, metadata};

/// What the other RPCs need.
const MISSING: &str =
    "change of membership at run time; the members are those of --initial-cluster";

/// The service.
pub(super) struct Cluster {
    services: Services,
}

impl Cluster {
    pub(super) fn new(services: &Services) -> Self {
        Self {
            services: services.clone(),
        }
    }
}

#[tonic::async_trait]
impl pb::cluster_server::Cluster for Cluster {
    async fn member_list(
        &self,
        request: Request<pb::MemberListRequest>,
    ) -> Result<Response<pb::MemberListResponse>, Status> {
        let core = &self.services.core;
        metadata::admit(core, request.metadata(), metadata::Call::Unary)?;
        if request.into_inner().linearizable {
            core.read_barrier().await.map_err(RpcError::from)?;
        }
        let members = core.state().read().members().values().cloned().collect();
        Ok(Response::new(pb::MemberListResponse {
            header: Some(header::without_revision(core)),
            members,
        }))
    }

    async fn member_add(
        &self,
        _: Request<pb::MemberAddRequest>,
    ) -> Result<Response<pb::MemberAddResponse>, Status> {
        Err(not_implemented("MemberAdd", MISSING))
    }

    async fn member_remove(
        &self,
        _: Request<pb::MemberRemoveRequest>,
    ) -> Result<Response<pb::MemberRemoveResponse>, Status> {
        Err(not_implemented("MemberRemove", MISSING))
    }

    async fn member_update(
        &self,
        _: Request<pb::MemberUpdateRequest>,
    ) -> Result<Response<pb::MemberUpdateResponse>, Status> {
        Err(not_implemented("MemberUpdate", MISSING))
    }

    async fn member_promote(
        &self,
        _: Request<pb::MemberPromoteRequest>,
    ) -> Result<Response<pb::MemberPromoteResponse>, Status> {
        Err(not_implemented("MemberPromote", MISSING))
    }
}
