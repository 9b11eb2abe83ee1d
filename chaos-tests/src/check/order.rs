//! The search for an order in which what happened to one key makes sense: Wing and Gong's, as Lowe made it fast.
//!
//! An order takes every operation that returned, and any of those that did not, each somewhere between its call and its
//! return. The search goes depth first and remembers which sets of operations with which value at their end led nowhere.
//! Four rules make it short without missing an order: what only reads, and may be next, is taken at once; what did not
//! return is taken only right before something that needs its effect; of several of these that do the same, the one called
//! first is taken; values that nothing asks about are all the same.

use std::collections::HashSet;

use crate::history::Nanos;
use crate::seed::stream_seed;

/// A value of the key, by its number; [`ABSENT`] for none.
pub type Value = u32;

/// The key is not there.
pub const ABSENT: Value = 0;

/// Any of the values that nothing asks about.
const UNASKED: Value = Value::MAX;

/// What an operation needs the key to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Anything.
    Nothing,
    /// This.
    Is(Value),
    /// Anything but this.
    IsNot(Value),
    /// What the key never is: its answer contradicts itself.
    Contradiction,
}

impl Needs {
    fn met_by(self, value: Value) -> bool {
        match self {
            Self::Nothing => true,
            Self::Is(needed) => value == needed,
            Self::IsNot(other) => value != other,
            Self::Contradiction => false,
        }
    }

    /// Both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (needs, Self::Nothing) | (Self::Nothing, needs) => needs,
            (Self::Is(a), Self::Is(b)) if a == b => self,
            (Self::Is(a), Self::IsNot(b)) | (Self::IsNot(b), Self::Is(a)) if a != b => Self::Is(a),
            // The weaker of two that say what the key is not: an order is missed by neither.
            (Self::IsNot(_), Self::IsNot(_)) => self,
            _ => Self::Contradiction,
        }
    }
}

/// What an operation did to one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// The operation.
    pub operation: u64,
    /// When it was called.
    pub called: Nanos,
    /// When it returned; `None` if its outcome is not known.
    pub returned: Option<Nanos>,
    /// What the key must have been.
    pub needs: Needs,
    /// What the key was afterwards; `None` for what it was before.
    pub leaves: Option<Value>,
}

/// What the search came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// There is an order.
    Order,
    /// There is none; no order gets past these operations.
    None(Vec<u64>),
    /// It took more steps than it may.
    OutOfSteps,
}

/// Searches, for at most `budget` steps, which it counts down. The key is absent at first.
pub fn search(steps: &[Step], budget: &mut u64) -> Found {
    let asked: HashSet<Value> = steps
        .iter()
        .filter_map(|step| match step.needs {
            Needs::Is(value) | Needs::IsNot(value) => Some(value),
            Needs::Nothing | Needs::Contradiction => None,
        })
        .chain([ABSENT])
        .collect();
    let mut returned: Vec<Step> = Vec::new();
    let mut open: Vec<Step> = Vec::new();
    for step in steps {
        let leaves = step.leaves.map(|value| {
            if asked.contains(&value) {
                value
            } else {
                UNASKED
            }
        });
        let step = &Step { leaves, ..*step };
        if step.returned.is_some() {
            returned.push(*step);
        } else if step.leaves.is_some() {
            open.push(*step);
        }
    }
    returned.sort_by_key(|step| step.called);
    open.sort_by_key(|step| step.called);
    Search {
        taken: vec![false; returned.len()],
        opened: vec![false; open.len()],
        returned,
        open,
        first: 0,
        left: 0,
        value: ABSENT,
        owed: false,
        hash: 0,
        dead: HashSet::new(),
    }
    .run(budget)
}

/// An operation of the search: one that returned, or one that did not.
#[derive(Debug, Clone, Copy)]
enum Pick {
    Returned(usize),
    Open(usize),
}

/// A place to come back to.
struct Frame {
    pick: Pick,
    /// What else could be next, instead of it.
    others: Vec<Pick>,
    value: Value,
    owed: bool,
    first: usize,
}

struct Search {
    /// Operations that returned, by their calls.
    returned: Vec<Step>,
    taken: Vec<bool>,
    /// Operations that did not, by their calls.
    open: Vec<Step>,
    opened: Vec<bool>,
    /// The first of `returned` that is not taken.
    first: usize,
    /// How many of `returned` are taken.
    left: usize,
    value: Value,
    /// Whether the last operation did not return, so that the next has to need its effect.
    owed: bool,
    /// Of the set of operations taken.
    hash: u128,
    dead: HashSet<(u128, Value, bool)>,
}

