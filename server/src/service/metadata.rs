//! What is checked before a request is looked at: the member's role and the request's metadata.

use std::collections::BTreeSet;
use std::future::pending;
use std::time::Duration;

use metrics::counter;
use parking_lot::Mutex;
use tokio::sync::watch;
use tonic::metadata::MetadataMap;

use super::status::RpcError;
use crate::core::{Core, Leadership};

/// The key by which a client asks not to be served by a member that knows no leader.
const REQUIRE_LEADER: &str = "hasleader";
/// The key by which a client tells its version.
const CLIENT_API_VERSION: &str = "client-api-version";
/// Longest client version that becomes a label of a metric; longer ones are counted as unknown.
const VERSION_LABEL_MAX: usize = 32;
/// Client versions that become labels; further ones are counted as unknown. A label stays for as long as
/// the process does, and clients choose what they send.
const VERSIONS_MAX: usize = 64;

/// The versions that have become labels.
static VERSIONS: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// The kind of an RPC, as far as its admission depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// One request, one response.
    Unary,
    /// The same, and a learner answers it too.
    UnaryOnLearner,
    /// A stream.
    Stream,
}

/// Admits a request or tells why not: role, then client version, then leader.
///
/// # Errors
/// A learner does not serve it, the version is not text, or a leader is required and not known.
pub fn admit(core: &Core, metadata: &MetadataMap, call: Call) -> Result<(), RpcError> {
    let status = core.raft_status();
    if status.is_learner && call != Call::UnaryOnLearner {
        return Err(RpcError::NotForLearner);
    }
    let version = match metadata.get(CLIENT_API_VERSION) {
        None => "unknown",
        Some(version) => std::str::from_utf8(version.as_encoded_bytes())
            .map_err(|_| RpcError::InvalidClientApiVersion)?,
    };
    let version = label(&mut VERSIONS.lock(), version);
    let kind = match call {
        Call::Unary | Call::UnaryOnLearner => "unary",
        Call::Stream => "stream",
    };
    counter!(
        "etcd_server_client_requests_total",
        "client_api_version" => version.to_owned(),
        "type" => kind
    )
    .increment(1);
    if requires_leader(metadata) && status.leader == 0 {
        return Err(RpcError::NoLeader);
    }
    Ok(())
}

/// What a client version is counted under.
fn label<'a>(known: &mut BTreeSet<String>, version: &'a str) -> &'a str {
    if known.contains(version) {
        return version;
    }
    if version.len() > VERSION_LABEL_MAX || known.len() == VERSIONS_MAX {
        return "unknown";
    }
    known.insert(version.to_owned());
    version
}

/// The client would rather be disconnected than served by a member without a leader.
pub fn requires_leader(metadata: &MetadataMap) -> bool {
    metadata
        .get(REQUIRE_LEADER)
        .is_some_and(|value| value.as_encoded_bytes() == b"true")
}

/// Returns why an open stream has to end: no leader for three election timeouts where one is
/// required, or the server stops.
pub async fn stream_end(core: Core, requires_leader: bool) -> RpcError {
    let election_timeout = core.identity().election_timeout;
    let leadership = core.leadership();
    let leader_lost = async {
        if requires_leader {
            leader_lost(leadership, election_timeout * 3).await;
        } else {
            pending::<()>().await;
        }
    };
    let mut stopping = core.stopping();
    tokio::select! {
        _ = stopping.wait_for(|stopping| *stopping) => RpcError::Stopped,
        () = leader_lost => RpcError::NoLeader,
    }
}

/// Returns when there has been no leader for `patience` without interruption.
async fn leader_lost(mut leadership: watch::Receiver<Leadership>, patience: Duration) {
    loop {
        if leadership.wait_for(|l| l.leader == 0).await.is_err() {
            return;
        }
        let back = leadership.wait_for(|l| l.leader != 0);
        if tokio::time::timeout(patience, back).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    fn led_by(leader: u64) -> Leadership {
        Leadership {
            term: 1,
            leader,
            since: Instant::now(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_comes_back_in_time_keeps_streams_open() {
        let (tx, rx) = watch::channel(led_by(1));
        let lost = tokio::spawn(leader_lost(rx, Duration::from_secs(3)));
        for _ in 0..5 {
            tx.send_replace(led_by(0));
            tokio::time::sleep(Duration::from_secs(2)).await;
            tx.send_replace(led_by(2));
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        assert!(!lost.is_finished());
    }

    #[tokio::test(start_paused = true)]
    async fn streams_end_when_there_is_no_leader_for_long() {
        let (tx, rx) = watch::channel(led_by(1));
        let started = Instant::now();
        tx.send_replace(led_by(0));
        leader_lost(rx, Duration::from_secs(3)).await;
        assert_eq!(started.elapsed(), Duration::from_secs(3));
    }

    #[test]
    fn clients_that_make_up_versions_do_not_fill_the_memory_with_labels() {
        let mut known = BTreeSet::new();
        assert_eq!(label(&mut known, "3.5.12"), "3.5.12");
        assert_eq!(label(&mut known, &"9".repeat(33)), "unknown");
        for number in 0..1000 {
            label(&mut known, &number.to_string());
        }
        assert_eq!(known.len(), VERSIONS_MAX);
        assert_eq!(label(&mut known, "made up"), "unknown");
        assert_eq!(label(&mut known, "3.5.12"), "3.5.12");
    }

    #[test]
    fn only_the_word_true_asks_for_a_leader() {
        let mut metadata = MetadataMap::new();
        assert!(!requires_leader(&metadata));
        metadata.insert("hasleader", "1".parse().unwrap());
        assert!(!requires_leader(&metadata));
        metadata.insert("hasleader", "true".parse().unwrap());
        assert!(requires_leader(&metadata));
    }
}
