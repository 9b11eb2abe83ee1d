//! What every request goes through: choose an endpoint, send, judge the failure, perhaps again.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use tokio::time::Instant;
use tonic::{Response, Status};

use crate::connection::{Connection, Dialer, Raw};
use crate::endpoints::{Endpoint, Endpoints};
use crate::rules::{self, Effect, Fate, Next};
use crate::token::{Token, TokenError};
use crate::{Error, Options, Refusal};

/// How often one request asks for a new token before it believes the server's refusal.
const MAX_REAUTHENTICATIONS: u32 = 3;

/// Sends one request through a client: `ask!(client, sending, Service.method(request))`.
macro_rules! ask {
    ($client:expr, $sending:expr, $service:ident.$method:ident($request:expr)) => {{
        let request = $request;
        let send = |via| {
            let request = request.clone();
            let mut service = $service::new(via).max_decoding_message_size(usize::MAX);
            async move { service.$method(request).await }
        };
        $client.shared.core.call($sending, send).await
    }};
}
pub(crate) use ask;

/// How a request is sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sending {
    pub(crate) effect: Effect,
    /// A member that knows no leader refuses at once, and another is asked.
    pub(crate) require_leader: bool,
    /// Time for all attempts together; `None` where waiting is the request's nature: then it is limited
    /// only in how long no endpoint takes it.
    pub(crate) limit: Option<Duration>,
}

/// Endpoints, options and token: what the clones of a client, its watches and its renewals share.
pub(crate) struct Core {
    pub(crate) endpoints: Endpoints,
    pub(crate) options: Arc<Options>,
    pub(crate) dialer: Arc<Dialer>,
    pub(crate) token: Token,
}

impl Core {
    /// Sends a request until it has an answer, or must not be sent again, or its time is over.
    pub(crate) async fn call<T, F, Fut>(&self, sending: Sending, send: F) -> Result<T, Error>
    where
        F: Fn(Raw) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let started = Instant::now();
        let deadline = sending.limit.map(|limit| started + limit);
        // When an endpoint was last at work on it.
        let mut taken = started;
        let mut patience = self.options.attempt_timeout;
        let mut reauthentications = 0;
        // An attempt before may have taken effect. Only of what may be repeated all the same.
        let mut perhaps_done = None;
        loop {
            let reach_until = deadline.unwrap_or(taken + self.options.request_timeout);
            let connected = self.connected(sending.require_leader);
            let connected = within(Some(reach_until), connected).await;
            let Some(connected) = connected else {
                return Err(self.out_of_time(started, perhaps_done));
            };
            let (endpoint, via) = connected?;
            let token = via.token.clone();
            let patient_until = match sending.effect {
                // Somebody else may know better what this one does not answer.
                Effect::Read if self.endpoints.count() > 1 && sending.limit.is_some() => {
                    let until = Instant::now() + patience;
                    patience *= 2;
                    Some(deadline.map_or(until, |deadline| deadline.min(until)))
                }
                Effect::Read | Effect::Idempotent | Effect::Change => deadline,
            };
            let sent = Instant::now();
            let status = match within(patient_until, send(via)).await {
                Some(Ok(response)) => {
                    endpoint.answered();
                    self.endpoints.prefer(&endpoint);
                    return Ok(response.into_inner());
                }
                Some(Err(status)) => status,
                None => {
                    let why = format!("{}: no answer in time", endpoint.address);
                    endpoint.fell_silent(why.clone());
                    match sending.effect {
                        Effect::Read => continue,
                        Effect::Idempotent | Effect::Change => {
                            return Err(Error::Unknown { reason: why });
                        }
                    }
                }
            };
            if sent.elapsed() >= self.options.attempt_timeout {
                taken = Instant::now();
            }
            let fate = rules::fate(&status);
            let text = || format!("{}: {}", endpoint.address, status.message());
            match rules::next(sending.effect, fate) {
                Next::Refuse => {
                    endpoint.answered();
                    self.endpoints.prefer(&endpoint);
                    return Err(refused(&status, perhaps_done));
                }
                Next::Reauthenticate => {
                    reauthentications += 1;
                    if reauthentications > MAX_REAUTHENTICATIONS || !self.token.is_wanted() {
                        return Err(refused(&status, perhaps_done));
                    }
                    self.token.rejected(token.as_ref()).await;
                }
                Next::Repeat if fate == Fate::NotDone && self.is_hopeless(&status) => {
                    return Err(refused(&status, perhaps_done));
                }
                Next::Repeat => {
                    if fate == Fate::Unknown && sending.effect == Effect::Idempotent {
                        perhaps_done = Some(text());
                    }
                    endpoint.failed(text());
                }
                Next::GiveUp => {
                    endpoint.failed(text());
                    return Err(Error::Unknown { reason: text() });
                }
            }
        }
    }

    /// What the only endpoint says about itself stays true.
    fn is_hopeless(&self, status: &Status) -> bool {
        self.endpoints.count() == 1
            && status.message() == "etcdserver: rpc not supported for learner"
    }

    /// An endpoint with a connection to it and the token to show it. Waits until there is one; fails only
    /// where user and password are refused. Cancel safe.
    pub(crate) async fn connected(
        &self,
        require_leader: bool,
    ) -> Result<(Arc<Endpoint>, Raw), Error> {
        loop {
            let endpoint = self.endpoints.chosen().await;
            let connection = match endpoint.connection().await {
                Ok(connection) => connection,
                Err(why) => {
                    endpoint.failed(why);
                    continue;
                }
            };
            match self.token_for(&connection).await {
                Ok(token) => {
                    let via = Raw {
                        connection,
                        token,
                        require_leader,
                    };
                    return Ok((endpoint, via));
                }
                Err(TokenError::Refused(refusal)) => return Err(Error::Refused(refusal)),
                Err(TokenError::NoAnswer(why)) => {
                    endpoint.failed(format!("{}: {why}", endpoint.address));
                }
            }
        }
    }

    async fn token_for(&self, connection: &Connection) -> Result<Option<HeaderValue>, TokenError> {
        let via = Raw {
            connection: connection.clone(),
            token: None,
            require_leader: false,
        };
        self.token.get(via, self.options.attempt_timeout).await
    }

    fn out_of_time(&self, started: Instant, perhaps_done: Option<String>) -> Error {
        match perhaps_done {
            Some(reason) => Error::Unknown { reason },
            None => self.unavailable(started.elapsed()),
        }
    }

    /// Nobody answered for so long.
    pub(crate) fn unavailable(&self, waited: Duration) -> Error {
        Error::Unavailable {
            waited,
            last: self.endpoints.failures(),
        }
    }
}

/// A refusal tells that nothing was done, unless an attempt before may have been.
fn refused(status: &Status, perhaps_done: Option<String>) -> Error {
    let refusal = Refusal::of(status);
    match perhaps_done {
        // Its key went with the lease.
        Some(_) if refusal.is_lease_not_found() || refusal.is_session_expired() => refusal.into(),
        Some(reason) => Error::Unknown {
            reason: format!("{reason}; repeated, it was refused: {refusal}"),
        },
        None => refusal.into(),
    }
}

/// The future's output, unless the deadline passes first.
async fn within<T>(deadline: Option<Instant>, future: impl Future<Output = T>) -> Option<T> {
    match deadline {
        Some(deadline) => tokio::time::timeout_at(deadline, future).await.ok(),
        None => Some(future.await),
    }
}
