//! What a run is going to do, settled and written down before it starts: a replay reads the plan, not the seed.

use serde::{Deserialize, Serialize};

use crate::history::Member;

/// A run: a cluster, load on it, faults on a schedule, and what must have happened for the verdict to mean anything.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// What it is for, in a few words.
    pub name: String,
    /// Where every draw of the run comes from.
    pub seed: u64,
    /// Members of the cluster: 1, 3 or 5.
    pub members: u64,
    /// How the servers are set up.
    pub server: Server,
    /// How long load and faults go on, in milliseconds; healing and final reads come after it.
    pub duration_ms: u64,
    /// The load.
    pub workloads: Vec<Load>,
    /// The faults.
    pub faults: Vec<PlannedFault>,
    /// What has to have been seen, or the run proves nothing and is inconclusive.
    pub gates: Vec<Gate>,
}

/// How the servers of a run are set up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// `--heartbeat-interval`, in milliseconds.
    pub heartbeat_ms: u64,
    /// `--election-timeout`, in milliseconds.
    pub election_ms: u64,
    /// `--snapshot-count`: entries between snapshots. Small, so that snapshots are taken and sent.
    pub snapshot_count: u64,
    /// Where the data directories are.
    pub disk: DiskKind,
    /// Further flags of every member.
    pub flags: Vec<String>,
    /// Planted bug of a build made for it, by its name; none in a run that judges a server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mutant: Option<String>,
}

/// What a member's data directory lies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskKind {
    /// A directory of the host.
    Directory,
    /// A loop-mounted ext4 of its own.
    Ext4,
    /// A loop-mounted XFS of its own.
    Xfs,
}

/// A workload and how many clients it has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// Which.
    pub workload: Workload,
    /// How many clients.
    pub clients: u32,
    /// The longest pause of a client between two operations, in milliseconds; each pause is drawn.
    pub pause_ms: u64,
}

/// The workloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Workload {
    /// Reads, writes, compare-and-swap, deletes, ranges and transactions over a few keys.
    Register,
    /// Transactions that append to lists and read them.
    Append,
    /// Watches of every kind, cut and resumed.
    Watch,
    /// Leases granted, renewed, left alone, revoked.
    Lease,
    /// Locks by the lock service and by keys, with fenced and unfenced writes.
    Lock,
    /// Elections.
    Election,
    /// Queues of jobs.
    Queue,
    /// Barriers and double barriers.
    Barrier,
    /// Compaction, defragmentation, hashes, leader moves.
    Maintenance,
    /// More than the cluster can take.
    Overload,
}

/// A fault and when it is made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlannedFault {
    /// Milliseconds after the start of the load.
    pub at_ms: u64,
    /// Milliseconds until it is healed.
    pub hold_ms: u64,
    /// What it is.
    pub fault: Fault,
}

/// Whom a fault is about. Resolved when the fault is made; the history says to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// Who leads at that moment.
    Leader,
    /// Somebody who does not.
    Follower,
    /// Anybody.
    Any,
    /// As many as may fail with a quorum left, drawn.
    Minority,
    /// One more than that, drawn.
    Majority,
    /// Everybody.
    All,
    /// This one.
    Member(Member),
}

/// Files of a data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    /// Segments of the log.
    Log,
    /// The applied state.
    State,
    /// Everything else: vote, identity.
    Meta,
}

/// What happens at a point of the code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PointAction {
    /// The process ends at once, as if killed.
    Crash,
    /// The code waits this many milliseconds.
    Stall(u64),
}

