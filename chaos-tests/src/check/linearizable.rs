//! Promise 2: "Reads and transactions are linearizable by default", judged without any revision.
//!
//! What the operations of the register workload did to each key is ordered by a search that knows nothing but calls, returns
//! and values. Nothing that a server says of revisions is believed here, which makes this the second, independent opinion
//! beside [`super::revisions`] and [`super::real_time`]. An operation on several keys counts at each of them by itself: what
//! is linearizable as a whole is so at every key.

use std::collections::BTreeMap;
use std::ops::Bound;

use baton_proto::etcdserverpb as pb;
use baton_proto::mvccpb::KeyValue;
use bytes::Bytes;
use pb::compare::{CompareResult, CompareTarget, TargetUnion};
use pb::request_op::Request as Op;
use pb::response_op::Response as OpAnswer;

use super::effects;
use super::order::{ABSENT, Found, Needs, Step, Value, search};
use crate::history::{Answer, History, Operation, Outcome, Request};
use crate::verdict::{Judgement, Violation};
use crate::workload::register::REGISTER;

/// The checker's name.
pub const CHECKER: &str = "linearizability";

/// Steps that the search may take for one key.
const BUDGET: u64 = 1_000_000;

/// Judges a history.
pub fn judge(history: &History) -> Judgement {
    judge_within(history, BUDGET)
}

/// Judges a history with at most `budget` steps of search for each key.
pub fn judge_within(history: &History, budget: u64) -> Judgement {
    let mut judgement = Judgement::new(
        CHECKER,
        "Reads and transactions are linearizable by default.",
    );
    let mut given_up = 0;
    for (key, track) in tracks(history) {
        judgement.count("keys", 1);
        judgement.count("operations on keys", track.steps.len());
        let mut left = budget;
        match search(&track.steps, &mut left) {
            Found::Order => {}
            Found::OutOfSteps => given_up += 1,
            Found::None(operations) => judgement.violated(
                Violation::new(format!(
                    "what happened to {} is in no order: none gets past operations {operations:?}",
                    String::from_utf8_lossy(&key)
                ))
                .by(operations),
            ),
        }
    }
    if given_up > 0 {
        judgement.inconclusive.push(format!(
            "{given_up} keys have more to them than could be searched in {budget} steps each"
        ));
    }
    judgement
}

/// What happened to one key.
#[derive(Debug, Default)]
struct Track {
    steps: Vec<Step>,
    values: BTreeMap<Bytes, Value>,
}

impl Track {
    fn value(&mut self, value: &Bytes) -> Value {
        let next = Value::try_from(self.values.len() + 1).unwrap_or(Value::MAX);
        *self.values.entry(value.clone()).or_insert(next)
    }
}

type Tracks = BTreeMap<Bytes, Track>;

/// What happened to each key that the workload may have put.
fn tracks(history: &History) -> Tracks {
    let mut tracks = Tracks::new();
    let ours = |operation: &&Operation| operation.workload == REGISTER;
    for operation in history.operations.iter().filter(ours) {
        for put in effects::writes_of(&operation.request).puts {
            tracks.entry(put.key.clone()).or_default();
        }
    }
    let reads_all = |operation: &&Operation| matches!(operation.request, Request::Range(_));
    for operation in &history.operations {
        if !ours(&operation) && !reads_all(&operation) {
            continue;
        }
        let answer = match &operation.outcome {
            Outcome::Failed(_) => continue,
            Outcome::Unknown(_) => {
                unknown(operation, &mut tracks);
                continue;
            }
            Outcome::Ok(answer) => answer,
        };
        let mut view = View {
            tracks: &mut tracks,
            keys: BTreeMap::new(),
        };
        view.answered(&operation.request, answer);
        for (key, (needs, leaves)) in view.keys {
            if (needs, leaves) == (Needs::Nothing, None) {
                continue;
            }
            if let Some(track) = tracks.get_mut(&key) {
                track.steps.push(Step {
                    operation: operation.id,
                    called: operation.called,
                    returned: Some(operation.returned),
                    needs,
                    leaves,
                });
            }
        }
    }
    tracks
}

/// An operation of unknown outcome may have done any of its writes.
fn unknown(operation: &Operation, tracks: &mut Tracks) {
    let writes = effects::writes_of(&operation.request);
    let step = |needs, value| Step {
        operation: operation.id,
        called: operation.called,
        returned: None,
        needs,
        leaves: Some(value),
    };
    for put in writes.puts {
        if put.ignore_value {
            continue;
        }
        let Some(track) = tracks.get_mut(&put.key) else {
            continue;
        };
        let needs = guard(&operation.request, &put.key)
            .map_or(Needs::Nothing, |value| Needs::Is(track.value(value)));
        let value = track.value(&put.value);
        track.steps.push(step(needs, value));
    }
    for delete in writes.deletions {
        for (_, track) in covered(tracks, &delete.key, &delete.range_end) {
            track.steps.push(step(Needs::Nothing, ABSENT));
        }
    }
}

