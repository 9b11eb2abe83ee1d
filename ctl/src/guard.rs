//! The process between `batonctl` and a command that runs under a lock. It ends the command before the lock can be
//! lost, whatever happens to `batonctl`.
//!
//! ```text
//!   batonctl                     keeps the session alive, and says for how long the lock is certainly held
//!      |  socket: deadlines, signals to pass on          ^ the command's process, how it ended
//!   guard                        a process group of its own: a stopped terminal job does not stop it
//!      |  runs itself as `__exec`, which sets a parent death signal and becomes the command
//!   command                      a process group of its own, which is what signals are sent to
//! ```
//!
//! With `--foreground` the command stays in the group of `batonctl` instead, so that it can read from the terminal;
//! signals are sent to its own process only then.
//!
//! | What happens | What becomes of the command |
//! | --- | --- |
//! | renewals are not answered | SIGTERM, then SIGKILL, both before the server can give the lock to another |
//! | `batonctl` is stopped (SIGSTOP) | the same: deadlines do not come any more |
//! | `batonctl` is killed | SIGTERM at once, SIGKILL at the last deadline: the socket is closed |
//! | the guard is killed | SIGKILL from the kernel, as its parent is dead; `batonctl` kills its whole group |
//! | the guard is stopped | SIGKILL from `batonctl`, which wakes the guard, when the lock is lost |
//! | the whole machine, or `batonctl` and the guard both, are stopped | SIGKILL as soon as the guard goes on. What the command does before that only fencing can refuse |

use std::ffi::{OsStr, OsString};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as Socket;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::{Child, Command};

use crate::output::complain;
use crate::signals::Signals;

/// First argument of a guard; the command follows.
pub const GUARD: &str = "__guard";
/// First argument of what becomes the command.
const EXEC: &str = "__exec";

/// The command was not found, or cannot be executed, as shells say it.
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;

/// Instants of a clock that all processes of this machine share and that goes on in suspend.
pub fn now() -> Duration {
    #[cfg(target_os = "linux")]
    let clock = rustix::time::ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    let clock = rustix::time::ClockId::Monotonic;
    let now = rustix::time::clock_gettime(clock);
    Duration::new(
        now.tv_sec.unsigned_abs(),
        u32::try_from(now.tv_nsec).unwrap_or(0),
    )
}

/// Until when the command may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    /// When it is asked to end.
    pub terminate: Duration,
    /// When it is made to.
    pub kill: Duration,
}

/// What a guard is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The lock is certainly held until then.
    Until(Deadline),
    /// Pass this signal on.
    Signal(i32),
    /// The lock is gone already.
    Kill,
}

/// What a guard tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// The command runs, as this process and group.
    Started(Pid),
    /// It was stopped, as by Ctrl-Z.
    Suspended,
    /// It ended with this exit code.
    Ended {
        /// 128 and the signal's number where a signal ended it.
        code: u8,
        /// Whether it was made to.
        by_guard: bool,
    },
}

/// Frames have one size: a kind and two numbers.
const FRAME: usize = 17;

fn frame(kind: u8, first: u64, second: u64) -> [u8; FRAME] {
    let mut frame = [kind; FRAME];
    frame[1..9].copy_from_slice(&first.to_le_bytes());
    frame[9..].copy_from_slice(&second.to_le_bytes());
    frame
}

fn parts(frame: &[u8; FRAME]) -> (u8, u64, u64) {
    let number = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&frame[at..at + 8]);
        u64::from_le_bytes(bytes)
    };
    (frame[0], number(1), number(9))
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Order {
    fn encode(self) -> [u8; FRAME] {
        match self {
            Self::Until(until) => frame(b'u', nanos(until.terminate), nanos(until.kill)),
            Self::Signal(signal) => frame(b's', signal.unsigned_abs().into(), 0),
            Self::Kill => frame(b'k', 0, 0),
        }
    }

    fn decode(bytes: &[u8; FRAME]) -> Option<Self> {
        match parts(bytes) {
            (b'u', terminate, kill) => Some(Self::Until(Deadline {
                terminate: Duration::from_nanos(terminate),
                kill: Duration::from_nanos(kill),
            })),
            (b's', signal, _) => i32::try_from(signal).ok().map(Self::Signal),
            (b'k', ..) => Some(Self::Kill),
            _ => None,
        }
    }
}

impl Report {
    fn encode(self) -> [u8; FRAME] {
        match self {
            Self::Started(pid) => frame(b'p', pid.as_raw_nonzero().get().unsigned_abs().into(), 0),
            Self::Suspended => frame(b'z', 0, 0),
            Self::Ended { code, by_guard } => frame(b'e', code.into(), by_guard.into()),
        }
    }

