//! Promise 6, for elections: *at most one leader per token, tokens grow, and what a deposed leader proclaims is refused.*
//!
//! * Who is told that it leads has a key that is, or was, the first of its line, at some time during the call.
//! * Who is said to lead at a revision is the first at that revision.
//! * What is proclaimed under a token is written to the key with that token, or not at all.
//! * An observer sees every leader and everything it proclaims, in order, once, and nothing else. Only what was compacted
//!   before it saw it may be missing, as in any watch.
//!
//! What leaders believe at the same time is judged with the holds of locks.

use std::collections::BTreeMap;

use baton_proto::etcdserverpb as pb;
use baton_proto::mvccpb::KeyValue;
use bytes::Bytes;
use pb::request_op::Request as Op;

use super::compactions::Compactions;
use super::deleters::{Deleters, place};
use super::line::{Line, lines};
use super::timing::Timing;
use super::witness::{self, Witness};
use crate::history::{Answer, History, Observed, Operation, Outcome, Request};
use crate::verdict::{Judgement, Violation};
use crate::workload::election::LINES;

/// Its name.
pub const CHECKER: &str = "election";

/// What it judges.
const PROMISE: &str = "At most one leader per token, tokens grow, and what a deposed leader proclaims is refused; observers \
                       see every leader that is not compacted in order, once, and none that never was.";

/// Judges elections of servers that compact by themselves, or do not.
pub fn judge(history: &History, compacts_itself: bool) -> Judgement {
    let witness = witness::gather(history);
    let lines = lines(&witness, LINES);
    let mut judge = Judge {
        judgement: Judgement::new(CHECKER, PROMISE),
        values: values(&witness),
        timing: Timing::of(history),
        compactions: Compactions::of(history, compacts_itself),
        end: witness.end(),
        lines,
    };
    if let Some(lost) = &witness.lost {
        judge.judgement.inconclusive.push(lost.clone());
    }
    judge.leaderships(&Deleters::of(history));
    for (op, answer) in history.answered() {
        match (&op.request, answer) {
            (Request::Campaign(request), Answer::Campaign(answer)) => {
                judge.campaign(op, request, answer.leader.as_ref());
            }
            (Request::Leader(request), Answer::Leader(answer)) => {
                let revision = answer.header.unwrap_or_default().revision;
                judge.leader(op, &request.name, revision, answer.kv.as_ref());
            }
            _ => {}
        }
    }
    for op in &history.operations {
        judge.proclaim(op);
    }
    let mut observers: BTreeMap<u32, Vec<&Observed>> = BTreeMap::new();
    for observed in &history.observed {
        observers
            .entry(observed.observer)
            .or_default()
            .push(observed);
    }
    for told in observers.values() {
        judge.observer(told);
    }
    judge.judgement
}

struct Judge {
    judgement: Judgement,
    lines: BTreeMap<String, Line>,
    /// What was written to keys of elections, by revision.
    values: BTreeMap<i64, KeyValue>,
    timing: Timing,
    compactions: Compactions,
    /// The last revision of the log.
    end: i64,
}

