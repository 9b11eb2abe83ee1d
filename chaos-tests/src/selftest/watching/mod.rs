//! Mutations about watches.

mod honest;

pub use honest::history;

use std::collections::BTreeSet;

use baton_proto::etcdserverpb as pb;
use baton_proto::mvccpb::Event;
use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::seq::IteratorRandom;

use super::Mutation;
use super::evidence::revision_of;
use crate::check::watch::CHECKER;
use crate::history::{History, Request, WatchEvent, WatchStep};
use crate::workload::watch::WORKLOAD;

/// A row of the table.
const fn row(name: &'static str, mutate: fn(&mut History, &mut SmallRng) -> bool) -> Mutation {
    Mutation {
        name,
        checker: CHECKER,
        history,
        mutate,
    }
}

/// All of them.
pub const MUTATIONS: &[Mutation] = &[
    row("a watch misses what comes before more", lose_message),
    row("a watch never sees the last events", lose_last),
    row("a watch misses the first event it asked for", lose_first),
    row("a watch misses an event of a transaction", lose_part),
    row("a watch misses a fragment", lose_fragment),
    row("a watch is told the same twice", repeat_message),
    row("a watch goes back", swap_messages),
    row("a transaction comes in two messages", split_transaction),
    row("a watch sees an event from before its start", below_start),
    row("a filter lets an event pass", pass_filter),
    row("a watch is told of a key it is not about", another_key),
    row("a watch is told another value", another_value),
    row("a watch is told another previous value", another_previous),
    row("a previous value is missing", no_previous),
    row("a previous value comes unasked", unasked_previous),
    row("progress runs ahead of events", progress_ahead),
    row("a watch is served before it is answered", never_created),
    row("a watch is answered twice", created_twice),
    row("a watch is ended by a compaction behind it", ended_behind),
    row(
        "a watch is told of a compaction beyond the true one",
        wrong_floor,
    ),
    row("a watch below the floor goes on", not_ended),
    row("a watch is ended without a reason", ended_silently),
    row("a watch is told of more after its end", after_end),
    row("a message comes for a watch that nobody has", stray),
];

/// What is wanted of a message.
struct Found<'a> {
    request: &'a pb::WatchCreateRequest,
    response: &'a pb::WatchResponse,
    /// Whether it is the first with events, and the last.
    first: bool,
    last: bool,
    /// Whether its watch is told of any.
    served: bool,
    /// Whether its watch is there until the client ends it.
    stays: bool,
}

