//! The server's own lock and election services.
//!
//! They are what other languages use. `baton-recipes` has locks and elections that also tell when they
//! are lost, and that write with a fencing token.

use std::time::Duration;

use baton_proto::v3electionpb::election_client::ElectionClient;
use baton_proto::v3electionpb::{
    CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest,
    ProclaimResponse, ResignRequest, ResignResponse,
};
use baton_proto::v3lockpb::lock_client::LockClient;
use baton_proto::v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse};
use bytes::Bytes;
use tonic::Streaming;

use crate::core::{Sending, ask};
use crate::rules::{self, Fate, Rpc};
use crate::{Client, Error, Refusal};

fn needs_lease(lease: i64) -> Result<(), Error> {
    if lease == 0 {
        return Err(Error::Invalid(
            "a lock and a candidate need a lease: grant one and renew it".to_owned(),
        ));
    }
    Ok(())
}

impl Client {
    /// Waits until the lock `name` belongs to `lease`, which the caller renews meanwhile. The key in the
    /// answer is the lock's; its create revision is the fencing token.
    ///
    /// The lock is the lease's: asked again with the same lease, it is there at once. So it is also asked
    /// for again, at another endpoint, when the one it waits at is lost, and keeps its place.
    /// `limit` is the longest time to wait; `None` waits as long as an endpoint can be reached.
    ///
    /// Dropping the future makes the server give up the place in the line, if it hears of it; revoking
    /// the lease does so surely.
    ///
    /// # Errors
    /// See [`Error`]. After [`Error::Unknown`], the limit's end among it, the lease may have the lock or
    /// get it later: ask again, [`unlock`](Self::unlock) the key `name/lease in hex`, or revoke the lease.
    pub async fn lock(
        &self,
        name: impl AsRef<[u8]>,
        lease: i64,
        limit: Option<Duration>,
    ) -> Result<LockResponse, Error> {
        needs_lease(lease)?;
        let sending = Sending {
            limit,
            ..self.sending(Rpc::Lock)
        };
        let request = LockRequest {
            name: self.namespace.with(name.as_ref()),
            lease,
        };
        let mut response = ask!(self, sending, LockClient.lock(request))?;
        self.namespace.strip(&mut response.key);
        Ok(response)
    }

