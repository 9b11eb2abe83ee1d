//! Pure functions that judge a history. Each returns every violation it finds; an empty list is a pass.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use baton_proto::etcdserverpb::HashKvResponse;

use crate::history::{Event, Seen, Write};

/// A promise that a history shows broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Violation {
    /// A write was acknowledged at this revision and the log does not have it there.
    Lost(i64),
    /// The log has a value that nobody wrote.
    Phantom(i64),
    /// One put stands in the log at two revisions.
    Twice(i64, i64),
    /// Two writes were acknowledged at the same revision, or the log has it twice.
    RevisionTwice(i64),
    /// The log jumps from the first revision to the second.
    Gap(i64, i64),
    /// A revision came after a higher one.
    Reorder(i64, i64),
    /// A write called after another had returned was given a lower revision: (earlier, later).
    Backwards(i64, i64),
    /// The events of two members differ first at this revision; the member is named.
    MembersDiffer(String, i64),
    /// Two members computed different hashes over the same history.
    HashesDiffer(String, u32, u32),
    /// A watch delivered a revision it had delivered before.
    Duplicate(i64),
    /// A watch delivered a revision below the one asked for: (asked, delivered).
    BelowStart(i64, i64),
    /// The events of one revision came in more than one response.
    Split(i64),
    /// A watch that has ended delivered up to the first revision though the second was acknowledged.
    Unfinished(i64, i64),
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost(revision) => write!(
                f,
                "the write acknowledged at revision {revision} is missing"
            ),
            Self::Phantom(revision) => {
                write!(f, "the value at revision {revision} was written by nobody")
            }
            Self::Twice(first, second) => {
                write!(f, "one put happened at revisions {first} and {second}")
            }
            Self::RevisionTwice(revision) => write!(f, "revision {revision} was given twice"),
            Self::Gap(from, to) => write!(f, "revision {to} follows {from}"),
            Self::Reorder(from, to) => write!(f, "revision {to} came after {from}"),
            Self::Backwards(earlier, later) => {
                write!(
                    f,
                    "a write called after revision {earlier} was acknowledged was given revision {later}"
                )
            }
            Self::MembersDiffer(member, revision) => {
                write!(f, "{member} differs at revision {revision}")
            }
            Self::HashesDiffer(member, ours, theirs) => {
                write!(f, "{member} hashes to {theirs:08x}, not {ours:08x}")
            }
            Self::Duplicate(revision) => write!(f, "the watch delivered revision {revision} again"),
            Self::BelowStart(asked, got) => {
                write!(f, "the watch was asked for {asked} on and delivered {got}")
            }
            Self::Split(revision) => write!(
                f,
                "the events of revision {revision} were split over responses"
            ),
            Self::Unfinished(last, end) => {
                write!(f, "the watch stopped at {last}, the last write is {end}")
            }
        }
    }
}

/// No acknowledged write is missing from the log, and the log holds nothing nobody wrote, nor anything twice.
///
/// `log` is every put from the revision `first` on.
pub fn acknowledged_writes_are_there(
    writes: &[Write],
    log: &[Event],
    first: i64,
) -> Vec<Violation> {
    let mut found = Vec::new();
    let at: BTreeMap<i64, &Event> = log.iter().map(|event| (event.revision, event)).collect();
    for write in writes {
        let Some(revision) = write.revision().filter(|revision| *revision >= first) else {
            continue;
        };
        let there = at
            .get(&revision)
            .is_some_and(|event| event.key == write.key && event.value == write.value);
        if !there {
            found.push(Violation::Lost(revision));
        }
    }
    let written: BTreeSet<&[u8]> = writes.iter().map(|write| write.value.as_slice()).collect();
    let mut applied: BTreeMap<&[u8], i64> = BTreeMap::new();
    for event in log {
        if !written.contains(event.value.as_slice()) {
            found.push(Violation::Phantom(event.revision));
        }
        if let Some(earlier) = applied.insert(&event.value, event.revision) {
            found.push(Violation::Twice(earlier, event.revision));
        }
    }
    found
}

