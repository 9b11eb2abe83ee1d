//! What happened in a run, as the harness saw it: one list of records, stamped by one clock.
//!
//! A history is the evidence. Checkers read nothing else, so a run can be judged again later, by better ones. It is kept as
//! one JSON object per line, in the order in which records were finished; an operation is written when it returns.
//!
//! Requests and answers are the messages of the wire, whole, in the proto3 JSON mapping: keys and values are base64.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use baton_proto::etcdserverpb as pb;
use baton_proto::v3electionpb as election;
use baton_proto::v3lockpb as lock;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::verdict::Judgement;

/// Nanoseconds since the run began, by the harness's monotonic clock; simulated time in simulation.
pub type Nanos = u64;

/// A member of the cluster, counted from 1.
pub type Member = u64;

/// One thing that happened.
#[allow(
    clippy::large_enum_variant,
    reason = "nearly all records are operations"
)]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Record {
    /// A call and what came of it.
    Operation(Operation),
    /// A step of a watch.
    Watch(WatchStep),
    /// A client believed that it held something.
    Hold(Hold),
    /// A client used what it held, on a resource outside of the cluster.
    Effect(Effect),
    /// An observer of an election was told something.
    Observed(Observed),
    /// A fault began, took hold, ended or could not be made.
    Fault(FaultStep),
    /// Something about a member, seen from outside.
    Member(MemberStep),
    /// The harness itself did not run for this long: oracles of time cannot be trusted around it.
    Stalled {
        /// When it ran again.
        at: Nanos,
        /// For how long it had not.
        nanos: Nanos,
    },
    /// What whoever made the run found itself, which nothing else in a history shows. The last record of a run that came to
    /// its end.
    Judged(Judgement),
}

/// A call of one client to one member, without retries, and what came of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Operation {
    /// Unique in the run, in the order of calls.
    pub id: u64,
    /// The workload it belongs to.
    pub workload: String,
    /// The client process. It has one operation at a time; after an unknown outcome it goes on under a new number.
    pub client: u32,
    /// The member that was asked.
    pub member: Member,
    /// When it was called.
    pub called: Nanos,
    /// When it returned, or was given up.
    pub returned: Nanos,
    /// What was asked.
    pub request: Request,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of a call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was done, and this is the answer.
    Ok(Answer),
    /// It was certainly not done and never will be.
    Failed(Error),
    /// It may have been done, may still be, or may never be.
    Unknown(Error),
}

/// A gRPC status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Error {
    /// The number of the code.
    pub code: i32,
    /// Its text.
    pub message: String,
}

