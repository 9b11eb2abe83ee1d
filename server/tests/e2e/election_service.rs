//! `v3electionpb.Election` as its callers meet it.

use baton_proto::v3electionpb as pb;
use baton_test_cluster::client::Client;
use bytes::Bytes;
use tonic::{Code, Streaming};

use crate::line::{
    PATIENCE, Site, campaign, grant, line_at, refusal, revoke, token, until_line_has, until_line_is,
};

fn text(bytes: &Bytes) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

async fn proclaim(
    client: &Client,
    leader: Option<pb::LeaderKey>,
    value: &str,
) -> Result<tonic::Response<pb::ProclaimResponse>, tonic::Status> {
    let request = pb::ProclaimRequest {
        leader,
        value: Bytes::from(value.to_owned()),
    };
    client.election().proclaim(request).await
}

async fn resign(
    client: &Client,
    leader: Option<pb::LeaderKey>,
) -> Result<tonic::Response<pb::ResignResponse>, tonic::Status> {
    client.election().resign(pb::ResignRequest { leader }).await
}

fn named(name: &str) -> pb::LeaderRequest {
    pb::LeaderRequest {
        name: Bytes::from(name.to_owned()),
    }
}

async fn observe(client: &Client, name: &str) -> Streaming<pb::LeaderResponse> {
    let stream = client.election().observe(named(name)).await;
    stream.expect("a stream").into_inner()
}

/// The lease and the value of the leader that is told of next.
async fn next(stream: &mut Streaming<pb::LeaderResponse>) -> (i64, String) {
    let message = tokio::time::timeout(PATIENCE, stream.message()).await;
    let response = message.expect("in time").expect("no error");
    let kv = response.expect("an open stream").kv.expect("a pair");
    (kv.lease, text(&kv.value))
}

/// Wins the election, which is free.
async fn win(client: &Client, name: &str, value: &str) -> pb::LeaderKey {
    let lease = grant(client, 60).await;
    let answer = campaign(client, name, lease, value).answer().await;
    answer.expect("it wins").into_inner().leader.expect("a key")
}

#[tokio::test]
async fn who_wins_a_campaign_has_a_key_with_its_place_and_its_lease() {
    let site = Site::of(1).await;
    let client = site.client();
    let lease = grant(client, 60).await;
    let answer = campaign(client, "post", lease, "me")
        .answer()
        .await
        .unwrap();
    let token = token(&answer);
    let answer = answer.into_inner();
    let leader = answer.leader.unwrap();
    assert_eq!(leader.name, "post");
    assert_eq!(leader.key, format!("post/{lease:x}"));
    assert_eq!((leader.rev, leader.lease), (token, lease));
    assert_eq!(answer.header.unwrap().revision, token);
    let told = client.election().leader(named("post")).await.unwrap();
    let kv = told.into_inner().kv.unwrap();
    assert_eq!((kv.create_revision, text(&kv.value)), (token, "me".into()));
}

#[tokio::test]
async fn campaigning_again_with_another_value_proclaims_it_and_keeps_the_place() {
    let site = Site::of(1).await;
    let client = site.client();
    let lease = grant(client, 60).await;
    let first = campaign(client, "post", lease, "old")
        .answer()
        .await
        .unwrap();
    let again = campaign(client, "post", lease, "new")
        .answer()
        .await
        .unwrap();
    assert_eq!(token(&first), token(&again));
    let (line, _) = line_at(client, "post").await;
    assert_eq!(line.len(), 1);
    assert_eq!(text(&line[0].value), "new");
    assert_eq!(
        (line[0].create_revision, line[0].lease),
        (token(&first), lease)
    );
}

/// etcd answers the candidate with success when its turn comes, and nobody leads.
#[tokio::test]
async fn a_candidate_whose_lease_is_revoked_is_told_at_once_and_never_wins() {
    let site = Site::of(1).await;
    let client = site.client();
    let leader = win(client, "post", "first").await;
    let lease = grant(client, 60).await;
    let waiting = campaign(client, "post", lease, "second");
    until_line_has(client, "post", 2).await;
    revoke(client, lease).await;
    assert_eq!(
        refusal(waiting.answer().await),
        (Code::Unknown, "election: session is expired".to_owned())
    );
    resign(client, Some(leader)).await.unwrap();
    assert_eq!(
        refusal(client.election().leader(named("post")).await),
        (Code::Unknown, "election: no leader".to_owned())
    );
}