/// Every revision was given once, and the log goes up by one from `first`.
pub fn revisions_are_given_once(writes: &[Write], log: &[Event], first: i64) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut given = BTreeSet::new();
    for revision in writes.iter().filter_map(Write::revision) {
        if !given.insert(revision) {
            found.push(Violation::RevisionTwice(revision));
        }
    }
    let mut last = first - 1;
    for event in log {
        match event.revision - last {
            1 => {}
            0 => found.push(Violation::RevisionTwice(event.revision)),
            step if step > 1 => found.push(Violation::Gap(last, event.revision)),
            _ => found.push(Violation::Reorder(last, event.revision)),
        }
        last = event.revision;
    }
    found
}

/// A write called after another had been acknowledged has the higher revision.
pub fn revisions_follow_real_time(writes: &[Write]) -> Vec<Violation> {
    let mut returns: Vec<(_, i64)> = writes
        .iter()
        .filter_map(|write| Some((write.returned, write.revision()?)))
        .collect();
    returns.sort();
    let mut calls: Vec<(_, i64)> = writes
        .iter()
        .filter_map(|write| Some((write.called, write.revision()?)))
        .collect();
    calls.sort();
    let mut found = Vec::new();
    let mut floor = i64::MIN;
    let mut returned = returns.into_iter().peekable();
    for (called, revision) in calls {
        while let Some((_, earlier)) = returned.next_if(|(when, _)| *when < called) {
            floor = floor.max(earlier);
        }
        if revision < floor {
            found.push(Violation::Backwards(floor, revision));
        }
    }
    found
}

/// All members report the same log. The first one is the measure.
pub fn members_agree(logs: &[(String, Vec<Event>)]) -> Vec<Violation> {
    let Some(((_, measure), others)) = logs.split_first() else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for (name, log) in others {
        let longest = measure.len().max(log.len());
        if let Some(index) = (0..longest).find(|index| measure.get(*index) != log.get(*index)) {
            let revision = measure
                .get(index)
                .or(log.get(index))
                .map(|event| event.revision)
                .unwrap_or_default();
            found.push(Violation::MembersDiffer(name.clone(), revision));
        }
    }
    found
}

/// All members hash the same history to the same value. The first one is the measure.
///
/// Answers with different compact revisions are not comparable and count as different.
pub fn hashes_are_equal(hashes: &[(String, HashKvResponse)]) -> Vec<Violation> {
    let Some(((_, measure), others)) = hashes.split_first() else {
        return Vec::new();
    };
    others
        .iter()
        .filter(|(_, other)| {
            other.hash != measure.hash || other.compact_revision != measure.compact_revision
        })
        .map(|(name, other)| Violation::HashesDiffer(name.clone(), measure.hash, other.hash))
        .collect()
}

