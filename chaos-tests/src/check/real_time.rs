//! Promise 2: "Reads and transactions are linearizable by default; serializable reads are never ahead and never go back on
//! one member."
//!
//! Revisions order everything, so that it is enough to compare them with the order in time: what is called after a revision
//! was known to be made is of a greater revision if it writes, and of that or a greater one if it reads. That an answer is
//! what its revision says is the business of [`super::revisions`].

use std::collections::BTreeMap;

use super::effects::{self, Kind};
use super::known::Known;
use crate::history::{Answer, History, Member, MemberEvent, Nanos, Operation};
use crate::verdict::{Judgement, Violation};

/// The checker's name.
pub const CHECKER: &str = "real time";

/// Reads that are compared.
const READS: &str = "linearizable reads ordered";

/// So many of them count a member as one that was read.
const ENOUGH: usize = 10;

/// Judges a history. Facts: `writes ordered`, `linearizable reads ordered`, `members that were read`, `headers compared`.
pub fn judge(history: &History) -> Judgement {
    let mut judgement = Judgement::new(
        CHECKER,
        "Reads and transactions are linearizable by default; serializable reads are never ahead and never go back on \
         one member.",
    );
    against_the_floor(history, &mut judgement);
    per_member(history, &mut judgement);
    judgement
}

/// Whether every write is newer, and every read not older, than what was known when it was called.
fn against_the_floor(history: &History, judgement: &mut Judgement) {
    let known = Known::of(history);
    let mut reads: BTreeMap<Member, usize> = BTreeMap::new();
    for (operation, answer) in history.answered() {
        let revision = answer.header().revision;
        let floor = known.before(operation.called);
        let (fact, kept, what) = match effects::kind(operation) {
            Some(Kind::Write) => ("writes ordered", revision > floor, "made"),
            Some(Kind::Read) => (READS, revision >= floor, "read"),
            Some(Kind::SerializableRead) | None => continue,
        };
        judgement.count(fact, 1);
        *reads.entry(operation.member).or_default() += usize::from(fact == READS);
        if !kept {
            let proof = history
                .answered()
                .find(|(op, answer)| {
                    op.returned < operation.called && answer.header().revision == floor
                })
                .map(|(op, _)| op.id);
            judgement.violated(
                Violation::new(format!(
                    "{} {} of client {} {what} revision {revision} at member {}, though revision {floor} was known \
                     before it was called",
                    operation.request.name(),
                    operation.id,
                    operation.client,
                    operation.member,
                ))
                .by(proof.into_iter().chain([operation.id]))
                .at_revision(revision)
                .at(operation.returned),
            );
        }
    }
    let read = reads.values().filter(|reads| **reads >= ENOUGH);
    judgement.count("members that were read", read.count());
}

/// What the headers of one member have shown so far.
#[derive(Debug, Default)]
struct Shown {
    /// When it was last started or ended.
    since: Nanos,
    revision: i64,
    term: u64,
    /// The operation that showed the revision.
    by: u64,
    member_id: u64,
}

enum Moment<'a> {
    Called(&'a Operation),
    Returned(&'a Operation, &'a Answer),
    Restarted(Member),
}

/// Whether the headers of each member stay what they were and do not go back from when it is started until it ends.
fn per_member(history: &History, judgement: &mut Judgement) {
    let mut moments: Vec<(Nanos, u8, Moment<'_>)> = Vec::new();
    for step in &history.members {
        if let MemberEvent::Started { .. } | MemberEvent::Ended { .. } = step.event {
            moments.push((step.at, 0, Moment::Restarted(step.member)));
        }
    }
    for (operation, answer) in history.answered() {
        if effects::kind(operation).is_some() {
            moments.push((operation.called, 1, Moment::Called(operation)));
            moments.push((operation.returned, 2, Moment::Returned(operation, answer)));
        }
    }
    moments.sort_by_key(|(at, order, _)| (*at, *order));

    let mut members: BTreeMap<Member, Shown> = BTreeMap::new();
    let mut floors: BTreeMap<u64, (Nanos, i64, u64, u64)> = BTreeMap::new();
    let mut cluster = 0;
    for (at, _, moment) in moments {
        match moment {
            Moment::Restarted(member) => {
                let shown = members.entry(member).or_default();
                *shown = Shown {
                    since: at,
                    member_id: shown.member_id,
                    ..Shown::default()
                };
            }
            Moment::Called(operation) => {
                let shown = members.entry(operation.member).or_default();
                let floor = (shown.since, shown.revision, shown.term, shown.by);
                floors.insert(operation.id, floor);
            }
            Moment::Returned(operation, answer) => {
                let header = answer.header();
                let shown = members.entry(operation.member).or_default();
                let Some((since, revision, term, by)) = floors.remove(&operation.id) else {
                    continue;
                };
                if since != shown.since {
                    continue;
                }
                judgement.count("headers compared", 1);
                let mut wrong = Vec::new();
                if header.revision < revision {
                    wrong.push(format!(
                        "revision went back from {revision} to {}",
                        header.revision
                    ));
                }
                if header.raft_term < term {
                    wrong.push(format!(
                        "term went back from {term} to {}",
                        header.raft_term
                    ));
                }
                if shown.member_id != 0 && shown.member_id != header.member_id {
                    wrong.push(format!("id changed to {:x}", header.member_id));
                }
                if cluster != 0 && cluster != header.cluster_id {
                    wrong.push(format!("cluster changed to {:x}", header.cluster_id));
                }
                for wrong in wrong {
                    judgement.violated(
                        Violation::new(format!("the {wrong} at member {}", operation.member))
                            .by([by, operation.id].into_iter().filter(|id| *id != 0))
                            .at_revision(header.revision)
                            .at(operation.returned),
                    );
                }
                if header.revision > shown.revision {
                    shown.revision = header.revision;
                    shown.by = operation.id;
                }
                shown.term = shown.term.max(header.raft_term);
                shown.member_id = header.member_id;
                cluster = header.cluster_id;
            }
        }
    }
}
