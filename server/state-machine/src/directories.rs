//! Live keys by the order in which they were created, one directory at a time.
//!
//! The directory of a key is what it begins with, up to and including its last `/`; keys without one
//! are in none and not listed here. Whoever waits in line for a lock or an election has a key under its
//! name, and asks which of the keys there was created first, or last before its own. Sorting a range
//! answers that by visiting all of them; here the order is kept.
//!
//! A range that covers whole directories is one of a prefix that ends in `/`: `[a/b/, a/b0)` is the
//! directory `a/b/` and those below it.

use std::collections::{BTreeMap, BTreeSet, btree_set};

use bytes::Bytes;

use crate::key_range::KeyRange;

/// A range over more directories than this is not worth asking for one by one.
const DIRECTORIES_MAX: usize = 64;

/// A live key, ordered by directory, create revision and name.
#[derive(Clone, Debug)]
struct Place {
    /// The first so many bytes of `key` are its directory.
    directory_len: usize,
    create_revision: i64,
    key: Bytes,
}

impl Place {
    fn order(&self) -> (&[u8], i64, &[u8]) {
        let directory = &self.key[..self.directory_len];
        (directory, self.create_revision, &self.key)
    }

    /// Below every place of `directory` with this create revision, and above all with a lower one.
    fn below(directory: &Bytes, create_revision: i64) -> Self {
        Place {
            directory_len: directory.len(),
            create_revision,
            key: directory.clone(),
        }
    }
}

impl PartialEq for Place {
    fn eq(&self, other: &Self) -> bool {
        self.order() == other.order()
    }
}

impl Eq for Place {}

impl PartialOrd for Place {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Place {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.order().cmp(&other.order())
    }
}

/// All directories.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Directories {
    places: BTreeSet<Place>,
    /// Live keys of each directory that has any.
    lens: BTreeMap<Bytes, usize>,
}

/// The length of a key's directory.
fn directory_len(key: &[u8]) -> Option<usize> {
    key.iter().rposition(|byte| *byte == b'/').map(|at| at + 1)
}

impl Directories {
    /// A key that was created at `before` is now one created at `after`; `None` where it is not live.
    pub fn moved(&mut self, key: &Bytes, before: Option<i64>, after: Option<i64>) {
        if before == after {
            return;
        }
        let Some(directory_len) = directory_len(key) else {
            return;
        };
        let place = |create_revision| Place {
            directory_len,
            create_revision,
            key: key.clone(),
        };
        if let Some(create_revision) = before {
            self.remove(&place(create_revision));
        }
        if let Some(create_revision) = after {
            self.insert(place(create_revision));
        }
    }

    fn insert(&mut self, place: Place) {
        let directory = &place.key[..place.directory_len];
        match self.lens.get_mut(directory) {
            Some(len) => *len += 1,
            None => {
                // Its own copy: the directory may outlive the key.
                self.lens.insert(Bytes::copy_from_slice(directory), 1);
            }
        }
        self.places.insert(place);
    }

    fn remove(&mut self, place: &Place) {
        let directory = &place.key[..place.directory_len];
        if !self.places.remove(place) {
            return;
        }
        if let Some(len) = self.lens.get_mut(directory) {
            *len -= 1;
            if *len == 0 {
                self.lens.remove(directory);
            }
        }
    }

    /// The directories that make up `range`, `None` where it covers one only in part or too many.
    pub fn covering(&self, range: &KeyRange) -> Option<Covering<'_>> {
        if !range.is_directory() {
            return None;
        }
        let within = self.lens.range::<[u8], _>(range.bounds());
        let within: Vec<_> = within.take(DIRECTORIES_MAX + 1).collect();
        (within.len() <= DIRECTORIES_MAX).then_some(Covering {
            places: &self.places,
            within,
        })
    }
}

/// Some directories as one.
#[derive(Debug)]
pub(crate) struct Covering<'a> {
    places: &'a BTreeSet<Place>,
    /// With the number of their keys.
    within: Vec<(&'a Bytes, &'a usize)>,
}

impl<'a> Covering<'a> {
    /// How many directories there are with anything in them.
    pub fn directories(&self) -> usize {
        self.within.len()
    }

    /// How many keys are live.
    pub fn len(&self) -> usize {
        self.within.iter().map(|(_, len)| **len).sum()
    }

    /// Of each directory the first `most` keys created from `min` to `max`, both included. In no
    /// order.
    pub fn first_created(&self, min: i64, max: i64, most: usize) -> Vec<&'a Bytes> {
        let mut found = Vec::new();
        for places in self.created(min, max) {
            found.extend(places.take(most).map(|place| &place.key));
        }
        found
    }

    /// Of each directory the last `most` keys created from `min` to `max`, both included, and what
    /// was created together with the last of them. In no order.
    pub fn last_created(&self, min: i64, max: i64, most: usize) -> Vec<&'a Bytes> {
        let mut found = Vec::new();
        for places in self.created(min, max) {
            let mut last = None;
            for (taken, place) in places.rev().enumerate() {
                if taken >= most && last != Some(place.create_revision) {
                    break;
                }
                last = Some(place.create_revision);
                found.push(&place.key);
            }
        }
        found
    }

    fn created(&self, min: i64, max: i64) -> impl Iterator<Item = btree_set::Range<'a, Place>> {
        // An inverted interval would be a panic in the set.
        let end = max.saturating_add(1).max(min);
        self.within.iter().map(move |(directory, _)| {
            let bounds = Place::below(directory, min)..Place::below(directory, end);
            self.places.range(bounds)
        })
    }
}

