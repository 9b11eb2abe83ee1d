//! Bugs of the services, asked through their own clients.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use baton_proto::etcdserverpb as pb;
use baton_proto::etcdserverpb::kv_client::KvClient;
use baton_proto::etcdserverpb::watch_client::WatchClient;
use baton_proto::etcdserverpb::watch_request::RequestUnion;
use baton_proto::v3electionpb::LeaderRequest;
use baton_proto::v3electionpb::election_client::ElectionClient;
use batond::chaos::Mutant;
use tonic::Streaming;
use tonic::service::Routes;

use crate::is_broken_by;
use crate::sim_cluster::{Cluster, MEMBERS, services, with_cluster};

/// What `story` tells of a cluster that serves.
fn told<F: Future<Output = bool>>(story: impl FnOnce(Arc<Cluster>) -> F) -> bool {
    let told = Cell::new(false);
    with_cluster(1, |cluster| async {
        told.set(story(cluster).await);
    });
    told.get()
}

fn put(key: &str, value: Vec<u8>) -> pb::PutRequest {
    pb::PutRequest {
        key: key.to_owned().into(),
        value: value.into(),
        ..Default::default()
    }
}

#[test]
fn a_member_that_is_cut_off_answers_no_linearizable_read() {
    is_broken_by(Mutant::LocalReads, || {
        told(|cluster| async move {
            let cut_off = cluster.leader() % MEMBERS + 1;
            cluster.net.cut(|a, b| a == cut_off || b == cut_off);
            let request = pb::RangeRequest {
                key: "k".into(),
                ..Default::default()
            };
            let mut kv = KvClient::new(services(&cluster, cut_off));
            let read = tokio::time::timeout(Duration::from_millis(500), kv.range(request)).await;
            !matches!(read, Ok(Ok(_)))
        })
    });
}

/// Opens a watch of all keys from revision 1 on, followed by `then`.
async fn watch(routes: Routes, then: Option<RequestUnion>) -> Streaming<pb::WatchResponse> {
    let create = pb::WatchCreateRequest {
        key: [0].to_vec().into(),
        range_end: [0].to_vec().into(),
        start_revision: 1,
        ..Default::default()
    };
    let requests = [Some(RequestUnion::CreateRequest(create)), then];
    let requests: Vec<_> = requests
        .into_iter()
        .flatten()
        .map(|request| pb::WatchRequest {
            request_union: Some(request),
        })
        .collect();
    let mut client = WatchClient::new(routes);
    let opened = client.watch(tokio_stream::iter(requests)).await;
    opened.expect("a watch").into_inner()
}

#[test]
fn the_events_of_one_revision_come_together() {
    is_broken_by(Mutant::SplitEvents, || {
        told(|cluster| async move {
            let routes = services(&cluster, cluster.leader());
            let puts = ["a", "b"].map(|key| pb::RequestOp {
                request: Some(pb::request_op::Request::RequestPut(put(key, vec![]))),
            });
            let both = pb::TxnRequest {
                success: puts.to_vec(),
                ..Default::default()
            };
            let mut kv = KvClient::new(routes.clone());
            kv.txn(both).await.expect("a transaction");
            let mut watch = watch(routes, None).await;
            loop {
                let response = watch
                    .message()
                    .await
                    .expect("a message")
                    .expect("a message");
                if !response.created {
                    return response.events.len() == 2;
                }
            }
        })
    });
}

#[test]
fn progress_is_not_told_ahead_of_events() {
    is_broken_by(Mutant::ProgressAhead, || {
        told(|cluster| async move {
            let routes = services(&cluster, cluster.leader());
            let mut kv = KvClient::new(routes.clone());
            // More than one response holds.
            for number in 0..40 {
                let put = put(&format!("{number}"), vec![7; 100_000]);
                kv.put(put).await.expect("a put");
            }
            let progress = RequestUnion::ProgressRequest(pb::WatchProgressRequest {});
            let mut watch = watch(routes, Some(progress)).await;
            let mut seen = 0;
            loop {
                let response = watch
                    .message()
                    .await
                    .expect("a message")
                    .expect("a message");
                seen += response.events.len();
                if !response.created && response.events.is_empty() {
                    return seen == 40;
                }
            }
        })
    });
}

#[test]
fn an_observer_is_told_every_leader() {
    is_broken_by(Mutant::ObserveSkips, || {
        told(|cluster| async move {
            let routes = services(&cluster, cluster.leader());
            let mut kv = KvClient::new(routes.clone());
            kv.put(put("e/1", vec![1])).await.expect("a put");
            let request = LeaderRequest { name: "e".into() };
            let mut observed = ElectionClient::new(routes)
                .observe(request)
                .await
                .expect("an observer")
                .into_inner();
            let first = observed.message().await.expect("a leader");
            assert!(first.is_some());
            for next in [2, 3] {
                let key = format!("e/{next}");
                kv.put(put(&key, vec![next])).await.expect("a put");
                let before = pb::DeleteRangeRequest {
                    key: format!("e/{}", next - 1).into(),
                    ..Default::default()
                };
                kv.delete_range(before).await.expect("a delete");
            }
            let second = observed.message().await.expect("a leader");
            let second = second.and_then(|response| response.kv).expect("a leader");
            second.value[..] == [2]
        })
    });
}
