//! Requests no well-meaning client makes. Each gets an error, and the server goes on serving everyone else.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::time::Duration;

use baton_proto::etcdserverpb as pb;
use baton_test_cluster::process::Cluster;
use baton_test_cluster::watcher::{Stream, create_request};
use bytes::{Buf, Bytes};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use pb::request_op::Request as Op;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::transport::Endpoint;
use tonic::{Code, Status};
use tower::ServiceExt;

use crate::baton;

async fn server() -> Cluster {
    Cluster::start(&baton(), 1)
        .await
        .expect("the server starts")
}

/// Fails unless the same process still takes a put.
async fn still_serves(cluster: &mut Cluster) {
    assert!(
        cluster.members[0].is_running(),
        "the server ended:\n{}",
        cluster.members[0].log_tail()
    );
    cluster.members[0]
        .client()
        .put("after", "all that")
        .await
        .expect("a put after all that");
}

/// Sends bytes, closes its side, and reads what comes back until the server closes or ten seconds have passed.
async fn raw(cluster: &Cluster, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(cluster.members[0].address())
        .await
        .expect("a connection");
    // The server may close before it has read everything.
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await;
    answer
}

/// Posts a body as it is and returns the HTTP status and, if there is one, the gRPC status.
async fn post(
    cluster: &Cluster,
    path: &str,
    content_type: &str,
    body: Vec<u8>,
) -> (u16, Option<String>) {
    let endpoint = Endpoint::from_shared(cluster.members[0].url()).expect("a URL");
    let channel = endpoint.connect().await.expect("a connection");
    let request = http::Request::post(path)
        .header("content-type", content_type)
        .header("te", "trailers")
        .body(tonic::body::Body::new(Full::new(Bytes::from(body))))
        .expect("a request");
    let response = tokio::time::timeout(Duration::from_secs(20), channel.oneshot(request)).await;
    let response = response.expect("an answer in time").expect("an answer");
    let http_status = response.status().as_u16();
    let in_headers = response
        .headers()
        .get("grpc-status")
        .map(|value| value.to_str().expect("text").to_owned());
    let body = response.into_body().collect().await;
    let trailers = body.ok().and_then(|body| body.trailers().cloned());
    let in_trailers = trailers.and_then(|map| {
        map.get("grpc-status")
            .map(|v| v.to_str().expect("text").to_owned())
    });
    (http_status, in_headers.or(in_trailers))
}

/// A gRPC frame around a message.
fn frame(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("a small message");
    let mut frame = vec![0];
    frame.extend(length.to_be_bytes());
    frame.extend(message);
    frame
}

const PUT: &str = "/etcdserverpb.KV/Put";

#[tokio::test]
async fn garbage_on_the_socket_disturbs_nobody() {
    let mut cluster = server().await;
    for bytes in [
        &b""[..],
        b"\0",
        b"\xff\xfe\xfd\xfc\xfb\xfa",
        b"GET",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /health HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZZ\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x05\x01\x04\0\0\0\x01\xff\xff\xff\xff\xff",
    ] {
        raw(&cluster, bytes).await;
    }
    raw(&cluster, &vec![b'A'; 1 << 20]).await;
    let header_bomb = format!(
        "GET /health HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n",
        "y".repeat(1 << 20)
    );
    raw(&cluster, header_bomb.as_bytes()).await;
    still_serves(&mut cluster).await;
}

#[tokio::test]
async fn a_message_that_is_no_protobuf_is_refused() {
    let mut cluster = server().await;
    for message in [
        &b"\xff\xff\xff\xff"[..],
        b"\x0a\xff\xff\xff\xff\x0f",
        b"\x0a\x05ab",
        b"\x08\x01",
        b"\x07",
    ] {
        let (_, status) = post(&cluster, PUT, "application/grpc", frame(message)).await;
        assert!(
            status.as_deref().is_some_and(|status| status != "0"),
            "{message:?} got {status:?}"
        );
    }
    still_serves(&mut cluster).await;
}