/// Everything that can be done to a cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Nothing gets between the target and the other members.
    Isolate {
        /// Who is alone, or together on one side.
        target: Target,
    },
    /// The target hears nothing from other members, or is not heard by them.
    OneWay {
        /// Who.
        target: Target,
        /// Whether it is the target that hears nothing.
        inbound: bool,
    },
    /// Two halves that see each other only through one member.
    Bridge,
    /// Every member sees a majority, and no two see the same one. Needs five members.
    Ring,
    /// Clients do not get through to the target.
    CutClients {
        /// Whom.
        target: Target,
    },
    /// The target is isolated and joined again, over and over.
    Flap {
        /// Who.
        target: Target,
        /// How long each state lasts, in milliseconds.
        period_ms: u64,
    },
    /// Members are cut off one by one, and joined again in another order.
    Swizzle,
    /// Every packet between members takes longer.
    Delay {
        /// By this many milliseconds …
        ms: u64,
        /// … more or less this many, which also changes their order.
        jitter_ms: u64,
    },
    /// Packets between members get lost.
    Loss {
        /// How many of a hundred.
        percent: u32,
    },
    /// Packets between members come twice.
    Duplicate {
        /// How many of a hundred.
        percent: u32,
    },
    /// The target's link is slow.
    SlowLink {
        /// Whose.
        target: Target,
        /// Kilobits per second.
        kbit: u64,
    },
    /// Every connection of the target is reset.
    Reset {
        /// Whose.
        target: Target,
    },
    /// SIGKILL; started again when healed.
    Kill {
        /// Who.
        target: Target,
    },
    /// SIGKILL while it starts, over and over.
    KillInStartUp {
        /// Who.
        target: Target,
    },
    /// SIGKILL and start, over and over.
    KillLoop {
        /// Who, drawn anew each time.
        target: Target,
        /// How long it may run, in milliseconds.
        period_ms: u64,
    },
    /// SIGTERM; started again when healed.
    Terminate {
        /// Who.
        target: Target,
    },
    /// SIGSTOP until healed.
    Pause {
        /// Who.
        target: Target,
    },
    /// The target gets little of a processor.
    Cpu {
        /// Who.
        target: Target,
        /// Of one core.
        percent: u32,
    },
    /// The target gets no more memory than it has and a little.
    Memory {
        /// Who.
        target: Target,
        /// The little, in mebibytes.
        spare_mib: u64,
    },
    /// The target can open few more descriptors.
    Descriptors {
        /// Who.
        target: Target,
        /// How many.
        spare: u64,
    },
    /// The target's clock of the day jumps.
    ClockJump {
        /// Whose.
        target: Target,
        /// By this many seconds.
        seconds: i64,
    },
    /// The target's clock of the day jumps to and fro.
    ClockStrobe {
        /// Whose.
        target: Target,
        /// By this many milliseconds.
        ms: i64,
        /// How long it stays, in milliseconds.
        period_ms: u64,
    },
    /// The target's clock of the day goes faster or slower.
    ClockRate {
        /// Whose.
        target: Target,
        /// Of what is right.
        percent: u32,
    },
    /// The power fails: what was not synced is lost. Started again when healed.
    PowerCut {
        /// Whose.
        target: Target,
    },
    /// The disk is full.
    DiskFull {
        /// Whose.
        target: Target,
    },
    /// The disk is slow: every sync takes longer.
    DiskSlow {
        /// Whose.
        target: Target,
        /// By this many milliseconds.
        ms: u64,
    },
    /// The disk does not answer until healed.
    DiskHang {
        /// Whose.
        target: Target,
    },
    /// A sync fails, once.
    SyncError {
        /// Whose.
        target: Target,
        /// Which one, counted from 1.
        when: u64,
    },
    /// The disk turns read-only.
    DiskReadOnly {
        /// Whose.
        target: Target,
    },
    /// Bits of a file flip while the target is down.
    FlipBits {
        /// Whose.
        target: Target,
        /// Where.
        file: FileKind,
        /// How many.
        bits: u32,
    },
    /// A file loses its end while the target is down.
    Truncate {
        /// Whose.
        target: Target,
        /// Which.
        file: FileKind,
    },
    /// Two files of a kind change places while the target is down.
    SwapFiles {
        /// Whose.
        target: Target,
        /// Which.
        file: FileKind,
    },
    /// The data directory goes back to what it was when this fault was installed, while the target is down.
    RollBack {
        /// Whose.
        target: Target,
    },
    /// Something happens whenever the target's code comes to a point. Needs a build with fault points.
    Point {
        /// Whose.
        target: Target,
        /// The point's name.
        point: String,
        /// What happens there.
        action: PointAction,
    },
    /// History is compacted.
    Compact {
        /// This many revisions behind the newest.
        behind: i64,
    },
    /// The target gives space back.
    Defragment {
        /// Who.
        target: Target,
    },
    /// Leadership moves.
    MoveLeader,
    /// One member after another is stopped with SIGTERM and started again.
    RollingRestart,
    /// The target loses its applied state while it is down, and keeps its log.
    LoseState {
        /// Who.
        target: Target,
    },
    /// What no tool of the kernel can do to the messages between members: in simulation only. Each is a chance of a
    /// thousand, of every message.
    Messages {
        /// The stream it is on breaks before it arrives.
        broken: u32,
        /// It arrives up to two seconds later than others of its stream.
        late: u32,
        /// It arrives twice, if the protocol has to bear that.
        twice: u32,
        /// One from much earlier arrives again before it.
        replayed: u32,
    },
    /// The last snapshot that the target was sent arrives again. In simulation only.
    StaleSnapshot {
        /// Who.
        target: Target,
    },
}