    fn decode(bytes: &[u8; FRAME]) -> Option<Self> {
        match parts(bytes) {
            (b'p', pid, _) => Pid::from_raw(i32::try_from(pid).ok()?).map(Self::Started),
            (b'z', ..) => Some(Self::Suspended),
            (b'e', code, by_guard) => Some(Self::Ended {
                code: u8::try_from(code).ok()?,
                by_guard: by_guard != 0,
            }),
            _ => None,
        }
    }
}

/// A guard, from the side of `batonctl`.
pub struct Guard {
    child: Child,
    orders: OwnedWriteHalf,
    reports: Frames,
}

/// What a guard is started with.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// Says nothing but failures.
    pub quiet: bool,
    /// The command stays in the caller's process group.
    pub foreground: bool,
}

impl Manner {
    fn argument(self) -> &'static str {
        match (self.quiet, self.foreground) {
            (false, false) => "-",
            (true, false) => "quiet",
            (false, true) => "foreground",
            (true, true) => "quiet,foreground",
        }
    }

    fn parse(argument: &OsStr) -> Self {
        let argument = argument.to_string_lossy();
        Self {
            quiet: argument.contains("quiet"),
            foreground: argument.contains("foreground"),
        }
    }
}

/// Frames that come out of a socket.
struct Frames {
    socket: OwnedReadHalf,
    bytes: [u8; FRAME],
    filled: usize,
}

impl Frames {
    fn new(socket: OwnedReadHalf) -> Self {
        Self {
            socket,
            bytes: [0; FRAME],
            filled: 0,
        }
    }

    /// The next one; `None` at the end. Cancel safe.
    async fn next(&mut self) -> Option<[u8; FRAME]> {
        while self.filled < FRAME {
            match self.socket.read(&mut self.bytes[self.filled..]).await {
                Ok(0) | Err(_) => return None,
                Ok(count) => self.filled += count,
            }
        }
        self.filled = 0;
        Some(self.bytes)
    }
}

impl Guard {
    /// Starts a guard, which starts the command at once, with this standard input or that of this process.
    ///
    /// # Errors
    /// If no process can be started.
    pub fn start(
        command: &[OsString],
        environment: Vec<(&'static str, String)>,
        stdin: Option<OwnedFd>,
        until: Deadline,
        manner: Manner,
    ) -> std::io::Result<Self> {
        let (ours, theirs) = Socket::pair()?;
        let child = Command::new(this_program())
            .arg0("batonctl")
            .arg(GUARD)
            .arg(manner.argument())
            .args(command)
            .envs(environment)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .process_group(0)
            .spawn()?;
        let own = std::io::stdin();
        let stdin = stdin.as_ref().map_or_else(|| own.as_fd(), OwnedFd::as_fd);
        send_with_standard_input(&ours, stdin, &Order::Until(until).encode())?;
        ours.set_nonblocking(true)?;
        let (reports, orders) = UnixStream::from_std(ours)?.into_split();
        Ok(Self {
            child,
            orders,
            reports: Frames::new(reports),
        })
    }

    /// Gives an order. One that a guard does not get any more is one it does not need.
    pub async fn order(&mut self, order: Order) {
        let _ = self.orders.write_all(&order.encode()).await;
    }

    /// What it has to tell; `None` if it is gone without a word. Cancel safe.
    pub async fn report(&mut self) -> Option<Report> {
        Report::decode(&self.reports.next().await?)
    }

    /// Lets it go on if it is stopped.
    pub fn wake(&self) {
        let pid = self.child.id();
        if let Some(pid) = pid.and_then(|pid| Pid::from_raw(pid.cast_signed())) {
            // It may have left.
            let _ = kill_process(pid, Signal::CONT);
        }
    }

    /// Waits until the guard's process has left.
    pub async fn left(mut self) {
        let _ = self.child.wait().await;
    }
}

/// The program that runs, even if its file was replaced meanwhile.
fn this_program() -> OsString {
    if cfg!(target_os = "linux") {
        "/proc/self/exe".into()
    } else {
        std::env::current_exe().map_or_else(|_| "batonctl".into(), OsString::from)
    }
}

/// The guard's own standard input is the socket, so the command's goes through it.
fn send_with_standard_input(
    socket: &Socket,
    stdin: BorrowedFd<'_>,
    bytes: &[u8],
) -> std::io::Result<()> {
    let files = [stdin];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&files));
    sendmsg(
        socket,
        &[IoSlice::new(bytes)],
        &mut control,
        SendFlags::empty(),
    )?;
    Ok(())
}