/// What one reconnecting client of a watch on all keys saw, from revision `first` on, has no gap, no duplicate, no
/// disorder and no invention, and reaches `end`, the last acknowledged revision.
///
/// A revision may only be skipped where the server said that it was compacted.
pub fn watch_is_whole(seen: &[Seen], writes: &[Write], first: i64, end: i64) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut all = Vec::new();
    let mut last = first - 1;
    let mut asked = first;
    for step in seen {
        match step {
            Seen::Reconnected(from) => asked = *from,
            Seen::Compacted(to) => {
                asked = *to;
                last = last.max(to - 1);
            }
            Seen::Events(events) => {
                let before = last;
                for event in events {
                    let revision = event.revision;
                    if revision < asked {
                        found.push(Violation::BelowStart(asked, revision));
                    } else if revision == before {
                        found.push(Violation::Split(revision));
                    } else if revision <= before {
                        found.push(Violation::Duplicate(revision));
                    } else if revision < last {
                        found.push(Violation::Reorder(last, revision));
                    } else if revision > last + 1 {
                        found.push(Violation::Gap(last, revision));
                    }
                    last = last.max(revision);
                    all.push(event.clone());
                }
            }
        }
    }
    if last < end {
        found.push(Violation::Unfinished(last, end));
    }
    let delivered: BTreeSet<i64> = all.iter().map(|event| event.revision).collect();
    let known: Vec<Write> = writes
        .iter()
        .filter(|write| {
            write
                .revision()
                .is_none_or(|revision| delivered.contains(&revision))
        })
        .cloned()
        .collect();
    found.extend(acknowledged_writes_are_there(&known, &all, first));
    found
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::history::Outcome;

    fn write(start: Instant, at_ms: u64, revision: Option<i64>, value: &str) -> Write {
        Write {
            key: b"k".to_vec(),
            value: value.as_bytes().to_vec(),
            called: start + Duration::from_millis(at_ms),
            returned: start + Duration::from_millis(at_ms + 5),
            outcome: revision.map_or(Outcome::Unknown, Outcome::Acknowledged),
        }
    }

    fn event(revision: i64, value: &str) -> Event {
        Event {
            revision,
            key: b"k".to_vec(),
            value: value.as_bytes().to_vec(),
        }
    }

    /// Three writes, the middle one of unknown outcome but applied, and the log they left.
    fn good() -> (Vec<Write>, Vec<Event>) {
        let start = Instant::now();
        let writes = vec![
            write(start, 0, Some(2), "a"),
            write(start, 10, None, "b"),
            write(start, 20, Some(4), "c"),
            write(start, 30, None, "never applied"),
        ];
        (writes, vec![event(2, "a"), event(3, "b"), event(4, "c")])
    }

    #[test]
    fn a_correct_history_passes_every_check() {
        let (writes, log) = good();
        assert_eq!(acknowledged_writes_are_there(&writes, &log, 2), []);
        assert_eq!(revisions_are_given_once(&writes, &log, 2), []);
        assert_eq!(revisions_follow_real_time(&writes), []);
        assert_eq!(
            members_agree(&[("m0".into(), log.clone()), ("m1".into(), log.clone())]),
            []
        );
        assert_eq!(watch_is_whole(&[Seen::Events(log)], &writes, 2, 4), []);
    }

    #[test]
    fn a_lost_write_is_found() {
        let (writes, mut log) = good();
        log.pop();
        assert_eq!(
            acknowledged_writes_are_there(&writes, &log, 2),
            [Violation::Lost(4)]
        );
    }

    #[test]
    fn an_acknowledged_write_at_another_revision_is_found() {
        let (writes, mut log) = good();
        log[2].revision = 5;
        assert_eq!(
            acknowledged_writes_are_there(&writes, &log, 2),
            [Violation::Lost(4)]
        );
    }

    #[test]
    fn a_value_nobody_wrote_is_found() {
        let (writes, mut log) = good();
        log.push(event(5, "invented"));
        assert_eq!(
            acknowledged_writes_are_there(&writes, &log, 2),
            [Violation::Phantom(5)]
        );
    }

    #[test]
    fn a_put_applied_twice_is_found() {
        let (writes, mut log) = good();
        log.push(event(5, "b"));
        assert_eq!(
            acknowledged_writes_are_there(&writes, &log, 2),
            [Violation::Twice(3, 5)]
        );
    }

    #[test]
    fn a_revision_acknowledged_twice_is_found() {
        let (mut writes, log) = good();
        writes[3].outcome = Outcome::Acknowledged(4);
        assert_eq!(
            revisions_are_given_once(&writes, &log, 2),
            [Violation::RevisionTwice(4)]
        );
    }

    #[test]
    fn a_revision_that_stands_in_the_log_twice_is_found() {
        let (writes, mut log) = good();
        log.push(event(4, "d"));
        assert_eq!(
            revisions_are_given_once(&writes, &log, 2),
            [Violation::RevisionTwice(4)]
        );
    }

    #[test]
    fn a_hole_in_the_log_is_found() {
        let (writes, mut log) = good();
        log.remove(1);
        assert_eq!(
            revisions_are_given_once(&writes, &log, 2),
            [Violation::Gap(2, 4)]
        );
    }

    #[test]
    fn a_revision_that_goes_back_in_real_time_is_found() {
        let (mut writes, _) = good();
        writes[3].outcome = Outcome::Acknowledged(3);
        assert_eq!(
            revisions_follow_real_time(&writes),
            [Violation::Backwards(4, 3)]
        );
    }

    #[test]
    fn concurrent_writes_may_have_either_order() {
        let start = Instant::now();
        let writes = [write(start, 0, Some(3), "a"), write(start, 1, Some(2), "b")];
        assert_eq!(revisions_follow_real_time(&writes), []);
    }

    #[test]
    fn a_member_with_another_value_is_found() {
        let (_, log) = good();
        let mut other = log.clone();
        other[1].value = b"x".to_vec();
        assert_eq!(
            members_agree(&[("m0".into(), log), ("m1".into(), other)]),
            [Violation::MembersDiffer("m1".into(), 3)]
        );
    }

    #[test]
    fn a_member_that_lacks_the_end_of_the_log_is_found() {
        let (_, log) = good();
        let short = log[..2].to_vec();
        assert_eq!(
            members_agree(&[("m0".into(), log), ("m1".into(), short)]),
            [Violation::MembersDiffer("m1".into(), 4)]
        );
    }

    #[test]
    fn a_member_with_another_hash_is_found() {
        let hash = |hash| HashKvResponse {
            hash,
            compact_revision: 1,
            ..Default::default()
        };
        let hashes = [
            ("m0".to_owned(), hash(1)),
            ("m1".to_owned(), hash(1)),
            ("m2".to_owned(), hash(2)),
        ];
        assert_eq!(
            hashes_are_equal(&hashes),
            [Violation::HashesDiffer("m2".into(), 1, 2)]
        );
    }

    #[test]
    fn a_watch_that_reconnects_where_it_was_is_whole() {
        let (writes, log) = good();
        let seen = [
            Seen::Events(log[..1].to_vec()),
            Seen::Reconnected(3),
            Seen::Events(log[1..].to_vec()),
        ];
        assert_eq!(watch_is_whole(&seen, &writes, 2, 4), []);
    }

    #[test]
    fn a_watch_may_skip_what_the_server_says_is_compacted() {
        let (writes, log) = good();
        let seen = [Seen::Compacted(4), Seen::Events(log[2..].to_vec())];
        assert_eq!(watch_is_whole(&seen, &writes, 2, 4), []);
    }

    #[test]
    fn a_watch_that_skips_a_revision_is_found() {
        let (writes, mut log) = good();
        log.remove(1);
        assert_eq!(
            watch_is_whole(&[Seen::Events(log)], &writes, 2, 4),
            [Violation::Gap(2, 4)]
        );
    }

    #[test]
    fn a_watch_that_repeats_a_revision_is_found() {
        let (writes, log) = good();
        let seen = [Seen::Events(log.clone()), Seen::Events(log[1..2].to_vec())];
        let found = watch_is_whole(&seen, &writes, 2, 4);
        assert!(found.contains(&Violation::Duplicate(3)), "{found:?}");
    }

    #[test]
    fn a_watch_that_swaps_two_revisions_is_found() {
        let (writes, mut log) = good();
        log.swap(1, 2);
        let found = watch_is_whole(&[Seen::Events(log)], &writes, 2, 4);
        assert!(found.contains(&Violation::Reorder(4, 3)), "{found:?}");
    }

    #[test]
    fn a_watch_that_splits_a_revision_is_found() {
        let (mut writes, log) = good();
        writes.push(write(Instant::now(), 40, None, "d"));
        let seen = [Seen::Events(log), Seen::Events(vec![event(4, "d")])];
        let found = watch_is_whole(&seen, &writes, 2, 4);
        assert!(found.contains(&Violation::Split(4)), "{found:?}");
    }

    #[test]
    fn a_watch_that_goes_back_behind_where_it_was_asked_to_start_is_found() {
        let (writes, log) = good();
        let seen = [
            Seen::Events(log[..2].to_vec()),
            Seen::Reconnected(4),
            Seen::Events(log[1..].to_vec()),
        ];
        let found = watch_is_whole(&seen, &writes, 2, 4);
        assert!(found.contains(&Violation::BelowStart(4, 3)), "{found:?}");
    }

    #[test]
    fn a_watch_that_stops_early_is_found() {
        let (writes, log) = good();
        assert_eq!(
            watch_is_whole(&[Seen::Events(log[..2].to_vec())], &writes, 2, 4),
            [Violation::Unfinished(3, 4)]
        );
    }

    #[test]
    fn a_watch_that_delivers_another_value_is_found() {
        let (writes, mut log) = good();
        log[2].value = b"b".to_vec();
        let found = watch_is_whole(&[Seen::Events(log)], &writes, 2, 4);
        assert!(found.contains(&Violation::Lost(4)), "{found:?}");
    }
}
