//! Requests to one member: its condition, its store, its leadership.
//!
//! They go to the endpoint in use. To ask a given one, see [`Client::at`].

use baton_proto::etcdserverpb as pb;
use pb::alarm_request::AlarmAction;
use pb::downgrade_request::DowngradeAction;
use pb::maintenance_client::MaintenanceClient;

use crate::core::{Sending, ask};
use crate::parts::Parts;
use crate::rules::Rpc;
use crate::{Client, Error};

impl Client {
    /// About one member, with or without a leader.
    fn sending_to_member(&self, rpc: Rpc<'_>) -> Sending {
        Sending {
            require_leader: false,
            ..self.sending(rpc)
        }
    }

    /// The same, and it may take as long as the store is large.
    fn sending_long(&self, rpc: Rpc<'_>) -> Sending {
        Sending {
            limit: None,
            ..self.sending_to_member(rpc)
        }
    }

    /// The member's version, size, leader, and what is wrong with it.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn status(&self) -> Result<pb::StatusResponse, Error> {
        let sending = self.sending_to_member(Rpc::Status);
        ask!(
            self,
            sending,
            MaintenanceClient.status(pb::StatusRequest {})
        )
    }

    /// Lists, raises or clears alarms. With `Get`, `member_id` 0 means all members.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn alarm(
        &self,
        action: AlarmAction,
        member_id: u64,
        alarm: pb::AlarmType,
    ) -> Result<pb::AlarmResponse, Error> {
        let request = pb::AlarmRequest {
            action: action.into(),
            member_id,
            alarm: alarm.into(),
        };
        ask!(
            self,
            self.sending(Rpc::Alarm(action)),
            MaintenanceClient.alarm(request)
        )
    }

    /// Gives space of deleted data back to the file system. The member may not serve meanwhile. Has no
    /// limit of time once the member took it.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn defragment(&self) -> Result<pb::DefragmentResponse, Error> {
        let sending = self.sending_long(Rpc::Defragment);
        ask!(
            self,
            sending,
            MaintenanceClient.defragment(pb::DefragmentRequest {})
        )
    }

    /// A hash of the member's whole store. Has no limit of time once the member took it.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn hash(&self) -> Result<pb::HashResponse, Error> {
        let sending = self.sending_long(Rpc::Hash);
        ask!(self, sending, MaintenanceClient.hash(pb::HashRequest {}))
    }

    /// A hash of the member's keys up to `revision`, 0 for all: the same on every member. Has no limit of
    /// time once the member took it.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn hash_kv(&self, revision: i64) -> Result<pb::HashKvResponse, Error> {
        let sending = self.sending_long(Rpc::HashKv);
        ask!(
            self,
            sending,
            MaintenanceClient.hash_kv(pb::HashKvRequest { revision })
        )
    }

    /// The member's store, as a stream of pieces.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn snapshot(&self) -> Result<Parts<pb::SnapshotResponse>, Error> {
        let sending = self.sending_long(Rpc::Snapshot);
        let stream = ask!(
            self,
            sending,
            MaintenanceClient.snapshot(pb::SnapshotRequest {})
        );
        Ok(Parts::new(stream?))
    }

    /// Hands leadership to the member with this id. Only the leader takes it.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn move_leader(&self, target_id: u64) -> Result<pb::MoveLeaderResponse, Error> {
        let request = pb::MoveLeaderRequest { target_id };
        ask!(
            self,
            self.sending(Rpc::MoveLeader),
            MaintenanceClient.move_leader(request)
        )
    }

    /// Checks, begins or cancels a downgrade of the cluster to `version`.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn downgrade(
        &self,
        action: DowngradeAction,
        version: impl Into<String>,
    ) -> Result<pb::DowngradeResponse, Error> {
        let request = pb::DowngradeRequest {
            action: action.into(),
            version: version.into(),
        };
        ask!(
            self,
            self.sending(Rpc::Downgrade(action)),
            MaintenanceClient.downgrade(request)
        )
    }
}
