//! Watches.

use baton_client::{Client, Options, Watch, WatchError, Watcher, pb};
use baton_test_cluster::process::{Program, poll_again};

use crate::proxy::{Mode, Proxy};
use crate::{in_use, of_both, single, three};

of_both!(
    watches_of_one_client_are_told_apart,
    a_watch_begins_in_the_past,
    a_watch_goes_on_when_its_member_is_killed,
    what_happens_while_the_stream_is_down_is_told_afterwards,
    a_watch_that_needs_compacted_revisions_says_so,
    a_slow_reader_gets_everything_and_holds_up_nobody,
    a_watch_of_an_empty_range_is_refused_with_the_reason,
    a_watch_leaves_a_member_that_lost_its_leader,
    a_watch_at_a_silent_endpoint_is_begun_elsewhere,
    an_idle_watch_leaves_a_member_that_leaves_reads_unanswered,
    a_dropped_watcher_is_cancelled_at_the_server,
);

async fn put(client: &Client, key: &str, value: &str) -> i64 {
    let put = client.put((key, value)).await.expect("put");
    put.header.expect("header").revision
}

/// Reads until everything up to `revision` was told, and checks that each revision came once, in order.
async fn read_to(watcher: &mut Watcher, revision: i64) -> Vec<i64> {
    let mut seen: Vec<i64> = Vec::new();
    loop {
        let told = watcher.next().await.expect("notification");
        for event in &told.events {
            let at = event.kv.as_ref().expect("kv").mod_revision;
            assert!(seen.last().is_none_or(|last| *last <= at), "in order");
            seen.push(at);
        }
        if told.revision >= revision {
            return seen;
        }
    }
}

async fn watches_of_one_client_are_told_apart(program: Program) {
    let (_cluster, client) = single(&program).await;
    let (a, b) = tokio::try_join!(client.watch(Watch::key("a")), client.watch(Watch::key("b")))
        .expect("watches");
    let (mut a, mut b) = (a, b);
    let first = put(&client, "a", "").await;
    let second = put(&client, "b", "").await;
    assert_eq!(a.next().await.expect("event").revision, first);
    assert_eq!(b.next().await.expect("event").revision, second);
}

async fn a_watch_begins_in_the_past(program: Program) {
    let (_cluster, client) = single(&program).await;
    let first = put(&client, "k", "1").await;
    let last = put(&client, "k", "2").await;
    let mut watcher = client
        .watch(Watch::key("k").from(first))
        .await
        .expect("watch");
    assert_eq!(read_to(&mut watcher, last).await, [first, last]);
}

async fn a_watch_goes_on_when_its_member_is_killed(program: Program) {
    let (mut cluster, client) = three(&program).await;
    let mut watcher = client.watch(Watch::prefix("k")).await.expect("watch");
    let mut expected = Vec::new();
    for round in 0..3 {
        for number in 0..10 {
            expected.push(put(&client, &format!("k{round}{number}"), "").await);
        }
        let used = in_use(&cluster, &client);
        cluster.members[used].kill();
        // What is written while the stream is down is told all the same.
        let mut last = 0;
        while last == 0 {
            match client.put(("k", "")).await {
                Ok(put) => last = put.header.expect("header").revision,
                Err(error) => assert_eq!(error.outcome(), baton_client::Outcome::Unknown),
            }
        }
        cluster.members[used].start().expect("start");
        cluster.ready().await.expect("ready");
    }
    let end = put(&client, "k", "end").await;
    let seen = read_to(&mut watcher, end).await;
    for revision in expected {
        assert!(seen.contains(&revision), "revision {revision} was told");
    }
    let mut once = seen.clone();
    once.dedup();
    assert_eq!(once, seen, "nothing was told twice");
}

async fn what_happens_while_the_stream_is_down_is_told_afterwards(program: Program) {
    let (cluster, direct) = single(&program).await;
    let proxy = Proxy::of(&cluster.urls()[0]).await;
    let client = Client::new([proxy.endpoint()]).expect("client");
    let before = put(&direct, "k", "before").await;
    let past = client.watch(Watch::key("k").from(before)).await;
    let mut past = past.expect("watch");
    assert_eq!(read_to(&mut past, before).await, [before]);
    let mut idle = client.watch(Watch::key("k")).await.expect("watch");
    assert_eq!(idle.created_at(), before);
    proxy.set(Mode::Cut);
    let first = put(&direct, "k", "first").await;
    let second = put(&direct, "k", "second").await;
    proxy.set(Mode::Pass);
    assert_eq!(read_to(&mut idle, second).await, [first, second]);
    assert_eq!(read_to(&mut past, second).await, [first, second]);
}

