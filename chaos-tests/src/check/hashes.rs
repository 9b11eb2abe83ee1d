//! "Revisions are unique, grow by one per changing request, and are the same on every member."
//!
//! Members that apply the same log have the same state after each entry of it, whenever and however often they apply it.

use std::collections::BTreeMap;

use baton_proto::etcdserverpb::AlarmType;

use crate::history::{Answer, History, Member, MemberEvent, Nanos, Request};
use crate::verdict::{Judgement, Violation};

/// Its name.
pub const CHECKER: &str = "hashes";

/// What it judges.
const PROMISE: &str =
    "Revisions are unique, grow by one per changing request, and are the same on every member.";

/// Judges it. Facts: `state hashes`, `indexes compared`, `HashKV`, `revisions compared`, `alarms read`.
pub fn judge(history: &History) -> Judgement {
    let mut judgement = Judgement::new(CHECKER, PROMISE);
    states(history, &mut judgement);
    key_spaces(history, &mut judgement);
    alarms(history, &mut judgement);
    judgement
}

/// The first to say something of a place in the log, and whether another member said it too.
struct First<T> {
    member: Member,
    said: T,
    confirmed: bool,
}

fn states(history: &History, judgement: &mut Judgement) {
    let mut indexes: BTreeMap<u64, First<(u64, u64)>> = BTreeMap::new();
    let mut parted: Option<(u64, Violation)> = None;
    for step in &history.members {
        let MemberEvent::StateHash { index, term, hash } = step.event else {
            continue;
        };
        judgement.count("state hashes", 1);
        let first = indexes.entry(index).or_insert(First {
            member: step.member,
            said: (term, hash),
            confirmed: false,
        });
        if first.said == (term, hash) {
            first.confirmed |= first.member != step.member;
            continue;
        }
        // What comes after the first entry at which they part differs because of it.
        if parted.as_ref().is_none_or(|(before, _)| index < *before) {
            let (other_term, other) = first.said;
            let what = format!(
                "after index {index} the state of member {} is {hash:016x} (term {term}), that of member {} {other:016x} (term {other_term})",
                step.member, first.member
            );
            parted = Some((index, Violation::new(what).at(step.at)));
        }
    }
    let compared = indexes.values().filter(|first| first.confirmed);
    judgement.count("indexes compared", compared.count());
    if let Some((_, violation)) = parted {
        judgement.violated(violation);
    }
}

fn key_spaces(history: &History, judgement: &mut Judgement) {
    let mut hashes: BTreeMap<(i64, i64), (First<u32>, u64)> = BTreeMap::new();
    for (op, answer) in history.answered() {
        let (Request::HashKv(request), Answer::HashKv(answer)) = (&op.request, answer) else {
            continue;
        };
        judgement.count("HashKV", 1);
        // Which revision it is of: newer servers say it, others hash what was asked for, or the newest.
        let said = [answer.hash_revision, request.revision];
        let newest = answer.header.unwrap_or_default().revision;
        let revision = said.into_iter().find(|revision| *revision != 0);
        let revision = revision.unwrap_or(newest);
        let place = (revision, answer.compact_revision);
        let (first, by) = hashes.entry(place).or_insert((
            First {
                member: op.member,
                said: answer.hash,
                confirmed: false,
            },
            op.id,
        ));
        if first.said == answer.hash {
            first.confirmed |= first.member != op.member;
            continue;
        }
        let what = format!(
            "the keys at revision {revision}, compacted at {}, hash to {} at member {} and to {} at member {}",
            answer.compact_revision, answer.hash, op.member, first.said, first.member
        );
        judgement.violated(
            Violation::new(what)
                .by([*by, op.id])
                .at_revision(revision)
                .at(op.returned),
        );
    }
    let compared = hashes.values().filter(|(first, _)| first.confirmed);
    judgement.count("revisions compared", compared.count());
}

/// A server that compares its own members says so.
fn alarms(history: &History, judgement: &mut Judgement) {
    let mut raised: BTreeMap<u64, (u64, Nanos)> = BTreeMap::new();
    for (op, answer) in history.answered() {
        let Answer::Alarm(answer) = answer else {
            continue;
        };
        judgement.count("alarms read", 1);
        for alarm in &answer.alarms {
            if alarm.alarm == AlarmType::Corrupt as i32 {
                let first = (op.id, op.returned);
                raised.entry(alarm.member_id).or_insert(first);
            }
        }
    }
    for (id, (op, at)) in raised {
        let what = format!("the member with id {id:x} is called corrupt by an alarm");
        judgement.violated(Violation::new(what).by([op]).at(at));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{MemberStep, Operation, Outcome, Record};
    use baton_proto::etcdserverpb as pb;

    fn state(member: Member, index: u64, hash: u64) -> Record {
        Record::Member(MemberStep {
            member,
            at: index,
            event: MemberEvent::StateHash {
                index,
                term: 1,
                hash,
            },
        })
    }

    fn answered(member: Member, request: Request, answer: Answer) -> Record {
        Record::Operation(Operation {
            id: member,
            workload: "maintenance".into(),
            client: 1,
            member,
            called: 1,
            returned: 2,
            request,
            outcome: Outcome::Ok(answer),
        })
    }

    fn hash_kv(member: Member, compact_revision: i64, hash: u32) -> Record {
        let answer = pb::HashKvResponse {
            hash,
            compact_revision,
            ..Default::default()
        };
        let request = pb::HashKvRequest { revision: 9 };
        answered(member, request.into(), Answer::HashKv(answer))
    }

    #[test]
    fn equal_hashes_are_compared_and_pass() {
        let records = [1, 2, 3].map(|member| state(member, 7, 0xabc));
        let keys = [1, 2, 3].map(|member| hash_kv(member, 2, 5));
        let judged = judge(&History::of(records.into_iter().chain(keys)));
        assert_eq!(judged.violations, []);
        assert_eq!(judged.facts["indexes compared"], 1);
        assert_eq!(judged.facts["revisions compared"], 1);
    }

    #[test]
    fn the_first_index_at_which_members_part_is_named() {
        let one = (5..10).map(|index| state(1, index, index));
        let other = (5..10).map(|index| state(2, index, index + u64::from(index >= 7)));
        let judged = judge(&History::of(one.chain(other)));
        assert_eq!(judged.violations.len(), 1);
        assert!(judged.violations[0].what.starts_with("after index 7 "));
    }

    #[test]
    fn a_member_that_applies_an_entry_anew_and_differently_is_found() {
        let judged = judge(&History::of([state(1, 5, 1), state(1, 5, 2)]));
        assert_eq!(judged.violations.len(), 1);
    }

    #[test]
    fn key_spaces_are_compared_only_if_they_are_compacted_alike() {
        let alike = judge(&History::of([hash_kv(1, 2, 5), hash_kv(2, 2, 6)]));
        assert_eq!(alike.violations.len(), 1);
        let not_alike = judge(&History::of([hash_kv(1, 2, 5), hash_kv(2, 3, 6)]));
        assert_eq!(not_alike.violations, []);
    }

    #[test]
    fn an_alarm_of_corruption_is_a_violation() {
        let alarm = pb::AlarmMember {
            member_id: 7,
            alarm: AlarmType::Corrupt as i32,
        };
        let answer = pb::AlarmResponse {
            header: None,
            alarms: vec![alarm],
        };
        let request = pb::AlarmRequest::default().into();
        let judged = judge(&History::of([answered(1, request, Answer::Alarm(answer))]));
        assert_eq!(judged.violations.len(), 1);
    }
}
