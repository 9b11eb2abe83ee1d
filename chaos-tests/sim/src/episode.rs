//! One plan, from the start of the cluster to the verdict.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use baton_proto::etcdserverpb as pb;
use batond::sim::Counts;
use chaos_tests::check;
use chaos_tests::client::Client;
use chaos_tests::history::{Member, Outcome, Phase, Record, Recorder};
use chaos_tests::plan::Plan;
use chaos_tests::report;
use chaos_tests::run::{Made, Run, write_json};
use chaos_tests::seed;
use chaos_tests::verdict::{Judgement, Verdict, Violation};
use chaos_tests::workload::witness::{Witnessed, Witnesses};
use chaos_tests::workload::{self, Context, final_reads};
use rand::Rng;
use rand::seq::SliceRandom;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::cluster::{Cluster, Hands, Order};
use crate::nemesis::Nemesis;

/// The workload name of reads that ask whether a member serves.
const NURSE: &str = "nurse";
/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long a healed cluster may take until every member answers a linearizable read.
const LIVE_WITHIN: Duration = Duration::from_secs(30);
/// How long the load may take to end once it is told to.
const END_WITHIN: Duration = Duration::from_secs(120);
/// How long a witness may take to see the last revision.
const SEEN_WITHIN: Duration = Duration::from_secs(30);
/// How long everything may take beside the load, in milliseconds.
const REST_MS: u64 = 400_000;
/// Of a hundred runs, in this many a minority stays dead in the end.
const STAYS_DEAD_PERCENT: u32 = 30;

/// A run that is over.
#[derive(Debug)]
pub struct Episode {
    /// What it was to do.
    pub plan: Plan,
    /// What it proves.
    pub verdict: Verdict,
    /// What was seen.
    pub recorder: Recorder,
    /// Hash of everything members told each other and of all that was done to them.
    pub trace: u64,
    /// Milliseconds of simulated time it took.
    pub simulated_ms: u64,
    /// What happened to messages.
    pub messages: Counts,
}

impl Episode {
    /// What another run of the same plan did otherwise, if anything.
    ///
    /// # Errors
    /// A record cannot be written down.
    pub fn difference(&self, other: &Self) -> serde_json::Result<Option<String>> {
        let (mine, theirs) = (self.written()?, other.written()?);
        let pairs = mine.iter().zip(&theirs);
        let same = pairs.take_while(|(mine, theirs)| mine == theirs).count();
        if same < mine.len().max(theirs.len()) {
            let of = |records: &[String]| {
                let record = records.get(same).map_or("nothing", String::as_str);
                record.chars().take(300).collect::<String>()
            };
            let (mine, theirs) = (of(&mine), of(&theirs));
            return Ok(Some(format!("record {same} is {mine}, and then {theirs}")));
        }
        let differs = self.trace != other.trace;
        Ok(differs.then(|| "its members told each other something else".to_owned()))
    }

    fn written(&self) -> serde_json::Result<Vec<String>> {
        self.recorder.look(0, |records| {
            records.iter().map(serde_json::to_string).collect()
        })
    }

    /// Writes its directory, as of any run.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn save(&self, directory: &Path) -> io::Result<()> {
        std::fs::create_dir_all(directory)?;
        write_json(&directory.join("plan.json"), &self.plan)?;
        Made::Simulated.save(directory)?;
        self.recorder.save(&directory.join("history.jsonl"))?;
        report::write(&Run::load(directory)?, &self.verdict)
    }

    /// How often each kind of fault was proved.
    pub fn faults(&self) -> BTreeMap<String, u64> {
        let mut kinds = BTreeMap::new();
        self.recorder.look(0, |records| {
            for record in records {
                if let Record::Fault(step) = record
                    && let Phase::Proved(_) = step.phase
                {
                    *kinds.entry(step.kind.clone()).or_default() += 1;
                }
            }
        });
        kinds
    }
}

/// Runs a plan.
///
/// # Errors
/// It cannot be run, or does not end.
pub fn run(plan: &Plan) -> Result<Episode> {
    let mut cluster = Cluster::new(plan)?;
    let world = cluster.world().clone();
    let (stop, stopped) = watch::channel(false);
    let context = Context {
        dial: world.wire.dial(),
        members: plan.members,
        recorder: cluster.recorder().clone(),
        seed: plan.seed,
        patience: PATIENCE,
        pause: Duration::from_millis(20),
        stop: stopped,
        witnessed: Witnessed::default(),
    };
    let story = Story {
        plan: plan.clone(),
        nemesis: Nemesis::of(&cluster, plan, context.witnessed.clone()),
        hands: cluster.hands().clone(),
        context,
        stop,
        judgement: Judgement::new(
            "simulation",
            "There is at most one leader in a term; what is committed never changes and is the same on every member; once \
             faults are over, every member serves again",
        ),
    };
    let mut judgement = cluster.run(plan.duration_ms + REST_MS, story.tell())?;
    judge(&cluster, &mut judgement);
    let recorder = cluster.recorder().clone();
    recorder.add(Record::Judged(judgement));
    Ok(Episode {
        plan: plan.clone(),
        verdict: check::verdict(&recorder.history(), plan),
        recorder,
        trace: world.net.trace().0,
        simulated_ms: world.now.load(std::sync::atomic::Ordering::Relaxed),
        messages: world.net.counts(),
    })
}

