//! Holders that stop renewing their leases, and how long the next in line waits after that.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use baton_proto::etcdserverpb as pb;
use pb::lease_client::LeaseClient;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::contender::{Contender, Raw, Servers, Way};
use super::contention::{LEASE, connect, stand_in_line};
use crate::latencies::Latencies;
use crate::side::Side;

/// The least etcd grants with its default election timeout.
const TTL: Duration = Duration::from_secs(2);
const RENEWALS: u32 = 3;

/// Crashes the holders of `count` locks at different moments. The latencies run from the time to live after the last
/// renewal was *sent* until the next one holds the lock.
///
/// # Errors
/// Whatever the server said.
pub async fn crash(side: &Side, way: Way, name: &str, count: usize) -> Result<Latencies> {
    let connections = connect(&side.urls(), count).await?;
    let crashes: Vec<_> = (0..count)
        .map(|index| {
            let servers = connections[index % connections.len()].clone();
            // Spread over the time between two renewals, so that no tick of a server is met by all.
            let after = TTL / RENEWALS * u32::try_from(index).unwrap_or(0)
                / u32::try_from(count).unwrap_or(u32::MAX);
            tokio::spawn(one(servers, way, format!("{name}/{index}"), after))
        })
        .collect();
    let mut late = Vec::new();
    for crash in crashes {
        late.push(crash.await??);
    }
    Ok(Latencies::of(late))
}

async fn one(servers: Servers, way: Way, name: String, after: Duration) -> Result<Duration> {
    let mut holder = Raw::new(servers.channel.clone(), way, &name, TTL).await?;
    holder.lock().await?;
    let mut next = Contender::new(&servers, way, &name, LEASE).await?;
    let held = async {
        next.lock().await?;
        anyhow::Ok((Instant::now(), next))
    };
    let holding = async {
        stand_in_line(&servers.channel, &name, 2).await?;
        tokio::time::sleep(after).await;
        renew(servers.channel.clone(), holder.lease()).await
    };
    let ((held, next), renewed) = tokio::try_join!(held, holding)?;
    next.leave().await?;
    Ok(held.saturating_duration_since(renewed + TTL))
}

/// Renews as a session does, for one time to live; returns when the last renewal was sent.
async fn renew(channel: Channel, id: i64) -> Result<Instant> {
    let request = pb::LeaseKeepAliveRequest { id };
    let (requests, renewals) = tokio::sync::mpsc::channel(1);
    let mut sent = Instant::now();
    // The first request comes before the call: servers answer nothing, not even headers, until there is one.
    requests.send(request).await?;
    let mut answers = LeaseClient::new(channel)
        .lease_keep_alive(ReceiverStream::new(renewals))
        .await?
        .into_inner();
    answers.next().await.context("no answer to a renewal")??;
    for _ in 1..RENEWALS {
        tokio::time::sleep(TTL / RENEWALS).await;
        sent = Instant::now();
        requests.send(request).await?;
        answers.next().await.context("no answer to a renewal")??;
    }
    Ok(sent)
}
