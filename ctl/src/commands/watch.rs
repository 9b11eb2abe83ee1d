//! Watching keys.

use std::ffi::{OsStr, OsString};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use baton_client::Raw;
use baton_proto::etcdserverpb as pb;
use baton_proto::mvccpb::Event;
use clap::{Args, Parser};
use pb::watch_client::WatchClient;
use pb::watch_request::RequestUnion;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::AsciiMetadataValue;
use tonic::{Code, Request, Status, Streaming};

use super::{bytes, kv, words};
use crate::cli::Context;
use crate::failure::{ERROR, Failure, INTERRUPTED, INVALID_INPUT, Result, status_text};
use crate::flags;
use crate::go;
use crate::output::{self, Answer, complain};

/// Print changes as they happen
#[derive(Args, Clone, Debug)]
#[command(
    override_usage = "batonctl watch [options] [KEY] [RANGE_END] [-- COMMAND...]",
    after_help = "\
Runs until it is interrupted, through failures of members. With a command, it is run for each change, with
ETCD_WATCH_REVISION, ETCD_WATCH_EVENT_TYPE, ETCD_WATCH_KEY and ETCD_WATCH_VALUE in its environment (the last three in
double quotes, with escapes). The key can be in the environment as BATONCTL_WATCH_KEY (or ETCDCTL_WATCH_KEY), the end of
a range as BATONCTL_WATCH_RANGE_END.

Examples:
  batonctl watch greeting
  batonctl watch --prefix config/ --prev-kv
  batonctl watch --rev=42 greeting            begin with what happened at revision 42
  batonctl watch --prefix config/ -- ./reload.sh
  batonctl watch -i                           then type: watch greeting / watch --prefix a/ / progress"
)]
pub struct Watch {
    /// The key, and the end of a range of keys, which is not part of it
    #[arg(value_name = "KEY [RANGE_END]", hide = true)]
    arguments: Vec<OsString>,
    /// Run for each change
    #[arg(last = true, hide = true)]
    command: Vec<OsString>,
    /// Read watches, one per line, from standard input
    #[arg(short, long)]
    interactive: bool,
    /// All keys that begin with KEY
    #[arg(long)]
    prefix: bool,
    /// Begin with this revision (0: from now on)
    #[arg(long, default_value = "0", hide_default_value = true, value_parser = go::int_flag, allow_negative_numbers = true)]
    rev: i64,
    /// Print pairs as they were before, too
    #[arg(long)]
    prev_kv: bool,
    /// Print now and then up to which revision there was nothing more
    #[arg(long)]
    progress_notify: bool,
}

/// A line typed in.
#[derive(Debug, Parser)]
#[command(
    no_binary_name = true,
    disable_help_flag = true,
    disable_help_subcommand = true
)]
enum Line {
    Watch(Watch),
    Progress,
}

const BAD_NUMBER: &str = "bad number of arguments";

/// The key, and the end of a range, of the environment.
fn from_environment() -> Result<Option<(OsString, Option<OsString>)>> {
    let variable = |name: &str| {
        ["BATONCTL", "ETCDCTL"].iter().find_map(|prefix| {
            std::env::var_os(format!("{prefix}_{name}")).filter(|value| !value.is_empty())
        })
    };
    match (variable("WATCH_KEY"), variable("WATCH_RANGE_END")) {
        (Some(key), end) => Ok(Some((key, end))),
        (None, None) => Ok(None),
        (None, Some(end)) => Err(Failure::arguments(format!(
            "ETCDCTL_WATCH_KEY is empty but got ETCDCTL_WATCH_RANGE_END={}",
            go::quote(&bytes(&end))
        ))),
    }
}

impl Watch {
    pub async fn run(self, context: &Context) -> Result<()> {
        if self.interactive {
            from_environment()?;
            return interactive(context).await;
        }
        if self.command.is_empty()
            && std::env::args_os().next_back().as_deref() == Some(OsStr::new("--"))
        {
            return Err(Failure::arguments(format!(
                "{BAD_NUMBER} (found separator --, but no commands)"
            )));
        }
        let mut stream = Stream::new(context.clone(), self.request()?, self.command);
        let (_keep_open, progress) = mpsc::channel(1);
        stream.run(progress).await
    }

    fn request(&self) -> Result<pb::WatchCreateRequest> {
        let (key, end) = match (from_environment()?, &self.arguments[..]) {
            (Some((key, end)), []) => (key, end),
            (Some(_), _) => {
                return Err(Failure::arguments(format!(
                    "{BAD_NUMBER} (found conflicting environment key)"
                )));
            }
            (None, [key]) => (key.clone(), None),
            (None, [key, end]) => (key.clone(), Some(end.clone())),
            (None, _) => return Err(Failure::arguments(BAD_NUMBER)),
        };
        if self.prefix && end.is_some() {
            return Err(Failure::arguments(
                "`range_end` and `--prefix` are mutually exclusive",
            ));
        }
        let end = end.map(|end| bytes(&end));
        let (key, range_end) = kv::range(bytes(&key), end, self.prefix, false);
        Ok(pb::WatchCreateRequest {
            key,
            range_end,
            start_revision: self.rev,
            progress_notify: self.progress_notify,
            prev_kv: self.prev_kv,
            ..Default::default()
        })
    }
}

