//! What a run is doing, on the terminal while it goes on: one line that is written over, or plain lines where nothing can be.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::history::{FaultStep, Member, MemberEvent, Outcome, Phase, Record, Recorder};
use crate::report::words;

/// How often the line is written over.
const EVERY: Duration = Duration::from_millis(200);
/// How often a plain line is written when nothing else happens.
const PLAIN_EVERY: Duration = Duration::from_secs(5);
/// Over how long operations per second are counted.
const RATE_OVER: Duration = Duration::from_secs(2);

/// What a run is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The cluster starts.
    Starting,
    /// Load and faults.
    Load,
    /// Faults are taken back, and the cluster is to answer again.
    Healing,
    /// Clients end their work, and witnesses see the end.
    LastLooks,
    /// Checkers are at work.
    Judging,
}

impl Stage {
    fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Load => "load",
            Self::Healing => "healing",
            Self::LastLooks => "last looks",
            Self::Judging => "judging",
        }
    }
}

/// Shows a run until it is dropped.
#[derive(Debug)]
pub struct Progress {
    stage: Arc<Mutex<(Stage, Instant)>>,
    task: JoinHandle<()>,
    over: bool,
}

impl Progress {
    /// Shows, on standard error, the run that `recorder` takes down, whose load lasts `total`.
    pub fn show(recorder: &Recorder, total: Duration) -> Self {
        let stage = Arc::new(Mutex::new((Stage::Starting, Instant::now())));
        let over = io::stderr().is_terminal();
        let view = View {
            recorder: recorder.clone(),
            total,
            stage: stage.clone(),
        };
        let task = if over {
            tokio::spawn(view.overwrite())
        } else {
            tokio::spawn(view.plain())
        };
        Self { stage, task, over }
    }

    /// The run comes to its next stage.
    pub fn stage(&self, stage: Stage) {
        *self.stage.lock() = (stage, Instant::now());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.task.abort();
        if self.over {
            say("\r\x1b[2K");
        }
    }
}

struct View {
    recorder: Recorder,
    total: Duration,
    stage: Arc<Mutex<(Stage, Instant)>>,
}

impl View {
    async fn overwrite(self) {
        let mut tally = Tally::default();
        loop {
            self.look(&mut tally, &mut Vec::new());
            let line = self.line(&mut tally);
            // As wide as the terminal and no wider: a line that wraps is not written over.
            let width = usize::from(
                rustix::termios::tcgetwinsize(io::stderr()).map_or(80, |size| size.ws_col),
            );
            let line: String = line.chars().take(width.saturating_sub(1)).collect();
            say(&format!("\r\x1b[2K{line}"));
            tokio::time::sleep(EVERY).await;
        }
    }

    async fn plain(self) {
        let mut tally = Tally::default();
        let mut said = (None, Instant::now());
        loop {
            let mut faults = Vec::new();
            self.look(&mut tally, &mut faults);
            let line = self.line(&mut tally);
            for step in faults {
                say(&format!("{}\n", told(&step)));
            }
            let stage = self.stage.lock().0;
            if said.0 != Some(stage) || said.1.elapsed() >= PLAIN_EVERY {
                say(&format!("{line}\n"));
                said = (Some(stage), Instant::now());
            }
            tokio::time::sleep(EVERY).await;
        }
    }

    fn look(&self, tally: &mut Tally, faults: &mut Vec<FaultStep>) {
        self.recorder.look(tally.seen, |records| {
            for record in records {
                tally.add(record);
                if let Record::Fault(step) = record {
                    faults.push(step.clone());
                }
            }
        });
    }

    fn line(&self, tally: &mut Tally) -> String {
        let (stage, since) = *self.stage.lock();
        let rate = tally.rate(Instant::now());
        tally.line(stage, since.elapsed(), self.total, rate)
    }
}

