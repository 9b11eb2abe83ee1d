//! Queues of jobs.

use std::ffi::OsString;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use baton_recipes::{Job, Queue as Jobs, Session};
use bytes::Bytes;
use clap::{Args, Subcommand};
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;

use super::hold::{Options, label, why};
use crate::cli::Context;
use crate::failure::{Failure, LOST, NOT_OBTAINED, Result};
use crate::go;
use crate::output::{self, Column, json_line, table_or_columns};
use crate::signals::Signals;
use crate::supervise::{self, End, Story, Task};

/// Queues of jobs, each of which one worker has at a time
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  batonctl queue push mails '{\"to\": \"alice\"}'
  batonctl queue push mails --priority 10 < urgent.json
  batonctl queue pop mails                            print a job, and take it out
  batonctl queue pop mails -- ./send-mail             job on standard input; out when it exits with 0
  batonctl queue list mails")]
pub enum Queue {
    Push(Push),
    Pop(Pop),
    /// Tell how many jobs there are, and who has which
    List {
        /// The name of the queue
        name: String,
    },
}

/// Add a job; prints its id
#[derive(Args, Debug)]
#[command(override_usage = "batonctl queue push [options] <NAME> [JOB]")]
pub struct Push {
    /// The name of the queue
    name: String,
    /// The job; without it, standard input is
    job: Option<OsString>,
    /// 0 goes first, 65535 last
    #[arg(long, default_value_t = Jobs::DEFAULT_PRIORITY)]
    priority: u16,
}

/// Take the first job, or wait for one
#[derive(Args, Debug)]
#[command(
    override_usage = "batonctl queue pop [options] <NAME> [-- COMMAND...]",
    after_help = "\
Without a command the job is printed and taken out of the queue. With one, the command reads the job from standard
input and the job is taken out when it exits with 0; otherwise, and if this batonctl dies, the job goes back to its
place. So a job may be done more than once.

The command finds BATON_JOB_ID in its environment, and BATON_LOCK_KEY and BATON_FENCING_TOKEN for `batonctl put --fence`,
which writes only while the job is its own."
)]
pub struct Pop {
    /// The name of the queue
    name: String,
    /// Run with the job on standard input
    #[arg(last = true, hide = true)]
    command: Vec<OsString>,
    /// Do not wait: with exit code 75 if there is no job
    #[arg(long = "try")]
    only_try: bool,
    #[command(flatten)]
    options: Options,
}

impl Queue {
    pub async fn run(self, context: &Context) -> Result<()> {
        match self {
            Self::Push(push) => push.run(context).await,
            Self::Pop(pop) => pop.run(context).await,
            Self::List { name } => list(context, &name).await,
        }
    }
}

/// Ends a session that is not needed any more; if the server does not answer, it ends with its lease.
async fn close(context: &Context, session: Session) {
    let _ = tokio::time::timeout(context.flags.command_timeout, session.close()).await;
}

impl Push {
    async fn run(self, context: &Context) -> Result<()> {
        let job = match &self.job {
            Some(job) => job.as_bytes().to_vec(),
            None => {
                let mut job = Vec::new();
                std::io::stdin().read_to_end(&mut job)?;
                job
            }
        };
        let session = Session::open(&context.client, TTL).await?;
        let pushed = match session.queue(&self.name) {
            Ok(queue) => queue.push_with_priority(job, self.priority).await,
            Err(error) => Err(error),
        };
        close(context, session).await;
        output::print(format!("{}\n", pushed?))
    }
}

/// Of a session for one request.
const TTL: Duration = Duration::from_secs(10);

/// A job, and how long its command has between SIGTERM and SIGKILL.
struct Taken {
    job: Job,
    grace: Duration,
}

impl Pop {
    async fn run(self, context: &Context) -> Result<()> {
        let mut signals = Signals::new()?;
        let session = Session::builder(&context.client)
            .ttl(self.options.ttl)
            .label(
                self.options
                    .label
                    .clone()
                    .unwrap_or_else(|| label(&self.command)),
            )
            .open()
            .await?;
        let grace = match self.options.grace_of(session.remaining()) {
            Ok(grace) => grace,
            Err(failure) => {
                close(context, session).await;
                return Err(failure);
            }
        };
        let popped = tokio::select! {
            popped = self.wait(&session) => popped,
            signal = signals.end() => Err(Failure::silent(super::hold::code_of(signal))),
        };
        let done = match popped {
            Ok(job) => {
                let taken = Taken { job, grace };
                self.work(context, &session, taken, &mut signals).await
            }
            Err(failure) => Err(failure),
        };
        close(context, session).await;
        done
    }

