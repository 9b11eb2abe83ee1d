//! Promise 3: "Revisions are unique, grow by one per changing request, and are the same on every member", and of promise 1
//! that a write answered OK is never lost and one whose answer was lost "is either wholly there or not at all".
//!
//! The witnesses' log is replayed through the model. Every answer about keys has to be what the model says at the answer's
//! revision; every acknowledged write has to be the whole of its revision, and every revision the work of one operation,
//! or of the end of a lease, or of the lock and election services.

use std::collections::{BTreeMap, BTreeSet};

use baton_proto::mvccpb::Event;
use bytes::Bytes;

use super::agree::{self, told};
use super::effects::{self, Kind};
use super::explain::{Explanations, Leases, Services};
use super::known::Known;
use super::witness::{self, Seen, Witness};
use crate::history::{Answer, History, Operation, Outcome};
use crate::model::{Change, Model};
use crate::verdict::{Judgement, Violation};

/// The checker's name.
pub const CHECKER: &str = "revisions";

/// Judges a history.
pub fn judge(history: &History) -> Judgement {
    let witness = witness::gather(history);
    let mut judgement = Judgement::new(
        CHECKER,
        "A write answered OK is never lost; a write whose answer was lost is either wholly there or not at all. \
         Revisions are unique, grow by one per changing request, and are the same on every member.",
    );
    judgement.violations.extend(witness.violations.clone());
    judgement.count("witness events", witness.events);
    judgement.count("revisions", witness.revisions.len());
    if witness.witnesses == 0 {
        judgement.inconclusive.push("there was no witness".into());
    }
    judgement.inconclusive.extend(witness.lost.clone());

    let claims = claims(history, &mut judgement);
    let known = Known::of(history);
    let model = Walk::new(history, &known, &claims, &mut judgement).replay(&witness);
    compare_answers(history, &model, &mut judgement);
    judgement
}

/// The acknowledged writes, by the revision that each says it made.
fn claims<'a>(
    history: &'a History,
    judgement: &mut Judgement,
) -> BTreeMap<i64, Vec<&'a Operation>> {
    let mut claims: BTreeMap<i64, Vec<&Operation>> = BTreeMap::new();
    for (operation, answer) in history.answered() {
        if effects::kind(operation) == Some(Kind::Write) {
            let revision = answer.header().revision;
            claims.entry(revision).or_default().push(operation);
            judgement.count("writes acknowledged", 1);
        }
    }
    for (revision, claiming) in &claims {
        if let [first, second, ..] = claiming[..] {
            judgement.violated(
                Violation::new(format!(
                    "revision {revision} was given to {} writes, among them {} and {}",
                    claiming.len(),
                    named(first),
                    named(second)
                ))
                .by(claiming.iter().map(|op| op.id))
                .at_revision(*revision),
            );
        }
    }
    claims
}

/// An operation in a few words.
fn named(operation: &Operation) -> String {
    format!(
        "{} {} of client {} at member {}",
        operation.request.name(),
        operation.id,
        operation.client,
        operation.member
    )
}

/// The replay of the log, revision by revision.
struct Walk<'a> {
    history: &'a History,
    claims: &'a BTreeMap<i64, Vec<&'a Operation>>,
    judgement: &'a mut Judgement,
    model: Model,
    leases: Leases,
    services: Services<'a>,
    explanations: Explanations<'a>,
}

impl<'a> Walk<'a> {
    fn new(
        history: &'a History,
        known: &'a Known,
        claims: &'a BTreeMap<i64, Vec<&'a Operation>>,
        judgement: &'a mut Judgement,
    ) -> Self {
        Self {
            history,
            claims,
            judgement,
            model: Model::new(),
            leases: Leases::of(history),
            services: Services::of(history),
            explanations: Explanations::of(history, known),
        }
    }

    fn replay(mut self, witness: &Witness) -> Model {
        for seen in &witness.revisions {
            self.step(seen);
        }
        let end = self.model.revision();
        let later = self.claims.range(end + 1..).count();
        if later > 0 && witness.lost.is_none() {
            self.judgement.inconclusive.push(format!(
                "{later} writes were acknowledged at revisions after {end}, where the witnesses' log ends"
            ));
        }
        for (revision, claiming) in self.claims.range(..=1) {
            self.judgement.violated(
                Violation::new(format!("writes were acknowledged at revision {revision}"))
                    .by(claiming.iter().map(|op| op.id)),
            );
        }
        self.settle(witness);
        self.model
    }

    /// Takes one revision of the log.
    fn step(&mut self, seen: &Seen) {
        let base = self.model.revision();
        let revision = base + 1;
        let changes = self.changes(base, seen);
        let claiming = self.claims.get(&revision).map_or(&[][..], Vec::as_slice);
        for claim in claiming {
            self.judge_claim(claim, base, &changes, seen);
        }
        if claiming.is_empty() {
            if self.leases.ended(&changes) {
                self.judgement.count("lease ends", 1);
            } else if !self.services.explain(&changes) {
                self.explanations.offer(&self.model, base, &changes);
            }
        }
        self.leases.follow(&changes);
        self.model.push(changes);
    }