/// A message, drawn of those for which `wanted` holds: its place among all steps.
fn draw(
    history: &History,
    chance: &mut SmallRng,
    wanted: impl Fn(&Found<'_>) -> bool,
) -> Option<usize> {
    let steps = &history.watches;
    let watchers: BTreeSet<u32> = steps
        .iter()
        .filter(|step| step.workload == WORKLOAD)
        .map(|step| step.watcher)
        .collect();
    let mut places = Vec::new();
    for watcher in watchers {
        let own: Vec<usize> = (0..steps.len())
            .filter(|at| steps[*at].watcher == watcher)
            .collect();
        let begins = |at: &usize| matches!(steps[*at].step, WatchEvent::Asked(_));
        for sitting in own.chunk_by(|_, next| !begins(next)) {
            let Some(WatchEvent::Asked(request)) = sitting.first().map(|at| &steps[*at].step)
            else {
                continue;
            };
            let stays = sitting
                .iter()
                .any(|at| matches!(steps[*at].step, WatchEvent::Cancelled));
            let response = |at: usize| match &steps[at].step {
                WatchEvent::Received(response) => Some(response),
                _ => None,
            };
            let with_events: Vec<usize> = sitting
                .iter()
                .copied()
                .filter(|at| response(*at).is_some_and(|r| !r.events.is_empty()))
                .collect();
            for at in sitting {
                let Some(response) = response(*at) else {
                    continue;
                };
                let found = Found {
                    request,
                    response,
                    first: with_events.first() == Some(at),
                    last: with_events.last() == Some(at),
                    served: !with_events.is_empty(),
                    stays,
                };
                if wanted(&found) {
                    places.push(*at);
                }
            }
        }
    }
    places.into_iter().choose(chance)
}

/// The message at a place, to be changed.
fn message(history: &mut History, at: usize) -> Option<&mut pb::WatchResponse> {
    match history.watches.get_mut(at).map(|step| &mut step.step) {
        Some(WatchEvent::Received(response)) => Some(response),
        _ => None,
    }
}

fn has_events(found: &Found<'_>) -> bool {
    !found.response.events.is_empty()
}

fn is_whole(found: &Found<'_>) -> bool {
    has_events(found) && !found.response.fragment
}

/// Changes a drawn message for which `wanted` holds.
fn change(
    history: &mut History,
    chance: &mut SmallRng,
    wanted: impl Fn(&Found<'_>) -> bool,
    change: impl FnOnce(&mut pb::WatchResponse),
) -> bool {
    let Some(at) = draw(history, chance, wanted) else {
        return false;
    };
    message(history, at).map(change).is_some()
}

/// Takes a drawn message out.
fn remove(
    history: &mut History,
    chance: &mut SmallRng,
    wanted: impl Fn(&Found<'_>) -> bool,
) -> bool {
    match draw(history, chance, wanted) {
        Some(at) => {
            history.watches.remove(at);
            true
        }
        None => false,
    }
}

/// Puts a message behind that at `at`.
fn add(history: &mut History, at: usize, response: pb::WatchResponse) {
    let before = &history.watches[at];
    let step = WatchStep {
        step: WatchEvent::Received(response),
        ..before.clone()
    };
    history.watches.insert(at + 1, step);
}

fn lose_message(history: &mut History, chance: &mut SmallRng) -> bool {
    remove(history, chance, |found| has_events(found) && !found.last)
}

fn lose_last(history: &mut History, chance: &mut SmallRng) -> bool {
    remove(history, chance, |found| {
        is_whole(found) && found.last && found.stays
    })
}

fn lose_first(history: &mut History, chance: &mut SmallRng) -> bool {
    let wanted = |found: &Found<'_>| {
        let events = &found.response.events;
        found.first && events.len() > 1 && found.request.start_revision > 0
    };
    change(history, chance, wanted, |response| {
        response.events.remove(0);
    })
}

/// Where a message has two events of one revision next to each other: the place of the second.
fn pair(response: &pb::WatchResponse) -> Option<usize> {
    let events = &response.events;
    (1..events.len()).find(|at| revision_of(&events[*at]) == revision_of(&events[at - 1]))
}

fn lose_part(history: &mut History, chance: &mut SmallRng) -> bool {
    let wanted = |found: &Found<'_>| pair(found.response).is_some();
    change(history, chance, wanted, |response| {
        if let Some(at) = pair(response) {
            response.events.remove(at);
        }
    })
}

fn lose_fragment(history: &mut History, chance: &mut SmallRng) -> bool {
    remove(history, chance, |found| found.response.fragment)
}

fn repeat_message(history: &mut History, chance: &mut SmallRng) -> bool {
    let Some(at) = draw(history, chance, is_whole) else {
        return false;
    };
    let again = message(history, at).cloned().unwrap_or_default();
    add(history, at, again);
    true
}

fn swap_messages(history: &mut History, chance: &mut SmallRng) -> bool {
    let wanted = |found: &Found<'_>| {
        let events = &found.response.events;
        is_whole(found) && events.first().map(revision_of) != events.last().map(revision_of)
    };
    change(history, chance, wanted, |response| {
        response.events.reverse();
    })
}

fn split_transaction(history: &mut History, chance: &mut SmallRng) -> bool {
    let wanted = |found: &Found<'_>| is_whole(found) && pair(found.response).is_some();
    let Some(at) = draw(history, chance, wanted) else {
        return false;
    };
    let Some(response) = message(history, at) else {
        return false;
    };
    let mut rest = response.clone();
    rest.events = pair(response).map_or_else(Vec::new, |pair| response.events.split_off(pair));
    add(history, at, rest);
    true
}

fn below_start(history: &mut History, chance: &mut SmallRng) -> bool {
    let wanted = |found: &Found<'_>| found.first && found.request.start_revision > 2;
    change(history, chance, wanted, |response| {
        let mut early = response.events[0].clone();
        if let Some(kv) = &mut early.kv {
            kv.mod_revision = 2;
        }
        response.events.insert(0, early);
    })
}

fn pass_filter(history: &mut History, chance: &mut SmallRng) -> bool {
    let wanted = |found: &Found<'_>| has_events(found) && !found.request.filters.is_empty();
    change(history, chance, wanted, |response| {
        let mut event = response.events[0].clone();
        event.r#type = 1 - event.r#type;
        response.events.insert(0, event);
    })
}

fn another_key(history: &mut History, chance: &mut SmallRng) -> bool {
    let wanted = |found: &Found<'_>| has_events(found) && found.request.range_end != b"\0"[..];
    change(history, chance, wanted, |response| {
        if let Some(kv) = &mut response.events[0].kv {
            kv.key = Bytes::from_static(b"zzz");
        }
    })
}

/// The first event of a message that is a put.
fn put(response: &mut pb::WatchResponse) -> Option<&mut Event> {
    response.events.iter_mut().find(|event| event.r#type == 0)
}

fn another_value(history: &mut History, chance: &mut SmallRng) -> bool {
    let wanted = |found: &Found<'_>| found.response.events.iter().any(|event| event.r#type == 0);
    change(history, chance, wanted, |response| {
        if let Some(kv) = put(response).and_then(|event| event.kv.as_mut()) {
            kv.value = Bytes::from_static(b"another");
        }
    })
}

fn another_previous(history: &mut History, chance: &mut SmallRng) -> bool {
    let wanted = |found: &Found<'_>| {
        let mut events = found.response.events.iter();
        events.any(|event| event.prev_kv.is_some())
    };
    change(history, chance, wanted, |response| {
        let mut events = response.events.iter_mut();
        if let Some(kv) = events.find_map(|event| event.prev_kv.as_mut()) {
            kv.mod_revision -= 1;
        }
    })
}

/// The revision up to which history may be forgotten in the end.
fn floor(history: &History) -> i64 {
    let compactions = history.operations.iter().filter_map(|op| match op.request {
        Request::Compact(request) => Some(request.revision),
        _ => None,
    });
    compactions.max().unwrap_or_default()
}

fn no_previous(history: &mut History, chance: &mut SmallRng) -> bool {
    let floor = floor(history);
    let lacks = |event: &Event| event.prev_kv.is_some() && revision_of(event) > floor;
    let wanted = |found: &Found<'_>| found.response.events.iter().any(lacks);
    change(history, chance, wanted, |response| {
        if let Some(event) = response.events.iter_mut().find(|event| lacks(event)) {
            event.prev_kv = None;
        }
    })
}

fn unasked_previous(history: &mut History, chance: &mut SmallRng) -> bool {
    let wanted = |found: &Found<'_>| has_events(found) && !found.request.prev_kv;
    change(history, chance, wanted, |response| {
        let event = &mut response.events[0];
        event.prev_kv = event.kv.clone();
    })
}

fn progress_ahead(history: &mut History, chance: &mut SmallRng) -> bool {
    let Some(at) = draw(history, chance, |found| is_whole(found) && found.first) else {
        return false;
    };
    let Some(response) = message(history, at) else {
        return false;
    };
    let progress = pb::WatchResponse {
        events: Vec::new(),
        ..response.clone()
    };
    add(history, at, progress);
    history.watches.swap(at, at + 1);
    true
}

fn never_created(history: &mut History, chance: &mut SmallRng) -> bool {
    remove(history, chance, |found| {
        found.response.created && found.served
    })
}

fn created_twice(history: &mut History, chance: &mut SmallRng) -> bool {
    let Some(at) = draw(history, chance, |found| found.response.created) else {
        return false;
    };
    let again = message(history, at).cloned().unwrap_or_default();
    add(history, at, again);
    true
}

fn ended_behind(history: &mut History, chance: &mut SmallRng) -> bool {
    let floor = floor(history);
    let wanted = |found: &Found<'_>| {
        let last = found.response.events.last().map_or(0, revision_of);
        found.last && is_whole(found) && last >= floor
    };
    let Some(at) = draw(history, chance, wanted) else {
        return false;
    };
    let end = pb::WatchResponse {
        canceled: true,
        compact_revision: floor.max(1),
        ..Default::default()
    };
    add(history, at, end);
    true
}

