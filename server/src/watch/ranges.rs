//! Which watched ranges contain a key.
//!
//! A treap ordered by (start, end), each node knowing the largest end below it: a key is found in
//! `O(log n)` plus the ranges that contain it, however they overlap. Equal ranges share a node.
//! Priorities come from a counter, so the shape, like everything else here, repeats from run to run.

use std::cmp::Ordering;

use bytes::Bytes;

/// Where a range ends.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum End {
    /// Before this key.
    Before(Bytes),
    /// Nowhere.
    Open,
}

impl End {
    fn is_after(&self, key: &[u8]) -> bool {
        match self {
            End::Before(end) => key < &end[..],
            End::Open => true,
        }
    }
}

/// Ranges, each with the ids of its watchers.
#[derive(Debug, Default)]
pub(crate) struct Ranges {
    nodes: Vec<Node>,
    free: Vec<usize>,
    root: Option<usize>,
    inserted: u64,
}

#[derive(Debug)]
struct Node {
    start: Bytes,
    end: End,
    /// Sorted.
    ids: Vec<u64>,
    priority: u64,
    max_end: End,
    left: Option<usize>,
    right: Option<usize>,
}

impl Ranges {
    /// Adds `id` to the range from `start` to `end`.
    pub(crate) fn insert(&mut self, start: &Bytes, end: &End, id: u64) {
        if let Some(node) = self.find(start, end) {
            let ids = &mut self.nodes[node].ids;
            if let Err(place) = ids.binary_search(&id) {
                ids.insert(place, id);
            }
            return;
        }
        self.inserted += 1;
        let node = Node {
            start: start.clone(),
            end: end.clone(),
            ids: vec![id],
            priority: scramble(self.inserted),
            max_end: end.clone(),
            left: None,
            right: None,
        };
        let node = match self.free.pop() {
            Some(slot) => {
                self.nodes[slot] = node;
                slot
            }
            None => {
                self.nodes.push(node);
                self.nodes.len() - 1
            }
        };
        let (left, right) = self.split(self.root, start, end);
        let left = self.merge(left, Some(node));
        self.root = self.merge(left, right);
    }

    /// Removes `id` from the range from `start` to `end`.
    pub(crate) fn remove(&mut self, start: &Bytes, end: &End, id: u64) {
        let Some(node) = self.find(start, end) else {
            return;
        };
        let ids = &mut self.nodes[node].ids;
        if let Ok(place) = ids.binary_search(&id) {
            ids.remove(place);
        }
        if ids.is_empty() {
            self.root = self.remove_node(self.root, node);
            self.nodes[node].start = Bytes::new();
            self.free.push(node);
        }
    }

    /// Calls `visit` with the id of every watcher whose range contains `key`.
    pub(crate) fn containing(&self, key: &[u8], mut visit: impl FnMut(u64)) {
        let mut pending: Vec<usize> = self.root.into_iter().collect();
        while let Some(at) = pending.pop() {
            let node = &self.nodes[at];
            if !node.max_end.is_after(key) {
                continue;
            }
            pending.extend(node.left);
            if node.start[..] <= *key {
                pending.extend(node.right);
                if node.end.is_after(key) {
                    node.ids.iter().copied().for_each(&mut visit);
                }
            }
        }
    }

    fn find(&self, start: &Bytes, end: &End) -> Option<usize> {
        let mut at = self.root;
        while let Some(index) = at {
            let node = &self.nodes[index];
            at = match (start, end).cmp(&(&node.start, &node.end)) {
                Ordering::Less => node.left,
                Ordering::Greater => node.right,
                Ordering::Equal => return Some(index),
            };
        }
        None
    }

