//! What explains a revision that no acknowledged write claims: an operation whose outcome is not known, the end of a lease,
//! or the lock and election services, which write keys of their own.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::deleters::place;
use super::effects;
use super::known::Known;
use crate::history::{Answer, History, Operation, Outcome, Request};
use crate::model::{Change, Model, covers};

/// Operations whose outcome is not known, matched with revisions that nothing else explains.
#[derive(Debug)]
pub struct Explanations<'a> {
    known: &'a Known,
    unknown: Vec<&'a Operation>,
    /// By key, those that put or delete this key.
    by_key: BTreeMap<&'a Bytes, Vec<usize>>,
    /// Those that delete a range.
    by_range: Vec<(&'a Bytes, &'a Bytes, usize)>,
    /// Revisions, each with those that could have made it.
    open: Vec<(i64, Vec<usize>)>,
}

/// How revisions and operations of unknown outcome were matched.
#[derive(Debug)]
pub struct Settled {
    /// How many of the operations happened.
    pub happened: usize,
    /// Revisions that were left over.
    pub unexplained: Vec<i64>,
}

impl<'a> Explanations<'a> {
    /// The operations of unknown outcome of a history.
    pub fn of(history: &'a History, known: &'a Known) -> Self {
        let unknown: Vec<&Operation> = history
            .operations
            .iter()
            .filter(|op| matches!(op.outcome, Outcome::Unknown(_)))
            .filter(|op| effects::can_write(&op.request))
            .collect();
        let mut by_key: BTreeMap<&Bytes, Vec<usize>> = BTreeMap::new();
        let mut by_range = Vec::new();
        for (number, operation) in unknown.iter().enumerate() {
            let writes = effects::writes_of(&operation.request);
            for put in writes.puts {
                by_key.entry(&put.key).or_default().push(number);
            }
            for delete in writes.deletions {
                if delete.range_end.is_empty() {
                    by_key.entry(&delete.key).or_default().push(number);
                } else {
                    by_range.push((&delete.key, &delete.range_end, number));
                }
            }
        }
        Self {
            known,
            unknown,
            by_key,
            by_range,
            open: Vec::new(),
        }
    }

    /// How many operations of unknown outcome there are that could have changed keys.
    pub fn unknown(&self) -> usize {
        self.unknown.len()
    }

    /// Offers a revision, the changes of the one after `base`, to be explained.
    pub fn offer(&mut self, model: &Model, base: i64, changes: &[Change]) {
        let made = self.known.made(base + 1);
        let mut candidates: BTreeSet<usize> = BTreeSet::new();
        if let Some(change) = changes.first() {
            candidates.extend(self.by_key.get(change.key()).into_iter().flatten());
            let ranged = self.by_range.iter();
            candidates.extend(
                ranged
                    .filter(|(key, end, _)| covers(key, end, change.key()))
                    .map(|(_, _, number)| number),
            );
        }
        candidates.retain(|&number| {
            let operation = self.unknown[number];
            let mut draft = model.draft(base);
            operation.called <= made
                && matches!(
                    effects::evaluate(&operation.request, &mut draft),
                    Some(Ok(_))
                )
                && draft.into_changes() == changes
        });
        self.open.push((base + 1, candidates.into_iter().collect()));
    }

    /// Gives each revision an operation of its own, for as many revisions as can be.
    pub fn settle(&self) -> Settled {
        let mut taken: Vec<Option<usize>> = vec![None; self.unknown.len()];
        let mut unexplained = Vec::new();
        for at in 0..self.open.len() {
            let mut asked = BTreeSet::new();
            if !self.place(at, &mut taken, &mut asked) {
                unexplained.push(self.open[at].0);
            }
        }
        Settled {
            happened: taken.iter().flatten().count(),
            unexplained,
        }
    }

    /// Finds an operation for an open revision, moving others to other operations where that makes room.
    fn place(&self, at: usize, taken: &mut [Option<usize>], asked: &mut BTreeSet<usize>) -> bool {
        for &number in &self.open[at].1 {
            if !asked.insert(number) {
                continue;
            }
            if taken[number].is_none_or(|other| self.place(other, taken, asked)) {
                taken[number] = Some(at);
                return true;
            }
        }
        false
    }
}

