//! Cycles among transactions, and what they are called.

use std::collections::VecDeque;

/// Why one transaction comes before another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Before {
    /// The other wrote the next version of something.
    Wrote,
    /// The other read what it wrote.
    WasRead,
    /// The other wrote over what it read.
    Read,
    /// It had returned when the other was called.
    Returned,
}

/// A graph of what comes before what.
#[derive(Debug, Default)]
pub struct Graph {
    edges: Vec<Vec<(usize, Before)>>,
}

/// A cycle: its name, and its nodes, each with why it comes before the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cycle {
    /// In the words of Adya and of Elle: `G0`, `G1c`, `G-single` or `G2`, with `-realtime` where that plays a part.
    pub name: &'static str,
    /// The nodes.
    pub nodes: Vec<(usize, Before)>,
}

/// What is looked for, the worst first: the name, whether reads may come before writes over them (once, or any number of
/// times), and whether the order in time counts.
const ANOMALIES: [(&str, &[Before], Option<bool>); 8] = [
    ("G0", &[Before::Wrote], None),
    ("G1c", &[Before::Wrote, Before::WasRead], None),
    ("G-single", &[Before::Wrote, Before::WasRead], Some(true)),
    ("G2", &[Before::Wrote, Before::WasRead], Some(false)),
    ("G0-realtime", &[Before::Wrote, Before::Returned], None),
    (
        "G1c-realtime",
        &[Before::Wrote, Before::WasRead, Before::Returned],
        None,
    ),
    (
        "G-single-realtime",
        &[Before::Wrote, Before::WasRead, Before::Returned],
        Some(true),
    ),
    (
        "G2-realtime",
        &[Before::Wrote, Before::WasRead, Before::Returned],
        Some(false),
    ),
];

impl Graph {
    /// A graph without edges.
    pub fn new(nodes: usize) -> Self {
        Self {
            edges: vec![Vec::new(); nodes],
        }
    }

    /// A further node.
    pub fn add(&mut self) -> usize {
        self.edges.push(Vec::new());
        self.edges.len() - 1
    }

    /// Says that `from` comes before `to`.
    pub fn edge(&mut self, from: usize, to: usize, why: Before) {
        if from != to {
            self.edges[from].push((to, why));
        }
    }

    /// How many edges there are.
    pub fn len(&self) -> usize {
        self.edges.iter().map(Vec::len).sum()
    }

    /// One cycle, of the worst kind, for each set of nodes that all come before each other.
    pub fn cycles(&self) -> Vec<Cycle> {
        let everything = |_: Before| true;
        let all: Vec<usize> = (0..self.edges.len()).collect();
        self.components(&all, everything)
            .iter()
            .filter_map(|component| self.worst(component))
            .collect()
    }

    fn worst(&self, component: &[usize]) -> Option<Cycle> {
        ANOMALIES.iter().find_map(|(name, kinds, reads)| {
            let plain = |why: Before| kinds.contains(&why);
            let with_reads = |why: Before| plain(why) || why == Before::Read;
            let nodes = match reads {
                None => self
                    .components(component, plain)
                    .first()
                    .and_then(|part| self.path(part, part[0], part[0], plain)),
                Some(true) => self.through_one_read(component, plain),
                Some(false) => self
                    .components(component, with_reads)
                    .first()
                    .and_then(|part| self.path(part, part[0], part[0], with_reads)),
            }?;
            Some(Cycle { name, nodes })
        })
    }

    /// A cycle with exactly one read that comes before a write over it.
    fn through_one_read(
        &self,
        component: &[usize],
        plain: impl Fn(Before) -> bool + Copy,
    ) -> Option<Vec<(usize, Before)>> {
        let with_reads = |why: Before| plain(why) || why == Before::Read;
        let parts = self.components(component, with_reads);
        let reads = parts.iter().flat_map(|part| {
            part.iter().flat_map(move |from| {
                let edges = self.edges[*from].iter();
                edges
                    .filter(|(to, why)| *why == Before::Read && part.contains(to))
                    .map(move |(to, _)| (part, *from, *to))
            })
        });
        // In a history that is wrong all over, the first few show it well enough.
        reads.take(TRIED).find_map(|(part, from, to)| {
            let mut back = self.path(part, to, from, plain)?;
            back.insert(0, (from, Before::Read));
            Some(back)
        })
    }

