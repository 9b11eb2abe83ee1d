//! What one watcher was told on one stream: a watch that goes on elsewhere sits down anew.

use std::collections::BTreeMap;

use baton_proto::etcdserverpb as pb;
use baton_proto::mvccpb::Event;

use crate::history::{History, Member, Nanos, WatchEvent};

/// A watcher on a stream, from its request to its end.
#[derive(Debug)]
pub struct Sitting<'a> {
    /// The watcher.
    pub watcher: u32,
    /// The member.
    pub member: Member,
    /// When it was asked for.
    pub asked: Nanos,
    /// What was asked for.
    pub request: &'a pb::WatchCreateRequest,
    /// Whether the same watcher sat somewhere before.
    pub resumed: bool,
    /// What it was told, fragments joined.
    pub messages: Vec<Message<'a>>,
    /// When the client ended it.
    pub cancelled: Option<Nanos>,
    /// When its stream broke.
    pub broken: Option<Nanos>,
}

/// A message, whole.
#[derive(Debug)]
pub struct Message<'a> {
    /// When the last part of it came.
    pub at: Nanos,
    /// Its last part, which says what it is.
    pub head: &'a pb::WatchResponse,
    /// The events of all its parts.
    pub events: Vec<&'a Event>,
    /// In how many parts it came.
    pub parts: usize,
    /// Whether the client had asked for the end of the watch before.
    pub after_cancel: bool,
}

impl Message<'_> {
    /// The revision in its header.
    pub fn revision(&self) -> i64 {
        let header = self.head.header.as_ref();
        header.map_or(0, |header| header.revision)
    }

    /// Whether it says nothing but how far the watch is.
    pub fn is_progress(&self) -> bool {
        let head = self.head;
        self.events.is_empty() && !head.created && !head.canceled && head.compact_revision == 0
    }
}

/// A message that came for a watch that nobody had asked for.
#[derive(Debug)]
pub struct Stray {
    /// The number it was kept under.
    pub watcher: u32,
    /// Where it came from.
    pub member: Member,
    /// When.
    pub at: Nanos,
    /// The id it carried.
    pub watch_id: i64,
}

/// Everything that watchers were told.
#[derive(Debug, Default)]
pub struct Sittings<'a> {
    /// In the order in which they were asked for.
    pub sittings: Vec<Sitting<'a>>,
    /// What belongs to none.
    pub strays: Vec<Stray>,
}

/// Sorts the steps of all watchers.
pub fn sort(history: &History) -> Sittings<'_> {
    let mut sorted = Sittings::default();
    let mut current: BTreeMap<u32, usize> = BTreeMap::new();
    let mut parts: BTreeMap<u32, (usize, Vec<&Event>)> = BTreeMap::new();
    for step in &history.watches {
        if let WatchEvent::Asked(request) = &step.step {
            parts.remove(&step.watcher);
            let before = current.insert(step.watcher, sorted.sittings.len());
            sorted.sittings.push(Sitting {
                watcher: step.watcher,
                member: step.member,
                asked: step.at,
                request,
                resumed: before.is_some(),
                messages: Vec::new(),
                cancelled: None,
                broken: None,
            });
            continue;
        }
        let sitting = current
            .get(&step.watcher)
            .and_then(|at| sorted.sittings.get_mut(*at));
        match (&step.step, sitting) {
            (WatchEvent::Received(response), None) => sorted.strays.push(Stray {
                watcher: step.watcher,
                member: step.member,
                at: step.at,
                watch_id: response.watch_id,
            }),
            (WatchEvent::Received(response), Some(sitting)) => {
                let (before, mut events) = if response.events.is_empty() {
                    (0, Vec::new())
                } else {
                    parts.remove(&step.watcher).unwrap_or_default()
                };
                events.extend(&response.events);
                if response.fragment {
                    parts.insert(step.watcher, (before + 1, events));
                    continue;
                }
                sitting.messages.push(Message {
                    at: step.at,
                    head: response,
                    events,
                    parts: before + 1,
                    after_cancel: sitting.cancelled.is_some(),
                });
            }
            (WatchEvent::Cancelled, Some(sitting)) => {
                sitting.cancelled.get_or_insert(step.at);
            }
            (WatchEvent::Broken(_), Some(sitting)) => {
                sitting.broken.get_or_insert(step.at);
            }
            _ => {}
        }
    }
    sorted
}
