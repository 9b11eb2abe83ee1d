//! What has to hold of consensus at every moment: at most one leader in a term, committed entries that never change and are
//! the same everywhere, a leader that has them all, positions that never go back while a process runs, and terms that never
//! do at all.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use batond::state_hash::StateHash;
use batond::storage::log::{LogEntry, Payload};
use chaos_tests::history::Member;

use crate::machine::Vitals;

/// Of so many hashes of the state, one is for the history.
const SAMPLED: u64 = 8;

/// What was seen of all members so far.
#[derive(Debug, Default)]
pub struct Invariants {
    /// Who led which term.
    leaders: BTreeMap<u64, Member>,
    /// Committed entries by index: their terms, and a hash of what they hold.
    committed: BTreeMap<u64, (u64, u64)>,
    /// Hashes of the state after an entry, by the entry's index: its term, and the hash.
    hashed: BTreeMap<u64, (u64, u64)>,
    last: BTreeMap<Member, Last>,
    /// How often a member was looked at.
    pub looks: u64,
    /// Committed entries that were compared with what another member has there.
    pub compared: u64,
    /// Hashes of the state that were compared with what another member has after the same entry.
    pub hashes: u64,
    /// Some of them, for the history: the member, and the hash.
    pub samples: Vec<(Member, StateHash)>,
    /// What does not hold.
    pub broken: Vec<String>,
}

/// Where a member was when it was last looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Last {
    /// Which start of its process.
    pub start: u32,
    /// Whether it leads.
    pub leads: bool,
    /// Its term.
    pub term: u64,
    /// Index of the last entry it has applied.
    pub applied: u64,
}

impl Invariants {
    /// Looks at a member, and says where it stands.
    pub fn look(&mut self, member: Member, start: u32, vitals: &Vitals) -> Option<Last> {
        let (Some(core), Some(log)) = (&vitals.core, &vitals.log) else {
            return None;
        };
        let view = core.view();
        // Where the log failed, or consensus has ended, a term may be named that was not saved. Nobody was told of it.
        if vitals.failed.is_some() || view.failed {
            return None;
        }
        self.looks += 1;
        let applied = core.applied_index();
        let now = Last {
            start,
            leads: view.leads,
            term: view.term,
            applied,
        };
        let before = self.last.insert(member, now);
        if before == Some(now) {
            return Some(now);
        }
        if let Some(before) =
            before.filter(|before| before.start != start && now.term < before.term)
        {
            self.broken.push(format!(
                "member {member} was in term {}, and after a start in term {}: it could vote twice in a term",
                before.term, now.term
            ));
        }
        let before = before.filter(|before| before.start == start);
        if let Some(before) = before {
            let positions = [
                ("term", before.term, now.term),
                ("applied index", before.applied, now.applied),
            ];
            for (what, before, now) in positions {
                if now < before {
                    let sentence =
                        format!("member {member}: its {what} fell from {before} to {now}");
                    self.broken.push(sentence);
                }
            }
        }
        let from = before.map_or(0, |before| before.applied) + 1;
        if from <= now.applied {
            // What was purged in between is in a snapshot; there is nothing to compare then.
            let begin = from.max(log.state().purged.map_or(0, |id| id.index + 1));
            let entries = log.entries(begin, now.applied + 1, usize::MAX);
            for entry in entries.unwrap_or_default() {
                self.committed(member, &entry);
            }
            for hash in core.state_hashes().since(from) {
                if hash.id.index.is_multiple_of(SAMPLED) {
                    self.samples.push((member, hash));
                }
                self.hashed(member, hash.id.index, (hash.id.term, hash.hash));
            }
        }
        if view.leads {
            self.leads(member, view.term, vitals);
        }
        Some(now)
    }

    fn committed(&mut self, member: Member, entry: &LogEntry) {
        let (index, term) = (entry.id.index, entry.id.term);
        let found = (term, hash(&entry.payload));
        let known = *self.committed.entry(index).or_insert(found);
        self.compared += 1;
        if known != found {
            self.broken.push(format!(
                "member {member} has applied another entry of term {term} at index {index} than the entry of term {} that \
                 was committed there",
                known.0
            ));
        }
    }

    fn hashed(&mut self, member: Member, index: u64, found: (u64, u64)) {
        let known = *self.hashed.entry(index).or_insert(found);
        self.hashes += 1;
        if known != found {
            self.broken.push(format!(
                "member {member} has another state after index {index}: {:016x}, of term {}, where {:016x}, of term {}, was \
                 known",
                found.1, found.0, known.1, known.0
            ));
        }
    }

    fn leads(&mut self, member: Member, term: u64, vitals: &Vitals) {
        let known = self.leaders.get(&term).copied();
        if let Some(known) = known {
            if known != member {
                let sentence = format!("members {known} and {member} both led term {term}");
                self.broken.push(sentence);
            }
            return;
        }
        self.leaders.insert(term, member);
        let newest = self.committed.iter().rev().find(|(_, (of, _))| *of < term);
        let (Some((index, (of, _))), Some(log)) = (newest, &vitals.log) else {
            return;
        };
        let state = log.state();
        let is_purged = state.purged.is_some_and(|purged| purged.index >= *index);
        let found = log.entries(*index, index + 1, usize::MAX);
        let found = found.ok().and_then(|entries| Some(entries.first()?.id));
        if !is_purged && found.is_none_or(|id| id.index != *index || id.term != *of) {
            self.broken.push(format!(
                "member {member} leads term {term} without the entry of term {of} committed at index {index}"
            ));
        }
    }

    /// How many terms had a leader.
    pub fn terms_led(&self) -> usize {
        self.leaders.len()
    }

    /// How many entries were committed.
    pub fn entries(&self) -> usize {
        self.committed.len()
    }
}

fn hash(payload: &Payload) -> u64 {
    let mut hasher = DefaultHasher::new();
    payload.hash(&mut hasher);
    hasher.finish()
}