#[tokio::test]
async fn a_frame_that_ends_early_or_lies_about_its_length_is_refused() {
    let mut cluster = server().await;
    let cases: [&[u8]; 5] = [
        b"",
        b"\0\0",
        b"\0\0\0\0\x09abc",
        b"\0\xff\xff\xff\xff",
        b"\x01\0\0\0\x03abc",
    ];
    for body in cases {
        let (_, status) = post(&cluster, PUT, "application/grpc", body.to_vec()).await;
        assert!(
            status.as_deref().is_some_and(|status| status != "0"),
            "{body:?} got {status:?}"
        );
    }
    still_serves(&mut cluster).await;
}

#[tokio::test]
async fn another_content_type_or_an_unknown_method_is_refused() {
    let mut cluster = server().await;
    let good = frame(b"\x0a\x01k\x12\x01v");
    let (http_status, status) = post(&cluster, PUT, "text/plain", good.clone()).await;
    assert!(http_status >= 400 || status.is_some_and(|status| status != "0"));
    let (_, status) = post(
        &cluster,
        "/etcdserverpb.KV/Nothing",
        "application/grpc",
        good.clone(),
    )
    .await;
    assert_eq!(status.as_deref(), Some("12"));
    let (_, status) = post(&cluster, "/no.such.Service/Put", "application/grpc", good).await;
    assert_eq!(status.as_deref(), Some("12"));
    still_serves(&mut cluster).await;
}

#[tokio::test]
async fn a_request_above_the_limit_is_refused_with_etcds_words() {
    let mut cluster = server().await;
    let client = cluster.members[0].client();
    let put = |length| pb::PutRequest {
        key: Bytes::from_static(b"k"),
        value: Bytes::from(vec![b'v'; length]),
        ..Default::default()
    };
    let large = client
        .kv()
        .put(put(1_600_000))
        .await
        .expect_err("above the limit for requests");
    assert_eq!(
        (large.code(), large.message()),
        (Code::InvalidArgument, "etcdserver: request is too large")
    );
    let larger = client
        .kv()
        .put(put(2_200_000))
        .await
        .expect_err("above the limit for messages");
    assert_eq!(larger.code(), Code::ResourceExhausted);
    let expected = "grpc: received message larger than max (2200008 vs. 2097152)";
    assert_eq!(larger.message(), expected);
    still_serves(&mut cluster).await;
}

#[tokio::test]
async fn numbers_at_the_ends_of_their_range_are_answered() {
    let mut cluster = server().await;
    let client = cluster.members[0].client();
    client.put("k", "v").await.expect("put");
    let key = Bytes::from_static(b"k");
    let end = Bytes::from_static(b"\0");
    for extreme in [i64::MIN, -1, i64::MAX] {
        let range = pb::RangeRequest {
            key: key.clone(),
            range_end: end.clone(),
            limit: extreme,
            max_mod_revision: extreme,
            min_create_revision: extreme,
            ..Default::default()
        };
        client.kv().range(range).await.expect("a range");
        // These answer an error or not, as the contract has it; what counts is that they are answered.
        let range = pb::RangeRequest {
            key: key.clone(),
            revision: extreme,
            ..Default::default()
        };
        let _ = client.kv().range(range).await;
        let _ = client
            .kv()
            .compact(pb::CompactionRequest {
                revision: extreme,
                physical: true,
            })
            .await;
        let _ = client.hash_kv(extreme).await;
        let _ = client
            .lease()
            .lease_grant(pb::LeaseGrantRequest {
                ttl: extreme,
                id: extreme,
            })
            .await;
        let _ = client
            .lease()
            .lease_time_to_live(pb::LeaseTimeToLiveRequest {
                id: extreme,
                keys: true,
            })
            .await;
        let _ = client
            .lease()
            .lease_revoke(pb::LeaseRevokeRequest { id: extreme })
            .await;
        let put = pb::PutRequest {
            key: key.clone(),
            lease: extreme,
            ..Default::default()
        };
        assert_eq!(
            client
                .kv()
                .put(put)
                .await
                .expect_err("no such lease")
                .code(),
            Code::NotFound
        );
        let create = pb::WatchCreateRequest {
            key: key.clone(),
            start_revision: extreme,
            watch_id: extreme,
            ..Default::default()
        };
        let mut stream = Stream::open(&client, create_request(create))
            .await
            .expect("a stream");
        assert!(
            stream
                .responses
                .message()
                .await
                .expect("a response")
                .expect("a response")
                .created
        );
    }
    still_serves(&mut cluster).await;
}

