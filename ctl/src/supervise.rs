//! Running a command for as long as something is held, and telling the story on standard error. Standard output is
//! the command's.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::time::Duration;

use baton_recipes::{BootInstant, LossReason, Lost, Session, SessionState};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::failure::{Failure, Result};
use crate::go;
use crate::guard::{Deadline, Guard, Manner, Order, Report, now, rounded};
use crate::output::complain;
use crate::signals::Signals;

/// What is told on standard error.
#[derive(Clone, Copy, Debug)]
pub struct Story {
    /// Nothing is told.
    pub quiet: bool,
}

impl Story {
    /// Tells a sentence.
    pub fn tell(self, text: impl std::fmt::Display) {
        if !self.quiet {
            complain(format_args!("batonctl: {text}"));
        }
    }
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By itself, while all was held, with this exit code (128 and the number of a signal).
    ByItself(u8),
    /// It was stopped, because what is held can be lost or is lost.
    Stopped(Option<LossReason>),
}

/// What runs, and how.
pub struct Task<'a> {
    /// Program and arguments.
    pub command: &'a [OsString],
    /// Added to the environment.
    pub environment: Vec<(&'static str, String)>,
    /// Between asking the command to end and making it.
    pub grace: Duration,
    /// It stays in this process group.
    pub foreground: bool,
    /// Its standard input, where that is not this process's own.
    pub stdin: Option<OwnedFd>,
    /// What is held, for people.
    pub what: String,
}

/// The command is dead this long before the session counts as lost.
const LEAD: Duration = Duration::from_millis(50);

/// Runs a command until it ends, and sees to it that it ends before what is held can be lost. Signals are passed on.
///
/// # Errors
/// If it cannot be started.
pub async fn run(
    session: &Session,
    mut lost: Lost,
    task: Task<'_>,
    story: Story,
    signals: &mut Signals,
) -> Result<End> {
    let mut state = session.state();
    let Some(until) = until(*state.borrow_and_update(), task.grace) else {
        return Ok(End::Stopped(lost.now()));
    };
    let manner = Manner {
        quiet: story.quiet,
        foreground: task.foreground,
    };
    let guard = Guard::start(task.command, task.environment, task.stdin, until, manner);
    let mut guard =
        guard.map_err(|error| Failure::error(format!("cannot start the command: {error}")))?;
    let mut command = None;
    let mut in_jeopardy = false;
    let mut reason = None;
    loop {
        tokio::select! {
            biased;
            report = guard.report() => match report {
                Some(Report::Started(pid)) => command = Some(pid),
                Some(Report::Suspended) if !task.foreground => story.tell(
                    "the command was stopped (SIGCONT lets it go on); one that reads from the terminal needs --foreground"
                ),
                Some(Report::Suspended) => {}
                Some(Report::Ended { code, by_guard }) => {
                    guard.left().await;
                    return Ok(match reason.or(lost.now()) {
                        _ if by_guard => End::Stopped(reason.or(lost.now())),
                        Some(reason @ (LossReason::Removed | LossReason::Revoked)) => End::Stopped(Some(reason)),
                        _ => End::ByItself(code),
                    });
                }
                None => return Ok(guard_is_gone(guard, command, task.foreground).await),
            },
            why = &mut lost, if reason.is_none() => {
                reason = Some(why);
                guard.order(Order::Kill).await;
                // The guard may be stopped.
                kill_group(command, task.foreground);
                guard.wake();
            }
            Ok(()) = state.changed(), if reason.is_none() => {
                let state = *state.borrow_and_update();
                if let Some(until) = self::until(state, task.grace) {
                    guard.order(Order::Until(until)).await;
                }
                tell_of_renewals(story, state, &task.what, &mut in_jeopardy);
            }
            signal = signals.next() => {
                // The terminal sends these to the whole foreground group.
                let is_shared = matches!(signal, Signal::INT | Signal::QUIT) && task.foreground;
                if !is_shared {
                    guard.order(Order::Signal(signal.as_raw())).await;
                }
            }
        }
    }
}

/// Says when renewals begin to fail, and when they are answered again.
pub fn tell_of_renewals(story: Story, state: SessionState, what: &str, in_jeopardy: &mut bool) {
    match state {
        SessionState::Jeopardy { until } if !*in_jeopardy => {
            *in_jeopardy = true;
            let left = go::duration(rounded(until.remaining()));
            story.tell(format_args!(
                "a renewal has no answer; {what} is certainly held for another {left}"
            ));
        }
        SessionState::Safe { .. } if *in_jeopardy => {
            *in_jeopardy = false;
            story.tell("renewals are answered again");
        }
        _ => {}
    }
}

/// The command's deadlines: both lie before the session's own. `None` once it is lost.
fn until(state: SessionState, grace: Duration) -> Option<Deadline> {
    let until: BootInstant = match state {
        SessionState::Safe { until } | SessionState::Jeopardy { until } => until,
        SessionState::Lost(_) => return None,
    };
    // In this order: a pause between the two makes the deadline earlier, never later.
    let now = now();
    let kill = (now + until.remaining()).saturating_sub(LEAD);
    Some(Deadline {
        terminate: kill.saturating_sub(grace),
        kill,
    })
}

/// The command and what it started, for which `--foreground` has no group.
fn kill_group(command: Option<Pid>, foreground: bool) {
    // It may have ended by itself.
    let _ = match command {
        Some(command) if foreground => kill_process(command, Signal::KILL),
        Some(command) => kill_process_group(command, Signal::KILL),
        None => Ok(()),
    };
}

/// The kernel has killed the command with its parent; what it started itself is left.
async fn guard_is_gone(guard: Guard, command: Option<Pid>, foreground: bool) -> End {
    kill_group(command, foreground);
    guard.left().await;
    complain("batonctl: the guard of the command was killed: the command was killed with it");
    End::Stopped(None)
}
