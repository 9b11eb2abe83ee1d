//! What the program does with its command line, as scripts and service managers see it.

use std::process::{Command, Output};

fn batond(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_batond"))
        .args(args)
        .env_clear()
        .output()
        .expect("the program runs")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("output is text")
}

#[test]
fn the_version_goes_to_stdout_and_begins_with_that_of_etcd() {
    let output = batond(&["--version"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stdout).starts_with("etcd Version: 3.6.14\n"));
}

#[test]
fn help_goes_to_stdout() {
    for flag in ["-h", "--help"] {
        let output = batond(&[flag]);
        assert_eq!(output.status.code(), Some(0));
        assert!(text(&output.stdout).contains("--initial-cluster"));
    }
}

#[test]
fn an_unknown_flag_exits_with_2_and_names_the_nearest_one_on_stderr() {
    let output = batond(&["--listen-client-url=x"]);
    assert_eq!(output.status.code(), Some(2));
    let message = text(&output.stderr);
    assert!(
        message.contains("did you mean --listen-client-urls?"),
        "{message}"
    );
    assert!(message.contains("Usage:"), "{message}");
}

#[test]
fn a_start_that_is_refused_exits_with_1_and_one_json_line() {
    let output = batond(&["--cert-file=server.pem"]);
    assert_eq!(output.status.code(), Some(1));
    let line: serde_json::Value = serde_json::from_slice(&output.stderr).expect("a line of JSON");
    assert_eq!(line["level"], "error");
    let error = line["error"].as_str().expect("an error");
    assert!(
        error.contains("--cert-file=server.pem is not supported"),
        "{error}"
    );
}

#[test]
fn a_taken_port_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address");
    let directory = tempfile::tempdir().expect("a directory");
    let url = format!("http://{address}");
    let data = directory.path().display().to_string();
    let output = batond(&[
        "--data-dir",
        &data,
        "--listen-client-urls",
        &url,
        "--advertise-client-urls",
        &url,
    ]);
    assert_eq!(output.status.code(), Some(1));
    let log = text(&output.stderr);
    let expected = format!("listen tcp {address}: bind: address already in use");
    assert!(log.contains(&expected), "{log}");
}

#[test]
fn inspecting_a_directory_without_a_member_fails_and_says_so_in_json() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().display().to_string();
    let output = batond(&["inspect", &path]);
    assert_eq!(output.status.code(), Some(1));
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(found["log"]["error"].is_string());
}

#[test]
fn inspecting_takes_exactly_one_directory() {
    for args in [
        &["inspect"][..],
        &["inspect", "a", "b"],
        &["inspect", "a", "--all"],
    ] {
        assert_eq!(batond(args).status.code(), Some(2), "{args:?}");
    }
}

#[test]
fn fault_points_and_planted_bugs_are_in_no_build_but_those_made_for_campaigns() {
    let program = std::fs::read(env!("CARGO_BIN_EXE_batond")).expect("it can be read");
    for name in [
        "BATON_CHAOS_POINTS",
        "BATON_CHAOS_MUTANT",
        "log.before_sync",
    ] {
        let is_there = program
            .windows(name.len())
            .any(|found| found == name.as_bytes());
        assert_eq!(is_there, cfg!(feature = "chaos"), "{name}");
    }
}
