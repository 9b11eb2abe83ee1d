//! Promise 8: *A queue hands each job to one worker at a time and keeps it until acknowledged.*
//!
//! * A job that was acknowledged to its producer is there, and leaves only with a claim, by that claim's holder: no loss, no
//!   phantom.
//! * A job has one claim at a time, and is done once.
//! * A claimed job is the best that nobody had: of the most urgent ones, the first. Jobs that came back after the worker
//!   looked do not count.
//! * In the end all is done; otherwise nothing is said. But for a job that its producer does not know of, and that came when
//!   no worker looked any more.

use std::collections::{BTreeMap, BTreeSet};

use baton_proto::etcdserverpb as pb;
use bytes::Bytes;
use pb::compare::TargetUnion;
use pb::request_op::Request as Op;

use super::deleters::Deleters;
use super::timing::Timing;
use super::witness::{self, Witness};
use crate::history::{Answer, History, Operation, Outcome, Request};
use crate::model::FIRST_REVISION;
use crate::verdict::{Judgement, Violation};
use crate::workload::queue::{CLAIMS, JOBS};

/// Its name.
pub const CHECKER: &str = "queue";

/// What it judges.
const PROMISE: &str =
    "A queue hands each job to one worker at a time and keeps it until acknowledged.";

/// Judges queues.
pub fn judge(history: &History) -> Judgement {
    let mut judge = Judge {
        judgement: Judgement::new(CHECKER, PROMISE),
        steps: steps(history),
        jobs: BTreeMap::new(),
        claims: BTreeSet::new(),
        freed: BTreeMap::new(),
    };
    let witness = witness::gather(history);
    if let Some(lost) = &witness.lost {
        judge.judgement.inconclusive.push(lost.clone());
    }
    judge.replay(&witness, &Deleters::of(history), &Timing::of(history));
    judge.answers(&witness);
    let late = judge.too_late(history);
    judge.judgement.count("jobs too late for any worker", late);
    let left = judge.jobs.len() - late;
    if left > 0 {
        let why = format!("{left} jobs were left in their queues when the run ended");
        judge.judgement.inconclusive.push(why);
    }
    judge.judgement
}

/// What a transaction does with a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Enqueues,
    /// Claims it, having looked at this revision.
    Claims(i64),
    Acknowledges,
}

/// A transaction about a job.
struct Asked<'a> {
    op: &'a Operation,
    step: Step,
    /// `<queue>/<priority>/<id>`.
    job: String,
    /// Of a claim: what it wrote.
    value: Bytes,
}

struct Judge<'a> {
    judgement: Judgement,
    steps: Vec<Asked<'a>>,
    /// Jobs that are there, and when they came.
    jobs: BTreeMap<String, i64>,
    /// Jobs that are claimed.
    claims: BTreeSet<String>,
    /// When the last claim of a job ended without the job.
    freed: BTreeMap<String, i64>,
}

fn name(key: &[u8], prefix: &str) -> Option<String> {
    let key = std::str::from_utf8(key).ok()?;
    Some(key.strip_prefix(prefix)?.to_owned())
}

/// `<queue>` and `<priority>` of a job.
fn place(job: &str) -> (&str, &str) {
    let mut parts = job.splitn(3, '/');
    let queue = parts.next().unwrap_or_default();
    (queue, parts.next().unwrap_or_default())
}

fn steps(history: &History) -> Vec<Asked<'_>> {
    let mut steps = Vec::new();
    for op in &history.operations {
        let Request::Txn(txn) = &op.request else {
            continue;
        };
        let asked = txn.success.iter().find_map(|asked| match &asked.request {
            Some(Op::RequestPut(put)) => {
                let job = name(&put.key, JOBS).map(|job| (Step::Enqueues, job));
                let claim = || Some((Step::Claims(looked_at(txn)?), name(&put.key, CLAIMS)?));
                let (step, job) = job.or_else(claim)?;
                Some((step, job, put.value.clone()))
            }
            Some(Op::RequestDeleteRange(delete)) => {
                let job = name(&delete.key, JOBS)?;
                Some((Step::Acknowledges, job, Bytes::new()))
            }
            _ => None,
        });
        if let Some((step, job, value)) = asked {
            steps.push(Asked {
                op,
                step,
                job,
                value,
            });
        }
    }
    steps
}

/// The revision at which the worker looked that asks for a claim: it wants no later job.
fn looked_at(txn: &pb::TxnRequest) -> Option<i64> {
    txn.compare.iter().find_map(|compare| {
        let is_range = !compare.range_end.is_empty();
        match compare.target_union {
            Some(TargetUnion::ModRevision(below)) if is_range => Some(below - 1),
            _ => None,
        }
    })
}

