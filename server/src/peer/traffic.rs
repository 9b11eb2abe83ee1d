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
    disconnected: Counter,
}

impl Link {
    pub(super) fn between(member_id: u64, other: u64) -> Self {
        let (local, remote) = (format!("{member_id:x}"), format!("{other:x}"));
        gauge!(
            "etcd_network_known_peers", "Local" => local.clone(), "Remote" => remote.clone()
        )
        .set(1.0);
        Self {
            disconnected: counter!(
                "etcd_network_disconnected_peers_total",
                "Local" => local.clone(), "Remote" => remote.clone()
            ),
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

    pub(super) fn connected(&self) {
        self.active.set(1.0);
    }

    pub(super) fn disconnected(&self) {
        self.active.set(0.0);
        self.disconnected.increment(1);
    }

    pub(super) fn answered(&self, asked: Instant) {
        self.round_trip.record(asked.elapsed());
    }
}

/// Which way a snapshot goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// To another member.
    Send,
    /// From the leader.
    Receive,
}

/// A snapshot under way to or from another member. Dropped before its end, it has failed.
pub struct Transfer {
    direction: Direction,
    remote: String,
    begun: Instant,
    succeeded: bool,
}

impl Transfer {
    /// Counts it among those in flight.
    pub fn begin(direction: Direction, remote: u64) -> Self {
        let transfer = Self {
            direction,
            remote: format!("{remote:x}"),
            begun: Instant::now(),
            succeeded: false,
        };
        transfer.inflights().increment(1.0);
        transfer
    }

    /// It has come to its end.
    pub fn end(mut self) {
        self.succeeded = true;
    }

    fn inflights(&self) -> Gauge {
        let remote = self.remote.clone();
        match self.direction {
            Direction::Send => {
                gauge!("etcd_network_snapshot_send_inflights_total", "To" => remote)
            }
            Direction::Receive => {
                gauge!("etcd_network_snapshot_receive_inflights_total", "From" => remote)
            }
        }
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.inflights().decrement(1.0);
        let remote = self.remote.clone();
        let ended = match (self.direction, self.succeeded) {
            (Direction::Send, true) => {
                counter!("etcd_network_snapshot_send_success", "To" => remote)
            }
            (Direction::Send, false) => {
                counter!("etcd_network_snapshot_send_failures", "To" => remote)
            }
            (Direction::Receive, true) => {
                counter!("etcd_network_snapshot_receive_success", "From" => remote)
            }
            (Direction::Receive, false) => {
                counter!("etcd_network_snapshot_receive_failures", "From" => remote)
            }
        };
        ended.increment(1);
        if !self.succeeded {
            return;
        }
        let remote = self.remote.clone();
        let seconds = match self.direction {
            Direction::Send => {
                histogram!("etcd_network_snapshot_send_total_duration_seconds", "To" => remote)
            }
            Direction::Receive => {
                histogram!("etcd_network_snapshot_receive_total_duration_seconds", "From" => remote)
            }
        };
        seconds.record(self.begun.elapsed());
    }
}