#[cfg(test)]
mod tests {
    use baton_proto::etcdserverpb::compare::TargetUnion;
    use baton_proto::etcdserverpb::request_op::Request;
    use baton_proto::etcdserverpb::{
        Compare, DeleteRangeRequest, PutRequest, RangeRequest, RangeResponse, RequestOp, TxnRequest,
    };
    use baton_proto::log::Command;
    use baton_proto::log::command::Op;
    use baton_proto::mvccpb::KeyValue;
    use rand::rngs::StdRng;
    use rand::seq::IndexedRandom;
    use rand::{Rng, SeedableRng};

    use super::*;
    use crate::range_scan::RangeScan;
    use crate::{Archive, Rev, State, txn};

    /// Everything these tests read is in memory.
    struct NoArchive;

    impl Archive for NoArchive {
        fn read(&self, rev: Rev) -> KeyValue {
            unreachable!("{rev:?} is read from the archive")
        }
    }

    fn put(key: String) -> RequestOp {
        RequestOp {
            request: Some(Request::RequestPut(PutRequest {
                key: key.into(),
                ..PutRequest::default()
            })),
        }
    }

    /// Many keys in a few directories, several created in one revision, some deleted or created again.
    fn populated(rng: &mut StdRng) -> State {
        let mut state = State::new();
        for _ in 0..rng.random_range(1..60) {
            let first = rng.random_range(0..30);
            let directory = ["a/", "a/b/", "a/b/c/", "b/", ""]
                .choose(rng)
                .expect("directories");
            let op = if rng.random_bool(0.7) {
                let keys = first..first + rng.random_range(1..4);
                Op::Txn(TxnRequest {
                    success: keys.map(|n| put(format!("{directory}{n:02}"))).collect(),
                    ..TxnRequest::default()
                })
            } else {
                Op::DeleteRange(DeleteRangeRequest {
                    key: format!("{directory}{first:02}").into(),
                    range_end: format!("{directory}{:02}", first + 3).into(),
                    prev_kv: false,
                })
            };
            let command = Command {
                op: Some(op),
                ..Command::default()
            };
            state
                .apply(1, &command, &NoArchive)
                .outcome
                .expect("it is valid");
        }
        state
    }

    fn directory(rng: &mut StdRng) -> (Bytes, Bytes) {
        let (key, end) = [("a/", "a0"), ("a/b/", "a/b0"), ("b/", "b0"), ("c/", "c0")]
            .choose(rng)
            .expect("directories");
        (
            Bytes::from_static(key.as_bytes()),
            Bytes::from_static(end.as_bytes()),
        )
    }

    fn read(state: &State, request: &RangeRequest, by_creation: bool) -> RangeResponse {
        let mut scan = RangeScan::new(state, request, state.revision(), by_creation);
        while !scan.step(state, 7) {}
        scan.finish(&NoArchive)
    }

    #[test]
    fn what_is_looked_up_is_what_a_scan_finds() {
        for seed in 0..2000 {
            let mut rng = StdRng::seed_from_u64(seed);
            let state = populated(&mut rng);
            let revision_or_none = |rng: &mut StdRng| {
                if rng.random_bool(0.5) {
                    rng.random_range(-1..=state.revision() + 1)
                } else {
                    0
                }
            };
            for _ in 0..10 {
                let (key, range_end) = directory(&mut rng);
                let request = RangeRequest {
                    key,
                    range_end,
                    limit: rng.random_range(-1..6),
                    sort_order: rng.random_range(0..3),
                    sort_target: rng.random_range(0..5),
                    min_create_revision: revision_or_none(&mut rng),
                    max_create_revision: revision_or_none(&mut rng),
                    max_mod_revision: if rng.random_bool(0.1) {
                        state.revision() / 2
                    } else {
                        0
                    },
                    count_only: rng.random_bool(0.1),
                    ..RangeRequest::default()
                };
                assert_eq!(
                    read(&state, &request, true),
                    read(&state, &request, false),
                    "seed {seed}: {request:?}"
                );
            }
        }
    }

    #[test]
    fn a_condition_settled_by_the_ends_is_what_asking_each_key_says() {
        for seed in 0..2000 {
            let mut rng = StdRng::seed_from_u64(seed);
            let state = populated(&mut rng);
            for _ in 0..10 {
                let (key, range_end) = directory(&mut rng);
                let number = rng.random_range(0..=state.revision());
                let compare = Compare {
                    result: rng.random_range(0..5),
                    target: rng.random_range(0..6),
                    target_union: Some(match rng.random_range(0..3) {
                        0 => TargetUnion::CreateRevision(number),
                        1 => TargetUnion::ModRevision(number),
                        _ => TargetUnion::Version(number),
                    }),
                    key: key.clone(),
                    range_end: range_end.clone(),
                };
                let range = KeyRange::new(key, range_end);
                if let Some(settled) = txn::settled_by_creation(&state, &compare, &range) {
                    let each = txn::holds_for_each(&state, &compare, &range);
                    assert_eq!(settled, each, "seed {seed}: {compare:?}");
                }
            }
        }
    }

    #[test]
    fn only_a_prefix_that_ends_in_a_slash_covers_directories() {
        let directories = Directories::default();
        for (key, end, covers) in [
            ("a/", "a0", true),
            ("/", "0", true),
            ("a/b/", "a/b0", true),
            ("a/", "b0", false),
            ("a/", "a1", false),
            ("a", "b", false),
            ("a/", "", false),
            ("a/", "\0", false),
            ("a//", "a0", false),
            ("", "\0", false),
        ] {
            let range = KeyRange::new(key.into(), end.into());
            assert_eq!(
                directories.covering(&range).is_some(),
                covers,
                "{key:?} {end:?}"
            );
        }
    }
}
