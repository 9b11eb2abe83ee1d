//! What the keys of a double barrier say, and what a member does next. No IO.
//!
//! ```text
//! baton.recipes/double-barrier/<name>/generation    how many generations are over
//! baton.recipes/double-barrier/<name>/member/<id>   a member that came and has not left; ends with its session
//! baton.recipes/double-barrier/<name>/ready         who the members of the present generation are, once all have come
//! baton.recipes/double-barrier/<name>/left/<id>     a member of this generation that has left
//! ```
//!
//! A generation begins with the first member, is *ready* when all have come, and is over when the last has left or
//! died: then one transaction counts it and removes `ready` and `left`. All transactions compare the mod revision of
//! `generation`, so what belongs to one generation does nothing in the next.

use std::collections::BTreeSet;

use baton_client::mvccpb::KeyValue;
use baton_client::prefix_end;
use bytes::Bytes;

use crate::Error;

/// The keys of one double barrier.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    prefix: String,
}

impl Layout {
    pub(super) fn new(name: &str) -> Self {
        Self {
            prefix: format!("{}/double-barrier/{name}/", crate::name::RESERVED),
        }
    }

    /// Everything.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(super) fn generation(&self) -> String {
        format!("{}generation", self.prefix)
    }

    pub(super) fn ready(&self) -> String {
        format!("{}ready", self.prefix)
    }

    pub(super) fn members(&self) -> String {
        format!("{}member/", self.prefix)
    }

    pub(super) fn member(&self, id: &str) -> String {
        format!("{}{id}", self.members())
    }

    /// The members' keys before this one's, and behind it.
    pub(super) fn other_members(&self, id: &str) -> [(Bytes, Bytes); 2] {
        let me = self.member(id);
        let behind = format!("{me}\0");
        [
            (self.members().into(), me.into()),
            (behind.into(), prefix_end(self.members())),
        ]
    }

    pub(super) fn all_left(&self) -> String {
        format!("{}left/", self.prefix)
    }

    pub(super) fn left(&self, id: &str) -> String {
        format!("{}{id}", self.all_left())
    }
}

/// A member whose key is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) id: String,
    /// How many it says there are.
    pub(super) size: usize,
    pub(super) lease: i64,
    pub(super) create_revision: i64,
    pub(super) mod_revision: i64,
}

/// The state of a double barrier at one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Round {
    /// How many generations are over.
    pub(super) generation: u64,
    /// The mod revision of that number, 0 before the first generation is over.
    pub(super) guard: i64,
    /// In the order they came.
    pub(super) members: Vec<Member>,
    /// The members of this generation, once all have come.
    pub(super) ready: Option<Vec<String>>,
    /// Those of them that have left.
    pub(super) left: BTreeSet<String>,
}

impl Round {
    /// From all pairs under the prefix, read at one revision.
    ///
    /// # Errors
    /// [`baton_client::Error::Malformed`] if a key or value is none of a double barrier.
    pub(super) fn read(layout: &Layout, pairs: &[KeyValue]) -> Result<Self, Error> {
        let mut round = Self::default();
        for pair in pairs {
            let (Ok(key), Ok(value)) = (
                std::str::from_utf8(&pair.key),
                std::str::from_utf8(&pair.value),
            ) else {
                return Err(malformed(pair));
            };
            let tail = key.strip_prefix(layout.prefix());
            match tail.ok_or_else(|| malformed(pair))? {
                "generation" => {
                    round.generation = value.parse().map_err(|_| malformed(pair))?;
                    round.guard = pair.mod_revision;
                }
                "ready" => round.ready = Some(value.split('/').map(str::to_owned).collect()),
                tail => {
                    if let Some(id) = tail.strip_prefix("member/") {
                        round.members.push(Member {
                            id: id.to_owned(),
                            size: value.parse().map_err(|_| malformed(pair))?,
                            lease: pair.lease,
                            create_revision: pair.create_revision,
                            mod_revision: pair.mod_revision,
                        });
                    } else if let Some(id) = tail.strip_prefix("left/") {
                        round.left.insert(id.to_owned());
                    } else {
                        return Err(malformed(pair));
                    }
                }
            }
        }
        // No two members are created at one revision: each comes by a transaction of its own.
        round.members.sort_by_key(|member| member.create_revision);
        Ok(round)
    }

    /// The key of this member, if it is there and is this session's.
    pub(super) fn own(&self, id: &str, lease: i64) -> Option<&Member> {
        self.members
            .iter()
            .find(|member| member.id == id && member.lease == lease)
    }