impl Judge<'_> {
    fn replay(&mut self, witness: &Witness, deleters: &Deleters, timing: &Timing) {
        let enqueued: BTreeSet<String> = self
            .steps
            .iter()
            .filter(|asked| asked.step == Step::Enqueues)
            .map(|asked| asked.job.clone())
            .collect();
        let looked: BTreeMap<Bytes, i64> = self
            .steps
            .iter()
            .filter_map(|asked| match asked.step {
                Step::Claims(looked) => Some((asked.value.clone(), looked)),
                _ => None,
            })
            .collect();
        for (revision, seen) in (FIRST_REVISION + 1..).zip(&witness.revisions) {
            let mut wrong = Vec::new();
            let events = seen.events.iter().filter_map(|event| {
                let kv = event.kv.as_ref()?;
                Some((event.r#type != 0, kv))
            });
            let (mut gone, mut done) = (Vec::new(), Vec::new());
            for (is_deleted, kv) in events {
                let is_created = kv.create_revision == kv.mod_revision;
                if let Some(job) = name(&kv.key, JOBS) {
                    if is_deleted {
                        done.push(job);
                    } else if !enqueued.contains(&job) {
                        wrong.push(format!("job {job} is there, and nobody put it"));
                    } else if self.jobs.insert(job.clone(), revision).is_some() {
                        wrong.push(format!("job {job} was put again"));
                    } else {
                        self.judgement.count("jobs", 1);
                    }
                } else if let Some(job) = name(&kv.key, CLAIMS) {
                    if is_deleted {
                        let died = !deleters.may_have(&kv.key, revision, timing);
                        self.judgement
                            .count("claims that ended with a lease", usize::from(died));
                        gone.push(job);
                        continue;
                    }
                    self.judgement.count("claims", 1);
                    let seen_at = looked.get(&kv.value).copied();
                    wrong.extend(self.claimed(&job, revision, is_created, seen_at));
                }
            }
            for job in &done {
                if self.jobs.remove(job).is_none() {
                    wrong.push(format!("job {job} was done, and was not there"));
                }
                if !gone.contains(job) {
                    wrong.push(format!("job {job} left its queue without its claim"));
                }
            }
            for job in gone {
                self.claims.remove(&job);
                self.freed.insert(job, revision);
            }
            for what in wrong {
                let violation = Violation::new(what).at_revision(revision).at(seen.at);
                self.judgement.violated(violation);
            }
        }
    }

    /// A claim came: what is wrong with it.
    fn claimed(
        &mut self,
        job: &str,
        revision: i64,
        is_created: bool,
        looked: Option<i64>,
    ) -> Vec<String> {
        let mut wrong = Vec::new();
        if self.claims.contains(job) || !is_created {
            wrong.push(format!("job {job} was claimed while it was claimed"));
        }
        match self.jobs.get(job) {
            None => wrong.push(format!("job {job} was claimed and is not there")),
            Some(came) => {
                let (queue, priority) = place(job);
                let better = self.jobs.iter().find(|(other, at)| {
                    place(other).0 == queue
                        && (place(other).1, **at) < (priority, *came)
                        && !self.claims.contains(*other)
                        && looked.is_none_or(|looked| {
                            let freed = self.freed.get(*other).copied().unwrap_or(0);
                            freed <= looked && **at <= looked
                        })
                });
                if let Some((better, at)) = better {
                    wrong.push(format!(
                        "job {job} of revision {came} was claimed at {revision}, when {better} of revision {at} was free"
                    ));
                }
                self.judgement.count("claims judged for order", 1);
            }
        }
        self.claims.insert(job.to_owned());
        wrong
    }

    /// How many jobs are left that nobody was told of and no worker could have seen.
    fn too_late(&self, history: &History) -> usize {
        let mut looked: BTreeMap<&str, i64> = BTreeMap::new();
        for (op, answer) in history.answered() {
            let Request::Txn(txn) = &op.request else {
                continue;
            };
            let Some(Op::RequestRange(range)) =
                txn.success.first().and_then(|op| op.request.as_ref())
            else {
                continue;
            };
            let prefix = std::str::from_utf8(&range.key).unwrap_or_default();
            if let Some(queue) = prefix.strip_prefix(JOBS) {
                let last = looked.entry(queue.trim_end_matches('/')).or_default();
                *last = answer.header().revision.max(*last);
            }
        }
        let told = |job: &String| {
            self.steps.iter().any(|asked| {
                asked.step == Step::Enqueues
                    && asked.job == *job
                    && !matches!(asked.op.outcome, Outcome::Unknown(_))
            })
        };
        let left = self.jobs.iter().filter(|(job, came)| {
            let last = looked.get(place(job).0).copied().unwrap_or_default();
            **came > last && !told(job)
        });
        left.count()
    }

    /// What was answered with success is in the log, at the revision of the answer.
    fn answers(&mut self, witness: &Witness) {
        let mut done: BTreeMap<&str, u64> = BTreeMap::new();
        for asked in &self.steps {
            let Outcome::Ok(Answer::Txn(answer)) = &asked.op.outcome else {
                continue;
            };
            let refused = usize::from(!answer.succeeded);
            let count = match asked.step {
                Step::Claims(_) => "claims refused",
                Step::Acknowledges => "acknowledgements refused",
                Step::Enqueues => "jobs refused",
            };
            self.judgement.count(count, refused);
            if !answer.succeeded {
                continue;
            }
            let revision = answer.header.unwrap_or_default().revision;
            let violation = |what: String| {
                let violation = Violation::new(what).by([asked.op.id]);
                violation.at_revision(revision).at(asked.op.returned)
            };
            if asked.step == Step::Acknowledges {
                self.judgement.count("acknowledgements", 1);
                if let Some(before) = done.insert(&asked.job, asked.op.id) {
                    let what = format!("job {} was done twice", asked.job);
                    self.judgement.violated(violation(what).by([before]));
                }
            }
            if revision > witness.end() {
                let why = "answers are newer than the last event that a witness saw".to_owned();
                if !self.judgement.inconclusive.contains(&why) {
                    self.judgement.inconclusive.push(why);
                }
                continue;
            }
            let (key, is_deleted) = match asked.step {
                Step::Enqueues => (format!("{JOBS}{}", asked.job), false),
                Step::Claims(_) => (format!("{CLAIMS}{}", asked.job), false),
                Step::Acknowledges => (format!("{JOBS}{}", asked.job), true),
            };
            let at = usize::try_from(revision - FIRST_REVISION - 1).unwrap_or(usize::MAX);
            let events = witness.revisions.get(at).map(|seen| seen.events.as_slice());
            let is_there = events.unwrap_or_default().iter().any(|event| {
                (event.r#type != 0) == is_deleted
                    && event.kv.as_ref().is_some_and(|kv| kv.key == key)
            });
            if !is_there {
                let what = format!(
                    "{:?} of job {} was acknowledged and did not happen",
                    asked.step, asked.job
                );
                self.judgement.violated(violation(what));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use baton_proto::mvccpb::{Event, KeyValue};

    use super::*;
    use crate::history::{Error, WatchEvent, WatchStep};
    use crate::selftest::honest::header;
    use crate::workload::ask::{by_creation, put, txn};

    const JOB: &str = "queue/job/q0/00001/0-1";

    fn operation(id: u64, asked: Op, outcome: Outcome) -> Operation {
        Operation {
            id,
            workload: "queue".into(),
            client: 1,
            member: 1,
            called: id,
            returned: id,
            request: txn([], [asked], []).into(),
            outcome,
        }
    }

    fn answered(revision: i64) -> Outcome {
        Outcome::Ok(Answer::Txn(pb::TxnResponse {
            header: Some(header(1, revision)),
            succeeded: true,
            ..Default::default()
        }))
    }

    /// What is not known where a job came at revision 2 and is left, its producer was answered this, and a worker looked at
    /// this revision.
    fn left(enqueued: Outcome, looked: i64) -> Vec<String> {
        let created = KeyValue {
            key: JOB.into(),
            value: "0-1".into(),
            create_revision: 2,
            mod_revision: 2,
            version: 1,
            ..Default::default()
        };
        let event = Event {
            kv: Some(created),
            ..Default::default()
        };
        let steps = [
            WatchEvent::Asked(pb::WatchCreateRequest::default()),
            WatchEvent::Received(pb::WatchResponse {
                events: vec![event],
                ..Default::default()
            }),
        ];
        let steps = steps.map(|step| WatchStep {
            workload: witness::WORKLOAD.into(),
            watcher: 1,
            member: 1,
            at: 0,
            step,
        });
        let history = History {
            operations: vec![
                operation(1, Op::RequestPut(put(JOB, "0-1", 0)), enqueued),
                operation(
                    2,
                    Op::RequestRange(by_creation("queue/job/q0/")),
                    answered(looked),
                ),
            ],
            watches: steps.into(),
            ..Default::default()
        };
        let judgement = judge(&history);
        assert_eq!(judgement.violations, []);
        judgement.inconclusive
    }

    #[test]
    fn a_job_that_nobody_knew_of_and_that_came_after_the_last_look_may_be_left() {
        let unknown = || {
            Outcome::Unknown(Error {
                code: 4,
                message: "no answer in time".into(),
            })
        };
        assert_eq!(left(unknown(), 1), [""; 0]);
        assert_eq!(left(unknown(), 2).len(), 1);
        assert_eq!(left(answered(2), 1).len(), 1);
    }
}
