//! The mutations.

use std::collections::BTreeSet;
use std::time::Duration;

use baton_proto::etcdserverpb as pb;
use baton_proto::mvccpb::{Event, KeyValue};
use baton_proto::v3electionpb as elections;
use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::seq::IteratorRandom;

use super::story;
use crate::check::deleters::place;
use crate::check::line::{Place, lines};
use crate::check::timing::Timing;
use crate::check::{barrier, election, exclusion, lease, queue, waiters, witness};
use crate::history::{Answer, History, HoldEnd, Nanos, Operation, Outcome, Request, nanos};
use crate::model::FIRST_REVISION;
use crate::selftest::Mutation;
use crate::selftest::evidence::{
    add_revision, change_answer, change_events, draw, model, revision_of,
};
use crate::selftest::honest::header;
use crate::workload::{self, ask};

/// A row of the table.
const fn row(
    name: &'static str,
    checker: &'static str,
    mutate: fn(&mut History, &mut SmallRng) -> bool,
) -> Mutation {
    Mutation {
        name,
        checker,
        history: story::history,
        mutate,
    }
}

/// All of them.
pub const MUTATIONS: &[Mutation] = &[
    row("a lease ends before its time", lease::CHECKER, end_early),
    row("a lease ends long after its time", lease::CHECKER, end_late),
    row(
        "a key is left when its lease ends",
        lease::CHECKER,
        leave_key,
    ),
    row(
        "a lease is renewed after it was revoked",
        lease::CHECKER,
        renew_revoked,
    ),
    row(
        "a member says too early that a lease is gone",
        lease::CHECKER,
        say_gone,
    ),
    row(
        "a member says that less time is left of a lease",
        lease::CHECKER,
        say_less,
    ),
    row(
        "a member says that a lease was granted for longer",
        lease::CHECKER,
        say_longer,
    ),
    row("a lease is granted twice", lease::CHECKER, grant_twice),
    row(
        "a member does not list a lease that it granted",
        lease::CHECKER,
        list_less,
    ),
    row(
        "a key is put under a lease that ended",
        lease::CHECKER,
        put_under_ended,
    ),
    row(
        "two clients hold a lock at once",
        exclusion::CHECKER,
        hold_both,
    ),
    row(
        "a lock is answered to a key that is gone",
        exclusion::CHECKER,
        answer_gone,
    ),
    row(
        "a lock is answered out of turn",
        exclusion::CHECKER,
        answer_out_of_turn,
    ),
    row(
        "a lock is answered to another lease",
        exclusion::CHECKER,
        answer_other,
    ),
    row(
        "a guarded write is done by who holds no more",
        exclusion::CHECKER,
        write_late,
    ),
    row("a token goes back", exclusion::CHECKER, token_back),
    row(
        "a fenced resource loses an update",
        exclusion::CHECKER,
        lose_update,
    ),
    row(
        "a key is gone while its holder counts on it",
        exclusion::CHECKER,
        lose_hold,
    ),
    row(
        "a waiter is served before one who came earlier",
        waiters::CHECKER,
        serve_early,
    ),
    row(
        "a waiter holds by a key that never was",
        waiters::CHECKER,
        hold_nothing,
    ),
    row(
        "a waiter is not told of its turn",
        waiters::CHECKER,
        forget_waiter,
    ),
    row(
        "the key of a wait that was given up stays",
        waiters::CHECKER,
        keep_given_up,
    ),
    row(
        "a key stands in line again that was unlocked",
        waiters::CHECKER,
        haunt,
    ),
    row(
        "a campaign is won by a key that never was first",
        election::CHECKER,
        win_gone,
    ),
    row(
        "what a deposed leader proclaims is heard",
        election::CHECKER,
        hear_deposed,
    ),
    row(
        "what is proclaimed is not written",
        election::CHECKER,
        lose_proclamation,
    ),
    row(
        "an observer is not told of a leader",
        election::CHECKER,
        skip_leader,
    ),
    row(
        "an observer is not told of a proclamation",
        election::CHECKER,
        skip_proclamation,
    ),
    row("an observer is told twice", election::CHECKER, tell_twice),
    row(
        "an observer is told of a leader that never was",
        election::CHECKER,
        tell_invented,
    ),
    row(
        "another is said to lead",
        election::CHECKER,
        say_other_leads,
    ),
    row(
        "a job is handed to two workers at once",
        queue::CHECKER,
        claim_twice,
    ),
    row(
        "a job leaves its queue unacknowledged",
        queue::CHECKER,
        lose_job,
    ),
    row(
        "an acknowledged job is not in its queue",
        queue::CHECKER,
        lose_enqueued,
    ),
    row("a job is done twice", queue::CHECKER, do_twice),
    row("a worse job is claimed first", queue::CHECKER, claim_worse),
    row(
        "a claim is acknowledged and does not happen",
        queue::CHECKER,
        lose_claim,
    ),
    row(
        "a client passes a barrier that is up",
        barrier::CHECKER,
        pass_early,
    ),
    row(
        "a double barrier is entered before all have come",
        barrier::CHECKER,
        enter_early,
    ),
    row(
        "a double barrier is left before all have left",
        barrier::CHECKER,
        leave_early,
    ),
];