/// Which keys live by which lease.
#[derive(Debug)]
pub struct Leases {
    /// Leases that clients know of.
    granted: BTreeSet<i64>,
    /// Whether there may be leases whose number no client was told.
    untold: bool,
    attached: BTreeMap<i64, BTreeSet<Bytes>>,
    by_key: BTreeMap<Bytes, i64>,
}

impl Leases {
    /// The leases that were asked for in a history, with no key yet.
    pub fn of(history: &History) -> Self {
        let mut leases = Self {
            granted: BTreeSet::new(),
            untold: false,
            attached: BTreeMap::new(),
            by_key: BTreeMap::new(),
        };
        for operation in &history.operations {
            match (&operation.request, &operation.outcome) {
                (Request::LeaseGrant(_), Outcome::Ok(Answer::LeaseGrant(answer))) => {
                    leases.granted.insert(answer.id);
                }
                (Request::LeaseGrant(request), Outcome::Unknown(_)) => {
                    leases.granted.insert(request.id);
                    leases.untold |= request.id == 0;
                }
                (Request::Lock(request), _) => leases.untold |= request.lease == 0,
                (Request::Campaign(request), _) => leases.untold |= request.lease == 0,
                _ => {}
            }
        }
        leases
    }

    /// Whether changes are what the end of a lease that was granted makes: all of its keys are gone, and nothing else.
    pub fn ended(&self, changes: &[Change]) -> bool {
        let Some(Change::Delete(first)) = changes.first() else {
            return false;
        };
        let Some(lease) = self.by_key.get(first) else {
            return false;
        };
        let gone = changes.iter().filter_map(|change| match change {
            Change::Delete(key) => Some(key),
            Change::Put(_) => None,
        });
        (self.untold || self.granted.contains(lease))
            && gone.clone().count() == changes.len()
            && self
                .attached
                .get(lease)
                .is_some_and(|keys| keys.iter().eq(gone))
    }

    /// Follows the changes of a revision.
    pub fn follow(&mut self, changes: &[Change]) {
        for change in changes {
            if let Some(lease) = self.by_key.remove(change.key())
                && let Some(keys) = self.attached.get_mut(&lease)
            {
                keys.remove(change.key());
            }
            if let Change::Put(kv) = change
                && kv.lease != 0
            {
                self.by_key.insert(kv.key.clone(), kv.lease);
                self.attached
                    .entry(kv.lease)
                    .or_default()
                    .insert(kv.key.clone());
            }
        }
    }
}

/// The keys that calls of the lock and election services write and remove, some long after or without their answer. Whether
/// they do so rightly is the business of the checkers of locks and elections.
#[derive(Debug)]
pub struct Services<'a> {
    /// Keys of calls that named their lease.
    keys: BTreeSet<Bytes>,
    /// Names of calls that had a lease made for them.
    names: BTreeSet<Bytes>,
    /// What a leader's key may hold.
    values: BTreeSet<&'a Bytes>,
}

impl<'a> Services<'a> {
    /// The calls of a history.
    pub fn of(history: &'a History) -> Self {
        let mut services = Self {
            keys: BTreeSet::new(),
            names: BTreeSet::new(),
            values: BTreeSet::new(),
        };
        for operation in &history.operations {
            match &operation.request {
                Request::Lock(request) => services.entered(&request.name, request.lease),
                Request::Campaign(request) => {
                    services.entered(&request.name, request.lease);
                    services.values.insert(&request.value);
                }
                Request::Proclaim(request) => {
                    services.values.insert(&request.value);
                }
                _ => {}
            }
        }
        services
    }

    fn entered(&mut self, name: &Bytes, lease: i64) {
        if lease == 0 {
            self.names.insert(name.clone());
            return;
        }
        self.keys.insert(place(name, lease));
    }

    /// Whether changes are what these services could make: they write a key in a revision of its own, and may remove
    /// those of many calls that nobody waits for any more in one.
    pub fn explain(&self, changes: &[Change]) -> bool {
        let written = match changes {
            [Change::Put(kv)] => kv.value.is_empty() || self.values.contains(&kv.value),
            _ => changes
                .iter()
                .all(|change| matches!(change, Change::Delete(_))),
        };
        written
            && changes
                .iter()
                .all(|change| self.stands_in_line(change.key()))
    }

