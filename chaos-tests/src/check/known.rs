//! When it was first known that the store had come to a revision.

use crate::history::{History, Nanos, WatchEvent};

/// For every revision, the earliest time at which somebody had proof that it, or a later one, was made.
#[derive(Debug)]
pub struct Known {
    /// Revision and time, both growing: the first proof of anything at or above the revision.
    steps: Vec<(i64, Nanos)>,
}

impl Known {
    /// Gathers the proofs: answers by their headers, and events that were received.
    pub fn of(history: &History) -> Self {
        let answers = history
            .answered()
            .map(|(op, answer)| (answer.header().revision, op.returned));
        let events = history.watches.iter().filter_map(|step| {
            let WatchEvent::Received(response) = &step.step else {
                return None;
            };
            let newest = response.events.iter().filter_map(|e| e.kv.as_ref());
            Some((newest.map(|kv| kv.mod_revision).max()?, step.at))
        });
        let mut proofs: Vec<(i64, Nanos)> = answers.chain(events).collect();
        proofs.sort_unstable();
        let mut steps: Vec<(i64, Nanos)> = Vec::new();
        for (revision, at) in proofs.into_iter().rev() {
            match steps.last_mut() {
                Some((_, earliest)) if *earliest <= at => {}
                Some((last, earliest)) if *last == revision => *earliest = at,
                _ => steps.push((revision, at)),
            }
        }
        steps.reverse();
        Self { steps }
    }

    /// When it was first known that `revision` was made; never, if nobody had proof of it.
    pub fn made(&self, revision: i64) -> Nanos {
        let at = self.steps.partition_point(|(of, _)| *of < revision);
        self.steps.get(at).map_or(Nanos::MAX, |(_, at)| *at)
    }

    /// The greatest revision that was known to be made before `at`.
    pub fn before(&self, at: Nanos) -> i64 {
        let after = self.steps.partition_point(|(_, known)| *known < at);
        after.checked_sub(1).map_or(0, |last| self.steps[last].0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_is_known_as_soon_as_a_later_one_is() {
        let mut history = History::default();
        for (revision, returned) in [(5, 70), (3, 20), (4, 60), (4, 40), (2, 90)] {
            history
                .operations
                .push(crate::check::testing::put_acknowledged(revision, returned));
        }
        let known = Known::of(&history);
        assert_eq!(
            [1, 2, 3, 4, 5, 6].map(|revision| known.made(revision)),
            [20, 20, 20, 40, 70, Nanos::MAX]
        );
        assert_eq!(
            [20, 21, 40, 41, 100].map(|at| known.before(at)),
            [0, 3, 3, 4, 5]
        );
    }
}
