//! A cluster that nothing stands in the way of serves. No promise of the nine says so, and all of them are idle without it:
//! after the last fault is gone every member answers within a bound, all name one leader, and the watch of everything at each
//! member comes to the last write. What members hold then is judged where final reads are.

use std::collections::{BTreeMap, BTreeSet};

use baton_proto::etcdserverpb as pb;

use super::lives::{self, lives};
use crate::history::{Answer, History, Member, Nanos, Operation, Outcome, Request, WatchEvent};
use crate::verdict::{Judgement, Violation};
use crate::workload::final_reads::FINAL;
use crate::workload::witness::WITNESS;

/// Its name.
pub const CHECKER: &str = "liveness";

/// What it judges.
const PROMISE: &str =
    "A cluster that nothing stands in the way of has one leader, and every member serves.";

/// How long a member may take to answer after the last fault is gone.
const WITHIN: Nanos = 30_000_000_000;

/// Judges it for clusters of `members`. Facts: `members that answered again`, `members that name a leader in the end`,
/// `witnesses that saw the end`, `faults that left a quorum`, `faults that left a quorum and were served through`.
pub fn judge(history: &History, members: u64) -> Judgement {
    let mut judgement = Judgement::new(CHECKER, PROMISE);
    through_faults(history, members, &mut judgement);
    let closing: Vec<&Operation> = history
        .operations
        .iter()
        .filter(|op| op.workload == FINAL)
        .collect();
    // Who was asked in the end: in some runs a minority stays dead on purpose.
    let writes = closing
        .iter()
        .filter(|op| matches!(op.request, Request::Put(_)));
    let asked: BTreeSet<Member> = writes.map(|op| op.member).collect();
    if asked.is_empty() {
        let missing = "nobody asked the members to serve in the end";
        judgement.inconclusive.push(missing.into());
        return judgement;
    }
    let healed = lives(history).into_values().filter_map(|life| life.gone);
    let healed = healed.max().unwrap_or_default();
    let mut last = 0;
    for member in &asked {
        answers_in_time(history, *member, healed, &mut judgement);
        let answers = closing.iter().filter(|op| op.member == *member);
        let taken = answers.filter_map(|op| match &op.outcome {
            Outcome::Ok(Answer::Put(answer)) => Some(answer.header.unwrap_or_default().revision),
            _ => None,
        });
        last = taken.max().unwrap_or_default().max(last);
    }
    agree(&closing, &asked, last, &mut judgement);
    seen_by_witnesses(history, &asked, last, &mut judgement);
    judgement
}

/// Whether an operation needs a quorum to be answered.
fn needs_quorum(op: &Operation) -> bool {
    match &op.request {
        Request::Range(request) => !request.serializable,
        Request::Put(_) | Request::DeleteRange(_) | Request::Txn(_) => true,
        _ => false,
    }
}

fn is_ok(op: &Operation) -> bool {
    matches!(op.outcome, Outcome::Ok(_))
}

/// How many of the faults that left a quorum kept the cluster from answering anything.
fn through_faults(history: &History, members: u64, judgement: &mut Judgement) {
    for life in lives(history).into_values() {
        let (Some(proved), Some(healing)) = (life.proved, life.healing) else {
            continue;
        };
        let hit = life.members.len() as u64;
        if hit > (members - 1) / 2 {
            continue;
        }
        judgement.count("faults that left a quorum", 1);
        let served = history
            .operations
            .iter()
            .any(|op| is_ok(op) && needs_quorum(op) && proved < op.called && op.returned < healing);
        let fact = "faults that left a quorum and were served through";
        judgement.count(fact, usize::from(served));
    }
}

fn answers_in_time(history: &History, member: Member, healed: Nanos, judgement: &mut Judgement) {
    let ops = history.operations.iter();
    let ops = ops.filter(|op| op.member == member && needs_quorum(op) && op.returned >= healed);
    let ops: Vec<&Operation> = ops.collect();
    let Some(first) = ops.iter().map(|op| op.called).min() else {
        return;
    };
    let from = first.max(healed);
    let answered = ops.iter().filter(|op| is_ok(op)).map(|op| op.returned);
    // That it never does is for the checker of final reads to say.
    let Some(answered) = answered.min() else {
        return;
    };
    judgement.count("members that answered again", 1);
    let took = answered.saturating_sub(from);
    if took > WITHIN && !lives::stalled(history, from, answered) {
        let what = format!(
            "member {member} answered {} ms after all faults were gone",
            took / 1_000_000
        );
        judgement.violated(Violation::new(what).at(answered));
    }
}

/// Whether members say the same in the end.
fn agree(closing: &[&Operation], asked: &BTreeSet<Member>, last: i64, judgement: &mut Judgement) {
    let mut statuses: BTreeMap<Member, &pb::StatusResponse> = BTreeMap::new();
    for op in closing {
        if let Outcome::Ok(Answer::Status(status)) = &op.outcome {
            statuses.insert(op.member, status);
        }
    }
    for member in asked {
        let Some(status) = statuses.get(member) else {
            let what = format!("member {member} does not say how it is");
            judgement.violated(Violation::new(what));
            continue;
        };
        if status.leader == 0 {
            let what = format!("member {member} knows of no leader, though all faults are gone");
            judgement.violated(Violation::new(what));
        }
        let revision = status.header.unwrap_or_default().revision;
        if revision < last {
            let what = format!("member {member} is at revision {revision}, not at {last}");
            judgement.violated(Violation::new(what).at_revision(last));
        }
        judgement.count("members that name a leader in the end", 1);
    }
    let leaders: BTreeSet<u64> = statuses.values().map(|status| status.leader).collect();
    if leaders.len() > 1 {
        let views: Vec<String> = statuses
            .iter()
            .map(|(member, status)| format!("{member}: {:x}", status.leader))
            .collect();
        let what = format!("members name different leaders: {}", views.join(", "));
        judgement.violated(Violation::new(what));
    }
}

