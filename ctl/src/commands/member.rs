//! Members of the cluster.

use std::ffi::OsString;

use baton_proto::etcdserverpb as pb;
use clap::Subcommand;

use super::{is_serializable, text};
use crate::cli::Context;
use crate::failure::{Failure, Result};
use crate::go;
use crate::output::Answer;

/// Members of the cluster
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  batonctl member list -w table
  batonctl member add n4 --peer-urls=http://10.0.0.4:2380 --learner
  batonctl member promote 8e9e05c52164694d
  batonctl member remove 8e9e05c52164694d")]
pub enum Member {
    /// Add a member, which then is to be started
    #[command(override_usage = "batonctl member add [options] <NAME>")]
    Add {
        #[arg(hide = true)]
        arguments: Vec<OsString>,
        /// Where the other members reach it, separated by commas
        #[arg(long, default_value = "", hide_default_value = true)]
        peer_urls: String,
        /// Without a vote at first
        #[arg(long)]
        learner: bool,
    },
    /// Remove a member for good
    #[command(override_usage = "batonctl member remove <MEMBER_ID>")]
    Remove {
        #[arg(hide = true)]
        arguments: Vec<OsString>,
    },
    /// Tell where the other members reach a member
    #[command(override_usage = "batonctl member update [options] <MEMBER_ID>")]
    Update {
        #[arg(hide = true)]
        arguments: Vec<OsString>,
        /// Where the other members reach it, separated by commas
        #[arg(long, default_value = "", hide_default_value = true)]
        peer_urls: String,
    },
    /// List the members
    List {
        /// Linearizable (l), or serializable (s): what one member knows, perhaps behind
        #[arg(long, default_value = "l")]
        consistency: String,
    },
    /// Give a learner its vote
    #[command(override_usage = "batonctl member promote <MEMBER_ID>")]
    Promote {
        #[arg(hide = true)]
        arguments: Vec<OsString>,
    },
}

impl Member {
    pub async fn run(self, context: &Context) -> Result<()> {
        let Context { client, output, .. } = context;
        match self {
            Self::Add {
                arguments,
                peer_urls,
                learner,
            } => {
                let name = new_name(&arguments)?;
                let answer = client.member_add(urls(&peer_urls)?, learner).await?;
                output.print(&Answer::MemberAdd(&answer, name))
            }
            Self::Remove { arguments } => {
                let id = member_id(&arguments)?;
                let answer = client.member_remove(id).await?;
                changed(context, id, "removed from", answer.header, answer.members)
            }
            Self::Update {
                arguments,
                peer_urls,
            } => {
                let id = member_id(&arguments)?;
                let answer = client.member_update(id, urls(&peer_urls)?).await?;
                changed(context, id, "updated in", answer.header, answer.members)
            }
            Self::Promote { arguments } => {
                let id = member_id(&arguments)?;
                let answer = client.member_promote(id).await?;
                changed(context, id, "promoted in", answer.header, answer.members)
            }
            Self::List { consistency } => {
                let linearizable = !is_serializable(&consistency)?;
                let answer = client.member_list(linearizable).await?;
                output.print(&Answer::MemberList(&answer))
            }
        }
    }
}

fn changed(
    context: &Context,
    id: u64,
    verb: &str,
    header: Option<pb::ResponseHeader>,
    members: Vec<pb::Member>,
) -> Result<()> {
    let cluster = header.unwrap_or_default().cluster_id;
    let text = format!("Member {id:16x} {verb} cluster {cluster:16x}");
    let members = pb::MemberListResponse { header, members };
    context
        .output
        .print(&Answer::MembersChanged(&members, text))
}

fn new_name(arguments: &[OsString]) -> Result<&str> {
    let [name] = arguments else {
        if arguments.is_empty() {
            return Err(Failure::arguments("member name not provided"));
        }
        let mut problem = "too many arguments".to_owned();
        for argument in arguments {
            let argument = text(argument)?;
            if argument.to_lowercase().starts_with("http") {
                problem.push_str(&format!(", did you mean --peer-urls={argument}"));
            }
        }
        return Err(Failure::arguments(problem));
    };
    text(name)
}

fn urls(list: &str) -> Result<Vec<String>> {
    if list.is_empty() {
        return Err(Failure::arguments("member peer urls not provided"));
    }
    Ok(list.split(',').map(str::to_owned).collect())
}

fn member_id(arguments: &[OsString]) -> Result<u64> {
    let [id] = arguments else {
        return Err(Failure::arguments("member ID is not provided"));
    };
    go::parse_uint(text(id)?, 16).map_err(|error| {
        Failure::arguments(format!("bad member ID arg ({error}), expecting ID in Hex"))
    })
}
