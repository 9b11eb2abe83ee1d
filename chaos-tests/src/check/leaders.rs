//! "Reads and transactions are linearizable by default" — which needs at most one leader in each term, and members that never
//! go back in what they have voted for and applied.
//!
//! A member tells its term and whether it leads in one answer, but servers do not read the two in one moment: etcd's term is
//! that of the last entry it applied, which a new leader has not got yet. So a member counts as the leader of a term only if
//! it said so twice, and had applied more the second time.

use std::collections::{BTreeMap, BTreeSet};

use crate::history::{Answer, History, Member, MemberEvent, Nanos};
use crate::verdict::{Judgement, Violation};

/// Its name.
pub const CHECKER: &str = "leaders";

/// What it judges.
const PROMISE: &str = "Reads and transactions are linearizable by default: there is at most one leader in a term, and no \
     member goes back in its term, in what it knows to be committed or in what it has applied while it runs.";

/// What a member said of itself.
#[derive(Debug, Clone, Copy)]
struct Said {
    member: Member,
    /// From when on it can have been true.
    from: Nanos,
    at: Nanos,
    leads: bool,
    term: u64,
    /// The last index it knows to be committed, if that was asked for.
    committed: Option<u64>,
    applied: u64,
}

/// Judges it. Facts: `statuses`, `terms`, `changes` (of leader), `members that led`.
pub fn judge(history: &History) -> Judgement {
    let mut judgement = Judgement::new(CHECKER, PROMISE);
    let mut said = said(history);
    said.sort_by_key(|said| said.at);
    judgement.count("statuses", said.len());
    one_per_term(&said, &mut judgement);
    never_back(history, &said, &mut judgement);
    judgement
}

fn said(history: &History) -> Vec<Said> {
    // A member is looked at again only after it was seen; when it was asked is not recorded.
    let mut looked: BTreeMap<Member, Nanos> = BTreeMap::new();
    let seen = history.members.iter().filter_map(|step| match step.event {
        MemberEvent::Status {
            leads,
            term,
            applied_index,
            ..
        } => Some(Said {
            member: step.member,
            from: looked.insert(step.member, step.at).unwrap_or_default(),
            at: step.at,
            leads,
            term,
            committed: None,
            applied: applied_index,
        }),
        _ => None,
    });
    let told = history.answered().filter_map(|(op, answer)| match answer {
        Answer::Status(status) => {
            let id = status.header.unwrap_or_default().member_id;
            Some(Said {
                member: op.member,
                from: op.called,
                at: op.returned,
                leads: id != 0 && status.leader == id,
                term: status.raft_term,
                committed: Some(status.raft_index),
                applied: status.raft_applied_index,
            })
        }
        _ => None,
    });
    let seen: Vec<Said> = seen.collect();
    seen.into_iter().chain(told).collect()
}

fn one_per_term(said: &[Said], judgement: &mut Judgement) {
    // By term and member: what it had applied whenever it said that it leads, and when it last did.
    let mut claims: BTreeMap<u64, BTreeMap<Member, (BTreeSet<u64>, Nanos)>> = BTreeMap::new();
    for said in said.iter().filter(|said| said.leads) {
        let term = claims.entry(said.term).or_default();
        let (applied, at) = term.entry(said.member).or_default();
        applied.insert(said.applied);
        *at = said.at;
    }
    let mut led: BTreeSet<Member> = BTreeSet::new();
    for (term, claims) in &claims {
        let leaders: Vec<(Member, Nanos)> = claims
            .iter()
            .filter(|(_, (applied, _))| applied.len() > 1)
            .map(|(member, (_, at))| (*member, *at))
            .collect();
        led.extend(claims.keys());
        if let [(one, _), (other, at), ..] = leaders[..] {
            let what = format!("members {one} and {other} both lead in term {term}");
            judgement.violated(Violation::new(what).at(at));
        }
    }
    judgement.count("terms", claims.len());
    judgement.count("changes", claims.len().saturating_sub(1));
    judgement.count("members that led", led.len());
}

fn never_back(history: &History, said: &[Said], judgement: &mut Judgement) {
    let members: BTreeSet<Member> = said.iter().map(|said| said.member).collect();
    for member in members {
        let turns: Vec<Nanos> = history
            .members
            .iter()
            .filter(|step| step.member == member)
            .filter(|step| {
                matches!(
                    step.event,
                    MemberEvent::Started { .. } | MemberEvent::Ended { .. }
                )
            })
            .map(|step| step.at)
            .collect();
        // How often it had been started or had ended: the same number, the same run of the process.
        let run = |at: Nanos| turns.iter().filter(|turn| **turn <= at).count();
        let own: Vec<&Said> = said.iter().filter(|said| said.member == member).collect();
        for run_of in own.chunk_by(|a, b| run(a.at) == run(b.at)) {
            // An answer that was asked for before a start may still be of the process before.
            let settled: Vec<&&Said> = run_of
                .iter()
                .filter(|said| run(said.from) == run(said.at))
                .collect();
            if let Some(violation) = goes_back(&settled) {
                judgement.violated(violation);
            }
        }
    }
}