// Finding things.

/// A lease that ended by itself, and the revision at which it did.
fn expired(history: &History, chance: &mut SmallRng) -> Option<(i64, i64)> {
    let revoked: BTreeSet<i64> = history
        .operations
        .iter()
        .filter_map(|op| match &op.request {
            Request::LeaseRevoke(request) => Some(request.id),
            _ => None,
        })
        .collect();
    let model = model(history);
    let mut ends = Vec::new();
    for (revision, seen) in (FIRST_REVISION + 1..).zip(&witness::gather(history).revisions) {
        for event in seen.events.iter().filter(|event| event.r#type != 0) {
            let key = &event.kv.as_ref()?.key;
            let lease = model.get(key, revision - 1).map_or(0, |kv| kv.lease);
            if lease != 0 && !revoked.contains(&lease) && key.starts_with(b"lease/") {
                ends.push((lease, revision));
            }
        }
    }
    ends.into_iter().choose(chance)
}

/// A place of a line of locks that had to wait, or of one that did not.
fn waited(history: &History, chance: &mut SmallRng) -> Option<Place> {
    let lines = lines(&witness::gather(history), workload::lock::LINES);
    let places = lines.values().flat_map(|line| &line.places);
    let waited = places.filter(|place| place.first.is_some_and(|first| first > place.token));
    waited.choose(chance).cloned()
}

/// The event of the witnesses at a revision whose key begins with `prefix`.
fn change_event(
    history: &mut History,
    revision: i64,
    prefix: &str,
    change: impl Fn(&mut KeyValue),
) {
    change_events(history, |events| {
        let at = events
            .iter_mut()
            .filter(|event| revision_of(event) == revision);
        for kv in at.filter_map(|event| event.kv.as_mut()) {
            if kv.key.starts_with(prefix.as_bytes()) {
                change(kv);
            }
        }
    });
}

/// Draws an event of the witnesses.
fn draw_event(
    history: &History,
    chance: &mut SmallRng,
    wanted: impl Fn(&Event, &KeyValue) -> bool,
) -> Option<KeyValue> {
    let gathered = witness::gather(history);
    let events = gathered.revisions.iter().flat_map(|seen| &seen.events);
    let wanted = events.filter(|event| event.kv.as_ref().is_some_and(|kv| wanted(event, kv)));
    wanted.choose(chance).and_then(|event| event.kv.clone())
}

/// Everything from `from` on happens later.
fn delay(history: &mut History, from: Nanos, by: Nanos) {
    let later = |at: &mut Nanos| {
        if *at >= from {
            *at += by;
        }
    };
    for op in &mut history.operations {
        later(&mut op.called);
        later(&mut op.returned);
    }
    history
        .watches
        .iter_mut()
        .for_each(|step| later(&mut step.at));
    for hold in &mut history.holds {
        later(&mut hold.from);
        later(&mut hold.until);
    }
    history
        .effects
        .iter_mut()
        .for_each(|effect| later(&mut effect.at));
    history
        .observed
        .iter_mut()
        .for_each(|observed| later(&mut observed.at));
    history
        .members
        .iter_mut()
        .for_each(|step| later(&mut step.at));
}

