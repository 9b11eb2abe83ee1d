//! Leases.

use std::ffi::OsString;

use baton_proto::etcdserverpb as pb;
use clap::{Args, Subcommand};
use pb::lease_client::LeaseClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{lease_id, text};
use crate::cli::Context;
use crate::failure::{BAD_CONNECTION, Failure, Result};
use crate::go;
use crate::output::{Answer, Format, complain};

/// Leases: keys that end when nobody renews them
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  batonctl lease grant 60                              a lease of a minute; prints its id
  batonctl put --lease=32695410dcc0ca06 worker/1 alive
  batonctl lease keep-alive 32695410dcc0ca06           renew it for as long as this runs
  batonctl lease timetolive --keys 32695410dcc0ca06
  batonctl lease revoke 32695410dcc0ca06               end it now, and its keys")]
pub enum Lease {
    /// Grant a lease of so many seconds
    #[command(override_usage = "batonctl lease grant <TTL>")]
    Grant {
        #[arg(hide = true)]
        arguments: Vec<OsString>,
    },
    /// End a lease now, and its keys
    #[command(override_usage = "batonctl lease revoke <LEASE_ID>")]
    Revoke {
        #[arg(hide = true)]
        arguments: Vec<OsString>,
    },
    /// Tell what is left of a lease
    #[command(override_usage = "batonctl lease timetolive [options] <LEASE_ID>")]
    Timetolive {
        #[arg(hide = true)]
        arguments: Vec<OsString>,
        /// And the keys that end with it
        #[arg(long)]
        keys: bool,
    },
    /// List all leases
    List,
    KeepAlive(KeepAlive),
}

/// Renew a lease for as long as this runs
#[derive(Args, Debug)]
#[command(override_usage = "batonctl lease keep-alive [options] <LEASE_ID>")]
pub struct KeepAlive {
    #[arg(hide = true)]
    arguments: Vec<OsString>,
    /// Renew it once and come back
    #[arg(long)]
    once: bool,
}

impl Lease {
    pub async fn run(self, context: &Context) -> Result<()> {
        let Context { connection, output } = context;
        match self {
            Self::Grant { arguments } => {
                let [ttl] = &arguments[..] else {
                    return Err(Failure::arguments("lease grant command needs TTL argument"));
                };
                let ttl = go::parse_int(text(ttl)?, 10)
                    .map_err(|error| Failure::arguments(format!("bad TTL ({error})")))?;
                let request = pb::LeaseGrantRequest { ttl, id: 0 };
                let answer = connection
                    .change(async |service| LeaseClient::new(service).lease_grant(request).await)
                    .await
                    .map_err(|failure| failure.about("failed to grant lease"))?;
                output.print(&Answer::Grant(&answer))
            }
            Self::Revoke { arguments } => {
                let [id] = &arguments[..] else {
                    return Err(Failure::arguments("lease revoke command needs 1 argument"));
                };
                let id = lease_id(id)?;
                let request = pb::LeaseRevokeRequest { id };
                let answer = connection
                    .change(async |service| LeaseClient::new(service).lease_revoke(request).await)
                    .await
                    .map_err(|failure| failure.about("failed to revoke lease"))?;
                let text = format!("lease {id:016x} revoked");
                output.print(&Answer::Done(answer.header.as_ref(), text))
            }
            Self::Timetolive { arguments, keys } => {
                let [id] = &arguments[..] else {
                    return Err(Failure::arguments(
                        "lease timetolive command needs lease ID as argument",
                    ));
                };
                let id = lease_id(id)?;
                let request = pb::LeaseTimeToLiveRequest { id, keys };
                let answer = connection
                    .read(async |service| {
                        LeaseClient::new(service).lease_time_to_live(request).await
                    })
                    .await
                    .map_err(|failure| failure.with_code(BAD_CONNECTION))?;
                output.print(&Answer::TimeToLive(&answer, keys))
            }
            Self::List => {
                let answer = connection
                    .read(async |service| {
                        let request = pb::LeaseLeasesRequest {};
                        LeaseClient::new(service).lease_leases(request).await
                    })
                    .await
                    .map_err(|failure| failure.with_code(BAD_CONNECTION))?;
                output.print(&Answer::Leases(&answer))
            }
            Self::KeepAlive(keep_alive) => keep_alive.run(context).await,
        }
    }
}

impl KeepAlive {
    async fn run(self, context: &Context) -> Result<()> {
        let [id] = &self.arguments[..] else {
            return Err(Failure::arguments(
                "lease keep-alive command needs lease ID as argument",
            ));
        };
        let id = lease_id(id)?;
        let output = &context.output;
        if self.once {
            let answer = renew(context, id).await?;
            if answer.ttl <= 0 {
                let text = "etcdserver: requested lease not found";
                return Err(Failure::new(BAD_CONNECTION, text));
            }
            return output.print(&Answer::KeepAlive(&answer));
        }
        loop {
            let answer = renew_until_it_is_over(context, id).await?;
            let Some(answer) = answer else { break };
            // The stream broke. It is opened again at once, and after that not faster than can be renewed.
            complain(format_args!("{answer}; trying again"));
            tokio::time::sleep(RETRY).await;
        }
        if output.format() == Format::Simple {
            let text = format!("lease {id:016x} expired or revoked.\n");
            crate::output::print(text)?;
        }
        Ok(())
    }
}

/// Between two attempts to renew where no member answers.
const RETRY: std::time::Duration = std::time::Duration::from_millis(500);

async fn renew(context: &Context, id: i64) -> Result<pb::LeaseKeepAliveResponse> {
    let answer = context.connection.read(async |service| {
        let request = tokio_stream::once(pb::LeaseKeepAliveRequest { id });
        let mut answers = LeaseClient::new(service)
            .lease_keep_alive(request)
            .await?
            .into_inner();
        let answer = answers.message().await?;
        answer
            .map(tonic::Response::new)
            .ok_or_else(|| tonic::Status::unavailable("the stream ended without an answer"))
    });
    answer
        .await
        .map_err(|failure| failure.with_code(BAD_CONNECTION))
}

/// Renews and prints, three times within the time to live. `None` once the lease is over, else why the stream is.
async fn renew_until_it_is_over(context: &Context, id: i64) -> Result<Option<String>> {
    let service = context.connection.service().await?;
    let (requests, receiver) = mpsc::channel(1);
    let mut client = LeaseClient::new(service);
    let request = pb::LeaseKeepAliveRequest { id };
    let _ = requests.send(request).await;
    let answers = client.lease_keep_alive(ReceiverStream::new(receiver)).await;
    let mut answers = match answers {
        Ok(answers) => answers.into_inner(),
        Err(status) => return Ok(Some(crate::failure::status_text(&status))),
    };
    loop {
        let answer = match answers.message().await {
            Ok(Some(answer)) => answer,
            Ok(None) => return Ok(Some("the stream ended".to_owned())),
            Err(status) => return Ok(Some(crate::failure::status_text(&status))),
        };
        let Ok(ttl @ 1..) = u64::try_from(answer.ttl) else {
            return Ok(None);
        };
        context.output.print(&Answer::KeepAlive(&answer))?;
        tokio::time::sleep(std::time::Duration::from_secs(ttl) / 3).await;
        if requests.send(request).await.is_err() {
            return Ok(Some("the stream ended".to_owned()));
        }
    }
}