async fn a_watch_that_needs_compacted_revisions_says_so(program: Program) {
    let (_cluster, client) = single(&program).await;
    let first = put(&client, "k", "1").await;
    let last = put(&client, "k", "2").await;
    client.compact(last, false).await.expect("compact");
    let mut watcher = client
        .watch(Watch::key("k").from(first))
        .await
        .expect("watch");
    match watcher.next().await {
        Err(WatchError::Compacted { compact_revision }) => assert_eq!(compact_revision, last),
        other => panic!("{other:?}"),
    }
}

async fn a_slow_reader_gets_everything_and_holds_up_nobody(program: Program) {
    let (cluster, _) = single(&program).await;
    let options = Options {
        watch_buffer: 10_000,
        ..Options::default()
    };
    let client = Client::with_options(cluster.urls(), options).expect("client");
    let mut slow = client.watch(Watch::key("k")).await.expect("watch");
    let mut quick = client.watch(Watch::key("k")).await.expect("watch");
    let value = "v".repeat(1000);
    let mut revisions = Vec::new();
    for _ in 0..100 {
        let revision = put(&client, "k", &value).await;
        assert_eq!(read_to(&mut quick, revision).await, [revision]);
        revisions.push(revision);
    }
    // What it has not taken is kept by the server, not here.
    while metric(&cluster, "etcd_debugging_mvcc_watcher_total").await != 1 {
        poll_again().await;
    }
    let last = *revisions.last().expect("one");
    assert_eq!(read_to(&mut slow, last).await, revisions);
}

async fn a_watch_of_an_empty_range_is_refused_with_the_reason(program: Program) {
    let (_cluster, client) = single(&program).await;
    match client.watch(Watch::range("b", "a")).await {
        Err(WatchError::Canceled { reason }) => {
            assert!(reason.contains("range is empty"), "{reason}")
        }
        other => panic!("{other:?}"),
    }
    // The stream serves others all the same.
    let mut watcher = client.watch(Watch::key("k")).await.expect("watch");
    let revision = put(&client, "k", "").await;
    assert_eq!(watcher.next().await.expect("event").revision, revision);
}

async fn a_dropped_watcher_is_cancelled_at_the_server(program: Program) {
    let (cluster, client) = single(&program).await;
    let watchers = || metric(&cluster, "etcd_debugging_mvcc_watcher_total");
    let stays = client.watch(Watch::key("k")).await.expect("watch");
    let goes = client.watch(Watch::key("k")).await.expect("watch");
    let begun = client.watch(Watch::key("k"));
    drop(begun);
    assert_eq!(watchers().await, 2);
    drop(goes);
    while watchers().await != 1 {
        poll_again().await;
    }
    drop(stays);
}

/// A number of the server's metrics page.
async fn metric(cluster: &baton_test_cluster::process::Cluster, name: &str) -> u64 {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let address = cluster.members[0].address();
    let mut stream = tokio::net::TcpStream::connect(&address)
        .await
        .expect("connect");
    let request = format!("GET /metrics HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("send");
    let mut page = String::new();
    stream.read_to_string(&mut page).await.expect("read");
    let line = page
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|number| number.trim().parse().ok())
        .expect("the metric")
}

/// A member without a leader: it ends every stream that asks for one.
struct Leaderless;

#[tonic::async_trait]
impl pb::watch_server::Watch for Leaderless {
    type WatchStream = tokio_stream::Pending<Result<pb::WatchResponse, tonic::Status>>;

    async fn watch(
        &self,
        request: tonic::Request<tonic::Streaming<pb::WatchRequest>>,
    ) -> Result<tonic::Response<Self::WatchStream>, tonic::Status> {
        if request
            .metadata()
            .get("hasleader")
            .is_some_and(|value| value == "true")
        {
            return Err(tonic::Status::unavailable("etcdserver: no leader"));
        }
        Ok(tonic::Response::new(tokio_stream::pending()))
    }
}

async fn a_watch_leaves_a_member_that_lost_its_leader(program: Program) {
    let (cluster, direct) = single(&program).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("listen");
    let fake = format!("http://{}", listener.local_addr().expect("address"));
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(pb::watch_server::WatchServer::new(Leaderless))
            .serve_with_incoming(incoming),
    );
    let hour = std::time::Duration::from_secs(3600);
    let options = Options {
        attempt_timeout: hour,
        request_timeout: hour,
        ..Options::default()
    };
    let client = Client::with_options([&fake], options).expect("client");
    client
        .set_endpoints([&fake, &cluster.urls()[0]])
        .expect("endpoints");
    let mut watcher = client.watch(Watch::key("k")).await.expect("watch");
    let revision = put(&direct, "k", "").await;
    assert_eq!(watcher.next().await.expect("event").revision, revision);
}

