//! What `lock` and `elect` share: a session, the wait in line, and what happens while it is held.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use baton_client::Get;
use baton_recipes::{
    Acquire, Error, Grant, Hold, Leadership, LockInfo, LossReason, MutexGuard, Session, Waiter,
};
use clap::Args;
use rustix::process::Signal;
use tokio::sync::oneshot;

use crate::cli::Context;
use crate::failure::{Failure, LOST, NOT_OBTAINED, Result};
use crate::go;
use crate::guard::rounded;
use crate::output::{Answer, on_one_line};
use crate::signals::Signals;
use crate::supervise::{self, End, Story, Task, tell_of_renewals};

/// How it is waited for and held.
#[derive(Args, Debug)]
pub struct Options {
    /// Time after which others can have it if this process is not heard of: seconds, or 500ms, 1m30s
    #[arg(long, default_value = "10", value_name = "TIME", value_parser = seconds)]
    pub ttl: Duration,
    /// Give up after waiting so long, with exit code 75
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    pub timeout: Option<Duration>,
    /// Time between SIGTERM and SIGKILL where the command has to be stopped [default: a quarter of the TTL, 5s at most]
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    pub grace: Option<Duration>,
    /// Who this is, for others to see [default: user, host, process and command]
    #[arg(long)]
    pub label: Option<String>,
    /// Let the command read from the terminal; what it starts itself is not stopped with it then
    #[arg(long)]
    pub foreground: bool,
    /// Say nothing but errors
    #[arg(short, long)]
    pub quiet: bool,
}

impl Options {
    /// Between SIGTERM and SIGKILL, out of the time a session has without renewals.
    pub fn grace_of(&self, safe: Duration) -> Result<Duration> {
        let Some(grace) = self.grace else {
            return Ok((safe / 4).min(LONGEST_GRACE));
        };
        if grace > safe / 2 {
            return Err(Failure::arguments(format!(
                "--grace={} leaves too little of the TTL, of which {} can be used for it: raise --ttl",
                go::duration(grace),
                go::duration(rounded(safe / 2))
            )));
        }
        Ok(grace)
    }
}

/// A time as a number of seconds, as etcdctl takes it, or as Go writes it.
pub fn seconds(text: &str) -> std::result::Result<Duration, String> {
    match text.parse() {
        Ok(seconds) => Ok(Duration::from_secs(seconds)),
        Err(_) => go::parse_duration(text)
            .map_err(|error| format!("{error}: give it as seconds, or as in 500ms, 1m30s, 2h")),
    }
}

/// Something held.
pub enum Held {
    Lock(MutexGuard),
    Lead(Leadership),
}

impl Held {
    pub fn grant(&self) -> &Grant {
        match self {
            Self::Lock(guard) => guard.grant(),
            Self::Lead(leadership) => leadership.grant(),
        }
    }

    async fn release(self) -> std::result::Result<i64, Error> {
        match self {
            Self::Lock(guard) => guard.release().await,
            Self::Lead(leadership) => leadership.resign().await,
        }
    }
}

impl From<MutexGuard> for Held {
    fn from(guard: MutexGuard) -> Self {
        Self::Lock(guard)
    }
}

impl From<Leadership> for Held {
    fn from(leadership: Leadership) -> Self {
        Self::Lead(leadership)
    }
}

/// Words for people.
#[derive(Clone, Copy, Debug)]
pub struct Words {
    /// `the lock` or `the lead of`.
    pub what: &'static str,
    /// `acquired` or `elected in`.
    pub got: &'static str,
    /// `released` or `resigned`.
    pub gave_up: &'static str,
}

/// A session with what is to be done through it.
pub struct Holding<'a> {
    pub context: &'a Context,
    pub options: &'a Options,
    pub name: &'a str,
    pub words: Words,
    pub session: Session,
    pub story: Story,
    /// All from the beginning: one that comes between two steps must not be overheard.
    signals: &'a mut Signals,
    grace: Duration,
}

impl<'a> Holding<'a> {
    /// Opens a session, unless a signal comes first.
    pub async fn open(
        context: &'a Context,
        options: &'a Options,
        name: &'a str,
        words: Words,
        command: &[OsString],
        signals: &'a mut Signals,
    ) -> Result<Self> {
        let label = options.label.clone().unwrap_or_else(|| label(command));
        let session = Session::builder(&context.client)
            .ttl(options.ttl)
            .label(label);
        let session = tokio::select! {
            session = session.open() => session?,
            signal = signals.end() => return Err(Failure::silent(code_of(signal))),
        };
        let grace = match options.grace_of(session.remaining()) {
            Ok(grace) => grace,
            Err(failure) => {
                let _ = session.close().await;
                return Err(failure);
            }
        };
        Ok(Self {
            context,
            options,
            name,
            words,
            session,
            story: Story {
                quiet: options.quiet,
            },
            signals,
            grace,
        })
    }

