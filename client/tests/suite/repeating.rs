//! What is repeated, and what is not.

use std::time::Duration;

use baton_client::{Client, Error, Get, Options, Outcome, Txn, Watch};
use baton_test_cluster::process::Program;

use crate::proxy::{Mode, Proxy, says};
use crate::{of_both, single};

of_both!(
    a_put_without_an_answer_is_unknown_and_not_sent_twice,
    a_read_without_an_answer_is_made_elsewhere,
    a_put_the_server_did_not_process_is_made_elsewhere,
    a_put_the_server_refused_to_begin_is_made_elsewhere,
    a_put_whose_stream_is_reset_for_another_reason_is_unknown,
    a_read_at_an_endpoint_that_went_silent_is_made_elsewhere,
);

/// A client of both endpoints that is talking to the first.
async fn preferring(first: &str, second: &str, options: Options) -> Client {
    let client = Client::with_options([first], options).expect("client");
    client.set_endpoints([first, second]).expect("endpoints");
    assert_eq!(client.endpoint_in_use(), first);
    client
}

async fn a_put_without_an_answer_is_unknown_and_not_sent_twice(program: Program) {
    let (cluster, direct) = single(&program).await;
    let proxy = Proxy::of(&cluster.urls()[0]).await;
    let client = preferring(&proxy.endpoint(), &cluster.urls()[0], Options::default()).await;
    client.get("k").await.expect("get");
    let mut watcher = direct.watch(Watch::key("k")).await.expect("watch");
    proxy.set(Mode::Mute);
    let put = client.put(("k", "v"));
    let arrived = async {
        watcher.next().await.expect("event");
        proxy.set(Mode::Cut);
    };
    let (put, ()) = tokio::join!(put, arrived);
    let error = put.expect_err("no answer");
    assert!(matches!(error, Error::Unknown { .. }), "{error:?}");
    assert_eq!(error.outcome(), Outcome::Unknown);
    // The client is well, and would have sent it here.
    client.put(("other", "")).await.expect("put");
    let read = direct.get("k").await.expect("get");
    assert_eq!(read.kvs[0].version, 1, "it was written once");
}

async fn a_read_without_an_answer_is_made_elsewhere(program: Program) {
    let (cluster, direct) = single(&program).await;
    direct.put(("k", "v")).await.expect("put");
    let proxy = Proxy::of(&cluster.urls()[0]).await;
    let client = preferring(&proxy.endpoint(), &cluster.urls()[0], Options::default()).await;
    client.get("k").await.expect("get");
    proxy.set(Mode::Cut);
    let read = client.get("k").await.expect("get");
    assert_eq!(read.kvs[0].value, "v");
    assert_eq!(client.endpoint_in_use(), cluster.urls()[0]);
}

async fn a_read_at_an_endpoint_that_went_silent_is_made_elsewhere(program: Program) {
    let (cluster, _) = single(&program).await;
    let proxy = Proxy::of(&cluster.urls()[0]).await;
    let options = Options {
        attempt_timeout: Duration::from_millis(200),
        ..Options::default()
    };
    let client = preferring(&proxy.endpoint(), &cluster.urls()[0], options).await;
    client.get("k").await.expect("get");
    proxy.set(Mode::Mute);
    client.get("k").await.expect("get");
    assert_eq!(client.endpoint_in_use(), cluster.urls()[0]);
    // A transaction that only reads is a read.
    client.set_endpoints([proxy.endpoint()]).expect("endpoints");
    client
        .set_endpoints([proxy.endpoint(), cluster.urls()[0].clone()])
        .expect("endpoints");
    let read = Txn::new().then(Get::key("k"));
    client.txn(read).await.expect("txn");
    assert_eq!(client.endpoint_in_use(), cluster.urls()[0]);
}

/// GOAWAY: no stream was processed.
const GOAWAY: &[u8] = &[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// RST_STREAM of the first stream: REFUSED_STREAM.
const REFUSED_STREAM: &[u8] = &[0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 7];

async fn a_put_the_server_did_not_process_is_made_elsewhere(program: Program) {
    made_elsewhere(program, GOAWAY).await;
}

async fn a_put_the_server_refused_to_begin_is_made_elsewhere(program: Program) {
    made_elsewhere(program, REFUSED_STREAM).await;
}

async fn made_elsewhere(program: Program, frames: &'static [u8]) {
    let (cluster, _) = single(&program).await;
    let fake = says(frames).await;
    let client = preferring(&fake, &cluster.urls()[0], Options::default()).await;
    client.put(("k", "v")).await.expect("put");
    assert_eq!(client.endpoint_in_use(), cluster.urls()[0]);
    let read = client.get("k").await.expect("get");
    assert_eq!(read.kvs[0].version, 1);
}

/// RST_STREAM of the first stream: CANCEL, which says nothing about what was done.
const CANCEL: &[u8] = &[0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 8];

async fn a_put_whose_stream_is_reset_for_another_reason_is_unknown(program: Program) {
    let (cluster, direct) = single(&program).await;
    let fake = says(CANCEL).await;
    let client = preferring(&fake, &cluster.urls()[0], Options::default()).await;
    let error = client.put(("k", "v")).await.expect_err("no answer");
    assert!(matches!(error, Error::Unknown { .. }), "{error:?}");
    assert_eq!(direct.get("k").await.expect("get").count, 0);
}