async fn a_watch_at_a_silent_endpoint_is_begun_elsewhere(program: Program) {
    let (cluster, direct) = single(&program).await;
    let proxy = Proxy::of(&cluster.urls()[0]).await;
    let options = Options {
        attempt_timeout: std::time::Duration::from_millis(200),
        ..Options::default()
    };
    let client = Client::with_options([proxy.endpoint()], options).expect("client");
    let both = [proxy.endpoint(), cluster.urls()[0].clone()];
    client.set_endpoints(both).expect("endpoints");
    let mut first = client.watch(Watch::key("k")).await.expect("watch");
    proxy.set(Mode::Mute);
    let mut second = client.watch(Watch::key("k")).await.expect("watch");
    let revision = put(&direct, "k", "").await;
    assert_eq!(first.next().await.expect("event").revision, revision);
    assert_eq!(second.next().await.expect("event").revision, revision);
}

/// etcd 3.4 has no flag for the interval.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn progress_keeps_an_idle_watch_out_of_the_way_of_compactions() {
    let Some(program) = crate::baton() else {
        return;
    };
    let program = program.flag("--watch-progress-notify-interval=100ms");
    crate::within(async {
        let (mut cluster, _) = single(&program).await;
        let proxy = Proxy::of(&cluster.urls()[0]).await;
        let client = Client::new([proxy.endpoint()]).expect("client");
        let direct = Client::new(cluster.urls()).expect("client");
        let mut watcher = client.watch(Watch::key("idle")).await.expect("watch");
        let mut told = client
            .watch(Watch::key("idle").progress())
            .await
            .expect("watch");
        put(&direct, "other", "").await;
        let last = put(&direct, "other", "").await;
        while told.next().await.expect("progress").revision < last {}
        proxy.set(Mode::Cut);
        direct.compact(last, false).await.expect("compact");
        cluster.members[0].kill();
        cluster.members[0].start().expect("start");
        cluster.ready().await.expect("ready");
        proxy.set(Mode::Pass);
        let revision = put(&direct, "idle", "").await;
        assert_eq!(watcher.next().await.expect("event").revision, revision);
    })
    .await;
}

async fn an_idle_watch_leaves_a_member_that_leaves_reads_unanswered(program: Program) {
    let (cluster, direct) = single(&program).await;
    let proxy = Proxy::of(&cluster.urls()[0]).await;
    let hour = std::time::Duration::from_secs(3600);
    let options = Options {
        attempt_timeout: std::time::Duration::from_millis(200),
        keep_alive: hour,
        ..Options::default()
    };
    let client = Client::with_options([proxy.endpoint()], options).expect("client");
    let both = [proxy.endpoint(), cluster.urls()[0].clone()];
    client.set_endpoints(both).expect("endpoints");
    let mut watcher = client.watch(Watch::key("k")).await.expect("watch");
    proxy.set(Mode::Mute);
    client.get("k").await.expect("get");
    let revision = put(&direct, "k", "").await;
    assert_eq!(watcher.next().await.expect("event").revision, revision);
}

/// A program may have several runtimes, one after the other.
#[test]
fn a_client_outlives_the_runtime_it_was_used_in() {
    let runtime = || tokio::runtime::Runtime::new().expect("a runtime");
    let serving = runtime();
    let Some(program) = crate::baton() else {
        return;
    };
    let (_cluster, client) = serving.block_on(single(&program));
    let first = runtime();
    let (lease, mut watcher) = first.block_on(async {
        let lease = client.grant(std::time::Duration::from_secs(60), 0).await;
        let lease = lease.expect("grant").id;
        client.renew(lease).await.expect("renewal");
        (lease, client.watch(Watch::key("k")).await.expect("watch"))
    });
    drop(first);
    runtime().block_on(crate::within(async {
        watcher.next().await.expect_err("its task is gone");
        assert!(client.renew(lease).await.expect("renewal").is_some());
        let mut watcher = client.watch(Watch::key("k")).await.expect("watch");
        let revision = put(&client, "k", "").await;
        assert_eq!(watcher.next().await.expect("event").revision, revision);
    }));
}
