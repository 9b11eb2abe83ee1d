//! How far history may have been forgotten, and how far it certainly was.

use crate::check::lives::lives;
use crate::history::{History, Member, MemberEvent, Nanos, Outcome, Request};

/// The compactions of a run.
#[derive(Debug, Default)]
pub struct Compactions {
    asked: Vec<Asked>,
    starts: Vec<(Member, Nanos)>,
    /// Whether there may be others than those in the history.
    unknown: bool,
}

#[derive(Debug)]
struct Asked {
    member: Member,
    revision: i64,
    called: Nanos,
    /// When it was certainly done.
    done: Option<Nanos>,
}

impl Compactions {
    /// Those of a history; `by_itself` if the servers also compact unasked.
    pub fn of(history: &History, by_itself: bool) -> Self {
        let mut asked = Vec::new();
        for op in &history.operations {
            let Request::Compact(request) = &op.request else {
                continue;
            };
            let done = match op.outcome {
                Outcome::Ok(_) => Some(op.returned),
                Outcome::Unknown(_) => None,
                Outcome::Failed(_) => continue,
            };
            asked.push(Asked {
                member: op.member,
                revision: request.revision,
                called: op.called,
                done,
            });
        }
        let starts = history.members.iter().filter_map(|step| match step.event {
            MemberEvent::Started { .. } => Some((step.member, step.at)),
            _ => None,
        });
        // A fault that compacts asks as a client does; one that left no such call is not known to the last detail.
        let faults = lives(history);
        let mut made = faults.values().filter(|life| life.kind == "compact");
        let unknown = by_itself || made.any(|_| !asked.iter().any(|asked| asked.done.is_some()));
        Self {
            asked,
            starts: starts.collect(),
            unknown,
        }
    }

    /// Whether history may have been compacted at `revision` or later, at time `at`.
    pub fn may_reach(&self, revision: i64, at: Nanos) -> bool {
        let reaches = |asked: &Asked| asked.revision >= revision && asked.called < at;
        self.unknown || self.asked.iter().any(reaches)
    }

    /// Whether history may have been compacted at just this revision, at time `at`.
    pub fn may_be_at(&self, revision: i64, at: Nanos) -> bool {
        let there = |asked: &Asked| asked.revision == revision && asked.called < at;
        self.unknown || self.asked.iter().any(there)
    }

    /// The revision up to which `member` has certainly compacted at time `at`: it said so since it was started.
    pub fn floor(&self, member: Member, at: Nanos) -> i64 {
        let starts = self.starts.iter().filter(|(of, _)| *of == member);
        let up_since = starts.map(|(_, start)| *start).filter(|start| *start <= at);
        let up_since = up_since.max().unwrap_or_default();
        let done = self.asked.iter().filter(|asked| {
            let done = asked.done.is_some_and(|done| done < at);
            asked.member == member && done && up_since <= asked.called
        });
        done.map(|asked| asked.revision).max().unwrap_or_default()
    }
}
