//! What a run amounts to, in numbers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::check::lives;
use crate::history::{History, MemberEvent, Nanos, Operation, Outcome, Phase, Request};

/// The numbers of a run. Those of many runs can be added.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// From its beginning to the last record, in milliseconds.
    pub duration_ms: u64,
    /// Operations that were done.
    pub ok: u64,
    /// Operations that were certainly not done.
    pub failed: u64,
    /// Operations that may have been done.
    pub unknown: u64,
    /// Events that watchers received.
    pub watch_events: u64,
    /// Faults that took hold, with proof, by kind.
    pub proved: BTreeMap<String, u64>,
    /// Faults that were made without a sign that they took hold, by kind.
    pub unproved: BTreeMap<String, u64>,
    /// Faults that could not be made here, by kind.
    pub skipped: BTreeMap<String, u64>,
    /// Faults that failed in the harness, by kind.
    pub broken: BTreeMap<String, u64>,
    /// Times another member or another term was seen to lead.
    pub leader_changes: u64,
    /// Processes that were started.
    pub starts: u64,
    /// Processes that a fault ended, by how they ended.
    #[serde(default)]
    pub ended: BTreeMap<String, u64>,
    /// Processes that ended without a fault that explains it.
    pub unexpected_ends: u64,
}

impl Totals {
    /// Counts.
    pub fn of(history: &History) -> Self {
        let mut totals = Self {
            duration_ms: lives::end(history) / 1_000_000,
            ..Self::default()
        };
        for operation in &history.operations {
            match operation.outcome {
                Outcome::Ok(_) => totals.ok += 1,
                Outcome::Failed(_) => totals.failed += 1,
                Outcome::Unknown(_) => totals.unknown += 1,
            }
        }
        for step in &history.watches {
            if let crate::history::WatchEvent::Received(message) = &step.step {
                totals.watch_events += u64::try_from(message.events.len()).unwrap_or_default();
            }
        }
        for step in &history.faults {
            let of_its_phase = match step.phase {
                Phase::Proved(_) => &mut totals.proved,
                Phase::Unproved(_) => &mut totals.unproved,
                Phase::Skipped(_) => &mut totals.skipped,
                Phase::Failed(_) => &mut totals.broken,
                Phase::Installing | Phase::Healing | Phase::Healed(_) => continue,
            };
            *of_its_phase.entry(step.kind.clone()).or_default() += 1;
        }
        let mut leading = None;
        for step in &history.members {
            match &step.event {
                MemberEvent::Started { .. } => totals.starts += 1,
                MemberEvent::Ended {
                    expected: false, ..
                } => totals.unexpected_ends += 1,
                MemberEvent::Ended { status, .. } => {
                    *totals.ended.entry(status.clone()).or_default() += 1;
                }
                // A member that was cut off goes on to believe for a while; only a later term counts as a change.
                MemberEvent::Status {
                    leads: true, term, ..
                } => match leading {
                    Some(known) if known >= *term => {}
                    known => {
                        totals.leader_changes += u64::from(known.is_some());
                        leading = Some(*term);
                    }
                },
                _ => {}
            }
        }
        totals
    }

    /// All operations.
    pub fn operations(&self) -> u64 {
        self.ok + self.failed + self.unknown
    }

    /// All faults that took hold.
    pub fn faults(&self) -> u64 {
        self.proved.values().sum()
    }

    /// Adds those of another run.
    pub fn add(&mut self, other: &Self) {
        self.duration_ms += other.duration_ms;
        self.ok += other.ok;
        self.failed += other.failed;
        self.unknown += other.unknown;
        self.watch_events += other.watch_events;
        self.leader_changes += other.leader_changes;
        self.starts += other.starts;
        self.unexpected_ends += other.unexpected_ends;
        for (mine, theirs) in [
            (&mut self.ended, &other.ended),
            (&mut self.proved, &other.proved),
            (&mut self.unproved, &other.unproved),
            (&mut self.skipped, &other.skipped),
            (&mut self.broken, &other.broken),
        ] {
            for (kind, count) in theirs {
                *mine.entry(kind.clone()).or_default() += count;
            }
        }
    }
}

/// How long an answer took, of a call that was answered and does not wait for somebody by design.
pub fn latency(operation: &Operation) -> Option<Nanos> {
    let waits = matches!(operation.request, Request::Lock(_) | Request::Campaign(_));
    let answered = matches!(operation.outcome, Outcome::Ok(_));
    (answered && !waits).then(|| operation.returned.saturating_sub(operation.called))
}

/// The value at or below which `percent` of a hundred lie; sorts.
pub fn percentile(values: &mut [Nanos], percent: usize) -> Option<Nanos> {
    values.sort_unstable();
    let rank = (values.len() * percent).div_ceil(100).max(1);
    values.get(rank - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{MemberStep, Record};

    fn leads(member: u64, at: Nanos, term: u64) -> Record {
        Record::Member(MemberStep {
            member,
            at,
            event: MemberEvent::Status {
                leads: true,
                term,
                applied_index: 1,
                revision: 1,
            },
        })
    }

    #[test]
    fn a_leader_that_was_cut_off_and_still_believes_is_no_change() {
        let history = History::of([
            leads(1, 1, 2),
            leads(2, 2, 3),
            leads(1, 3, 2),
            leads(2, 4, 3),
        ]);
        assert_eq!(Totals::of(&history).leader_changes, 1);
    }

    #[test]
    fn a_percentile_is_a_value_that_was_seen() {
        let mut values: Vec<Nanos> = (1..=200).rev().collect();
        assert_eq!(percentile(&mut values, 50), Some(100));
        assert_eq!(percentile(&mut values, 99), Some(198));
        assert_eq!(percentile(&mut [], 99), None);
    }
}
