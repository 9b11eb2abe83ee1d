//! What a timeline shows, before it is drawn: bands of faults, lanes of members, lanes of clients.

use std::collections::BTreeMap;

use crate::check::lives;
use crate::history::{FaultStep, History, Member, MemberEvent, Nanos, Operation, Outcome, Phase};
use crate::plan::{Fault, Plan};
use crate::report::totals;

/// A process of which nothing was heard for this long is shown as silent.
const SILENT_AFTER: Nanos = 1_500_000_000;

/// Faults that are alike, and drawn alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// Members or clients that do not reach each other.
    Cut,
    /// Links that are bad.
    Link,
    /// Processes that end or stand still.
    Process,
    /// Too little of something.
    Resource,
    /// Clocks that are wrong.
    Clock,
    /// Disks that lose, refuse or delay.
    Disk,
    /// Files that are not what was written.
    Corruption,
    /// Points of the code.
    Code,
    /// What operators do.
    Upkeep,
}

impl Family {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Cut,
        Self::Link,
        Self::Process,
        Self::Resource,
        Self::Clock,
        Self::Disk,
        Self::Corruption,
        Self::Code,
        Self::Upkeep,
    ];

    /// The family of a fault.
    pub fn of(fault: &Fault) -> Self {
        match fault {
            Fault::Isolate { .. }
            | Fault::OneWay { .. }
            | Fault::Bridge
            | Fault::Ring
            | Fault::CutClients { .. }
            | Fault::Flap { .. }
            | Fault::Swizzle => Self::Cut,
            Fault::Delay { .. }
            | Fault::Loss { .. }
            | Fault::Duplicate { .. }
            | Fault::SlowLink { .. }
            | Fault::Reset { .. }
            | Fault::Messages { .. }
            | Fault::StaleSnapshot { .. } => Self::Link,
            Fault::Kill { .. }
            | Fault::KillInStartUp { .. }
            | Fault::KillLoop { .. }
            | Fault::Terminate { .. }
            | Fault::Pause { .. } => Self::Process,
            Fault::Cpu { .. } | Fault::Memory { .. } | Fault::Descriptors { .. } => Self::Resource,
            Fault::ClockJump { .. } | Fault::ClockStrobe { .. } | Fault::ClockRate { .. } => {
                Self::Clock
            }
            Fault::PowerCut { .. }
            | Fault::DiskFull { .. }
            | Fault::DiskSlow { .. }
            | Fault::DiskHang { .. }
            | Fault::SyncError { .. }
            | Fault::DiskReadOnly { .. } => Self::Disk,
            Fault::FlipBits { .. }
            | Fault::Truncate { .. }
            | Fault::SwapFiles { .. }
            | Fault::RollBack { .. }
            | Fault::LoseState { .. } => Self::Corruption,
            Fault::Point { .. } => Self::Code,
            Fault::Compact { .. }
            | Fault::Defragment { .. }
            | Fault::MoveLeader
            | Fault::RollingRestart => Self::Upkeep,
        }
    }

    /// Its name, also in style sheets.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cut => "cut",
            Self::Link => "link",
            Self::Process => "process",
            Self::Resource => "resource",
            Self::Clock => "clock",
            Self::Disk => "disk",
            Self::Corruption => "corruption",
            Self::Code => "code",
            Self::Upkeep => "upkeep",
        }
    }
}

/// What is known of a fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// It took hold, as this shows.
    Proved(String),
    /// Nothing shows that it took hold.
    Unproved(String),
    /// It could not be made here.
    Skipped(String),
    /// The harness failed at it.
    Failed(String),
    /// The run never came to it, or ended before it took hold.
    None,
}

