//! Promise 6: *At most one holder per fencing token, tokens grow, and a fenced write with an old token fails. The holder
//! learns of the loss before another can hold, as far as clocks run at a bounded rate.*
//!
//! * When the lock service says that a lock is held, its key is there at the revision of the answer, and first in its line.
//! * Guarded records in the store are written by whoever is first, and their tokens grow.
//! * Two clients never hold the same at the same time, as far as each reckons its lease; their tokens grow.
//! * The key of a hold stays as long as its holder can count on it.
//! * A resource that checks tokens loses no update. One that does not is the control: its losses are counted, since they
//!   show that the run could have broken the other.
//!
//! All times are those of one clock, the harness's, which it does not share with the servers; a fault of that clock is not
//! among those that are made.

use std::collections::BTreeMap;

use super::deleters::{Deleters, place};
use super::line::{Line, lines};
use super::timing::Timing;
use super::witness::{self, Witness};
use crate::history::{Answer, History, Hold, HoldEnd, Request};
use crate::model::FIRST_REVISION;
use crate::verdict::{Judgement, Violation};
use crate::workload::{election, lock};

/// Its name.
pub const CHECKER: &str = "exclusion";

/// What it judges.
const PROMISE: &str = "At most one holder per fencing token, tokens grow, and a fenced write with an old token fails. The \
                       holder learns of the loss before another can hold, as far as clocks run at a bounded rate.";

/// Judges locks, and all holds of whatever kind.
pub fn judge(history: &History) -> Judgement {
    let mut judgement = Judgement::new(CHECKER, PROMISE);
    let witness = witness::gather(history);
    if let Some(lost) = &witness.lost {
        judgement.inconclusive.push(lost.clone());
    }
    let locks = lines(&witness, lock::LINES);
    replies(&mut judgement, history, &witness, &locks);
    records(&mut judgement, &witness, &locks);
    for line in locks.values() {
        judgement.count("hand-overs", line.holders().count().saturating_sub(1));
    }
    holds(&mut judgement, history);
    let elections = lines(&witness, election::LINES);
    keys_of_holds(
        &mut judgement,
        history,
        &[(lock::LOCK, &locks), (election::ELECTION, &elections)],
    );
    effects(&mut judgement, history);
    judgement
}

/// The name of a line within `prefix`.
fn name_in(name: &[u8], prefix: &str) -> Option<String> {
    let name = std::str::from_utf8(name).ok()?;
    Some(name.strip_prefix(prefix)?.to_owned())
}

/// What the lock service answered.
fn replies(
    judgement: &mut Judgement,
    history: &History,
    witness: &Witness,
    locks: &BTreeMap<String, Line>,
) {
    let mut beyond = 0;
    for (op, answer) in history.answered() {
        let (Request::Lock(request), Answer::Lock(answer)) = (&op.request, answer) else {
            continue;
        };
        let Some(name) = name_in(&request.name, lock::LINES) else {
            continue;
        };
        let revision = answer.header.unwrap_or_default().revision;
        let key = String::from_utf8_lossy(&answer.key);
        let violation = |what: String| {
            let violation = Violation::new(what).by([op.id]);
            violation.at_revision(revision).at(op.returned)
        };
        if answer.key != place(&request.name, request.lease) {
            let what = format!("the lock service gave {key} to lease {:x}", request.lease);
            judgement.violated(violation(what));
            continue;
        }
        if revision > witness.end() {
            beyond += 1;
            continue;
        }
        judgement.count("lock replies", 1);
        let place = locks
            .get(&name)
            .and_then(|line| line.place_at(&answer.key, revision));
        match place {
            None => judgement.violated(violation(format!(
                "the lock service said that {key} holds the lock at revision {revision}, where there is no such key"
            ))),
            Some(place) if !place.led_at(revision) => judgement.violated(violation(format!(
                "the lock service said that {key}, created at {}, holds the lock at revision {revision}, where another was first",
                place.token
            ))),
            Some(_) => {}
        }
    }
    if beyond > 0 {
        let what =
            format!("{beyond} lock replies are newer than the last event that a witness saw");
        judgement.inconclusive.push(what);
    }
}

