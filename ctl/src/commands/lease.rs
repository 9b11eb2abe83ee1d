//! Leases.

use std::ffi::OsString;
use std::time::Duration;

use baton_proto::etcdserverpb as pb;
use clap::{Args, Subcommand};
use pb::lease_client::LeaseClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::{lease_id, text};
use crate::cli::Context;
use crate::failure::{BAD_CONNECTION, Failure, Result, status_text};
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
        let Context { client, output, .. } = context;
        match self {
            Self::Grant { arguments } => {
                let [ttl] = &arguments[..] else {
                    return Err(Failure::arguments("lease grant command needs TTL argument"));
                };
                let ttl = go::parse_int(text(ttl)?, 10)
                    .map_err(|error| Failure::arguments(format!("bad TTL ({error})")))?;
                // The server takes less than its minimum for its minimum.
                let ttl = Duration::from_secs(u64::try_from(ttl).unwrap_or(0));
                let answer = client.grant(ttl, 0).await;
                let answer =
                    answer.map_err(|error| Failure::from(error).about("failed to grant lease"))?;
                output.print(&Answer::Grant(&answer))
            }
            Self::Revoke { arguments } => {
                let [id] = &arguments[..] else {
                    return Err(Failure::arguments("lease revoke command needs 1 argument"));
                };
                let id = lease_id(id)?;
                let answer = client.revoke(id).await;
                let answer =
                    answer.map_err(|error| Failure::from(error).about("failed to revoke lease"))?;
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
                let answer = client.time_to_live(id, keys).await;
                let answer =
                    answer.map_err(|error| Failure::from(error).with_code(BAD_CONNECTION))?;
                output.print(&Answer::TimeToLive(&answer, keys))
            }
            Self::List => {
                let answer = client.leases().await;
                let answer =
                    answer.map_err(|error| Failure::from(error).with_code(BAD_CONNECTION))?;
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
            let mut renewals = Renewals::open(context, id).await?;
            return match renewals.next().await {
                Ok(Some(answer)) => output.print(&Answer::KeepAlive(&answer)),
                Ok(None) => Err(Failure::new(BAD_CONNECTION, LEASE_NOT_FOUND)),
                Err(status) => Err(Failure::from(status).with_code(BAD_CONNECTION)),
            };
        }
        'streams: loop {
            let mut renewals = Renewals::open(context, id).await?;
            loop {
                match renewals.next().await {
                    Ok(Some(answer)) => {
                        output.print(&Answer::KeepAlive(&answer))?;
                        let ttl = Duration::from_secs(u64::try_from(answer.ttl).unwrap_or(0));
                        tokio::time::sleep(ttl / 3).await;
                        renewals.renew().await;
                    }
                    Ok(None) => break 'streams,
                    Err(status) => {
                        complain(format_args!("{}; trying again", status_text(&status)));
                        tokio::time::sleep(RETRY).await;
                        break;
                    }
                }
            }
        }
        if output.format() == Format::Simple {
            let text = format!("lease {id:016x} expired or revoked.\n");
            crate::output::print(text)?;
        }
        Ok(())
    }
}

/// Between two streams.
const RETRY: Duration = Duration::from_millis(500);
const LEASE_NOT_FOUND: &str = "etcdserver: requested lease not found";

/// A stream of renewals with whole answers, which are printed.
struct Renewals {
    id: i64,
    requests: mpsc::Sender<pb::LeaseKeepAliveRequest>,
    answers: Streaming<pb::LeaseKeepAliveResponse>,
}

impl Renewals {
    /// Sends the first renewal with it: servers may not open the stream before.
    async fn open(context: &Context, id: i64) -> Result<Self> {
        let raw = context.client.raw().await;
        let raw = raw.map_err(|error| Failure::from(error).with_code(BAD_CONNECTION))?;
        let (requests, receiver) = mpsc::channel(1);
        let _ = requests.send(pb::LeaseKeepAliveRequest { id }).await;
        let answers = LeaseClient::new(raw)
            .lease_keep_alive(ReceiverStream::new(receiver))
            .await
            .map_err(|status| Failure::from(status).with_code(BAD_CONNECTION))?;
        Ok(Self {
            id,
            requests,
            answers: answers.into_inner(),
        })
    }

    /// The next answer; `None` once there is no such lease any more.
    async fn next(&mut self) -> std::result::Result<Option<pb::LeaseKeepAliveResponse>, Status> {
        let answer = self.answers.message().await?;
        let answer = answer.ok_or_else(|| Status::unavailable("the stream ended"))?;
        Ok((answer.ttl > 0).then_some(answer))
    }

    /// Renews once more.
    async fn renew(&self) {
        // A stream that has ended is noticed by its answers.
        let _ = self
            .requests
            .send(pb::LeaseKeepAliveRequest { id: self.id })
            .await;
    }
}
