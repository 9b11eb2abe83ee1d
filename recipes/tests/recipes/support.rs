//! Servers, sessions, and what tests ask of a store.

use std::path::PathBuf;
use std::time::Duration;

use baton_client::pb::request_op::Request;
use baton_client::{Client, Get, Watch, pb};
use baton_recipes::Session;
use baton_test_cluster::process::{Cluster, Program};
use prost::Message;
use tokio::sync::watch;

use crate::proxy::{Fate, Proxy};

/// What turns a hang into a failure.
pub fn limit() -> Duration {
    Duration::from_secs(60 + crate::storm::drops() as u64 / 10)
}

/// A cluster, most often of one member, and a client of it.
pub struct Server {
    pub client: Client,
    pub cluster: Cluster,
}

impl Server {
    pub async fn start(program: &Program) -> Self {
        Self::of(program, 1).await
    }

    pub async fn of(program: &Program, members: usize) -> Self {
        let cluster = Cluster::start(program, members).await.unwrap();
        let client = Client::new(cluster.urls()).unwrap();
        Self { client, cluster }
    }

    pub async fn session(&self) -> Session {
        Session::open(&self.client, Duration::from_secs(10))
            .await
            .unwrap()
    }

    /// One that is not renewed while a test can last: it does not find out by itself what happened to it.
    pub async fn unaware_session(&self) -> Session {
        let ttl = Duration::from_secs(3600);
        Session::open(&self.client, ttl).await.unwrap()
    }

    /// A connection that can be broken, and a client that knows no other.
    pub async fn proxy(&self) -> (Proxy, Client) {
        let proxy = Proxy::start(&self.cluster.members[0].url()).await;
        let client = Client::new([proxy.address()]).unwrap();
        (proxy, client)
    }

    /// How many keys begin with `prefix`.
    pub async fn count(&self, prefix: &str) -> i64 {
        let keys = self.client.get(Get::prefix(prefix).count_only()).await;
        keys.unwrap().count
    }

    /// Waits until so many keys begin with `prefix`.
    pub async fn counted(&self, prefix: &str, count: i64) {
        loop {
            let keys = self.client.get(Get::prefix(prefix).count_only()).await;
            let keys = keys.unwrap();
            if keys.count == count {
                return;
            }
            let from = keys.header.unwrap().revision + 1;
            let watch = Watch::prefix(prefix).from(from);
            self.client
                .watch(watch)
                .await
                .unwrap()
                .next()
                .await
                .unwrap();
        }
    }

    /// The store's revision.
    pub async fn revision(&self) -> i64 {
        let nothing = self.client.get("\0").await;
        nothing.unwrap().header.unwrap().revision
    }

    pub async fn compact(&self, revision: i64) {
        let member = self.cluster.members[0].client();
        member.compact(revision).await.unwrap();
    }

    /// Revokes a session's lease behind its back.
    pub async fn revoke(&self, session: &Session) {
        self.client.revoke(session.id().lease()).await.unwrap();
    }
}

/// Drops it where nothing can be spawned.
#[allow(
    clippy::disallowed_methods,
    reason = "a thread without a runtime is the case that is tested"
)]
pub fn drop_without_runtime<T: Send + 'static>(it: T) {
    std::thread::spawn(move || drop(it)).join().unwrap();
}

/// How many streams of watches were opened.
pub fn watching(proxy: &Proxy) -> watch::Receiver<usize> {
    let (streams, receiver) = watch::channel(0);
    proxy.rule(move |path, _| {
        if path.ends_with("/Watch") {
            streams.send_modify(|streams| *streams += 1);
        }
        Fate::Pass
    });
    receiver
}

/// Whether a call is a transaction that would put a key that begins with `prefix`.
pub fn puts(path: &str, message: &[u8], prefix: &str) -> bool {
    ops(path, message).any(|op| match op {
        Request::RequestPut(put) => put.key.starts_with(prefix.as_bytes()),
        _ => false,
    })
}

/// Whether a call is a transaction that would delete a key that begins with `prefix`.
pub fn deletes(path: &str, message: &[u8], prefix: &str) -> bool {
    ops(path, message).any(|op| match op {
        Request::RequestDeleteRange(delete) => delete.key.starts_with(prefix.as_bytes()),
        _ => false,
    })
}

fn ops(path: &str, message: &[u8]) -> impl Iterator<Item = Request> {
    let txn = path
        .ends_with("/Txn")
        .then(|| pb::TxnRequest::decode(message));
    let txn = txn.and_then(Result::ok).unwrap_or_default();
    txn.success.into_iter().filter_map(|op| op.request)
}

/// The server under test: `$BATON_TEST_SUBJECT`, or the batond that was built with these tests.
pub fn baton() -> Option<Program> {
    if let Some(path) = std::env::var_os("BATON_TEST_SUBJECT") {
        return Some(Program::new(path));
    }
    let path: PathBuf = std::env::current_exe()
        .unwrap()
        .parent()
        .and_then(|directory| directory.parent())
        .unwrap()
        .join("batond");
    assert!(
        path.is_file(),
        "{} is not there: build it with cargo build -p batond",
        path.display()
    );
    Some(Program::new(path))
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

/// The same claims of Baton and of etcd.
macro_rules! on_both {
    ($($(#[$about:meta])* async fn $claim:ident($server:ident: Server) $body:block)*) => {
        $(
            $(#[$about])*
            async fn $claim($server: Server) $body
        )*
        mod baton {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $claim() {
                    let program = crate::support::baton().unwrap();
                    let server = crate::support::Server::start(&program).await;
                    tokio::time::timeout(crate::support::limit(), super::$claim(server)).await.unwrap();
                }
            )*
        }
        mod etcd {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $claim() {
                    let Some(program) = crate::support::etcd() else { return };
                    let server = crate::support::Server::start(&program).await;
                    tokio::time::timeout(crate::support::limit(), super::$claim(server)).await.unwrap();
                }
            )*
        }
    };
}
pub(crate) use on_both;