fn seen_by_witnesses(
    history: &History,
    asked: &BTreeSet<Member>,
    last: i64,
    judgement: &mut Judgement,
) {
    let mut seen: BTreeMap<Member, i64> = BTreeMap::new();
    for step in &history.watches {
        let WatchEvent::Received(response) = &step.step else {
            continue;
        };
        if step.workload == WITNESS
            && let Some(kv) = response.events.last().and_then(|event| event.kv.as_ref())
        {
            let seen = seen.entry(step.member).or_default();
            *seen = kv.mod_revision.max(*seen);
        }
    }
    for member in asked {
        let seen = seen.get(member).copied().unwrap_or_default();
        if seen >= last {
            judgement.count("witnesses that saw the end", 1);
        } else {
            let what = format!(
                "the witness at member {member} saw everything up to revision {seen}, not to {last}"
            );
            judgement.violated(Violation::new(what).at_revision(last));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{FaultStep, Phase, Record, WatchStep};
    use crate::workload::witness;
    use baton_proto::mvccpb::{Event, KeyValue};

    const SECOND: Nanos = 1_000_000_000;

    /// What a member says in the end.
    struct Final {
        /// When it takes a write.
        answers: Nanos,
        leader: u64,
        revision: i64,
        seen: i64,
    }

    impl Default for Final {
        fn default() -> Self {
            Self {
                answers: 12 * SECOND,
                leader: 0xa1,
                revision: 9,
                seen: 9,
            }
        }
    }

    fn header(revision: i64) -> Option<pb::ResponseHeader> {
        Some(pb::ResponseHeader {
            revision,
            ..Default::default()
        })
    }

    /// A run with a fault that is gone after ten seconds.
    fn judged(finals: [Final; 3]) -> Judgement {
        let mut records = Vec::new();
        for (at, phase) in [
            (SECOND, Phase::Installing),
            (2 * SECOND, Phase::Proved("shown".into())),
            (9 * SECOND, Phase::Healing),
            (10 * SECOND, Phase::Healed("shown".into())),
        ] {
            records.push(Record::Fault(FaultStep {
                fault: 0,
                kind: "isolate".into(),
                members: vec![1],
                at,
                phase,
            }));
        }
        let mut id = 0;
        let mut add = |member, called, returned, request: Request, outcome| {
            id += 1;
            records.push(Record::Operation(Operation {
                id,
                workload: FINAL.into(),
                client: 1,
                member,
                called,
                returned,
                request,
                outcome,
            }));
        };
        for (member, last) in (1..).zip(&finals) {
            let put = Request::from(pb::PutRequest::default());
            let answer = pb::PutResponse {
                header: header(9),
                prev_kv: None,
            };
            let outcome = Outcome::Ok(Answer::Put(answer));
            add(member, 11 * SECOND, last.answers, put, outcome);
            let status = pb::StatusResponse {
                header: header(last.revision),
                leader: last.leader,
                ..Default::default()
            };
            let status = Outcome::Ok(Answer::Status(status));
            let ask = pb::StatusRequest::default().into();
            add(member, 61 * SECOND, 62 * SECOND, ask, status);
        }
        for (member, last) in (1..).zip(&finals) {
            let kv = KeyValue {
                mod_revision: last.seen,
                ..Default::default()
            };
            let event = Event {
                kv: Some(kv),
                ..Default::default()
            };
            records.push(Record::Watch(WatchStep {
                workload: witness::WITNESS.into(),
                watcher: 1,
                member,
                at: 65 * SECOND,
                step: WatchEvent::Received(pb::WatchResponse {
                    events: vec![event],
                    ..Default::default()
                }),
            }));
        }
        judge(&History::of(records), 3)
    }

    fn but(last: Final) -> [Final; 3] {
        [Final::default(), Final::default(), last]
    }

    #[test]
    fn a_cluster_that_serves_in_the_end_passes() {
        let judged = judged(but(Final::default()));
        assert_eq!(judged.violations, []);
        assert_eq!(judged.inconclusive, [""; 0]);
        assert_eq!(judged.facts["members that answered again"], 3);
        assert_eq!(judged.facts["witnesses that saw the end"], 3);
        assert_eq!(judged.facts["faults that left a quorum"], 1);
    }

    #[test]
    fn every_way_not_to_serve_in_the_end_is_found() {
        let too_late = Final {
            answers: 50 * SECOND,
            ..Final::default()
        };
        let knows_no_leader = Final {
            leader: 0,
            ..Final::default()
        };
        let names_another_leader = Final {
            leader: 0xa2,
            ..Final::default()
        };
        let stays_behind = Final {
            revision: 8,
            ..Final::default()
        };
        let its_witness_missed_the_end = Final {
            seen: 8,
            ..Final::default()
        };
        for last in [
            too_late,
            knows_no_leader,
            names_another_leader,
            stays_behind,
            its_witness_missed_the_end,
        ] {
            assert!(!judged(but(last)).violations.is_empty());
        }
    }

    #[test]
    fn a_run_that_is_not_closed_is_inconclusive() {
        assert_eq!(judge(&History::default(), 3).inconclusive.len(), 1);
    }
}