#[tokio::test]
async fn unknown_enum_numbers_are_answered() {
    let mut cluster = server().await;
    let client = cluster.members[0].client();
    client.put("a", "1").await.expect("put");
    client.put("b", "2").await.expect("put");
    let everything = || pb::RangeRequest {
        key: Bytes::from_static(b"\0"),
        range_end: Bytes::from_static(b"\0"),
        ..Default::default()
    };
    let invalid = |status: Status| (status.code(), status.message().to_owned());
    for range in [
        pb::RangeRequest {
            sort_target: 77,
            ..everything()
        },
        pb::RangeRequest {
            sort_order: -1,
            ..everything()
        },
        pb::RangeRequest {
            sort_order: 1,
            sort_target: i32::MIN,
            ..everything()
        },
    ] {
        let refused = client.kv().range(range).await.expect_err("an unknown sort");
        assert_eq!(
            invalid(refused),
            (
                Code::InvalidArgument,
                "etcdserver: invalid sort option".to_owned()
            )
        );
    }
    let compare = pb::Compare {
        result: 99,
        target: 99,
        key: Bytes::from_static(b"a"),
        ..Default::default()
    };
    let txn = pb::TxnRequest {
        compare: vec![compare],
        ..Default::default()
    };
    let _ = client.kv().txn(txn).await;
    let _ = client
        .maintenance()
        .alarm(pb::AlarmRequest {
            action: 99,
            member_id: 1,
            alarm: 99,
        })
        .await;
    let create = pb::WatchCreateRequest {
        key: Bytes::from_static(b"a"),
        filters: vec![99, -1],
        ..Default::default()
    };
    let mut stream = Stream::open(&client, create_request(create))
        .await
        .expect("a stream");
    assert!(
        stream
            .responses
            .message()
            .await
            .expect("a response")
            .expect("a response")
            .created
    );
    still_serves(&mut cluster).await;
}

/// A transaction that holds a transaction that holds ... `depth` times, and a put in the innermost.
fn nested(depth: usize) -> pb::TxnRequest {
    let put = pb::PutRequest {
        key: Bytes::from_static(b"deep"),
        ..Default::default()
    };
    let mut txn = pb::TxnRequest {
        success: vec![pb::RequestOp {
            request: Some(Op::RequestPut(put)),
        }],
        ..Default::default()
    };
    for _ in 0..depth {
        txn = pb::TxnRequest {
            success: vec![pb::RequestOp {
                request: Some(Op::RequestTxn(txn)),
            }],
            ..Default::default()
        };
    }
    txn
}

#[tokio::test]
async fn deeply_nested_transactions_are_answered() {
    let mut cluster = server().await;
    let client = cluster.members[0].client();
    client
        .kv()
        .txn(nested(10))
        .await
        .expect("ten levels are no trouble");
    for depth in [60, 126, 127, 128, 400] {
        let _ = client.kv().txn(nested(depth)).await;
        still_serves(&mut cluster).await;
    }
}

#[tokio::test]
async fn a_transaction_of_many_operations_is_refused() {
    let mut cluster = server().await;
    let client = cluster.members[0].client();
    let put = |number: usize| {
        let key = Bytes::from(number.to_string());
        pb::RequestOp {
            request: Some(Op::RequestPut(pb::PutRequest {
                key,
                ..Default::default()
            })),
        }
    };
    let txn = pb::TxnRequest {
        success: (0..100_000).map(put).collect(),
        ..Default::default()
    };
    let refused = client.kv().txn(txn).await.expect_err("too many");
    assert_eq!(
        refused.message(),
        "etcdserver: too many operations in txn request"
    );
    still_serves(&mut cluster).await;
}

