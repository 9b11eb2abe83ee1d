//! The log of what happened to the keys, put together from what the members' witnesses saw.
//!
//! A witness watches every key at one member from the first revision on. One that was overtaken by compaction has a hole,
//! which the others fill; a revision that no witness saw, though none had a hole there, never was.

use std::collections::BTreeMap;

use baton_proto::mvccpb::Event;

use crate::history::{History, Nanos, WatchEvent, WatchStep};
use crate::model::FIRST_REVISION;
use crate::verdict::Violation;

/// The name under which witnesses record their steps.
pub const WORKLOAD: &str = "witness";

/// What the witnesses saw, together.
#[derive(Debug, Default)]
pub struct Witness {
    /// Every revision from 2 on, without a gap, in order.
    pub revisions: Vec<Seen>,
    /// Where witnesses contradict each other, or a revision is missing that one of them must have seen.
    pub violations: Vec<Violation>,
    /// Why the log ends before the last revision that a witness saw.
    pub lost: Option<String>,
    /// How many events they received, all together.
    pub events: usize,
    /// How many witnesses there were.
    pub witnesses: usize,
}

/// A revision.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Its events, in order.
    pub events: Vec<Event>,
    /// When it was first received.
    pub at: Nanos,
    /// Who received it first.
    pub watcher: u32,
}

impl Witness {
    /// The last revision of the log.
    pub fn end(&self) -> i64 {
        FIRST_REVISION + i64::try_from(self.revisions.len()).unwrap_or(i64::MAX - FIRST_REVISION)
    }
}

/// One witness while its steps are read.
#[derive(Debug, Default)]
struct Reading {
    /// The next revision it has to see.
    next: i64,
    /// Parts of a message that is not whole yet.
    parts: Vec<Event>,
    /// From where to where it saw everything, both included.
    covered: Vec<(i64, i64)>,
}

/// Puts the log together.
pub fn gather(history: &History) -> Witness {
    let mut witness = Witness::default();
    let mut readings: BTreeMap<u32, Reading> = BTreeMap::new();
    let mut seen: BTreeMap<i64, Seen> = BTreeMap::new();
    for step in history.watches.iter().filter(|s| s.workload == WORKLOAD) {
        let reading = readings.entry(step.watcher).or_default();
        match &step.step {
            WatchEvent::Asked(request) => {
                reading.parts.clear();
                reading.next = request.start_revision.max(FIRST_REVISION + 1);
            }
            WatchEvent::Received(response) => {
                reading.parts.extend(response.events.iter().cloned());
                witness.events += response.events.len();
                if !response.fragment {
                    let events = std::mem::take(&mut reading.parts);
                    take(&mut witness, reading, &mut seen, step, events);
                }
            }
            WatchEvent::ProgressAsked | WatchEvent::Cancelled | WatchEvent::Broken(_) => {
                reading.parts.clear();
            }
        }
    }
    witness.witnesses = readings.len();
    join(&mut witness, &readings, seen);
    witness
}

/// Takes a whole message of one witness.
fn take(
    witness: &mut Witness,
    reading: &mut Reading,
    seen: &mut BTreeMap<i64, Seen>,
    step: &WatchStep,
    events: Vec<Event>,
) {
    let mut by_revision: BTreeMap<i64, Vec<Event>> = BTreeMap::new();
    for event in events {
        let revision = event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
        by_revision.entry(revision).or_default().push(event);
    }
    for (revision, events) in by_revision {
        if revision >= reading.next {
            match reading.covered.last_mut() {
                Some((_, to)) if *to + 1 == reading.next => *to = revision,
                _ => reading.covered.push((reading.next, revision)),
            }
            reading.next = revision + 1;
        }
        let Some(before) = seen.get_mut(&revision) else {
            let first = Seen {
                events,
                at: step.at,
                watcher: step.watcher,
            };
            seen.insert(revision, first);
            continue;
        };
        if !same(&before.events, &events) {
            witness.violations.push(
                Violation::new(format!(
                    "revision {revision} is {} to witness {} and {} to witness {} at member {}",
                    told(&before.events),
                    before.watcher,
                    told(&events),
                    step.watcher,
                    step.member,
                ))
                .seen_by(before.watcher)
                .seen_by(step.watcher)
                .at_revision(revision)
                .at(step.at),
            );
        }
    }
}

/// Whether two witnesses saw the same. What a key was before is left out: it is no more known once it is compacted.
fn same(a: &[Event], b: &[Event]) -> bool {
    a.len() == b.len() && std::iter::zip(a, b).all(|(a, b)| a.r#type == b.r#type && a.kv == b.kv)
}

/// Events in words.
pub(super) fn told(events: &[Event]) -> String {
    let told: Vec<String> = events
        .iter()
        .map(|event| {
            let kv = event.kv.clone().unwrap_or_default();
            let key = String::from_utf8_lossy(&kv.key).into_owned();
            if event.r#type == 0 {
                format!("{key} = {}", String::from_utf8_lossy(&kv.value))
            } else {
                format!("{key} deleted")
            }
        })
        .collect();
    format!("[{}]", told.join(", "))
}

