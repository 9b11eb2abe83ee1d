//! Reads, writes, transactions, namespaces.

use baton_client::{Compare, Delete, Get, Put, Txn, Watch, pb};
use baton_test_cluster::process::Program;
use pb::response_op::Response;

use crate::{of_both, single};

of_both!(
    a_pair_is_written_read_and_deleted,
    a_transaction_takes_one_of_its_branches,
    a_namespace_is_put_on_and_taken_off,
    a_refusal_carries_code_and_text,
);

async fn a_pair_is_written_read_and_deleted(program: Program) {
    let (_cluster, client) = single(&program).await;
    client.put(("k", "v1")).await.expect("put");
    let put = Put::new("k", "v2").prev_kv();
    let before = client.put(put).await.expect("put").prev_kv;
    assert_eq!(before.expect("it was there").value, "v1");
    let read = client.get("k").await.expect("get");
    assert_eq!(read.kvs[0].value, "v2");
    assert_eq!(client.delete("k").await.expect("delete").deleted, 1);
    assert_eq!(client.get("k").await.expect("get").count, 0);
}

async fn a_transaction_takes_one_of_its_branches(program: Program) {
    let (_cluster, client) = single(&program).await;
    let txn = || {
        Txn::new()
            .when(Compare::absent("k"))
            .then(Put::new("k", "v"))
            .or_else(Get::key("k"))
    };
    assert!(client.txn(txn()).await.expect("txn").succeeded);
    let second = client.txn(txn()).await.expect("txn");
    assert!(!second.succeeded);
    match &second.responses[0].response {
        Some(Response::ResponseRange(read)) => assert_eq!(read.kvs[0].value, "v"),
        other => panic!("{other:?}"),
    }
}

async fn a_namespace_is_put_on_and_taken_off(program: Program) {
    let (_cluster, outside) = single(&program).await;
    let inside = outside.namespaced("a/").namespaced("b/");
    for key in ["a/b", "a/b.", "a/b0", "z"] {
        outside.put((key, "other")).await.expect("put");
    }
    let mut watcher = inside.watch(Watch::prefix("")).await.expect("watch");
    let lease = inside.grant(PATIENCE, 0).await.expect("grant").id;
    outside
        .put(Put::new("c", "").lease(lease))
        .await
        .expect("put");
    inside
        .put(Put::new("k", "v").lease(lease))
        .await
        .expect("put");

    assert_eq!(outside.get("a/b/k").await.expect("get").count, 1);
    let all = inside.get(Get::prefix("")).await.expect("get");
    assert_eq!(all.kvs.len(), 1);
    assert_eq!(all.kvs[0].key, "k");
    let open = inside.get(Get::range("a", "\0")).await.expect("get");
    assert_eq!(open.kvs.len(), 1);
    let told = watcher.next().await.expect("event");
    assert_eq!(told.events[0].kv.as_ref().expect("kv").key, "k");
    let keys = inside.time_to_live(lease, true).await.expect("ttl").keys;
    assert_eq!(keys, ["k"]);

    let inner = Txn::new()
        .when(Compare::absent("k").over("l"))
        .or_else(Get::key("k"))
        .or_else(Put::new("n", "v").prev_kv());
    let done = inside.txn(Txn::new().then(inner)).await.expect("txn");
    let Some(Response::ResponseTxn(inner)) = &done.responses[0].response else {
        panic!("{done:?}")
    };
    assert!(!inner.succeeded);
    let Some(Response::ResponseRange(read)) = &inner.responses[0].response else {
        panic!("{inner:?}")
    };
    assert_eq!(read.kvs[0].key, "k");
    let deleted = inside.delete(Delete::range("\0", "\0").prev_kv());
    let deleted = deleted.await.expect("delete");
    assert_eq!(deleted.deleted, 2);
    assert_eq!(deleted.prev_kvs[0].key, "k");
    assert_eq!(outside.get(Get::prefix("")).await.expect("get").count, 5);
    for client in [&inside, &outside] {
        let error = client.put(("", "")).await.expect_err("an empty key");
        assert_eq!(error.to_string(), "etcdserver: key is not provided");
    }
}

async fn a_refusal_carries_code_and_text(program: Program) {
    let (_cluster, client) = single(&program).await;
    let put = client.put(Put::new("k", "v").lease(7)).await;
    let error = put.expect_err("no such lease");
    let refusal = error.refusal().expect("a refusal");
    assert!(refusal.is_lease_not_found());
    assert_eq!(error.outcome(), baton_client::Outcome::NotDone);
    let future = client.get(Get::key("k").revision(1000)).await;
    let error = future.expect_err("a future revision");
    assert!(error.refusal().expect("a refusal").is_future_revision());
}

const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);
