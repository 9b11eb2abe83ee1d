//! A server that serves the same load for long takes no more and more of its host for it.
//!
//! Judged are processes that ran for long, by what they had taken once they were warm. What was taken must have grown by a
//! good part, without ever falling for long, and as fast in the end as in the beginning: a curve that flattens is a store or
//! a buffer that fills up to what it is allowed, and one that saws is a log.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::history::{History, Member, MemberEvent, Nanos, Usage, nanos};
use crate::verdict::{Judgement, Violation};

/// Its name.
pub const CHECKER: &str = "growth";

/// What it judges.
const PROMISE: &str = "Memory, descriptors, threads and disk stay bounded while the load does.";

/// The shortest life that is judged, from when it was warm.
const LIFE_MIN: Duration = Duration::from_secs(360);
/// What a process may take to get warm.
const WARM_UP: Duration = Duration::from_secs(120);
/// A life is looked at in so many parts, by what is usual in each.
const PARTS: usize = 6;

/// A resource, and by how much its use has to grow to be held against a server: in its own unit and in percent.
#[derive(Debug, Clone, Copy)]
pub struct Resource {
    /// What it is called.
    pub name: &'static str,
    /// What it is told in, after a number.
    pub unit: &'static str,
    /// How much of it a process takes.
    pub of: fn(&Usage) -> u64,
    at_least: u64,
    percent: u64,
}

/// What is looked at.
pub const RESOURCES: [Resource; 4] = [
    Resource {
        name: "memory",
        unit: " MiB",
        of: |usage| usage.memory_kib / 1024,
        // More than what a server may keep of recent changes and of what it has yet to write; a slow load takes longer to
        // fill that than a run lasts.
        at_least: 128,
        percent: 25,
    },
    Resource {
        name: "descriptors",
        unit: "",
        of: |usage| usage.descriptors,
        at_least: 16,
        percent: 25,
    },
    Resource {
        name: "threads",
        unit: "",
        of: |usage| usage.threads,
        at_least: 8,
        percent: 25,
    },
    Resource {
        name: "disk",
        unit: " MiB",
        of: |usage| usage.disk_kib / 1024,
        at_least: 64,
        percent: 50,
    },
];

/// What the last process of a member took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Growth {
    /// The member.
    pub member: Member,
    /// How long it was watched, in milliseconds.
    pub watched_ms: u64,
    /// What it took once it was warm, or, if it did not live that long, in the beginning.
    pub early: Usage,
    /// What it took in the end.
    pub last: Usage,
}

/// What the last process of each member took.
pub fn of(history: &History) -> Vec<Growth> {
    let mut growth = BTreeMap::new();
    for life in lives(history) {
        if let [(first, early), .., (end, last)] = life.seen[..] {
            let grown = Growth {
                member: life.member,
                watched_ms: (end - first) / 1_000_000,
                early: life.warm().first().map_or(early, |(_, warm)| *warm),
                last,
            };
            growth.insert(life.member, grown);
        }
    }
    growth.into_values().collect()
}

/// Judges it. Facts: `looks`, `long lives`.
pub fn judge(history: &History) -> Judgement {
    let mut judgement = Judgement::new(CHECKER, PROMISE);
    for life in lives(history) {
        judgement.count("looks", life.seen.len());
        let warm = life.warm();
        let ([(from, _), ..], Some((to, _))) = (warm, warm.last()) else {
            continue;
        };
        if to - from < nanos(LIFE_MIN) {
            continue;
        }
        judgement.count("long lives", 1);
        for resource in &RESOURCES {
            let parts = parts(warm, resource);
            let [first, .., last] = parts[..] else {
                continue;
            };
            if grows(&parts, resource) {
                let parts: Vec<String> = parts.iter().map(u64::to_string).collect();
                let Resource { name, unit, .. } = resource;
                let what = format!(
                    "the {name} of m{} grew from {first} to {last}{unit} in {} s, and did not stop: {}",
                    life.member,
                    (to - from) / 1_000_000_000,
                    parts.join(", ")
                );
                judgement.violated(Violation::new(what).at(*to));
            }
        }
    }
    judgement
}

/// A process, as it was looked at.
struct Life {
    member: Member,
    seen: Vec<(Nanos, Usage)>,
}

impl Life {
    /// What was seen of it once it was warm.
    fn warm(&self) -> &[(Nanos, Usage)] {
        let first = self.seen.first().map_or(0, |(at, _)| *at);
        let cold = self
            .seen
            .partition_point(|(at, _)| *at < first + nanos(WARM_UP));
        &self.seen[cold..]
    }
}

