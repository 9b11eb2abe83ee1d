//! Requests about members.

use baton_proto::etcdserverpb as pb;
use pb::cluster_client::ClusterClient;

use crate::core::{Sending, ask};
use crate::rules::Rpc;
use crate::{Client, Error};

impl Client {
    /// The members. `linearizable` asks the leader whether this is still true; without, it is what the
    /// member asked knows, and needs no leader.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn member_list(&self, linearizable: bool) -> Result<pb::MemberListResponse, Error> {
        let sending = Sending {
            require_leader: linearizable,
            ..self.sending(Rpc::MemberList)
        };
        let request = pb::MemberListRequest { linearizable };
        ask!(self, sending, ClusterClient.member_list(request))
    }

    /// Adds a member that listens to other members at these URLs, as one without a vote if it is a
    /// learner.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn member_add(
        &self,
        peer_urls: Vec<String>,
        is_learner: bool,
    ) -> Result<pb::MemberAddResponse, Error> {
        let request = pb::MemberAddRequest {
            peer_ur_ls: peer_urls,
            is_learner,
        };
        ask!(
            self,
            self.sending(Rpc::MemberAdd),
            ClusterClient.member_add(request)
        )
    }

    /// Removes a member.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn member_remove(&self, id: u64) -> Result<pb::MemberRemoveResponse, Error> {
        let request = pb::MemberRemoveRequest { id };
        ask!(
            self,
            self.sending(Rpc::MemberRemove),
            ClusterClient.member_remove(request)
        )
    }

    /// Changes where a member listens to other members.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn member_update(
        &self,
        id: u64,
        peer_urls: Vec<String>,
    ) -> Result<pb::MemberUpdateResponse, Error> {
        let request = pb::MemberUpdateRequest {
            id,
            peer_ur_ls: peer_urls,
        };
        ask!(
            self,
            self.sending(Rpc::MemberUpdate),
            ClusterClient.member_update(request)
        )
    }

    /// Gives a learner a vote.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn member_promote(&self, id: u64) -> Result<pb::MemberPromoteResponse, Error> {
        let request = pb::MemberPromoteRequest { id };
        ask!(
            self,
            self.sending(Rpc::MemberPromote),
            ClusterClient.member_promote(request)
        )
    }

    /// Takes the client URLs of all members with a vote as endpoints, and returns them. Members that
    /// have not started yet have none; if nobody has, the endpoints stay.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn sync_endpoints(&self) -> Result<Vec<String>, Error> {
        let members = self.member_list(true).await?.members;
        let voters = members.into_iter().filter(|member| !member.is_learner);
        let urls: Vec<String> = voters.flat_map(|member| member.client_ur_ls).collect();
        if !urls.is_empty() {
            self.set_endpoints(&urls)?;
        }
        Ok(self.endpoints())
    }
}