    fn stands_in_line(&self, key: &Bytes) -> bool {
        let name = key.iter().rposition(|&byte| byte == b'/');
        self.keys.contains(key) || name.is_some_and(|end| self.names.contains(&key[..end]))
    }
}

#[cfg(test)]
mod tests {
    use baton_proto::etcdserverpb as pb;
    use baton_proto::mvccpb::KeyValue;
    use baton_proto::v3lockpb::LockRequest;

    use super::*;
    use crate::history::{Error, Record};

    fn locks(leases: &[i64]) -> History {
        let lock = |&lease: &i64| {
            Record::Operation(Operation {
                id: lease.unsigned_abs(),
                workload: "lock".into(),
                client: 1,
                member: 1,
                called: 0,
                returned: 1,
                request: Request::Lock(LockRequest {
                    name: "job".into(),
                    lease,
                }),
                outcome: Outcome::Unknown(Error {
                    code: 1,
                    message: String::new(),
                }),
            })
        };
        History::of(leases.iter().map(lock))
    }

    #[test]
    fn the_services_may_remove_keys_of_several_calls_at_once_but_no_others() {
        let history = locks(&[10, 11]);
        let services = Services::of(&history);
        let gone = |key: &'static str| Change::Delete(key.into());
        assert!(services.explain(&[gone("job/a"), gone("job/b")]));
        assert!(!services.explain(&[gone("job/a"), gone("job/c")]));
    }

    #[test]
    fn the_services_write_one_key_in_a_revision() {
        let history = locks(&[10, 11]);
        let services = Services::of(&history);
        let made = |key: &'static str| {
            Change::Put(KeyValue {
                key: key.into(),
                ..KeyValue::default()
            })
        };
        assert!(services.explain(&[made("job/a")]));
        assert!(!services.explain(&[made("job/a"), made("job/b")]));
    }

    fn deletion(id: u64, key: &'static str, range_end: &'static str) -> Operation {
        Operation {
            id,
            workload: "register".into(),
            client: 1,
            member: 1,
            called: id,
            returned: id + 1,
            request: Request::DeleteRange(pb::DeleteRangeRequest {
                key: key.into(),
                range_end: range_end.into(),
                prev_kv: false,
            }),
            outcome: Outcome::Unknown(Error {
                code: 4,
                message: String::new(),
            }),
        }
    }

    fn put(key: &'static str, lease: i64) -> Change {
        Change::Put(KeyValue {
            key: key.into(),
            lease,
            ..KeyValue::default()
        })
    }

    fn gone(key: &'static str) -> Change {
        Change::Delete(key.into())
    }

    #[test]
    fn operations_are_given_to_revisions_so_that_as_many_as_can_be_are_explained() {
        let history = History {
            operations: vec![deletion(1, "a", "c"), deletion(2, "a", "")],
            ..History::default()
        };
        let known = Known::of(&history);
        let mut explanations = Explanations::of(&history, &known);
        let mut model = Model::new();
        // The first can be the work of either, the second only that of the range, the third of nobody who is left.
        for key in ["a", "b", "a"] {
            model.push(vec![put(key, 0)]);
            let changes = vec![gone(key)];
            explanations.offer(&model, model.revision(), &changes);
            model.push(changes);
        }
        let settled = explanations.settle();
        assert_eq!((settled.happened, settled.unexplained), (2, vec![7]));
    }

    #[test]
    fn a_lease_ends_with_all_of_its_keys_and_no_other() {
        let answer = pb::LeaseGrantResponse {
            id: 7,
            ..Default::default()
        };
        let granted = Operation {
            request: Request::LeaseGrant(pb::LeaseGrantRequest::default()),
            outcome: Outcome::Ok(Answer::LeaseGrant(answer)),
            ..deletion(1, "", "")
        };
        let mut leases = Leases::of(&History {
            operations: vec![granted],
            ..History::default()
        });
        leases.follow(&[put("a", 7), put("b", 7), put("c", 0), put("d", 8)]);
        assert!(leases.ended(&[gone("a"), gone("b")]));
        assert!(!leases.ended(&[gone("a")]));
        assert!(!leases.ended(&[gone("a"), gone("b"), gone("c")]));
        assert!(!leases.ended(&[gone("d")]), "nobody was granted 8");
        leases.follow(&[put("b", 0)]);
        assert!(leases.ended(&[gone("a")]), "b is no more attached");
    }
}
