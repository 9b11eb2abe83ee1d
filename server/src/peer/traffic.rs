//! What is measured of the talk with each other member.

use baton_proto::peer::Frame;
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use prost::Message;
use tokio::time::Instant;

/// Bytes to and from one member.
#[derive(Clone)]
pub(super) struct Traffic {
    sent: Counter,
    received: Counter,
}

impl Traffic {
    pub(super) fn with(member_id: u64) -> Self {
        let member = format!("{member_id:x}");
        Self {
            sent: counter!("etcd_network_peer_sent_bytes_total", "To" => member.clone()),
            received: counter!("etcd_network_peer_received_bytes_total", "From" => member),
        }
    }

    pub(super) fn sent(&self, frame: &Frame) {
        self.sent.increment(frame.encoded_len() as u64);
    }

    pub(super) fn received(&self, frame: &Frame) {
        self.received.increment(frame.encoded_len() as u64);
    }
}

/// How well one member answers.
pub(super) struct Link {
    round_trip: Histogram,
    failures: Counter,
    active: Gauge,
}

impl Link {
    pub(super) fn between(member_id: u64, other: u64) -> Self {
        let (local, remote) = (format!("{member_id:x}"), format!("{other:x}"));
        Self {
            round_trip: histogram!(
                "etcd_network_peer_round_trip_time_seconds", "To" => remote.clone()
            ),
            failures: counter!("etcd_network_peer_sent_failures_total", "To" => remote.clone()),
            active: gauge!("etcd_network_active_peers", "Local" => local, "Remote" => remote),
        }
    }

    pub(super) fn failed(&self) {
        self.failures.increment(1);
    }

    pub(super) fn set_active(&self, is_active: bool) {
        self.active.set(f64::from(u8::from(is_active)));
    }

    pub(super) fn answered(&self, asked: Instant) {
        self.round_trip.record(asked.elapsed());
    }
}