/// Makes one log of what was seen, up to the first revision that is not there.
fn join(witness: &mut Witness, readings: &BTreeMap<u32, Reading>, seen: BTreeMap<i64, Seen>) {
    let mut next = FIRST_REVISION + 1;
    let mut seen = seen.into_iter().peekable();
    while let Some((revision, event)) = seen.next_if(|(revision, _)| *revision <= next) {
        if revision < next {
            witness.violations.push(
                Violation::new(format!("an event came at revision {revision}"))
                    .seen_by(event.watcher)
                    .at(event.at),
            );
            continue;
        }
        witness.revisions.push(event);
        next += 1;
    }
    let Some((after, _)) = seen.next() else {
        return;
    };
    let past = readings.iter().find(|(_, reading)| {
        let mut covered = reading.covered.iter();
        covered.any(|(from, to)| *from <= next && next <= *to)
    });
    match past {
        Some((watcher, _)) => witness.violations.push(
            Violation::new(format!(
                "no event came at revision {next}, though witness {watcher} saw revision {after} and was not told of a gap"
            ))
            .seen_by(*watcher)
            .at_revision(next),
        ),
        None => {
            witness.lost = Some(format!(
                "no witness saw revisions {next} to {}: compaction overtook them all",
                after - 1
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use baton_proto::etcdserverpb as pb;
    use baton_proto::mvccpb::KeyValue;

    use super::*;
    use crate::history::Error;

    fn asked(start_revision: i64) -> WatchEvent {
        WatchEvent::Asked(pb::WatchCreateRequest {
            start_revision,
            ..Default::default()
        })
    }

    fn event(revision: i64, value: &'static str) -> Event {
        Event {
            kv: Some(KeyValue {
                key: "a".into(),
                value: value.into(),
                mod_revision: revision,
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn received(revisions: impl IntoIterator<Item = i64>) -> WatchEvent {
        WatchEvent::Received(pb::WatchResponse {
            events: revisions.into_iter().map(|at| event(at, "1")).collect(),
            ..Default::default()
        })
    }

    fn broken() -> WatchEvent {
        WatchEvent::Broken(Error {
            code: 14,
            message: "reset".into(),
        })
    }

    /// What witnesses with these steps saw.
    fn seen(witnesses: Vec<Vec<WatchEvent>>) -> Witness {
        let mut history = History::default();
        for (watcher, steps) in (1..).zip(witnesses) {
            history
                .watches
                .extend(steps.into_iter().map(|step| WatchStep {
                    workload: WORKLOAD.into(),
                    watcher,
                    member: u64::from(watcher),
                    at: 0,
                    step,
                }));
        }
        gather(&history)
    }

    #[test]
    fn a_witness_fills_what_compaction_took_from_another() {
        let overtaken = vec![asked(1), received(2..4), broken(), asked(6), received(6..9)];
        let witness = seen(vec![overtaken.clone(), vec![asked(1), received(2..7)]]);
        assert_eq!((witness.end(), witness.lost), (8, None));
        assert_eq!(witness.violations, []);

        let witness = seen(vec![overtaken.clone(), overtaken]);
        assert_eq!(witness.end(), 3);
        assert!(witness.lost.is_some());
        assert_eq!(witness.violations, []);
    }

    #[test]
    fn a_revision_that_a_witness_without_a_hole_did_not_see_never_was() {
        let witness = seen(vec![vec![asked(1), received([2, 3, 5])]]);
        assert_eq!(witness.end(), 3);
        assert_eq!(witness.violations.len(), 1);
        assert_eq!(witness.violations[0].revision, Some(4));
    }

    #[test]
    fn members_that_tell_of_different_values_are_found() {
        let other = WatchEvent::Received(pb::WatchResponse {
            events: vec![event(2, "2")],
            ..Default::default()
        });
        let witness = seen(vec![vec![asked(1), received([2])], vec![asked(1), other]]);
        assert_eq!(witness.violations.len(), 1);
    }

    #[test]
    fn parts_of_a_message_are_joined_unless_the_stream_breaks_between_them() {
        let part = |value| {
            WatchEvent::Received(pb::WatchResponse {
                events: vec![event(2, value)],
                fragment: true,
                ..Default::default()
            })
        };
        let torn = vec![
            asked(1),
            part("0"),
            broken(),
            asked(2),
            part("0"),
            received([2]),
        ];
        let witness = seen(vec![torn]);
        assert_eq!(witness.end(), 2);
        assert_eq!(witness.revisions[0].events.len(), 2);
        assert_eq!(witness.violations, []);
    }
}
