//! `v3lockpb.Lock` as its callers meet it.

use std::collections::BTreeSet;
use std::time::Duration;

use baton_proto::etcdserverpb::{
    LeaseGrantRequest, LeaseTimeToLiveRequest as TimeToLive, PutRequest,
};
use baton_proto::v3lockpb as pb;
use baton_test_cluster::client::Client;
use bytes::Bytes;
use tonic::{Code, Request};

use crate::line::{
    Call, Site, grant, line_at, lock, refusal, revoke, token, unlock, until_line_has,
    until_line_is, until_written_again,
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

/// Calls that stand in the line of `job` one behind the other, and their leases.
async fn stand_in_line(client: &Client, count: usize) -> (Vec<i64>, Vec<Call<pb::LockResponse>>) {
    let (mut leases, mut calls) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let lease = grant(client, 60).await;
        leases.push(lease);
        calls.push(lock(client, "job", lease));
        until_line_is(client, "job", &leases).await;
    }
    (leases, calls)
}

#[tokio::test]
async fn a_lock_goes_from_one_to_the_next_in_the_order_of_their_creation() {
    let site = Site::of(1).await;
    let client = site.client();
    let (leases, waiting) = stand_in_line(client, 5).await;
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
    site.client().put("k", "v").await.unwrap();
    let again = lock(site.client(), "job", lease).answer().await.unwrap();
    assert_eq!(token(&first), token(&again));
    assert_eq!(first.into_inner().key, again.into_inner().key);
    until_line_is(site.client(), "job", &[lease]).await;
}

