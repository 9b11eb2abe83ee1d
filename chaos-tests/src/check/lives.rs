//! When faults were there.

use std::collections::BTreeMap;

use crate::history::{History, Member, Nanos, Phase};

/// The life of one fault of the plan.
#[derive(Debug, Clone, PartialEq)]
pub struct Life {
    /// Its kind, such as `isolate`.
    pub kind: String,
    /// The members it is about, as far as is known.
    pub members: Vec<Member>,
    /// When it was about to be made.
    pub from: Nanos,
    /// When it had taken hold, by proof.
    pub proved: Option<Nanos>,
    /// When its end began.
    pub healing: Option<Nanos>,
    /// When it was gone, by proof; for one that could not be made, when that was known.
    pub gone: Option<Nanos>,
    /// It cannot be made here.
    pub skipped: Option<String>,
    /// Nothing showed that it took hold.
    pub unproved: Option<String>,
    /// The harness does not know whether it was made or is gone.
    pub failed: Option<String>,
}

impl Life {
    /// Whether it may have been there at some time from `from` to `to`.
    pub fn overlaps(&self, from: Nanos, to: Nanos) -> bool {
        self.skipped.is_none() && self.from <= to && self.gone.is_none_or(|gone| from <= gone)
    }
}

/// The faults of a run, by their number in the plan.
pub fn lives(history: &History) -> BTreeMap<usize, Life> {
    let mut lives: BTreeMap<usize, Life> = BTreeMap::new();
    for step in &history.faults {
        let life = lives.entry(step.fault).or_insert_with(|| Life {
            kind: step.kind.clone(),
            members: Vec::new(),
            from: step.at,
            proved: None,
            healing: None,
            gone: None,
            skipped: None,
            unproved: None,
            failed: None,
        });
        for member in &step.members {
            if !life.members.contains(member) {
                life.members.push(*member);
            }
        }
        match &step.phase {
            Phase::Installing => {}
            Phase::Proved(_) => {
                life.proved.get_or_insert(step.at);
            }
            Phase::Unproved(why) => life.unproved = Some(why.clone()),
            Phase::Healing => {
                life.healing.get_or_insert(step.at);
            }
            Phase::Healed(_) => life.gone = Some(step.at),
            Phase::Skipped(why) => {
                life.skipped = Some(why.clone());
                life.gone = Some(step.at);
            }
            Phase::Failed(why) => life.failed = Some(why.clone()),
        }
    }
    lives
}

/// The last moment at which anything was recorded.
pub fn end(history: &History) -> Nanos {
    let operations = history.operations.iter().map(|op| op.returned);
    let watches = history.watches.iter().map(|step| step.at);
    let faults = history.faults.iter().map(|step| step.at);
    let members = history.members.iter().map(|step| step.at);
    let all = operations.chain(watches).chain(faults).chain(members);
    all.max().unwrap_or_default()
}

/// Whether the harness itself did not run at some time from `from` to `to`.
pub fn stalled(history: &History, from: Nanos, to: Nanos) -> bool {
    let mut stalls = history.stalls.iter();
    stalls.any(|(at, nanos)| at.saturating_sub(*nanos) <= to && from <= *at)
}