    async fn wait(&self, session: &Session) -> Result<Job> {
        let queue = session.queue(&self.name)?;
        let none = |why: String| Failure::new(NOT_OBTAINED, why);
        if self.only_try {
            let job = queue.try_pop().await?;
            return job.ok_or_else(|| none(format!("the queue {:?} has no free job", self.name)));
        }
        let Some(limit) = self.options.timeout else {
            return Ok(queue.pop().await?);
        };
        match tokio::time::timeout(limit, queue.pop()).await {
            Ok(job) => Ok(job?),
            Err(_) => Err(none(format!(
                "the queue {:?} had no free job within {}",
                self.name,
                go::duration(limit)
            ))),
        }
    }

    async fn work(
        &self,
        context: &Context,
        session: &Session,
        Taken { job, grace }: Taken,
        signals: &mut Signals,
    ) -> Result<()> {
        if self.command.is_empty() {
            let mut line = job.payload().to_vec();
            line.push(b'\n');
            if let Err(failure) = output::print(line) {
                job.release().await?;
                return Err(failure);
            }
            job.ack().await?;
            return Ok(());
        }
        let story = Story {
            quiet: self.options.quiet,
        };
        let id = job.id().to_string();
        story.tell(format_args!("took the job {id} with token {}", job.token()));
        let task = Task {
            command: &self.command,
            environment: vec![
                ("BATON_JOB_ID", id.clone()),
                ("BATON_LOCK_KEY", job.fence().key.clone()),
                ("BATON_FENCING_TOKEN", job.token().to_string()),
            ],
            grace,
            foreground: self.options.foreground,
            stdin: Some(piped(job.payload().clone())?),
            what: format!("the job {id}"),
        };
        let end = supervise::run(session, job.lost(), task, story, signals).await;
        match end {
            Ok(End::ByItself(0)) => {
                let acked = tokio::time::timeout(context.flags.command_timeout, job.ack()).await;
                let Ok(acked) = acked else {
                    return Err(Failure::error(format!(
                        "the job {id} is done, and the server does not answer: it may be taken out, or come back"
                    )));
                };
                acked.map_err(|error| {
                    let failure = Failure::from(error);
                    let text = format!("the job {id} is done, and not taken out: {}", failure.text);
                    Failure::new(failure.code, text)
                })?;
                story.tell(format_args!("the job {id} is done"));
                Ok(())
            }
            Ok(End::ByItself(code)) => {
                give_back(context, job, story).await;
                Err(Failure::silent(code))
            }
            Ok(End::Stopped(reason)) => {
                give_back(context, job, story).await;
                let text = format!(
                    "lost the job {id}: {}; the command was stopped",
                    why(reason)
                );
                Err(Failure::new(LOST, text))
            }
            Err(failure) => {
                give_back(context, job, story).await;
                Err(failure)
            }
        }
    }
}

async fn give_back(context: &Context, job: Job, story: Story) {
    let id = job.id().to_string();
    let released = tokio::time::timeout(context.flags.command_timeout, job.release()).await;
    if matches!(released, Ok(Ok(()))) {
        story.tell(format_args!("the job {id} is back in its place"));
    }
}

/// A pipe that a task fills.
fn piped(payload: Bytes) -> Result<OwnedFd> {
    let (mut sender, receiver) = pipe::pipe()?;
    tokio::spawn(async move {
        // A command that does not read all of it has its reasons.
        let _ = sender.write_all(&payload).await;
    });
    Ok(receiver.into_blocking_fd()?)
}

async fn list(context: &Context, name: &str) -> Result<()> {
    let session = Session::open(&context.client, TTL).await?;
    let info = match session.queue(name) {
        Ok(queue) => queue.inspect().await,
        Err(error) => Err(error),
    };
    close(context, session).await;
    let info = info?;
    if context.output.is_json() {
        return json_line(|json| {
            json.object(|json| {
                json.field("name").text(name);
                json.field("jobs").plain(info.jobs);
                json.field("claims").array(&info.claims, |json, claim| {
                    json.object(|json| {
                        json.field("job").text(&claim.job.to_string());
                        json.field("session").text(&claim.session.to_string());
                        json.field("token").plain(claim.token);
                        json.text("label", &claim.label);
                    });
                });
                json.field("idle").plain(info.idle.len());
            });
        });
    }
    if context.output.is_simple() {
        output::print(format!(
            "{} jobs, {} of them taken, {} workers idle\n",
            info.jobs,
            info.claims.len(),
            info.idle.len()
        ))?;
        if info.claims.is_empty() {
            return Ok(());
        }
    }
    let columns = [
        Column::Text("JOB"),
        Column::Number("TOKEN"),
        Column::Text("SESSION"),
        Column::Text("WHO"),
    ];
    let cells = info
        .claims
        .iter()
        .map(|claim| {
            vec![
                claim.job.to_string(),
                claim.token.to_string(),
                claim.session.to_string(),
                claim.label.clone(),
            ]
        })
        .collect();
    table_or_columns(&context.output, &columns, cells)
}
