//! A member: its namespace, its disk, its process while it runs, and its log.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use baton_proto::etcdserverpb as pb;
use parking_lot::Mutex;
use pb::maintenance_client::MaintenanceClient;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Command;
use tokio::sync::watch;
use tonic::Status;

use super::clock::Clock;
use super::disk::Disk;
use super::host::program;
use super::net::{self, Place};
use super::wait::until;
use crate::history::{Member, MemberEvent, MemberStep, Record, Recorder, Usage};

/// The longest that a server may take to answer the observer.
const ANSWER: Duration = Duration::from_millis(500);

/// Words in a log that no server writes while it is well.
const ALARMING: [&str; 6] = [
    "panicked at",
    "panic:",
    "\"level\":\"panic\"",
    "fatal error:",
    "assertion failed",
    "SIGSEGV",
];

/// A member and everything it has on this host.
#[derive(Debug)]
pub struct Node {
    /// Which it is.
    pub member: Member,
    /// Its disk, if it has one of its own.
    pub disk: Option<Disk>,
    /// Its clock, if it can be moved.
    pub clock: Option<Clock>,
    /// Who works on its process, files or clock holds this, so that two faults do not undo each other's work.
    pub claim: Arc<tokio::sync::Mutex<()>>,
    home: PathBuf,
    data: PathBuf,
    server: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    groups: Vec<PathBuf>,
    recorder: Recorder,
    process: Mutex<Option<Process>>,
    excused: AtomicU32,
    scanned: Mutex<u64>,
}

/// A process that was started, whether it still runs or not.
#[derive(Debug, Clone)]
struct Process {
    pid: Pid,
    expected: Arc<AtomicBool>,
    ended: watch::Receiver<bool>,
}

/// While it lives, what the member does to itself is not held against it.
#[derive(Debug)]
pub struct Excuse(Arc<Node>);

impl Drop for Excuse {
    fn drop(&mut self) {
        self.0.scan_log();
        if self.0.excused.fetch_sub(1, Ordering::SeqCst) == 1
            && let Some(process) = &*self.0.process.lock()
        {
            // One that still runs answers for itself again.
            process
                .expected
                .store(*process.ended.borrow(), Ordering::SeqCst);
        }
    }
}

/// How a member is made.
#[derive(Debug)]
pub struct Layout {
    /// Which it is.
    pub member: Member,
    /// Its directory in that of the run.
    pub home: PathBuf,
    /// Its disk, if it has one of its own.
    pub disk: Option<Disk>,
    /// Its clock, if it can be moved.
    pub clock: Option<Clock>,
    /// The program.
    pub server: PathBuf,
    /// All flags but those of the data directory.
    pub arguments: Vec<OsString>,
    /// Variables of its environment.
    pub environment: Vec<(OsString, OsString)>,
    /// Control groups it runs in.
    pub groups: Vec<PathBuf>,
}

impl Node {
    /// A member that does not run yet.
    pub fn new(layout: Layout, recorder: &Recorder) -> Self {
        let base = layout.disk.as_ref().map_or(&*layout.home, Disk::path);
        Self {
            member: layout.member,
            data: base.join("data"),
            home: layout.home,
            disk: layout.disk,
            clock: layout.clock,
            claim: Arc::default(),
            server: layout.server,
            arguments: layout.arguments,
            environment: layout.environment,
            groups: layout.groups,
            recorder: recorder.clone(),
            process: Mutex::default(),
            excused: AtomicU32::new(0),
            scanned: Mutex::new(0),
        }
    }

    /// Whether a fault works on it, or waits to.
    pub fn is_taken(&self) -> bool {
        Arc::strong_count(&self.claim) > 1
    }

    /// Its data directory.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Its directory in that of the run.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// The program it runs.
    pub fn server(&self) -> &Path {
        &self.server
    }

    /// The control group of a controller that it runs in, if it runs in one.
    pub fn group(&self, controller: &str) -> Option<&Path> {
        let inside = |group: &&PathBuf| group.parent().is_some_and(|it| it.ends_with(controller));
        self.groups.iter().find(inside).map(PathBuf::as_path)
    }

