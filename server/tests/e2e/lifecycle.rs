//! Starting, stopping, starting again, and refusing to start.

use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::Duration;

use baton_proto::etcdserverpb as pb;
use baton_test_cluster::process::{Cluster, Program};
use bytes::Bytes;

use crate::baton;

/// What a server that has to refuse its start says, after it has ended with a failure.
async fn refusal(mut command: Command) -> String {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("output");
    let output = std::fs::File::create(&file).expect("a file");
    command
        .stdout(output.try_clone().expect("a handle"))
        .stderr(output)
        .stdin(Stdio::null());
    let mut child = tokio::process::Command::from(command)
        .kill_on_drop(true)
        .spawn()
        .expect("the server runs");
    let ended = tokio::time::timeout(Duration::from_secs(30), child.wait()).await;
    let text = std::fs::read_to_string(file).expect("its output");
    let status = ended
        .unwrap_or_else(|_| panic!("it was not refused: {text}"))
        .expect("a status");
    assert!(!status.success(), "it ended as if all were well: {text}");
    text
}

async fn value_of(cluster: &Cluster, key: &'static str) -> Option<Bytes> {
    let request = pb::RangeRequest {
        key: Bytes::from_static(key.as_bytes()),
        ..Default::default()
    };
    let answer = cluster.members[0]
        .client()
        .kv()
        .range(request)
        .await
        .expect("range")
        .into_inner();
    answer.kvs.into_iter().next().map(|kv| kv.value)
}

#[tokio::test]
async fn a_terminated_server_ends_with_success_and_its_successor_has_its_data() {
    let mut cluster = Cluster::start(&baton(), 1)
        .await
        .expect("the server starts");
    let revision = cluster.members[0]
        .client()
        .put("k", "v")
        .await
        .expect("put");
    let status = cluster.members[0].terminate().await.expect("it leaves");
    assert!(
        status.success()
            || cfg!(unix) && std::os::unix::process::ExitStatusExt::signal(&status) == Some(15)
    );

    cluster.members[0].start().expect("it starts");
    cluster.ready().await.expect("it serves");
    assert_eq!(value_of(&cluster, "k").await.as_deref(), Some(&b"v"[..]));
    assert_eq!(
        cluster.members[0]
            .client()
            .revision()
            .await
            .expect("revision"),
        revision
    );
}

#[tokio::test]
async fn a_killed_server_has_every_acknowledged_write_when_it_is_back() {
    let mut cluster = Cluster::start(&baton(), 1)
        .await
        .expect("the server starts");
    let client = cluster.members[0].client();
    for number in 0..50 {
        client.put("k", number.to_string()).await.expect("put");
    }
    cluster.members[0].kill();
    cluster.members[0].start().expect("it starts");
    cluster.ready().await.expect("it serves");
    assert_eq!(value_of(&cluster, "k").await.as_deref(), Some(&b"49"[..]));
}

#[tokio::test]
async fn member_and_cluster_ids_are_the_same_after_a_restart() {
    let mut cluster = Cluster::start(&baton(), 1)
        .await
        .expect("the server starts");
    let before = cluster.members[0]
        .client()
        .status()
        .await
        .expect("status")
        .header
        .expect("a header");
    cluster.members[0].kill();
    cluster.members[0].start().expect("it starts");
    cluster.ready().await.expect("it serves");
    let after = cluster.members[0]
        .client()
        .status()
        .await
        .expect("status")
        .header
        .expect("a header");
    assert_eq!(
        (before.cluster_id, before.member_id),
        (after.cluster_id, after.member_id)
    );
}