/// Guarded records in the store.
fn records(judgement: &mut Judgement, witness: &Witness, locks: &BTreeMap<String, Line>) {
    let mut last: BTreeMap<String, i64> = BTreeMap::new();
    for (revision, seen) in (FIRST_REVISION + 1..).zip(&witness.revisions) {
        for kv in seen.events.iter().filter_map(|event| event.kv.as_ref()) {
            let Some(name) = name_in(&kv.key, lock::RECORDS) else {
                continue;
            };
            let value = String::from_utf8_lossy(&kv.value);
            let token = value
                .split('/')
                .next()
                .and_then(|token| token.parse::<i64>().ok());
            let Some(token) = token else { continue };
            judgement.count("guarded writes", 1);
            let first = locks
                .get(&name)
                .and_then(|line| line.first_at(revision - 1));
            if first.is_none_or(|first| first.token != token) {
                let holder =
                    first.map_or("nobody".into(), |first| format!("token {}", first.token));
                let what =
                    format!("{name} was written with token {token} when {holder} held the lock");
                judgement.violated(Violation::new(what).at_revision(revision).at(seen.at));
            }
            let before = last.insert(name.clone(), token).unwrap_or(0);
            if token < before {
                let what = format!("{name} was written with token {token} after token {before}");
                judgement.violated(Violation::new(what).at_revision(revision).at(seen.at));
            }
        }
    }
}

fn told(hold: &Hold) -> String {
    format!(
        "{} {} was client {}'s, with token {}, from {} to {} ms",
        hold.workload,
        hold.name,
        hold.client,
        hold.token,
        hold.from / 1_000_000,
        hold.until / 1_000_000
    )
}

/// What clients believed: no two hold the same at once, and tokens grow.
fn holds(judgement: &mut Judgement, history: &History) {
    let mut by_name: BTreeMap<(&str, &str), Vec<&Hold>> = BTreeMap::new();
    for hold in &history.holds {
        if hold.end == HoldEnd::Lost {
            judgement.count("lost while holding", 1);
        }
        // Who learned of it too late to count on it never held it.
        if hold.from < hold.until {
            by_name
                .entry((&hold.workload, &hold.name))
                .or_default()
                .push(hold);
        }
    }
    for holds in by_name.values_mut() {
        holds.sort_by_key(|hold| hold.from);
        judgement.count("holds compared", holds.len());
        let mut longest: Option<&Hold> = None;
        let mut newest: Option<&Hold> = None;
        for hold in holds {
            if let Some(before) = longest
                && hold.from < before.until
            {
                let what = format!("{}, while {}", told(hold), told(before));
                judgement.violated(Violation::new(what).at(hold.from));
            }
            if let Some(before) = newest
                && hold.token <= before.token
            {
                let what = format!("{}, after {}", told(hold), told(before));
                judgement.violated(Violation::new(what).at(hold.from));
            }
            if longest.is_none_or(|longest| longest.until < hold.until) {
                longest = Some(hold);
            }
            newest = Some(hold);
        }
    }
}

/// The key of a hold is there as long as its holder counts on it.
fn keys_of_holds(
    judgement: &mut Judgement,
    history: &History,
    lines: &[(&str, &BTreeMap<String, Line>)],
) {
    let timing = Timing::of(history);
    let deleters = Deleters::of(history);
    for hold in history.holds.iter().filter(|hold| hold.from < hold.until) {
        let lines = lines
            .iter()
            .find(|(workload, _)| *workload == hold.workload);
        let line = lines.and_then(|(_, lines)| lines.get(&hold.name));
        let place = line.and_then(|line| line.place(hold.key.as_bytes(), hold.token));
        let Some(end) = place.and_then(|place| place.end) else {
            continue;
        };
        let known = timing.known(end);
        judgement.count("holds whose end is known", 1);
        if known < hold.until && !deleters.may_have(hold.key.as_bytes(), end, &timing) {
            let what = format!(
                "{}, but its key was gone at {} ms",
                told(hold),
                known / 1_000_000
            );
            judgement.violated(Violation::new(what).at_revision(end).at(known));
        }
    }
}

/// Resources outside of the cluster.
fn effects(judgement: &mut Judgement, history: &History) {
    let mut tokens: BTreeMap<(&str, &str), i64> = BTreeMap::new();
    for effect in &history.effects {
        if !effect.fenced {
            judgement.count("control writes", 1);
            let is_lost = usize::from(effect.found != effect.read);
            judgement.count("control broken", is_lost);
            continue;
        }
        let newest = tokens.entry((&effect.workload, &effect.name)).or_default();
        if !effect.accepted {
            judgement.count("fenced writes refused", 1);
            continue;
        }
        judgement.count("fenced writes accepted", 1);
        if effect.token < *newest {
            judgement.harness_errors.push(format!(
                "the fenced resource {} took token {} after {newest}",
                effect.name, effect.token
            ));
        }
        *newest = effect.token.max(*newest);
        if effect.found != effect.read {
            let what = format!(
                "client {} with token {} of {} {} read {} from the fenced resource and wrote over {}",
                effect.client,
                effect.token,
                effect.workload,
                effect.name,
                effect.read,
                effect.found
            );
            judgement.violated(Violation::new(what).at(effect.at));
        }
    }
}