/// Reads watches from standard input. Each goes on beside the others; `progress` asks all of them how far they are.
async fn interactive(context: &Context) -> Result<()> {
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut watches = JoinSet::new();
    let mut progress: Vec<mpsc::Sender<()>> = Vec::new();
    loop {
        let line = tokio::select! {
            line = lines.next_line() => line,
            Some(ended) = watches.join_next() => match ended {
                // Only a command that fails ends the others.
                Ok(Err(failure)) if failure_is_of_a_command(&failure) => return Err(failure),
                _ => continue,
            },
        };
        let line = match line {
            Ok(Some(line)) => line,
            Ok(None) => return Err(unreadable("EOF")),
            Err(error) => return Err(unreadable(&error.to_string())),
        };
        let words = words(&line).map_err(|error| Failure::new(INVALID_INPUT, error))?;
        let is_separator_last = words.last().map(OsString::as_os_str) == Some(OsStr::new("--"));
        if is_separator_last {
            complain(format_args!(
                "Invalid command {line} ({BAD_NUMBER} (found separator --, but no commands))"
            ));
            continue;
        }
        match words.first().and_then(|word| word.to_str()) {
            None => {
                complain(format_args!(
                    "Invalid command: {line} (watch and progress supported)"
                ));
                continue;
            }
            Some("watch" | "progress") => {}
            Some(_) => {
                complain(format_args!("Invalid command {line} (only support watch)"));
                continue;
            }
        }
        match flags::parse_as_in_go::<Line>(words) {
            Ok(Line::Watch(watch)) => match watch.request() {
                Ok(request) => {
                    let mut stream = Stream::new(context.clone(), request, watch.command);
                    let (sender, receiver) = mpsc::channel(1);
                    progress.push(sender);
                    watches.spawn(async move { stream.run(receiver).await });
                }
                Err(failure) => complain(format_args!("Invalid command {line} ({})", failure.text)),
            },
            Ok(Line::Progress) => {
                for watch in &progress {
                    let _ = watch.send(()).await;
                }
            }
            Err(error) => {
                let error = error.to_string();
                let reason = error.strip_prefix("error: ").unwrap_or(&error);
                let reason = reason.lines().next().unwrap_or_default();
                complain(format_args!("Invalid command {line} ({reason})"));
            }
        }
    }
}

fn unreadable(why: &str) -> Failure {
    Failure::new(
        INVALID_INPUT,
        format!("error reading watch request line: {why}"),
    )
}

/// What is said of a command that fails was said already.
fn failure_is_of_a_command(failure: &Failure) -> bool {
    failure.text.is_empty()
}

/// One watch, which goes on at another member where one fails.
struct Stream {
    context: Context,
    request: pb::WatchCreateRequest,
    command: Vec<OsString>,
    /// How often another member was tried.
    attempts: usize,
}

/// Why a stream ended.
enum Ended {
    /// The server canceled the watch, and would do so again.
    Canceled,
    /// The connection or the member failed.
    Broke(Status),
}

impl Stream {
    fn new(context: Context, request: pb::WatchCreateRequest, command: Vec<OsString>) -> Self {
        Self {
            context,
            request,
            command,
            attempts: 0,
        }
    }

    /// Watches until the server cancels, which is a failure, or a command fails.
    async fn run(&mut self, mut progress: mpsc::Receiver<()>) -> Result<()> {
        let mut raw = self.context.client.raw().await?;
        loop {
            let (requests, receiver) = mpsc::channel(4);
            let create = RequestUnion::CreateRequest(self.request.clone());
            let _ = requests.send(request(create)).await;
            let mut opening = Request::new(ReceiverStream::new(receiver));
            // A member that is cut off from the others ends the watch then, instead of being silent.
            let leader = AsciiMetadataValue::from_static("true");
            opening.metadata_mut().insert("hasleader", leader);
            let mut client = WatchClient::new(raw).max_decoding_message_size(usize::MAX);
            let ended = match client.watch(opening).await {
                Ok(answers) => {
                    let mut answers = answers.into_inner();
                    self.follow(&mut answers, &requests, &mut progress).await?
                }
                Err(status) => Ended::Broke(status),
            };
            match ended {
                Ended::Canceled => {}
                Ended::Broke(status) if is_passing(&status) => {
                    raw = self.another().await?;
                    continue;
                }
                Ended::Broke(status) => {
                    complain(format_args!(
                        "watch was canceled ({})",
                        status_text(&status)
                    ));
                }
            }
            let text = "watch is canceled by the server";
            return Err(Failure::new(INTERRUPTED, text));
        }
    }

