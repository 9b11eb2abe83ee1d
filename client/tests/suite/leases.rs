//! Leases and their renewal.

use std::time::Duration;

use baton_client::{BootInstant, Client, Options, Watch};
use baton_test_cluster::process::Program;
use futures_util::future::try_join_all;

use crate::proxy::{Mode, Proxy};
use crate::{in_use, of_both, single, three};

of_both!(
    five_hundred_leases_are_renewed_on_one_stream,
    a_renewal_of_a_lease_that_is_gone_says_so,
    a_renewal_at_a_silent_endpoint_is_made_elsewhere_and_tells_when_it_was_sent_there,
    renewals_and_watches_leave_a_connection_that_died_silently,
    renewals_go_on_when_the_member_they_went_to_is_killed,
);

async fn five_hundred_leases_are_renewed_on_one_stream(program: Program) {
    let (_cluster, client) = single(&program).await;
    let ttl = Duration::from_secs(60);
    let mut ids = Vec::new();
    for _ in 0..500 {
        ids.push(client.grant(ttl, 0).await.expect("grant").id);
    }
    for _ in 0..3 {
        let before = BootInstant::now();
        let renewals = try_join_all(ids.iter().map(|id| client.renew(*id)));
        for renewal in renewals.await.expect("renewals") {
            let renewal = renewal.expect("it is there");
            assert_eq!(renewal.ttl, ttl);
            assert!(renewal.sent >= before, "sent after it was asked for");
        }
    }
}

async fn a_renewal_of_a_lease_that_is_gone_says_so(program: Program) {
    let (_cluster, client) = single(&program).await;
    let ttl = Duration::from_secs(60);
    let stays = client.grant(ttl, 0).await.expect("grant").id;
    let goes = client.grant(ttl, 0).await.expect("grant").id;
    client.revoke(goes).await.expect("revoke");
    let (gone, there) = tokio::join!(client.renew(goes), client.renew(stays));
    assert_eq!(gone.expect("an answer"), None);
    assert!(there.expect("an answer").is_some());
}

async fn renewals_go_on_when_the_member_they_went_to_is_killed(program: Program) {
    let (mut cluster, client) = three(&program).await;
    let mut ids = Vec::new();
    for _ in 0..20 {
        let granted = client.grant(Duration::from_secs(60), 0).await;
        ids.push(granted.expect("grant").id);
    }
    let renew_all = || try_join_all(ids.iter().map(|id| client.renew(*id)));
    renew_all().await.expect("renewals");
    let used = in_use(&cluster, &client);
    cluster.members[used].kill();
    for renewal in renew_all().await.expect("renewals") {
        assert!(renewal.is_some());
    }
    assert_ne!(in_use(&cluster, &client), used);
}

async fn a_renewal_at_a_silent_endpoint_is_made_elsewhere_and_tells_when_it_was_sent_there(
    program: Program,
) {
    let (cluster, _) = single(&program).await;
    let proxy = Proxy::of(&cluster.urls()[0]).await;
    let silence = Duration::from_millis(300);
    let options = Options {
        attempt_timeout: silence,
        ..Options::default()
    };
    let client = Client::with_options([proxy.endpoint()], options).expect("client");
    let both = [proxy.endpoint(), cluster.urls()[0].clone()];
    client.set_endpoints(both).expect("endpoints");
    let id = client
        .grant(Duration::from_secs(60), 0)
        .await
        .expect("grant")
        .id;
    client
        .renew(id)
        .await
        .expect("renewal")
        .expect("it is there");
    proxy.set(Mode::Mute);
    let asked = BootInstant::now();
    let renewal = client
        .renew(id)
        .await
        .expect("renewal")
        .expect("it is there");
    // The attempt nobody answered would promise time the server may not have given.
    assert!(
        renewal.sent.since(asked) >= silence,
        "sent when it was sent again"
    );
}

async fn renewals_and_watches_leave_a_connection_that_died_silently(program: Program) {
    let (cluster, direct) = single(&program).await;
    let proxy = Proxy::of(&cluster.urls()[0]).await;
    let options = Options {
        attempt_timeout: Duration::from_millis(300),
        keep_alive: Duration::from_secs(3600),
        ..Options::default()
    };
    let client = Client::with_options([proxy.endpoint()], options).expect("client");
    let id = client
        .grant(Duration::from_secs(60), 0)
        .await
        .expect("grant")
        .id;
    client
        .renew(id)
        .await
        .expect("renewal")
        .expect("it is there");
    let mut watcher = client.watch(Watch::key("k")).await.expect("watch");
    proxy.mute_these();
    client
        .renew(id)
        .await
        .expect("renewal")
        .expect("it is there");
    direct.put(("k", "v")).await.expect("put");
    assert_eq!(watcher.next().await.expect("event").events.len(), 1);
}
