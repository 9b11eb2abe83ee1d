//! Servers do not end by themselves and do not complain of themselves, unless a fault gave them reason to.

use crate::history::{History, MemberEvent};
use crate::verdict::{Judgement, Violation};

/// Its name.
pub const CHECKER: &str = "processes";

/// What it judges.
const PROMISE: &str = "Bad input is refused with the contract's error; no input stops a server.";

/// Judges it. Facts: `started`, `ended by a fault`.
pub fn judge(history: &History) -> Judgement {
    let mut judgement = Judgement::new(CHECKER, PROMISE);
    for step in &history.members {
        let member = step.member;
        match &step.event {
            MemberEvent::Started { .. } => judgement.count("started", 1),
            MemberEvent::Ended { expected: true, .. } => judgement.count("ended by a fault", 1),
            MemberEvent::Ended { status, .. } => judgement.violated(
                Violation::new(format!("m{member} ended by itself: {status}")).at(step.at),
            ),
            MemberEvent::Alarming(line) => {
                judgement.violated(Violation::new(format!("m{member} logged: {line}")).at(step.at))
            }
            MemberEvent::Status { .. } | MemberEvent::StateHash { .. } | MemberEvent::Usage(_) => {}
        }
    }
    judgement
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{MemberStep, Record};

    fn history(events: impl IntoIterator<Item = MemberEvent>) -> History {
        History::of(events.into_iter().zip(1..).map(|(event, at)| {
            Record::Member(MemberStep {
                member: 2,
                at,
                event,
            })
        }))
    }

    fn ended(expected: bool) -> MemberEvent {
        MemberEvent::Ended {
            status: "exit status: 1".into(),
            expected,
        }
    }

    #[test]
    fn a_process_that_a_fault_ended_is_not_blamed() {
        let judgement = judge(&history([MemberEvent::Started { pid: 7 }, ended(true)]));
        assert!(judgement.violations.is_empty());
        assert_eq!(judgement.facts["ended by a fault"], 1);
    }

    #[test]
    fn a_process_that_ends_by_itself_is_a_violation() {
        assert_eq!(judge(&history([ended(false)])).violations.len(), 1);
    }

    #[test]
    fn a_panic_in_a_log_is_a_violation() {
        let panic = MemberEvent::Alarming("thread 'main' panicked at src/main.rs:1:1".into());
        assert_eq!(judge(&history([panic])).violations.len(), 1);
    }
}