#[tokio::test]
async fn a_waiter_that_goes_away_leaves_no_key_and_its_successor_waits_for_the_one_before() {
    let site = Site::of(1).await;
    let client = site.client();
    let (leases, mut calls) = stand_in_line(client, 3).await;
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

#[tokio::test]
async fn a_call_whose_deadline_passes_while_it_waits_leaves_no_key() {
    let site = Site::of(1).await;
    let client = site.client();
    let holder = grant(client, 60).await;
    lock(client, "job", holder).answer().await.unwrap();
    let lease = grant(client, 60).await;
    let mut request = Request::new(pb::LockRequest {
        name: Bytes::from_static(b"job"),
        lease,
    });
    request.set_timeout(Duration::from_millis(300));
    let (code, _) = refusal(client.lock().lock(request).await);
    assert!(
        matches!(code, Code::DeadlineExceeded | Code::Cancelled),
        "{code:?}"
    );
    until_line_is(client, "job", &[holder]).await;
}

#[tokio::test]
async fn a_call_without_a_lease_is_given_one_that_ends_by_itself_and_the_log_says_so() {
    let site = Site::of(1).await;
    let client = site.client();
    let answer = lock(client, "job", 0).answer().await.unwrap();
    let (line, _) = line_at(client, "job").await;
    let lease = line[0].lease;
    assert_eq!(answer.get_ref().key, format!("job/{lease:x}"));
    let request = TimeToLive {
        id: lease,
        keys: true,
    };
    let told = client.lease().lease_time_to_live(request).await.unwrap();
    assert_eq!(told.get_ref().granted_ttl, 60);
    assert_eq!(told.get_ref().keys, [answer.get_ref().key.clone()]);
    let log = std::fs::read_to_string(site.cluster.members[0].log_file()).unwrap();
    assert!(
        log.contains("grant a lease, give it with the call, and keep it alive"),
        "{log}"
    );
}

#[tokio::test]
async fn a_waiter_keeps_its_place_when_everything_before_is_compacted() {
    let site = Site::of(1).await;
    let client = site.client();
    let (_, calls) = stand_in_line(client, 3).await;
    for _ in 0..100 {
        client.put("k", "v").await.unwrap();
    }
    let (_, revision) = line_at(client, "job").await;
    client.compact(revision).await.unwrap();
    let mut last = 0;
    for call in calls {
        let answer = call.answer().await.unwrap();
        assert!(token(&answer) > last, "out of order");
        last = token(&answer);
        unlock(client, &answer.get_ref().key).await;
    }
}

/// Xline begins to watch after it has looked, and waits for ever if the deletion falls between.
#[tokio::test]
async fn no_waiter_misses_that_its_predecessor_goes() {
    let site = Site::of(1).await;
    let contenders = (0..8).map(|_| async {
        // Connections of their own, so that the server looks at several of them at the same time.
        let client = site.cluster.members[0].client();
        let lease = grant(&client, 600).await;
        let mut tokens = Vec::new();
        for _ in 0..100 {
            let answer = lock(&client, "job", lease).answer().await.unwrap();
            tokens.push(token(&answer));
            unlock(&client, &answer.get_ref().key).await;
        }
        tokens
    });
    let tokens = futures_util::future::join_all(contenders).await;
    let each: BTreeSet<i64> = tokens.iter().flatten().copied().collect();
    assert_eq!(each.len(), 800, "every hold has a token of its own");
}

/// One after the other they would take their time to live each.
#[tokio::test]
async fn dead_waiters_in_front_end_together() {
    let site = Site::of(1).await;
    let client = site.client();
    let mut dead = Vec::new();
    for number in 0..12 {
        let lease = grant(client, 2).await;
        let put = PutRequest {
            key: format!("job/{number}").into(),
            lease,
            ..PutRequest::default()
        };
        client.kv().put(put).await.unwrap();
        dead.push(lease);
    }
    let lease = grant(client, 60).await;
    let waiting = lock(client, "job", lease);
    let answer = tokio::time::timeout(Duration::from_secs(15), waiting.answer()).await;
    answer.expect("not 2 s after 2 s").unwrap();
    until_line_is(client, "job", &[lease]).await;
}

#[tokio::test]
async fn odd_names_and_leases_are_spelled_as_by_etcd() {
    let site = Site::of(1).await;
    let client = site.client();
    for (name, id, key) in [
        ("", 55, "/37"),
        ("a/b", -5, "a/b/-5"),
        ("a", i64::MIN, "a/-8000000000000000"),
        ("x/", i64::MAX, "x//7fffffffffffffff"),
    ] {
        let grant = LeaseGrantRequest { id, ttl: 60 };
        client.lease().lease_grant(grant).await.unwrap();
        let answer = lock(client, name, id).answer().await.unwrap();
        assert_eq!(answer.get_ref().key, key);
        unlock(client, &answer.get_ref().key).await;
    }
}

#[tokio::test]
async fn a_lock_waits_for_whatever_stands_under_its_name_and_for_nothing_beside_it() {
    let site = Site::of(1).await;
    let client = site.client();
    client.put("job", "beside").await.unwrap();
    client.put("jobs/1", "beside").await.unwrap();
    client.put("job/deep/er", "below").await.unwrap();
    let lease = grant(client, 60).await;
    let waiting = lock(client, "job", lease);
    until_line_is(client, "job", &[0, lease]).await;
    assert!(!waiting.is_answered());
    unlock(client, &Bytes::from_static(b"job/deep/er")).await;
    waiting.answer().await.unwrap();
}

#[tokio::test]
async fn of_calls_with_one_lease_the_last_to_leave_takes_the_key_along() {
    let site = Site::of(1).await;
    let client = site.client();
    let holder = grant(client, 60).await;
    let held = lock(client, "job", holder).answer().await.unwrap();
    let lease = grant(client, 60).await;
    let first = lock(client, "job", lease);
    until_line_is(client, "job", &[holder, lease]).await;
    let second = lock(client, "job", lease);
    // It stands there when it has written the key again.
    until_written_again(client, "job").await;
    first.abort().await;
    unlock(client, &held.get_ref().key).await;
    second.answer().await.expect("its key is still there");
    until_line_is(client, "job", &[lease]).await;

    lock(client, "other", holder).answer().await.unwrap();
    let calls = [lock(client, "other", lease), lock(client, "other", lease)];
    until_written_again(client, "other").await;
    for call in calls {
        call.abort().await;
    }
    until_line_is(client, "other", &[holder]).await;
}

#[tokio::test]
async fn a_call_that_finds_the_lock_held_by_its_lease_does_not_release_it_when_dropped() {
    let site = Site::of(1).await;
    let client = site.client();
    let lease = grant(client, 60).await;
    let held = lock(client, "job", lease).answer().await.unwrap();
    for patience_us in (0..3000).step_by(100) {
        let again = lock(client, "job", lease);
        tokio::time::sleep(Duration::from_micros(patience_us)).await;
        again.abort().await;
    }
    // Whatever these calls left to remove is removed before what comes after them.
    let last = grant(client, 60).await;
    let waiting = lock(client, "job", last);
    until_line_is(client, "job", &[lease, last]).await;
    waiting.abort().await;
    until_line_is(client, "job", &[lease]).await;
    let (line, _) = line_at(client, "job").await;
    assert_eq!(line.len(), 1);
    assert_eq!(line[0].create_revision, token(&held));
}
