//! The client against real servers: every claim is made of Baton and of etcd.
#![allow(clippy::print_stderr, reason = "a test says when it is skipped")]

mod failover;
mod leases;
mod locks;
mod members;
mod proxy;
mod repeating;
mod requests;
mod security;
mod watches;

use std::time::Duration;

use baton_client::Client;
use baton_test_cluster::process::{Cluster, Program};

/// Turns a hang into a failure.
const PATIENCE: Duration = Duration::from_secs(60);

/// The batond that was built beside this test.
fn baton() -> Option<Program> {
    let test = std::env::current_exe().expect("the test has a path");
    let beside = test.ancestors().nth(2).expect("it lies in target/*/deps");
    let batond = std::env::var_os("BATON_BATOND").map_or(beside.join("batond"), Into::into);
    assert!(
        batond.is_file(),
        "{} is missing: cargo build -p baton-server",
        batond.display()
    );
    Some(Program::new(batond))
}

fn etcd() -> Option<Program> {
    let etcd = Program::installed_etcd();
    if etcd.is_none() {
        eprintln!("skipped: no etcd is installed");
    }
    etcd
}

/// Makes a claim of both servers.
macro_rules! of_both {
    ($($claim:ident),+ $(,)?) => {$(
        mod $claim {
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn of_baton() {
                if let Some(program) = crate::baton() {
                    crate::within(super::$claim(program)).await;
                }
            }
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn of_etcd() {
                if let Some(program) = crate::etcd() {
                    crate::within(super::$claim(program)).await;
                }
            }
        }
    )+};
}
use of_both;

async fn within(claim: impl Future<Output = ()>) {
    tokio::time::timeout(PATIENCE, claim)
        .await
        .expect("it ends");
}

/// One member and a client of it.
async fn single(program: &Program) -> (Cluster, Client) {
    let cluster = Cluster::start(program, 1).await.expect("a server");
    let client = Client::new(cluster.urls()).expect("a client");
    (cluster, client)
}

/// Three members and a client of all.
async fn three(program: &Program) -> (Cluster, Client) {
    let cluster = Cluster::start(program, 3).await.expect("a cluster");
    let client = Client::new(cluster.urls()).expect("a client");
    (cluster, client)
}

/// Index of the member the client is talking to.
fn in_use(cluster: &Cluster, client: &Client) -> usize {
    let used = client.endpoint_in_use();
    let position = cluster.urls().iter().position(|url| *url == used);
    position.expect("it is a member's")
}
