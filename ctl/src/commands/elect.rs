//! Elections: running a command while being the leader, and watching who leads.

use std::ffi::OsString;
use std::time::Duration;

use baton_client::Get;
use baton_recipes::{LeaderEvent, Session};
use clap::Args;
use futures_util::StreamExt;

use super::hold::{Holding, Options, Words, code_of};
use super::text;
use crate::cli::Context;
use crate::failure::{Failure, LOST, Result};
use crate::output::Answer;
use crate::signals::Signals;
use crate::supervise::Story;

/// Run a command while being the leader
#[derive(Args, Debug)]
#[command(
    override_usage = "batonctl elect [options] <NAME> [VALUE] [-- COMMAND...]\n       batonctl elect --listen <NAME>",
    after_help = "\
Stands for election, runs the command while it leads, resigns, and exits with the command's exit code. VALUE is what
observers see; by default it says who this is. If the lead is lost, the command is stopped as `batonctl lock` stops
one, and batonctl exits with code 76; with --repeat it stands again, for as long as it takes to reach the server.
Without a command it prints its key and value when it leads, and leads until it is interrupted.

The command finds in its environment:
  BATON_FENCING_TOKEN            greater than that of every earlier leader
  BATON_ELECTION_NAME, BATON_LOCK_KEY, BATON_ELECTION_VALUE

Examples:
  batonctl elect scheduler -- ./scheduler
  batonctl elect scheduler 10.0.0.7:8080 --repeat -- ./scheduler --port 8080
  batonctl elect --listen scheduler             print each leader there is"
)]
pub struct Elect {
    /// The name of the election, and what observers see
    #[arg(value_name = "NAME [VALUE]", hide = true)]
    arguments: Vec<OsString>,
    /// Run while it leads
    #[arg(last = true, hide = true)]
    command: Vec<OsString>,
    /// Only watch: print each leader
    #[arg(short, long)]
    listen: bool,
    /// Stand again when the lead, or the place in line for it, was lost
    #[arg(long)]
    repeat: bool,
    #[command(flatten)]
    options: Options,
}

const WORDS: Words = Words {
    what: "the lead of",
    got: "elected: leads",
    gave_up: "resigned from",
};

/// Before standing again: a cluster that is down is not to be asked all the time.
const PAUSE: Duration = Duration::from_millis(500);

impl Elect {
    pub async fn run(self, context: &Context) -> Result<()> {
        let (name, value) = match &self.arguments[..] {
            [name] => (text(name)?, None),
            [name, value] => (text(name)?, Some(text(value)?)),
            _ => {
                return Err(Failure::arguments(
                    "elect takes one election name argument and an optional proposal argument",
                ));
            }
        };
        if self.listen {
            if value.is_some() || !self.command.is_empty() {
                return Err(Failure::arguments("proposal given but -l is set"));
            }
            return self.observe(context, name).await;
        }
        if value.is_none() && self.command.is_empty() {
            return Err(Failure::arguments("no proposal argument but -l not set"));
        }
        let mut signals = Signals::new()?;
        // What cannot be reached from the start is more likely misspelt than down.
        let mut has_stood = false;
        let story = Story {
            quiet: self.options.quiet,
        };
        loop {
            let ended = self
                .lead(context, name, value, &mut signals, &mut has_stood)
                .await;
            match ended {
                Err(failure)
                    if self.repeat && has_stood && (failure.code == LOST || failure.is_passing) =>
                {
                    // Advice to look for a misspelt address is behind the first line.
                    let what = failure.text.lines().next().unwrap_or_default();
                    story.tell(format_args!("{what}; standing again"));
                    tokio::select! {
                        () = tokio::time::sleep(PAUSE) => {}
                        signal = signals.end() => return Err(Failure::silent(code_of(signal))),
                    }
                }
                ended => return ended,
            }
        }
    }

    async fn lead(
        &self,
        context: &Context,
        name: &str,
        value: Option<&str>,
        signals: &mut Signals,
        has_stood: &mut bool,
    ) -> Result<()> {
        let mut holding =
            Holding::open(context, &self.options, name, WORDS, &self.command, signals).await?;
        *has_stood = true;
        let value = value.map_or_else(|| holding.session.label().to_owned(), str::to_owned);
        let election = holding.session.election(name);
        let held = holding.wait(election.campaign(&value)).await?;
        let fence = held.grant().fence().clone();
        let environment = vec![
            ("BATON_ELECTION_NAME", name.to_owned()),
            ("BATON_ELECTION_VALUE", value),
            ("BATON_LOCK_KEY", fence.key),
            ("BATON_FENCING_TOKEN", fence.token.to_string()),
        ];
        holding.use_it(held, &self.command, environment).await
    }

    async fn observe(&self, context: &Context, name: &str) -> Result<()> {
        let story = Story {
            quiet: self.options.quiet,
        };
        let mut signals = Signals::new()?;
        let session = Session::open(&context.client, self.options.ttl).await?;
        let mut leaders = session.election(name).observe();
        loop {
            let event = tokio::select! {
                event = leaders.next() => event,
                _ = signals.end() => {
                    let _ = tokio::time::timeout(context.flags.command_timeout, session.close()).await;
                    return Ok(());
                }
            };
            match event {
                Some(Ok(LeaderEvent::Elected(leader) | LeaderEvent::Updated(leader))) => {
                    let key = Get::key(&leader.candidate.key).revision(leader.revision);
                    match context.client.get(key).await {
                        Ok(found) => context.output.print(&Answer::Get(&found))?,
                        Err(error) if error.refusal().is_some_and(|it| it.is_compacted()) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                Some(Ok(LeaderEvent::NoLeader { .. })) => {
                    story.tell(format_args!("nobody leads {name:?}"));
                }
                Some(Ok(LeaderEvent::Resynced)) => {}
                Some(Err(error)) => return Err(error.into()),
                None => return Err(Failure::error("elect: observer lost")),
            }
        }
    }
}
