//! `etcdserverpb.Lease`: grant, revoke, keep alive, look at.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};

use baton_proto::etcdserverpb as pb;
use baton_proto::log::command::Op;
use baton_proto::peer::{LeaseRemainingRequest, LeaseRenewRequest, call, reply};
use baton_state_machine::Response as Applied;
use futures_util::{Stream, StreamExt, stream};
use tonic::{Request, Response, Status, Streaming};

use super::status::RpcError;
use super::{Services, header, metadata};
use crate::admission::lease_cost;

/// Longest time to live, in seconds.
const TTL_MAX: i64 = 9_000_000_000;
/// Keepalives of one stream that are under way together.
const RENEWALS_IN_FLIGHT: usize = 256;
/// Pause before the leader is asked again.
const RETRY: std::time::Duration = std::time::Duration::from_millis(50);

/// The service.
pub(super) struct Lease {
    services: Services,
}

/// Where ids come from for leases that were given none.
#[derive(Debug)]
pub(super) struct Ids {
    drawn: AtomicU64,
    seed: u64,
}

type KeepAlives = Pin<Box<dyn Stream<Item = Result<pb::LeaseKeepAliveResponse, Status>> + Send>>;

impl Ids {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            drawn: AtomicU64::new(0),
            seed,
        }
    }

    /// A positive id that no other lease is likely to have.
    fn draw(&self) -> i64 {
        loop {
            let drawn = self.drawn.fetch_add(1, Ordering::Relaxed);
            let id = scramble(self.seed.wrapping_add(drawn)) & i64::MAX.cast_unsigned();
            if id != 0 {
                return id.cast_signed();
            }
        }
    }
}

impl Lease {
    pub(super) fn new(services: &Services) -> Self {
        Self {
            services: services.clone(),
        }
    }
}

