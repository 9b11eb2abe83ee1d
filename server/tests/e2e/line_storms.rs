//! Many callers that go away at once, or at any moment: what stands in line afterwards is who still wants to.
//!
//! `BATON_STORM_CALLS` says how many.

use std::time::Duration;

use baton_proto::v3electionpb::{CampaignResponse, LeaderKey, ResignRequest};
use baton_proto::v3lockpb::LockResponse;
use baton_test_cluster::client::Client;
use baton_test_cluster::process::Member;
use bytes::Bytes;
use futures_util::StreamExt;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;

use crate::baton;
use crate::http_endpoints::metrics;
use crate::line::{
    Call, PATIENCE, Site, campaign, grant, line, lock, standing, unlock, until_line_has,
    until_line_is,
};

/// Connections the calls share.
const CONNECTIONS: usize = 4;

fn calls(default: usize) -> usize {
    let given = std::env::var("BATON_STORM_CALLS").ok();
    given.map_or(default, |text| text.parse().expect("a number"))
}

async fn grants(client: &Client, count: usize) -> Vec<i64> {
    let grants = futures_util::stream::iter(0..count).map(|_| grant(client, 600));
    grants.buffer_unordered(256).collect().await
}

/// After a hundred of them etcd grants no lock any more until it is restarted.
#[tokio::test]
async fn ten_thousand_waiting_calls_that_end_together_leave_a_lock_that_works() {
    let count = calls(10_000);
    let site = Site::of(1).await;
    let client = site.client();
    let holder = grant(client, 600).await;
    let held = lock(client, "job", holder).answer().await.unwrap();
    let leases = grants(client, count).await;
    let started = Instant::now();
    let connections: Vec<Client> = (0..CONNECTIONS)
        .map(|_| site.cluster.members[0].client())
        .collect();
    let waiting: Vec<Call<LockResponse>> = leases
        .iter()
        .zip(connections.iter().cycle())
        .map(|(lease, client)| lock(client, "job", *lease))
        .collect();
    until_line_has(client, "job", count + 1).await;
    eprintln!("{count} wait after {:?}", started.elapsed());
    let started = Instant::now();
    drop(waiting);
    let next = grant(client, 600).await;
    let waiting = lock(&connections[0], "job", next);
    unlock(client, &held.get_ref().key).await;
    waiting.answer().await.expect("the lock works");
    eprintln!("the next has it after {:?}", started.elapsed());
    until_line_is(client, "job", &[next]).await;
    eprintln!("all are gone after {:?}", started.elapsed());
}

/// A call of the storm.
enum Standing {
    Lock(Call<LockResponse>),
    Campaign(Call<CampaignResponse>),
}

/// What a call of the storm holds.
enum Hold {
    Lock(Bytes),
    Leadership(LeaderKey),
}

impl Standing {
    /// What it holds, if it is answered within `patience`; else its client goes away.
    async fn within(self, patience: Duration) -> Option<Hold> {
        match self {
            Self::Lock(call) => {
                let answer = tokio::time::timeout(patience, call.answer()).await.ok()?;
                Some(Hold::Lock(answer.expect("granted").into_inner().key))
            }
            Self::Campaign(call) => {
                let answer = tokio::time::timeout(patience, call.answer()).await.ok()?;
                let leader = answer.expect("elected").into_inner().leader;
                Some(Hold::Leadership(leader.expect("a key")))
            }
        }
    }
}

impl Hold {
    async fn release(self, client: &Client) {
        match self {
            Self::Lock(key) => {
                unlock(client, &key).await;
            }
            Self::Leadership(leader) => {
                let leader = Some(leader);
                let resigned = client.election().resign(ResignRequest { leader }).await;
                resigned.expect("resigned");
            }
        }
    }
}

/// How many grants were handed to a connection, of locks and of leaderships.
async fn delivered(member: &Member) -> usize {
    sum(
        member,
        &["baton_lock_granted_total ", "baton_election_granted_total "],
    )
    .await
}

/// How many proposals were applied.
async fn proposals(member: &Member) -> usize {
    sum(member, &["etcd_server_proposals_applied_total "]).await
}