/// What the cluster itself saw.
fn judge(cluster: &Cluster, judgement: &mut Judgement) {
    let invariants = cluster.invariants();
    let looks = usize::try_from(invariants.looks).unwrap_or(usize::MAX);
    judgement.count("looks at members", looks);
    judgement.count("terms with a leader", invariants.terms_led());
    judgement.count("entries committed", invariants.entries());
    let compared = usize::try_from(invariants.compared).unwrap_or(usize::MAX);
    judgement.count("entries compared", compared);
    let hashes = usize::try_from(invariants.hashes).unwrap_or(usize::MAX);
    judgement.count("state hashes compared", hashes);
    for sentence in &invariants.broken {
        judgement.violated(Violation::new(sentence.clone()));
    }
    let panics = cluster.harness_panics().iter().cloned();
    judgement.harness_errors.extend(panics);
}

/// What goes on among the clients, from the first start to the last read.
struct Story {
    plan: Plan,
    nemesis: Nemesis,
    hands: Hands,
    context: Context,
    stop: watch::Sender<bool>,
    judgement: Judgement,
}

impl Story {
    async fn tell(mut self) -> Judgement {
        let everyone: Vec<Member> = (1..=self.plan.members).collect();
        for member in &everyone {
            self.hands.order(*member, Order::Start).await;
        }
        for member in &everyone {
            self.demand_service(*member).await;
        }
        let mut witnesses = Witnesses::start(&self.context);
        let mut loads = JoinSet::new();
        for load in &self.plan.workloads {
            let (load, context) = (load.clone(), self.context.clone());
            loads.spawn(async move { workload::start(&load, context).await });
        }
        let duration = Duration::from_millis(self.plan.duration_ms);
        tokio::join!(
            self.nemesis.run(&self.plan.faults),
            tokio::time::sleep(duration),
        );

        let alive = self.bury(everyone).await;
        for member in &alive {
            self.hands.order(*member, Order::Start).await;
        }
        for member in &alive {
            self.demand_service(*member).await;
        }
        self.stop.send_replace(true);
        let ended = async { while loads.join_next().await.is_some() {} };
        if tokio::time::timeout(END_WITHIN, ended).await.is_err() {
            let seconds = END_WITHIN.as_secs();
            let what = format!("the load did not end within {seconds} s of a healed cluster");
            self.judgement.inconclusive.push(what);
        }
        drop(loads);
        self.finish(&alive, &mut witnesses).await;
        witnesses.stop().await;
        self.judgement
    }

    /// In some runs a minority stays dead: the rest has to do without it. Gives the others.
    async fn bury(&self, mut everyone: Vec<Member>) -> Vec<Member> {
        let mut chance = seed::stream(self.plan.seed, "dead");
        if chance.random_range(0..100) < STAYS_DEAD_PERCENT {
            everyone.shuffle(&mut chance);
            let dead = everyone.split_off(everyone.len() - (everyone.len() - 1) / 2);
            for member in dead {
                self.hands.order(member, Order::Kill).await;
            }
            everyone.sort_unstable();
        }
        everyone
    }

    /// Demands that a member answers a linearizable read.
    async fn demand_service(&mut self, member: Member) {
        let context = &self.context;
        let serves = async {
            let mut client = Client::new(
                &context.dial,
                &context.recorder,
                NURSE,
                member,
                context.patience,
            );
            while !matches!(client.call(read(b"\0", 1)).await, Outcome::Ok(_)) {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        if tokio::time::timeout(LIVE_WITHIN, serves).await.is_ok() {
            self.judgement.count("members that served", 1);
        } else {
            let seconds = LIVE_WITHIN.as_secs();
            self.judgement.violated(Violation::new(format!(
                "member {member} answers no linearizable read within {seconds} s without faults"
            )));
        }
    }

    /// The last look at everyone, and at what the witnesses have seen by then.
    async fn finish(&mut self, alive: &[Member], witnesses: &mut Witnesses) {
        let revision = final_reads::run(&self.context, alive).await;
        // Those that are late are for the checker of liveness to tell.
        witnesses.reach(alive, revision, SEEN_WITHIN).await;
    }
}

/// A linearizable read of all keys from `key` on.
fn read(key: &'static [u8], limit: i64) -> pb::RangeRequest {
    pb::RangeRequest {
        key: key.into(),
        range_end: vec![0].into(),
        limit,
        ..pb::RangeRequest::default()
    }
}
