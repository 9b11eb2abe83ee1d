//! Who stood in a line, and who was first in it at each revision: the rule of locks and elections, read from the log.
//!
//! The first of a line is the key that was created first of those that are there. So a key that is first stays so until it is
//! gone, and tokens, which are create revisions, grow from holder to holder.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::witness::Witness;
use crate::model::FIRST_REVISION;

/// A key in a line, from its creation to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The key.
    pub key: Bytes,
    /// The revision it was created at: its token.
    pub token: i64,
    /// The lease it lives by.
    pub lease: i64,
    /// From which revision on it was the first of its line.
    pub first: Option<i64>,
    /// At which revision it was deleted.
    pub end: Option<i64>,
}

impl Place {
    /// Whether it was there at `revision`.
    pub fn stood_at(&self, revision: i64) -> bool {
        self.token <= revision && self.end.is_none_or(|end| revision < end)
    }

    /// Whether it was the first of its line at `revision`.
    pub fn led_at(&self, revision: i64) -> bool {
        self.first.is_some_and(|first| first <= revision) && self.stood_at(revision)
    }
}

/// A line: all keys with one prefix.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Line {
    /// Its places in the order of their tokens.
    pub places: Vec<Place>,
}

impl Line {
    /// The place of `key` with `token`.
    pub fn place(&self, key: &[u8], token: i64) -> Option<&Place> {
        let from = self.places.partition_point(|place| place.token < token);
        let same = self.places[from..].iter();
        same.take_while(|place| place.token == token)
            .find(|place| place.key == key)
    }

    /// The place that `key` had at `revision`.
    pub fn place_at(&self, key: &[u8], revision: i64) -> Option<&Place> {
        let to = self.places.partition_point(|place| place.token <= revision);
        let before = self.places[..to].iter().rev();
        before
            .filter(|place| place.key == key)
            .find(|place| place.stood_at(revision))
    }

    /// Who was first at `revision`.
    pub fn first_at(&self, revision: i64) -> Option<&Place> {
        let to = self.places.partition_point(|place| place.token <= revision);
        self.places[..to]
            .iter()
            .find(|place| place.stood_at(revision))
    }

    /// Who was first, one after the other.
    pub fn holders(&self) -> impl Iterator<Item = &Place> {
        self.places.iter().filter(|place| place.first.is_some())
    }
}

/// All lines under `prefix`, by name: a key `<prefix><name>/<rest>` stands in the line `name`.
pub fn lines(witness: &Witness, prefix: &str) -> BTreeMap<String, Line> {
    let mut lines: BTreeMap<String, Line> = BTreeMap::new();
    for (revision, seen) in (FIRST_REVISION + 1..).zip(&witness.revisions) {
        let mut touched = Vec::new();
        for event in &seen.events {
            let Some(kv) = &event.kv else { continue };
            let Some(name) = line_of(&kv.key, prefix) else {
                continue;
            };
            let line = lines.entry(name.clone()).or_default();
            if event.r#type != 0 {
                let open = line.places.iter_mut().rev();
                for place in open.filter(|place| place.key == kv.key) {
                    if place.end.is_some() {
                        break;
                    }
                    place.end = Some(revision);
                }
            } else if kv.create_revision == kv.mod_revision {
                line.places.push(Place {
                    key: kv.key.clone(),
                    token: revision,
                    lease: kv.lease,
                    first: None,
                    end: None,
                });
            }
            touched.push(name);
        }
        for name in touched {
            let places = lines.get_mut(&name).map(|line| &mut line.places);
            let first = places.and_then(|places| places.iter_mut().find(|p| p.end.is_none()));
            if let Some(first) = first {
                first.first.get_or_insert(revision);
            }
        }
    }
    lines
}

fn line_of(key: &[u8], prefix: &str) -> Option<String> {
    let key = std::str::from_utf8(key).ok()?;
    let (name, _) = key.strip_prefix(prefix)?.rsplit_once('/')?;
    Some(name.to_owned())
}
