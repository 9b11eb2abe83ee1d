//! What the contract says beyond what an older etcd can be compared in.

use std::time::Duration;

use baton_proto::etcdserverpb as pb;
use baton_test_cluster::client::Client;
use baton_test_cluster::process::{Cluster, poll_again};
use baton_test_cluster::watcher::{Stream, create_request};
use bytes::Bytes;
use pb::range_request::SortOrder;
use pb::request_op::Request as Op;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Status};

use crate::baton;

async fn single() -> Cluster {
    Cluster::start(&baton(), 1)
        .await
        .expect("the server starts")
}

/// The next response; panics if there is none within half a minute.
async fn next(stream: &mut Stream) -> pb::WatchResponse {
    let message = tokio::time::timeout(Duration::from_secs(30), stream.responses.message()).await;
    message
        .expect("a response in time")
        .expect("a working stream")
        .expect("an open stream")
}

fn told(status: &Status) -> (Code, &str) {
    (status.code(), status.message())
}

fn all_of(prefix: &'static str, end: &'static str) -> pb::RangeRequest {
    pb::RangeRequest {
        key: prefix.into(),
        range_end: end.into(),
        ..pb::RangeRequest::default()
    }
}

async fn streamed(client: &Client, request: pb::RangeRequest) -> Vec<pb::RangeResponse> {
    let mut stream = client
        .kv()
        .range_stream(request)
        .await
        .expect("a stream")
        .into_inner();
    let mut parts = Vec::new();
    while let Some(part) = stream.message().await.expect("a working stream") {
        parts.push(part.range_response.expect("a response"));
    }
    parts
}

#[tokio::test]
async fn a_streamed_range_is_the_range_in_parts_and_the_last_has_the_rest() {
    let cluster = single().await;
    let client = cluster.members[0].client();
    for number in 0..45 {
        client.put(format!("k{number:02}"), "v").await.expect("put");
    }
    for request in [
        all_of("k", "l"),
        pb::RangeRequest {
            limit: 30,
            revision: 40,
            ..all_of("k", "l")
        },
        pb::RangeRequest {
            count_only: true,
            ..all_of("k", "l")
        },
        all_of("nothing", ""),
    ] {
        let whole = client
            .kv()
            .range(request.clone())
            .await
            .expect("range")
            .into_inner();
        let mut parts = streamed(&client, request.clone()).await;
        let last = parts.pop().expect("at least one part");
        assert!(!parts.is_empty() || whole.kvs.len() <= 10, "{request:?}");
        assert_eq!(
            (&last.header, last.more, last.count),
            (&whole.header, whole.more, whole.count)
        );
        for part in &parts {
            assert_eq!((&part.header, part.more, part.count), (&None, false, 0));
        }
        let kvs: Vec<_> = parts
            .into_iter()
            .chain([last])
            .flat_map(|part| part.kvs)
            .collect();
        assert_eq!(kvs, whole.kvs);
    }
}

#[tokio::test]
async fn a_streamed_range_refuses_what_has_no_key_order() {
    let cluster = single().await;
    let client = cluster.members[0].client();
    let refusals = [
        (
            pb::RangeRequest {
                sort_order: SortOrder::Descend.into(),
                ..all_of("k", "l")
            },
            Code::Unimplemented,
            "RangeStream does not support custom sort orders",
        ),
        (
            pb::RangeRequest {
                min_mod_revision: 1,
                ..all_of("k", "l")
            },
            Code::Unimplemented,
            "RangeStream does not support revision filters",
        ),
        (
            pb::RangeRequest {
                revision: 99,
                ..all_of("k", "l")
            },
            Code::OutOfRange,
            "etcdserver: mvcc: required revision is a future revision",
        ),
    ];
    for (request, code, text) in refusals {
        let refusal = client.kv().range_stream(request).await.expect_err(text);
        assert_eq!(told(&refusal), (code, text));
    }
}

#[tokio::test]
async fn an_unknown_sort_order_is_refused_in_a_transaction_too() {
    let cluster = single().await;
    let client = cluster.members[0].client();
    let range = pb::RangeRequest {
        sort_order: 7,
        ..all_of("k", "l")
    };
    let txn = pb::TxnRequest {
        success: vec![pb::RequestOp {
            request: Some(Op::RequestRange(range)),
        }],
        ..pb::TxnRequest::default()
    };
    let refusal = client.kv().txn(txn).await.expect_err("a refusal");
    assert_eq!(
        told(&refusal),
        (Code::InvalidArgument, "etcdserver: invalid sort option")
    );
}

#[tokio::test]
async fn calls_of_later_versions_are_answered_with_a_sentence() {
    let cluster = single().await;
    let client = cluster.members[0].client();
    let (mut members, mut maintenance) = (client.cluster(), client.maintenance());
    let refusals = [
        members
            .member_add(pb::MemberAddRequest::default())
            .await
            .expect_err("no members are added"),
        members
            .member_promote(pb::MemberPromoteRequest::default())
            .await
            .expect_err("no members are promoted"),
        maintenance
            .snapshot(pb::SnapshotRequest {})
            .await
            .expect_err("no snapshots"),
        maintenance
            .downgrade(pb::DowngradeRequest::default())
            .await
            .expect_err("no downgrade"),
    ];
    for refusal in refusals {
        assert_eq!(refusal.code(), Code::Unimplemented);
        assert!(
            refusal
                .message()
                .contains("is not implemented: this version"),
            "{}",
            refusal.message()
        );
    }
}