/// A revision, and everything after it, comes later; just before it a read finds that it has not come yet.
fn delay_revision(history: &mut History, revision: i64, by: Duration) {
    let known = Timing::of(history).known(revision);
    delay(history, known, nanos(by));
    let id = history.operations.len() as u64 + 1000;
    let called = known + nanos(by) - 1_000_000;
    history.operations.push(Operation {
        id,
        workload: "final".into(),
        client: u32::MAX,
        member: 1,
        called,
        returned: called + 500_000,
        request: ask::get("nothing").into(),
        outcome: Outcome::Ok(Answer::Range(pb::RangeResponse {
            header: Some(header(1, revision - 1)),
            ..Default::default()
        })),
    });
}

/// The same operation once more.
fn repeat(history: &mut History, at: usize) {
    let mut again = history.operations[at].clone();
    again.id = history.operations.len() as u64 + 1000;
    again.called = again.returned + 1000;
    again.returned = again.called + 1000;
    history.operations.push(again);
}

// Leases.

fn end_early(history: &mut History, chance: &mut SmallRng) -> bool {
    let Some((lease, revision)) = expired(history, chance) else {
        return false;
    };
    let known = Timing::of(history).known(revision);
    let renewal = history.operations.iter_mut().rev().find(|op| {
        matches!((&op.request, &op.outcome),
            (Request::LeaseKeepAlive(r), Outcome::Ok(Answer::LeaseKeepAlive(a))) if r.id == lease && a.ttl > 0)
    });
    let Some(renewal) = renewal else { return false };
    renewal.called = known - 300_000_000;
    renewal.returned = known - 299_000_000;
    true
}

fn end_late(history: &mut History, chance: &mut SmallRng) -> bool {
    let Some((_, revision)) = expired(history, chance) else {
        return false;
    };
    delay_revision(history, revision, Duration::from_secs(20));
    true
}

