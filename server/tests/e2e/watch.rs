//! Watch streams of the built server.

use std::time::Duration;

use baton_proto::etcdserverpb as pb;
use baton_test_cluster::process::Cluster;
use baton_test_cluster::watcher::{Stream, create_request};
use bytes::Bytes;

use crate::baton;

/// The next response; panics if there is none within half a minute.
async fn next(stream: &mut Stream) -> pb::WatchResponse {
    let message = tokio::time::timeout(Duration::from_secs(30), stream.responses.message()).await;
    message
        .expect("a response in time")
        .expect("a working stream")
        .expect("an open stream")
}

#[tokio::test]
async fn reconnecting_watchers_of_a_compacted_store_miss_nothing_and_see_nothing_twice() {
    let coverage = baton_test_cluster::watch::run(&baton(), 3, 10)
        .await
        .unwrap_or_else(|error| panic!("{error:#}"));
    eprintln!("{coverage:?}");
    assert!(
        coverage.reconnects > 0,
        "no watcher reconnected: {coverage:?}"
    );
    assert!(coverage.events > 0, "no watcher saw anything: {coverage:?}");
}

/// etcd lost this event until 3.5.17 (its issue 18089).
#[tokio::test]
async fn a_delete_at_the_compacted_revision_is_still_delivered() {
    let cluster = Cluster::start(&baton(), 1)
        .await
        .expect("the server starts");
    let client = cluster.members[0].client();
    for value in ["1", "2", "3"] {
        client.put("k", value).await.expect("put");
    }
    let delete = pb::DeleteRangeRequest {
        key: Bytes::from_static(b"k"),
        ..Default::default()
    };
    let deleted = client
        .kv()
        .delete_range(delete)
        .await
        .expect("delete")
        .into_inner();
    let deleted_at = deleted.header.expect("a header").revision;
    client.put("k", "4").await.expect("put");
    let compact = pb::CompactionRequest {
        revision: deleted_at,
        physical: true,
    };
    client.kv().compact(compact).await.expect("compact");

    let mut stream = Stream::of_everything(&client, deleted_at)
        .await
        .expect("a stream");
    assert!(next(&mut stream).await.created);
    let mut seen = Vec::new();
    while seen.len() < 2 {
        seen.extend(next(&mut stream).await.events.iter().map(|event| {
            let revision = event
                .kv
                .as_ref()
                .map(|kv| kv.mod_revision)
                .unwrap_or_default();
            (event.r#type(), revision)
        }));
    }
    use baton_proto::mvccpb::event::EventType;
    assert_eq!(
        seen,
        [
            (EventType::Delete, deleted_at),
            (EventType::Put, deleted_at + 1)
        ]
    );
}

#[tokio::test]
async fn a_progress_response_comes_after_the_events_it_stands_for() {
    let cluster = Cluster::start(&baton(), 1)
        .await
        .expect("the server starts");
    let client = cluster.members[0].client();
    let mut last = 0;
    for number in 0..500 {
        last = client.put(format!("k{number}"), "v").await.expect("put");
    }
    let mut stream = Stream::of_everything(&client, 2).await.expect("a stream");
    let mut delivered = 0;
    let ask = pb::WatchRequest {
        request_union: Some(pb::watch_request::RequestUnion::ProgressRequest(
            pb::WatchProgressRequest {},
        )),
    };
    loop {
        // Asked again and again, as it is not answered while the watcher is behind.
        stream
            .requests
            .try_send(ask.clone())
            .expect("the stream takes requests");
        let response = next(&mut stream).await;
        if let Some(event) = response.events.last() {
            delivered = event
                .kv
                .as_ref()
                .map(|kv| kv.mod_revision)
                .unwrap_or_default();
        } else if !response.created {
            let progress = response.header.expect("a header").revision;
            assert_eq!(response.watch_id, -1);
            assert!(
                progress <= delivered,
                "progress {progress} was promised after events up to {delivered}"
            );
            if progress == last {
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_response_too_large_for_clients_is_sent_in_fragments_if_asked_for() {
    let cluster = Cluster::start(&baton(), 1)
        .await
        .expect("the server starts");
    let client = cluster.members[0].client();
    for number in 0..8 {
        client
            .put(format!("k{number}"), vec![b'v'; 900_000])
            .await
            .expect("put");
    }
    let create = pb::WatchCreateRequest {
        key: Bytes::from_static(b"k"),
        range_end: Bytes::from_static(b"l"),
        start_revision: 2,
        fragment: true,
        ..Default::default()
    };
    let mut stream = Stream::open(&client, create_request(create))
        .await
        .expect("a stream");
    assert!(next(&mut stream).await.created);
    let mut revisions = Vec::new();
    while revisions.len() < 8 {
        let response = next(&mut stream).await;
        let size: usize = response
            .events
            .iter()
            .filter_map(|event| event.kv.as_ref())
            .map(|kv| kv.value.len())
            .sum();
        assert!(size < 2_097_152, "a part of {size} bytes");
        revisions.extend(
            response
                .events
                .iter()
                .filter_map(|event| Some(event.kv.as_ref()?.mod_revision)),
        );
    }
    assert_eq!(revisions, (2..10).collect::<Vec<i64>>());
}
