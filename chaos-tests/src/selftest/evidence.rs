//! Finding and changing what a history shows, for mutations.

use baton_proto::mvccpb::{Event, KeyValue};
use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::seq::IteratorRandom;

use crate::check::witness;
use crate::history::{Answer, History, Operation, Outcome, WatchEvent};
use crate::model::{Change, Draft, Model};

/// Draws one of the operations for which `wanted` holds.
pub fn draw(
    history: &History,
    chance: &mut SmallRng,
    wanted: impl Fn(&Operation) -> bool,
) -> Option<usize> {
    let operations = history.operations.iter().enumerate();
    let wanted = operations.filter(|(_, operation)| wanted(operation));
    wanted.map(|(at, _)| at).choose(chance)
}

/// Lets `change` have the answer of an operation, until it says that it changed one, beginning with a drawn operation.
pub fn change_answer(
    history: &mut History,
    chance: &mut SmallRng,
    mut change: impl FnMut(&Operation, &mut Answer) -> bool,
) -> bool {
    let Some(first) = draw(history, chance, |_| true) else {
        return false;
    };
    let (before, after) = history.operations.split_at_mut(first);
    after.iter_mut().chain(before).any(|operation| {
        let seen = operation.clone();
        match &mut operation.outcome {
            Outcome::Ok(answer) => change(&seen, answer),
            Outcome::Failed(_) | Outcome::Unknown(_) => false,
        }
    })
}

/// The state and history that the witnesses saw.
pub fn model(history: &History) -> Model {
    let mut model = Model::new();
    for seen in witness::gather(history).revisions {
        let mut draft = model.draft(model.revision());
        for event in &seen.events {
            let kv = event.kv.clone().unwrap_or_default();
            if event.r#type == 0 {
                draft.set(&kv.key, kv.value, kv.lease);
            } else {
                draft.remove(&kv.key);
            }
        }
        let changes = draft.into_changes();
        model.push(changes);
    }
    model
}

/// Lets `change` have the events of each message of every witness.
pub fn change_events(history: &mut History, mut change: impl FnMut(&mut Vec<Event>)) {
    for step in &mut history.watches {
        if step.workload == witness::WORKLOAD
            && let WatchEvent::Received(response) = &mut step.step
        {
            change(&mut response.events);
        }
    }
}

/// The revision of an event.
pub fn revision_of(event: &Event) -> i64 {
    event.kv.as_ref().map_or(0, |kv| kv.mod_revision)
}

/// Adds a revision at the end of what the witnesses saw.
pub fn add_revision(history: &mut History, change: impl FnOnce(&mut Draft<'_>)) {
    let model = model(history);
    let revision = model.revision() + 1;
    let mut draft = model.draft(model.revision());
    change(&mut draft);
    let events: Vec<Event> = draft
        .into_changes()
        .into_iter()
        .map(|change| match change {
            Change::Put(kv) => Event {
                r#type: 0,
                kv: Some(kv),
                prev_kv: None,
            },
            Change::Delete(key) => deletion(key, revision),
        })
        .collect();
    let Some(last) = history
        .watches
        .iter()
        .filter(|step| step.workload == witness::WORKLOAD)
        .rfind(|step| matches!(step.step, WatchEvent::Received(_)))
    else {
        return;
    };
    let mut step = last.clone();
    if let WatchEvent::Received(response) = &mut step.step {
        response.events = events;
    }
    step.at += 1_000_000;
    history.watches.push(step);
}

fn deletion(key: Bytes, revision: i64) -> Event {
    Event {
        r#type: 1,
        kv: Some(KeyValue {
            key,
            mod_revision: revision,
            ..Default::default()
        }),
        prev_kv: None,
    }
}
