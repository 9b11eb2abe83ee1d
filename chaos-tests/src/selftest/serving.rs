//! Mutations about leaders, hashes and how a cluster serves in the end.

use std::collections::BTreeSet;

use rand::Rng;
use rand::rngs::SmallRng;

use super::Mutation;
use super::honest::{self, Shape};
use crate::check::{hashes, leaders, liveness, lives};
use crate::history::{
    Answer, History, Member, MemberEvent, MemberStep, Nanos, Outcome, WatchEvent,
};
use crate::workload::final_reads::FINAL;
use crate::workload::witness::WITNESS;

/// The entries that members tell hashes of.
const ENTRIES: std::ops::Range<u64> = 1000..1050;

/// A history in which members were looked at from outside: in turn each leads for a term, and all tell what their state
/// hashes to.
pub fn history(seed: u64) -> History {
    let mut history = honest::history(seed, Shape::default());
    let mut at = lives::end(&history);
    for index in ENTRIES {
        let term = 10 + index / 20;
        for member in 1..=3 {
            let leads = term % 3 + 1 == member;
            let events = [
                MemberEvent::Status {
                    leads,
                    term,
                    applied_index: index,
                    revision: 1,
                },
                MemberEvent::StateHash {
                    index,
                    term,
                    hash: index.wrapping_mul(0x9e37_79b9_7f4a_7c15),
                },
            ];
            for event in events {
                at += 1;
                history.members.push(MemberStep { member, at, event });
            }
        }
    }
    history
}

/// A row of the table.
const fn row(
    name: &'static str,
    checker: &'static str,
    mutate: fn(&mut History, &mut SmallRng) -> bool,
) -> Mutation {
    Mutation {
        name,
        checker,
        history,
        mutate,
    }
}

/// All of them.
pub const MUTATIONS: &[Mutation] = &[
    row(
        "two members lead in one term",
        leaders::CHECKER,
        two_leaders,
    ),
    row(
        "a running member's term goes back while it is watched",
        leaders::CHECKER,
        term_back,
    ),
    row(
        "a member applies less than it had",
        leaders::CHECKER,
        applied_back,
    ),
    row("members part in their state", hashes::CHECKER, states_part),
    row(
        "a member applies an entry anew and otherwise",
        hashes::CHECKER,
        applied_otherwise,
    ),
    row(
        "members hash a revision differently",
        hashes::CHECKER,
        keys_part,
    ),
    row(
        "a member names another leader in the end",
        liveness::CHECKER,
        another_leader,
    ),
    row(
        "a member stays behind in the end",
        liveness::CHECKER,
        stays_behind,
    ),
    row("a member answers too late", liveness::CHECKER, too_late),
    row(
        "a watch of everything stops short of the end",
        liveness::CHECKER,
        blind_witness,
    ),
];

fn any_member(chance: &mut SmallRng) -> Member {
    chance.random_range(1..=3)
}

/// Changes what a member says of itself, from an entry on.
fn restate(
    history: &mut History,
    from: u64,
    mut change: impl FnMut(Member, &mut bool, &mut u64, &mut u64),
) {
    for step in &mut history.members {
        let member = step.member;
        if let MemberEvent::Status {
            leads,
            term,
            applied_index,
            ..
        } = &mut step.event
            && *applied_index >= from
        {
            change(member, leads, term, applied_index);
        }
    }
}

fn two_leaders(history: &mut History, chance: &mut SmallRng) -> bool {
    let member = any_member(chance);
    let mut led_already = false;
    let mut applied_while_leading = BTreeSet::new();
    restate(
        history,
        chance.random_range(1000..1045),
        |of, leads, _, applied| {
            if of == member {
                led_already |= *leads;
                *leads = true;
                applied_while_leading.insert(*applied);
            }
        },
    );
    // Who applies nothing may have been told of its leadership late.
    !led_already && applied_while_leading.len() > 1
}

fn term_back(history: &mut History, chance: &mut SmallRng) -> bool {
    let member = any_member(chance);
    restate(
        history,
        chance.random_range(1005..1050),
        |of, _, term, _| {
            if of == member {
                *term = 3;
            }
        },
    );
    true
}

fn applied_back(history: &mut History, chance: &mut SmallRng) -> bool {
    let member = any_member(chance);
    restate(
        history,
        chance.random_range(1005..1050),
        |of, _, _, applied| {
            if of == member {
                *applied = 2;
            }
        },
    );
    true
}

fn states_part(history: &mut History, chance: &mut SmallRng) -> bool {
    let (member, from) = (any_member(chance), chance.random_range(ENTRIES));
    for step in &mut history.members {
        if let MemberEvent::StateHash { index, hash, .. } = &mut step.event
            && step.member == member
            && *index >= from
        {
            *hash ^= 1;
        }
    }
    true
}

fn applied_otherwise(history: &mut History, chance: &mut SmallRng) -> bool {
    let (member, index) = (any_member(chance), chance.random_range(ENTRIES));
    let again = MemberEvent::StateHash {
        index,
        term: 10 + index / 20,
        hash: 0,
    };
    history.members.push(MemberStep {
        member,
        at: lives::end(history) + 1,
        event: again,
    });
    true
}

/// Changes an answer that a drawn member gave in the end.
fn change_final(
    history: &mut History,
    chance: &mut SmallRng,
    change: impl Fn(&mut Answer) -> bool,
) -> bool {
    let member = any_member(chance);
    let mut changed = false;
    for op in &mut history.operations {
        if op.workload == FINAL
            && op.member == member
            && let Outcome::Ok(answer) = &mut op.outcome
        {
            changed |= change(answer);
        }
    }
    changed
}

fn keys_part(history: &mut History, chance: &mut SmallRng) -> bool {
    change_final(history, chance, |answer| match answer {
        Answer::HashKv(answer) => {
            answer.hash ^= 1;
            true
        }
        _ => false,
    })
}

fn another_leader(history: &mut History, chance: &mut SmallRng) -> bool {
    change_final(history, chance, |answer| match answer {
        Answer::Status(status) => {
            status.leader += 1;
            true
        }
        _ => false,
    })
}

fn stays_behind(history: &mut History, chance: &mut SmallRng) -> bool {
    change_final(history, chance, |answer| match answer {
        Answer::Status(status) => {
            if let Some(header) = &mut status.header {
                header.revision -= 7;
            }
            true
        }
        _ => false,
    })
}

fn too_late(history: &mut History, chance: &mut SmallRng) -> bool {
    const TOO_LONG: Nanos = 40_000_000_000;
    let member = any_member(chance);
    let mut answers = history
        .operations
        .iter_mut()
        .filter(|op| op.member == member);
    let Some(first) = answers.next().map(|op| op.called) else {
        return false;
    };
    for op in history
        .operations
        .iter_mut()
        .filter(|op| op.member == member)
    {
        op.returned = first + TOO_LONG;
    }
    true
}

fn blind_witness(history: &mut History, chance: &mut SmallRng) -> bool {
    let member = any_member(chance);
    let own = |step: &crate::history::WatchStep| {
        let told = matches!(&step.step, WatchEvent::Received(told) if !told.events.is_empty());
        step.workload == WITNESS && step.member == member && told
    };
    let last = history.watches.iter().rposition(own);
    last.map(|last| history.watches.remove(last)).is_some()
}
