//! Alarms.

use std::ffi::OsString;

use baton_proto::etcdserverpb as pb;
use clap::Subcommand;
use pb::alarm_request::AlarmAction;

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
        let client = &context.client;
        let raised = client
            .alarm(AlarmAction::Get, 0, pb::AlarmType::None)
            .await?;
        if let Self::List { .. } = self {
            return context.output.print(&Answer::Alarm(&raised));
        }
        // Put together from the answers of several requests, it has no header.
        let mut cleared = pb::AlarmResponse::default();
        for alarm in raised.alarms {
            let (member, kind) = (alarm.member_id, alarm.alarm());
            let answer = client.alarm(AlarmAction::Deactivate, member, kind).await?;
            cleared.alarms.extend(answer.alarms);
        }
        context.output.print(&Answer::Alarm(&cleared))
    }
}
