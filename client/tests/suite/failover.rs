//! Several endpoints.

use baton_client::{Client, Error, Options, Outcome};
use baton_test_cluster::process::{Program, free_port};

use crate::{in_use, of_both, single, three};

of_both!(
    reads_go_on_when_the_member_in_use_is_killed,
    an_endpoint_where_nobody_listens_is_passed_over,
    a_client_of_a_dead_cluster_says_that_nothing_was_done,
);

async fn reads_go_on_when_the_member_in_use_is_killed(program: Program) {
    let (mut cluster, client) = three(&program).await;
    client.put(("k", "v")).await.expect("put");
    let used = in_use(&cluster, &client);
    cluster.members[used].kill();
    let read = client.get("k").await.expect("get");
    assert_eq!(read.kvs[0].value, "v");
    assert_ne!(in_use(&cluster, &client), used);
}

async fn an_endpoint_where_nobody_listens_is_passed_over(program: Program) {
    let (cluster, _) = single(&program).await;
    let nobody = format!("127.0.0.1:{}", free_port());
    for _ in 0..4 {
        let client = Client::new([nobody.clone(), cluster.urls()[0].clone()]).expect("client");
        client.put(("k", "v")).await.expect("put");
        assert_eq!(client.endpoint_in_use(), cluster.urls()[0]);
    }
}

async fn a_client_of_a_dead_cluster_says_that_nothing_was_done(program: Program) {
    let (mut cluster, _) = single(&program).await;
    cluster.members[0].kill();
    let options = Options {
        request_timeout: std::time::Duration::from_millis(300),
        ..Options::default()
    };
    let client = Client::with_options(cluster.urls(), options).expect("client");
    let error = client.put(("k", "v")).await.expect_err("nobody there");
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    assert!(
        error.to_string().contains(&cluster.members[0].address()),
        "{error}"
    );
    assert_eq!(error.outcome(), Outcome::NotDone);
}
