//! What a watcher asks for, and where it is.

use std::ops::RangeInclusive;

use baton_proto::etcdserverpb as pb;
use bytes::Bytes;
use pb::watch_create_request::FilterType;
use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;

use super::writers::{PREFIX, key};

/// Where the keys of other workloads lie.
const OTHERS: [&str; 5] = ["register/", "append/", "lease/", "lock/", "election/"];

/// How far beyond the newest revision a watch of the future starts.
const AHEAD: RangeInclusive<i64> = 1..=60;

/// Everything that begins with `prefix`.
pub fn prefix(prefix: &str) -> (Bytes, Bytes) {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    (Bytes::from(prefix.to_owned()), end.into())
}

/// Keys to watch: one, a range, a prefix, or all from one on.
fn keys(chance: &mut SmallRng) -> (Bytes, Bytes) {
    let one = key(chance);
    match chance.random_range(0..10) {
        0..=2 => (one, Bytes::new()),
        3..=4 => {
            let other = key(chance);
            let (from, to) = if one < other {
                (one, other)
            } else {
                (other, one)
            };
            // A range that ends where it begins is empty, and refused.
            let to = if from == to { prefix(PREFIX).1 } else { to };
            (from, to)
        }
        5..=6 => prefix(PREFIX),
        7 => (one, Bytes::from_static(b"\0")),
        8 => (Bytes::from_static(b"\0"), Bytes::from_static(b"\0")),
        _ => prefix(OTHERS.choose(chance).unwrap_or(&PREFIX)),
    }
}

/// One key, from the present or the near past on: what many watchers of a stream ask for.
pub fn narrow(chance: &mut SmallRng, newest: i64) -> pb::WatchCreateRequest {
    pb::WatchCreateRequest {
        key: key(chance),
        start_revision: if chance.random_bool(0.5) {
            0
        } else {
            chance.random_range((newest - 200).max(1)..=newest.max(1))
        },
        prev_kv: chance.random_bool(0.3),
        ..Default::default()
    }
}

/// A watch of any kind, in a store whose newest revision is about `newest`.
pub fn draw(chance: &mut SmallRng, newest: i64) -> pb::WatchCreateRequest {
    let (key, range_end) = keys(chance);
    let newest = newest.max(1);
    let start_revision = match chance.random_range(0..20) {
        0..=6 => 0,
        7..=11 => chance.random_range((newest - 100).max(1)..=newest),
        12..=14 => chance.random_range(1..=newest),
        15..=16 => 1,
        _ => newest + chance.random_range(AHEAD),
    };
    let filters = match chance.random_range(0..10) {
        0 => vec![FilterType::Noput as i32],
        1 => vec![FilterType::Nodelete as i32],
        _ => Vec::new(),
    };
    pb::WatchCreateRequest {
        key,
        range_end,
        start_revision,
        progress_notify: chance.random_bool(0.5),
        filters,
        prev_kv: chance.random_bool(0.5),
        watch_id: 0,
        fragment: chance.random_bool(0.4),
    }
}

/// How far a watcher has come: what a client keeps in order to go on elsewhere.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// The first revision it has not been told of; 0 for the present.
    pub next: i64,
    /// Whether it believes progress notifications.
    pub trusts_progress: bool,
}

impl Place {
    /// Where a watch that was asked for begins.
    pub fn of(create: &pb::WatchCreateRequest, trusts_progress: bool) -> Self {
        Self {
            next: create.start_revision,
            trusts_progress,
        }
    }

    /// Moves on by a message.
    pub fn take(&mut self, response: &pb::WatchResponse) {
        let revision = response.header.as_ref().map_or(0, |header| header.revision);
        let last = response.events.last().and_then(|event| event.kv.as_ref());
        let next = match last {
            // The rest of the revision may be in the next part.
            _ if response.fragment => 0,
            Some(last) => last.mod_revision + 1,
            None if response.compact_revision > 0 => response.compact_revision,
            None if response.canceled => 0,
            None if response.created && self.next > 0 => 0,
            None if response.created => revision + 1,
            None if self.trusts_progress => revision + 1,
            None => 0,
        };
        self.next = self.next.max(next);
    }
}
