//! What lock and campaign have in common: standing in line until the turn comes, and the answer that
//! tells so.

use std::sync::atomic::{AtomicBool, Ordering};

use baton_proto::etcdserverpb as pb;
use bytes::Bytes;
use metrics::{Counter, Gauge, counter, gauge};
use tonic::Response;
use tonic::metadata::MetadataMap;

use super::receipt::Receipt;
use super::status::RpcError;
use super::{Services, metadata};
use crate::admission::pair_cost;
use crate::line::{self, Place};

/// Metadata of an answer that names the create revision of the key it is held by, and of an unlock
/// request that means only this one.
pub(super) const FENCING_TOKEN: &str = "baton-fencing-token";
/// Seconds a hold lives whose caller brought no lease.
const ORPHAN_TTL: i64 = 60;

/// What one stands in line for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Lock,
    Election,
}

impl Kind {
    fn expired(self) -> RpcError {
        match self {
            Self::Lock => RpcError::MutexExpired,
            Self::Election => RpcError::ElectionExpired,
        }
    }

    fn waiting(self) -> Gauge {
        match self {
            Self::Lock => gauge!("baton_lock_waiting"),
            Self::Election => gauge!("baton_election_waiting"),
        }
    }

    fn granted(self) -> Counter {
        match self {
            Self::Lock => counter!("baton_lock_granted_total"),
            Self::Election => counter!("baton_election_granted_total"),
        }
    }

    fn lapsed(self) -> Counter {
        match self {
            Self::Lock => counter!("baton_lock_expired_total"),
            Self::Election => counter!("baton_election_expired_total"),
        }
    }

    fn cancelled(self) -> Counter {
        match self {
            Self::Lock => counter!("baton_lock_cancelled_total"),
            Self::Election => counter!("baton_election_cancelled_total"),
        }
    }
}

/// A call that stands in line. Dropped before it is told how that ended, its caller went away.
struct Waiting {
    kind: Kind,
    has_ended: AtomicBool,
}

impl Waiting {
    fn new(kind: Kind) -> Self {
        kind.waiting().increment(1.0);
        Self {
            kind,
            has_ended: AtomicBool::new(false),
        }
    }

    fn ended(&self) {
        self.has_ended.store(true, Ordering::Relaxed);
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.kind.waiting().decrement(1.0);
        if !*self.has_ended.get_mut() {
            self.kind.cancelled().increment(1);
        }
    }
}

/// What is held.
pub(super) struct Held {
    pub place: Place,
    /// The lease it lives by.
    pub lease: i64,
    /// The revision that made it so.
    pub since: i64,
    waiting: Waiting,
}

impl Services {
    /// Stands in line for `name` until it is held. Dropped before, the place is given up.
    ///
    /// # Errors
    /// It was refused, the key went away, or the member cannot go on; all but a stopping member leave no
    /// key behind.
    pub(super) async fn hold(
        &self,
        kind: Kind,
        request: &MetadataMap,
        name: &[u8],
        lease: i64,
        value: Option<Bytes>,
    ) -> Result<Held, RpcError> {
        let waiting = Waiting::new(kind);
        let end = metadata::stream_end(self.core.clone(), metadata::requires_leader(request));
        let held = tokio::select! {
            biased;
            held = self.stand(kind, name, lease, value) => held,
            error = end => Err(error),
        };
        match held {
            Ok((place, lease, since)) => Ok(Held {
                place,
                lease,
                since,
                waiting,
            }),
            Err(error) => {
                waiting.ended();
                if error == kind.expired() {
                    kind.lapsed().increment(1);
                }
                Err(error)
            }
        }
    }

    async fn stand(
        &self,
        kind: Kind,
        name: &[u8],
        lease: i64,
        value: Option<Bytes>,
    ) -> Result<(Place, i64, i64), RpcError> {
        let pair_bytes = name.len() + value.as_ref().map_or(0, Bytes::len);
        self.admission.space(pair_cost(pair_bytes)).await?;
        self.admission.backlog()?;
        let lease = match lease {
            0 => self.orphan_lease(name).await?,
            lease => lease,
        };
        let place = self.line.enter(name, lease, value).await?;
        let since = if place.is_first {
            place.entered_at
        } else {
            let turn = self.line.wait(&place).await;
            turn.map_err(|line::Expired| kind.expired())?
        };
        Ok((place, lease, since))
    }

    /// What etcd gives whoever brings none. Nobody renews it.
    async fn orphan_lease(&self, name: &[u8]) -> Result<i64, RpcError> {
        let grant = pb::LeaseGrantRequest {
            id: 0,
            ttl: ORPHAN_TTL,
        };
        let granted = self.grant(grant).await?;
        tracing::warn!(
            name = %String::from_utf8_lossy(name),
            lease = format!("{:x}", granted.id),
            ttl_seconds = granted.ttl,
            "a call to lock or campaign brought no lease; it was given one that ends by itself, and the hold \
             with it. Have the client grant a lease, give it with the call, and keep it alive"
        );
        Ok(granted.id)
    }
}

impl Held {
    /// The answer, with the fencing token. The hold is given up if it does not go out.
    pub(super) fn answer<T>(self, message: T) -> Response<T> {
        let Self { place, waiting, .. } = self;
        let mut response = Response::new(message);
        response
            .metadata_mut()
            .insert(FENCING_TOKEN, place.create_revision.into());
        response.extensions_mut().insert(Receipt::new(move || {
            place.stay.keep();
            waiting.ended();
            waiting.kind.granted().increment(1);
        }));
        response
    }
}
