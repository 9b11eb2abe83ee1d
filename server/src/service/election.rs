//! `v3electionpb.Election`: not there yet.

use baton_proto::v3electionpb as pb;
use tonic::{Request, Response, Status};

use super::status::not_implemented;

/// What all of them need.
const MISSING: &str =
    "election service; build elections from leases, transactions and watches, as clients do";

/// The service.
pub(super) struct Election;

#[tonic::async_trait]
impl pb::election_server::Election for Election {
    async fn campaign(
        &self,
        _: Request<pb::CampaignRequest>,
    ) -> Result<Response<pb::CampaignResponse>, Status> {
        Err(not_implemented("Campaign", MISSING))
    }

    async fn proclaim(
        &self,
        _: Request<pb::ProclaimRequest>,
    ) -> Result<Response<pb::ProclaimResponse>, Status> {
        Err(not_implemented("Proclaim", MISSING))
    }

    async fn leader(
        &self,
        _: Request<pb::LeaderRequest>,
    ) -> Result<Response<pb::LeaderResponse>, Status> {
        Err(not_implemented("Leader", MISSING))
    }

    type ObserveStream = tokio_stream::Empty<Result<pb::LeaderResponse, Status>>;

    async fn observe(
        &self,
        _: Request<pb::LeaderRequest>,
    ) -> Result<Response<Self::ObserveStream>, Status> {
        Err(not_implemented("Observe", MISSING))
    }

    async fn resign(
        &self,
        _: Request<pb::ResignRequest>,
    ) -> Result<Response<pb::ResignResponse>, Status> {
        Err(not_implemented("Resign", MISSING))
    }
}
