//! Endpoints, each asked by itself.

use baton_proto::etcdserverpb as pb;
use clap::{Args, Subcommand};
use pb::kv_client::KvClient;
use pb::maintenance_client::MaintenanceClient;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::Code;

use super::member;
use crate::cli::Context;
use crate::connection::Connection;
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
        return Ok(context.connection.settings().endpoints.clone());
    }
    let members = member::list(context, true).await.map_err(|failure| {
        let text = "failed to fetch endpoints from etcd cluster member list";
        Failure::error(format!("{text}: {}", failure.text))
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
        let connection = context.connection.to(&endpoint);
        asking.spawn(async move { (index, health_of(connection, endpoint).await) });
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
async fn health_of(connection: Connection, endpoint: String) -> Health {
    let started = Instant::now();
    let error = problem_of(&connection).await.err();
    Health {
        endpoint,
        took: started.elapsed(),
        error,
    }
}

async fn problem_of(connection: &Connection) -> std::result::Result<(), String> {
    let read = connection.read(async |service| {
        let request = pb::RangeRequest {
            key: "health".into(),
            ..Default::default()
        };
        match KvClient::new(service).range(request).await {
            // Who is refused was told so by a member that works.
            Err(status) if status.code() == Code::PermissionDenied => {
                Ok(tonic::Response::new(pb::RangeResponse::default()))
            }
            answer => answer,
        }
    });
    // The rest says how to name endpoints.
    let first_line = |text: String| text.lines().next().unwrap_or_default().to_owned();
    read.await.map_err(|failure| first_line(failure.text))?;
    let alarms = connection.read(async |service| {
        let request = pb::AlarmRequest::default();
        MaintenanceClient::new(service).alarm(request).await
    });
    let alarms = alarms
        .await
        .map_err(|_| "Unable to fetch the alarm list".to_owned())?;
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

async fn status(context: &Context, endpoints: Vec<String>) -> Result<()> {
    let mut found = Vec::new();
    let mut failed = false;
    for endpoint in endpoints {
        match status_of(&context.connection.to(&endpoint)).await {
            Ok(status) => found.push((endpoint, status)),
            Err(failure) => {
                failed = true;
                complain(format_args!(
                    "Failed to get the status of endpoint {endpoint} ({})",
                    failure.text
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

/// The state of the one member behind `connection`.
pub(super) async fn status_of(connection: &Connection) -> Result<pb::StatusResponse> {
    let status = connection.read(async |service| {
        let request = pb::StatusRequest {};
        MaintenanceClient::new(service).status(request).await
    });
    status.await
}

async fn hash_kv(context: &Context, endpoints: Vec<String>, revision: i64) -> Result<()> {
    let mut found = Vec::new();
    let mut last_failure = None;
    for endpoint in endpoints {
        let connection = context.connection.to(&endpoint);
        let hash = connection.read(async |service| {
            let request = pb::HashKvRequest { revision };
            MaintenanceClient::new(service).hash_kv(request).await
        });
        match hash.await {
            Ok(hash) => found.push((endpoint, hash)),
            Err(failure) => {
                complain(format_args!(
                    "Failed to get the hash of endpoint {endpoint} ({})",
                    failure.text
                ));
                last_failure = Some(failure);
            }
        }
    }
    context.output.print(&Answer::HashKv(&found))?;
    last_failure.map_or(Ok(()), Err)
}