    /// The first that came of those whose keys are there.
    fn first(&self) -> Option<&Member> {
        self.members.first()
    }

    /// What a member that wants to enter does next.
    pub(super) fn to_enter(&self, id: &str, lease: i64, size: usize, came: bool) -> ToEnter {
        let own = self.own(id, lease);
        if came && own.is_none() && self.members.iter().any(|member| member.id == id) {
            return ToEnter::Replaced;
        }
        let Some(ready) = &self.ready else {
            if own.is_none() {
                return ToEnter::Come;
            }
            let others = self.first().map_or(size, |first| first.size);
            if others != size {
                return ToEnter::Mismatch { others };
            }
            let counted = self.members.iter().filter(|member| member.size == size);
            let roster: Vec<String> = counted.take(size).map(|member| member.id.clone()).collect();
            if roster.len() == size {
                return ToEnter::Ready { roster };
            }
            return ToEnter::Wait(match self.first() {
                // The one that came first sees to it that the last one's arrival is noticed, also when
                // that one dies of it.
                Some(first) if first.id == id => Until::AnyChange,
                Some(first) => Until::ReadyOrGone(first.id.clone()),
                None => Until::AnyChange,
            });
        };
        let Some(first) = self.first() else {
            return ToEnter::Finish;
        };
        if self.left.contains(id) {
            ToEnter::Wait(Until::FinishedOrGone(first.id.clone()))
        } else if !ready.iter().any(|member| member == id) {
            ToEnter::Full {
                roster: ready.clone(),
            }
        } else if own.is_some() {
            ToEnter::Inside
        } else {
            ToEnter::Come
        }
    }

    /// What a member that was inside the generation with this guard, and wants to leave, does next.
    pub(super) fn to_leave(&self, id: &str, lease: i64, guard: i64) -> ToLeave {
        if self.guard != guard || self.ready.is_none() {
            return ToLeave::Over;
        }
        let (Some(first), Some(last)) = (self.members.first(), self.members.last()) else {
            return ToLeave::Finish;
        };
        let Some(own) = self.own(id, lease) else {
            return ToLeave::Wait(first.id.clone());
        };
        if self.members.len() == 1 {
            return ToLeave::LeaveAsLast;
        }
        // The first stays until all others have gone, and they watch it alone; it watches one of them at a
        // time. So a departure wakes one, not all.
        if own.id != first.id {
            ToLeave::Leave
        } else if self.left.contains(id) {
            ToLeave::Wait(last.id.clone())
        } else {
            ToLeave::SayLeft
        }
    }
}

fn malformed(pair: &KeyValue) -> Error {
    let key = String::from_utf8_lossy(&pair.key);
    baton_client::Error::Malformed(format!("{key} is no key of a double barrier: remove it")).into()
}

/// A step towards the inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ToEnter {
    /// Write one's key; again, if it was lost with an earlier session.
    Come,
    /// Everyone is here: say so.
    Ready { roster: Vec<String> },
    /// The generation is ready, and one belongs to it.
    Inside,
    /// All members of a generation are gone, but nobody said that it is over: say so.
    Finish,
    /// Nothing to do until then.
    Wait(Until),
    /// Others say that there are so many members.
    Mismatch { others: usize },
    /// The places are taken by these.
    Full { roster: Vec<String> },
    /// Another session came under one's name.
    Replaced,
}

/// What wakes a member that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Until {
    AnyChange,
    /// `ready` is written, or this member's key is gone.
    ReadyOrGone(String),
    /// The generation is counted, or this member's key is gone.
    FinishedOrGone(String),
    /// This member's key is gone.
    Gone(String),
}

