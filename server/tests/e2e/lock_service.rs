//! `v3lockpb.Lock` as its callers meet it.

use baton_proto::v3lockpb as pb;
use bytes::Bytes;
use tonic::{Code, Request};

use crate::line::{
    Site, grant, line_at, lock, refusal, revoke, token, unlock, until_line_has, until_line_is,
};

#[tokio::test]
async fn a_free_lock_is_granted_at_the_revision_that_made_its_key() {
    let site = Site::of(1).await;
    let lease = grant(site.client(), 60).await;
    let answer = lock(site.client(), "job", lease).answer().await.unwrap();
    let token = token(&answer);
    let answer = answer.into_inner();
    assert_eq!(answer.key, format!("job/{lease:x}"));
    let (line, _) = line_at(site.client(), "job").await;
    assert_eq!(line.len(), 1);
    assert_eq!((line[0].lease, &line[0].value[..]), (lease, &b""[..]));
    assert_eq!(line[0].create_revision, token);
    assert_eq!(answer.header.unwrap().revision, token);
}

#[tokio::test]
async fn a_lock_goes_from_one_to_the_next_in_the_order_of_their_creation() {
    let site = Site::of(1).await;
    let client = site.client();
    let mut waiting = Vec::new();
    let mut leases = Vec::new();
    for _ in 0..5 {
        let lease = grant(client, 60).await;
        leases.push(lease);
        waiting.push(lock(client, "job", lease));
        until_line_is(client, "job", &leases).await;
    }
    let mut last = 0;
    let mut released_at = None;
    for (turn, call) in waiting.into_iter().enumerate() {
        let answer = call.answer().await.unwrap();
        let granted = answer.get_ref().header.as_ref().unwrap().revision;
        assert!(token(&answer) > last, "tokens grow");
        last = token(&answer);
        if let Some(released_at) = released_at {
            assert_eq!(granted, released_at, "the release made it the holder");
        }
        until_line_is(client, "job", &leases[turn..]).await;
        released_at = Some(unlock(client, &answer.get_ref().key).await);
    }
    until_line_has(client, "job", 0).await;
}

/// Xline compares with the revision of the transaction instead, and waits for itself.
#[tokio::test]
async fn locking_again_by_the_same_lease_returns_at_once_with_the_same_token() {
    let site = Site::of(1).await;
    let lease = grant(site.client(), 60).await;
    let first = lock(site.client(), "job", lease).answer().await.unwrap();
    let again = lock(site.client(), "job", lease).answer().await.unwrap();
    assert_eq!(token(&first), token(&again));
    assert_eq!(first.into_inner().key, again.into_inner().key);
    until_line_is(site.client(), "job", &[lease]).await;
}

#[tokio::test]
async fn a_waiter_that_goes_away_leaves_no_key_and_its_successor_waits_for_the_one_before() {
    let site = Site::of(1).await;
    let client = site.client();
    let mut leases = Vec::new();
    let mut calls = Vec::new();
    for _ in 0..3 {
        let lease = grant(client, 60).await;
        leases.push(lease);
        calls.push(lock(client, "job", lease));
        until_line_is(client, "job", &leases).await;
    }
    let last = calls.pop().unwrap();
    calls.pop().unwrap().abort().await;
    until_line_is(client, "job", &[leases[0], leases[2]]).await;
    assert!(!last.is_answered(), "it does not hold what another holds");
    let holder = calls.pop().unwrap().answer().await.unwrap();
    unlock(client, &holder.into_inner().key).await;
    last.answer().await.unwrap();
    until_line_is(client, "job", &[leases[2]]).await;
}

#[tokio::test]
async fn a_waiter_whose_lease_is_revoked_is_told_at_once_while_the_holder_still_holds() {
    let site = Site::of(1).await;
    let client = site.client();
    let holder = grant(client, 60).await;
    lock(client, "job", holder).answer().await.unwrap();
    let lease = grant(client, 60).await;
    let waiting = lock(client, "job", lease);
    until_line_has(client, "job", 2).await;
    revoke(client, lease).await;
    assert_eq!(
        refusal(waiting.answer().await),
        (Code::Unknown, "mutex: session is expired".to_owned())
    );
    until_line_is(client, "job", &[holder]).await;
}

#[tokio::test]
async fn refusals_are_worded_as_by_etcd() {
    let site = Site::of(1).await;
    let client = site.client();
    assert_eq!(
        refusal(lock(client, "job", 4711).answer().await),
        (
            Code::Unknown,
            "etcdserver: requested lease not found".to_owned()
        )
    );
    let nothing = pb::UnlockRequest::default();
    assert_eq!(
        refusal(client.lock().unlock(nothing).await),
        (Code::Unknown, "etcdserver: key is not provided".to_owned())
    );
    let missing = pb::UnlockRequest {
        key: Bytes::from_static(b"job/1"),
    };
    client.lock().unlock(missing).await.expect("nothing to do");
}

#[tokio::test]
async fn an_unlock_that_names_an_older_token_leaves_the_newer_key_of_the_session_alone() {
    let site = Site::of(1).await;
    let client = site.client();
    let lease = grant(client, 60).await;
    let first = lock(client, "job", lease).answer().await.unwrap();
    let first_token = token(&first);
    let key = first.into_inner().key;
    unlock(client, &key).await;
    let second = lock(client, "job", lease).answer().await.unwrap();
    let with_token = |token: i64| {
        let mut request = Request::new(pb::UnlockRequest { key: key.clone() });
        request
            .metadata_mut()
            .insert("baton-fencing-token", token.into());
        request
    };
    let late = client.lock().unlock(with_token(first_token)).await;
    late.expect("its hold is over");
    until_line_is(client, "job", &[lease]).await;
    let right = client.lock().unlock(with_token(token(&second))).await;
    right.expect("unlocked");
    until_line_has(client, "job", 0).await;
}
