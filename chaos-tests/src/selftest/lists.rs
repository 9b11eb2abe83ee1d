//! Mutations about lists that are appended to.

use baton_proto::etcdserverpb as pb;
use bytes::Bytes;
use pb::request_op::Request as Op;
use pb::response_op::Response as OpAnswer;
use rand::rngs::SmallRng;

use super::Mutation;
use super::evidence::{change_answer, draw};
use super::honest::{self, Shape};
use crate::check::append;
use crate::check::effects;
use crate::history::{Answer, Error, History, Operation, Outcome, Request};
use crate::workload::append::APPEND;

fn history(seed: u64) -> History {
    let shape = Shape {
        registers: 1,
        appenders: 6,
        ..Shape::default()
    };
    honest::history(seed, shape)
}

/// A row of the table.
const fn row(name: &'static str, mutate: fn(&mut History, &mut SmallRng) -> bool) -> Mutation {
    Mutation {
        name,
        checker: append::CHECKER,
        history,
        mutate,
    }
}

/// All of them.
pub const MUTATIONS: &[Mutation] = &[
    row("a list loses an element", lose),
    row("a list has an element twice", repeat),
    row("a list has an element that nobody appended", invent),
    row("two elements of a list change places", swap),
    row("a refused transaction appends", refuse),
    row("a transaction reads a list from before it began", read_old),
    row("a transaction reads one list of two as it was before", skew),
];

/// Lets `change` have the lists that operations read, until it says that it changed one.
fn change_list(
    history: &mut History,
    chance: &mut SmallRng,
    mut change: impl FnMut(&Operation, &Bytes, &mut Vec<String>) -> bool,
) -> bool {
    change_answer(history, chance, |operation, answer| {
        lists(answer).any(|(key, value)| {
            let text = String::from_utf8_lossy(value).into_owned();
            let mut elements: Vec<String> = text.split(',').map(str::to_owned).collect();
            let changed = change(operation, key, &mut elements);
            *value = elements.join(",").into();
            changed
        })
    })
}

/// The lists in an answer, with their keys.
fn lists(answer: &mut Answer) -> impl Iterator<Item = (&Bytes, &mut Bytes)> {
    let responses = match answer {
        Answer::Txn(answer) => &mut answer.responses[..],
        _ => &mut [],
    };
    let kvs = responses.iter_mut().flat_map(|op| match &mut op.response {
        Some(OpAnswer::ResponseRange(answer)) => &mut answer.kvs[..],
        _ => &mut [],
    });
    kvs.filter(|kv| kv.key.starts_with(APPEND.as_bytes()))
        .map(|kv| (&kv.key, &mut kv.value))
}

fn lose(history: &mut History, chance: &mut SmallRng) -> bool {
    change_list(history, chance, |_, _, list| {
        let long = list.len() > 2;
        if long {
            list.remove(0);
        }
        long
    })
}

fn repeat(history: &mut History, chance: &mut SmallRng) -> bool {
    change_list(history, chance, |_, _, list| {
        let last = list.last().cloned();
        list.extend(last);
        true
    })
}

fn invent(history: &mut History, chance: &mut SmallRng) -> bool {
    change_list(history, chance, |_, _, list| {
        list.push("77".into());
        true
    })
}

fn swap(history: &mut History, chance: &mut SmallRng) -> bool {
    change_list(history, chance, |_, _, list| {
        let long = list.len() > 2;
        if long {
            list.swap(0, 1);
        }
        long
    })
}

/// Lists that an operation appended to.
fn appended(operation: &Operation) -> Vec<(Bytes, String)> {
    let Outcome::Ok(Answer::Txn(answer)) = &operation.outcome else {
        return Vec::new();
    };
    if !answer.succeeded {
        return Vec::new();
    }
    let puts = effects::writes_of(&operation.request).puts;
    let ours = puts
        .iter()
        .filter(|put| put.key.starts_with(APPEND.as_bytes()));
    ours.map(|put| {
        let text = String::from_utf8_lossy(&put.value).into_owned();
        let last = text.rsplit(',').next().unwrap_or_default().to_owned();
        (put.key.clone(), last)
    })
    .collect()
}

/// Every element that somebody read.
fn read(history: &History) -> Vec<String> {
    let mut elements = Vec::new();
    for (_, answer) in history.answered() {
        for (_, value) in lists(&mut answer.clone()) {
            let text = String::from_utf8_lossy(value).into_owned();
            elements.extend(text.split(',').map(str::to_owned));
        }
    }
    elements
}

fn refuse(history: &mut History, chance: &mut SmallRng) -> bool {
    let read = read(history);
    let drawn = draw(history, chance, |operation| {
        appended(operation)
            .iter()
            .any(|(_, element)| read.contains(element))
    });
    let Some(at) = drawn else {
        return false;
    };
    history.operations[at].outcome = Outcome::Failed(Error {
        code: 9,
        message: "refused".into(),
    });
    true
}

fn read_old(history: &mut History, chance: &mut SmallRng) -> bool {
    let appends: Vec<(u64, String)> = history
        .operations
        .iter()
        .flat_map(|operation| {
            appended(operation)
                .into_iter()
                .map(|(_, element)| (operation.returned, element))
        })
        .collect();
    change_list(history, chance, |operation, _, list| {
        let stale = list.len() > 1
            && list.last().is_some_and(|last| {
                appends
                    .iter()
                    .any(|(returned, element)| element == last && *returned < operation.called)
            });
        if stale {
            list.pop();
        }
        stale
    })
}

/// Of a read of two lists that both end with what one transaction appended, one is as before it.
fn skew(history: &mut History, chance: &mut SmallRng) -> bool {
    let pairs: Vec<Vec<(Bytes, String)>> = history
        .operations
        .iter()
        .map(appended)
        .filter(|appended| appended.len() > 1)
        .collect();
    change_answer(history, chance, |operation, answer| {
        let reads_only = match &operation.request {
            Request::Txn(request) => request
                .success
                .iter()
                .all(|op| matches!(op.request, Some(Op::RequestRange(_)))),
            _ => false,
        };
        let ends: Vec<(Bytes, String)> = lists(answer)
            .map(|(key, value)| {
                let text = String::from_utf8_lossy(value).into_owned();
                let last = text.rsplit(',').next().unwrap_or_default().to_owned();
                (key.clone(), last)
            })
            .collect();
        let both = pairs.iter().any(|pair| {
            pair.iter().filter(|append| ends.contains(append)).count() > 1
                && ends.first().is_some_and(|first| pair.contains(first))
        });
        if !reads_only || !both {
            return false;
        }
        let Some((_, value)) = lists(answer).next() else {
            return false;
        };
        let text = String::from_utf8_lossy(value).into_owned();
        let before = text.rsplit_once(',').map_or("", |(before, _)| before);
        *value = before.to_owned().into();
        true
    })
}
