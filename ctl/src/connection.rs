//! Connections to members, and what is tried again on another one.

use std::time::Duration;

use baton_proto::etcdserverpb as pb;
use pb::auth_client::AuthClient;
use pb::kv_client::KvClient;
use tokio::time::Instant;
use tonic::metadata::AsciiMetadataValue;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};

use crate::failure::{BAD_CONNECTION, Failure, Result, status_text};

/// A connection to one member, under the caller's identity.
pub type Service = InterceptedService<Channel, Identity>;

/// Who asks.
#[derive(Clone, Debug)]
pub enum Credentials {
    /// Nobody in particular.
    None,
    /// A user and its password, exchanged for a token on every connection.
    Password(String, String),
    /// A token made elsewhere.
    Token(String),
}

/// How members are reached.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where members listen, as they were given.
    pub endpoints: Vec<String>,
    /// Time to reach a member.
    pub dial_timeout: Duration,
    /// Time for a request once connected.
    pub command_timeout: Duration,
    /// Silence after which a member is pinged.
    pub keep_alive: Duration,
    /// Time a member has to answer a ping.
    pub keep_alive_timeout: Duration,
    /// Largest request, in bytes; 0 is 2 MiB.
    pub max_request: usize,
    /// Largest answer, in bytes; 0 is no limit.
    pub max_answer: usize,
    /// Who asks.
    pub credentials: Credentials,
}

/// Puts the token and the wish for a leader on requests.
#[derive(Clone, Debug)]
pub struct Identity {
    token: Option<AsciiMetadataValue>,
    leader: bool,
}

impl tonic::service::Interceptor for Identity {
    fn call(&mut self, mut request: Request<()>) -> std::result::Result<Request<()>, Status> {
        if let Some(token) = &self.token {
            request.metadata_mut().insert("token", token.clone());
        }
        if self.leader {
            let value = AsciiMetadataValue::from_static("true");
            request.metadata_mut().insert("hasleader", value);
        }
        Ok(request)
    }
}

/// The members a command talks to.
#[derive(Clone, Debug)]
pub struct Connection {
    settings: Settings,
}

impl Connection {
    /// To the members of `settings`; nothing is connected yet.
    pub fn new(settings: Settings) -> Self {
        Self { settings }
    }

    /// How members are reached.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The same, to one member only.
    pub fn to(&self, endpoint: &str) -> Self {
        let mut settings = self.settings.clone();
        settings.endpoints = vec![endpoint.to_owned()];
        Self { settings }
    }

    /// The service of keys, with the limits of the settings.
    pub fn kv(&self, service: Service) -> KvClient<Service> {
        let or = |limit: usize, default: usize| if limit == 0 { default } else { limit };
        KvClient::new(service)
            .max_encoding_message_size(or(self.settings.max_request, 2 << 20))
            .max_decoding_message_size(or(self.settings.max_answer, usize::MAX))
    }

    /// Connects to the first member that can be reached, trying all in turn until the dial timeout is over.
    pub async fn service(&self) -> Result<Service> {
        let deadline = Instant::now() + self.settings.dial_timeout;
        Ok(self.reach(0, deadline).await?.1)
    }

    /// The same, for a watch: a member that is cut off from the leader ends it, so that it goes on at another.
    pub async fn service_with_leader(&self, first: usize) -> Result<(usize, Service)> {
        let deadline = Instant::now() + self.settings.dial_timeout;
        let (index, channel, token) = self.dial(first, deadline).await?;
        let identity = Identity {
            token,
            leader: true,
        };
        Ok((index, InterceptedService::new(channel, identity)))
    }

