//! Barriers: *nobody passes early.*
//!
//! Who passes writes the revision at which it saw that it may, and at that revision it has to be so: the barrier had been up
//! and is gone; all had come to the double barrier; nobody is in it any more. And that revision was not made up: it is no
//! later than that of the writing.

use std::collections::{BTreeMap, BTreeSet};

use baton_proto::mvccpb::KeyValue;

use super::deleters::Deleters;
use super::timing::Timing;
use super::witness::{self, Seen};
use crate::history::History;
use crate::model::FIRST_REVISION;
use crate::verdict::{Judgement, Violation};
use crate::workload::barrier::{DOUBLES, GATES, PASSED};

/// Its name.
pub const CHECKER: &str = "barrier";

/// What it judges.
const PROMISE: &str = "Nobody passes a barrier that is up, enters a double barrier before all have come, or leaves it \
                       before all have left.";

/// Judges barriers and double barriers.
pub fn judge(history: &History) -> Judgement {
    let mut judgement = Judgement::new(CHECKER, PROMISE);
    let witness = witness::gather(history);
    if let Some(lost) = &witness.lost {
        judgement.inconclusive.push(lost.clone());
    }
    let lives = Lives::of(&witness.revisions);
    let (deleters, timing) = (Deleters::of(history), Timing::of(history));
    for (gate, spans) in lives.keys.range(GATES.to_owned()..) {
        if !gate.starts_with(GATES) {
            break;
        }
        judgement.count("barriers", spans.len());
        let dropped = spans.iter().filter_map(|(_, end)| *end);
        let dropped = dropped.filter(|end| !deleters.may_have(gate.as_bytes(), *end, &timing));
        judgement.count("barriers that ended with a lease", dropped.count());
    }
    for (revision, seen) in (FIRST_REVISION + 1..).zip(&witness.revisions) {
        for event in seen.events.iter().filter(|event| event.r#type == 0) {
            let Some(wrong) = event.kv.as_ref().and_then(|kv| passed(kv, &lives)) else {
                continue;
            };
            let (fact, wrong) = wrong;
            judgement.count(fact, 1);
            if let Some(what) = wrong {
                judgement.violated(Violation::new(what).at_revision(revision).at(seen.at));
            }
        }
    }
    judgement
}

/// From when to when keys were there.
#[derive(Debug, Default)]
struct Lives {
    keys: BTreeMap<String, Vec<(i64, Option<i64>)>>,
    values: BTreeMap<String, String>,
}

impl Lives {
    fn of(revisions: &[Seen]) -> Self {
        let mut lives = Self::default();
        for (revision, seen) in (FIRST_REVISION + 1..).zip(revisions) {
            for event in &seen.events {
                let Some(kv) = &event.kv else { continue };
                let Ok(key) = std::str::from_utf8(&kv.key) else {
                    continue;
                };
                if !key.starts_with(GATES) && !key.starts_with(DOUBLES) {
                    continue;
                }
                let spans = lives.keys.entry(key.to_owned()).or_default();
                if event.r#type != 0 {
                    if let Some(last) = spans.last_mut() {
                        last.1.get_or_insert(revision);
                    }
                } else if kv.create_revision == kv.mod_revision {
                    spans.push((revision, None));
                }
                if event.r#type == 0 {
                    let value = String::from_utf8_lossy(&kv.value).into_owned();
                    lives.values.insert(key.to_owned(), value);
                }
            }
        }
        lives
    }

    fn is_there(&self, key: &str, revision: i64) -> bool {
        self.keys.get(key).is_some_and(|spans| {
            let mut spans = spans.iter();
            spans.any(|(from, to)| *from <= revision && to.is_none_or(|to| revision < to))
        })
    }

    fn had_come(&self, key: &str, revision: i64) -> bool {
        let spans = self.keys.get(key);
        spans.is_some_and(|spans| spans.iter().any(|(from, _)| *from <= revision))
    }

    fn below<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a str> {
        self.keys
            .range(prefix.to_owned()..)
            .map(|(key, _)| key.as_str())
            .take_while(move |key| key.starts_with(prefix))
    }
}

/// If somebody says that it passed: what kind of passing it is, and what is wrong with it.
fn passed(kv: &KeyValue, lives: &Lives) -> Option<(&'static str, Option<String>)> {
    let key = std::str::from_utf8(&kv.key).ok()?;
    let told = || String::from_utf8_lossy(&kv.value).into_owned();
    if let Some(rest) = key.strip_prefix(PASSED) {
        let gate = format!("{GATES}{}", rest.split('/').next().unwrap_or_default());
        let revision = told().parse::<i64>().unwrap_or(i64::MAX);
        let early = revision > kv.mod_revision
            || lives.is_there(&gate, revision)
            || !lives.had_come(&gate, revision);
        let what = format!("{key} passed at revision {}, when {gate} was up", told());
        return Some(("barriers passed", early.then_some(what)));
    }
    let rest = key.strip_prefix(DOUBLES)?;
    let mut parts = rest.split('/');
    let place = format!("{DOUBLES}{}/", parts.next().unwrap_or_default());
    let members = format!("{place}m/");
    let revision = told().parse::<i64>().unwrap_or(i64::MAX);
    let had_come = |revision: i64| {
        let come = lives.below(&members);
        let come: BTreeSet<&str> = come.filter(|key| lives.had_come(key, revision)).collect();
        let due = come
            .first()
            .and_then(|key| lives.values.get(*key)?.parse::<usize>().ok());
        (come.len(), due.unwrap_or(usize::MAX))
    };
    match parts.next()? {
        "in" => {
            let (come, due) = had_come(revision);
            let early = revision > kv.mod_revision || come < due;
            let what = format!(
                "{key} entered at revision {}, when {come} of {due} had come",
                told()
            );
            Some(("double barriers entered", early.then_some(what)))
        }
        "out" => {
            let inside = lives
                .below(&members)
                .find(|key| lives.is_there(key, revision));
            let early = revision > kv.mod_revision || inside.is_some();
            let what = format!(
                "{key} left at revision {}, when {} was in",
                told(),
                inside.unwrap_or("nobody")
            );
            Some(("double barriers left", early.then_some(what)))
        }
        _ => None,
    }
}