fn wrong_floor(history: &mut History, chance: &mut SmallRng) -> bool {
    let wanted = |found: &Found<'_>| found.response.compact_revision > 0;
    let beyond = floor(history) + 1;
    change(history, chance, wanted, |response| {
        response.compact_revision = beyond;
    })
}

fn not_ended(history: &mut History, chance: &mut SmallRng) -> bool {
    // Only the first member said that it had compacted.
    let Some(at) = draw(history, chance, |found| {
        let header = found.response.header.unwrap_or_default();
        found.response.compact_revision > 0
            && header.member_id == super::honest::header(1, 0).member_id
    }) else {
        return false;
    };
    let restarted = history
        .members
        .iter()
        .any(|step| step.member == 1 && step.at > 1000);
    if restarted {
        return false;
    }
    let Some(response) = message(history, at) else {
        return false;
    };
    response.canceled = false;
    response.compact_revision = 0;
    true
}

fn ended_silently(history: &mut History, chance: &mut SmallRng) -> bool {
    let Some(at) = draw(history, chance, |found| is_whole(found) && found.last) else {
        return false;
    };
    let end = pb::WatchResponse {
        canceled: true,
        ..Default::default()
    };
    add(history, at, end);
    true
}

fn after_end(history: &mut History, chance: &mut SmallRng) -> bool {
    let Some(at) = draw(history, chance, |found| found.response.canceled) else {
        return false;
    };
    let more = pb::WatchResponse {
        header: Some(super::honest::header(1, 2)),
        ..Default::default()
    };
    add(history, at, more);
    true
}

fn stray(history: &mut History, chance: &mut SmallRng) -> bool {
    let Some(at) = draw(history, chance, has_events) else {
        return false;
    };
    let response = message(history, at).cloned().unwrap_or_default();
    add(history, at, response);
    history.watches[at + 1].watcher = 1_000_000;
    true
}