fn receive_with_standard_input(
    socket: impl AsFd,
) -> std::io::Result<([u8; FRAME], Option<OwnedFd>)> {
    let mut bytes = [0; FRAME];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [IoSliceMut::new(&mut bytes)];
    recvmsg(socket, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut received = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(files) = message {
            received = files.last().or(received);
        }
    }
    Ok((bytes, received))
}

/// Runs as a guard or as what becomes a command, if that is what this process is started as.
pub fn run_if_asked() -> Option<u8> {
    let mut arguments = std::env::args_os().skip(1);
    let role = arguments.next()?;
    if role == GUARD {
        let manner = Manner::parse(&arguments.next()?);
        let command: Vec<OsString> = arguments.collect();
        Some(guard(&command, manner))
    } else if role == EXEC {
        let command: Vec<OsString> = arguments.collect();
        Some(become_command(&command))
    } else {
        None
    }
}

/// Dies with its parent, and becomes the command.
fn become_command(command: &[OsString]) -> u8 {
    let [parent, program, arguments @ ..] = command else {
        return NOT_EXECUTABLE;
    };
    #[cfg(target_os = "linux")]
    {
        let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
        let is_orphan = rustix::process::getppid()
            .is_none_or(|now| OsStr::new(&now.as_raw_nonzero().to_string()) != parent.as_os_str());
        if is_orphan {
            return NOT_EXECUTABLE;
        }
    }
    let error = std::process::Command::new(program).args(arguments).exec();
    complain(format_args!("batonctl: cannot run {program:?}: {error}"));
    if error.kind() == std::io::ErrorKind::NotFound {
        NOT_FOUND
    } else {
        NOT_EXECUTABLE
    }
}

fn guard(command: &[OsString], manner: Manner) -> u8 {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let guarded = runtime.and_then(|runtime| runtime.block_on(guard_command(command, manner)));
    match guarded {
        Ok(code) => code,
        Err(error) => {
            complain(format_args!("batonctl: cannot guard the command: {error}"));
            NOT_EXECUTABLE
        }
    }
}

async fn guard_command(command: &[OsString], manner: Manner) -> std::io::Result<u8> {
    let (first, stdin) = receive_with_standard_input(std::io::stdin())?;
    let Some(Order::Until(until)) = Order::decode(&first) else {
        return Err(std::io::Error::other("no deadline came"));
    };
    let socket = Socket::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    socket.set_nonblocking(true)?;
    let (orders, mut reports) = UnixStream::from_std(socket)?.into_split();
    let group = match rustix::process::getppid() {
        Some(owner) if manner.foreground => rustix::process::getpgid(Some(owner))?
            .as_raw_nonzero()
            .get(),
        _ => 0,
    };
    let child = Command::new(this_program())
        .arg0("batonctl")
        .arg(EXEC)
        .arg(std::process::id().to_string())
        .args(command)
        .stdin(stdin.map_or_else(Stdio::null, Stdio::from))
        .process_group(group)
        .spawn()?;
    let pid = child
        .id()
        .and_then(|id| Pid::from_raw(id.cast_signed()))
        .ok_or_else(|| std::io::Error::other("the command has no process"))?;
    let _ = reports.write_all(&Report::Started(pid).encode()).await;
    let mut watch = Watch {
        command: pid,
        until,
        stopping: Stopping::No,
        manner,
    };
    let orders = Frames::new(orders);
    let status = watch.until_ended(child, orders, &mut reports).await?;
    let by_guard = watch.stopping != Stopping::No;
    if by_guard && !manner.foreground {
        // What the command leaves behind must not go on either.
        watch.pass_on(Signal::KILL);
    }
    let code = code_of(status);
    let _ = reports
        .write_all(&Report::Ended { code, by_guard }.encode())
        .await;
    Ok(code)
}

/// As shells count: 128 and the number of the signal.
fn code_of(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(255)
}

/// How far the end of the command is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stopping {
    No,
    Asked,
    Killed,
}

struct Watch {
    command: Pid,
    until: Deadline,
    stopping: Stopping,
    manner: Manner,
}

