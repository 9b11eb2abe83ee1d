//! Mutations of what clients were told about keys.

use std::collections::BTreeMap;

use baton_proto::etcdserverpb as pb;
use bytes::Bytes;
use pb::range_request::SortTarget;
use rand::Rng;
use rand::rngs::SmallRng;

use super::Mutation;
use super::evidence::{change_answer, draw, model};
use super::honest::{self, Shape};
use crate::check::effects::{self, Kind};
use crate::check::known::Known;
use crate::check::{linearizable, real_time, revisions};
use crate::history::{Answer, History, Nanos, Operation, Outcome, Request};
use crate::model::{Model, covers};
use crate::workload::register::REGISTER;

fn history(seed: u64) -> History {
    honest::history(seed, Shape::default())
}

/// A row of the table.
const fn row(
    name: &'static str,
    checker: &'static str,
    mutate: fn(&mut History, &mut SmallRng) -> bool,
) -> Mutation {
    Mutation {
        name,
        checker,
        history,
        mutate,
    }
}

/// All of them.
pub const MUTATIONS: &[Mutation] = &[
    row(
        "a write says the revision before its own",
        revisions::CHECKER,
        lower_revision,
    ),
    row("a read returns an old value", revisions::CHECKER, old_value),
    row(
        "a range leaves a key out",
        revisions::CHECKER,
        leave_key_out,
    ),
    row("a range is not sorted", revisions::CHECKER, unsort),
    row("a range counts wrong", revisions::CHECKER, miscount),
    row(
        "a range does not say that there is more",
        revisions::CHECKER,
        no_more,
    ),
    row(
        "a write returns another value from before it",
        revisions::CHECKER,
        wrong_before,
    ),
    row(
        "a deletion counts wrong",
        revisions::CHECKER,
        miscount_deleted,
    ),
    row(
        "a comparison comes out wrong",
        revisions::CHECKER,
        wrong_branch,
    ),
    row(
        "a linearizable read is of an old revision",
        real_time::CHECKER,
        stale_read,
    ),
    row(
        "a serializable read goes back on its member",
        real_time::CHECKER,
        go_back,
    ),
    row(
        "a read returns what was overwritten before it",
        linearizable::CHECKER,
        overwritten,
    ),
    row(
        "a read does not find what was written before it",
        linearizable::CHECKER,
        not_found,
    ),
    row("a member's term goes back", real_time::CHECKER, lower_term),
    row("a member changes its id", real_time::CHECKER, change_id),
];

/// The header of an answer about keys.
fn header(answer: &mut Answer) -> Option<&mut pb::ResponseHeader> {
    match answer {
        Answer::Range(answer) => answer.header.as_mut(),
        Answer::Put(answer) => answer.header.as_mut(),
        Answer::DeleteRange(answer) => answer.header.as_mut(),
        Answer::Txn(answer) => answer.header.as_mut(),
        _ => None,
    }
}

fn lower_revision(history: &mut History, chance: &mut SmallRng) -> bool {
    change_answer(history, chance, |operation, answer| {
        if effects::kind(operation) != Some(Kind::Write) {
            return false;
        }
        header(answer).is_some_and(|header| {
            header.revision -= 1;
            true
        })
    })
}

fn old_value(history: &mut History, chance: &mut SmallRng) -> bool {
    let model = model(history);
    change_answer(history, chance, |operation, answer| {
        let (Request::Range(request), Answer::Range(answer)) = (&operation.request, answer) else {
            return false;
        };
        if request.keys_only || request.serializable {
            return false;
        }
        let Some(kv) = answer.kvs.first_mut() else {
            return false;
        };
        match model.get(&kv.key, kv.mod_revision - 1) {
            Some(old) => {
                *kv = old.clone();
                true
            }
            None => false,
        }
    })
}

fn leave_key_out(history: &mut History, chance: &mut SmallRng) -> bool {
    change_answer(history, chance, |_, answer| {
        let Answer::Range(answer) = answer else {
            return false;
        };
        answer.kvs.pop().is_some()
    })
}

fn unsort(history: &mut History, chance: &mut SmallRng) -> bool {
    change_answer(history, chance, |operation, answer| {
        let (Request::Range(request), Answer::Range(answer)) = (&operation.request, answer) else {
            return false;
        };
        if answer.kvs.len() < 2 || request.sort_target() != SortTarget::Key {
            return false;
        }
        answer.kvs.swap(0, 1);
        true
    })
}

fn miscount(history: &mut History, chance: &mut SmallRng) -> bool {
    change_answer(history, chance, |_, answer| {
        let Answer::Range(answer) = answer else {
            return false;
        };
        answer.count += 1;
        true
    })
}

fn no_more(history: &mut History, chance: &mut SmallRng) -> bool {
    change_answer(history, chance, |_, answer| match answer {
        Answer::Range(answer) if answer.more => {
            answer.more = false;
            true
        }
        _ => false,
    })
}

fn wrong_before(history: &mut History, chance: &mut SmallRng) -> bool {
    change_answer(history, chance, |_, answer| {
        let before = match answer {
            Answer::Put(answer) => answer.prev_kv.as_mut(),
            Answer::DeleteRange(answer) => answer.prev_kvs.first_mut(),
            _ => None,
        };
        before.is_some_and(|before| {
            before.value = Bytes::from_static(b"another");
            true
        })
    })
}

fn miscount_deleted(history: &mut History, chance: &mut SmallRng) -> bool {
    change_answer(history, chance, |_, answer| {
        let Answer::DeleteRange(answer) = answer else {
            return false;
        };
        answer.deleted += 1;
        true
    })
}

