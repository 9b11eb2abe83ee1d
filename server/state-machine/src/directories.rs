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