macro_rules! calls {
    ($($(#[$doc:meta])* $name:ident($request:ty, $answer:ty),)*) => {
        /// What can be asked of a member.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Request { $($(#[$doc])* $name($request),)* }

        /// What it answers to the request of the same name.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Answer { $($(#[$doc])* $name($answer),)* }

        impl Request {
            /// Its name.
            pub fn name(&self) -> &'static str {
                match self { $(Self::$name(_) => stringify!($name),)* }
            }
        }

        impl Answer {
            /// Its header; all zero where the server sent none.
            pub fn header(&self) -> pb::ResponseHeader {
                match self { $(Self::$name(answer) => answer.header.unwrap_or_default(),)* }
            }
        }

        $(impl From<$request> for Request {
            fn from(request: $request) -> Self { Self::$name(request) }
        })*
    };
}

calls! {
    /// Read a range.
    Range(pb::RangeRequest, pb::RangeResponse),
    /// Write a key.
    Put(pb::PutRequest, pb::PutResponse),
    /// Delete a range.
    DeleteRange(pb::DeleteRangeRequest, pb::DeleteRangeResponse),
    /// Compare, then do.
    Txn(pb::TxnRequest, pb::TxnResponse),
    /// Forget old revisions.
    Compact(pb::CompactionRequest, pb::CompactionResponse),
    /// Create a lease.
    LeaseGrant(pb::LeaseGrantRequest, pb::LeaseGrantResponse),
    /// End a lease.
    LeaseRevoke(pb::LeaseRevokeRequest, pb::LeaseRevokeResponse),
    /// Renew a lease, once, on a stream of its own. A TTL of 0 in the answer: there is no such lease.
    LeaseKeepAlive(pb::LeaseKeepAliveRequest, pb::LeaseKeepAliveResponse),
    /// Ask what is left of a lease.
    LeaseTimeToLive(pb::LeaseTimeToLiveRequest, pb::LeaseTimeToLiveResponse),
    /// List leases.
    LeaseLeases(pb::LeaseLeasesRequest, pb::LeaseLeasesResponse),
    /// Obtain a lock from the lock service.
    Lock(lock::LockRequest, lock::LockResponse),
    /// Give it back.
    Unlock(lock::UnlockRequest, lock::UnlockResponse),
    /// Become leader by the election service.
    Campaign(election::CampaignRequest, election::CampaignResponse),
    /// Say something as the leader.
    Proclaim(election::ProclaimRequest, election::ProclaimResponse),
    /// Ask who leads.
    Leader(election::LeaderRequest, election::LeaderResponse),
    /// Stop leading.
    Resign(election::ResignRequest, election::ResignResponse),
    /// A member's view of itself.
    Status(pb::StatusRequest, pb::StatusResponse),
    /// Hash of the history.
    HashKv(pb::HashKvRequest, pb::HashKvResponse),
    /// Give space back.
    Defragment(pb::DefragmentRequest, pb::DefragmentResponse),
    /// Hand leadership over.
    MoveLeader(pb::MoveLeaderRequest, pb::MoveLeaderResponse),
    /// Read, raise or clear alarms.
    Alarm(pb::AlarmRequest, pb::AlarmResponse),
    /// List members.
    MemberList(pb::MemberListRequest, pb::MemberListResponse),
}

/// A step in the life of a watch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WatchStep {
    /// The workload it belongs to; `witness` for the watch of everything that each member has.
    pub workload: String,
    /// The watcher: one for all the streams on which a client goes on with the same watch.
    pub watcher: u32,
    /// The member that was asked.
    pub member: Member,
    /// When.
    pub at: Nanos,
    /// What happened.
    pub step: WatchEvent,
}

/// What happened on a watch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WatchEvent {
    /// The client asked for this, on a new stream or on one it had.
    Asked(pb::WatchCreateRequest),
    /// The client asked how far the stream is.
    ProgressAsked,
    /// A message, as it came: fragments are not joined.
    Received(pb::WatchResponse),
    /// The client ended the watch.
    Cancelled,
    /// The stream broke.
    Broken(Error),
}

/// A client believed that it alone held something, from when it was told so until it gave it up or could no longer be sure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hold {
    /// The workload it belongs to.
    pub workload: String,
    /// The client process.
    pub client: u32,
    /// The lock, election or job.
    pub name: String,
    /// The key that stands for the hold.
    pub key: String,
    /// The fencing token: the key's create revision.
    pub token: i64,
    /// The lease the key lives by.
    pub lease: i64,
    /// When the client learned that it holds.
    pub from: Nanos,
    /// When it began to give it up, or its lease may have ended by its own reckoning.
    pub until: Nanos,
    /// How it ended.
    pub end: HoldEnd,
}

/// How a hold ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HoldEnd {
    /// Given back by its holder.
    Released,
    /// The holder could not be sure of its lease any more.
    Lost,
    /// The run ended.
    Open,
}

/// A write to something outside of the cluster by a client that believed that it held a lock.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Effect {
    /// The workload it belongs to.
    pub workload: String,
    /// The client process.
    pub client: u32,
    /// The lock it held.
    pub name: String,
    /// Its token.
    pub token: i64,
    /// When.
    pub at: Nanos,
    /// Whether the resource checks tokens. One that does not is the control: it is expected to break under pauses.
    pub fenced: bool,
    /// Whether the resource took the write.
    pub accepted: bool,
    /// What the client had read from the resource, and wrote one more than.
    pub read: u64,
    /// What the resource held when the write came.
    pub found: u64,
}

