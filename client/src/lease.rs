//! Leases and their renewal.

use std::time::Duration;

use baton_proto::etcdserverpb as pb;
use pb::lease_client::LeaseClient;
use tokio::sync::oneshot;

use crate::core::ask;
use crate::renewals::Ask;
use crate::rules::Rpc;
use crate::{BootInstant, Client, Error};

/// A lease that was renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renewal {
    /// When the request that was answered was *sent*: the server counts from a later instant, so whoever
    /// counts from here stops before the server does.
    pub sent: BootInstant,
    /// The time to live from then on.
    pub ttl: Duration,
}

impl Client {
    /// Grants a lease of `ttl`, which the server rounds up to whole seconds and to its minimum; the
    /// answer has the time that was granted. `id` 0 lets the server choose.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn grant(&self, ttl: Duration, id: i64) -> Result<pb::LeaseGrantResponse, Error> {
        let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
        let request = pb::LeaseGrantRequest {
            ttl: i64::try_from(seconds).unwrap_or(i64::MAX),
            id,
        };
        let sending = self.sending(Rpc::LeaseGrant);
        ask!(self, sending, LeaseClient.lease_grant(request))
    }

    /// Ends a lease; its keys are deleted under one revision.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn revoke(&self, id: i64) -> Result<pb::LeaseRevokeResponse, Error> {
        let sending = self.sending(Rpc::LeaseRevoke);
        ask!(
            self,
            sending,
            LeaseClient.lease_revoke(pb::LeaseRevokeRequest { id })
        )
    }

    /// Renews a lease once. `None` where it is not there any more. Renewals of many leases share one
    /// stream, which moves to another endpoint when it breaks or is silent; a renewal that was not
    /// answered is sent again there, for as long as the options let a request take.
    ///
    /// Dropping the future leaves the renewal to happen or not.
    ///
    /// # Errors
    /// See [`Error`]; a renewal may always be repeated.
    pub async fn renew(&self, id: i64) -> Result<Option<Renewal>, Error> {
        let (answer, answered) = oneshot::channel();
        let _ = self.renewals().send(Ask { id, answer });
        let limit = self.shared.core.options.request_timeout;
        match tokio::time::timeout(limit, answered).await {
            Ok(Ok(answer)) => answer,
            // Only if the runtime is shutting down.
            Ok(Err(_)) => Err(Error::Unknown {
                reason: "the task that serves renewals ended".to_owned(),
            }),
            Err(_) => Err(self.shared.core.unavailable(limit)),
        }
    }

    /// How long a lease has left, and with `keys` what is attached to it. The time left of a lease that
    /// is not there is -1.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn time_to_live(
        &self,
        id: i64,
        keys: bool,
    ) -> Result<pb::LeaseTimeToLiveResponse, Error> {
        let sending = self.sending(Rpc::LeaseTimeToLive);
        let request = pb::LeaseTimeToLiveRequest { id, keys };
        let mut response = ask!(self, sending, LeaseClient.lease_time_to_live(request))?;
        self.namespace.strip_keys(&mut response.keys);
        Ok(response)
    }

    /// All leases.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn leases(&self) -> Result<pb::LeaseLeasesResponse, Error> {
        let sending = self.sending(Rpc::LeaseLeases);
        ask!(
            self,
            sending,
            LeaseClient.lease_leases(pb::LeaseLeasesRequest {})
        )
    }
}
