//! What a watcher was told and has not taken yet.

use std::collections::VecDeque;

use baton_proto::mvccpb;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::{Notification, WatchError};

/// What an event weighs beside its keys and values.
const EVENT_OVERHEAD: usize = 128;

/// The notifications of one watcher between the hub and who reads them.
#[derive(Debug)]
pub(crate) struct Mailbox {
    state: Mutex<State>,
    changed: Notify,
    /// Bytes from which on it is full.
    limit: usize,
}

#[derive(Debug, Default)]
struct State {
    told: VecDeque<(Notification, usize)>,
    bytes: usize,
    /// The hub stopped the watch until half of the bytes are taken.
    is_paused: bool,
    end: Option<WatchError>,
}

impl Mailbox {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            state: Mutex::default(),
            changed: Notify::new(),
            limit,
        }
    }

    /// Adds a notification. Returns whether the watch has to pause: it is full, and [`take`](Self::take)
    /// will tell when it is not any more.
    pub(crate) fn put(&self, notification: Notification) -> bool {
        let mut state = self.state.lock();
        let is_progress = notification.events.is_empty();
        let last = state.told.back_mut().map(|(last, _)| last);
        match last {
            Some(last) if is_progress && last.events.is_empty() => {
                last.revision = notification.revision;
            }
            _ => {
                let weight = weight(&notification.events);
                state.bytes += weight;
                state.told.push_back((notification, weight));
            }
        }
        state.is_paused = state.bytes > self.limit;
        let is_paused = state.is_paused;
        drop(state);
        self.changed.notify_one();
        is_paused
    }

    /// It is over behind what was told before.
    pub(crate) fn end(&self, error: WatchError) {
        self.state.lock().end = Some(error);
        self.changed.notify_one();
    }

    /// The next notification, and whether the hub has to be told that there is room again. Cancel safe.
    /// One at a time may wait.
    pub(crate) async fn take(&self) -> (Result<Notification, WatchError>, bool) {
        loop {
            if let Some(taken) = self.take_now() {
                return taken;
            }
            self.changed.notified().await;
        }
    }

    fn take_now(&self) -> Option<(Result<Notification, WatchError>, bool)> {
        let mut state = self.state.lock();
        let Some((notification, weight)) = state.told.pop_front() else {
            return state.end.clone().map(|error| (Err(error), false));
        };
        state.bytes -= weight;
        let is_drained = state.is_paused && state.bytes <= self.limit / 2;
        if is_drained {
            state.is_paused = false;
        }
        Some((Ok(notification), is_drained))
    }
}

fn weight(events: &[mvccpb::Event]) -> usize {
    let pair = |kv: &mvccpb::KeyValue| kv.key.len() + kv.value.len();
    events
        .iter()
        .map(|event| {
            let kv = event.kv.as_ref().map_or(0, pair);
            let prev_kv = event.prev_kv.as_ref().map_or(0, pair);
            EVENT_OVERHEAD + kv + prev_kv
        })
        .sum::<usize>()
        .max(EVENT_OVERHEAD)
}
