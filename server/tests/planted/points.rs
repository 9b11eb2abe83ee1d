//! A member that is killed at a point of its code comes back with all it acknowledged, and the same state hashes.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use baton_proto::etcdserverpb as pb;
use baton_test_cluster::process::{Cluster, Member, Program, poll_again};
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const SIGKILL: i32 = 9;
/// Writes after which every point below was reached.
const WRITES_MAX: i64 = 200;

/// Makes a request and returns the whole answer.
async fn http(member: &Member, method: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(member.address())
        .await
        .expect("a connection");
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
        member.address()
    );
    let written = stream.write_all(request.as_bytes()).await;
    written.expect("the request goes out");
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer).await;
    read.expect("an answer");
    answer
}

/// What the state hashed to after each entry that is still known.
async fn hashes(member: &Member) -> serde_json::Value {
    let answer = http(member, "GET", "/debug/state-hashes").await;
    let body = answer.lines().find(|line| line.starts_with('{'));
    let page: serde_json::Value = serde_json::from_str(body.expect("a page")).expect("JSON");
    page["hashes"].clone()
}

/// Writes until the member dies of it. Returns the keys whose write was acknowledged.
async fn write_until_killed(member: &mut Member, value_bytes: usize) -> BTreeSet<Bytes> {
    let client = member.client();
    let mut acknowledged = BTreeSet::new();
    for number in 0..WRITES_MAX {
        let key = Bytes::from(format!("{number}"));
        let value = vec![b'v'; value_bytes];
        if client.put(key.clone(), value).await.is_ok() {
            acknowledged.insert(key);
        } else {
            poll_again().await;
        }
        if !member.is_running() {
            return acknowledged;
        }
        if number % 10 == 9 {
            let _ = client.compact(number).await;
        }
    }
    panic!("it lives on after {WRITES_MAX} writes");
}

async fn survives(point: &str, value_bytes: usize) {
    let program = Program::new(env!("CARGO_BIN_EXE_batond"))
        .flag("--snapshot-count=20")
        .flag("--snapshot-catchup-entries=5");
    let mut cluster = Cluster::start(&program, 1).await.expect("it starts");
    let before = hashes(&cluster.members[0]).await;
    let arm = format!("/debug/chaos/points?arm={point}=crash:2");
    let answer = http(&cluster.members[0], "PUT", &arm).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");

    let member = &mut cluster.members[0];
    let acknowledged = write_until_killed(member, value_bytes).await;
    let ended = member.ended(Duration::from_secs(10)).await.expect("an end");
    assert_eq!(ended.signal(), Some(SIGKILL), "{point}");
    member.start().expect("it starts");
    cluster.ready().await.expect("it is ready");
    let member = &cluster.members[0];
    let all = pb::RangeRequest {
        key: [0].to_vec().into(),
        range_end: [0].to_vec().into(),
        keys_only: true,
        ..Default::default()
    };
    let found = member.client().kv().range(all).await.expect("a read");
    let found: BTreeSet<Bytes> = found
        .into_inner()
        .kvs
        .into_iter()
        .map(|kv| kv.key)
        .collect();
    assert!(acknowledged.is_subset(&found), "{point}");
    let after = hashes(member).await;
    for hash in after.as_array().expect("a list") {
        let known = before.as_array().expect("a list");
        let known = known.iter().find(|known| known["index"] == hash["index"]);
        assert!(known.is_none_or(|known| known == hash), "{point}: {hash}");
    }
}

#[tokio::test]
async fn a_member_killed_while_it_writes_its_log_loses_nothing() {
    for point in ["log.before_write", "log.before_sync", "log.after_sync"] {
        survives(point, 100).await;
    }
}

#[tokio::test]
async fn a_member_killed_while_it_changes_segments_of_its_log_loses_nothing() {
    for point in [
        "segment.before_rename",
        "segment.after_rename",
        "purge.before_remove",
        "purge.after_remove",
    ] {
        survives(point, 500_000).await;
    }
}

#[tokio::test]
async fn a_member_killed_while_it_applies_loses_nothing() {
    for point in [
        "apply.before",
        "apply.before_rows",
        "apply.after_rows",
        "apply.before_answer",
    ] {
        survives(point, 100).await;
    }
}

#[tokio::test]
async fn a_member_killed_while_it_writes_its_state_loses_nothing() {
    for point in [
        "flush.before_write",
        "flush.after_write",
        "flush.before_sync",
        "flush.after_sync",
        "snapshot.build",
        "compact.batch",
    ] {
        survives(point, 100).await;
    }
}