    /// What it collects its output in.
    pub fn log(&self) -> PathBuf {
        self.home.join("log")
    }

    /// Starts a process; does not wait until it serves. Returns its id.
    ///
    /// # Errors
    /// One runs already, or the program cannot be executed.
    pub fn start(&self) -> Result<u32> {
        anyhow::ensure!(!self.runs(), "m{} runs already", self.member);
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log())?;
        let nsenter = program("nsenter").map_err(anyhow::Error::msg)?;
        let mut command = Command::new(nsenter);
        let namespace = Place::Member(self.member).namespace().unwrap_or_default();
        let mut enter = OsString::from("--net=");
        enter.push(namespace);
        // Everything up to the server replaces itself by what it runs, so that the server has the id returned here.
        let script = "while [ \"$1\" != -- ]; do echo $$ > \"$1/cgroup.procs\"; shift; done; shift; exec \"$@\"";
        command
            .arg(enter)
            .args(["--", "sh", "-c", script, "sh"])
            .args(&self.groups)
            .arg("--")
            .arg("env");
        let clock = self.clock.iter().flat_map(Clock::environment);
        for (name, value) in self.environment.iter().cloned().chain(clock) {
            let mut setting = name;
            setting.push("=");
            setting.push(value);
            command.arg(setting);
        }
        let mut data = OsString::from("--data-dir=");
        data.push(&self.data);
        command.arg(&self.server).arg(data).args(&self.arguments);
        // A developer's own cluster must not leak into the run through the environment.
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("ETCD_") || text.starts_with("BATON_") {
                command.env_remove(&name);
            }
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Who interrupts a run from a terminal does not mean its members.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start m{}", self.member))?;
        let id = child.id().context("it ended at once")?;
        let pid = Pid::from_raw(id.cast_signed()).context("it has no process id")?;
        let expected = Arc::new(AtomicBool::new(false));
        let (end, ended) = watch::channel(false);
        let process = Process {
            pid,
            expected: expected.clone(),
            ended,
        };
        let excused = self.excused.load(Ordering::SeqCst) > 0;
        expected.fetch_or(excused, Ordering::SeqCst);
        *self.process.lock() = Some(process);
        self.record(MemberEvent::Started { pid: id });
        let recorder = self.recorder.clone();
        let member = self.member;
        tokio::spawn(async move {
            let status = match child.wait().await {
                Ok(status) => status.to_string(),
                Err(error) => error.to_string(),
            };
            recorder.add(Record::Member(MemberStep {
                member,
                at: recorder.now(),
                event: MemberEvent::Ended {
                    status,
                    expected: expected.load(Ordering::SeqCst),
                },
            }));
            end.send_replace(true);
        });
        Ok(id)
    }

    fn record(&self, event: MemberEvent) {
        self.recorder.add(Record::Member(MemberStep {
            member: self.member,
            at: self.recorder.now(),
            event,
        }));
    }

    /// Whether its process runs, stopped or not.
    pub fn runs(&self) -> bool {
        self.pid().is_some()
    }

    /// The id of its process while it runs.
    pub fn pid(&self) -> Option<u32> {
        let process = self.process.lock();
        let running = process.as_ref().filter(|process| !*process.ended.borrow());
        running.map(|process| process.pid.as_raw_nonzero().get().cast_unsigned())
    }

    /// Whether its process is in this state, by the letter of the kernel.
    pub fn is_in_state(&self, letter: char) -> bool {
        let Some(pid) = self.pid() else { return false };
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let state = stat.rsplit_once(')').map(|(_, rest)| rest.trim_start());
        state.is_some_and(|rest| rest.starts_with(letter))
    }

    /// What its process takes of the host, while it runs.
    pub fn usage(&self) -> Option<Usage> {
        let process = Path::new("/proc").join(self.pid()?.to_string());
        let status = fs::read_to_string(process.join("status")).ok()?;
        let field = |name: &str| -> Option<u64> {
            let value = status.lines().find_map(|line| line.strip_prefix(name))?;
            value.split_whitespace().next()?.parse().ok()
        };
        let descriptors = fs::read_dir(process.join("fd")).ok()?.count();
        Some(Usage {
            memory_kib: field("VmRSS:")?,
            descriptors: u64::try_from(descriptors).ok()?,
            threads: field("Threads:")?,
            disk_kib: self.disk.as_ref().map_or(0, Disk::used_kib),
        })
    }

    /// From here on its process may end without being blamed for it.
    pub fn expect_end(&self) {
        if let Some(process) = &*self.process.lock() {
            process.expected.store(true, Ordering::SeqCst);
        }
    }

    /// From here on a process that still runs answers for its end again.
    pub fn blame(&self) {
        if let Some(process) = &*self.process.lock() {
            process
                .expected
                .store(*process.ended.borrow(), Ordering::SeqCst);
        }
    }

    /// Until the excuse is dropped, neither this process nor later ones are blamed for ending or for what they log.
    pub fn excuse(self: &Arc<Self>) -> Excuse {
        self.scan_log();
        self.excused.fetch_add(1, Ordering::SeqCst);
        self.expect_end();
        Excuse(self.clone())
    }

    /// Sends a signal, if there is a process to get it.
    pub fn signal(&self, signal: Signal) {
        let process = self.process.lock().clone();
        if let Some(process) = process.filter(|process| !*process.ended.borrow()) {
            // It may end by itself at this moment.
            let _ = kill_process(process.pid, signal);
        }
    }

    /// SIGKILL, and waits until the kernel has taken the process away.
    pub async fn kill(&self) {
        self.expect_end();
        self.signal(Signal::KILL);
        self.ended(Duration::from_secs(30)).await;
    }

    /// Waits until its process has ended; false if it has not within `limit`.
    pub async fn ended(&self, limit: Duration) -> bool {
        let process = self.process.lock().clone();
        let Some(mut process) = process else {
            return true;
        };
        let ended = process.ended.wait_for(|ended| *ended);
        tokio::time::timeout(limit, ended).await.is_ok()
    }

    /// Asks it for its status, as the observer.
    ///
    /// # Errors
    /// It does not answer within half a second, or with an error.
    pub async fn status(&self) -> Result<pb::StatusResponse, Status> {
        let channel = net::dial(Place::Observer).channel(self.member);
        let mut client = MaintenanceClient::new(channel);
        let asked = client.status(pb::StatusRequest::default());
        match tokio::time::timeout(ANSWER, asked).await {
            Ok(answer) => Ok(answer?.into_inner()),
            Err(_) => Err(Status::deadline_exceeded("no answer in time")),
        }
    }

    /// Waits until it answers the observer; false if it does not within `limit`, or ends.
    pub async fn answers(&self, limit: Duration) -> bool {
        let answers = || async {
            match self.runs() {
                true => self.status().await.is_ok().then_some(true),
                false => Some(false),
            }
        };
        until(limit, answers).await.unwrap_or(false)
    }

    /// Looks for alarming lines in what it logged since the last look.
    pub fn scan_log(&self) {
        let mut scanned = self.scanned.lock();
        let mut text = Vec::new();
        let read = File::open(self.log()).and_then(|mut log| {
            log.seek(SeekFrom::Start(*scanned))?;
            log.read_to_end(&mut text)
        });
        if read.is_err() {
            return;
        }
        // A line that is still being written is looked at when it is whole.
        let whole = text
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |end| end + 1);
        *scanned += u64::try_from(whole).unwrap_or_default();
        if self.excused.load(Ordering::SeqCst) > 0 {
            return;
        }
        for line in String::from_utf8_lossy(&text[..whole]).lines() {
            if ALARMING.iter().any(|words| line.contains(words)) {
                self.record(MemberEvent::Alarming(line.to_owned()));
            }
        }
    }

    /// The last line of its log, for what a fault brought about.
    pub fn last_words(&self) -> String {
        let text = fs::read(self.log()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        text.lines().last().unwrap_or_default().to_owned()
    }
}
