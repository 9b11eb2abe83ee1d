//! Mutations about reads at old revisions and the last look at a cluster.

use baton_proto::etcdserverpb as pb;
use rand::Rng;
use rand::rngs::SmallRng;

use super::Mutation;
use super::evidence::{change_answer, draw};
use super::honest::{self, COMPACTED, FUTURE, Shape};
use crate::check::known::Known;
use crate::check::{effects, final_reads, old_revisions};
use crate::history::{Answer, History, Outcome, Request};
use crate::workload::final_reads::FINAL;

fn history(seed: u64) -> History {
    honest::history(seed, Shape::default())
}

/// All of them.
pub const MUTATIONS: &[Mutation] = &[
    Mutation {
        name: "a revision that is not compacted is refused",
        checker: old_revisions::CHECKER,
        history,
        mutate: refuse_as_compacted,
    },
    Mutation {
        name: "a revision that is there is refused",
        checker: old_revisions::CHECKER,
        history,
        mutate: refuse_as_future,
    },
    Mutation {
        name: "a compacted revision is read",
        checker: old_revisions::CHECKER,
        history,
        mutate: read_compacted,
    },
    Mutation {
        name: "a member has another hash",
        checker: final_reads::CHECKER,
        history,
        mutate: other_hash,
    },
    Mutation {
        name: "a member takes no write after everything was healed",
        checker: final_reads::CHECKER,
        history,
        mutate: no_write,
    },
];

/// The highest revision at which history was compacted.
fn floor(history: &History) -> i64 {
    let compactions = history.operations.iter().filter_map(|operation| {
        if let Request::Compact(request) = &operation.request {
            return Some(request.revision);
        }
        None
    });
    compactions.max().unwrap_or_default()
}

fn refuse_as_compacted(history: &mut History, chance: &mut SmallRng) -> bool {
    let floor = floor(history);
    let drawn = draw(history, chance, |operation| {
        let revisions = effects::old_revisions(&operation.request);
        matches!(operation.outcome, Outcome::Ok(_))
            && !revisions.is_empty()
            && revisions.iter().all(|revision| *revision >= floor)
    });
    drawn.is_some_and(|at| {
        history.operations[at].outcome = Outcome::Failed(honest::error(11, COMPACTED));
        true
    })
}

fn refuse_as_future(history: &mut History, chance: &mut SmallRng) -> bool {
    let known = Known::of(history);
    let drawn = draw(history, chance, |operation| {
        let revisions = effects::old_revisions(&operation.request);
        let there = known.before(operation.called);
        matches!(operation.outcome, Outcome::Ok(_))
            && !effects::may_be_old(&operation.request)
            && !revisions.is_empty()
            && revisions.iter().all(|revision| *revision <= there)
    });
    drawn.is_some_and(|at| {
        history.operations[at].outcome = Outcome::Failed(honest::error(11, FUTURE));
        true
    })
}

fn read_compacted(history: &mut History, chance: &mut SmallRng) -> bool {
    let drawn = draw(history, chance, |operation| {
        let compacted = |error: &crate::history::Error| error.message == COMPACTED;
        matches!(&operation.request, Request::Range(range) if !range.serializable)
            && matches!(&operation.outcome, Outcome::Failed(error) if compacted(error))
    });
    drawn.is_some_and(|at| {
        let answer = pb::RangeResponse {
            header: Some(honest::header(1, Known::of(history).before(u64::MAX))),
            ..Default::default()
        };
        history.operations[at].outcome = Outcome::Ok(Answer::Range(answer));
        true
    })
}

fn other_hash(history: &mut History, chance: &mut SmallRng) -> bool {
    change_answer(history, chance, |_, answer| {
        let Answer::HashKv(answer) = answer else {
            return false;
        };
        answer.hash += 1;
        true
    })
}

fn no_write(history: &mut History, chance: &mut SmallRng) -> bool {
    let member = chance.random_range(1..=3);
    for operation in &mut history.operations {
        let put = matches!(operation.request, Request::Put(_));
        if operation.workload == FINAL && operation.member == member && put {
            operation.outcome = Outcome::Unknown(honest::error(4, "no answer in time"));
        }
    }
    true
}
