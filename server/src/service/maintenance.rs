//! `etcdserverpb.Maintenance`: what an operator asks of a member.

use baton_proto::etcdserverpb as pb;
use baton_proto::etcdserverpb::AlarmType;
use baton_proto::etcdserverpb::alarm_request::AlarmAction;
use baton_proto::log::command::Op;
use baton_state_machine::Response as Applied;
use metrics::histogram;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::status::{RpcError, not_implemented};
use super::{ETCD_VERSION, STORAGE_VERSION, Services, header, metadata, scan};
use crate::core::ReadError;

/// The service.
pub(super) struct Maintenance {
    services: Services,
}

impl Maintenance {
    pub(super) fn new(services: &Services) -> Self {
        Self {
            services: services.clone(),
        }
    }

    async fn hash(&self, revision: i64) -> Result<pb::HashKvResponse, RpcError> {
        let Services {
            core, compactor, ..
        } = &self.services;
        let (hash, current) = scan::hash(core, compactor.pins(), revision).await?;
        Ok(pb::HashKvResponse {
            header: Some(header::at(core, current)),
            hash: hash.hash,
            compact_revision: hash.compact_revision,
            hash_revision: hash.hash_revision,
        })
    }
}

#[tonic::async_trait]
impl pb::maintenance_server::Maintenance for Maintenance {
    async fn status(
        &self,
        request: Request<pb::StatusRequest>,
    ) -> Result<Response<pb::StatusResponse>, Status> {
        let Services {
            core, admission, ..
        } = &self.services;
        metadata::admit(core, request.metadata(), metadata::Call::UnaryOnLearner)?;
        let raft = core.raft_status();
        let (revision, in_use, alarms) = {
            let state = core.state().read();
            (state.revision(), state.size_bytes(), state.alarms().clone())
        };
        let mut errors = Vec::new();
        if raft.leader == 0 {
            errors.push(RpcError::NoLeader.wire().1.to_owned());
        }
        errors.extend(
            alarms
                .iter()
                .map(|(member, alarm)| format!("memberID:{member} alarm:{} ", alarm.as_str_name())),
        );
        // Tools divide by the size, and what is in use is a part of it.
        let size = core.disk_bytes().max(in_use).max(1);
        Ok(Response::new(pb::StatusResponse {
            header: Some(pb::ResponseHeader {
                raft_term: raft.term,
                ..header::at(core, revision)
            }),
            version: ETCD_VERSION.to_owned(),
            db_size: bytes(size),
            leader: raft.leader,
            raft_index: raft.committed,
            raft_term: raft.term,
            raft_applied_index: raft.applied,
            errors,
            db_size_in_use: bytes(in_use),
            is_learner: raft.is_learner,
            storage_version: STORAGE_VERSION.to_owned(),
            db_size_quota: bytes(admission.quota_bytes()),
            downgrade_info: Some(pb::DowngradeInfo::default()),
        }))
    }

    async fn alarm(
        &self,
        request: Request<pb::AlarmRequest>,
    ) -> Result<Response<pb::AlarmResponse>, Status> {
        let core = &self.services.core;
        metadata::admit(core, request.metadata(), metadata::Call::Unary)?;
        let request = request.into_inner();
        if request.action == AlarmAction::Get as i32 {
            core.read_barrier().await.map_err(RpcError::from)?;
            let (revision, alarms) = {
                let state = core.state().read();
                let wanted = |alarm: &AlarmType| {
                    request.alarm == AlarmType::None as i32 || request.alarm == *alarm as i32
                };
                let alarms = state.alarms().iter().filter(|(_, alarm)| wanted(alarm));
                let alarms = alarms.map(|(member_id, alarm)| pb::AlarmMember {
                    member_id: *member_id,
                    alarm: *alarm as i32,
                });
                (state.revision(), alarms.collect())
            };
            return Ok(Response::new(pb::AlarmResponse {
                header: Some(header::at(core, revision)),
                alarms,
            }));
        }
        let committed = core
            .propose(Op::Alarm(request))
            .await
            .map_err(RpcError::from)?;
        let Applied::Alarm(mut response) = committed.response else {
            return Err(RpcError::MalformedEntry.into());
        };
        response.header = Some(header::at(core, committed.revision));
        Ok(Response::new(response))
    }

    async fn defragment(
        &self,
        request: Request<pb::DefragmentRequest>,
    ) -> Result<Response<pb::DefragmentResponse>, Status> {
        let core = self.services.core.clone();
        metadata::admit(&core, request.metadata(), metadata::Call::Unary)?;
        match core.reclaim().await {
            Ok(()) => Ok(Response::new(pb::DefragmentResponse { header: None })),
            Err(error) => {
                tracing::error!(%error, "giving back space failed");
                Err(RpcError::ReclaimFailed.into())
            }
        }
    }

    /// etcd hashes its whole file; here nothing but the key space is worth comparing.
    async fn hash(
        &self,
        request: Request<pb::HashRequest>,
    ) -> Result<Response<pb::HashResponse>, Status> {
        let core = &self.services.core;
        metadata::admit(core, request.metadata(), metadata::Call::Unary)?;
        let started = Instant::now();
        let pb::HashKvResponse { header, hash, .. } = self.hash(0).await?;
        histogram!("etcd_mvcc_hash_duration_seconds").record(started.elapsed());
        Ok(Response::new(pb::HashResponse { header, hash }))
    }

    async fn hash_kv(
        &self,
        request: Request<pb::HashKvRequest>,
    ) -> Result<Response<pb::HashKvResponse>, Status> {
        let core = &self.services.core;
        metadata::admit(core, request.metadata(), metadata::Call::Unary)?;
        let started = Instant::now();
        let response = self.hash(request.into_inner().revision).await?;
        histogram!("etcd_mvcc_hash_rev_duration_seconds").record(started.elapsed());
        Ok(Response::new(response))
    }

    async fn move_leader(
        &self,
        request: Request<pb::MoveLeaderRequest>,
    ) -> Result<Response<pb::MoveLeaderResponse>, Status> {
        let core = &self.services.core;
        metadata::admit(core, request.metadata(), metadata::Call::Unary)?;
        let target = request.into_inner().target_id;
        if !core.is_leader() {
            return Err(RpcError::NotLeader.into());
        }
        let is_voter = {
            let state = core.state().read();
            state.members().get(&target).is_some_and(|m| !m.is_learner)
        };
        if !is_voter {
            return Err(RpcError::BadLeaderTransferee.into());
        }
        if target != core.member_id() {
            core.transfer_leader(target)
                .await
                .map_err(|error| match error {
                    ReadError::Timeout => RpcError::TimeoutLeaderTransfer,
                    ReadError::Stopped => RpcError::Stopped,
                })?;
        }
        Ok(Response::new(pb::MoveLeaderResponse { header: None }))
    }

    type SnapshotStream = tokio_stream::Empty<Result<pb::SnapshotResponse, Status>>;

    async fn snapshot(
        &self,
        _: Request<pb::SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        Err(not_implemented("Snapshot", "backup format of its own yet"))
    }

    async fn downgrade(
        &self,
        _: Request<pb::DowngradeRequest>,
    ) -> Result<Response<pb::DowngradeResponse>, Status> {
        Err(not_implemented(
            "Downgrade",
            "older storage version to go back to",
        ))
    }
}

fn bytes(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
