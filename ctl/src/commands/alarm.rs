//! Alarms.

use std::ffi::OsString;

use baton_proto::etcdserverpb as pb;
use clap::Subcommand;
use pb::alarm_request::AlarmAction;
use pb::maintenance_client::MaintenanceClient;

use crate::cli::Context;
use crate::failure::{Failure, Result};
use crate::output::Answer;

/// Alarms, which members raise when they cannot go on writing
#[derive(Debug, Subcommand)]
pub enum Alarm {
    /// List the alarms that are raised
    List {
        #[arg(hide = true)]
        arguments: Vec<OsString>,
    },
    /// Clear all alarms
    Disarm {
        #[arg(hide = true)]
        arguments: Vec<OsString>,
    },
}

impl Alarm {
    pub async fn run(self, context: &Context) -> Result<()> {
        let (name, arguments) = match &self {
            Self::List { arguments } => ("list", arguments),
            Self::Disarm { arguments } => ("disarm", arguments),
        };
        if !arguments.is_empty() {
            let text = format!("alarm {name} command accepts no arguments");
            return Err(Failure::arguments(text));
        }
        let raised = list(context).await?;
        if let Self::List { .. } = self {
            return context.output.print(&Answer::Alarm(&raised));
        }
        // Put together from the answers of several requests, it has no header.
        let mut cleared = pb::AlarmResponse::default();
        for alarm in raised.alarms {
            let request = pb::AlarmRequest {
                action: AlarmAction::Deactivate.into(),
                member_id: alarm.member_id,
                alarm: alarm.alarm,
            };
            let answer = context
                .connection
                .change(async |service| MaintenanceClient::new(service).alarm(request).await)
                .await?;
            cleared.alarms.extend(answer.alarms);
        }
        context.output.print(&Answer::Alarm(&cleared))
    }
}

async fn list(context: &Context) -> Result<pb::AlarmResponse> {
    let list = context.connection.read(async |service| {
        let request = pb::AlarmRequest::default();
        MaintenanceClient::new(service).alarm(request).await
    });
    list.await
}
