//! The plain HTTP pages on the client port, over HTTP/1.1 and over HTTP/2 without TLS.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use baton_proto::etcdserverpb as pb;
use baton_test_cluster::process::{Cluster, Member};
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::transport::Endpoint;
use tower::ServiceExt;

use crate::baton;

/// A response as text.
#[derive(Debug)]
struct Page {
    status: u16,
    headers: String,
    body: String,
}

/// Makes one HTTP/1.1 request and reads until the server closes.
async fn http1(member: &Member, method: &str, path: &str) -> Page {
    let mut stream = TcpStream::connect(member.address())
        .await
        .expect("a connection");
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
        member.address()
    );
    stream
        .write_all(request.as_bytes())
        .await
        .expect("the request goes out");
    let mut text = String::new();
    let reading = stream.read_to_string(&mut text);
    tokio::time::timeout(Duration::from_secs(20), reading)
        .await
        .expect("an end")
        .expect("a response");
    let (head, body) = text
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("no response: {text:?}"));
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .expect("a status");
    let headers = head.to_lowercase();
    let body = if headers.contains("transfer-encoding: chunked") {
        unchunked(body)
    } else {
        body.to_owned()
    };
    Page {
        status,
        headers,
        body,
    }
}

/// The metrics page of a member.
pub async fn metrics(member: &Member) -> String {
    http1(member, "GET", "/metrics").await.body
}

fn unchunked(mut rest: &str) -> String {
    let mut whole = String::new();
    while let Some((length, data)) = rest.split_once("\r\n") {
        let length = usize::from_str_radix(length.trim(), 16).expect("a chunk length");
        whole.push_str(&data[..length]);
        rest = data[length..].trim_start_matches("\r\n");
        if length == 0 {
            break;
        }
    }
    whole
}

/// Makes one GET over HTTP/2 with prior knowledge.
async fn http2(member: &Member, path: &str) -> Page {
    let channel = Endpoint::from_shared(member.url())
        .expect("a URL")
        .connect()
        .await
        .expect("a connection");
    let request = http::Request::get(path)
        .body(tonic::body::Body::empty())
        .expect("a request");
    let response = channel.oneshot(request).await.expect("a response");
    let status = response.status().as_u16();
    let headers = format!("{:?}", response.headers()).to_lowercase();
    let body = response
        .into_body()
        .collect()
        .await
        .expect("a body")
        .to_bytes();
    Page {
        status,
        headers,
        body: String::from_utf8_lossy(&body).into_owned(),
    }
}

async fn raise_no_space(cluster: &Cluster) {
    let activate = pb::AlarmRequest {
        action: pb::alarm_request::AlarmAction::Activate.into(),
        member_id: 77,
        alarm: pb::AlarmType::Nospace.into(),
    };
    cluster.members[0]
        .client()
        .maintenance()
        .alarm(activate)
        .await
        .expect("the alarm is raised");
}