impl Search {
    fn run(mut self, budget: &mut u64) -> Found {
        let mut frames: Vec<Frame> = Vec::new();
        let mut farthest = (0, Vec::new());
        let mut next = self.candidates();
        loop {
            if self.left == self.returned.len() {
                return Found::Order;
            }
            if self.left >= farthest.0 {
                farthest = (self.left, self.due());
            }
            let Some(pick) = next.pop() else {
                // Nothing can be next here: go back, and remember that it leads nowhere.
                self.dead.insert((self.hash, self.value, self.owed));
                let Some(frame) = frames.pop() else {
                    return Found::None(farthest.1);
                };
                self.put_back(&frame);
                next = frame.others;
                continue;
            };
            if *budget == 0 {
                return Found::OutOfSteps;
            }
            *budget -= 1;
            frames.push(Frame {
                pick,
                others: std::mem::take(&mut next),
                value: self.value,
                owed: self.owed,
                first: self.first,
            });
            self.take(pick);
            if !self.dead.contains(&(self.hash, self.value, self.owed)) {
                next = self.candidates();
            }
        }
    }

    fn step(&self, pick: Pick) -> &Step {
        match pick {
            Pick::Returned(at) => &self.returned[at],
            Pick::Open(at) => &self.open[at],
        }
    }

    fn take(&mut self, pick: Pick) {
        if let Some(value) = self.step(pick).leaves {
            self.value = value;
        }
        self.hash ^= mark(pick);
        match pick {
            Pick::Returned(at) => {
                self.taken[at] = true;
                self.left += 1;
                self.owed = false;
                while self.taken.get(self.first) == Some(&true) {
                    self.first += 1;
                }
            }
            Pick::Open(at) => {
                self.opened[at] = true;
                self.owed = true;
            }
        }
    }

    fn put_back(&mut self, frame: &Frame) {
        self.hash ^= mark(frame.pick);
        match frame.pick {
            Pick::Returned(at) => {
                self.taken[at] = false;
                self.left -= 1;
            }
            Pick::Open(at) => self.opened[at] = false,
        }
        self.value = frame.value;
        self.owed = frame.owed;
        self.first = frame.first;
    }

    /// Operations that returned, are not taken and were called before the first of them returned.
    fn ready(&self) -> (Vec<usize>, Nanos) {
        let mut ready = Vec::new();
        let mut until = Nanos::MAX;
        for at in self.first..self.returned.len() {
            let step = &self.returned[at];
            if step.called > until {
                break;
            }
            if !self.taken[at] {
                ready.push(at);
                until = until.min(step.returned.unwrap_or(Nanos::MAX));
            }
        }
        ready.retain(|at| self.returned[*at].called <= until);
        (ready, until)
    }

    /// The operations that no order could get past.
    fn due(&self) -> Vec<u64> {
        let (ready, _) = self.ready();
        ready
            .iter()
            .map(|at| self.returned[*at].operation)
            .collect()
    }

    /// What could be next, the most promising last.
    fn candidates(&self) -> Vec<Pick> {
        let (ready, until) = self.ready();
        let met = |at: &usize| self.returned[*at].needs.met_by(self.value);
        let reads = ready
            .iter()
            .find(|at| self.returned[**at].leaves.is_none() && met(at));
        if let Some(read) = reads
            && (!self.owed || self.returned[*read].needs != Needs::Nothing)
        {
            return vec![Pick::Returned(*read)];
        }
        let mut next: Vec<Pick> = self.openings(until);
        let returned = ready
            .into_iter()
            .filter(met)
            .filter(|at| !self.owed || self.returned[*at].needs != Needs::Nothing);
        // What was called first is most likely to have happened first.
        let mut returned: Vec<Pick> = returned.map(Pick::Returned).collect();
        returned.reverse();
        next.append(&mut returned);
        next
    }

    /// What did not return and could be next.
    fn openings(&self, until: Nanos) -> Vec<Pick> {
        let mut seen = Vec::new();
        let mut picks = Vec::new();
        for (at, step) in self.open.iter().enumerate() {
            if step.called > until {
                break;
            }
            let useful = step.leaves != Some(self.value)
                && step.needs.met_by(self.value)
                && (!self.owed || step.needs != Needs::Nothing);
            if self.opened[at] || !useful || seen.contains(&(step.needs, step.leaves)) {
                continue;
            }
            seen.push((step.needs, step.leaves));
            picks.push(Pick::Open(at));
        }
        picks.reverse();
        picks
    }
}

/// What stands for an operation in the hash of a set.
fn mark(pick: Pick) -> u128 {
    let seed = match pick {
        Pick::Returned(at) => 2 * at,
        Pick::Open(at) => 2 * at + 1,
    };
    let seed = u64::try_from(seed).unwrap_or(u64::MAX);
    u128::from(stream_seed(seed, "high")) << 64 | u128::from(stream_seed(seed, "low"))
}