fn wrong_branch(history: &mut History, chance: &mut SmallRng) -> bool {
    change_answer(history, chance, |operation, answer| {
        let Answer::Txn(answer) = answer else {
            return false;
        };
        if effects::kind(operation) == Some(Kind::Write) {
            return false;
        }
        answer.succeeded = !answer.succeeded;
        true
    })
}

/// Answers a read again, from an older revision, which the header names honestly.
fn read_again_at(history: &mut History, at: usize, revision: i64) -> bool {
    let model = model(history);
    let operation = &mut history.operations[at];
    let mut draft = model.draft(revision);
    let (Some(Ok(mut again)), Outcome::Ok(answer)) = (
        effects::evaluate(&operation.request, &mut draft),
        &mut operation.outcome,
    ) else {
        return false;
    };
    if !draft.into_changes().is_empty() {
        return false;
    }
    let mut was = answer.header();
    was.revision = revision;
    match &mut again {
        Answer::Range(again) => again.header = Some(was),
        Answer::Txn(again) => again.header = Some(was),
        _ => return false,
    }
    *answer = again;
    true
}

fn stale_read(history: &mut History, chance: &mut SmallRng) -> bool {
    let known = Known::of(history);
    let drawn = draw(history, chance, |operation| {
        effects::kind(operation) == Some(Kind::Read)
            && known.before(operation.called) > 2
            && effects::old_revisions(&operation.request).is_empty()
    });
    drawn.is_some_and(|at| {
        let floor = known.before(history.operations[at].called);
        read_again_at(history, at, floor - 1)
    })
}

fn go_back(history: &mut History, chance: &mut SmallRng) -> bool {
    let shape = Shape {
        faults: false,
        ..Shape::default()
    };
    *history = honest::history(chance.random(), shape);
    let shown = |operation: &Operation| {
        history
            .answered()
            .filter(|(other, _)| {
                other.member == operation.member
                    && other.returned < operation.called
                    && effects::kind(other).is_some()
            })
            .map(|(_, answer)| answer.header().revision)
            .max()
            .unwrap_or_default()
    };
    let drawn = draw(history, chance, |operation| {
        effects::kind(operation) == Some(Kind::SerializableRead)
            && shown(operation) > 2
            && effects::old_revisions(&operation.request).is_empty()
    });
    let Some(at) = drawn else {
        return false;
    };
    let shown = shown(&history.operations[at]);
    read_again_at(history, at, shown - 1)
}

fn lower_term(history: &mut History, _: &mut SmallRng) -> bool {
    let last = history
        .operations
        .iter_mut()
        .rfind(|operation| effects::kind(operation).is_some());
    let Some(Outcome::Ok(answer)) = last.map(|operation| &mut operation.outcome) else {
        return false;
    };
    header(answer).is_some_and(|header| {
        header.raft_term = 1;
        true
    })
}

fn change_id(history: &mut History, _: &mut SmallRng) -> bool {
    let last = history
        .operations
        .iter_mut()
        .rfind(|operation| effects::kind(operation).is_some());
    let Some(Outcome::Ok(answer)) = last.map(|operation| &mut operation.outcome) else {
        return false;
    };
    header(answer).is_some_and(|header| {
        header.member_id = 0xbad;
        true
    })
}

/// Lets `change` have the answer to a read of one key, of which it saw a value that had been acknowledged before.
fn change_settled_read(
    history: &mut History,
    chance: &mut SmallRng,
    mut change: impl FnMut(&Model, &mut pb::RangeResponse) -> bool,
) -> bool {
    let model = model(history);
    let acknowledged: BTreeMap<i64, Nanos> = history
        .answered()
        .filter(|(operation, _)| effects::kind(operation) == Some(Kind::Write))
        .map(|(operation, answer)| (answer.header().revision, operation.returned))
        .collect();
    change_answer(history, chance, |operation, answer| {
        let (Request::Range(request), Answer::Range(answer)) = (&operation.request, answer) else {
            return false;
        };
        let plain = pb::RangeRequest {
            key: request.key.clone(),
            ..Default::default()
        };
        let [kv] = &answer.kvs[..] else {
            return false;
        };
        let written = acknowledged.get(&kv.mod_revision);
        *request == plain
            && kv.key.starts_with(REGISTER.as_bytes())
            && written.is_some_and(|returned| *returned < operation.called)
            && change(&model, answer)
    })
}

fn overwritten(history: &mut History, chance: &mut SmallRng) -> bool {
    change_settled_read(history, chance, |model, answer| {
        let kv = &mut answer.kvs[0];
        match model.get(&kv.key, kv.mod_revision - 1) {
            Some(old) if old.value != kv.value => {
                *kv = old.clone();
                true
            }
            _ => false,
        }
    })
}

fn not_found(history: &mut History, chance: &mut SmallRng) -> bool {
    let deletes: Vec<_> = history
        .operations
        .iter()
        .filter(|operation| matches!(operation.outcome, Outcome::Unknown(_)))
        .flat_map(|operation| effects::writes_of(&operation.request).deletions)
        .cloned()
        .collect();
    change_settled_read(history, chance, |model, answer| {
        let kv = &answer.kvs[0];
        let gone = (kv.mod_revision..=model.revision())
            .any(|revision| model.get(&kv.key, revision).is_none())
            || deletes
                .iter()
                .any(|delete| covers(&delete.key, &delete.range_end, &kv.key));
        if gone {
            return false;
        }
        answer.kvs.clear();
        answer.count = 0;
        true
    })
}