    /// Splits into what is smaller than (start, end) and the rest.
    fn split(
        &mut self,
        tree: Option<usize>,
        start: &Bytes,
        end: &End,
    ) -> (Option<usize>, Option<usize>) {
        let Some(at) = tree else {
            return (None, None);
        };
        let node = &self.nodes[at];
        if (&node.start, &node.end) < (start, end) {
            let (left, right) = self.split(node.right, start, end);
            self.nodes[at].right = left;
            self.update(at);
            (Some(at), right)
        } else {
            let (left, right) = self.split(node.left, start, end);
            self.nodes[at].left = right;
            self.update(at);
            (left, Some(at))
        }
    }

    /// Joins two trees, all of `left` being smaller than all of `right`.
    fn merge(&mut self, left: Option<usize>, right: Option<usize>) -> Option<usize> {
        let (Some(l), Some(r)) = (left, right) else {
            return left.or(right);
        };
        if self.nodes[l].priority > self.nodes[r].priority {
            self.nodes[l].right = self.merge(self.nodes[l].right, right);
            self.update(l);
            Some(l)
        } else {
            self.nodes[r].left = self.merge(left, self.nodes[r].left);
            self.update(r);
            Some(r)
        }
    }

    fn remove_node(&mut self, tree: Option<usize>, node: usize) -> Option<usize> {
        let at = tree?;
        if at == node {
            return self.merge(self.nodes[at].left, self.nodes[at].right);
        }
        let wanted = &self.nodes[node];
        let here = &self.nodes[at];
        if (&wanted.start, &wanted.end) < (&here.start, &here.end) {
            self.nodes[at].left = self.remove_node(here.left, node);
        } else {
            self.nodes[at].right = self.remove_node(here.right, node);
        }
        self.update(at);
        Some(at)
    }

    fn update(&mut self, at: usize) {
        let node = &self.nodes[at];
        let mut max = &node.end;
        for child in [node.left, node.right].into_iter().flatten() {
            max = max.max(&self.nodes[child].max_end);
        }
        let max = max.clone();
        self.nodes[at].max_end = max;
    }
}

/// Spreads consecutive numbers over all of `u64` (the finalizer of splitmix64).
fn scramble(number: u64) -> u64 {
    let mut z = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn key(rng: &mut StdRng) -> Bytes {
        let len = rng.random_range(1..4);
        (0..len).map(|_| rng.random_range(b'a'..=b'd')).collect()
    }

    #[test]
    fn the_ranges_found_are_the_ranges_that_contain_the_key() {
        let mut rng = StdRng::seed_from_u64(7);
        let mut ranges = Ranges::default();
        let mut model: Vec<(Bytes, End, u64)> = Vec::new();
        for id in 0..3_000 {
            if rng.random_bool(0.45) && !model.is_empty() {
                let (start, end, id) = model.swap_remove(rng.random_range(0..model.len()));
                ranges.remove(&start, &end, id);
            } else {
                let start = key(&mut rng);
                let end = if rng.random_bool(0.2) {
                    End::Open
                } else {
                    End::Before(key(&mut rng))
                };
                ranges.insert(&start, &end, id);
                model.push((start, end, id));
            }
            let key = key(&mut rng);
            let mut found = Vec::new();
            ranges.containing(&key, |id| found.push(id));
            found.sort_unstable();
            let mut expected: Vec<u64> = model
                .iter()
                .filter(|(start, end, _)| *start <= key && end.is_after(&key))
                .map(|(_, _, id)| *id)
                .collect();
            expected.sort_unstable();
            assert_eq!(found, expected, "key {key:?}");
        }
    }

    #[test]
    fn removing_every_range_leaves_an_empty_index_that_can_be_used_again() {
        let mut ranges = Ranges::default();
        for round in 0..2 {
            for id in 0..100_u64 {
                let start = Bytes::copy_from_slice(&id.to_be_bytes());
                ranges.insert(&start, &End::Open, id);
            }
            for id in 0..100_u64 {
                let start = Bytes::copy_from_slice(&id.to_be_bytes());
                ranges.remove(&start, &End::Open, id);
            }
            assert_eq!(ranges.root, None, "round {round}");
            assert_eq!(ranges.nodes.len(), 100);
        }
    }
}
