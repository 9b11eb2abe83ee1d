//! When revisions came to be, as far as the history tells, and when nothing was wrong with the cluster.
//!
//! A revision has no time of its own. It was made before anybody knew of it, and after every request was called that was
//! carried out before it. What is concluded from these two bounds holds whatever the delays were.

use super::known::Known;
use crate::history::{FaultStep, History, MemberEvent, Nanos, Phase, Request};

/// Bounds of the times of revisions, and the times of trouble.
#[derive(Debug)]
pub struct Timing {
    known: Known,
    /// By revision: the latest call of a request that was carried out at it, or before it.
    called: Vec<(i64, Nanos)>,
    /// When faults, stalls and restarts were going on, and no leader may have been: apart from each other, in order.
    troubles: Vec<(Nanos, Nanos)>,
    /// When a leader of a new term was first seen.
    reigns: Vec<Nanos>,
}

impl Timing {
    /// Reads a history.
    pub fn of(history: &History) -> Self {
        let mut timing = Self {
            known: Known::of(history),
            called: called(history),
            troubles: Vec::new(),
            reigns: Vec::new(),
        };
        let changes = leader_changes(history);
        timing.reigns = changes.iter().map(|(_, seen)| *seen).collect();
        let stalls = history.stalls.iter();
        let mut troubles: Vec<(Nanos, Nanos)> = stalls
            .map(|(until, nanos)| (until.saturating_sub(*nanos), *until))
            .chain(faults(&history.faults))
            .chain(downtimes(history))
            .chain(changes)
            .collect();
        troubles.sort_unstable();
        for (from, to) in troubles {
            match timing.troubles.last_mut() {
                Some(last) if from <= last.1 => last.1 = last.1.max(to),
                _ => timing.troubles.push((from, to)),
            }
        }
        timing
    }

    /// When `revision` was first known to be there; never, if nobody knew of it.
    pub fn known(&self, revision: i64) -> Nanos {
        self.known.made(revision)
    }

    /// A time at which `revision` was not there yet; 0 if nothing tells one.
    pub fn not_before(&self, revision: i64) -> Nanos {
        let index = self
            .called
            .partition_point(|(before, _)| *before < revision);
        let last = index
            .checked_sub(1)
            .and_then(|index| self.called.get(index));
        last.map_or(0, |(_, at)| *at)
    }

    /// Since when nothing is wrong with the cluster at `at`; `None` if something is.
    pub fn calm_since(&self, at: Nanos) -> Option<Nanos> {
        let index = self.troubles.partition_point(|(from, _)| *from <= at);
        match index
            .checked_sub(1)
            .and_then(|index| self.troubles.get(index))
        {
            Some((_, to)) if *to >= at => None,
            Some((_, to)) => Some(*to),
            None => Some(0),
        }
    }

    /// Whether nothing was wrong from `from` to `to`.
    pub fn is_calm(&self, from: Nanos, to: Nanos) -> bool {
        self.calm_since(to).is_some_and(|since| since <= from)
    }

    /// How many leaders of new terms were first seen after `from` and not after `to`.
    pub fn leader_changes(&self, from: Nanos, to: Nanos) -> usize {
        self.reigns
            .iter()
            .filter(|at| from < **at && **at <= to)
            .count()
    }
}

fn called(history: &History) -> Vec<(i64, Nanos)> {
    let mut called: Vec<(i64, Nanos)> = history
        .answered()
        .filter(|(op, _)| has_a_place(&op.request))
        .map(|(op, answer)| (answer.header().revision, op.called))
        .collect();
    called.sort_unstable();
    let mut latest = 0;
    for (_, at) in &mut called {
        latest = latest.max(*at);
        *at = latest;
    }
    // Of the same revision, the last is the latest.
    called.reverse();
    called.dedup_by_key(|(revision, _)| *revision);
    called.reverse();
    called
}

/// Whether the revision in the answer was the newest at some time after the call.
fn has_a_place(request: &Request) -> bool {
    match request {
        Request::Put(_) | Request::DeleteRange(_) => true,
        Request::Range(range) => !range.serializable,
        // One that only reads, and that serializably, need not be new.
        Request::Txn(txn) => txn.success.iter().chain(&txn.failure).all(|op| {
            !matches!(
                &op.request,
                Some(baton_proto::etcdserverpb::request_op::Request::RequestRange(range))
                    if range.serializable
            )
        }),
        _ => false,
    }
}