    /// The changes of a revision as they have to be, by key, value and lease of its events.
    fn changes(&mut self, base: i64, seen: &Seen) -> Vec<Change> {
        let mut draft = self.model.draft(base);
        for event in &seen.events {
            let kv = event.kv.clone().unwrap_or_default();
            let before = self.model.get(&kv.key, base);
            if event.prev_kv.is_some() && event.prev_kv.as_ref() != before {
                let said = event.prev_kv.as_ref().map(told);
                self.judgement.violated(
                    Violation::new(format!(
                        "an event of revision {} says that before it there was {}, not {}",
                        base + 1,
                        said.unwrap_or_default(),
                        before.map_or_else(|| "nothing".into(), told)
                    ))
                    .seen_by(seen.watcher)
                    .at_revision(base + 1)
                    .at(seen.at),
                );
            }
            let wrong = if is_put(event) {
                let now = draft.set(&kv.key, kv.value.clone(), kv.lease);
                (now != kv).then(|| format!("{}, not {}", told(&kv), told(&now)))
            } else if draft.remove(&kv.key).is_none() {
                let key = String::from_utf8_lossy(&kv.key);
                Some(format!("the deletion of {key}, which was not there"))
            } else {
                None
            };
            if let Some(wrong) = wrong {
                self.judgement.violated(
                    Violation::new(format!("an event of revision {} is {wrong}", base + 1))
                        .seen_by(seen.watcher)
                        .at_revision(base + 1)
                        .at(seen.at),
                );
            }
        }
        draft.into_changes()
    }

    /// Judges an acknowledged write against the revision that it says it made.
    fn judge_claim(&mut self, claim: &Operation, base: i64, changes: &[Change], seen: &Seen) {
        let mut draft = self.model.draft(base);
        let evaluated = effects::evaluate(&claim.request, &mut draft);
        let wrong = match (evaluated, &claim.outcome) {
            (Some(Ok(model)), Outcome::Ok(answer)) => {
                if draft.into_changes() == changes {
                    agree::answer(&claim.request, &model, answer).err()
                } else {
                    Some(format!(
                        "is not what made it: that is {}",
                        witness::told(&seen.events)
                    ))
                }
            }
            (Some(Err(refusal)), _) => Some(format!("had to be refused there: {refusal:?}")),
            _ => None,
        };
        if let Some(wrong) = wrong {
            self.judgement.violated(
                Violation::new(format!(
                    "{}, acknowledged at revision {}, {wrong}",
                    named(claim),
                    base + 1
                ))
                .by([claim.id])
                .at_revision(base + 1)
                .at(claim.returned),
            );
        }
    }

    /// Says which operations of unknown outcome happened, and which revisions nothing explains.
    fn settle(&mut self, witness: &Witness) {
        let settled = self.explanations.settle();
        self.judgement
            .count("unknown outcomes", self.explanations.unknown());
        self.judgement
            .count("unknown outcomes that happened", settled.happened);
        for revision in settled.unexplained {
            let at = usize::try_from(revision - 2).unwrap_or(usize::MAX);
            let Some(seen) = witness.revisions.get(at) else {
                continue;
            };
            let (hint, operations) = self.hint(&seen.events);
            self.judgement.violated(
                Violation::new(format!(
                    "no operation explains revision {revision}, which is {}{hint}",
                    witness::told(&seen.events)
                ))
                .by(operations)
                .seen_by(seen.watcher)
                .at_revision(revision)
                .at(seen.at),
            );
        }
    }

    /// What is known of the operations that put the values of a revision that nothing explains.
    fn hint(&self, events: &[Event]) -> (String, Vec<u64>) {
        let values: BTreeSet<&Bytes> = events
            .iter()
            .filter(|event| is_put(event))
            .filter_map(|event| Some(&event.kv.as_ref()?.value))
            .filter(|value| !value.is_empty())
            .collect();
        let mut hints = String::new();
        let mut operations = Vec::new();
        for operation in &self.history.operations {
            let writes = effects::writes_of(&operation.request);
            if !writes.puts.iter().any(|put| values.contains(&put.value)) {
                continue;
            }
            operations.push(operation.id);
            let outcome = match &operation.outcome {
                Outcome::Ok(answer) => {
                    format!("was acknowledged at revision {}", answer.header().revision)
                }
                Outcome::Failed(_) => "was refused".into(),
                Outcome::Unknown(_) => {
                    "had an unknown outcome, and cannot have done this then or twice".into()
                }
            };
            hints += &format!(
                "; its value is that of {}, which {outcome}",
                named(operation)
            );
        }
        (hints, operations)
    }
}

fn is_put(event: &Event) -> bool {
    event.r#type == 0
}

/// Compares every answer that made no revision with the state at its revision.
fn compare_answers(history: &History, model: &Model, judgement: &mut Judgement) {
    let mut later = 0;
    for (operation, answer) in history.answered() {
        match effects::kind(operation) {
            Some(Kind::Read | Kind::SerializableRead) => {}
            Some(Kind::Write) | None => continue,
        }
        let revision = answer.header().revision;
        if revision > model.revision() {
            later += 1;
            continue;
        }
        judgement.count("reads compared", 1);
        if let Answer::Txn(answer) = answer
            && !answer.succeeded
        {
            judgement.count("comparisons that failed", 1);
        }
        let mut draft = model.draft(revision);
        let wrong = match effects::evaluate(&operation.request, &mut draft) {
            Some(Ok(_)) if revision < 1 => Some("has no revision".into()),
            Some(Ok(model)) => agree::answer(&operation.request, &model, answer).err(),
            Some(Err(refusal)) => Some(format!("had to be refused there: {refusal:?}")),
            None => None,
        };
        if let Some(wrong) = wrong {
            judgement.violated(
                Violation::new(format!(
                    "the answer to {} at revision {revision} {wrong}",
                    named(operation)
                ))
                .by([operation.id])
                .at_revision(revision)
                .at(operation.returned),
            );
        }
    }
    if later > 0 {
        judgement.inconclusive.push(format!(
            "{later} reads are of revisions after {}, where the witnesses' log ends",
            model.revision()
        ));
    }
}