/// What an observer of an election was told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Observed {
    /// The workload it belongs to.
    pub workload: String,
    /// The observer, by a number of its own for every time it began anew.
    pub observer: u32,
    /// The member that it asks.
    pub member: Member,
    /// When.
    pub at: Nanos,
    /// The election.
    pub election: String,
    /// The key of who leads.
    pub key: String,
    /// Its token: the key's create revision.
    pub token: i64,
    /// The revision of its value.
    pub revision: i64,
    /// What it proclaims.
    pub value: String,
}

/// A step in the life of a fault.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FaultStep {
    /// Which fault of the plan, counted from 0.
    pub fault: usize,
    /// Its kind, such as `isolate`.
    pub kind: String,
    /// The members it is about.
    pub members: Vec<Member>,
    /// When.
    pub at: Nanos,
    /// What happened.
    pub phase: Phase,
}

/// Where a fault is in its life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It is being made.
    Installing,
    /// It has taken hold, and this shows it.
    Proved(String),
    /// It was made, but nothing shows that it took hold.
    Unproved(String),
    /// It is being taken back.
    Healing,
    /// It is gone, and this shows it.
    Healed(String),
    /// It cannot be made here, and this is why.
    Skipped(String),
    /// Whether it was made, or is gone, is not known: the harness failed.
    Failed(String),
}

/// Something about a member, seen from outside.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MemberStep {
    /// The member.
    pub member: Member,
    /// When.
    pub at: Nanos,
    /// What happened.
    pub event: MemberEvent,
}

/// What a member did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberEvent {
    /// A process was started.
    Started {
        /// Its process id; in simulation, the number of the start.
        pid: u32,
    },
    /// It ended, by itself or not.
    Ended {
        /// What the system says of its end.
        status: String,
        /// Whether a fault ended it.
        expected: bool,
    },
    /// What it says of itself.
    Status {
        /// Whether it believes that it leads.
        leads: bool,
        /// Its term.
        term: u64,
        /// The last index it has applied.
        applied_index: u64,
        /// Its revision.
        revision: i64,
    },
    /// The running hash of all it has applied, up to and including this index.
    StateHash {
        /// The index.
        index: u64,
        /// The term of the entry there.
        term: u64,
        /// The hash.
        hash: u64,
    },
    /// What its process takes of the host.
    Usage(Usage),
    /// A line of its log that no fault explains: a panic, a failed assertion.
    Alarming(String),
}

/// What a process takes of the host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Memory that is resident, in KiB.
    pub memory_kib: u64,
    /// Open descriptors.
    pub descriptors: u64,
    /// Threads.
    pub threads: u64,
    /// What is taken of its disk, in KiB; 0 if it has none of its own.
    pub disk_kib: u64,
}

/// A whole history, sorted into kinds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct History {
    /// Operations by id.
    pub operations: Vec<Operation>,
    /// Steps of watches in the order they happened.
    pub watches: Vec<WatchStep>,
    /// Holds in the order they ended.
    pub holds: Vec<Hold>,
    /// Effects in the order they happened.
    pub effects: Vec<Effect>,
    /// What observers of elections were told, in the order they were.
    pub observed: Vec<Observed>,
    /// Steps of faults in the order they happened.
    pub faults: Vec<FaultStep>,
    /// Steps of members in the order they happened.
    pub members: Vec<MemberStep>,
    /// When the harness did not run: until when, and for how long.
    pub stalls: Vec<(Nanos, Nanos)>,
    /// What whoever made the run found.
    pub judged: Vec<Judgement>,
}

impl History {
    /// Sorts records.
    pub fn of(records: impl IntoIterator<Item = Record>) -> Self {
        let mut history = Self::default();
        for record in records {
            match record {
                Record::Operation(operation) => history.operations.push(operation),
                Record::Watch(step) => history.watches.push(step),
                Record::Hold(hold) => history.holds.push(hold),
                Record::Effect(effect) => history.effects.push(effect),
                Record::Observed(observed) => history.observed.push(observed),
                Record::Fault(step) => history.faults.push(step),
                Record::Member(step) => history.members.push(step),
                Record::Stalled { at, nanos } => history.stalls.push((at, nanos)),
                Record::Judged(judgement) => history.judged.push(judgement),
            }
        }
        history.operations.sort_by_key(|operation| operation.id);
        history
    }