/// From when each fault began to be made until it was gone; for ever if it is not known to be.
fn faults(steps: &[FaultStep]) -> Vec<(Nanos, Nanos)> {
    let mut faults: Vec<(usize, Nanos, Nanos)> = Vec::new();
    for step in steps {
        let known = faults.iter_mut().find(|(fault, _, _)| *fault == step.fault);
        match (&step.phase, known) {
            (Phase::Healed(_) | Phase::Skipped(_), Some(fault)) => fault.2 = step.at,
            (Phase::Healed(_) | Phase::Skipped(_), None) => {}
            (_, Some(fault)) => fault.2 = Nanos::MAX,
            (_, None) => faults.push((step.fault, step.at, Nanos::MAX)),
        }
    }
    faults.into_iter().map(|(_, from, to)| (from, to)).collect()
}

/// From when a process ended until it was started again.
fn downtimes(history: &History) -> Vec<(Nanos, Nanos)> {
    let mut downtimes = Vec::new();
    for (index, step) in history.members.iter().enumerate() {
        if let MemberEvent::Ended { .. } = step.event {
            let again = history.members.iter().skip(index).find(|later| {
                later.member == step.member && matches!(later.event, MemberEvent::Started { .. })
            });
            downtimes.push((step.at, again.map_or(Nanos::MAX, |later| later.at)));
        }
    }
    downtimes
}

/// Between which two looks a leader of a new term came up, but for the first.
fn leader_changes(history: &History) -> Vec<(Nanos, Nanos)> {
    let mut changes = Vec::new();
    let mut newest: Option<(u64, Nanos)> = None;
    for step in &history.members {
        let MemberEvent::Status {
            leads: true, term, ..
        } = step.event
        else {
            continue;
        };
        match &mut newest {
            Some((known, at)) if term > *known => {
                changes.push((*at, step.at));
                (*known, *at) = (term, step.at);
            }
            Some((known, at)) if term == *known => *at = step.at,
            Some(_) => {}
            None => newest = Some((term, step.at)),
        }
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::testing::put_acknowledged;
    use crate::history::{MemberStep, Record};

    fn put(revision: i64, called: Nanos, returned: Nanos) -> Record {
        let mut put = put_acknowledged(revision, returned);
        put.called = called;
        Record::Operation(put)
    }

    fn leads(member: u64, term: u64, at: Nanos) -> Record {
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

    fn fault(at: Nanos, phase: Phase) -> Record {
        Record::Fault(FaultStep {
            fault: 0,
            kind: "kill".into(),
            members: vec![1],
            at,
            phase,
        })
    }

    #[test]
    fn a_revision_is_made_after_every_call_of_an_earlier_one() {
        let history = History::of([put(2, 10, 40), put(3, 5, 30), put(4, 50, 60)]);
        let timing = Timing::of(&history);
        let revisions = [2, 3, 4, 5];
        assert_eq!(revisions.map(|r| timing.not_before(r)), [0, 10, 10, 50]);
        assert_eq!(revisions.map(|r| timing.known(r)), [30, 30, 60, Nanos::MAX]);
    }

    #[test]
    fn there_is_trouble_from_the_making_of_a_fault_until_it_is_gone() {
        let proved = Phase::Proved("it is gone".into());
        let healed = Phase::Healed("it serves".into());
        let history = History::of([
            fault(100, Phase::Installing),
            fault(110, proved),
            fault(150, Phase::Healing),
            fault(200, healed),
        ]);
        let timing = Timing::of(&history);
        let times = [99, 100, 199, 200, 201];
        let calm = [Some(0), None, None, None, Some(200)];
        assert_eq!(times.map(|at| timing.calm_since(at)), calm);
        assert!(timing.is_calm(201, 300) && !timing.is_calm(150, 300));
    }

    #[test]
    fn a_fault_that_is_not_known_to_be_gone_is_there_for_ever() {
        let failed = Phase::Failed("no such process".into());
        let history = History::of([fault(100, Phase::Installing), fault(110, failed)]);
        assert_eq!(Timing::of(&history).calm_since(1_000_000), None);
    }

    #[test]
    fn a_change_of_leader_is_trouble_between_the_looks_at_both() {
        let history = History::of([leads(1, 2, 10), leads(1, 2, 20), leads(2, 3, 50)]);
        let timing = Timing::of(&history);
        assert_eq!(timing.leader_changes(0, 100), 1);
        assert_eq!(timing.leader_changes(50, 100), 0);
        assert_eq!(timing.calm_since(30), None);
        assert_eq!(timing.calm_since(51), Some(50));
    }
}