/// A fault from its making to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Band {
    /// Which fault of the plan, counted from 0.
    pub fault: usize,
    /// Its kind.
    pub kind: String,
    /// Its family; that of upkeep if the plan does not know it.
    pub family: Family,
    /// The members it was about.
    pub members: Vec<Member>,
    /// When it was begun.
    pub from: Nanos,
    /// When it had taken hold.
    pub proved: Option<Nanos>,
    /// When it was to end.
    pub healing: Option<Nanos>,
    /// When it was gone, or the run ended.
    pub until: Nanos,
    /// What is known of it.
    pub effect: Effect,
    /// What shows that it is gone.
    pub healed: Option<String>,
}

impl Band {
    /// Its kind and its members, for labels.
    pub fn label(&self) -> String {
        let kind = self.kind.replace('_', " ");
        if self.members.is_empty() {
            return kind;
        }
        let members: Vec<String> = self.members.iter().map(|m| format!("m{m}")).collect();
        format!("{kind} {}", members.join(" "))
    }
}

/// What a member is at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Its process runs and has said nothing of itself yet.
    Starting,
    /// It follows, or looks for a leader.
    Follower,
    /// It believes that it leads.
    Leader,
    /// Its process runs, and nothing is heard of it.
    Silent,
    /// There is no process.
    Down,
}

/// A time in which a member's role and term were the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// From when.
    pub from: Nanos,
    /// Until when.
    pub until: Nanos,
    /// The role.
    pub role: Role,
    /// The term, if it is known.
    pub term: Option<u64>,
}

/// A member through the run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lane {
    /// Which.
    pub member: Member,
    /// What it was, without gaps from its first step on.
    pub stretches: Vec<Stretch>,
    /// When its process was started.
    pub starts: Vec<Nanos>,
    /// When its process ended, how, and whether a fault explains it.
    pub ends: Vec<(Nanos, String, bool)>,
    /// The last index it said it has applied.
    pub applied: Vec<(Nanos, u64)>,
    /// Lines of its log that no fault explains.
    pub alarming: Vec<(Nanos, String)>,
}

/// The client processes of a workload, each row one process after another.
#[derive(Debug, Clone, PartialEq)]
pub struct Group<'a> {
    /// The workload.
    pub workload: &'a str,
    /// Operations by row, in the order of calls.
    pub rows: Vec<Vec<&'a Operation>>,
}

/// Everything that is drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct Timeline<'a> {
    /// Its length.
    pub end: Nanos,
    /// When load began and was to end.
    pub load: (Nanos, Nanos),
    /// Faults by when they were begun.
    pub bands: Vec<Band>,
    /// Members by number.
    pub lanes: Vec<Lane>,
    /// Workloads in the order of the plan; those that it does not name, such as final reads, after them.
    pub groups: Vec<Group<'a>>,
}

impl<'a> Timeline<'a> {
    /// Sorts a history into what is shown.
    pub fn of(plan: &Plan, history: &'a History) -> Self {
        let end = lives::end(history).max(1);
        let began = history
            .operations
            .iter()
            .filter(|operation| operation.workload != "final")
            .map(|operation| operation.called)
            .min()
            .unwrap_or_default();
        Self {
            end,
            load: (began, (began + plan.duration_ms * 1_000_000).min(end)),
            bands: bands(plan, history, end),
            lanes: (1..=plan.members)
                .map(|member| lane(member, history, end))
                .collect(),
            groups: groups(plan, history),
        }
    }
}