/// A step towards the outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ToLeave {
    /// Note that one has left, and keep one's key for the others to watch.
    SayLeft,
    /// Note that one has left, and remove one's key.
    Leave,
    /// The same, and count the generation: nobody else is inside.
    LeaveAsLast,
    /// Count the generation: nobody is inside.
    Finish,
    /// Nothing to do until this member's key is gone.
    Wait(String),
    /// Everybody has left.
    Over,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: &str, size: usize, lease: i64) -> Member {
        Member {
            id: id.to_owned(),
            size,
            lease,
            create_revision: 100 + lease,
            mod_revision: 100 + lease,
        }
    }

    fn came(ids: &[&str]) -> Round {
        let members = ids.iter().zip(1..);
        Round {
            members: members.map(|(id, lease)| member(id, 3, lease)).collect(),
            ..Default::default()
        }
    }

    fn ready(ids: &[&str]) -> Round {
        Round {
            ready: Some(vec!["a".to_owned(), "b".to_owned(), "c".to_owned()]),
            ..came(ids)
        }
    }

    fn left(mut round: Round, ids: &[&str]) -> Round {
        round.left = ids.iter().map(|&id| id.to_owned()).collect();
        round
    }

    #[test]
    fn a_member_comes_then_waits_for_the_others() {
        assert_eq!(came(&[]).to_enter("a", 1, 3, false), ToEnter::Come);
        assert_eq!(
            came(&["a"]).to_enter("a", 1, 3, true),
            ToEnter::Wait(Until::AnyChange)
        );
        assert_eq!(
            came(&["a", "b"]).to_enter("b", 2, 3, true),
            ToEnter::Wait(Until::ReadyOrGone("a".to_owned()))
        );
    }

    #[test]
    fn any_member_that_sees_all_says_ready() {
        let roster = vec!["a".to_owned(), "b".to_owned(), "c".to_owned()];
        for (id, lease) in [("a", 1), ("b", 2), ("c", 3)] {
            assert_eq!(
                came(&["a", "b", "c"]).to_enter(id, lease, 3, true),
                ToEnter::Ready {
                    roster: roster.clone()
                }
            );
        }
    }

    #[test]
    fn a_member_that_counts_otherwise_is_not_counted_and_told() {
        let mut round = came(&["a", "b"]);
        round.members.push(member("x", 2, 3));
        assert_eq!(
            round.to_enter("a", 1, 3, true),
            ToEnter::Wait(Until::AnyChange)
        );
        assert_eq!(
            round.to_enter("x", 3, 2, true),
            ToEnter::Mismatch { others: 3 }
        );
    }

    #[test]
    fn one_member_too_many_is_told_who_has_the_places() {
        let ToEnter::Full { roster } = ready(&["a", "b", "c"]).to_enter("d", 4, 3, false) else {
            panic!("not refused");
        };
        assert_eq!(roster, ["a", "b", "c"]);
    }

    #[test]
    fn a_restarted_member_enters_its_generation_again_with_its_new_session() {
        assert_eq!(
            ready(&["a", "b"]).to_enter("c", 9, 3, false),
            ToEnter::Come,
            "its old key is gone"
        );
        assert_eq!(
            ready(&["a", "b", "c"]).to_enter("c", 9, 3, false),
            ToEnter::Come,
            "its old key is still there"
        );
        let mut round = ready(&["a", "b"]);
        round.members.push(member("c", 3, 9));
        assert_eq!(round.to_enter("c", 9, 3, true), ToEnter::Inside);
    }

    #[test]
    fn a_member_whose_name_another_session_took_is_told() {
        assert_eq!(
            came(&["a", "b"]).to_enter("a", 7, 3, true),
            ToEnter::Replaced
        );
    }

    #[test]
    fn a_stale_ready_lets_nobody_in() {
        assert_eq!(ready(&[]).to_enter("a", 1, 3, false), ToEnter::Finish);
    }

    #[test]
    fn a_member_that_left_waits_for_the_next_generation() {
        assert_eq!(
            left(ready(&["b", "c"]), &["a"]).to_enter("a", 8, 3, false),
            ToEnter::Wait(Until::FinishedOrGone("b".to_owned()))
        );
    }

    #[test]
    fn the_first_stays_until_the_others_have_left_and_they_watch_it_alone() {
        let all = ready(&["a", "b", "c"]);
        assert_eq!(all.to_leave("a", 1, 0), ToLeave::SayLeft);
        assert_eq!(
            left(all.clone(), &["a"]).to_leave("a", 1, 0),
            ToLeave::Wait("c".to_owned())
        );
        assert_eq!(all.to_leave("c", 3, 0), ToLeave::Leave);
        assert_eq!(
            left(ready(&["a", "b"]), &["c"]).to_leave("c", 3, 0),
            ToLeave::Wait("a".to_owned())
        );
        assert_eq!(
            left(ready(&["a"]), &["a", "b", "c"]).to_leave("a", 1, 0),
            ToLeave::LeaveAsLast
        );
    }

    #[test]
    fn where_the_last_died_inside_those_who_left_end_the_generation() {
        assert_eq!(
            left(ready(&[]), &["a", "b"]).to_leave("a", 1, 0),
            ToLeave::Finish
        );
    }

    #[test]
    fn who_left_a_generation_that_is_over_is_outside() {
        let mut next = came(&["b"]);
        next.guard = 200;
        assert_eq!(next.to_leave("a", 1, 0), ToLeave::Over);
    }
}
