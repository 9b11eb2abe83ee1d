//! What is asked of members and of the cluster.

use baton_client::{Client, pb};
use baton_test_cluster::process::Program;
use pb::alarm_request::AlarmAction;

use crate::{of_both, three};

of_both!(
    each_member_is_asked_by_its_endpoint,
    endpoints_are_taken_from_the_member_list,
    a_store_is_compacted_hashed_and_read_whole,
);

async fn each_member_is_asked_by_its_endpoint(program: Program) {
    let (cluster, client) = three(&program).await;
    let mut ids = Vec::new();
    for url in cluster.urls() {
        let status = client
            .at(&url)
            .expect("client")
            .status()
            .await
            .expect("status");
        assert!(status.leader != 0);
        ids.push(status.header.expect("header").member_id);
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 3, "three members answered");
    let leader = client.status().await.expect("status").leader;
    let mut refused = 0;
    for url in cluster.urls() {
        let at = client.at(&url).expect("client");
        let own = at
            .status()
            .await
            .expect("status")
            .header
            .expect("header")
            .member_id;
        if own != leader {
            at.move_leader(own).await.expect_err("it does not lead");
            refused += 1;
        }
    }
    assert_eq!(refused, 2);
}

async fn endpoints_are_taken_from_the_member_list(program: Program) {
    let (cluster, _) = three(&program).await;
    let client = Client::new([cluster.members[1].url()]).expect("client");
    let mut endpoints = client.sync_endpoints().await.expect("sync");
    endpoints.sort();
    let mut urls = cluster.urls();
    urls.sort();
    assert_eq!(endpoints, urls);
    client.put(("k", "v")).await.expect("put");
}

async fn a_store_is_compacted_hashed_and_read_whole(program: Program) {
    let (_cluster, client) = crate::single(&program).await;
    for number in 0..10 {
        client.put(("k", number.to_string())).await.expect("put");
    }
    let hash = client.hash_kv(0).await.expect("hash");
    assert_eq!(hash.hash, client.hash_kv(0).await.expect("hash").hash);
    client.compact(5, true).await.expect("compact");
    let error = client
        .compact(5, false)
        .await
        .expect_err("compacted already");
    assert!(error.refusal().expect("a refusal").is_compacted());
    client.defragment().await.expect("defragment");
    let alarms = client.alarm(AlarmAction::Get, 0, pb::AlarmType::None).await;
    assert!(alarms.expect("alarms").alarms.is_empty());
    let leases = client.leases().await.expect("leases");
    assert!(leases.leases.is_empty());
}