fn bands(plan: &Plan, history: &History, end: Nanos) -> Vec<Band> {
    let mut steps: BTreeMap<usize, Vec<&FaultStep>> = BTreeMap::new();
    for step in &history.faults {
        steps.entry(step.fault).or_default().push(step);
    }
    let mut bands: Vec<Band> = steps
        .into_iter()
        .filter_map(|(fault, steps)| {
            let first = steps.first()?;
            let planned = plan.faults.get(fault);
            let mut band = Band {
                fault,
                kind: first.kind.clone(),
                family: planned.map_or(Family::Upkeep, |planned| Family::of(&planned.fault)),
                members: Vec::new(),
                from: first.at,
                proved: None,
                healing: None,
                until: end,
                effect: Effect::None,
                healed: None,
            };
            for step in steps {
                for member in &step.members {
                    if !band.members.contains(member) {
                        band.members.push(*member);
                    }
                }
                match &step.phase {
                    Phase::Installing => {}
                    Phase::Proved(proof) => {
                        band.proved.get_or_insert(step.at);
                        band.effect = Effect::Proved(proof.clone());
                    }
                    Phase::Unproved(why) => band.effect = Effect::Unproved(why.clone()),
                    Phase::Healing => band.healing = Some(step.at),
                    Phase::Healed(proof) => {
                        band.until = step.at;
                        band.healed = Some(proof.clone());
                    }
                    Phase::Skipped(why) => {
                        band.until = step.at;
                        band.effect = Effect::Skipped(why.clone());
                    }
                    Phase::Failed(why) => band.effect = Effect::Failed(why.clone()),
                }
            }
            Some(band)
        })
        .collect();
    bands.sort_by_key(|band| (band.from, band.fault));
    bands
}

fn lane(member: Member, history: &History, end: Nanos) -> Lane {
    let mut lane = Lane {
        member,
        ..Lane::default()
    };
    let mut heard = 0;
    for step in history.members.iter().filter(|step| step.member == member) {
        let at = step.at;
        match &step.event {
            MemberEvent::Started { .. } => {
                lane.starts.push(at);
                lane.turn(at, Role::Starting, None);
                heard = Nanos::MAX;
            }
            MemberEvent::Ended { status, expected } => {
                lane.ends.push((at, status.clone(), *expected));
                lane.turn(at, Role::Down, None);
                heard = Nanos::MAX;
            }
            MemberEvent::Status {
                leads,
                term,
                applied_index,
                ..
            } => {
                if at.saturating_sub(heard) > SILENT_AFTER {
                    lane.turn(heard, Role::Silent, None);
                }
                let role = if *leads { Role::Leader } else { Role::Follower };
                lane.turn(at, role, Some(*term));
                lane.applied.push((at, *applied_index));
                heard = at;
            }
            MemberEvent::Alarming(line) => lane.alarming.push((at, line.clone())),
            MemberEvent::StateHash { .. } | MemberEvent::Usage(_) => {}
        }
    }
    if end.saturating_sub(heard) > SILENT_AFTER {
        lane.turn(heard, Role::Silent, None);
    }
    if let Some(last) = lane.stretches.last_mut() {
        last.until = end;
    }
    lane
}

impl Lane {
    fn turn(&mut self, at: Nanos, role: Role, term: Option<u64>) {
        if let Some(last) = self.stretches.last_mut() {
            last.until = at;
            if (last.role, last.term) == (role, term) {
                return;
            }
        }
        self.stretches.push(Stretch {
            from: at,
            until: at,
            role,
            term,
        });
    }

    /// What it was at a time.
    pub fn role(&self, at: Nanos) -> Option<Stretch> {
        let after = self.stretches.partition_point(|stretch| stretch.from <= at);
        self.stretches.get(after.checked_sub(1)?).copied()
    }
}

fn groups<'a>(plan: &Plan, history: &'a History) -> Vec<Group<'a>> {
    let place = |workload: &str| {
        let named = |load: &crate::plan::Load| {
            serde_json::to_value(load.workload).is_ok_and(|name| name == workload)
        };
        plan.workloads.iter().position(named).unwrap_or(usize::MAX)
    };
    let mut clients: BTreeMap<(usize, &str), BTreeMap<u32, Vec<&Operation>>> = BTreeMap::new();
    for operation in &history.operations {
        let workload = operation.workload.as_str();
        clients
            .entry((place(workload), workload))
            .or_default()
            .entry(operation.client)
            .or_default()
            .push(operation);
    }
    clients
        .into_iter()
        .map(|((_, workload), clients)| Group {
            workload,
            rows: rows(clients),
        })
        .collect()
}

