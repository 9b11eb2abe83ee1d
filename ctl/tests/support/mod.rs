//! Command-line tools as processes, and the servers they talk to.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use baton_test_cluster::process::Program;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// What turns a hang into a failure.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Command lines, each with what is typed in. Words are separated by one space; two spaces stand for an empty word
/// between them.
pub type Lines<'a> = &'a [(&'a str, &'a str)];

/// The server under test: `$BATON_TEST_SUBJECT`, or the batond that was built with these tests.
pub fn baton() -> Program {
    if let Some(path) = std::env::var_os("BATON_TEST_SUBJECT") {
        return Program::new(path);
    }
    let path = PathBuf::from(env!("CARGO_BIN_EXE_batonctl")).with_file_name("batond");
    assert!(
        path.is_file(),
        "{} is not there: build it with cargo build -p batond",
        path.display()
    );
    Program::new(path)
}

/// A real etcd, if one is installed.
#[allow(clippy::print_stderr, reason = "a test says when it is skipped")]
pub fn etcd() -> Option<Program> {
    let program = Program::installed_etcd();
    if program.is_none() {
        eprintln!("skipped: no etcd is installed");
    }
    program
}

/// How a command ended, with everything that is chance taken out.
#[derive(Debug, PartialEq, Eq)]
pub struct Output {
    pub out: String,
    pub err: String,
    pub code: Option<i32>,
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "exit {:?}, out {:?}, err {:?}",
            self.code, self.out, self.err
        )
    }
}

/// A command-line tool.
pub struct Tool {
    path: PathBuf,
    environment: Vec<(String, String)>,
}

impl Tool {
    /// The installed etcdctl, if there is one.
    #[allow(clippy::print_stderr, reason = "a test says when it is skipped")]
    pub fn etcdctl() -> Option<Self> {
        let path = Program::installed("BATON_ETCDCTL", "etcdctl");
        if path.is_none() {
            eprintln!("skipped: no etcdctl is installed");
        }
        Some(Self {
            path: path?,
            environment: vec![("ETCDCTL_API".to_owned(), "3".to_owned())],
        })
    }

    pub fn batonctl() -> Self {
        Self {
            path: env!("CARGO_BIN_EXE_batonctl").into(),
            environment: Vec::new(),
        }
    }

    /// With this in its environment.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Runs command lines one after the other. The id of the last lease granted stands for `LEASE`.
    pub async fn run_all(&self, endpoint: &str, script: Lines<'_>) -> Vec<Output> {
        let mut outputs = Vec::new();
        let mut lease = String::new();
        for (line, input) in script {
            let typed = line.replace("LEASE", &lease);
            let mut output = self.run(endpoint, &typed, input).await;
            if line.starts_with("lease grant") && output.out.starts_with("lease ") {
                output.out[6..22].clone_into(&mut lease);
            }
            take_chance_out(&mut output);
            outputs.push(output);
        }
        outputs
    }

    pub async fn run(&self, endpoint: &str, line: &str, input: &str) -> Output {
        let mut words = vec![format!("--endpoints={endpoint}")];
        words.extend(line.split(' ').map(str::to_owned));
        self.execute(&words, input).await
    }

    pub async fn run_without_endpoint(&self, line: &str) -> Output {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        self.execute(&words, "").await
    }

    async fn execute(&self, words: &[String], input: &str) -> Output {
        let mut child = Command::new(&self.path)
            .args(words)
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the tool can be run");
        let mut stdin = child.stdin.take().expect("its input");
        // A command that reads nothing may have ended already.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
        let output = tokio::time::timeout(LIMIT, child.wait_with_output()).await;
        let output = output
            .unwrap_or_else(|_| panic!("{words:?} does not end"))
            .expect("its output");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Output {
            out: text(&output.stdout),
            err: text(&output.stderr),
            code: output.status.code(),
        }
    }
}

/// Takes out ids of leases and times, which differ from run to run, and what older tools log beside their errors.
fn take_chance_out(output: &mut Output) {
    for text in [&mut output.out, &mut output.err] {
        *text = text
            .lines()
            .filter(|line| !line.starts_with("{\"level\""))
            .map(|line| format!("{}\n", without_times(&without_leases(line))))
            .collect();
    }
}

fn without_leases(line: &str) -> String {
    let mut line = line.to_owned();
    // As words of 16 hexadecimal digits, and as decimal numbers of a field.
    let is_hex = |word: &str| word.len() == 16 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    let words: Vec<&str> = line.split(' ').collect();
    let is_about_leases = line.starts_with("lease ")
        || is_hex(&line)
        || line.starts_with("\"Lease\"")
        || line.starts_with("\"ID\"");
    if is_about_leases {
        let kept: Vec<&str> = words
            .iter()
            .map(|word| {
                let is_number = word.len() > 15 && word.bytes().all(|byte| byte.is_ascii_digit());
                if is_hex(word) || is_number {
                    "LEASE"
                } else {
                    word
                }
            })
            .collect();
        line = kept.join(" ");
    }
    for field in ["\"lease\":", "\"ID\":", "\"id\":"] {
        let mut from = 0;
        while let Some(at) = line[from..].find(field) {
            let start = from + at + field.len();
            let digits = line[start..].bytes().take_while(u8::is_ascii_digit).count();
            if digits > 15 {
                line.replace_range(start..start + digits, "LEASE");
            }
            from = start;
        }
    }
    line
}

/// Times that a request took, and what is left of a lease.
fn without_times(line: &str) -> String {
    let mut line = line.to_owned();
    for (before, after) in [
        ("\"took\":\"", "\""),
        ("\"Took\" : ", ""),
        ("remaining(", "s)"),
        ("\"ttl\":", ","),
    ] {
        if let Some(at) = line.find(before) {
            let start = at + before.len();
            if line[start..].starts_with('-') {
                continue;
            }
            let end = if after.is_empty() {
                line.len()
            } else {
                line[start..]
                    .find(after)
                    .map_or(line.len(), |end| start + end)
            };
            line.replace_range(start..end, "TIME");
        }
    }
    if line.starts_with('|') || line.starts_with('+') {
        // A table is as wide as its times are.
        if line.contains("ms |")
            || line.contains("µs |")
            || line.contains("TOOK")
            || line.matches('+').count() == 5
        {
            return "a row of a table with times".to_owned();
        }
    }
    if line.starts_with("\"TTL\" : ") && !line.ends_with("-1") {
        return "\"TTL\" : TIME".to_owned();
    }
    line
}