    /// Gives a lock back: the server deletes this key, whoever it belongs to by now.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn unlock(&self, key: impl AsRef<[u8]>) -> Result<UnlockResponse, Error> {
        if key.as_ref().is_empty() {
            return Err(Error::Invalid("the key of the lock is empty".to_owned()));
        }
        let request = UnlockRequest {
            key: self.namespace.with(key.as_ref()),
        };
        ask!(self, self.sending(Rpc::Unlock), LockClient.unlock(request))
    }

    /// Waits until the candidate of `lease` leads the election `name`. The caller renews the lease
    /// meanwhile. Repeated and limited as [`lock`](Self::lock) is.
    ///
    /// # Errors
    /// See [`lock`](Self::lock).
    pub async fn campaign(
        &self,
        name: impl AsRef<[u8]>,
        lease: i64,
        value: impl AsRef<[u8]>,
        limit: Option<Duration>,
    ) -> Result<CampaignResponse, Error> {
        needs_lease(lease)?;
        let sending = Sending {
            limit,
            ..self.sending(Rpc::Campaign)
        };
        let request = CampaignRequest {
            name: self.namespace.with(name.as_ref()),
            lease,
            value: Bytes::copy_from_slice(value.as_ref()),
        };
        let mut response = ask!(self, sending, ElectionClient.campaign(request))?;
        if let Some(leader) = &mut response.leader {
            self.namespace.strip(&mut leader.name);
            self.namespace.strip(&mut leader.key);
        }
        Ok(response)
    }

    fn leader_outside(&self, mut leader: LeaderKey) -> LeaderKey {
        leader.name = self.namespace.with(&leader.name);
        leader.key = self.namespace.with(&leader.key);
        leader
    }

    /// Changes the value of a leader.
    ///
    /// # Errors
    /// See [`Error`]; refused with `election: not leader` where it does not lead any more.
    pub async fn proclaim(
        &self,
        leader: LeaderKey,
        value: impl AsRef<[u8]>,
    ) -> Result<ProclaimResponse, Error> {
        let request = ProclaimRequest {
            leader: Some(self.leader_outside(leader)),
            value: Bytes::copy_from_slice(value.as_ref()),
        };
        ask!(
            self,
            self.sending(Rpc::Proclaim),
            ElectionClient.proclaim(request)
        )
    }

    /// Who leads.
    ///
    /// # Errors
    /// See [`Error`]; refused with `election: no leader` where nobody does.
    pub async fn leader(&self, name: impl AsRef<[u8]>) -> Result<LeaderResponse, Error> {
        let request = LeaderRequest {
            name: self.namespace.with(name.as_ref()),
        };
        let mut response = ask!(
            self,
            self.sending(Rpc::Leader),
            ElectionClient.leader(request)
        )?;
        self.strip_leader(&mut response);
        Ok(response)
    }

    fn strip_leader(&self, response: &mut LeaderResponse) {
        if let Some(kv) = &mut response.kv {
            self.namespace.strip(&mut kv.key);
        }
    }

    /// Gives up leading, or being a candidate.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn resign(&self, leader: LeaderKey) -> Result<ResignResponse, Error> {
        let request = ResignRequest {
            leader: Some(self.leader_outside(leader)),
        };
        ask!(
            self,
            self.sending(Rpc::Resign),
            ElectionClient.resign(request)
        )
    }

    /// Follows who leads, and what they proclaim. Sends nothing until it is asked for the first.
    pub fn observe(&self, name: impl AsRef<[u8]>) -> Observer {
        Observer {
            client: self.clone(),
            request: LeaderRequest {
                name: self.namespace.with(name.as_ref()),
            },
            stream: None,
            told: None,
        }
    }
}

/// Follows an election. After a failure it goes on at another endpoint, with whoever leads then.
#[derive(Debug)]
pub struct Observer {
    client: Client,
    request: LeaderRequest,
    stream: Option<(Streaming<LeaderResponse>, String)>,
    /// Key and revision told last.
    told: Option<(Bytes, i64)>,
}

impl Observer {
    /// The next leader, or the next value of the same one; waits for one. What was proclaimed and
    /// overwritten while the connection was down is not told. Cancel safe.
    ///
    /// # Errors
    /// See [`Error`]. May be asked again: it begins anew.
    pub async fn next(&mut self) -> Result<LeaderResponse, Error> {
        loop {
            let stream = match &mut self.stream {
                Some((stream, _)) => stream,
                None => {
                    let core = &self.client.shared.core;
                    let sending = Sending {
                        // Some servers open the stream with the first leader.
                        limit: None,
                        ..self.client.sending(Rpc::Observe)
                    };
                    let request = self.request.clone();
                    let stream = ask!(self.client, sending, ElectionClient.observe(request))?;
                    let endpoint = core.endpoints.preferred().address.text.clone();
                    &mut self.stream.insert((stream, endpoint)).0
                }
            };
            let message = stream.message().await;
            let why = match message {
                Ok(Some(mut response)) => {
                    let now = response
                        .kv
                        .as_ref()
                        .map(|kv| (kv.key.clone(), kv.mod_revision));
                    if now.is_some() && now == self.told {
                        continue;
                    }
                    self.told = now;
                    self.client.strip_leader(&mut response);
                    return Ok(response);
                }
                Ok(None) => "the stream ended".to_owned(),
                Err(status) => match rules::fate(&status) {
                    Fate::Refused | Fate::Failed | Fate::Unauthenticated => {
                        self.stream = None;
                        return Err(Refusal::of(&status).into());
                    }
                    Fate::NotDone | Fate::Unknown => status.message().to_owned(),
                },
            };
            if let Some((_, endpoint)) = self.stream.take() {
                let core = &self.client.shared.core;
                core.endpoints
                    .failed(&endpoint, format!("{endpoint}: {why}"));
            }
        }
    }
}