/// Whether an answer is behind one that had come before it was asked for.
fn goes_back(run: &[&&Said]) -> Option<Violation> {
    let mut term = 0;
    let mut committed = 0;
    let mut applied = 0;
    let mut known = 0;
    let mut asked: Vec<&&&Said> = run.iter().collect();
    asked.sort_by_key(|said| said.from);
    for said in asked {
        while let Some(before) = run.get(known).filter(|before| before.at <= said.from) {
            term = term.max(before.term);
            committed = committed.max(before.committed.unwrap_or_default());
            applied = applied.max(before.applied);
            known += 1;
        }
        let member = said.member;
        let (what, now, before) = if said.term < term {
            ("term", said.term, term)
        } else if let Some(now) = said.committed.filter(|now| *now < committed) {
            ("committed index", now, committed)
        } else if said.applied < applied {
            ("applied index", said.applied, applied)
        } else {
            continue;
        };
        let what = format!("the {what} of member {member} goes back from {before} to {now}");
        return Some(Violation::new(what).at(said.at));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{MemberStep, Operation, Outcome, Record};
    use baton_proto::etcdserverpb as pb;

    fn status(leads: bool, term: u64, applied_index: u64) -> MemberEvent {
        MemberEvent::Status {
            leads,
            term,
            applied_index,
            revision: 1,
        }
    }

    fn judged(steps: &[(Member, MemberEvent)]) -> Judgement {
        let records = steps.iter().zip(1..).map(|((member, event), at)| {
            Record::Member(MemberStep {
                member: *member,
                at,
                event: event.clone(),
            })
        });
        judge(&History::of(records))
    }

    #[test]
    fn leaders_of_different_terms_are_counted_as_changes() {
        let judged = judged(&[
            (1, status(true, 2, 10)),
            (1, status(true, 2, 11)),
            (2, status(true, 3, 12)),
            (2, status(true, 3, 13)),
            (1, status(false, 3, 13)),
        ]);
        assert_eq!(judged.violations, []);
        assert_eq!(judged.facts["changes"], 1);
        assert_eq!(judged.facts["members that led"], 2);
    }

    #[test]
    fn two_leaders_of_one_term_are_found() {
        let judged = judged(&[
            (1, status(true, 2, 10)),
            (2, status(true, 2, 10)),
            (1, status(true, 2, 11)),
            (2, status(true, 2, 12)),
        ]);
        assert_eq!(judged.violations.len(), 1);
    }

    #[test]
    fn a_new_leader_that_has_not_applied_its_term_yet_is_not_blamed() {
        let judged = judged(&[
            (1, status(true, 2, 10)),
            (1, status(true, 2, 11)),
            (2, status(true, 2, 11)),
            (2, status(true, 3, 12)),
        ]);
        assert_eq!(judged.violations, []);
    }

    #[test]
    fn a_member_that_forgets_what_was_committed_is_found() {
        let told = |id, raft_index| {
            let status = pb::StatusResponse {
                raft_index,
                ..Default::default()
            };
            Record::Operation(Operation {
                id,
                workload: "maintenance".into(),
                client: 1,
                member: 1,
                called: 10 * id,
                returned: 10 * id + 5,
                request: pb::StatusRequest::default().into(),
                outcome: Outcome::Ok(Answer::Status(status)),
            })
        };
        let judged = |indexes: [u64; 3]| {
            let told = (1..).zip(indexes).map(|(id, index)| told(id, index));
            judge(&History::of(told)).violations
        };
        assert_eq!(judged([7, 7, 9]), []);
        let found = judged([7, 9, 8]);
        assert_eq!(found.len(), 1);
        assert!(found[0].what.contains("committed index"), "{found:?}");
    }

    #[test]
    fn a_member_that_goes_back_is_found_unless_it_was_started_again() {
        let started = MemberEvent::Started { pid: 1 };
        for back in [status(false, 1, 12), status(false, 2, 9)] {
            let steps = [(1, status(false, 2, 10)), (1, back.clone())];
            assert_eq!(judged(&steps).violations.len(), 1);
            let steps = [
                (1, status(false, 2, 10)),
                (1, started.clone()),
                (1, back.clone()),
                (1, back),
            ];
            assert_eq!(judged(&steps).violations, []);
        }
    }
}