impl Watch {
    async fn until_ended(
        &mut self,
        mut child: Child,
        mut orders: Frames,
        reports: &mut OwnedWriteHalf,
    ) -> std::io::Result<ExitStatus> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut signals = Signals::new()?;
        let mut child_changed = signal(SignalKind::child())?;
        let mut is_owned = true;
        loop {
            let next = match self.stopping {
                Stopping::No => Some(self.until.terminate),
                Stopping::Asked => Some(self.until.kill),
                Stopping::Killed => None,
            };
            tokio::select! {
                biased;
                status = child.wait() => return status,
                () = at(next) => self.stop_further(),
                order = orders.next(), if is_owned => match order {
                    Some(order) => self.obey(Order::decode(&order)),
                    None => {
                        is_owned = false;
                        self.say("batonctl is gone, and nobody renews the lock: stopping the command (SIGTERM)");
                        self.ask_to_end();
                    }
                },
                // Whoever ends the guard means the command.
                signal = signals.next() => self.pass_on(signal),
                _ = child_changed.recv() => {
                    if is_suspended(self.command) {
                        let _ = reports.write_all(&Report::Suspended.encode()).await;
                    }
                }
            }
        }
    }

    fn say(&self, text: &str) {
        if !self.manner.quiet {
            complain(format_args!("batonctl: {text}"));
        }
    }

    fn pass_on(&self, signal: Signal) {
        let sent = if self.manner.foreground {
            kill_process(self.command, signal)
        } else {
            kill_process_group(self.command, signal)
        };
        // It may have ended by itself; one that became another user, as with sudo, may not be ended by this one.
        if let Err(error) = sent
            && error != rustix::io::Errno::SRCH
        {
            complain(format_args!(
                "batonctl: cannot send {signal:?} to the command, which may go on: {error}"
            ));
        }
    }

    fn ask_to_end(&mut self) {
        if self.stopping == Stopping::No {
            self.stopping = Stopping::Asked;
            self.pass_on(Signal::TERM);
            // One that is suspended takes a signal only when it goes on.
            self.pass_on(Signal::CONT);
        }
    }

    fn kill(&mut self) {
        self.stopping = Stopping::Killed;
        self.pass_on(Signal::KILL);
    }

    /// A deadline has passed. Where both have, as after a pause of the machine, there is nothing to ask for.
    fn stop_further(&mut self) {
        if now() >= self.until.kill {
            self.say("the lock can be lost any moment now: killing the command (SIGKILL)");
            self.kill();
        } else if self.stopping == Stopping::No {
            let left = crate::go::duration(rounded(self.until.kill.saturating_sub(now())));
            self.say(&format!(
                "no renewal is answered: stopping the command before the lock can be lost (SIGTERM, SIGKILL in {left})"
            ));
            self.ask_to_end();
        }
    }

    fn obey(&mut self, order: Option<Order>) {
        match order {
            // One that is being stopped is not let go on.
            Some(Order::Until(until)) if self.stopping == Stopping::No => self.until = until,
            Some(Order::Until(_)) | None => {}
            Some(Order::Signal(signal)) => {
                if let Some(signal) = Signal::from_named_raw(signal) {
                    self.pass_on(signal);
                }
            }
            Some(Order::Kill) => {
                self.say("the lock is gone: killing the command (SIGKILL)");
                self.kill();
            }
        }
    }
}

/// For people.
pub fn rounded(time: Duration) -> Duration {
    Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX) / 100 * 100)
}

/// How often the clock is looked at: a timer does not count the time the machine was suspended.
const LOOK: Duration = Duration::from_millis(250);

async fn at(instant: Option<Duration>) {
    let Some(instant) = instant else {
        return std::future::pending().await;
    };
    loop {
        let left = instant.saturating_sub(now());
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(LOOK)).await;
    }
}

/// Whether the command's process is stopped, told once for each time it was.
fn is_suspended(pid: Pid) -> bool {
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    let options = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG;
    matches!(waitid(WaitId::Pid(pid), options), Ok(Some(status)) if status.stopped())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_and_reports_arrive_as_they_were_sent() {
        let until = Deadline {
            terminate: Duration::from_millis(5),
            kill: Duration::from_secs(9),
        };
        for order in [Order::Until(until), Order::Signal(15), Order::Kill] {
            assert_eq!(Order::decode(&order.encode()), Some(order));
        }
        let ended = Report::Ended {
            code: 143,
            by_guard: true,
        };
        let pid = Pid::from_raw(4711).expect("a pid");
        for report in [Report::Started(pid), Report::Suspended, ended] {
            assert_eq!(Report::decode(&report.encode()), Some(report));
        }
        assert_eq!(Order::decode(&[0; FRAME]), None);
        assert_eq!(Report::decode(&[0; FRAME]), None);
    }
}
