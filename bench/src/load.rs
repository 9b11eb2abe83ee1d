//! Closed-loop clients: each sends its next request when the last one is answered.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use baton_proto::etcdserverpb::kv_client::KvClient;
use baton_proto::etcdserverpb::{PutRequest, RangeRequest};
use bytes::Bytes;
use tonic::transport::{Channel, Endpoint};

use crate::latencies::Latencies;

/// What clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Puts.
    Put,
    /// Linearizable reads of one key.
    Get,
    /// Serializable reads of one key.
    GetSerializable,
    /// One put to three linearizable reads.
    Mixed,
}

/// A round.
pub struct Load {
    pub endpoints: Vec<String>,
    pub kind: Kind,
    pub clients: usize,
    pub connections: usize,
    pub value_bytes: usize,
    pub keys: u64,
    pub time: Duration,
}

/// What a round gave.
pub struct Outcome {
    pub latencies: Latencies,
    errors: u64,
    time: Duration,
}

impl Outcome {
    pub fn count(&self) -> usize {
        self.latencies.count()
    }

    pub fn per_second(&self) -> f64 {
        self.count() as f64 / self.time.as_secs_f64()
    }

    pub fn row(&self) -> String {
        format!(
            "{:>8.0} op/s  p50 {:>6.0} us  p99 {:>7.0} us  max {:>8.0} us  {} errors",
            self.per_second(),
            self.latencies.percentile_micros(50.0),
            self.latencies.percentile_micros(99.0),
            self.latencies.percentile_micros(100.0),
            self.errors,
        )
    }
}

impl Load {
    /// # Errors
    /// If an endpoint cannot be reached, or nothing succeeds.
    pub async fn run(&self) -> Result<Outcome> {
        let mut channels = Vec::new();
        for endpoint in &self.endpoints {
            for _ in 0..self.connections {
                let endpoint = Endpoint::from_shared(endpoint.clone())?.tcp_nodelay(true);
                channels.push(endpoint.connect().await?);
            }
        }
        let started = Instant::now();
        let until = started + self.time;
        let clients: Vec<_> = (0..self.clients)
            .map(|client| {
                let channel = channels[client % channels.len()].clone();
                tokio::spawn(run_client(
                    channel,
                    client as u64,
                    self.kind,
                    self.value_bytes,
                    self.keys,
                    until,
                ))
            })
            .collect();
        let mut latencies = Vec::new();
        let mut errors = 0;
        for client in clients {
            let (some, failed) = client.await?;
            latencies.extend(some);
            errors += failed;
        }
        if latencies.is_empty() {
            bail!("nothing succeeded, {errors} errors");
        }
        Ok(Outcome {
            latencies: Latencies::of(latencies),
            errors,
            time: started.elapsed(),
        })
    }
}

async fn run_client(
    channel: Channel,
    client: u64,
    kind: Kind,
    value_bytes: usize,
    keys: u64,
    until: Instant,
) -> (Vec<Duration>, u64) {
    let mut kv = KvClient::new(channel);
    let value = Bytes::from(vec![b'v'; value_bytes]);
    let mut latencies = Vec::new();
    let mut errors = 0;
    // A linear congruential walk over the keys, different for each client.
    let mut place = client.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut n = 0_u64;
    while Instant::now() < until {
        place = place
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let key = Bytes::from(format!("bench/{:012}", (place >> 20) % keys));
        let puts = match kind {
            Kind::Put => true,
            Kind::Mixed => n.is_multiple_of(4),
            Kind::Get | Kind::GetSerializable => false,
        };
        n += 1;
        let sent = Instant::now();
        let ok = if puts {
            let value = value.clone();
            let put = PutRequest {
                key,
                value,
                ..PutRequest::default()
            };
            kv.put(put).await.is_ok()
        } else {
            let range = RangeRequest {
                key,
                serializable: kind == Kind::GetSerializable,
                ..RangeRequest::default()
            };
            kv.range(range).await.is_ok()
        };
        if ok {
            latencies.push(sent.elapsed());
        } else {
            errors += 1;
        }
    }
    (latencies, errors)
}