#[tokio::test]
async fn refusals_are_worded_as_by_etcd() {
    let site = Site::of(1).await;
    let client = site.client();
    let unset = (
        Code::Unknown,
        "\"leader\" field must be provided".to_owned(),
    );
    assert_eq!(refusal(proclaim(client, None, "v").await), unset);
    assert_eq!(refusal(resign(client, None).await), unset);
    assert_eq!(
        refusal(campaign(client, "post", 4711, "v").answer().await),
        (
            Code::Unknown,
            "etcdserver: requested lease not found".to_owned()
        )
    );
    let leader = win(client, "post", "v").await;
    let not_leader = (Code::Unknown, "election: not leader".to_owned());
    let stale = pb::LeaderKey {
        rev: leader.rev - 1,
        ..leader.clone()
    };
    assert_eq!(
        refusal(proclaim(client, Some(stale.clone()), "w").await),
        not_leader
    );
    resign(client, Some(stale)).await.expect("without effect");
    until_line_is(client, "post", &[leader.lease]).await;
    resign(client, Some(leader.clone())).await.unwrap();
    for rev in [leader.rev, 0, -1] {
        let deposed = pb::LeaderKey {
            rev,
            ..leader.clone()
        };
        assert_eq!(
            refusal(proclaim(client, Some(deposed), "w").await),
            not_leader
        );
    }
    until_line_has(client, "post", 0).await;
}

#[tokio::test]
async fn an_observer_is_told_every_leader_and_every_value_of_it_and_nothing_else() {
    let site = Site::of(1).await;
    let client = site.client();
    let mut stream = observe(client, "post").await;
    let first = win(client, "post", "a").await;
    assert_eq!(next(&mut stream).await, (first.lease, "a".into()));

    let lease = grant(client, 60).await;
    let second = campaign(client, "post", lease, "b");
    until_line_has(client, "post", 2).await;
    // A candidate that does not lead, and a key under the name that is no candidate's.
    let (key, value) = (format!("post/{lease:x}"), "c".to_owned());
    let put = baton_proto::etcdserverpb::PutRequest {
        key: key.into(),
        value: value.into(),
        lease,
        ..Default::default()
    };
    client.kv().put(put).await.unwrap();
    client.put("post/zzz", "d").await.unwrap();
    proclaim(client, Some(first.clone()), "a2").await.unwrap();
    assert_eq!(next(&mut stream).await, (first.lease, "a2".into()));

    resign(client, Some(first)).await.unwrap();
    let second = second.answer().await.unwrap().into_inner().leader.unwrap();
    assert_eq!(next(&mut stream).await, (second.lease, "c".into()));
    // The key that was put has no lease, and leads in its turn.
    revoke(client, second.lease).await;
    assert_eq!(next(&mut stream).await, (0, "d".into()));
    client.put("post/zzz", "e").await.unwrap();
    assert_eq!(next(&mut stream).await, (0, "e".into()));

    let mut late = observe(client, "post").await;
    assert_eq!(next(&mut late).await, (0, "e".into()));
}

#[tokio::test]
async fn leaders_that_follow_each_other_fast_are_each_told_of() {
    let site = Site::of(1).await;
    let client = site.client();
    let first = win(client, "post", "first").await;
    let mut stream = observe(client, "post").await;
    assert_eq!(next(&mut stream).await.1, "first");
    for number in 1..100 {
        let key = format!("post/{number}");
        client.put(key, number.to_string()).await.unwrap();
    }
    // Together, so that the store is further than the observer when it looks.
    let deletions = (1..100).map(|number| async move {
        let request = baton_proto::etcdserverpb::DeleteRangeRequest {
            key: format!("post/{number}").into(),
            ..Default::default()
        };
        let deleted = client.kv().delete_range(request).await.unwrap();
        (deleted.into_inner().header.unwrap().revision, number)
    });
    let resignation = async {
        let resigned = resign(client, Some(first.clone())).await.unwrap();
        resigned.into_inner().header.unwrap().revision
    };
    let (resigned_at, mut deleted) =
        tokio::join!(resignation, futures_util::future::join_all(deletions));
    win(client, "post", "last").await;
    deleted.sort_unstable();
    let mut standing: Vec<i32> = (1..100).collect();
    let mut expected = Vec::new();
    for revision in resigned_at..=deleted.last().unwrap().0.max(resigned_at) {
        let gone: Vec<i32> = deleted
            .iter()
            .filter(|(at, _)| *at <= revision)
            .map(|(_, number)| *number)
            .collect();
        standing.retain(|number| !gone.contains(number));
        expected.extend(standing.first().map(i32::to_string));
    }
    expected.push("last".into());
    expected.dedup();
    for value in expected {
        assert_eq!(next(&mut stream).await.1, value);
    }
}