    /// Waits in line, and says so.
    pub async fn wait<G>(&mut self, acquire: Acquire<G>) -> Result<Held>
    where
        G: From<Hold> + Into<Held> + 'static,
    {
        let mut state = self.session.state();
        let mut in_jeopardy = false;
        let place = format!("the place in line for {} {:?}", self.words.what, self.name);
        let (enqueued, mut position) = oneshot::channel();
        let mut acquire = acquire.on_enqueued(move |position| {
            let _ = enqueued.send(position);
        });
        if let Some(timeout) = self.options.timeout {
            acquire = acquire.timeout(timeout);
        }
        let mut acquiring = std::pin::pin!(acquire.into_future());
        let mut in_line = false;
        let mut told = String::new();
        loop {
            tokio::select! {
                biased;
                held = &mut acquiring => return match held {
                    Ok(held) => Ok(self.tell_of(held.into())),
                    Err(Error::TimedOut(waited)) => {
                        let found = self.line().await.unwrap_or_default();
                        self.close().await;
                        Err(Failure::new(NOT_OBTAINED, format!(
                            "{} {:?} was not obtained within {}{found}",
                            self.words.what, self.name, go::duration(waited)
                        )))
                    }
                    Err(Error::Lost(reason)) => {
                        let _ = tokio::time::timeout(FAREWELL, self.close()).await;
                        Err(Failure::new(NOT_OBTAINED, format!(
                            "{} {:?} was not obtained, and the place in line is lost: {reason}",
                            self.words.what, self.name
                        ))
                        .passing())
                    }
                    Err(error) => {
                        self.close().await;
                        Err(error.into())
                    }
                },
                Ok(()) = state.changed() => {
                    let state = *state.borrow_and_update();
                    tell_of_renewals(self.story, state, &place, &mut in_jeopardy);
                }
                Ok(ahead) = &mut position, if !in_line => {
                    in_line = true;
                    if ahead.0 > 0 {
                        self.tell_of_line(&mut told).await;
                    }
                }
                () = tokio::time::sleep(LOOK_AGAIN), if !told.is_empty() => self.tell_of_line(&mut told).await,
                signal = self.signals.end() => {
                    self.story.tell(format_args!("gave up waiting for {} {:?}", self.words.what, self.name));
                    self.close().await;
                    return Err(Failure::silent(code_of(signal)));
                }
            }
        }
    }

    fn tell_of(&self, held: Held) -> Held {
        self.story.tell(format_args!(
            "{} {:?} with token {}",
            self.words.got,
            self.name,
            held.grant().token()
        ));
        held
    }

    async fn tell_of_line(&self, told: &mut String) {
        let Some(found) = self.line().await else {
            return;
        };
        let text = format!("waiting for {} {:?}{found}", self.words.what, self.name);
        if *told != text {
            self.story.tell(&text);
            *told = text;
        }
    }

    /// Who is in front, as the end of a sentence.
    pub async fn line(&self) -> Option<String> {
        let name = self.name.into();
        let line = LockInfo::read(&self.context.client, &name);
        // The story may wait; the lock must not wait for it.
        let line = tokio::time::timeout(STORY, line).await.ok()?.ok()?;
        let LockInfo {
            holder, waiters, ..
        } = line;
        let holder = holder?;
        let ours = Some(self.session.id());
        if holder.session == ours {
            return None;
        }
        let between = waiters
            .iter()
            .position(|waiter| waiter.session == ours)
            .unwrap_or(waiters.len());
        let between = match between {
            0 => String::new(),
            1 => ", 1 other before us".to_owned(),
            count => format!(", {count} others before us"),
        };
        Some(format!(
            ": held by {} (token {}){between}",
            who(&holder),
            holder.token
        ))
    }