fn values(witness: &Witness) -> BTreeMap<i64, KeyValue> {
    let events = witness.revisions.iter().flat_map(|seen| &seen.events);
    events
        .filter(|event| event.r#type == 0)
        .filter_map(|event| event.kv.clone())
        .filter(|kv| kv.key.starts_with(LINES.as_bytes()))
        .map(|kv| (kv.mod_revision, kv))
        .collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What is asked to be proclaimed: the key, the token and the value.
fn proclamation(request: &Request) -> Option<(&Bytes, i64, &Bytes)> {
    match request {
        Request::Proclaim(request) => {
            let leader = request.leader.as_ref()?;
            Some((&leader.key, leader.rev, &request.value))
        }
        Request::Txn(txn) => {
            let (Some(compare), Some(op)) = (txn.compare.first(), txn.success.first()) else {
                return None;
            };
            match (&compare.target_union, &op.request) {
                (
                    Some(pb::compare::TargetUnion::CreateRevision(token)),
                    Some(Op::RequestPut(put)),
                ) if *token > 0 && put.key.starts_with(LINES.as_bytes()) => {
                    Some((&put.key, *token, &put.value))
                }
                _ => None,
            }
        }
        _ => None,
    }
}

impl Judge {
    fn line(&self, name: &[u8]) -> Option<&Line> {
        let name = std::str::from_utf8(name).ok()?;
        self.lines.get(name.strip_prefix(LINES)?)
    }

    fn leaderships(&mut self, deleters: &Deleters) {
        for line in self.lines.values() {
            for place in line.holders() {
                self.judgement.count("leaderships", 1);
                let by_lease = place
                    .end
                    .is_some_and(|end| !deleters.may_have(&place.key, end, &self.timing));
                self.judgement
                    .count("leaderships that ended with a lease", usize::from(by_lease));
            }
        }
    }

    fn campaign(
        &mut self,
        op: &Operation,
        request: &baton_proto::v3electionpb::CampaignRequest,
        leader: Option<&baton_proto::v3electionpb::LeaderKey>,
    ) {
        if !request.name.starts_with(LINES.as_bytes()) {
            return;
        }
        self.judgement.count("campaigns won", 1);
        let key = place(&request.name, request.lease);
        let token = leader.map_or(0, |leader| leader.rev);
        let violation = |what: String| {
            let violation = Violation::new(what).by([op.id]).at(op.returned);
            violation.at_revision(token)
        };
        if leader.is_none_or(|leader| leader.key != key || leader.lease != request.lease) {
            let what = format!(
                "a campaign of lease {:x} was won by another key",
                request.lease
            );
            self.judgement.violated(violation(what));
            return;
        }
        if token > self.end {
            self.beyond();
            return;
        }
        let name = text(&key);
        let place = self
            .line(&request.name)
            .and_then(|line| line.place(&key, token));
        let what = match place {
            None => format!("{name} won with token {token}, and there was no such key"),
            Some(place) => match (place.first, place.end) {
                (None, _) => format!("{name} won with token {token}, and never was first"),
                (Some(first), _) if self.timing.not_before(first) > op.returned => {
                    format!("{name} won with token {token} before it was first")
                }
                (_, Some(end)) if self.timing.known(end) < op.called => {
                    format!("{name} won with token {token} when its key was gone")
                }
                _ => return,
            },
        };
        self.judgement.violated(violation(what));
    }

    fn beyond(&mut self) {
        let what = "answers are newer than the last event that a witness saw";
        if !self.judgement.inconclusive.iter().any(|why| why == what) {
            self.judgement.inconclusive.push(what.into());
        }
    }

    fn leader(&mut self, op: &Operation, name: &[u8], revision: i64, kv: Option<&KeyValue>) {
        if !name.starts_with(LINES.as_bytes()) {
            return;
        }
        if revision > self.end {
            self.beyond();
            return;
        }
        self.judgement.count("leaders asked for", 1);
        let first = self.line(name).and_then(|line| line.first_at(revision));
        let told = kv.map(|kv| (kv.key.clone(), kv.create_revision));
        let was = first.map(|first| (first.key.clone(), first.token));
        if told != was {
            let words = |leader: Option<(Bytes, i64)>| {
                leader.map_or("nobody".into(), |(key, token)| {
                    format!("{} with token {token}", text(&key))
                })
            };
            let what = format!(
                "{} was said to lead at revision {revision}, where {} did",
                words(told),
                words(was)
            );
            let violation = Violation::new(what).by([op.id]).at(op.returned);
            self.judgement.violated(violation.at_revision(revision));
        }
    }

    fn proclaim(&mut self, op: &Operation) {
        let Some((key, token, value)) = proclamation(&op.request) else {
            return;
        };
        let accepted = match &op.outcome {
            Outcome::Ok(Answer::Txn(answer)) => answer.succeeded,
            Outcome::Ok(_) => true,
            Outcome::Failed(_) => false,
            Outcome::Unknown(error) => {
                let refused = usize::from(error.message.contains("not leader"));
                self.judgement.count("proclamations refused", refused);
                false
            }
        };
        if let Outcome::Ok(Answer::Txn(answer)) = &op.outcome
            && !answer.succeeded
        {
            self.judgement.count("proclamations refused", 1);
        }
        // Values are not used twice.
        let written = self
            .values
            .range(token + 1..)
            .map(|(_, kv)| kv)
            .find(|kv| kv.key == *key && kv.value == *value);
        let violation = |what: String| Violation::new(what).by([op.id]).at(op.returned);
        match written {
            Some(kv) if kv.create_revision != token => {
                let what = format!(
                    "{} proclaimed {} with token {token} after that had ended, and was heard at revision {}",
                    text(key),
                    text(value),
                    kv.mod_revision
                );
                let revision = kv.mod_revision;
                self.judgement
                    .violated(violation(what).at_revision(revision));
            }
            Some(_) => self.judgement.count("proclamations", 1),
            None if accepted => {
                let newest = match &op.outcome {
                    Outcome::Ok(answer) => answer.header().revision,
                    _ => 0,
                };
                if newest > self.end {
                    self.beyond();
                    return;
                }
                let what = format!(
                    "{} was told that it proclaimed {} with token {token}, which was not written",
                    text(key),
                    text(value)
                );
                self.judgement.violated(violation(what));
            }
            None => {}
        }
    }

    fn observer(&mut self, told: &[&Observed]) {
        let mut before: Option<&Observed> = None;
        for observed in told {
            self.judgement.count("observed", 1);
            let is_new = before.is_none_or(|before| before.token != observed.token);
            self.judgement
                .count("leaders observed", usize::from(is_new));
            if observed.revision > self.end {
                self.beyond();
                return;
            }
            if let Some(what) = self.wrong(before, observed) {
                let what = format!(
                    "observer {} was told at member {} that {} leads with token {} and says {} of revision {}: {what}",
                    observed.observer,
                    observed.member,
                    observed.key,
                    observed.token,
                    observed.value,
                    observed.revision
                );
                let violation = Violation::new(what).at(observed.at);
                self.judgement
                    .violated(violation.at_revision(observed.revision));
            }
            before = Some(observed);
        }
    }

    /// What is wrong with what an observer was told after what it was told before.
    fn wrong(&self, before: Option<&Observed>, told: &Observed) -> Option<String> {
        let written = self.values.get(&told.revision).is_some_and(|kv| {
            kv.key == told.key.as_bytes()
                && kv.create_revision == told.token
                && kv.value == told.value.as_bytes()
        });
        if !written {
            return Some("that was not written".into());
        }
        let line = self.lines.get(&told.election)?;
        let first = line
            .place(told.key.as_bytes(), told.token)
            .and_then(|place| place.first);
        let Some(first) = first else {
            return Some("it never led".into());
        };
        if told.at < self.timing.not_before(first) {
            return Some("it did not lead yet".into());
        }
        let before = before?;
        if (told.token, told.revision) <= (before.token, before.revision) {
            return Some(format!(
                "that is not after token {} and revision {}",
                before.token, before.revision
            ));
        }
        // At the compacted revision itself everything can still be read.
        let could_tell = |revision: i64| !self.compactions.may_reach(revision + 1, told.at);
        let skipped = line
            .holders()
            .filter(|place| before.token < place.token && place.token < told.token)
            .find(|place| place.end.is_none_or(|end| could_tell(end - 1)));
        if let Some(skipped) = skipped {
            return Some(format!("it was not told of token {}", skipped.token));
        }
        // What was said before it led was never for observers.
        let from = if told.token == before.token {
            before.revision + 1
        } else {
            self.value_at(told, first)
        };
        let said_by = |observed: &Observed, kv: &KeyValue| {
            kv.create_revision == observed.token && kv.key == observed.key.as_bytes()
        };
        let of_before = self.values.range(before.revision + 1..).map(|(_, kv)| kv);
        let of_told = self.values.range(from.min(told.revision)..told.revision);
        let missed = of_before
            .filter(|kv| told.token != before.token && said_by(before, kv))
            .chain(of_told.map(|(_, kv)| kv).filter(|kv| said_by(told, kv)))
            .find(|kv| could_tell(kv.mod_revision));
        missed.map(|kv| format!("it was not told of {}", text(&kv.value)))
    }

    /// The revision of the value that a leader had when it became first.
    fn value_at(&self, told: &Observed, first: i64) -> i64 {
        let until = self.values.range(told.token..=first).rev();
        until
            .map(|(_, kv)| kv)
            .find(|kv| kv.key == told.key.as_bytes())
            .map_or(told.token, |kv| kv.mod_revision)
    }
}