    /// A connection to the next member that can be reached, however long that takes: a cluster that was there will
    /// come back.
    async fn another(&mut self) -> Result<Raw> {
        let endpoints = self.context.client.endpoints();
        loop {
            tokio::time::sleep(PAUSE).await;
            self.attempts += 1;
            let endpoint = &endpoints[self.attempts % endpoints.len()];
            let client = self.context.client.at(endpoint)?;
            if let Ok(Ok(raw)) = tokio::time::timeout(PATIENCE, client.raw()).await {
                return Ok(raw);
            }
        }
    }

    async fn follow(
        &mut self,
        answers: &mut Streaming<pb::WatchResponse>,
        requests: &mpsc::Sender<pb::WatchRequest>,
        progress: &mut mpsc::Receiver<()>,
    ) -> Result<Ended> {
        loop {
            let answer = tokio::select! {
                answer = answers.message() => answer,
                Some(()) = progress.recv() => {
                    let ask = RequestUnion::ProgressRequest(pb::WatchProgressRequest {});
                    let _ = requests.send(request(ask)).await;
                    continue;
                }
            };
            let answer = match answer {
                Ok(Some(answer)) => answer,
                Ok(None) => return Ok(Ended::Broke(Status::unavailable("the stream ended"))),
                Err(status) => return Ok(Ended::Broke(status)),
            };
            if answer.canceled {
                complain(format_args!(
                    "watch was canceled ({})",
                    why_canceled(&answer)
                ));
                self.context.output.print(&Answer::Watch(&answer))?;
                return Ok(Ended::Canceled);
            }
            let revision = answer.header.map_or(0, |header| header.revision);
            if answer.created {
                // From here on nothing is missed, whatever happens to this connection.
                if self.request.start_revision == 0 {
                    self.request.start_revision = revision + 1;
                }
                continue;
            }
            if answer.events.is_empty() {
                output::print(format!("progress notify: {revision}\n"))?;
            }
            self.context.output.print(&Answer::Watch(&answer))?;
            for event in &answer.events {
                self.execute(revision, event).await?;
            }
            let seen = answer.events.last().and_then(|event| event.kv.as_ref());
            let seen = seen.map_or(revision, |pair| pair.mod_revision);
            self.request.start_revision = self.request.start_revision.max(seen + 1);
        }
    }

    /// Runs the command for an event, if there is one, and waits for its end.
    async fn execute(&self, revision: i64, event: &Event) -> Result<()> {
        let Some((program, arguments)) = self.command.split_first() else {
            return Ok(());
        };
        let pair = event.kv.clone().unwrap_or_default();
        let kind = event.r#type().as_str_name();
        let ended = Command::new(program)
            .args(arguments)
            .env("ETCD_WATCH_REVISION", revision.to_string())
            .env("ETCD_WATCH_EVENT_TYPE", go::quote(kind.as_bytes()))
            .env("ETCD_WATCH_KEY", go::quote(&pair.key))
            .env("ETCD_WATCH_VALUE", go::quote(&pair.value))
            .stdin(Stdio::null())
            .status()
            .await;
        let why = match ended {
            Ok(status) if status.success() => return Ok(()),
            Ok(status) => exit_text(status),
            Err(error) => error.to_string(),
        };
        let quoted: Vec<String> = self
            .command
            .iter()
            .map(|word| go::quote(&bytes(word)))
            .collect();
        complain(format_args!("command [{}] error ({why})", quoted.join(" ")));
        Err(Failure::silent(ERROR))
    }
}

/// Between two attempts to go on.
const PAUSE: Duration = Duration::from_millis(100);
/// For a member to be reached.
const PATIENCE: Duration = Duration::from_secs(2);

fn request(union: RequestUnion) -> pb::WatchRequest {
    pb::WatchRequest {
        request_union: Some(union),
    }
}

/// Whether another attempt may do better.
fn is_passing(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable | Code::Internal | Code::Cancelled => true,
        // A connection that broke has no code of its own.
        Code::Unknown => !status.message().starts_with("etcdserver: "),
        _ => false,
    }
}

fn why_canceled(answer: &pb::WatchResponse) -> String {
    if answer.compact_revision != 0 {
        "etcdserver: mvcc: required revision has been compacted".to_owned()
    } else if answer.cancel_reason.is_empty() {
        "etcdserver: mvcc: required revision is a future revision".to_owned()
    } else {
        status_text(&Status::failed_precondition(answer.cancel_reason.clone()))
    }
}

/// How a process ended, in Go's words.
fn exit_text(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typed_watch_takes_flags_and_a_command() {
        let words = words("watch foo --rev 3 bar -- echo -n hi").expect("words");
        let Ok(Line::Watch(watch)) = flags::parse_as_in_go::<Line>(words) else {
            panic!("no watch");
        };
        assert_eq!(watch.arguments, ["foo", "bar"]);
        assert_eq!(watch.command, ["echo", "-n", "hi"]);
        let request = watch.request().expect("a request");
        assert_eq!(request.range_end, "bar");
        assert_eq!(request.start_revision, 3);
    }
}