/// A client goes on under a new number after an unknown outcome: a row takes the next process that begins after its last.
fn rows(clients: BTreeMap<u32, Vec<&Operation>>) -> Vec<Vec<&Operation>> {
    let mut clients: Vec<Vec<&Operation>> = clients.into_values().collect();
    clients.sort_by_key(|operations| operations.first().map(|first| (first.called, first.client)));
    let mut rows: Vec<Vec<&Operation>> = Vec::new();
    for operations in clients {
        let Some(first) = operations.first() else {
            continue;
        };
        let free = rows
            .iter_mut()
            .find(|row| row.last().is_none_or(|last| last.returned <= first.called));
        match free {
            Some(row) => row.extend(operations),
            None => rows.push(operations),
        }
    }
    rows
}

/// What came of the operations of a time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bin {
    /// Done.
    pub ok: usize,
    /// Certainly not done.
    pub failed: usize,
    /// Perhaps done.
    pub unknown: usize,
    /// How long answers took.
    pub latencies: Vec<Nanos>,
}

impl Bin {
    /// Counts an operation.
    pub fn add(&mut self, operation: &Operation) {
        match operation.outcome {
            Outcome::Ok(_) => self.ok += 1,
            Outcome::Failed(_) => self.failed += 1,
            Outcome::Unknown(_) => self.unknown += 1,
        }
        self.latencies.extend(totals::latency(operation));
    }

    /// All of them.
    pub fn all(&self) -> usize {
        self.ok + self.failed + self.unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{MemberStep, Record};
    use crate::report::example;

    #[test]
    fn a_client_that_goes_on_under_a_new_number_stays_in_its_row() {
        let (plan, history) = example::run();
        let timeline = Timeline::of(&plan, &history);
        let register = &timeline.groups[0];
        assert_eq!(register.workload, "register");
        let numbers: std::collections::BTreeSet<u32> = register
            .rows
            .iter()
            .flatten()
            .map(|operation| operation.client)
            .collect();
        assert!(
            numbers.len() > register.rows.len(),
            "no outcome was unknown"
        );
        assert_eq!(register.rows.len(), plan.workloads[0].clients as usize);
        for row in &register.rows {
            assert!(
                row.windows(2)
                    .all(|pair| pair[0].returned <= pair[1].called)
            );
        }
    }

    #[test]
    fn a_member_of_which_nothing_is_heard_is_silent_until_it_is_heard_again() {
        let status = |at: Nanos| {
            Record::Member(MemberStep {
                member: 1,
                at,
                event: MemberEvent::Status {
                    leads: true,
                    term: 2,
                    applied_index: 1,
                    revision: 1,
                },
            })
        };
        let (plan, _) = example::run();
        let second = 1_000_000_000;
        let history = History::of([status(second), status(2 * second), status(9 * second)]);
        let timeline = Timeline::of(&plan, &history);
        let lane = &timeline.lanes[0];
        assert_eq!(lane.role(second).unwrap().role, Role::Leader);
        assert_eq!(lane.role(5 * second).unwrap().role, Role::Silent);
        assert_eq!(lane.role(9 * second).unwrap().role, Role::Leader);
    }

    #[test]
    fn a_fault_runs_from_its_making_to_its_healing_and_keeps_what_shows_it() {
        let (plan, history) = example::run();
        let bands = Timeline::of(&plan, &history).bands;
        let isolate = &bands[0];
        assert_eq!(isolate.kind, "isolate");
        assert_eq!(isolate.family, Family::Cut);
        assert!(isolate.from < isolate.proved.unwrap());
        assert!(isolate.proved < isolate.healing && isolate.healing < Some(isolate.until));
        assert!(matches!(isolate.effect, Effect::Proved(_)));
        assert!(
            bands
                .iter()
                .any(|band| matches!(band.effect, Effect::Unproved(_)))
        );
        assert!(
            bands
                .iter()
                .any(|band| matches!(band.effect, Effect::Skipped(_)))
        );
    }
}