/// Spreads consecutive numbers over all of `u64` without two of them meeting.
fn scramble(number: u64) -> u64 {
    let mut z = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Services {
    /// Grants a lease of at least the shortest time to live, under an id of its own where it has none.
    pub(super) async fn grant(
        &self,
        mut request: pb::LeaseGrantRequest,
    ) -> Result<pb::LeaseGrantResponse, RpcError> {
        self.admission.space(lease_cost()).await?;
        if request.ttl > TTL_MAX {
            return Err(RpcError::LeaseTtlTooLarge);
        }
        request.ttl = request.ttl.max(self.limits.min_lease_ttl);
        if request.id == 0 {
            request.id = self.lease_ids.draw();
        }
        self.admission.backlog()?;
        let committed = self.core.propose(Op::LeaseGrant(request)).await?;
        let Applied::LeaseGrant(mut response) = committed.response else {
            return Err(RpcError::MalformedEntry);
        };
        response.header = Some(header::at(&self.core, committed.revision));
        Ok(response)
    }

    /// Renews a lease, here or at the leader, and goes on trying while leadership changes.
    async fn renew(&self, id: i64) -> Result<i64, RpcError> {
        let attempts = async {
            loop {
                if self.core.is_leader() {
                    if let Some(ttl) = self.core.renew_here(&self.lessor, id).await {
                        return ttl;
                    }
                } else {
                    let question = call::Question::LeaseRenew(LeaseRenewRequest { id });
                    if let Ok(reply::Answer::LeaseRenew(answer)) =
                        self.core.ask_leader(question).await
                    {
                        return answer.ttl;
                    }
                }
                tokio::time::sleep(RETRY).await;
            }
        };
        self.within_request_timeout(attempts).await
    }

    /// The seconds a lease has left by the leader's clock, `None` where there is no such lease.
    async fn remaining(&self, id: i64) -> Result<Option<i64>, RpcError> {
        let attempts = async {
            loop {
                if self.core.is_leader() {
                    let remaining = self.core.remaining_here(&self.lessor, id).await;
                    if let Some(remaining) = remaining {
                        return remaining.map(|left| left.as_secs().cast_signed());
                    }
                } else {
                    let question = call::Question::LeaseRemaining(LeaseRemainingRequest { id });
                    if let Ok(reply::Answer::LeaseRemaining(answer)) =
                        self.core.ask_leader(question).await
                    {
                        return answer.found.then_some(answer.remaining);
                    }
                }
                tokio::time::sleep(RETRY).await;
            }
        };
        self.within_request_timeout(attempts).await
    }

    async fn within_request_timeout<T>(
        &self,
        attempts: impl Future<Output = T>,
    ) -> Result<T, RpcError> {
        let mut stopping = self.core.stopping();
        let timeout = self.core.identity().request_timeout;
        tokio::select! {
            result = tokio::time::timeout(timeout, attempts) => {
                result.map_err(|_| RpcError::Timeout)
            }
            _ = stopping.wait_for(|stopping| *stopping) => Err(RpcError::Stopped),
        }
    }

    async fn keep_alive(
        self,
        request: pb::LeaseKeepAliveRequest,
    ) -> Result<pb::LeaseKeepAliveResponse, Status> {
        // Before the renewal: what the lease is renewed against may be newer, never older.
        let header = header::now(&self.core);
        let ttl = self.renew(request.id).await?;
        Ok(pb::LeaseKeepAliveResponse {
            header: Some(header),
            id: request.id,
            ttl,
        })
    }
}

#[tonic::async_trait]
impl pb::lease_server::Lease for Lease {
    async fn lease_grant(
        &self,
        request: Request<pb::LeaseGrantRequest>,
    ) -> Result<Response<pb::LeaseGrantResponse>, Status> {
        metadata::admit(
            &self.services.core,
            request.metadata(),
            metadata::Call::Unary,
        )?;
        let response = self.services.grant(request.into_inner()).await?;
        Ok(Response::new(response))
    }

    async fn lease_revoke(
        &self,
        request: Request<pb::LeaseRevokeRequest>,
    ) -> Result<Response<pb::LeaseRevokeResponse>, Status> {
        let Services {
            core, admission, ..
        } = &self.services;
        metadata::admit(core, request.metadata(), metadata::Call::Unary)?;
        admission.backlog().map_err(RpcError::from)?;
        let committed = core
            .propose(Op::LeaseRevoke(request.into_inner()))
            .await
            .map_err(RpcError::from)?;
        Ok(Response::new(pb::LeaseRevokeResponse {
            header: Some(header::at(core, committed.revision)),
        }))
    }

    type LeaseKeepAliveStream = KeepAlives;

    /// One response per request, in order. Renewals that come together are confirmed together.
    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<pb::LeaseKeepAliveRequest>>,
    ) -> Result<Response<KeepAlives>, Status> {
        let core = &self.services.core;
        metadata::admit(core, request.metadata(), metadata::Call::Stream)?;
        let end = metadata::stream_end(core.clone(), metadata::requires_leader(request.metadata()));
        let services = self.services.clone();
        let renewals = request
            .into_inner()
            .map(move |request| {
                let services = services.clone();
                async move { services.keep_alive(request?).await }
            })
            .buffered(RENEWALS_IN_FLIGHT);
        let renewals = end_with(renewals, async move { Status::from(end.await) });
        Ok(Response::new(Box::pin(renewals)))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<pb::LeaseTimeToLiveRequest>,
    ) -> Result<Response<pb::LeaseTimeToLiveResponse>, Status> {
        let core = &self.services.core;
        metadata::admit(core, request.metadata(), metadata::Call::Unary)?;
        let pb::LeaseTimeToLiveRequest { id, keys } = request.into_inner();
        let remaining = self.services.remaining(id).await?;
        core.read_barrier().await.map_err(RpcError::from)?;
        let state = core.state().read();
        let lease = state.lease(id);
        let revision = state.revision();
        let response = match (remaining, lease) {
            (Some(ttl), Some(lease)) => pb::LeaseTimeToLiveResponse {
                header: None,
                id,
                ttl,
                granted_ttl: lease.ttl,
                keys: if keys {
                    lease.keys.iter().cloned().collect()
                } else {
                    Vec::new()
                },
            },
            _ => pb::LeaseTimeToLiveResponse {
                id,
                ttl: -1,
                ..pb::LeaseTimeToLiveResponse::default()
            },
        };
        drop(state);
        Ok(Response::new(pb::LeaseTimeToLiveResponse {
            header: Some(header::at(core, revision)),
            ..response
        }))
    }

    async fn lease_leases(
        &self,
        request: Request<pb::LeaseLeasesRequest>,
    ) -> Result<Response<pb::LeaseLeasesResponse>, Status> {
        let Services { core, lessor, .. } = &self.services;
        metadata::admit(core, request.metadata(), metadata::Call::Unary)?;
        let ids = match lessor.by_deadline() {
            Some(ids) => ids,
            None => core.state().read().lease_ids().collect(),
        };
        Ok(Response::new(pb::LeaseLeasesResponse {
            header: Some(header::now(core)),
            leases: ids.into_iter().map(|id| pb::LeaseStatus { id }).collect(),
        }))
    }
}

/// Passes `items` on until an error, which is the last item, or until `end` says why to stop.
fn end_with<T, S, E>(items: S, end: E) -> impl Stream<Item = Result<T, Status>>
where
    S: Stream<Item = Result<T, Status>>,
    E: Future<Output = Status>,
{
    let state = Some((Box::pin(items), Box::pin(end)));
    stream::unfold(state, |state| async move {
        let (mut items, mut end) = state?;
        let item = tokio::select! {
            biased;
            item = items.next() => item?,
            status = &mut end => Err(status),
        };
        let state = item.is_ok().then_some((items, end));
        Some((item, state))
    })
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[tokio::test]
    async fn a_stream_ends_with_its_first_error() {
        let items = stream::iter([Ok(1), Err(Status::unavailable("lost")), Ok(2)]);
        let all: Vec<_> = end_with(items, pending()).collect().await;
        assert_eq!(all.len(), 2);
        assert!(all[1].is_err());
    }

    #[tokio::test]
    async fn a_stream_that_has_to_end_says_why() {
        let end = ready(Status::from(RpcError::NoLeader));
        let all: Vec<_> = end_with(stream::pending::<Result<(), _>>(), end)
            .collect()
            .await;
        let [Err(status)] = &all[..] else {
            panic!("{all:?}");
        };
        assert_eq!(status.message(), "etcdserver: no leader");
    }
}
