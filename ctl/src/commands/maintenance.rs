//! Upkeep of members.

use std::ffi::OsString;
use std::io::Write;

use baton_proto::etcdserverpb as pb;
use clap::{Args, Subcommand};
use pb::downgrade_request::DowngradeAction;
use tokio::time::Instant;

use super::{endpoint, text};
use crate::cli::Context;
use crate::failure::{ERROR, Failure, INTERRUPTED, Result};
use crate::go;
use crate::output::{self, Answer, complain};

/// Give space that is free back to the file system
#[derive(Args, Debug)]
pub struct Defrag {
    /// At every member of the cluster, not only at those of --endpoints
    #[arg(long)]
    cluster: bool,
}

impl Defrag {
    pub async fn run(self, context: &Context) -> Result<()> {
        let mut failed = false;
        for member in endpoint::endpoints(context, self.cluster).await? {
            let client = context.client.at(&member)?;
            let started = Instant::now();
            let done = client.defragment().await;
            let took = go::duration(started.elapsed());
            match done {
                Ok(_) => output::print(format!(
                    "Finished defragmenting etcd member[{member}]. took {took}\n"
                ))?,
                Err(error) => {
                    failed = true;
                    complain(format_args!(
                        "Failed to defragment etcd member[{member}]. took {took}. ({})",
                        Failure::from(error).text
                    ));
                }
            }
        }
        if failed {
            return Err(Failure::silent(ERROR));
        }
        Ok(())
    }
}

/// Hand leadership over to another member
#[derive(Args, Debug)]
#[command(
    override_usage = "batonctl move-leader <MEMBER_ID>",
    after_help = "\
The leader has to be among --endpoints: it is the one that is asked.

Example:
  batonctl --endpoints=10.0.0.1:2379,10.0.0.2:2379,10.0.0.3:2379 move-leader 8e9e05c52164694d"
)]
pub struct MoveLeader {
    #[arg(hide = true)]
    arguments: Vec<OsString>,
}

impl MoveLeader {
    pub async fn run(self, context: &Context) -> Result<()> {
        let [target] = &self.arguments[..] else {
            return Err(Failure::arguments("move-leader command needs 1 argument"));
        };
        let target_id = go::parse_uint(text(target)?, 16).map_err(Failure::arguments)?;
        let endpoints = context.client.endpoints();
        for endpoint in &endpoints {
            let client = context.client.at(endpoint)?;
            let status = client.status().await?;
            let leader = status.leader;
            if status.header.unwrap_or_default().member_id != leader {
                continue;
            }
            let answer = client.move_leader(target_id).await?;
            let text = format!("Leadership transferred from {leader:x} to {target_id:x}");
            let header = answer.header.as_ref();
            return context.output.print(&Answer::Done(header, text));
        }
        Err(Failure::arguments(format!(
            "no leader endpoint given at [{}]",
            endpoints.join(" ")
        )))
    }
}

/// Copies of a member's store
#[derive(Debug, Subcommand)]
pub enum Snapshot {
    /// Save the store of a member to a file
    #[command(override_usage = "batonctl snapshot save <FILE>")]
    Save {
        #[arg(hide = true)]
        arguments: Vec<OsString>,
    },
}

impl Snapshot {
    pub async fn run(self, context: &Context) -> Result<()> {
        let Self::Save { arguments } = self;
        let [path] = &arguments[..] else {
            return Err(Failure::arguments(
                "snapshot save expects one argument <filename>",
            ));
        };
        let path = std::path::Path::new(path);
        let version = save(context, path)
            .await
            .map_err(|failure| failure.with_code(INTERRUPTED))?;
        output::print(format!("Snapshot saved at {}\n", path.display()))?;
        if !version.is_empty() {
            output::print(format!("Server version {version}\n"))?;
        }
        Ok(())
    }
}

/// Writes beside the file and renames at the end, so that half a snapshot is never taken for a whole one.
async fn save(context: &Context, path: &std::path::Path) -> Result<String> {
    let mut parts = context.client.snapshot().await?;
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    let part = std::path::Path::new(&name);
    let about = |error: std::io::Error| Failure::error(format!("{}: {error}", part.display()));
    let mut file = std::fs::File::create(part).map_err(about)?;
    let mut version = String::new();
    let mut size = 0;
    while let Some(message) = parts.next().await? {
        size += message.blob.len();
        file.write_all(&message.blob).map_err(about)?;
        if version.is_empty() {
            version = message.version;
        }
    }
    // Pages of 512 bytes and the sum over them.
    if size % 512 != 32 {
        return Err(Failure::error(format!(
            "sha256 checksum not found [bytes: {size}]: the snapshot came in part only, and is left in {}",
            part.display()
        )));
    }
    file.sync_all().map_err(about)?;
    std::fs::rename(part, path).map_err(about)?;
    Ok(version)
}

/// Going back to an older version
#[derive(Debug, Subcommand)]
pub enum Downgrade {
    /// Whether the cluster could go back to a version
    #[command(override_usage = "batonctl downgrade validate <TARGET_VERSION>")]
    Validate {
        #[arg(hide = true)]
        arguments: Vec<OsString>,
    },
    /// Have the cluster go back to a version
    #[command(override_usage = "batonctl downgrade enable <TARGET_VERSION>")]
    Enable {
        #[arg(hide = true)]
        arguments: Vec<OsString>,
    },
    /// Stay with the version after all
    Cancel,
}

impl Downgrade {
    pub async fn run(self, context: &Context) -> Result<()> {
        let (step, action, version) = match &self {
            Self::Validate { arguments } => {
                ("validate", DowngradeAction::Validate, target(arguments)?)
            }
            Self::Enable { arguments } => ("enable", DowngradeAction::Enable, target(arguments)?),
            Self::Cancel => ("cancel", DowngradeAction::Cancel, String::new()),
        };
        let answer = context.client.downgrade(action, version).await?;
        context.output.print(&Answer::Downgrade(step, &answer))
    }
}

fn target(arguments: &[OsString]) -> Result<String> {
    match arguments {
        [] => Err(Failure::arguments("TARGET_VERSION not provided")),
        [version] if version.is_empty() => Err(Failure::arguments("target version not provided")),
        [version] => Ok(text(version)?.to_owned()),
        _ => Err(Failure::arguments("too many arguments")),
    }
}