impl Fault {
    /// The word for its kind in histories and reports: its name in the plan's file.
    pub fn kind(&self) -> String {
        match serde_json::to_value(self) {
            Ok(serde_json::Value::String(name)) => name,
            Ok(serde_json::Value::Object(fields)) => {
                fields.keys().next().cloned().unwrap_or_default()
            }
            _ => String::new(),
        }
    }

    /// Whom it is about, if it says so.
    pub fn target(&self) -> Option<Target> {
        match self {
            Self::Isolate { target }
            | Self::OneWay { target, .. }
            | Self::CutClients { target }
            | Self::Flap { target, .. }
            | Self::SlowLink { target, .. }
            | Self::Reset { target }
            | Self::Kill { target }
            | Self::KillInStartUp { target }
            | Self::KillLoop { target, .. }
            | Self::Terminate { target }
            | Self::Pause { target }
            | Self::Cpu { target, .. }
            | Self::Memory { target, .. }
            | Self::Descriptors { target, .. }
            | Self::ClockJump { target, .. }
            | Self::ClockStrobe { target, .. }
            | Self::ClockRate { target, .. }
            | Self::PowerCut { target }
            | Self::DiskFull { target }
            | Self::DiskSlow { target, .. }
            | Self::DiskHang { target }
            | Self::SyncError { target, .. }
            | Self::DiskReadOnly { target }
            | Self::FlipBits { target, .. }
            | Self::Truncate { target, .. }
            | Self::SwapFiles { target, .. }
            | Self::RollBack { target }
            | Self::LoseState { target }
            | Self::Point { target, .. }
            | Self::Defragment { target }
            | Self::StaleSnapshot { target } => Some(*target),
            Self::Bridge
            | Self::Ring
            | Self::Swizzle
            | Self::Delay { .. }
            | Self::Loss { .. }
            | Self::Duplicate { .. }
            | Self::Compact { .. }
            | Self::MoveLeader
            | Self::RollingRestart
            | Self::Messages { .. } => None,
        }
    }
}

/// Faults one after another: the first at `first_ms`, each other so long after the end of the one before. A fault comes with
/// the milliseconds for which it is held.
pub fn in_turn(
    first_ms: u64,
    gap_ms: u64,
    faults: impl IntoIterator<Item = (u64, Fault)>,
) -> Vec<PlannedFault> {
    let mut at_ms = first_ms;
    let mut planned = Vec::new();
    for (hold_ms, fault) in faults {
        planned.push(PlannedFault {
            at_ms,
            hold_ms,
            fault,
        });
        at_ms += hold_ms + gap_ms;
    }
    planned
}

/// A fact that has to have been counted often enough.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gate {
    /// The checker and its fact, such as `leaders/changes`.
    pub fact: String,
    /// The smallest count with which the verdict means something.
    pub at_least: u64,
}

impl Gate {
    /// A gate.
    pub fn new(fact: &str, at_least: u64) -> Self {
        Self {
            fact: fact.to_owned(),
            at_least,
        }
    }
}

impl Default for Server {
    fn default() -> Self {
        Self {
            heartbeat_ms: 100,
            election_ms: 1000,
            snapshot_count: 1000,
            disk: DiskKind::Directory,
            flags: Vec::new(),
            mutant: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_called_by_its_name_in_the_file() {
        assert_eq!(Fault::Bridge.kind(), "bridge");
        let kill = Fault::Kill {
            target: Target::Leader,
        };
        assert_eq!(kill.kind(), "kill");
    }
}
