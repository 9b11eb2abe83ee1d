//! `etcdctl` with endpoints written as people write them.

use baton_test_cluster::etcdctl::Etcdctl;
use baton_test_cluster::process::Cluster;

use crate::baton;

/// Commands that dial one endpoint, or each by itself, and what all members together print.
#[tokio::test]
async fn etcdctl_takes_urls_for_endpoints_in_every_command_that_dials_one() {
    let mut cluster = Cluster::start(&baton(), 3)
        .await
        .expect("the cluster starts");
    let urls = cluster.urls();
    let Some(etcdctl) = Etcdctl::installed(&urls) else {
        eprintln!(
            "SKIPPED etcdctl_takes_urls_for_endpoints_in_every_command_that_dials_one: no etcdctl in $PATH"
        );
        return;
    };
    let commands: [&[&str]; 7] = [
        &["endpoint", "status"],
        &["endpoint", "status", "--cluster"],
        &["endpoint", "hashkv"],
        &["endpoint", "hashkv", "--cluster"],
        &["endpoint", "health"],
        &["endpoint", "health", "--cluster"],
        &["defrag"],
    ];
    for command in commands {
        let text = etcdctl.run(command).await.expect("it succeeds");
        for url in &urls {
            // Health is reported on standard error.
            assert!(
                command[1..].contains(&"health") || text.contains(url.as_str()),
                "{command:?} does not mention {url}: {text}"
            );
        }
    }
    let leader = cluster.leader().await.expect("a leader");
    let heir = &cluster.members[(leader + 1) % 3];
    let status = heir.client().status().await.expect("its status");
    let heir_id = status.header.expect("a header").member_id;
    let text = etcdctl
        .run(&["move-leader", &format!("{heir_id:x}")])
        .await
        .expect("it succeeds");
    assert!(text.starts_with("Leadership transferred from "), "{text}");
    assert_eq!(cluster.leader().await.expect("a leader"), (leader + 1) % 3);
}

/// A socket's path is no authority either.
#[tokio::test]
async fn etcdctl_takes_the_path_of_a_socket_for_an_endpoint() {
    let mut cluster = Cluster::new(&baton(), 1).expect("a directory");
    let socket = format!("unix://{}/b.sock", cluster.directory().display());
    let Some(etcdctl) = Etcdctl::installed(&[&socket]) else {
        eprintln!(
            "SKIPPED etcdctl_takes_the_path_of_a_socket_for_an_endpoint: no etcdctl in $PATH"
        );
        return;
    };
    let listen = format!("--listen-client-urls={},{socket}", cluster.members[0].url());
    cluster.members[0].start_with(&[listen]).expect("it starts");
    cluster.ready().await.expect("it serves");
    etcdctl.run(&["put", "k", "v"]).await.expect("put");
    let text = etcdctl.run(&["get", "k"]).await.expect("get");
    assert_eq!(text, "k\nv\n");
    etcdctl
        .run(&["endpoint", "status"])
        .await
        .expect("it succeeds");
}
