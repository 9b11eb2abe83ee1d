//! What a lease promises its holder, and everybody else, while leaders die, leave and stall. Real processes.

use std::time::Duration;

use anyhow::{Context, bail};
use baton_proto::etcdserverpb as pb;
use baton_test_cluster::client::Client;
use baton_test_cluster::process::{Cluster, Program, poll_again};
use baton_test_cluster::watcher::Stream;
use rustix::process::Signal;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

type Result<T = ()> = anyhow::Result<T>;

fn batond() -> Program {
    Program::new(env!("CARGO_BIN_EXE_batond"))
}

async fn grant(client: &Client, ttl: i64) -> Result<i64> {
    let request = pb::LeaseGrantRequest { ttl, id: 0 };
    Ok(client.lease().lease_grant(request).await?.into_inner().id)
}

async fn put_with_lease(client: &Client, key: impl Into<String>, lease: i64) -> Result {
    let request = pb::PutRequest {
        key: key.into().into(),
        lease,
        ..pb::PutRequest::default()
    };
    client.kv().put(request).await?;
    Ok(())
}

async fn revoke(client: &Client, id: i64) -> Result {
    let request = pb::LeaseRevokeRequest { id };
    client.lease().lease_revoke(request).await?;
    Ok(())
}

async fn time_to_live(client: &Client, id: i64) -> Result<pb::LeaseTimeToLiveResponse> {
    let request = pb::LeaseTimeToLiveRequest { id, keys: true };
    let response = client.lease().lease_time_to_live(request).await?;
    Ok(response.into_inner())
}

/// An open keepalive stream.
struct KeepAlive {
    requests: mpsc::Sender<pb::LeaseKeepAliveRequest>,
    responses: Streaming<pb::LeaseKeepAliveResponse>,
}

impl KeepAlive {
    async fn open(client: &Client) -> Result<Self> {
        let (requests, receiver) = mpsc::channel(1024);
        let mut lease = client.lease();
        let responses = lease.lease_keep_alive(ReceiverStream::new(receiver));
        Ok(Self {
            requests,
            responses: responses.await?.into_inner(),
        })
    }

    /// Renews once and returns the time to live that was promised.
    async fn renew(&mut self, id: i64) -> Result<i64> {
        self.requests.send(pb::LeaseKeepAliveRequest { id }).await?;
        let response = self.responses.message().await?;
        Ok(response.context("the stream ended")?.ttl)
    }
}

