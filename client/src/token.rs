//! Who is asking: the token a user and password are exchanged for.

use std::time::Duration;

use baton_proto::etcdserverpb as pb;
use http::HeaderValue;
use pb::auth_client::AuthClient;
use tokio::sync::Mutex;
use tonic::Code;

use crate::connection::Raw;
use crate::rules::{self, Fate};
use crate::{Credentials, Refusal};

/// Why there is no token.
#[derive(Debug)]
pub(crate) enum TokenError {
    /// User or password are wrong.
    Refused(Refusal),
    /// This endpoint does not tell.
    NoAnswer(String),
}

enum State {
    /// Nobody asked yet, or the last one is not accepted any more.
    Missing,
    /// The server does not ask who one is.
    NotNeeded,
    Known(HeaderValue),
}

/// The token of a client: one for all endpoints, fetched when it is first needed.
pub(crate) struct Token {
    credentials: Option<Credentials>,
    state: Mutex<State>,
}

impl Token {
    pub(crate) fn new(credentials: Option<Credentials>) -> Self {
        Self {
            credentials,
            state: Mutex::new(State::Missing),
        }
    }

    /// There are credentials to get one with.
    pub(crate) fn is_wanted(&self) -> bool {
        self.credentials.is_some()
    }

    /// The token, asked for through `via` if there is none. `None` where no credentials were given, or
    /// the server has authentication switched off.
    pub(crate) async fn get(
        &self,
        via: Raw,
        limit: Duration,
    ) -> Result<Option<HeaderValue>, TokenError> {
        let Some(credentials) = &self.credentials else {
            return Ok(None);
        };
        let mut state = self.state.lock().await;
        match &*state {
            State::Known(token) => return Ok(Some(token.clone())),
            State::NotNeeded => return Ok(None),
            State::Missing => {}
        }
        let request = pb::AuthenticateRequest {
            name: credentials.user.clone(),
            password: credentials.password.clone(),
        };
        let mut client = AuthClient::new(via);
        let answer = tokio::time::timeout(limit, client.authenticate(request)).await;
        let status = match answer {
            Ok(Ok(answer)) => {
                let token = HeaderValue::try_from(answer.into_inner().token)
                    .map_err(|error| TokenError::NoAnswer(format!("its token: {error}")))?;
                *state = State::Known(token.clone());
                return Ok(Some(token));
            }
            Ok(Err(status)) => status,
            Err(_) => return Err(TokenError::NoAnswer("no token in time".to_owned())),
        };
        let is_off = status.message() == "etcdserver: authentication is not enabled"
            || status.code() == Code::Unimplemented;
        if is_off {
            *state = State::NotNeeded;
            return Ok(None);
        }
        match rules::fate(&status) {
            Fate::Refused | Fate::Unauthenticated => Err(TokenError::Refused(Refusal::of(&status))),
            Fate::NotDone | Fate::Unknown | Fate::Failed => {
                Err(TokenError::NoAnswer(status.message().to_owned()))
            }
        }
    }

    /// The server does not accept this one; the next request gets another, unless one did already.
    pub(crate) async fn rejected(&self, token: Option<&HeaderValue>) {
        let mut state = self.state.lock().await;
        let is_current = match &*state {
            State::Missing => false,
            State::NotNeeded => token.is_none(),
            State::Known(known) => token == Some(known),
        };
        if is_current {
            *state = State::Missing;
        }
    }
}
