//! Promise 3: revisions "are the same on every member", and that a cluster that was healed serves again at every member.
//!
//! Judges the last look at the members. What they answer to reads is judged with all other reads; here is whether they
//! answer at all, and whether the hashes of all they keep are the same at one revision.

use std::collections::{BTreeMap, BTreeSet};

use crate::history::{Answer, History, Member, Request};
use crate::verdict::{Judgement, Violation};
use crate::workload::final_reads::FINAL;

/// The checker's name.
pub const CHECKER: &str = "final reads";

/// Judges a history.
pub fn judge(history: &History) -> Judgement {
    let mut judgement = Judgement::new(
        CHECKER,
        "Revisions are the same on every member; a healed cluster serves again at every member.",
    );
    let last = || history.operations.iter().filter(|op| op.workload == FINAL);
    let mut asked: BTreeMap<Member, BTreeSet<&str>> = BTreeMap::new();
    for operation in last() {
        let asked = asked.entry(operation.member).or_default();
        asked.insert(operation.request.name());
    }
    let mut hashes: BTreeMap<(i64, i64), (u32, u64, Member)> = BTreeMap::new();
    let answered = history.answered().filter(|(op, _)| op.workload == FINAL);
    for (operation, answer) in answered {
        if let Some(asked) = asked.get_mut(&operation.member) {
            asked.remove(operation.request.name());
        }
        match (&operation.request, answer) {
            (Request::Put(_), _) => judgement.count("members that took a write", 1),
            (Request::Range(_), _) => judgement.count("members that were read", 1),
            (Request::HashKv(request), Answer::HashKv(answer)) => {
                judgement.count("hashes", 1);
                let at = (request.revision, answer.compact_revision);
                let own = (answer.hash, operation.id, operation.member);
                let (hash, by, member) = *hashes.entry(at).or_insert(own);
                if hash == answer.hash {
                    continue;
                }
                judgement.violated(
                    Violation::new(format!(
                        "at revision {} the hash is {hash:x} at member {member} and {:x} at member {}",
                        request.revision, answer.hash, operation.member
                    ))
                    .by([by, operation.id])
                    .at_revision(request.revision)
                    .at(operation.returned),
                );
            }
            _ => {}
        }
    }
    for (member, unanswered) in asked {
        if !unanswered.is_empty() {
            let operations = last()
                .filter(|op| op.member == member && unanswered.contains(op.request.name()))
                .map(|op| op.id);
            judgement.violated(
                Violation::new(format!(
                    "member {member} answered no {} after everything was healed",
                    unanswered.iter().copied().collect::<Vec<_>>().join(", no ")
                ))
                .by(operations),
            );
        }
    }
    judgement
}