fn lives(history: &History) -> Vec<Life> {
    let mut over = Vec::new();
    let mut lives: BTreeMap<Member, Life> = BTreeMap::new();
    for step in &history.members {
        match step.event {
            MemberEvent::Started { .. } | MemberEvent::Ended { .. } => {
                over.extend(lives.remove(&step.member));
            }
            MemberEvent::Usage(usage) => {
                let life = lives.entry(step.member).or_insert(Life {
                    member: step.member,
                    seen: Vec::new(),
                });
                life.seen.push((step.at, usage));
            }
            _ => {}
        }
    }
    over.into_iter().chain(lives.into_values()).collect()
}

/// What is usual in each part of a life: the median.
fn parts(seen: &[(Nanos, Usage)], resource: &Resource) -> Vec<u64> {
    let size = seen.len().div_ceil(PARTS).max(1);
    let median = |part: &[(Nanos, Usage)]| {
        let mut values: Vec<u64> = part.iter().map(|(_, usage)| (resource.of)(usage)).collect();
        values.sort_unstable();
        values[values.len() / 2]
    };
    seen.chunks(size).map(median).collect()
}

/// Whether it grows by a good part and goes on growing.
fn grows(parts: &[u64], resource: &Resource) -> bool {
    let ([first, .., last], Some(middle)) = (parts, parts.get(parts.len() / 2)) else {
        return false;
    };
    let good = resource.at_least.max(first * resource.percent / 100);
    let all = last.saturating_sub(*first);
    let in_the_end = last.saturating_sub(*middle);
    parts.is_sorted() && all >= good && in_the_end * 3 >= all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{MemberStep, Record};

    const SECOND: Nanos = 1_000_000_000;

    /// A process that was looked at every two seconds for `seconds`.
    fn watched(seconds: u64, usage: impl Fn(u64) -> Usage) -> History {
        let looks = (0..seconds / 2).map(|look| {
            Record::Member(MemberStep {
                member: 1,
                at: look * 2 * SECOND,
                event: MemberEvent::Usage(usage(look * 2)),
            })
        });
        History::of(looks)
    }

    fn memory(mib: u64) -> Usage {
        Usage {
            memory_kib: mib * 1024,
            descriptors: 30,
            threads: 9,
            disk_kib: 40 * 1024,
        }
    }

    #[test]
    fn memory_that_goes_on_growing_is_found() {
        let judged = judge(&watched(720, |second| memory(80 + second / 2)));
        assert_eq!(judged.violations.len(), 1);
        let what = &judged.violations[0].what;
        assert!(
            what.starts_with("the memory of m1 grew from 165 to 415 MiB"),
            "{what}"
        );
    }

    #[test]
    fn descriptors_that_are_not_closed_are_found() {
        let judged = judge(&watched(720, |second| Usage {
            descriptors: 30 + second / 20,
            ..memory(80)
        }));
        assert_eq!(judged.violations.len(), 1);
        assert!(judged.violations[0].what.contains("descriptors"));
    }

    #[test]
    fn what_fills_up_and_stays_so_is_no_leak() {
        let judged = judge(&watched(720, |second| memory(80 + second.min(400))));
        assert_eq!(judged.violations, []);
        assert_eq!(judged.facts["long lives"], 1);
    }

    #[test]
    fn what_comes_and_goes_is_no_leak() {
        let judged = judge(&watched(720, |second| memory(80 + second % 200)));
        assert_eq!(judged.violations, []);
        // Nor what is a buffer that fills slowly.
        let judged = judge(&watched(720, |second| memory(80 + second / 10)));
        assert_eq!(judged.violations, []);
    }

    #[test]
    fn a_short_life_and_one_in_pieces_are_not_judged() {
        let grown = |second: u64| memory(80 + second);
        assert_eq!(judge(&watched(300, grown)).violations, []);
        let mut pieces = watched(720, grown);
        pieces.members.insert(
            180,
            MemberStep {
                member: 1,
                at: 360 * SECOND - 1,
                event: MemberEvent::Started { pid: 2 },
            },
        );
        let judged = judge(&pieces);
        assert_eq!(judged.violations, []);
        assert_eq!(judged.facts["looks"], 360);
    }

    #[test]
    fn what_a_member_took_is_told_from_when_it_was_warm() {
        let grown = of(&watched(600, |second| memory(second / 2)))[0];
        assert_eq!(grown.member, 1);
        assert_eq!(grown.watched_ms, 598_000);
        assert_eq!(grown.early.memory_kib, 60 * 1024);
        assert_eq!(grown.last.memory_kib, 299 * 1024);
    }
}
