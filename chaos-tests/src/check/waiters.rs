//! Promise 7: *Waiters are served in create-revision order; a crashed or cancelled waiter leaves no key behind and wakes only
//! its successor.*
//!
//! * Nobody holds before everyone who was created before it is gone.
//! * Who became first is told so soon, where nothing is wrong with the cluster.
//! * The key of a wait that was given up is taken away soon, though its lease lives on. (Keys of those that crashed go with
//!   their leases, which the checker of leases judges.)
//! * Nobody stands in a line who did not ask for it then.

use std::collections::BTreeMap;
use std::time::Duration;

use super::creators::Creators;
use super::deleters::place;
use super::line::{Line, Place, lines};
use super::timing::Timing;
use super::witness;
use crate::history::{History, Nanos, Operation, Outcome, Request, nanos};
use crate::verdict::{Judgement, Violation};
use crate::workload::{election, lock};

/// How soon is soon.
const SOON: Duration = Duration::from_secs(5);

/// Its name.
pub const CHECKER: &str = "waiters";

/// What it judges.
const PROMISE: &str = "Waiters are served in create-revision order; a crashed or cancelled waiter leaves no key behind and \
                       wakes only its successor.";

/// Judges all who waited for locks and elections.
pub fn judge(history: &History) -> Judgement {
    let mut judgement = Judgement::new(CHECKER, PROMISE);
    let witness = witness::gather(history);
    if let Some(lost) = &witness.lost {
        judgement.inconclusive.push(lost.clone());
    }
    let timing = Timing::of(history);
    let end = timing.not_before(witness.end() + 1);
    let creators = Creators::of(history);
    for (workload, prefix) in [
        (lock::LOCK, lock::LINES),
        (election::ELECTION, election::LINES),
    ] {
        let lines = lines(&witness, prefix);
        for line in lines.values() {
            let died = line
                .places
                .iter()
                .filter(|p| p.first.is_none() && p.end.is_some());
            judgement.count("left before their turn", died.count());
            for place in &line.places {
                judgement.count("places", 1);
                if !creators.may_have(&place.key, place.token, &timing) {
                    let key = String::from_utf8_lossy(&place.key);
                    let what =
                        format!("{key} came to stand in line, and nobody asked for that then");
                    let at = timing.known(place.token);
                    judgement.violated(Violation::new(what).at_revision(place.token).at(at));
                }
            }
        }
        turns(&mut judgement, history, workload, &lines, &timing);
        for op in &history.operations {
            let wait = match &op.request {
                Request::Lock(request) => (&request.name, request.lease),
                Request::Campaign(request) => (&request.name, request.lease),
                _ => continue,
            };
            let name = std::str::from_utf8(wait.0).ok();
            let line = name.and_then(|name| lines.get(name.strip_prefix(prefix)?));
            if let Some(line) = line {
                let key = place(wait.0, wait.1);
                for place in line.places.iter().filter(|place| place.key == key) {
                    told_soon(&mut judgement, op, place, &timing);
                    taken_away(&mut judgement, op, place, &timing, end);
                }
            }
        }
    }
    judgement
}

/// Nobody holds while somebody who was created before it is certainly there.
fn turns(
    judgement: &mut Judgement,
    history: &History,
    workload: &str,
    lines: &BTreeMap<String, Line>,
    timing: &Timing,
) {
    let holds = history
        .holds
        .iter()
        .filter(|hold| hold.workload == workload);
    for hold in holds.filter(|hold| hold.from < hold.until) {
        let Some(line) = lines.get(&hold.name) else {
            continue;
        };
        judgement.count("turns", 1);
        let Some(place) = line.place(hold.key.as_bytes(), hold.token) else {
            let what = format!(
                "{} {} was held by {} with token {}, which there never was",
                workload, hold.name, hold.key, hold.token
            );
            judgement.violated(Violation::new(what).at_revision(hold.token).at(hold.from));
            continue;
        };
        if place
            .first
            .is_some_and(|first| timing.not_before(first) <= hold.from)
        {
            continue;
        }
        let before = line
            .places
            .iter()
            .take_while(|before| before.token < place.token);
        let before = before
            .filter(|before| {
                before
                    .end
                    .is_none_or(|end| timing.not_before(end) > hold.from)
            })
            .map(|before| before.token)
            .max();
        let what = match before {
            Some(before) => format!(
                "token {} of {workload} {} was served before token {before}",
                hold.token, hold.name
            ),
            None => format!(
                "token {} of {workload} {} was served and never was first",
                hold.token, hold.name
            ),
        };
        judgement.violated(Violation::new(what).at_revision(hold.token).at(hold.from));
    }
}

/// Whether the place may be the one that the call waited in.
fn may_be_of(op: &Operation, place: &Place, timing: &Timing) -> bool {
    timing.not_before(place.token) <= op.returned && timing.known(place.token) >= op.called
}

/// A call is answered soon after its key became the first.
fn told_soon(judgement: &mut Judgement, op: &Operation, place: &Place, timing: &Timing) {
    let Some(first) = place.first.map(|first| timing.known(first)) else {
        return;
    };
    let Some(calm) = timing.calm_since(op.returned) else {
        return;
    };
    if !may_be_of(op, place, timing) {
        return;
    }
    judgement.count("waits judged for being stuck", 1);
    let from = first.max(calm).max(op.called);
    let is_there_until = match place.end {
        Some(end) => timing.not_before(end).min(op.returned),
        None => op.returned,
    };
    if is_there_until > from + nanos(SOON) {
        let what = format!(
            "{} was first for {} ms, and its wait was not over",
            String::from_utf8_lossy(&place.key),
            (is_there_until - from) / 1_000_000
        );
        let violation = Violation::new(what).by([op.id]).at(is_there_until);
        judgement.violated(violation.at_revision(place.first.unwrap_or(place.token)));
    }
}

/// The key of a wait that was given up goes soon.
fn taken_away(
    judgement: &mut Judgement,
    op: &Operation,
    place: &Place,
    timing: &Timing,
    end: Nanos,
) {
    if !matches!(op.outcome, Outcome::Unknown(_)) || !may_be_of(op, place, timing) {
        return;
    }
    judgement.count("waits given up", 1);
    // One that became first at the last moment may have been answered.
    if place
        .first
        .is_some_and(|first| timing.not_before(first) <= op.returned)
    {
        return;
    }
    let until = op.returned + nanos(SOON);
    if !timing.is_calm(op.called, until) {
        return;
    }
    judgement.count("keys of waits given up", 1);
    let there = place.end.map_or(end, |end| timing.not_before(end));
    if there > until {
        let what = format!(
            "{} was still there {} ms after its wait was given up",
            String::from_utf8_lossy(&place.key),
            (there - op.returned) / 1_000_000
        );
        judgement.violated(
            Violation::new(what)
                .by([op.id])
                .at_revision(place.token)
                .at(there),
        );
    }
}