#[tokio::test]
async fn ten_thousand_watchers_on_one_stream_each_get_their_event() {
    const WATCHERS: usize = 10_000;
    let mut cluster = server().await;
    let client = cluster.members[0].client();
    let create = || pb::WatchCreateRequest {
        key: Bytes::from_static(b"watched"),
        ..Default::default()
    };
    let mut stream = Stream::open(&client, create_request(create()))
        .await
        .expect("a stream");
    let requests = stream.requests.clone();
    let asking = tokio::spawn(async move {
        for _ in 1..WATCHERS {
            requests
                .send(create_request(create()))
                .await
                .expect("an open stream");
        }
    });
    for _ in 0..WATCHERS {
        assert!(
            stream
                .responses
                .message()
                .await
                .expect("a response")
                .expect("a response")
                .created
        );
    }
    asking.await.expect("all asked");
    client.put("watched", "v").await.expect("put");
    let mut reached = BTreeSet::new();
    while reached.len() < WATCHERS {
        let message =
            tokio::time::timeout(Duration::from_secs(60), stream.responses.message()).await;
        let response = message
            .expect("in time")
            .expect("a response")
            .expect("a response");
        assert_eq!(response.events.len(), 1);
        assert!(
            reached.insert(response.watch_id),
            "watcher {} got the event twice",
            response.watch_id
        );
    }
    still_serves(&mut cluster).await;
}

#[tokio::test]
async fn a_hundred_thousand_small_messages_at_once_are_all_answered() {
    const MESSAGES: usize = 100_000;
    let cluster = server().await;
    let endpoint = Endpoint::from_shared(cluster.members[0].url()).expect("a URL");
    let channel = endpoint.connect().await.expect("a connection");
    // Each in a frame of its own, as Go's client sends them.
    let messages = (0..MESSAGES).map(|n| {
        let id = i64::try_from(n).expect("a small number") + 1;
        let message = pb::LeaseKeepAliveRequest { id }.encode_to_vec();
        Ok::<_, Infallible>(Frame::data(Bytes::from(frame(&message))))
    });
    let request = http::Request::post("/etcdserverpb.Lease/LeaseKeepAlive")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(tonic::body::Body::new(StreamBody::new(tokio_stream::iter(
            messages,
        ))))
        .expect("a request");
    let response = channel.oneshot(request).await.expect("an answer");
    let answers = response.into_body().collect().await;
    let answers = answers.expect("the connection stays");
    let status = answers.trailers().and_then(|map| map.get("grpc-status"));
    assert_eq!(status.expect("a status"), "0");
    let mut bytes = answers.to_bytes();
    let mut answered = 0;
    while bytes.has_remaining() {
        assert_eq!(bytes.get_u8(), 0, "not compressed");
        let length = bytes.get_u32() as usize;
        bytes.advance(length);
        answered += 1;
    }
    assert_eq!(answered, MESSAGES);
}

#[tokio::test]
async fn odd_requests_on_a_watch_stream_leave_it_working() {
    use pb::watch_request::RequestUnion;
    let mut cluster = server().await;
    let client = cluster.members[0].client();
    let request = |union| pb::WatchRequest {
        request_union: union,
    };
    let create = pb::WatchCreateRequest {
        key: Bytes::from_static(b"k"),
        ..Default::default()
    };
    let mut stream = Stream::open(&client, create_request(create))
        .await
        .expect("a stream");
    assert!(
        stream
            .responses
            .message()
            .await
            .expect("a response")
            .expect("a response")
            .created
    );
    let cancel = |watch_id| {
        Some(RequestUnion::CancelRequest(pb::WatchCancelRequest {
            watch_id,
        }))
    };
    for union in [
        None,
        cancel(7),
        cancel(-1),
        cancel(i64::MAX),
        cancel(i64::MIN),
    ] {
        stream
            .requests
            .send(request(union))
            .await
            .expect("an open stream");
    }
    client.put("k", "v").await.expect("put");
    assert_eq!(
        stream
            .responses
            .message()
            .await
            .expect("a response")
            .expect("a response")
            .events
            .len(),
        1
    );
    still_serves(&mut cluster).await;
}

#[tokio::test]
async fn connections_that_say_nothing_do_not_keep_others_out() {
    let mut cluster = server().await;
    let mut silent = Vec::new();
    for _ in 0..500 {
        silent.push(
            TcpStream::connect(cluster.members[0].address())
                .await
                .expect("a connection"),
        );
    }
    still_serves(&mut cluster).await;
}