#[tokio::test]
async fn what_a_member_says_of_itself_is_what_tools_expect() {
    let cluster = single().await;
    let client = cluster.members[0].client();
    client.put("k", "v").await.expect("put");
    let status = client.status().await.expect("status");
    let header = status.header.expect("a header");
    assert_eq!(status.leader, header.member_id);
    assert_eq!(header.revision, 2);
    assert!(status.db_size > 0 && status.db_size_in_use <= status.db_size);
    assert_eq!(status.db_size_quota, 2 << 30);
    assert_eq!(status.storage_version, "3.6.0");
    assert_eq!(status.errors, Vec::<String>::new());
    let list = client
        .cluster()
        .member_list(pb::MemberListRequest { linearizable: true })
        .await
        .expect("a list")
        .into_inner();
    assert_eq!(list.header.expect("a header").revision, 0);
    assert_eq!(list.members.len(), 1);
    let defragmented = client
        .maintenance()
        .defragment(pb::DefragmentRequest {})
        .await
        .expect("defragment")
        .into_inner();
    assert_eq!(defragmented.header, None);
}

#[tokio::test]
async fn leadership_is_moved_by_the_leader_to_a_voter_only() {
    let mut cluster = Cluster::start(&baton(), 3)
        .await
        .expect("the cluster starts");
    let leader = cluster.leader().await.expect("a leader");
    let (at_leader, at_follower) = (
        cluster.members[leader].client(),
        cluster.members[(leader + 1) % 3].client(),
    );
    let follower = at_follower.status().await.expect("status");
    let follower = follower.header.expect("a header").member_id;
    let to = |target_id| pb::MoveLeaderRequest { target_id };
    let refusal = at_follower
        .maintenance()
        .move_leader(to(follower))
        .await
        .expect_err("a follower");
    assert_eq!(
        told(&refusal),
        (Code::FailedPrecondition, "etcdserver: not leader")
    );
    let refusal = at_leader
        .maintenance()
        .move_leader(to(1))
        .await
        .expect_err("nobody");
    assert_eq!(
        told(&refusal),
        (
            Code::FailedPrecondition,
            "etcdserver: bad leader transferee"
        )
    );
    let moved = at_leader
        .maintenance()
        .move_leader(to(follower))
        .await
        .expect("a move")
        .into_inner();
    assert_eq!(moved.header, None);
    let leader = at_leader.status().await.expect("status").leader;
    assert_eq!(leader, follower);
}

#[tokio::test]
async fn a_watch_of_a_negative_revision_is_refused_as_it_is_created() {
    let cluster = single().await;
    let client = cluster.members[0].client();
    let create = create_request(pb::WatchCreateRequest {
        key: "k".into(),
        start_revision: -1,
        ..pb::WatchCreateRequest::default()
    });
    let mut stream = Stream::open(&client, create).await.expect("a stream");
    let response = next(&mut stream).await;
    assert!(response.created && response.canceled);
    assert_eq!(response.watch_id, -1);
    assert_eq!(
        response.cancel_reason,
        "etcdserver: mvcc: required revision has been compacted"
    );
}

#[tokio::test]
async fn a_quiet_watch_is_told_of_progress_by_the_clock_if_it_wants_to() {
    let program = baton().flag("--watch-progress-notify-interval=100ms");
    let cluster = Cluster::start(&program, 1).await.expect("a server");
    let client = cluster.members[0].client();
    let create = |progress_notify, watch_id| {
        create_request(pb::WatchCreateRequest {
            key: "quiet".into(),
            progress_notify,
            watch_id,
            ..pb::WatchCreateRequest::default()
        })
    };
    let mut stream = Stream::open(&client, create(false, 5))
        .await
        .expect("a stream");
    let wanted = stream.requests.try_send(create(true, 6));
    wanted.expect("the stream takes requests");
    for _ in 0..2 {
        assert!(next(&mut stream).await.created);
    }
    let revision = client.put("elsewhere", "v").await.expect("put");
    loop {
        let response = next(&mut stream).await;
        assert_eq!((response.watch_id, response.events.len()), (6, 0));
        if response.header.expect("a header").revision == revision {
            break;
        }
    }
}

#[tokio::test]
async fn a_client_that_wants_a_leader_is_refused_where_there_is_none() {
    let mut cluster = Cluster::start(&baton(), 3)
        .await
        .expect("the cluster starts");
    let client = cluster.members[0].client();
    let with_leader = || {
        let mut request = Request::new(pb::RangeRequest {
            key: Bytes::from_static(b"k"),
            serializable: true,
            ..pb::RangeRequest::default()
        });
        let wish = MetadataValue::from_static("true");
        request.metadata_mut().insert("hasleader", wish);
        request
    };
    client.kv().range(with_leader()).await.expect("a leader");
    cluster.members[1].kill();
    cluster.members[2].kill();
    let lost = async {
        while client.status().await.is_ok_and(|status| status.leader != 0) {
            poll_again().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), lost)
        .await
        .expect("the loss of the leader is noticed");
    let refusal = client.kv().range(with_leader()).await;
    assert_eq!(
        told(&refusal.expect_err("no leader")),
        (Code::Unavailable, "etcdserver: no leader")
    );
    let errors = client.status().await.expect("status").errors;
    assert_eq!(errors, ["etcdserver: no leader"]);
}

#[tokio::test]
async fn a_client_version_that_is_no_text_is_refused() {
    let cluster = single().await;
    let client = cluster.members[0].client();
    let mut request = Request::new(all_of("k", "l"));
    let version = MetadataValue::try_from(&b"3.\xff"[..]).expect("opaque bytes");
    request.metadata_mut().insert("client-api-version", version);
    let refusal = client.kv().range(request).await.expect_err("a refusal");
    assert_eq!(
        told(&refusal),
        (
            Code::InvalidArgument,
            "etcdserver: invalid client api version"
        )
    );
}
