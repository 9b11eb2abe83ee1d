//! The server's lock and election services.

use std::time::Duration;

use baton_client::{Client, Error, Get};
use baton_test_cluster::process::{Program, poll_again};

use crate::{in_use, of_both, single, three};

of_both!(
    a_lock_goes_to_the_next_in_line,
    a_waiter_keeps_its_place_when_the_member_it_waits_at_is_killed,
    a_leader_is_observed_and_resigns,
    a_lock_without_a_lease_is_refused,
);

async fn lease(client: &Client) -> i64 {
    let granted = client.grant(Duration::from_secs(60), 0).await;
    granted.expect("grant").id
}

/// Until so many stand in the line.
async fn line_of(client: &Client, name: &str, length: i64) {
    while client.get(Get::prefix(name)).await.expect("get").count != length {
        poll_again().await;
    }
}

async fn a_lock_goes_to_the_next_in_line(program: Program) {
    let (_cluster, client) = single(&program).await;
    let client = client.namespaced("ns/");
    let (a, b) = (lease(&client).await, lease(&client).await);
    let held = client.lock("l", a, None).await.expect("lock");
    assert_eq!(held.key, format!("l/{a:x}"));
    let again = client
        .lock("l", a, None)
        .await
        .expect("the same lease has it");
    assert_eq!(again.key, held.key);
    let late = client.lock("l", b, Some(Duration::from_millis(200))).await;
    let error = late.expect_err("it is held");
    assert!(matches!(error, Error::Unknown { .. }), "{error:?}");
    let (next, ()) = tokio::join!(client.lock("l", b, None), async {
        line_of(&client, "l/", 2).await;
        client.unlock(&held.key).await.expect("unlock");
    });
    assert_eq!(next.expect("lock").key, format!("l/{b:x}"));
}

async fn a_waiter_keeps_its_place_when_the_member_it_waits_at_is_killed(program: Program) {
    let (mut cluster, client) = three(&program).await;
    let (a, b) = (lease(&client).await, lease(&client).await);
    let held = client.lock("l", a, None).await.expect("lock");
    let used = in_use(&cluster, &client);
    let waiter = tokio::spawn({
        let client = client.clone();
        async move { client.lock("l", b, None).await }
    });
    line_of(&client, "l/", 2).await;
    let key = format!("l/{b:x}");
    let place = client.get(key.as_str()).await.expect("get").kvs[0].create_revision;
    cluster.members[used].kill();
    let unlocked = loop {
        match client.unlock(&held.key).await {
            Ok(unlocked) => break unlocked,
            Err(error) => assert!(matches!(error, Error::Unknown { .. }), "{error:?}"),
        }
    };
    assert!(unlocked.header.is_some());
    let got = waiter.await.expect("no panic").expect("lock");
    assert_eq!(got.key, key);
    let now = client.get(key.as_str()).await.expect("get").kvs[0].create_revision;
    assert!(now >= place);
}

async fn a_leader_is_observed_and_resigns(program: Program) {
    let (mut cluster, client) = three(&program).await;
    let a = lease(&client).await;
    let mut observer = client.observe("e");
    let (won, first) = tokio::join!(client.campaign("e", a, "one", None), observer.next());
    let won = won.expect("campaign").leader.expect("leader");
    assert_eq!(first.expect("leader").kv.expect("kv").value, "one");
    client.proclaim(won.clone(), "two").await.expect("proclaim");
    assert_eq!(
        observer.next().await.expect("leader").kv.expect("kv").value,
        "two"
    );
    let used = in_use(&cluster, &client);
    cluster.members[used].kill();
    // Perhaps without an answer: the observer tells whether it was done.
    while let Err(error) = client.proclaim(won.clone(), "three").await {
        assert!(matches!(error, Error::Unknown { .. }), "{error:?}");
    }
    assert_eq!(
        observer.next().await.expect("leader").kv.expect("kv").value,
        "three"
    );
    client.resign(won).await.expect("resign");
    client.leader("e").await.expect_err("nobody leads");
}

async fn a_lock_without_a_lease_is_refused(program: Program) {
    let (_cluster, client) = single(&program).await;
    let error = client.lock("l", 0, None).await.expect_err("no lease");
    assert!(error.to_string().contains("grant one"), "{error}");
}