/// Renews over and over, on one member after the other where one fails, until told to stop, and returns how
/// often the lease was renewed. A lease that is gone is an error.
async fn hold(
    clients: Vec<Client>,
    id: i64,
    stop: tokio::sync::watch::Receiver<bool>,
) -> Result<u32> {
    let mut renewed = 0;
    for client in clients.iter().cycle() {
        let Ok(mut stream) = KeepAlive::open(client).await else {
            poll_again().await;
            continue;
        };
        loop {
            if *stop.borrow() {
                return Ok(renewed);
            }
            match tokio::time::timeout(Duration::from_millis(500), stream.renew(id)).await {
                Ok(Ok(0)) => bail!("the lease ended after {renewed} renewals"),
                Ok(Ok(_)) => renewed += 1,
                _ => break,
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    Ok(renewed)
}

/// Waits for the deletion of a key on everything `stream` sees.
async fn deletions(stream: &mut Stream) -> Result<Vec<(String, i64)>> {
    loop {
        let response = stream.responses.message().await?;
        let events = response.context("the watch ended")?.events;
        let deleted: Vec<_> = events
            .into_iter()
            .filter(|event| event.r#type == 1)
            .filter_map(|event| event.kv)
            .map(|kv| {
                let key = String::from_utf8_lossy(&kv.key).into_owned();
                (key, kv.mod_revision)
            })
            .collect();
        if !deleted.is_empty() {
            return Ok(deleted);
        }
    }
}

/// A cluster of three, its leader and the two others.
async fn three() -> Result<(Cluster, usize, [usize; 2])> {
    let mut cluster = Cluster::start(&batond(), 3).await?;
    let leader = cluster.leader().await?;
    Ok((cluster, leader, [(leader + 1) % 3, (leader + 2) % 3]))
}

#[tokio::test]
async fn leases_never_end_early() -> Result {
    let cluster = Cluster::start(&batond(), 1).await?;
    let client = cluster.members[0].client();
    let mut watch = Stream::of_everything(&client, 1).await?;
    let mut granted = std::collections::BTreeMap::new();
    for number in 0..50 {
        let called = Instant::now();
        let lease = grant(&client, 2).await?;
        let key = format!("key{number}");
        put_with_lease(&client, &key, lease).await?;
        granted.insert(key, called);
    }
    while !granted.is_empty() {
        for (key, _) in deletions(&mut watch).await? {
            let called = granted.remove(&key).context("deleted twice")?;
            let lived = called.elapsed();
            assert!(lived >= Duration::from_secs(2), "{key} lived {lived:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_lease_takes_its_keys_along_in_one_revision() -> Result {
    let cluster = Cluster::start(&batond(), 1).await?;
    let client = cluster.members[0].client();
    let lease = grant(&client, 2).await?;
    for key in ["c", "a", "b"] {
        put_with_lease(&client, key, lease).await?;
    }
    let revision = client.revision().await?;
    let mut watch = Stream::of_everything(&client, 1).await?;
    let next = revision + 1;
    let expected = ["a", "b", "c"].map(|key| (key.to_owned(), next));
    assert_eq!(deletions(&mut watch).await?, expected);
    Ok(())
}

#[tokio::test]
async fn keepalives_write_nothing_to_the_log() -> Result {
    let (cluster, leader, [follower, _]) = three().await?;
    let client = cluster.members[leader].client();
    let lease = grant(&client, 60).await?;
    let before = client.status().await?.raft_index;
    for member in [leader, follower] {
        let mut stream = KeepAlive::open(&cluster.members[member].client()).await?;
        for _ in 0..500 {
            let request = pb::LeaseKeepAliveRequest { id: lease };
            stream.requests.send(request).await?;
        }
        for _ in 0..500 {
            let response = stream.responses.message().await?;
            assert_eq!(response.context("the stream ended")?.ttl, 60);
        }
    }
    assert_eq!(client.status().await?.raft_index, before);
    Ok(())
}

/// Holds a lease of the shortest time through one follower while `fault` happens, and longer than the lease
/// would live on afterwards.
async fn held_through(
    cluster: &mut Cluster,
    holder: [usize; 2],
    fault: impl AsyncFnOnce(&mut Cluster) -> Result,
) -> Result {
    let clients: Vec<Client> = holder.map(|i| cluster.members[i].client()).into();
    let client = clients[0].clone();
    let lease = grant(&client, 2).await?;
    put_with_lease(&client, "held", lease).await?;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let holding = tokio::spawn(hold(clients, lease, stopped));
    fault(cluster).await?;
    // Whoever would end it too early does so within its time.
    tokio::time::sleep(Duration::from_secs(4)).await;
    stop.send_replace(true);
    let renewed = holding.await??;
    assert!(renewed > 0);
    let response = time_to_live(&client, lease).await?;
    assert_eq!(response.granted_ttl, 2, "{response:?}");
    assert_eq!(response.keys, ["held"]);
    Ok(())
}

#[tokio::test]
async fn a_held_lease_survives_the_death_of_the_leader() -> Result {
    let (mut cluster, leader, followers) = three().await?;
    held_through(&mut cluster, followers, async |cluster| {
        cluster.members[leader].kill();
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_held_lease_survives_the_leaving_of_the_leader() -> Result {
    let (mut cluster, leader, followers) = three().await?;
    held_through(&mut cluster, followers, async |cluster| {
        cluster.members[leader].terminate().await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_leader_that_stalled_does_not_end_what_its_successor_extended() -> Result {
    let (mut cluster, leader, followers) = three().await?;
    held_through(&mut cluster, followers, async |cluster| {
        cluster.members[leader].signal(Signal::STOP);
        // Longer than the lease lives by the clock of the one that stalls.
        tokio::time::sleep(Duration::from_secs(4)).await;
        cluster.members[leader].signal(Signal::CONT);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_lease_that_nobody_holds_ends_after_the_death_of_the_leader() -> Result {
    let (mut cluster, leader, [follower, _]) = three().await?;
    let client = cluster.members[follower].client();
    let lease = grant(&client, 2).await?;
    put_with_lease(&client, "key", lease).await?;
    let mut watch = Stream::of_everything(&client, 1).await?;
    let killed = Instant::now();
    cluster.members[leader].kill();
    let deleted = deletions(&mut watch).await?;
    assert_eq!(deleted[0].0, "key");
    // A new leader knows of no promises of the old one and grants the full time again.
    assert!(killed.elapsed() >= Duration::from_secs(2));
    Ok(())
}

#[tokio::test]
async fn no_keepalive_renews_a_lease_whose_revocation_was_acknowledged() -> Result {
    let (cluster, ..) = three().await?;
    let clients: Vec<Client> = cluster.members.iter().map(|m| m.client()).collect();
    let mut streams = Vec::new();
    for client in &clients {
        streams.push(KeepAlive::open(client).await?);
    }
    for round in 0..100 {
        let lease = grant(&clients[round % 3], 60).await?;
        for stream in &streams {
            let request = pb::LeaseKeepAliveRequest { id: lease };
            stream.requests.send(request).await?;
        }
        revoke(&clients[(round / 3) % 3], lease).await?;
        for stream in &mut streams {
            // What was asked before the revocation may have either answer.
            stream.responses.message().await?;
            let ttl = stream.renew(lease).await?;
            assert_eq!(ttl, 0, "renewed after revocation in round {round}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn every_member_tells_the_time_a_lease_has_left_and_its_keys() -> Result {
    let (cluster, ..) = three().await?;
    let lease = grant(&cluster.members[0].client(), 1000).await?;
    put_with_lease(&cluster.members[0].client(), "key", lease).await?;
    for member in &cluster.members {
        let response = time_to_live(&member.client(), lease).await?;
        assert!((900..=1000).contains(&response.ttl), "{response:?}");
        assert_eq!(response.keys, ["key"]);
    }
    Ok(())
}

#[tokio::test]
async fn every_member_lists_the_leases() -> Result {
    let (cluster, ..) = three().await?;
    let lease = grant(&cluster.members[0].client(), 1000).await?;
    for member in &cluster.members {
        let client = member.client();
        // Answered from what the member has applied: wait until that includes the grant.
        client.revision().await?;
        let mut service = client.lease();
        let response = service.lease_leases(pb::LeaseLeasesRequest {}).await?;
        let leases = response.into_inner().leases;
        assert_eq!(leases, [pb::LeaseStatus { id: lease }]);
    }
    Ok(())
}

#[tokio::test]
async fn times_to_live_are_raised_to_two_seconds_and_refused_above_nine_billion() -> Result {
    let cluster = Cluster::start(&batond(), 1).await?;
    let mut lease = cluster.members[0].client().lease();
    for (ttl, granted) in [
        (-5, 2),
        (0, 2),
        (1, 2),
        (2, 2),
        (3, 3),
        (9_000_000_000, 9_000_000_000),
    ] {
        let request = pb::LeaseGrantRequest { ttl, id: 0 };
        let response = lease.lease_grant(request).await?.into_inner();
        assert_eq!(response.ttl, granted, "asked for {ttl}");
    }
    let request = pb::LeaseGrantRequest {
        ttl: 9_000_000_001,
        id: 0,
    };
    let status = lease.lease_grant(request).await.expect_err("too long");
    assert_eq!(status.message(), "etcdserver: too large lease TTL");
    Ok(())
}