/// Nobody is helped by a run that fails because its progress cannot be shown.
fn say(text: &str) {
    let mut out = io::stderr().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// A step of a fault, in a line.
fn told(step: &FaultStep) -> String {
    let (word, why) = match &step.phase {
        Phase::Installing => ("begins", ""),
        Phase::Proved(why) => ("is proved", why.as_str()),
        Phase::Unproved(why) => ("is NOT PROVED", why.as_str()),
        Phase::Healing => ("is taken back", ""),
        Phase::Healed(why) => ("is gone", why.as_str()),
        Phase::Skipped(why) => ("is SKIPPED", why.as_str()),
        Phase::Failed(why) => ("FAILED", why.as_str()),
    };
    let colon = if why.is_empty() { "" } else { ": " };
    format!(
        "{:>9}  {} {word}{colon}{why}",
        words::seconds(step.at),
        label(step)
    )
}

fn label(step: &FaultStep) -> String {
    let mut label = words::spaced(&step.kind);
    for member in &step.members {
        let _ = write!(label, " m{member}");
    }
    label
}

/// What was seen so far.
#[derive(Debug, Default)]
struct Tally {
    seen: usize,
    ok: u64,
    failed: u64,
    unknown: u64,
    faults: BTreeMap<usize, String>,
    leads: Option<(Member, u64)>,
    rates: Vec<(Instant, u64)>,
}

impl Tally {
    fn add(&mut self, record: &Record) {
        self.seen += 1;
        match record {
            Record::Operation(operation) => match operation.outcome {
                Outcome::Ok(_) => self.ok += 1,
                Outcome::Failed(_) => self.failed += 1,
                Outcome::Unknown(_) => self.unknown += 1,
            },
            Record::Fault(step) => match step.phase {
                Phase::Healed(_) | Phase::Skipped(_) | Phase::Failed(_) => {
                    self.faults.remove(&step.fault);
                }
                _ => {
                    self.faults.insert(step.fault, label(step));
                }
            },
            Record::Member(step) => match step.event {
                MemberEvent::Status {
                    leads: true, term, ..
                } if self.leads.is_none_or(|(_, known)| term >= known) => {
                    self.leads = Some((step.member, term));
                }
                MemberEvent::Status { leads: false, .. } | MemberEvent::Ended { .. }
                    if self.leads.is_some_and(|(member, _)| member == step.member) =>
                {
                    self.leads = None;
                }
                _ => {}
            },
            _ => {}
        }
    }

    /// Operations done in a second, of late.
    fn rate(&mut self, now: Instant) -> u64 {
        self.rates.push((now, self.ok));
        self.rates.retain(|(at, _)| now - *at <= RATE_OVER);
        let (at, ok) = self.rates[0];
        let ms = u64::try_from((now - at).as_millis())
            .unwrap_or(u64::MAX)
            .max(1);
        (self.ok - ok) * 1000 / ms
    }

    fn line(&self, stage: Stage, since: Duration, total: Duration, rate: u64) -> String {
        let mut line = match stage {
            Stage::Load => format!("{:.0}/{:.0} s", since.as_secs_f64(), total.as_secs_f64()),
            stage => format!("{} {:.0} s", stage.name(), since.as_secs_f64()),
        };
        if stage != Stage::Judging {
            let leads = match self.leads {
                Some((member, term)) => format!("m{member} leads term {term}"),
                None => "nobody leads".to_owned(),
            };
            let _ = write!(line, "  {leads}");
        }
        let _ = write!(line, "  {} ok", words::number(self.ok));
        for (count, word) in [(self.failed, "failed"), (self.unknown, "unknown")] {
            if count > 0 {
                let _ = write!(line, " {} {word}", words::number(count));
            }
        }
        if stage == Stage::Load {
            let _ = write!(line, "  {rate}/s");
        }
        if !self.faults.is_empty() {
            let faults: Vec<&str> = self.faults.values().map(String::as_str).collect();
            let _ = write!(line, "  [{}]", faults.join(", "));
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::MemberStep;

    fn fault(fault: usize, phase: Phase) -> Record {
        Record::Fault(FaultStep {
            fault,
            kind: "one_way".into(),
            members: vec![2],
            at: 1,
            phase,
        })
    }

    fn status(member: Member, leads: bool, term: u64) -> Record {
        let event = MemberEvent::Status {
            leads,
            term,
            applied_index: 1,
            revision: 1,
        };
        Record::Member(MemberStep {
            member,
            at: 1,
            event,
        })
    }

    fn line(tally: &Tally) -> String {
        tally.line(
            Stage::Load,
            Duration::from_secs(12),
            Duration::from_secs(20),
            310,
        )
    }

    #[test]
    fn a_fault_is_told_until_it_is_gone() {
        let mut tally = Tally::default();
        tally.add(&fault(0, Phase::Installing));
        tally.add(&fault(0, Phase::Proved("as it should".into())));
        assert_eq!(
            line(&tally),
            "12/20 s  nobody leads  0 ok  310/s  [one way m2]"
        );
        tally.add(&fault(0, Phase::Healed(String::new())));
        assert_eq!(line(&tally), "12/20 s  nobody leads  0 ok  310/s");
    }

    #[test]
    fn the_member_that_leads_is_the_one_of_the_newest_term() {
        let mut tally = Tally::default();
        tally.add(&status(1, true, 2));
        tally.add(&status(2, true, 3));
        tally.add(&status(1, true, 2));
        assert!(line(&tally).contains("m2 leads term 3"), "{}", line(&tally));
        tally.add(&status(2, false, 3));
        assert!(line(&tally).contains("nobody leads"), "{}", line(&tally));
    }

    #[test]
    fn what_could_not_be_made_is_told_with_its_reason() {
        let Record::Fault(step) = fault(0, Phase::Skipped("no XFS here".into())) else {
            unreachable!()
        };
        assert_eq!(told(&step), "  0.000 s  one way m2 is SKIPPED: no XFS here");
    }
}
