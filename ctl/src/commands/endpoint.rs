//! Endpoints, each asked by itself.

use baton_client::{Client, Refusal};
use baton_proto::etcdserverpb as pb;
use clap::{Args, Subcommand};
use pb::alarm_request::AlarmAction;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::cli::Context;
use crate::failure::{ERROR, Failure, Result};
use crate::go;
use crate::output::{Answer, Format, Health, complain};

/// Health and state of each endpoint
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  batonctl endpoint health --cluster
  batonctl endpoint status --cluster -w table
  batonctl endpoint hashkv --cluster          equal hashes: the members hold the same")]
pub struct Endpoint {
    /// Ask every member of the cluster, not only those of --endpoints
    #[arg(long, global = true)]
    cluster: bool,
    #[command(subcommand)]
    command: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Whether each can commit
    Health,
    /// Version, size, leader and progress of each
    Status,
    /// Hash of the keys and their history at each
    Hashkv {
        /// Up to this revision (0: the newest)
        #[arg(long, default_value = "0", hide_default_value = true, value_parser = go::int_flag)]
        rev: i64,
    },
}

impl Endpoint {
    pub async fn run(self, context: &Context) -> Result<()> {
        let endpoints = endpoints(context, self.cluster).await?;
        match self.command {
            What::Health => health(context, endpoints).await,
            What::Status => status(context, endpoints).await,
            What::Hashkv { rev } => hash_kv(context, endpoints, rev).await,
        }
    }
}

/// The endpoints given, or those of all members.
pub(super) async fn endpoints(context: &Context, cluster: bool) -> Result<Vec<String>> {
    if !cluster {
        return Ok(context.client.endpoints());
    }
    let members = context.client.member_list(true).await.map_err(|error| {
        let text = "failed to fetch endpoints from etcd cluster member list";
        Failure::error(format!("{text}: {}", Failure::from(error).text))
    })?;
    let urls = members
        .members
        .into_iter()
        .flat_map(|member| member.client_ur_ls);
    Ok(urls.collect())
}

async fn health(context: &Context, endpoints: Vec<String>) -> Result<()> {
    let mut asking = JoinSet::new();
    for (index, endpoint) in endpoints.into_iter().enumerate() {
        let client = context.client.at(&endpoint)?;
        asking.spawn(async move { (index, health_of(client, endpoint).await) });
    }
    let mut health = asking.join_all().await;
    health.sort_by_key(|(index, _)| *index);
    let health: Vec<Health> = health.into_iter().map(|(_, health)| health).collect();
    if context.output.format() == Format::Simple {
        for health in &health {
            if let Some(error) = &health.error {
                let endpoint = &health.endpoint;
                complain(format_args!(
                    "{endpoint} is unhealthy: failed to commit proposal: {error}"
                ));
            }
        }
    }
    context.output.print(&Answer::Health(&health))?;
    if health.iter().any(|health| health.error.is_some()) {
        return Err(Failure::error("unhealthy cluster"));
    }
    Ok(())
}

/// Healthy is who can read what is committed, and raises no alarm.
async fn health_of(client: Client, endpoint: String) -> Health {
    let started = Instant::now();
    let error = problem_of(&client).await.err();
    Health {
        endpoint,
        took: started.elapsed(),
        error,
    }
}

async fn problem_of(client: &Client) -> std::result::Result<(), String> {
    match client.get("health").await {
        Ok(_) => {}
        // Who is refused was told so by a member that works.
        Err(error) if error.refusal().is_some_and(Refusal::is_permission_denied) => {}
        Err(error) => return Err(first_line(error)),
    }
    let alarms = client.alarm(AlarmAction::Get, 0, pb::AlarmType::None).await;
    let alarms = alarms.map_err(|_| "Unable to fetch the alarm list".to_owned())?;
    if alarms.alarms.is_empty() {
        return Ok(());
    }
    let mut problem = "Active Alarm(s): ".to_owned();
    for alarm in &alarms.alarms {
        problem.push_str(match pb::AlarmType::try_from(alarm.alarm) {
            Ok(pb::AlarmType::Nospace) => "NOSPACE ",
            Ok(pb::AlarmType::Corrupt) => "CORRUPT ",
            _ => "UNKNOWN ",
        });
    }
    Err(problem)
}

/// What went wrong; the rest says how to name endpoints.
fn first_line(error: baton_client::Error) -> String {
    let text = Failure::from(error).text;
    text.lines().next().unwrap_or_default().to_owned()
}

async fn status(context: &Context, endpoints: Vec<String>) -> Result<()> {
    let mut found = Vec::new();
    let mut failed = false;
    for endpoint in endpoints {
        match context.client.at(&endpoint)?.status().await {
            Ok(status) => found.push((endpoint, status)),
            Err(error) => {
                failed = true;
                complain(format_args!(
                    "Failed to get the status of endpoint {endpoint} ({})",
                    first_line(error)
                ));
            }
        }
    }
    context.output.print(&Answer::Status(&found))?;
    if failed {
        return Err(Failure::silent(ERROR));
    }
    Ok(())
}

async fn hash_kv(context: &Context, endpoints: Vec<String>, revision: i64) -> Result<()> {
    let mut found = Vec::new();
    let mut last_failure = None;
    for endpoint in endpoints {
        match context.client.at(&endpoint)?.hash_kv(revision).await {
            Ok(hash) => found.push((endpoint, hash)),
            Err(error) => {
                let why = first_line(error);
                complain(format_args!(
                    "Failed to get the hash of endpoint {endpoint} ({why})"
                ));
                last_failure = Some(Failure::error(why));
            }
        }
    }
    context.output.print(&Answer::HashKv(&found))?;
    last_failure.map_or(Ok(()), Err)
}
