//! Servers, sessions, and what tests ask of a store.

use std::path::PathBuf;
use std::time::Duration;

use baton_chaos_tests::process::{Cluster, Program};
use baton_client::{Client, Get};
use baton_recipes::Session;

/// What turns a hang into a failure.
pub const LIMIT: Duration = Duration::from_secs(60);

/// A server of one member, and a client of it.
pub struct Server {
    pub client: Client,
    _cluster: Cluster,
}

impl Server {
    pub async fn start(program: &Program) -> Self {
        let cluster = Cluster::start(program, 1).await.unwrap();
        let client = Client::new(cluster.urls()).unwrap();
        Self {
            client,
            _cluster: cluster,
        }
    }

    pub async fn session(&self) -> Session {
        Session::open(&self.client, Duration::from_secs(10))
            .await
            .unwrap()
    }

    /// How many keys begin with `prefix`.
    pub async fn count(&self, prefix: &str) -> i64 {
        let keys = self.client.get(Get::prefix(prefix).count_only()).await;
        keys.unwrap().count
    }
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
                    tokio::time::timeout(crate::support::LIMIT, super::$claim(server)).await.unwrap();
                }
            )*
        }
        mod etcd {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $claim() {
                    let Some(program) = crate::support::etcd() else { return };
                    let server = crate::support::Server::start(&program).await;
                    tokio::time::timeout(crate::support::LIMIT, super::$claim(server)).await.unwrap();
                }
            )*
        }
    };
}
pub(crate) use on_both;
