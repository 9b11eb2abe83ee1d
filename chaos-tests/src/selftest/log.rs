//! Mutations of what happened: events, revisions, and writes that happened or did not.

use bytes::Bytes;
use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IteratorRandom;

use super::Mutation;
use super::evidence::{add_revision, change_events, draw, model, revision_of};
use super::honest::{self, Shape};
use crate::check::effects::{self, Kind};
use crate::check::known::Known;
use crate::check::revisions;
use crate::history::{Answer, History, Operation, Outcome, Request};
use crate::model::Change;

fn history(seed: u64) -> History {
    honest::history(seed, Shape::default())
}

/// A row of the table.
const fn row(name: &'static str, mutate: fn(&mut History, &mut SmallRng) -> bool) -> Mutation {
    Mutation {
        name,
        checker: revisions::CHECKER,
        history,
        mutate,
    }
}

/// All of them.
pub const MUTATIONS: &[Mutation] = &[
    row("no member tells of a revision", lose_revision),
    row("a member tells only half of a transaction", tear_at_one),
    row("half of a transaction never happened", tear_everywhere),
    row("a transaction's effects are in another order", reorder),
    row("a member has another value", other_value),
    row("versions are counted wrong", miscount_versions),
    row("an event has another value before it", wrong_event_before),
    row(
        "an acknowledged write is forgotten and its revision used again",
        forget_write,
    ),
    row("an acknowledged write is done twice", repeat_acknowledged),
    row("a write of unknown outcome is done twice", repeat_unknown),
    row("a write is there before it was called", happen_too_early),
    row("a refused write is done", do_refused),
    row("a write that nobody asked for is there", invent),
    row("the end of a lease leaves one of its keys", leave_leased),
];

/// A revision, drawn, that is the work of an acknowledged transaction with more than one effect.
fn several(history: &History, chance: &mut SmallRng) -> Option<i64> {
    let model = model(history);
    let acknowledged = history.answered().filter_map(|(operation, answer)| {
        let revision = answer.header().revision;
        let wrote = effects::kind(operation) == Some(Kind::Write);
        (wrote && model.changes(revision).len() > 1).then_some(revision)
    });
    acknowledged.choose(chance)
}

fn lose_revision(history: &mut History, chance: &mut SmallRng) -> bool {
    let end = model(history).revision();
    if end < 4 {
        return false;
    }
    let lost = chance.random_range(3..end);
    change_events(history, |events| {
        events.retain(|event| revision_of(event) != lost);
    });
    true
}

fn tear_at_one(history: &mut History, chance: &mut SmallRng) -> bool {
    let Some(torn) = several(history, chance) else {
        return false;
    };
    let mut done = false;
    change_events(history, |events| {
        let last = events.iter().rposition(|event| revision_of(event) == torn);
        if let Some(last) = last
            && !done
        {
            events.remove(last);
            done = true;
        }
    });
    done
}

fn tear_everywhere(history: &mut History, chance: &mut SmallRng) -> bool {
    let Some(torn) = several(history, chance) else {
        return false;
    };
    change_events(history, |events| {
        if let Some(last) = events.iter().rposition(|event| revision_of(event) == torn) {
            events.remove(last);
        }
    });
    true
}

fn reorder(history: &mut History, chance: &mut SmallRng) -> bool {
    let Some(revision) = several(history, chance) else {
        return false;
    };
    change_events(history, |events| {
        let first = events
            .iter()
            .position(|event| revision_of(event) == revision);
        if let Some(first) = first {
            events.swap(first, first + 1);
        }
    });
    true
}

/// A revision, drawn, that begins with a put.
fn put(history: &History, chance: &mut SmallRng) -> Option<i64> {
    let model = model(history);
    (2..=model.revision())
        .filter(|revision| matches!(model.changes(*revision), [Change::Put(_), ..]))
        .choose(chance)
}

fn other_value(history: &mut History, chance: &mut SmallRng) -> bool {
    let Some(revision) = put(history, chance) else {
        return false;
    };
    let mut done = false;
    change_events(history, |events| {
        let event = events
            .iter_mut()
            .find(|event| revision_of(event) == revision);
        if let Some(kv) = event.and_then(|event| event.kv.as_mut())
            && !done
        {
            kv.value = Bytes::from_static(b"another");
            done = true;
        }
    });
    done
}

fn miscount_versions(history: &mut History, chance: &mut SmallRng) -> bool {
    let Some(revision) = put(history, chance) else {
        return false;
    };
    change_events(history, |events| {
        let event = events
            .iter_mut()
            .find(|event| revision_of(event) == revision);
        if let Some(kv) = event.and_then(|event| event.kv.as_mut()) {
            kv.version += 1;
        }
    });
    true
}