    /// A request that changes nothing. It is made again on the next member where one is not available.
    pub async fn read<T>(
        &self,
        call: impl AsyncFn(Service) -> std::result::Result<Response<T>, Status>,
    ) -> Result<T> {
        let deadline = Instant::now() + self.settings.command_timeout;
        let dial_deadline = Instant::now() + self.settings.dial_timeout;
        let mut next = 0;
        loop {
            let (index, service) = self.reach(next, dial_deadline).await?;
            let status = match tokio::time::timeout_at(deadline, call(service)).await {
                Ok(Ok(answer)) => return Ok(answer.into_inner()),
                Ok(Err(status)) => status,
                Err(_) => return Err(deadline_exceeded()),
            };
            if status.code() != Code::Unavailable || Instant::now() >= dial_deadline {
                return Err(status.into());
            }
            next = index + 1;
            if next >= self.settings.endpoints.len() {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// A request that may change something. It is made once: where no answer comes back it is not known whether it
    /// was carried out, and the failure says so.
    pub async fn change<T>(
        &self,
        call: impl AsyncFnOnce(Service) -> std::result::Result<Response<T>, Status>,
    ) -> Result<T> {
        let service = self.service().await?;
        match tokio::time::timeout(self.settings.command_timeout, call(service)).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) if is_unknown(&status) => Err(Failure::error(format!(
                "{} ({UNKNOWN})",
                status_text(&status)
            ))),
            Ok(Err(status)) => Err(status.into()),
            Err(_) => Err(Failure::error(format!(
                "context deadline exceeded ({UNKNOWN})"
            ))),
        }
    }

    async fn reach(&self, first: usize, deadline: Instant) -> Result<(usize, Service)> {
        let (index, channel, token) = self.dial(first, deadline).await?;
        let identity = Identity {
            token,
            leader: false,
        };
        Ok((index, InterceptedService::new(channel, identity)))
    }

    async fn dial(
        &self,
        first: usize,
        deadline: Instant,
    ) -> Result<(usize, Channel, Option<AsciiMetadataValue>)> {
        let endpoints = &self.settings.endpoints;
        if endpoints.is_empty() {
            return Err(Failure::error(format!(
                "no endpoint given. {NAME_ENDPOINTS}"
            )));
        }
        let targets: Vec<Endpoint> = endpoints
            .iter()
            .map(|endpoint| self.target(endpoint))
            .collect::<Result<_>>()?;
        let mut reasons = vec![String::new(); endpoints.len()];
        loop {
            for step in 0..endpoints.len() {
                let index = (first + step) % endpoints.len();
                let connecting = targets[index].connect();
                match tokio::time::timeout_at(deadline, connecting).await {
                    Ok(Ok(channel)) => {
                        let token = self.token(channel.clone()).await?;
                        return Ok((index, channel, token));
                    }
                    Ok(Err(error)) => reasons[index] = root_cause(&error),
                    Err(_) if reasons[index].is_empty() => {
                        "no answer".clone_into(&mut reasons[index]);
                    }
                    Err(_) => {}
                }
            }
            if Instant::now() + PAUSE >= deadline {
                return Err(self.unreachable(&reasons));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn target(&self, endpoint: &str) -> Result<Endpoint> {
        let url = match endpoint.split_once("://") {
            None if endpoint.starts_with("unix:") => endpoint.to_owned(),
            None => format!("http://{endpoint}"),
            Some(("unix" | "unixs", path)) => format!("unix:{path}"),
            Some(_) => endpoint.to_owned(),
        };
        let target = Endpoint::from_shared(url).map_err(|error| {
            Failure::error(format!(
                "the endpoint {endpoint:?} is no address ({error}). {NAME_ENDPOINTS}"
            ))
        })?;
        Ok(target
            .connect_timeout(self.settings.dial_timeout)
            .http2_keep_alive_interval(self.settings.keep_alive)
            .keep_alive_timeout(self.settings.keep_alive_timeout))
    }

    async fn token(&self, channel: Channel) -> Result<Option<AsciiMetadataValue>> {
        let token = match &self.settings.credentials {
            Credentials::None => return Ok(None),
            Credentials::Token(token) => token.clone(),
            Credentials::Password(name, password) => {
                let request = pb::AuthenticateRequest {
                    name: name.clone(),
                    password: password.clone(),
                };
                match AuthClient::new(channel).authenticate(request).await {
                    Ok(answer) => answer.into_inner().token,
                    // Go's client goes on without a token then.
                    Err(status)
                        if status.message() == "etcdserver: authentication is not enabled" =>
                    {
                        return Ok(None);
                    }
                    Err(status) => return Err(Failure::from(status).with_code(BAD_CONNECTION)),
                }
            }
        };
        let value = token
            .parse()
            .map_err(|_| Failure::error("the token is not printable text"))?;
        Ok(Some(value))
    }

    fn unreachable(&self, reasons: &[String]) -> Failure {
        use std::fmt::Write as _;
        let waited = crate::go::duration(self.settings.dial_timeout);
        let mut text =
            format!("context deadline exceeded: no endpoint could be reached within {waited}");
        for (endpoint, reason) in self.settings.endpoints.iter().zip(reasons) {
            let _ = write!(text, "\n  {endpoint}: {reason}");
        }
        let _ = write!(text, "\nIs the server running? {NAME_ENDPOINTS}");
        Failure::error(text)
    }
}

/// Between two rounds of attempts.
const PAUSE: Duration = Duration::from_millis(100);
const NAME_ENDPOINTS: &str =
    "Name its endpoints with --endpoints=HOST:PORT,... or in BATONCTL_ENDPOINTS.";
const UNKNOWN: &str = "no answer came back: it is not known whether this was carried out";

fn deadline_exceeded() -> Failure {
    Failure::error("context deadline exceeded")
}

/// Whether the request may have been carried out although the server did not say so.
fn is_unknown(status: &Status) -> bool {
    let text = status.message();
    match status.code() {
        Code::DeadlineExceeded | Code::Cancelled => true,
        Code::Unavailable => text != "etcdserver: no leader" && text != "etcdserver: not capable",
        Code::Unknown | Code::Internal => !text.starts_with("etcdserver: "),
        _ => false,
    }
}

/// The innermost reason, which is the one that says something.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
