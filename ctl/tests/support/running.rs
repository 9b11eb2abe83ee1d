//! Processes that go on while a test talks to them, and a wire that can be cut.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::watch;

use crate::support::LIMIT;

/// A `batonctl` under way.
pub struct Running {
    child: Child,
    out: Lines<BufReader<ChildStdout>>,
    err: Arc<Mutex<String>>,
    reader: tokio::task::JoinHandle<()>,
}

impl Running {
    pub fn start(endpoint: &str, arguments: &[&str]) -> Self {
        Self::start_program(env!("CARGO_BIN_EXE_batonctl"), endpoint, arguments)
    }

    /// Another program, which becomes `batonctl`: its path is in the variable `BATONCTL`.
    pub fn start_program(program: &str, endpoint: &str, arguments: &[&str]) -> Self {
        let mut child = Command::new(program)
            .args(arguments)
            .env("BATONCTL_ENDPOINTS", endpoint)
            .env("BATONCTL", env!("CARGO_BIN_EXE_batonctl"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("batonctl can be run");
        let out = BufReader::new(child.stdout.take().expect("its output")).lines();
        let mut errors = child.stderr.take().expect("its errors");
        let err = Arc::new(Mutex::new(String::new()));
        let collected = err.clone();
        let reader = tokio::spawn(async move {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = errors.read(&mut bytes).await {
                let text = String::from_utf8_lossy(&bytes[..count]);
                collected.lock().expect("no panic").push_str(&text);
            }
        });
        Self {
            child,
            out,
            err,
            reader,
        }
    }

    /// What it said on standard error so far.
    pub fn story(&self) -> String {
        self.err.lock().expect("no panic").clone()
    }

    /// The next line of its standard output.
    pub async fn line(&mut self) -> String {
        let line = tokio::time::timeout(LIMIT, self.out.next_line()).await;
        let line = line.unwrap_or_else(|_| panic!("it prints nothing: {}", self.story()));
        line.expect("a line")
            .unwrap_or_else(|| panic!("it ended: {}", self.story()))
    }

    pub fn pid(&self) -> Pid {
        let id = self.child.id().expect("it runs");
        Pid::from_raw(id.cast_signed()).expect("a pid")
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("it runs");
    }

    /// Waits for its end, and for the last word on its standard error.
    pub async fn ended(mut self) -> (ExitStatus, String) {
        let status = tokio::time::timeout(LIMIT, self.child.wait()).await;
        let status = status.unwrap_or_else(|_| panic!("it does not end: {}", self.story()));
        let _ = tokio::time::timeout(LIMIT, &mut self.reader).await;
        (status.expect("a status"), self.story())
    }

    /// Its guard's process, which is its only child.
    pub fn guard(&self) -> Pid {
        only_child(self.pid())
    }
}

/// The only child of a process.
pub fn only_child(parent: Pid) -> Pid {
    let parent = parent.as_raw_nonzero();
    let list = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
    let list = list.expect("the children of a process that runs");
    let child = list.split_whitespace().next().expect("a child");
    Pid::from_raw(child.parse().expect("a number")).expect("a pid")
}

/// Waits until a process is gone, or is nothing but an exit code.
pub async fn gone(pid: Pid) {
    let path = format!("/proc/{}/stat", pid.as_raw_nonzero());
    let wait = async {
        while let Ok(stat) = std::fs::read_to_string(&path) {
            let state = stat
                .rsplit_once(") ")
                .map(|(_, rest)| rest.starts_with('Z'));
            if state == Some(true) {
                break;
            }
            baton_test_cluster::process::poll_again().await;
        }
    };
    tokio::time::timeout(LIMIT, wait).await.expect("it ends");
}

pub fn signal_group(leader: Pid, signal: Signal) {
    let _ = kill_process_group(leader, signal);
}

/// A wire to a server. Cut, what is connected stays so and carries nothing any more; nobody else can connect.
pub struct Wire {
    pub address: String,
    cut: watch::Sender<bool>,
}

/// Waits until a story has this text.
pub async fn tells(running: &Running, text: &str) {
    let told = async {
        while !running.story().contains(text) {
            baton_test_cluster::process::poll_again().await;
        }
    };
    let told = tokio::time::timeout(LIMIT, told).await;
    told.unwrap_or_else(|_| panic!("{text:?} is not told: {}", running.story()));
}

impl Wire {
    pub async fn to(server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address").to_string();
        let (cut, is_cut) = watch::channel(false);
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let server = server.clone();
                let mut is_cut = is_cut.clone();
                tokio::spawn(async move {
                    if *is_cut.borrow() {
                        return;
                    }
                    let Ok(mut server) = TcpStream::connect(server).await else {
                        return;
                    };
                    tokio::select! {
                        biased;
                        _ = is_cut.wait_for(|cut| *cut) => {}
                        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => return,
                    }
                    // Both ends stay open, and hear nothing.
                    std::future::pending::<()>().await;
                    drop((client, server));
                });
            }
        });
        Self { address, cut }
    }

    pub fn cut(&self) {
        self.cut.send_replace(true);
    }

    /// New connections reach the server again.
    pub fn mend(&self) {
        self.cut.send_replace(false);
    }
}