fn leave_key(history: &mut History, chance: &mut SmallRng) -> bool {
    let Some((_, revision)) = expired(history, chance) else {
        return false;
    };
    let is_first = |events: &[Event]| {
        events
            .iter()
            .position(|event| revision_of(event) == revision && event.r#type != 0)
    };
    change_events(history, |events| {
        let of_it = events.iter().filter(|event| revision_of(event) == revision);
        if of_it.count() > 1
            && let Some(first) = is_first(events)
        {
            events.remove(first);
        }
    });
    true
}

fn renew_revoked(history: &mut History, chance: &mut SmallRng) -> bool {
    let revoked: BTreeSet<i64> = history
        .answered()
        .filter_map(|(op, _)| match &op.request {
            Request::LeaseRevoke(request) => Some(request.id),
            _ => None,
        })
        .collect();
    change_answer(history, chance, |_, answer| match answer {
        Answer::LeaseKeepAlive(answer) if answer.ttl == 0 && revoked.contains(&answer.id) => {
            answer.ttl = 2;
            true
        }
        _ => false,
    })
}

fn say_gone(history: &mut History, chance: &mut SmallRng) -> bool {
    change_answer(history, chance, |_, answer| match answer {
        Answer::LeaseTimeToLive(answer) if answer.ttl > 0 => {
            answer.ttl = -1;
            answer.granted_ttl = 0;
            true
        }
        _ => false,
    })
}

fn say_less(history: &mut History, chance: &mut SmallRng) -> bool {
    change_answer(history, chance, |_, answer| match answer {
        Answer::LeaseTimeToLive(answer) if answer.ttl > 0 => {
            answer.ttl = 0;
            true
        }
        _ => false,
    })
}

fn say_longer(history: &mut History, chance: &mut SmallRng) -> bool {
    change_answer(history, chance, |_, answer| match answer {
        Answer::LeaseTimeToLive(answer) if answer.ttl > 0 => {
            answer.granted_ttl += 1;
            true
        }
        _ => false,
    })
}

fn grant_twice(history: &mut History, chance: &mut SmallRng) -> bool {
    let is_grant = |op: &Operation| matches!(op.request, Request::LeaseGrant(_));
    match draw(history, chance, is_grant) {
        Some(at) => {
            repeat(history, at);
            true
        }
        None => false,
    }
}

fn list_less(history: &mut History, chance: &mut SmallRng) -> bool {
    let granted: Vec<(u64, i64)> = history
        .answered()
        .filter_map(|(op, answer)| match answer {
            Answer::LeaseGrant(answer) => Some((op.member, answer.id)),
            _ => None,
        })
        .collect();
    change_answer(history, chance, |op, answer| match answer {
        Answer::LeaseLeases(list) => {
            let before = list.leases.len();
            list.leases
                .retain(|lease| !granted.contains(&(op.member, lease.id)));
            list.leases.len() < before
        }
        _ => false,
    })
}

fn put_under_ended(history: &mut History, chance: &mut SmallRng) -> bool {
    let Some((lease, _)) = expired(history, chance) else {
        return false;
    };
    add_revision(history, |draft| {
        draft.set(&Bytes::from_static(b"lease/late"), "late".into(), lease);
    });
    true
}

// Locks.

/// A hold and the next one of the same, by their places in the history.
fn successive_holds(history: &History, chance: &mut SmallRng) -> Option<(usize, usize)> {
    let holds = &history.holds;
    let pairs = (0..holds.len()).flat_map(|first| {
        let next = (first + 1..holds.len()).find(|next| {
            holds[*next].name == holds[first].name && holds[*next].from >= holds[first].until
        });
        next.map(|next| (first, next))
    });
    pairs.choose(chance)
}

fn hold_both(history: &mut History, chance: &mut SmallRng) -> bool {
    let Some((first, next)) = successive_holds(history, chance) else {
        return false;
    };
    history.holds[first].until = history.holds[next].from + 1;
    true
}

fn token_back(history: &mut History, chance: &mut SmallRng) -> bool {
    let Some((first, next)) = successive_holds(history, chance) else {
        return false;
    };
    history.holds[next].token = history.holds[first].token - 1;
    true
}

fn answer_gone(history: &mut History, chance: &mut SmallRng) -> bool {
    let end = witness::gather(history).end();
    change_answer(history, chance, |_, answer| match answer {
        Answer::Lock(answer) => {
            answer.header = Some(header(1, end));
            true
        }
        _ => false,
    })
}

fn answer_out_of_turn(history: &mut History, chance: &mut SmallRng) -> bool {
    let Some(waited) = waited(history, chance) else {
        return false;
    };
    change_answer(history, chance, |_, answer| match answer {
        Answer::Lock(answer) if answer.key == waited.key => {
            answer.header = Some(header(1, waited.token));
            true
        }
        _ => false,
    })
}

fn answer_other(history: &mut History, chance: &mut SmallRng) -> bool {
    change_answer(history, chance, |op, answer| match (&op.request, answer) {
        (Request::Lock(request), Answer::Lock(answer)) => {
            answer.key = place(&request.name, request.lease + 1);
            true
        }
        _ => false,
    })
}

fn write_late(history: &mut History, chance: &mut SmallRng) -> bool {
    let prefix = workload::lock::RECORDS;
    let is_record = |_: &Event, kv: &KeyValue| kv.key.starts_with(prefix.as_bytes());
    let (Some(old), Some(new)) = (
        draw_event(history, chance, is_record),
        draw_event(history, chance, is_record),
    ) else {
        return false;
    };
    let token = |kv: &KeyValue| {
        kv.value
            .split(|byte| *byte == b'/')
            .next()
            .map(<[u8]>::to_vec)
    };
    if old.key != new.key || token(&old) == token(&new) {
        return false;
    }
    change_event(history, new.mod_revision, prefix, |kv| {
        kv.value = old.value.clone()
    });
    true
}

fn lose_update(history: &mut History, chance: &mut SmallRng) -> bool {
    let fenced = history
        .effects
        .iter_mut()
        .filter(|effect| effect.fenced && effect.accepted);
    match fenced.choose(chance) {
        Some(effect) => {
            effect.found += 1;
            true
        }
        None => false,
    }
}

fn lose_hold(history: &mut History, chance: &mut SmallRng) -> bool {
    let lost = history
        .holds
        .iter_mut()
        .filter(|hold| hold.end == HoldEnd::Lost && hold.workload != workload::queue::QUEUE);
    match lost.choose(chance) {
        Some(hold) => {
            hold.until += 10_000_000_000;
            true
        }
        None => false,
    }
}

// Waiters.

fn serve_early(history: &mut History, chance: &mut SmallRng) -> bool {
    let Some(waited) = waited(history, chance) else {
        return false;
    };
    let early = Timing::of(history).not_before(waited.first.unwrap_or_default()) - 1;
    let hold = history
        .holds
        .iter_mut()
        .find(|hold| hold.token == waited.token);
    match hold {
        Some(hold) => {
            hold.from = early;
            true
        }
        None => false,
    }
}

fn hold_nothing(history: &mut History, chance: &mut SmallRng) -> bool {
    let holds = history.holds.iter_mut();
    let of_lines = holds.filter(|hold| hold.workload != workload::queue::QUEUE);
    match of_lines.choose(chance) {
        Some(hold) => {
            hold.token += 1;
            true
        }
        None => false,
    }
}

fn forget_waiter(history: &mut History, chance: &mut SmallRng) -> bool {
    let Some(waited) = waited(history, chance) else {
        return false;
    };
    let first = waited.first.unwrap_or_default();
    let known = Timing::of(history).known(first);
    let is_answered = history
        .answered()
        .any(|(_, answer)| matches!(answer, Answer::Lock(lock) if lock.key == waited.key));
    if !is_answered {
        return false;
    }
    delay(history, known + 1, 20_000_000_000);
    true
}

fn keep_given_up(history: &mut History, chance: &mut SmallRng) -> bool {
    let given_up = |op: &Operation| {
        matches!(op.request, Request::Lock(_)) && matches!(op.outcome, Outcome::Unknown(_))
    };
    let Some(at) = draw(history, chance, given_up) else {
        return false;
    };
    let Request::Lock(request) = &history.operations[at].request else {
        return false;
    };
    let key = place(&request.name, request.lease);
    let is_end = |event: &Event, kv: &KeyValue| event.r#type != 0 && kv.key == key;
    let Some(end) = draw_event(history, chance, is_end) else {
        return false;
    };
    delay_revision(history, end.mod_revision, Duration::from_secs(20));
    true
}

fn haunt(history: &mut History, chance: &mut SmallRng) -> bool {
    let unlocked = |op: &Operation| {
        matches!(op.request, Request::Unlock(_)) && matches!(op.outcome, Outcome::Ok(_))
    };
    let Some(at) = draw(history, chance, unlocked) else {
        return false;
    };
    let Request::Unlock(request) = history.operations[at].request.clone() else {
        return false;
    };
    let of_it = |op: &&Operation| matches!(&op.request, Request::Lock(lock) if place(&lock.name, lock.lease) == request.key);
    // A call that was given up could have made it, and one that is under way in the end.
    let last = history.operations.iter().map(|op| op.returned).max();
    let is_over =
        |op: &Operation| !matches!(op.outcome, Outcome::Unknown(_)) && Some(op.returned) < last;
    if !history.operations.iter().filter(of_it).all(is_over) {
        return false;
    }
    add_revision(history, |draft| {
        draft.set(&request.key, Bytes::new(), 0);
    });
    true
}

// Elections.

fn win_gone(history: &mut History, chance: &mut SmallRng) -> bool {
    let given_up = |op: &Operation| {
        matches!(op.request, Request::Campaign(_)) && matches!(op.outcome, Outcome::Unknown(_))
    };
    let Some(at) = draw(history, chance, given_up) else {
        return false;
    };
    let Request::Campaign(request) = history.operations[at].request.clone() else {
        return false;
    };
    let key = place(&request.name, request.lease);
    let is_own = |event: &Event, kv: &KeyValue| event.r#type == 0 && kv.key == key;
    let Some(own) = draw_event(history, chance, is_own) else {
        return false;
    };
    let leader = elections::LeaderKey {
        name: request.name,
        key,
        rev: own.create_revision,
        lease: request.lease,
    };
    history.operations[at].outcome = Outcome::Ok(Answer::Campaign(elections::CampaignResponse {
        header: Some(header(1, own.create_revision)),
        leader: Some(leader),
    }));
    true
}

fn hear_deposed(history: &mut History, chance: &mut SmallRng) -> bool {
    let refused = |op: &Operation| {
        matches!(op.request, Request::Proclaim(_)) && matches!(op.outcome, Outcome::Unknown(_))
    };
    let Some(at) = draw(history, chance, refused) else {
        return false;
    };
    let Request::Proclaim(request) = history.operations[at].request.clone() else {
        return false;
    };
    let leader = request.leader.unwrap_or_default();
    add_revision(history, |draft| {
        draft.set(&leader.key, request.value, leader.lease);
    });
    true
}

fn lose_proclamation(history: &mut History, chance: &mut SmallRng) -> bool {
    let accepted = |op: &Operation| {
        matches!(op.request, Request::Proclaim(_)) && matches!(op.outcome, Outcome::Ok(_))
    };
    let Some(at) = draw(history, chance, accepted) else {
        return false;
    };
    if let Request::Proclaim(request) = &mut history.operations[at].request {
        request.value = "p/never".into();
    }
    true
}

/// Draws what an observer was told between its first and its last.
fn told_between(history: &History, chance: &mut SmallRng) -> Option<usize> {
    let observed = &history.observed;
    let inner = (1..observed.len().saturating_sub(1)).filter(|at| {
        let observer = observed[*at].observer;
        observed[at - 1].observer == observer && observed[at + 1].observer == observer
    });
    inner.choose(chance)
}

fn skip_leader(history: &mut History, chance: &mut SmallRng) -> bool {
    let Some(at) = told_between(history, chance) else {
        return false;
    };
    let skipped = history.observed[at].clone();
    let of_it = |token: i64| token == skipped.token;
    let has = |is_before: bool| {
        history.observed.iter().any(|told| {
            told.observer == skipped.observer
                && !of_it(told.token)
                && (told.token < skipped.token) == is_before
        })
    };
    if !has(true) || !has(false) {
        return false;
    }
    history.observed.retain(|told| !of_it(told.token));
    true
}

fn skip_proclamation(history: &mut History, chance: &mut SmallRng) -> bool {
    match told_between(history, chance) {
        Some(at) => {
            history.observed.remove(at);
            true
        }
        None => false,
    }
}

fn tell_twice(history: &mut History, chance: &mut SmallRng) -> bool {
    match told_between(history, chance) {
        Some(at) => {
            let again = history.observed[at].clone();
            history.observed.insert(at, again);
            true
        }
        None => false,
    }
}

fn tell_invented(history: &mut History, chance: &mut SmallRng) -> bool {
    match history.observed.iter_mut().choose(chance) {
        Some(told) => {
            told.token += 1;
            true
        }
        None => false,
    }
}

fn say_other_leads(history: &mut History, chance: &mut SmallRng) -> bool {
    change_answer(history, chance, |_, answer| match answer {
        Answer::Leader(answer) => {
            if let Some(kv) = &mut answer.kv {
                kv.create_revision -= 1;
            }
            answer.kv.is_some()
        }
        _ => false,
    })
}

// Queues.

/// A claim that ended with its worker's lease: the job is still there at the revision at which it did.
fn claim_twice(history: &mut History, chance: &mut SmallRng) -> bool {
    let prefix = workload::queue::CLAIMS;
    let gathered = witness::gather(history);
    let alone: Vec<i64> = gathered
        .revisions
        .iter()
        .filter(|seen| seen.events.len() == 1)
        .map(|seen| revision_of(&seen.events[0]))
        .collect();
    let died = draw_event(history, chance, |event, kv| {
        event.r#type != 0
            && kv.key.starts_with(prefix.as_bytes())
            && alone.contains(&kv.mod_revision)
    });
    let Some(died) = died else { return false };
    change_event(history, died.mod_revision, prefix, |kv| {
        kv.key = "other".into()
    });
    true
}

fn lose_job(history: &mut History, chance: &mut SmallRng) -> bool {
    let jobs = workload::queue::JOBS.as_bytes();
    let done = draw_event(history, chance, |event, kv| {
        event.r#type != 0 && kv.key.starts_with(jobs)
    });
    let Some(done) = done else { return false };
    let claims = workload::queue::CLAIMS.as_bytes();
    change_events(history, |events| {
        events.retain(|event| {
            let key = event.kv.as_ref().map(|kv| kv.key.clone());
            revision_of(event) != done.mod_revision
                || !key.is_some_and(|key| key.starts_with(claims))
        });
    });
    true
}

/// Draws what was written to a key below a prefix.
fn draw_put(history: &History, chance: &mut SmallRng, prefix: &str) -> Option<KeyValue> {
    draw_event(history, chance, |event, kv| {
        event.r#type == 0 && kv.key.starts_with(prefix.as_bytes())
    })
}

fn lose_enqueued(history: &mut History, chance: &mut SmallRng) -> bool {
    let prefix = workload::queue::JOBS;
    let Some(put) = draw_put(history, chance, prefix) else {
        return false;
    };
    change_event(history, put.mod_revision, prefix, |kv| {
        kv.key = "other".into()
    });
    true
}

fn lose_claim(history: &mut History, chance: &mut SmallRng) -> bool {
    let prefix = workload::queue::CLAIMS;
    let Some(put) = draw_put(history, chance, prefix) else {
        return false;
    };
    change_event(history, put.mod_revision, prefix, |kv| {
        kv.key = "other".into()
    });
    true
}

fn do_twice(history: &mut History, chance: &mut SmallRng) -> bool {
    let is_ack = |op: &Operation| {
        matches!((&op.request, &op.outcome),
            (Request::Txn(request), Outcome::Ok(Answer::Txn(answer)))
                if answer.succeeded && request.success.len() == 2
                    && op.workload == workload::queue::QUEUE)
    };
    match draw(history, chance, is_ack) {
        Some(at) => {
            repeat(history, at);
            true
        }
        None => false,
    }
}

fn claim_worse(history: &mut History, chance: &mut SmallRng) -> bool {
    let prefix = workload::queue::CLAIMS;
    let Some(first) = draw_put(history, chance, prefix) else {
        return false;
    };
    let queue = |key: &[u8]| key.split(|byte| *byte == b'/').nth(2).map(<[u8]>::to_vec);
    let next = draw_event(history, chance, |event, kv| {
        event.r#type == 0
            && kv.key.starts_with(prefix.as_bytes())
            && queue(&kv.key) == queue(&first.key)
            && kv.mod_revision > first.mod_revision
            && kv.key != first.key
    });
    let Some(next) = next else { return false };
    change_event(history, first.mod_revision, prefix, |kv| {
        kv.key = next.key.clone()
    });
    change_event(history, next.mod_revision, prefix, |kv| {
        kv.key = first.key.clone()
    });
    true
}

// Barriers.

/// Lets somebody say that it passed a little before.
fn passes_before(history: &mut History, chance: &mut SmallRng, prefix: &str, part: &str) -> bool {
    let passed = draw_event(history, chance, |event, kv| {
        event.r#type == 0
            && kv.key.starts_with(prefix.as_bytes())
            && String::from_utf8_lossy(&kv.key).contains(part)
    });
    let Some(passed) = passed else { return false };
    let before = String::from_utf8_lossy(&passed.value)
        .parse::<i64>()
        .unwrap_or(1)
        - 1;
    change_event(history, passed.mod_revision, prefix, |kv| {
        kv.value = before.to_string().into();
    });
    true
}

fn pass_early(history: &mut History, chance: &mut SmallRng) -> bool {
    passes_before(history, chance, workload::barrier::PASSED, "/")
}

fn enter_early(history: &mut History, chance: &mut SmallRng) -> bool {
    passes_before(history, chance, workload::barrier::DOUBLES, "/in/")
}

fn leave_early(history: &mut History, chance: &mut SmallRng) -> bool {
    passes_before(history, chance, workload::barrier::DOUBLES, "/out/")
}