/// The value that `key` must have had for the only write of a compare-and-swap to be done.
fn guard<'a>(request: &'a Request, key: &Bytes) -> Option<&'a Bytes> {
    let Request::Txn(request) = request else {
        return None;
    };
    let [compare] = &request.compare[..] else {
        return None;
    };
    let [op] = &request.success[..] else {
        return None;
    };
    let reads = |op: &pb::RequestOp| matches!(op.request, Some(Op::RequestRange(_)));
    let is_put = matches!(op.request, Some(Op::RequestPut(_)));
    let equal = compare.result() == CompareResult::Equal && compare.range_end.is_empty();
    match &compare.target_union {
        Some(TargetUnion::Value(value))
            if is_put
                && equal
                && compare.key == key
                && compare.target() == CompareTarget::Value
                && request.failure.iter().all(reads) =>
        {
            Some(value)
        }
        _ => None,
    }
}

/// The keys from `key` to `end`.
fn covered<'a>(
    tracks: &'a mut Tracks,
    key: &Bytes,
    end: &Bytes,
) -> Box<dyn Iterator<Item = (&'a Bytes, &'a mut Track)> + 'a> {
    let from = Bound::Included(key.clone());
    match &end[..] {
        [] => Box::new(tracks.range_mut((from.clone(), from))),
        [0] => Box::new(tracks.range_mut((from, Bound::Unbounded))),
        _ if end <= key => Box::new(std::iter::empty()),
        _ => Box::new(tracks.range_mut((from, Bound::Excluded(end.clone())))),
    }
}

/// What one answered operation needed each key to be, and what it left.
struct View<'a> {
    tracks: &'a mut Tracks,
    keys: BTreeMap<Bytes, (Needs, Option<Value>)>,
}