/// Of metrics of whole numbers.
async fn sum(member: &Member, names: &[&str]) -> usize {
    let page = metrics(member).await;
    let counts = page
        .lines()
        .filter_map(|line| names.iter().find_map(|name| line.strip_prefix(name)));
    counts
        .map(|count| count.trim().parse::<usize>().expect("a count"))
        .sum()
}

/// A grant that was on its way when its client went away is as good as taken: who gives up a call without an
/// answer has to release what it may hold. Of all others no key is left.
#[tokio::test]
async fn calls_dropped_at_any_moment_leave_keys_only_where_a_grant_was_sent() {
    let count = calls(1_000);
    let keepers = 5;
    let site = Site::of(1).await;
    let client = site.client();
    let leases = grants(client, count).await;
    let mut rng = StdRng::seed_from_u64(25);
    let storm = leases.into_iter().enumerate().map(|(number, lease)| {
        // The keepers hold names of their own, so that the others are not in vain behind them.
        let keeps = number < keepers;
        let name = match keeps {
            true => format!("storm/kept-{number}"),
            false => format!("storm/{}", rng.random_range(0..8)),
        };
        let is_lock = rng.random_bool(0.5);
        let patience = match keeps {
            true => PATIENCE,
            false => {
                Duration::from_micros(10_u64.pow(rng.random_range(0..6)) * rng.random_range(1..10))
            }
        };
        async move {
            let standing = match is_lock {
                true => Standing::Lock(lock(client, &name, lease)),
                false => Standing::Campaign(campaign(client, &name, lease, "me")),
            };
            let hold = standing.within(patience).await?;
            if !keeps {
                hold.release(client).await;
            }
            Some(keeps.then_some(lease))
        }
    });
    let storm = futures_util::stream::iter(storm).buffer_unordered(64);
    let answered: Vec<Option<i64>> = storm.filter_map(std::future::ready).collect().await;
    let holders: Vec<i64> = answered.iter().copied().flatten().collect();
    assert_eq!(holders.len(), keepers);
    let settled = async {
        loop {
            let sent = delivered(&site.cluster.members[0]).await - answered.len();
            if line(client, "storm").await.len() == holders.len() + sent {
                return sent;
            }
            baton_test_cluster::process::poll_again().await;
        }
    };
    let sent = tokio::time::timeout(PATIENCE, settled).await;
    let sent = sent.expect("only what was granted is left");
    eprintln!(
        "{count} calls: {} answered, {sent} dropped with a grant on its way",
        answered.len()
    );
    let standing = standing(client, "storm").await;
    assert!(holders.iter().all(|holder| standing.contains(holder)));
}

#[tokio::test]
async fn keys_of_many_that_went_away_are_removed_however_small_a_request_has_to_be() {
    let count = 200;
    let program = baton().flag("--max-request-bytes=2048");
    let site = Site::with(&program, 1).await;
    let client = site.client();
    let holder = grant(client, 600).await;
    lock(client, "job", holder).answer().await.unwrap();
    let leases = grants(client, count).await;
    let waiting: Vec<_> = leases.iter().map(|l| lock(client, "job", *l)).collect();
    until_line_has(client, "job", count + 1).await;
    drop(waiting);
    until_line_has(client, "job", 1).await;
}

/// A client whose tasks share a session, as many do.
#[tokio::test]
async fn calls_that_share_a_lease_cost_a_few_proposals_each() {
    let count = 300;
    let site = Site::of(1).await;
    let client = site.client();
    let lease = grant(client, 600).await;
    let before = proposals(&site.cluster.members[0]).await;
    let started = Instant::now();
    let calls: Vec<_> = (0..count).map(|_| lock(client, "job", lease)).collect();
    for call in calls {
        call.answer().await.expect("granted");
    }
    let cost = proposals(&site.cluster.members[0]).await - before;
    eprintln!(
        "{count} calls took {cost} proposals and {:?}",
        started.elapsed()
    );
    assert!(cost < 5 * count, "{count} calls took {cost} proposals");
}
