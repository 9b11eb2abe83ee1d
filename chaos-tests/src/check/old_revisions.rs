//! Of promise 9, "bad input is refused with the contract's error", and of the contract: a revision can be read from the
//! floor that compaction left up to the newest, and none else can.
//!
//! A compaction counts as done when it was answered, and may count as done from when it was called. Where servers compact by
//! themselves, the floor is not known, and what is refused as compacted is not judged.

use super::effects;
use super::known::Known;
use crate::history::{History, Nanos, Operation, Outcome, Request};
use crate::verdict::{Judgement, Violation};

/// The checker's name.
pub const CHECKER: &str = "old revisions";

/// What servers say of a revision below the floor.
const COMPACTED: &str = "required revision has been compacted";

/// What they say of one that there is not yet.
const FUTURE: &str = "required revision is a future revision";

/// Judges a history of servers that compact by themselves, or do not.
pub fn judge(history: &History, compacts_itself: bool) -> Judgement {
    let mut judgement = Judgement::new(
        CHECKER,
        "Every revision from the compacted one to the newest can be read; others are refused with the contract's error.",
    );
    let floors = Floors::of(history);
    let known = Known::of(history);
    for operation in &history.operations {
        let revisions = effects::old_revisions(&operation.request);
        let (Some(oldest), Some(newest)) = (revisions.iter().min(), revisions.iter().max()) else {
            continue;
        };
        let linearizable = !effects::may_be_old(&operation.request);
        let wrong = match &operation.outcome {
            Outcome::Ok(_) => {
                judgement.count("old revisions read", 1);
                let floor = floors.sure(operation.called);
                // The branch of a transaction that was not taken reads nothing.
                let certain = matches!(operation.request, Request::Range(_));
                (certain && linearizable && *oldest < floor).then(|| {
                    format!("read revision {oldest}, though history was compacted at {floor}")
                })
            }
            Outcome::Failed(error) if error.message.contains(COMPACTED) => {
                judgement.count("compacted revisions refused", 1);
                let floor = floors.possible(operation.returned);
                (!compacts_itself && *oldest >= floor).then(|| {
                    format!(
                        "was refused revision {oldest} as compacted, though history was compacted at {floor} at most"
                    )
                })
            }
            Outcome::Failed(error) if error.message.contains(FUTURE) => {
                judgement.count("future revisions refused", 1);
                let there = known.before(operation.called);
                (linearizable && *newest <= there).then(|| {
                    format!(
                        "was refused revision {newest} as not there yet, though {there} was known before it was called"
                    )
                })
            }
            Outcome::Failed(_) | Outcome::Unknown(_) => continue,
        };
        if let Some(wrong) = wrong {
            judgement.violated(
                Violation::new(format!(
                    "{} {} at member {} {wrong}",
                    operation.request.name(),
                    operation.id,
                    operation.member
                ))
                .by([operation.id])
                .at(operation.returned),
            );
        }
    }
    judgement
}

/// How far history was compacted, and when.
struct Floors {
    /// When a compaction was answered, and at which revision; growing.
    sure: Vec<(Nanos, i64)>,
    /// When one was called that may have been done.
    possible: Vec<(Nanos, i64)>,
}

impl Floors {
    fn of(history: &History) -> Self {
        let growing = |at: fn(&Operation) -> Option<Nanos>| -> Vec<(Nanos, i64)> {
            let mut floors: Vec<(Nanos, i64)> = history
                .operations
                .iter()
                .filter_map(|operation| match &operation.request {
                    Request::Compact(request) => Some((at(operation)?, request.revision)),
                    _ => None,
                })
                .collect();
            floors.sort_unstable();
            let mut highest = 0;
            for (_, floor) in &mut floors {
                highest = highest.max(*floor);
                *floor = highest;
            }
            floors
        };
        Self {
            sure: growing(|operation| {
                matches!(operation.outcome, Outcome::Ok(_)).then_some(operation.returned)
            }),
            possible: growing(|operation| {
                let refused = matches!(operation.outcome, Outcome::Failed(_));
                (!refused).then_some(operation.called)
            }),
        }
    }

    /// The floor that certainly was there before `at`.
    fn sure(&self, at: Nanos) -> i64 {
        last_before(&self.sure, at)
    }

    /// The highest floor that can have been there before `at`.
    fn possible(&self, at: Nanos) -> i64 {
        last_before(&self.possible, at)
    }
}

fn last_before(floors: &[(Nanos, i64)], at: Nanos) -> i64 {
    let after = floors.partition_point(|(then, _)| *then < at);
    after.checked_sub(1).map_or(0, |last| floors[last].1)
}