    /// Runs a command, if there is one, else prints the key and waits for a signal; then gives up what is held.
    pub async fn use_it(
        self,
        held: Held,
        command: &[OsString],
        environment: Vec<(&'static str, String)>,
    ) -> Result<()> {
        if command.is_empty() {
            if let Err(failure) = self.print_key(&held).await {
                self.release(held).await;
                return Err(failure);
            }
            return self.until_signal(held).await;
        }
        let what = format!("{} {:?}", self.words.what, self.name);
        let task = Task {
            command,
            environment,
            grace: self.grace,
            foreground: self.options.foreground,
            stdin: None,
            what: what.clone(),
        };
        let lost = held.grant().lost();
        let end = supervise::run(&self.session, lost, task, self.story, self.signals).await;
        match end {
            Ok(End::ByItself(code)) => {
                self.release(held).await;
                if code == 0 {
                    Ok(())
                } else {
                    Err(Failure::silent(code))
                }
            }
            Ok(End::Stopped(reason)) => {
                self.release_quietly(held).await;
                Err(Failure::new(
                    LOST,
                    format!("lost {what}: {}; the command was stopped", why(reason)),
                ))
            }
            Err(failure) => {
                self.release(held).await;
                Err(failure)
            }
        }
    }

    async fn print_key(&self, held: &Held) -> Result<()> {
        let key = Get::key(&held.grant().fence().key);
        let found = self.context.client.get(key).await?;
        self.context.output.print(&Answer::Get(&found))
    }

    async fn until_signal(self, held: Held) -> Result<()> {
        let mut state = self.session.state();
        let mut lost = held.grant().lost();
        let mut in_jeopardy = false;
        let what = format!("{} {:?}", self.words.what, self.name);
        loop {
            tokio::select! {
                biased;
                reason = &mut lost => {
                    self.release_quietly(held).await;
                    return Err(Failure::error(format!("session expired: {reason}")));
                }
                Ok(()) = state.changed() => {
                    let state = *state.borrow_and_update();
                    tell_of_renewals(self.story, state, &what, &mut in_jeopardy);
                }
                _ = self.signals.end() => {
                    self.release(held).await;
                    return Ok(());
                }
            }
        }
    }

    async fn release(self, held: Held) {
        let token = held.grant().token();
        let limit = self.context.flags.command_timeout;
        if let Ok(Ok(_)) = tokio::time::timeout(limit, held.release()).await {
            self.story
                .tell(format_args!("{} {:?}", self.words.gave_up, self.name));
            self.close().await;
        } else {
            self.story.tell(format_args!(
                "the server did not confirm that {} {:?} is given up. It ends with the TTL of {} at the latest, and sooner \
                 with: batonctl lock release {} --token={token}",
                self.words.what,
                self.name,
                go::duration(self.options.ttl),
                self.name
            ));
            let _ = tokio::time::timeout(FAREWELL, self.close()).await;
        }
    }

    /// There may be nothing left to release, and nobody who answers.
    async fn release_quietly(self, held: Held) {
        let gone = async {
            let _ = held.release().await;
            let _ = self.session.clone().close().await;
        };
        let _ = tokio::time::timeout(FAREWELL, gone).await;
    }

    async fn close(&self) {
        let limit = self.context.flags.command_timeout;
        let _ = tokio::time::timeout(limit, self.session.clone().close()).await;
    }
}

/// A command that is asked to end is not given longer than that by default.
const LONGEST_GRACE: Duration = Duration::from_secs(5);
/// To a server that did not answer before.
const FAREWELL: Duration = Duration::from_secs(1);
/// To find out what is only told.
const STORY: Duration = Duration::from_secs(1);
/// Between two looks at who is in front.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// The exit code of a process that ended because of a signal.
pub fn code_of(signal: Signal) -> u8 {
    u8::try_from(128 + signal.as_raw()).unwrap_or(255)
}

/// Why a command was stopped, for people.
pub fn why(reason: Option<LossReason>) -> String {
    reason.map_or_else(
        || "no renewal was answered in time".to_owned(),
        |reason| reason.to_string(),
    )
}

/// Who holds or waits, for people.
pub fn who(waiter: &Waiter) -> String {
    match (&waiter.label, waiter.session) {
        (label, _) if !label.is_empty() => on_one_line(label),
        (_, Some(session)) => format!("session {session}"),
        (_, None) => format!("the key {:?}", waiter.key),
    }
}

/// Who this is: `alice@web1 pid 4711: ./report.sh`.
pub fn label(command: &[OsString]) -> String {
    let user = ["USER", "LOGNAME"]
        .iter()
        .find_map(|name| std::env::var(name).ok())
        .unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw()));
    let system = rustix::system::uname();
    let host = system.nodename().to_string_lossy();
    let mut label = format!("{user}@{host} pid {}", std::process::id());
    if !command.is_empty() {
        let words: Vec<_> = command
            .iter()
            .map(|word| String::from_utf8_lossy(word.as_bytes()))
            .collect();
        let words = words.join(" ");
        let shown: String = words.chars().take(60).collect();
        let more = if shown.len() < words.len() { "…" } else { "" };
        label = format!("{label}: {shown}{more}");
    }
    label
}
