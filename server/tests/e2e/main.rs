//! The built server as its users meet it: real processes, real sockets, real signals.
//!
//! `BATON_TEST_SUBJECT` names another server to put in Baton's place, to see whether a test asks for what etcd does.
#![allow(
    clippy::print_stderr,
    reason = "a test says when it is skipped and what it measured"
)]

mod contract;
mod election_service;
mod etcdctl;
mod hostile;
mod http_endpoints;
mod kill;
mod lifecycle;
mod line;
mod line_cluster;
mod line_storms;
mod lock_service;
mod locks;
mod watch;

use baton_test_cluster::process::Program;

/// The server under test.
fn baton() -> Program {
    match std::env::var_os("BATON_TEST_SUBJECT") {
        Some(path) => Program::new(path),
        None => Program::new(env!("CARGO_BIN_EXE_batond")),
    }
}