    /// Reads a history from a file.
    ///
    /// # Errors
    /// It cannot be read, or a line is no record; the file and the line are named.
    pub fn load(path: &Path) -> io::Result<Self> {
        let named =
            |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        let file = File::open(path).map_err(named)?;
        let mut records = Vec::new();
        for (number, line) in BufReader::new(file).lines().enumerate() {
            let record = serde_json::from_str::<Record>(&line?);
            records.push(record.map_err(|error| {
                let place = format!("{}, line {}: {error}", path.display(), number + 1);
                io::Error::new(io::ErrorKind::InvalidData, place)
            })?);
        }
        Ok(Self::of(records))
    }

    /// Operations that were answered, with their answers.
    pub fn answered(&self) -> impl Iterator<Item = (&Operation, &Answer)> {
        self.operations.iter().filter_map(|op| match &op.outcome {
            Outcome::Ok(answer) => Some((op, answer)),
            Outcome::Failed(_) | Outcome::Unknown(_) => None,
        })
    }
}

/// Takes down what happens. Cheap to clone; all clones write one history.
#[derive(Debug, Clone)]
pub struct Recorder {
    began: Instant,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    records: Vec<Record>,
    operations: u64,
    clients: u32,
    watchers: u32,
    observers: u32,
    /// The last time that was given out.
    last: Nanos,
}

impl Recorder {
    /// Begins a run, now.
    pub fn begin() -> Self {
        Self {
            began: Instant::now(),
            inner: Arc::default(),
        }
    }

    /// The time now. No two answers are the same, so that the order of what happens is never lost, even where the clock
    /// stands still for many events.
    pub fn now(&self) -> Nanos {
        let mut inner = self.inner.lock();
        inner.last = nanos(self.began.elapsed()).max(inner.last + 1);
        inner.last
    }

    /// The moment that `at` names.
    pub fn instant(&self, at: Nanos) -> Instant {
        self.began + Duration::from_nanos(at)
    }

    /// A number for an operation that is about to be called.
    pub fn next_operation(&self) -> u64 {
        let mut inner = self.inner.lock();
        inner.operations += 1;
        inner.operations
    }

    /// A number for a client process that never made a call.
    pub fn next_client(&self) -> u32 {
        let mut inner = self.inner.lock();
        inner.clients += 1;
        inner.clients
    }

    /// A number for a watcher.
    pub fn next_watcher(&self) -> u32 {
        let mut inner = self.inner.lock();
        inner.watchers += 1;
        inner.watchers
    }

    /// A number for an observer.
    pub fn next_observer(&self) -> u32 {
        let mut inner = self.inner.lock();
        inner.observers += 1;
        inner.observers
    }

    /// Adds a record.
    pub fn add(&self, record: Record) {
        self.inner.lock().records.push(record);
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.inner.lock().records.len()
    }

    /// Whether nothing happened yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Looks at the records from number `from` on, for progress and witnesses while the run goes on.
    pub fn look<T>(&self, from: usize, look: impl FnOnce(&[Record]) -> T) -> T {
        let inner = self.inner.lock();
        look(inner.records.get(from..).unwrap_or_default())
    }

    /// Writes everything recorded so far to a file.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let mut file = BufWriter::new(File::create(path)?);
        for record in &self.inner.lock().records {
            serde_json::to_writer(&mut file, record)?;
            file.write_all(b"\n")?;
        }
        file.flush()
    }

    /// A copy of everything recorded so far.
    pub fn history(&self) -> History {
        History::of(self.inner.lock().records.iter().cloned())
    }
}

/// A duration in nanoseconds.
pub fn nanos(duration: Duration) -> Nanos {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