fn wrong_event_before(history: &mut History, chance: &mut SmallRng) -> bool {
    let Some(revision) = put(history, chance) else {
        return false;
    };
    let mut done = false;
    change_events(history, |events| {
        for event in events {
            if revision_of(event) >= revision
                && let Some(before) = &mut event.prev_kv
            {
                before.value = Bytes::from_static(b"another");
                done = true;
                return;
            }
        }
    });
    done
}

fn forget_write(history: &mut History, chance: &mut SmallRng) -> bool {
    let end = model(history).revision();
    let forgotten = draw(history, chance, |operation| {
        matches!(&operation.outcome, Outcome::Ok(Answer::Put(answer))
            if answer.header.unwrap_or_default().revision < end)
    });
    let Some(at) = forgotten else {
        return false;
    };
    let Outcome::Ok(answer) = &history.operations[at].outcome else {
        return false;
    };
    let forgotten = answer.header().revision;
    change_events(history, |events| {
        events.retain(|event| revision_of(event) != forgotten);
        for kv in events.iter_mut().filter_map(|event| event.kv.as_mut()) {
            if kv.mod_revision > forgotten {
                kv.mod_revision -= 1;
            }
        }
    });
    true
}

/// Does again what a drawn put did, of those for which `wanted` holds.
fn repeat(
    history: &mut History,
    chance: &mut SmallRng,
    wanted: impl Fn(&Outcome, bool) -> bool,
) -> bool {
    let model = model(history);
    let values: Vec<Bytes> = (2..=model.revision())
        .flat_map(|revision| model.changes(revision))
        .filter_map(|change| match change {
            Change::Put(kv) => Some(kv.value.clone()),
            Change::Delete(_) => None,
        })
        .collect();
    let drawn = draw(history, chance, |operation| match &operation.request {
        Request::Put(put) if !put.ignore_value => {
            wanted(&operation.outcome, values.contains(&put.value))
        }
        _ => false,
    });
    let Some(at) = drawn else {
        return false;
    };
    let Request::Put(put) = history.operations[at].request.clone() else {
        return false;
    };
    add_revision(history, |draft| {
        draft.set(&put.key, put.value, put.lease);
    });
    true
}

fn repeat_acknowledged(history: &mut History, chance: &mut SmallRng) -> bool {
    repeat(history, chance, |outcome, _| {
        matches!(outcome, Outcome::Ok(_))
    })
}

fn repeat_unknown(history: &mut History, chance: &mut SmallRng) -> bool {
    repeat(history, chance, |outcome, happened| {
        matches!(outcome, Outcome::Unknown(_)) && happened
    })
}

fn do_refused(history: &mut History, chance: &mut SmallRng) -> bool {
    repeat(history, chance, |outcome, _| {
        matches!(outcome, Outcome::Failed(_))
    })
}

fn happen_too_early(history: &mut History, chance: &mut SmallRng) -> bool {
    let model = model(history);
    let known = Known::of(history);
    let mut happened = Vec::new();
    for revision in 2..=model.revision() {
        for change in model.changes(revision) {
            if let Change::Put(kv) = change {
                happened.push((kv.value.clone(), known.made(revision)));
            }
        }
    }
    let made = |operation: &Operation| match &operation.request {
        Request::Put(put) => happened.iter().find(|(value, _)| *value == put.value),
        _ => None,
    };
    let drawn = draw(history, chance, |operation| {
        matches!(operation.outcome, Outcome::Unknown(_)) && made(operation).is_some()
    });
    let Some(at) = drawn else {
        return false;
    };
    let Some((_, made)) = made(&history.operations[at]) else {
        return false;
    };
    history.operations[at].called = made + 1;
    true
}

fn invent(history: &mut History, _: &mut SmallRng) -> bool {
    add_revision(history, |draft| {
        draft.set(
            &Bytes::from_static(b"register/x"),
            Bytes::from_static(b"invented"),
            0,
        );
    });
    true
}

fn leave_leased(history: &mut History, chance: &mut SmallRng) -> bool {
    let model = model(history);
    let end = (2..=model.revision())
        .filter(|revision| {
            let changes = model.changes(*revision);
            changes.len() > 1 && changes.iter().all(|c| c.key().starts_with(b"lease/"))
        })
        .choose(chance);
    let Some(end) = end else {
        return false;
    };
    change_events(history, |events| {
        if let Some(first) = events.iter().position(|event| revision_of(event) == end) {
            events.remove(first);
        }
    });
    true
}