#[cfg(test)]
mod tests {
    use rand::Rng;
    use rand::rngs::SmallRng;

    use super::*;
    use crate::seed::stream;

    fn step(operation: u64, called: Nanos, returned: Option<Nanos>) -> Step {
        Step {
            operation,
            called,
            returned,
            needs: Needs::Nothing,
            leaves: None,
        }
    }

    fn found(steps: &[Step]) -> Found {
        search(steps, &mut 1_000_000)
    }

    #[test]
    fn a_read_of_what_was_overwritten_before_it_is_in_no_order() {
        let write = |operation, called, value| Step {
            leaves: Some(value),
            ..step(operation, called, Some(called + 1))
        };
        let read = |operation, called, value| Step {
            needs: Needs::Is(value),
            ..step(operation, called, Some(called + 1))
        };
        let written = [write(1, 0, 1), write(2, 2, 2)];
        let with = |read| [&written[..], &[read]].concat();
        assert_eq!(found(&with(read(3, 4, 2))), Found::Order);
        assert_eq!(found(&with(read(3, 4, 1))), Found::None(vec![3]));
        let concurrent = Step {
            called: 1,
            ..read(3, 4, 1)
        };
        assert_eq!(found(&with(concurrent)), Found::Order);
    }

    #[test]
    fn what_did_not_return_may_happen_late_or_never_but_once() {
        let open = Step {
            leaves: Some(1),
            ..step(1, 0, None)
        };
        let read = |operation, called, value| Step {
            needs: Needs::Is(value),
            ..step(operation, called, Some(called + 1))
        };
        assert_eq!(found(&[open, read(2, 5, ABSENT)]), Found::Order);
        assert_eq!(
            found(&[open, read(2, 5, ABSENT), read(3, 7, 1)]),
            Found::Order
        );
        assert_eq!(
            found(&[open, read(2, 5, 1), read(3, 7, ABSENT)]),
            Found::None(vec![3])
        );
        let early = Step { called: 9, ..open };
        assert_eq!(found(&[early, read(2, 5, 1)]), Found::None(vec![2]));
    }

    #[test]
    fn a_search_without_steps_left_does_not_say_that_there_is_no_order() {
        let write = Step {
            leaves: Some(1),
            ..step(1, 0, Some(1))
        };
        assert_eq!(search(&[write], &mut 0), Found::OutOfSteps);
    }

    /// Every order there is, one after the other.
    fn by_trial(steps: &[Step], taken: &mut Vec<bool>, value: Value) -> bool {
        let untaken =
            |taken: &[bool]| -> Vec<usize> { (0..steps.len()).filter(|at| !taken[*at]).collect() };
        let rest = untaken(taken);
        if rest.iter().all(|at| steps[*at].returned.is_none()) {
            return true;
        }
        let until = rest.iter().filter_map(|at| steps[*at].returned).min();
        rest.into_iter().any(|at| {
            let step = steps[at];
            if until.is_some_and(|until| step.called > until) || !step.needs.met_by(value) {
                return false;
            }
            taken[at] = true;
            let found = by_trial(steps, taken, step.leaves.unwrap_or(value));
            taken[at] = false;
            found
        })
    }

    fn random(chance: &mut SmallRng) -> Vec<Step> {
        let count = chance.random_range(1..8);
        (0..count)
            .map(|operation| {
                let called = chance.random_range(0..20);
                let value = chance.random_range(0..4);
                let needs = match chance.random_range(0..4) {
                    0 | 1 => Needs::Nothing,
                    2 => Needs::Is(value),
                    _ => Needs::IsNot(value),
                };
                let leaves = chance.random_bool(0.6).then(|| chance.random_range(0..4));
                Step {
                    needs,
                    leaves,
                    ..step(
                        operation,
                        // Calls and returns are never at the same time.
                        2 * called,
                        chance
                            .random_bool(0.7)
                            .then(|| 2 * (called + chance.random_range(0..8)) + 1),
                    )
                }
            })
            .collect()
    }

    #[test]
    fn the_search_finds_an_order_exactly_where_trying_them_all_does() {
        let mut chance = stream(0, "order");
        let (mut orders, mut none) = (0, 0);
        for _ in 0..20_000 {
            let steps = random(&mut chance);
            let there_is = by_trial(&steps, &mut vec![false; steps.len()], ABSENT);
            let found = found(&steps);
            assert_eq!(found == Found::Order, there_is, "{steps:?}: {found:?}");
            if there_is {
                orders += 1;
            } else {
                none += 1;
            }
        }
        assert!(orders > 1_000 && none > 1_000, "{orders} and {none}");
    }
}