    /// The shortest way from one node to another, or around to itself, within some nodes: its nodes but for the last.
    fn path(
        &self,
        within: &[usize],
        from: usize,
        to: usize,
        allowed: impl Fn(Before) -> bool,
    ) -> Option<Vec<(usize, Before)>> {
        let mut inside = vec![false; self.edges.len()];
        for node in within {
            inside[*node] = true;
        }
        let mut came: Vec<Option<(usize, Before)>> = vec![None; self.edges.len()];
        let mut queue = VecDeque::from([from]);
        while let Some(node) = queue.pop_front() {
            for (next, why) in &self.edges[node] {
                if !inside[*next] || !allowed(*why) || came[*next].is_some() {
                    continue;
                }
                came[*next] = Some((node, *why));
                queue.push_back(*next);
                if *next != to {
                    continue;
                }
                let mut path = Vec::new();
                let mut at = to;
                while let Some((before, why)) = came[at] {
                    path.push((before, why));
                    at = before;
                    if at == from {
                        break;
                    }
                }
                path.reverse();
                return Some(path);
            }
        }
        None
    }

    /// Sets of two or more of some nodes that all come before each other: Tarjan's algorithm, without recursion.
    fn components(&self, nodes: &[usize], allowed: impl Fn(Before) -> bool) -> Vec<Vec<usize>> {
        let unseen = usize::MAX;
        let mut inside = vec![false; self.edges.len()];
        for node in nodes {
            inside[*node] = true;
        }
        let mut index = vec![unseen; self.edges.len()];
        let mut low = vec![0; self.edges.len()];
        let mut on_stack = vec![false; self.edges.len()];
        let (mut stack, mut found, mut count) = (Vec::new(), Vec::new(), 0);
        for root in nodes {
            let mut work = vec![(*root, 0)];
            while let Some((node, edge)) = work.pop() {
                if edge == 0 {
                    if index[node] != unseen {
                        continue;
                    }
                    index[node] = count;
                    low[node] = count;
                    count += 1;
                    stack.push(node);
                    on_stack[node] = true;
                }
                if let Some((next, why)) = self.edges[node].get(edge) {
                    work.push((node, edge + 1));
                    if inside[*next] && allowed(*why) {
                        if index[*next] == unseen {
                            work.push((*next, 0));
                        } else if on_stack[*next] {
                            low[node] = low[node].min(index[*next]);
                        }
                    }
                    continue;
                }
                if low[node] == index[node] {
                    let at = stack.iter().rposition(|other| *other == node);
                    let component = stack.split_off(at.unwrap_or_default());
                    for member in &component {
                        on_stack[*member] = false;
                    }
                    if component.len() > 1 {
                        found.push(component);
                    }
                }
                if let Some((parent, _)) = work.last() {
                    low[*parent] = low[*parent].min(low[node]);
                }
            }
        }
        found
    }
}

/// How many edges a cycle is looked for through.
const TRIED: usize = 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn names(nodes: usize, edges: &[(usize, usize, Before)]) -> Vec<&'static str> {
        let mut graph = Graph::new(nodes);
        for (from, to, why) in edges {
            graph.edge(*from, *to, *why);
        }
        graph.cycles().iter().map(|cycle| cycle.name).collect()
    }

    #[test]
    fn cycles_are_called_by_the_worst_of_their_edges() {
        use Before::{Read, Returned, WasRead, Wrote};
        assert_eq!(names(2, &[(0, 1, Wrote), (1, 0, Wrote)]), ["G0"]);
        assert_eq!(names(2, &[(0, 1, Wrote), (1, 0, WasRead)]), ["G1c"]);
        assert_eq!(names(2, &[(0, 1, WasRead), (1, 0, Read)]), ["G-single"]);
        assert_eq!(names(2, &[(0, 1, Read), (1, 0, Read)]), ["G2"]);
        assert_eq!(
            names(2, &[(0, 1, Returned), (1, 0, Read)]),
            ["G-single-realtime"]
        );
        assert_eq!(
            names(3, &[(0, 1, Returned), (1, 2, Read), (2, 0, Read)]),
            ["G2-realtime"]
        );
        assert_eq!(
            names(3, &[(0, 1, Wrote), (1, 2, Read), (0, 2, WasRead)]),
            [""; 0]
        );
    }

    #[test]
    fn every_knot_is_found_and_told_once() {
        use Before::Wrote;
        let edges = [(0, 1), (1, 2), (2, 0), (2, 3), (3, 4), (4, 3), (4, 5)];
        let edges: Vec<_> = edges.iter().map(|(a, b)| (*a, *b, Wrote)).collect();
        assert_eq!(names(6, &edges), ["G0", "G0"]);
    }
}