impl View<'_> {
    /// The operation saw this of a key. What it saw after a write of its own tells nothing.
    fn saw(&mut self, key: &Bytes, needs: Needs) {
        let (seen, left) = self
            .keys
            .entry(key.clone())
            .or_insert((Needs::Nothing, None));
        if left.is_none() {
            *seen = seen.and(needs);
        }
    }

    fn saw_kv(&mut self, key: &Bytes, kv: Option<&KeyValue>) {
        let needs = match (kv, self.tracks.get_mut(key)) {
            (Some(kv), Some(track)) => Needs::Is(track.value(&kv.value)),
            (None, Some(_)) => Needs::Is(ABSENT),
            (_, None) => return,
        };
        self.saw(key, needs);
    }

    fn left(&mut self, key: &Bytes, value: Value) {
        let entry = self
            .keys
            .entry(key.clone())
            .or_insert((Needs::Nothing, None));
        entry.1 = Some(value);
    }

    fn covered(&mut self, key: &Bytes, end: &Bytes) -> Vec<Bytes> {
        covered(self.tracks, key, end)
            .map(|(key, _)| key.clone())
            .collect()
    }

    fn answered(&mut self, request: &Request, answer: &Answer) {
        match (request, answer) {
            (Request::Range(request), Answer::Range(answer)) => self.range(request, answer),
            (Request::Put(request), Answer::Put(answer)) => self.put(request, answer),
            (Request::DeleteRange(request), Answer::DeleteRange(answer)) => {
                self.delete(request, answer);
            }
            (Request::Txn(request), Answer::Txn(answer)) => {
                self.compares(request, answer);
                self.txn(request, answer);
            }
            _ => {}
        }
    }

    fn range(&mut self, request: &pb::RangeRequest, answer: &pb::RangeResponse) {
        if request.serializable || request.revision != 0 {
            return;
        }
        for kv in &answer.kvs {
            if request.keys_only {
                self.saw(&kv.key, Needs::IsNot(ABSENT));
            } else {
                self.saw_kv(&kv.key, Some(kv));
            }
        }
        let filtered = [
            request.min_mod_revision,
            request.max_mod_revision,
            request.min_create_revision,
            request.max_create_revision,
        ];
        let whole = !answer.more && !request.count_only && filtered == [0; 4];
        if !whole && answer.count > 0 {
            return;
        }
        for key in self.covered(&request.key, &request.range_end) {
            if !answer.kvs.iter().any(|kv| kv.key == key) {
                self.saw_kv(&key, None);
            }
        }
    }

    fn put(&mut self, request: &pb::PutRequest, answer: &pb::PutResponse) {
        if request.prev_kv {
            self.saw_kv(&request.key, answer.prev_kv.as_ref());
        }
        if request.ignore_value || request.ignore_lease {
            self.saw(&request.key, Needs::IsNot(ABSENT));
        }
        if !request.ignore_value
            && let Some(track) = self.tracks.get_mut(&request.key)
        {
            let value = track.value(&request.value);
            self.left(&request.key, value);
        }
    }

    fn delete(&mut self, request: &pb::DeleteRangeRequest, answer: &pb::DeleteRangeResponse) {
        let single = request.range_end.is_empty();
        for key in self.covered(&request.key, &request.range_end) {
            if answer.deleted == 0 || request.prev_kv {
                let before = answer.prev_kvs.iter().find(|kv| kv.key == key);
                self.saw_kv(&key, before);
            } else if single {
                self.saw(&key, Needs::IsNot(ABSENT));
            }
            if answer.deleted > 0 {
                self.left(&key, ABSENT);
            }
        }
    }

    /// What the comparisons of a transaction, and of those in it, tell of the state before it.
    fn compares(&mut self, request: &pb::TxnRequest, answer: &pb::TxnResponse) {
        for compare in &request.compare {
            // Which of several that did not all hold did not is not known.
            if answer.succeeded || request.compare.len() == 1 {
                self.compare(compare, answer.succeeded);
            }
        }
        for (op, response) in taken(request, answer) {
            if let (Some(Op::RequestTxn(request)), Some(OpAnswer::ResponseTxn(answer))) =
                (&op.request, &response.response)
            {
                self.compares(request, answer);
            }
        }
    }

    fn compare(&mut self, compare: &pb::Compare, held: bool) {
        if !compare.range_end.is_empty() || compare.result() != CompareResult::Equal {
            return;
        }
        let number = match compare.target_union {
            Some(TargetUnion::Value(ref value)) => {
                let Some(track) = self.tracks.get_mut(&compare.key) else {
                    return;
                };
                let value = track.value(value);
                let needs = if held {
                    Needs::Is(value)
                } else {
                    Needs::IsNot(value)
                };
                return self.saw(&compare.key, needs);
            }
            Some(
                TargetUnion::Version(number)
                | TargetUnion::CreateRevision(number)
                | TargetUnion::ModRevision(number),
            ) => number,
            Some(TargetUnion::Lease(_)) | None => return,
        };
        match (number == 0, held) {
            (true, true) => self.saw(&compare.key, Needs::Is(ABSENT)),
            (true, false) | (false, true) => self.saw(&compare.key, Needs::IsNot(ABSENT)),
            (false, false) => {}
        }
    }

    fn txn(&mut self, request: &pb::TxnRequest, answer: &pb::TxnResponse) {
        for (op, response) in taken(request, answer) {
            match (&op.request, &response.response) {
                (Some(Op::RequestRange(request)), Some(OpAnswer::ResponseRange(answer))) => {
                    self.range(request, answer);
                }
                (Some(Op::RequestPut(request)), Some(OpAnswer::ResponsePut(answer))) => {
                    self.put(request, answer);
                }
                (
                    Some(Op::RequestDeleteRange(request)),
                    Some(OpAnswer::ResponseDeleteRange(answer)),
                ) => self.delete(request, answer),
                (Some(Op::RequestTxn(request)), Some(OpAnswer::ResponseTxn(answer))) => {
                    self.txn(request, answer);
                }
                _ => {}
            }
        }
    }
}

/// The operations of the branch that was taken, with their answers.
fn taken<'a>(
    request: &'a pb::TxnRequest,
    answer: &'a pb::TxnResponse,
) -> impl Iterator<Item = (&'a pb::RequestOp, &'a pb::ResponseOp)> {
    let ops = if answer.succeeded {
        &request.success
    } else {
        &request.failure
    };
    std::iter::zip(ops, &answer.responses)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::selftest::honest::{self, Shape};

    #[test]
    fn a_search_that_is_given_up_is_inconclusive() {
        let history = honest::history(1, Shape::default());
        let judgement = judge_within(&history, 3);
        assert_eq!(judgement.violations, []);
        assert_eq!(judgement.inconclusive.len(), 1);
    }

    #[test]
    fn hundreds_of_lost_answers_do_not_make_the_search_give_up() {
        let shape = Shape {
            operations: 3_000,
            registers: 8,
            appenders: 0,
            lost: 200,
            ..Shape::default()
        };
        for seed in 0..3 {
            let judgement = judge(&honest::history(seed, shape));
            assert_eq!(judgement.violations, []);
            assert_eq!(judgement.inconclusive, [""; 0]);
        }
    }
}