#[tokio::test]
async fn ids_are_those_etcd_computes_from_the_same_flags() {
    let Some(etcd) = Program::installed_etcd() else {
        eprintln!("SKIPPED ids_are_those_etcd_computes_from_the_same_flags: no etcd in $PATH");
        return;
    };
    let mut cluster = Cluster::start(&baton(), 1)
        .await
        .expect("the server starts");
    let ours = cluster.members[0]
        .client()
        .status()
        .await
        .expect("status")
        .header
        .expect("a header");
    cluster.members[0].kill();
    let directory = tempfile::tempdir().expect("a directory");
    let mut command = Command::new(etcd.path());
    command.args(
        cluster.members[0]
            .arguments()
            .iter()
            .filter(|flag| !flag.starts_with("--data-dir")),
    );
    command.arg(format!(
        "--data-dir={}",
        directory.path().join("etcd").display()
    ));
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let _etcd = tokio::process::Command::from(command)
        .kill_on_drop(true)
        .spawn()
        .expect("etcd runs");
    let client = cluster.members[0].client();
    let theirs = loop {
        match client.status().await {
            Ok(status) => break status.header.expect("a header"),
            Err(_) => baton_test_cluster::process::poll_again().await,
        }
    };
    assert_eq!(
        (ours.cluster_id, ours.member_id),
        (theirs.cluster_id, theirs.member_id)
    );
}

#[tokio::test]
async fn a_second_server_on_the_same_directory_is_refused() {
    let cluster = Cluster::start(&baton(), 1)
        .await
        .expect("the server starts");
    let address = format!(
        "http://127.0.0.1:{}",
        baton_test_cluster::process::free_port()
    );
    let flags = [
        format!("--listen-client-urls={address}"),
        format!("--advertise-client-urls={address}"),
    ];
    let text = refusal(cluster.members[0].command_with(&flags)).await;
    let directory = cluster.members[0].data_directory();
    assert!(
        text.contains(&directory.display().to_string()),
        "it does not name the directory: {text}"
    );
    cluster.members[0]
        .client()
        .put("k", "v")
        .await
        .expect("the first one still serves");
}

#[tokio::test]
async fn a_directory_of_another_cluster_is_refused() {
    let mut cluster = Cluster::start(&baton(), 1)
        .await
        .expect("the server starts");
    cluster.members[0]
        .client()
        .put("k", "v")
        .await
        .expect("put");
    cluster.members[0].terminate().await.expect("it leaves");
    let text =
        refusal(cluster.members[0].command_with(&["--initial-cluster-token=another".to_owned()]))
            .await;
    assert!(
        text.contains("cluster"),
        "it does not say what is wrong: {text}"
    );

    cluster.members[0].start().expect("it starts");
    cluster
        .ready()
        .await
        .expect("with its own flags it serves again");
    assert_eq!(value_of(&cluster, "k").await.as_deref(), Some(&b"v"[..]));
}

#[tokio::test]
async fn a_client_port_in_use_is_refused_by_name() {
    let cluster = Cluster::new(&baton(), 1).expect("a directory");
    let address = cluster.members[0].address();
    let _taken = TcpListener::bind(&address).expect("the port is free");
    let text = refusal(cluster.members[0].command()).await;
    assert!(
        text.contains(&address),
        "it does not name the address: {text}"
    );
}

#[tokio::test]
async fn a_peer_port_in_use_is_refused_by_name() {
    let cluster = Cluster::new(&baton(), 1).expect("a directory");
    let port = cluster.members[0].peer_port();
    let _taken = TcpListener::bind(("127.0.0.1", port)).expect("the port is free");
    let text = refusal(cluster.members[0].command()).await;
    assert!(
        text.contains(&format!("127.0.0.1:{port}")),
        "it does not name the address: {text}"
    );
}

#[tokio::test]
async fn an_unknown_flag_is_refused_by_name() {
    let cluster = Cluster::new(&baton(), 1).expect("a directory");
    let text = refusal(
        cluster.members[0].command_with(&["--listen-cleint-urls=http://127.0.0.1:1".to_owned()]),
    )
    .await;
    assert!(
        text.contains("listen-cleint-urls"),
        "it does not name the flag: {text}"
    );
}

#[tokio::test]
async fn a_rolling_restart_keeps_every_write() {
    let mut cluster = Cluster::start(&baton(), 3)
        .await
        .expect("the cluster starts");
    let mut revision = 0;
    for index in 0..3 {
        revision = cluster.members[(index + 1) % 3]
            .client()
            .put("k", format!("{index}"))
            .await
            .expect("put");
        cluster.members[index].terminate().await.expect("it leaves");
        cluster.members[index].start().expect("it starts");
        cluster.ready().await.expect("it serves");
    }
    for member in &cluster.members {
        assert_eq!(
            member.client().revision().await.expect("revision"),
            revision,
            "{}",
            member.name()
        );
    }
}