#[tokio::test]
async fn health_says_true_over_both_protocols() {
    let cluster = Cluster::start(&baton(), 1)
        .await
        .expect("the server starts");
    let member = &cluster.members[0];
    for path in ["/health", "/health?serializable=true"] {
        for page in [http1(member, "GET", path).await, http2(member, path).await] {
            assert_eq!(
                (page.status, page.body.trim_end()),
                (200, r#"{"health":"true","reason":""}"#),
                "{path}"
            );
        }
    }
}

#[tokio::test]
async fn health_turns_false_under_an_alarm_unless_that_is_excluded() {
    let cluster = Cluster::start(&baton(), 1)
        .await
        .expect("the server starts");
    let member = &cluster.members[0];
    raise_no_space(&cluster).await;
    let page = http1(member, "GET", "/health").await;
    assert_eq!(
        (page.status, page.body.trim_end()),
        (503, r#"{"health":"false","reason":"ALARM NOSPACE"}"#)
    );
    assert_eq!(
        http1(member, "GET", "/health?exclude=NOSPACE").await.status,
        200
    );
}

#[tokio::test]
async fn a_member_without_quorum_is_unhealthy_but_alive() {
    let mut cluster = Cluster::start(&baton(), 3)
        .await
        .expect("the cluster starts");
    cluster.members[1].kill();
    cluster.members[2].kill();
    let member = &cluster.members[0];
    assert_eq!(http1(member, "GET", "/health").await.status, 503);
    let client = member.client();
    let (put, readiness) = tokio::join!(client.put("k", "v"), http1(member, "GET", "/readyz"));
    put.expect_err("nothing can be committed");
    assert_eq!(readiness.status, 503);
    let page = metrics(member).await;
    for name in [
        "etcd_server_proposals_failed_total",
        "etcd_server_slow_read_indexes_total",
    ] {
        assert!(value(&page, name) > 0.0, "{name}");
    }
    assert_eq!(http1(member, "GET", "/livez").await.status, 200);
    assert_eq!(
        http1(member, "GET", "/health?serializable=true")
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn liveness_and_readiness_list_their_checks() {
    let cluster = Cluster::start(&baton(), 1)
        .await
        .expect("the server starts");
    let member = &cluster.members[0];
    for path in [
        "/livez",
        "/readyz",
        "/livez/serializable_read",
        "/readyz/linearizable_read",
    ] {
        let page = http1(member, "GET", path).await;
        assert_eq!((page.status, page.body.as_str()), (200, "ok\n"), "{path}");
    }
    let page = http1(member, "GET", "/readyz?verbose").await;
    for check in [
        "data_corruption",
        "serializable_read",
        "linearizable_read",
        "non_learner",
    ] {
        assert!(
            page.body.contains(&format!("[+]{check} ok")),
            "{check} is missing: {}",
            page.body
        );
    }
    assert_eq!(http1(member, "GET", "/readyz/nothing").await.status, 404);
}

#[tokio::test]
async fn full_space_does_not_make_a_member_unready() {
    let cluster = Cluster::start(&baton(), 1)
        .await
        .expect("the server starts");
    raise_no_space(&cluster).await;
    assert_eq!(
        http1(&cluster.members[0], "GET", "/readyz").await.status,
        200
    );
}

#[tokio::test]
async fn version_names_server_cluster_and_storage() {
    let cluster = Cluster::start(&baton(), 1)
        .await
        .expect("the server starts");
    let member = &cluster.members[0];
    for page in [
        http1(member, "GET", "/version").await,
        http2(member, "/version").await,
    ] {
        assert_eq!(
            page.body.trim_end(),
            r#"{"etcdserver":"3.6.14","etcdcluster":"3.6.0","storage":"3.6.0"}"#
        );
        assert!(
            page.headers.contains("application/json"),
            "{}",
            page.headers
        );
    }
}

#[tokio::test]
async fn metrics_count_puts_under_etcds_names() {
    let cluster = Cluster::start(&baton(), 1)
        .await
        .expect("the server starts");
    let member = &cluster.members[0];
    member.client().put("k", "1").await.expect("put");
    member.client().put("k", "2").await.expect("put");
    for page in [
        http1(member, "GET", "/metrics").await,
        http2(member, "/metrics").await,
    ] {
        for line in [
            "etcd_mvcc_put_total 2",
            "etcd_server_has_leader 1",
            "etcd_debugging_mvcc_keys_total 1",
        ] {
            assert!(
                page.body.lines().any(|found| found == line),
                "no line {line:?}"
            );
        }
    }
}

/// What a series without labels, or with these, stands at.
fn value(page: &str, series: &str) -> f64 {
    page.lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))
        .and_then(|value| value.parse().ok())
        .unwrap_or_else(|| panic!("no series {series} in\n{page}"))
}

#[tokio::test]
async fn what_a_member_did_and_how_long_it_took_is_in_its_metrics() {
    let cluster = Cluster::start(&baton(), 1)
        .await
        .expect("the server starts");
    let member = &cluster.members[0];
    let client = member.client();
    client.put("key", "value").await.expect("put");
    client.put("key", "again").await.expect("put");
    client.kv().range(range_of("key")).await.expect("range");
    let compact = pb::CompactionRequest {
        revision: client.revision().await.expect("revision"),
        physical: true,
    };
    client.kv().compact(compact).await.expect("compact");
    let mut maintenance = client.maintenance();
    maintenance.hash(pb::HashRequest {}).await.expect("hash");
    maintenance
        .hash_kv(pb::HashKvRequest { revision: 0 })
        .await
        .expect("hash of the keys");
    maintenance
        .defragment(pb::DefragmentRequest {})
        .await
        .expect("defragment");
    let page = metrics(member).await;
    for series in [
        "etcd_server_apply_duration_seconds_count{op=\"Put\",success=\"true\",version=\"v3\"}",
        "etcd_server_range_duration_seconds_count{success=\"true\"}",
        "etcd_mvcc_hash_duration_seconds_count",
        "etcd_mvcc_hash_rev_duration_seconds_count",
        "etcd_disk_backend_defrag_duration_seconds_count",
        "etcd_disk_wal_write_duration_seconds_count",
        "etcd_disk_wal_fsync_duration_seconds_count",
        "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds_count",
        "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds_count",
    ] {
        assert!(value(&page, series) > 0.0, "{series}");
    }
    assert_eq!(
        value(&page, "etcd_debugging_mvcc_total_put_size_in_bytes"),
        16.0
    );
    for series in [
        "etcd_disk_defrag_inflight",
        "etcd_mvcc_db_open_read_transactions",
        "etcd_debugging_mvcc_slow_watcher_total",
        "etcd_server_proposals_failed_total",
    ] {
        assert_eq!(value(&page, series), 0.0, "{series}");
    }
}

fn range_of(key: &'static str) -> pb::RangeRequest {
    pb::RangeRequest {
        key: key.into(),
        ..pb::RangeRequest::default()
    }
}

#[tokio::test]
async fn other_methods_than_get_are_refused_and_unknown_paths_not_found() {
    let cluster = Cluster::start(&baton(), 1)
        .await
        .expect("the server starts");
    let member = &cluster.members[0];
    for path in ["/health", "/version"] {
        let page = http1(member, "POST", path).await;
        assert_eq!(page.status, 405, "{path}");
        assert!(page.headers.contains("allow: get"), "{}", page.headers);
    }
    assert_eq!(http1(member, "GET", "/nothing/here").await.status, 404);
}

/// What the state of a member hashed to after each entry.
async fn state_hashes(member: &Member) -> BTreeMap<u64, String> {
    let page = http1(member, "GET", "/debug/state-hashes").await;
    let page: serde_json::Value = serde_json::from_str(&page.body).expect("JSON");
    let hashes = page["hashes"].as_array().expect("a list");
    let hash = |hash: &serde_json::Value| {
        let index = hash["index"].as_u64().expect("an index");
        (index, hash["hash"].as_str().expect("a hash").to_owned())
    };
    hashes.iter().map(hash).collect()
}

#[tokio::test]
async fn members_tell_the_same_state_hashes_also_after_a_restart() {
    let mut cluster = Cluster::start(&baton(), 3)
        .await
        .expect("the cluster starts");
    for number in 0..30 {
        let client = cluster.members[number % 3].client();
        client.put("k", number.to_string()).await.expect("put");
    }
    assert!(
        cluster.members[2]
            .terminate()
            .await
            .expect("an end")
            .success()
    );
    let output = Command::new(env!("CARGO_BIN_EXE_batond"))
        .arg("inspect")
        .arg(cluster.members[2].data_directory())
        .output()
        .expect("it runs");
    let stored: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let applied = stored["state"]["applied"]["index"]
        .as_u64()
        .expect("a position");
    let other = state_hashes(&cluster.members[0]).await;
    assert_eq!(stored["state"]["state_hash"], other[&applied]);

    cluster.members[2].start().expect("it starts");
    cluster.ready().await.expect("all are ready");
    cluster.members[1]
        .client()
        .put("k", "last")
        .await
        .expect("put");
    let mut all = Vec::new();
    for member in &cluster.members {
        let request = pb::RangeRequest {
            key: "k".into(),
            ..Default::default()
        };
        let mut kv = member.client().kv();
        kv.range(request).await.expect("a linearizable read");
        all.push(state_hashes(member).await);
    }
    let last = *all[1].keys().next_back().expect("hashes");
    for (index, hash) in &all[2] {
        assert_eq!(all[0].get(index), Some(hash), "after entry {index}");
    }
    assert!(all.iter().all(|hashes| hashes.contains_key(&last)));
}
