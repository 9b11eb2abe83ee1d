//! A cluster of real processes, and what can be seen of it from outside.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use super::boxed::Boxed;
use super::clock::{self, Clock};
use super::disk::{self, Disk};
use super::hashes::Hashes;
use super::http;
use super::net::{self, PEER_PORT, Place};
use super::node::{Layout, Node};
use super::wait::until;
use crate::history::{Member, MemberEvent, MemberStep, Record, Recorder, nanos};
use crate::plan::{DiskKind, Plan};

/// How often each member is asked for its status.
const OBSERVE: Duration = Duration::from_millis(250);

/// After so many times it is also looked at what its process takes of the host.
const MEASURE: u64 = 8;

/// How often the harness looks whether it runs itself.
const HEARTBEAT: Duration = Duration::from_millis(20);

/// From here on a pause of the harness is worth a record.
const STALL: Duration = Duration::from_millis(200);

/// The longest that a cluster may take to start.
const START: Duration = Duration::from_secs(60);

/// Control groups that every member gets, where the host has them.
const CONTROLLERS: [&str; 2] = ["cpu", "memory"];

/// What a member said of itself last.
#[derive(Debug, Clone, Copy)]
struct Seen {
    leads: bool,
    term: u64,
    at: Instant,
}

/// A cluster. Dropping it ends its processes.
#[derive(Debug)]
pub struct Cluster {
    /// The members, in the order of their numbers.
    pub nodes: Vec<Arc<Node>>,
    boxed: Boxed,
    seen: Arc<Mutex<BTreeMap<Member, Seen>>>,
    observers: JoinSet<()>,
    groups: Vec<PathBuf>,
}

impl Cluster {
    /// Lays the network and the disks of a plan's cluster out, with the directories of the members under `directory`, and
    /// starts nothing.
    ///
    /// # Errors
    /// The host cannot do what the plan asks for.
    pub async fn lay_out(
        boxed: Boxed,
        plan: &Plan,
        server: &Path,
        directory: &Path,
        recorder: &Recorder,
    ) -> Result<Self> {
        net::build(plan.members).await?;
        let mut cluster = Self {
            nodes: Vec::new(),
            boxed,
            seen: Arc::default(),
            observers: JoinSet::new(),
            groups: Vec::new(),
        };
        let knows_catchup = knows(server, "snapshot-catchup-entries");
        for member in 1..=plan.members {
            let home = directory.join(format!("m{member}"));
            fs::create_dir_all(&home)?;
            let kind = match disk::missing(boxed, plan.server.disk) {
                // The data lies in the run's directory then, and faults of disks say why they cannot be made.
                Some(_) => DiskKind::Directory,
                None => plan.server.disk,
            };
            let disk = Disk::make(&home.join("disk.img"), &home.join("disk"), kind)
                .await
                .with_context(|| format!("cannot make a disk for m{member}"))?;
            let moved = clock::is_moved_by(plan) && clock::missing(server).is_none();
            let clock = if moved {
                Some(Clock::make(&home)?)
            } else {
                None
            };
            let mut arguments = arguments(plan, member, knows_catchup);
            if clock.is_some() {
                // It logs a line, with its time, of whoever asks for another host.
                let host = Place::Member(member).address();
                arguments.push(format!("--host-whitelist={host}").into());
            }
            let groups = if boxed.privileged() {
                make_groups(member)
            } else {
                Vec::new()
            };
            cluster.groups.extend(groups.iter().cloned());
            let layout = Layout {
                member,
                environment: plan.server.mutant.iter().map(planted).collect(),
                home,
                disk,
                clock,
                server: server.to_owned(),
                arguments,
                groups,
            };
            cluster.nodes.push(Arc::new(Node::new(layout, recorder)));
        }
        Ok(cluster)
    }

    /// Starts every member, waits until each of them serves, with the bug in effect that is to be planted, and goes on
    /// observing them.
    ///
    /// # Errors
    /// A process ends or does not serve within a minute, and the error carries its last words; or the bug is not in effect.
    pub async fn start(&mut self, mutant: Option<&str>, recorder: &Recorder) -> Result<()> {
        for node in &self.nodes {
            node.start()?;
        }
        for node in &self.nodes {
            if !node.answers(START).await {
                bail!("m{} does not serve: {}", node.member, node.last_words());
            }
            if let Some(mutant) = mutant {
                ensure_planted(node.member, mutant).await?;
            }
        }
        for node in &self.nodes {
            self.observers
                .spawn(observe(node.clone(), self.seen.clone(), recorder.clone()));
        }
        self.observers.spawn(watch_the_harness(recorder.clone()));
        let leader = self.await_leader(START).await;
        leader.with_context(|| format!("no leader after {START:?}"))?;
        Ok(())
    }

    /// What made it possible.
    pub fn boxed(&self) -> Boxed {
        self.boxed
    }

    /// A member.
    pub fn node(&self, member: Member) -> Option<&Arc<Node>> {
        self.nodes.iter().find(|node| node.member == member)
    }

    /// Who said last that it leads, in the highest term of those who did.
    pub fn leader(&self) -> Option<Member> {
        let seen = self.seen.lock();
        let leading = seen
            .iter()
            .filter(|(_, seen)| seen.leads && seen.at.elapsed() < Duration::from_secs(1));
        leading
            .max_by_key(|(_, seen)| seen.term)
            .map(|(member, _)| *member)
    }

    /// Waits for a leader for a while.
    pub async fn await_leader(&self, limit: Duration) -> Option<Member> {
        until(limit, || async { self.leader() }).await
    }

    /// Ends everything: processes at once, disks and the network; images of disks are removed unless `keep_disks`.
    ///
    /// # Errors
    /// A disk is still in use, or the network does not go.
    pub async fn end(mut self, keep_disks: bool) -> Result<()> {
        self.observers.shutdown().await;
        for node in &self.nodes {
            node.kill().await;
        }
        for disk in self.nodes.iter().filter_map(|node| node.disk.as_ref()) {
            if keep_disks {
                disk.unmount().await?;
            } else {
                disk.discard().await?;
            }
        }
        for group in &self.groups {
            // One that something lives in is left to the next reboot.
            let _ = fs::remove_dir(group);
        }
        let members = self.nodes.len();
        net::tear_down(u64::try_from(members)?).await
    }
}

/// The control groups of a member, as far as the host lets anybody make some.
fn make_groups(member: Member) -> Vec<PathBuf> {
    let namespace = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    let number: String = namespace
        .to_string_lossy()
        .chars()
        .filter(char::is_ascii_digit)
        .collect();
    CONTROLLERS
        .iter()
        .map(|controller| {
            Path::new("/sys/fs/cgroup")
                .join(controller)
                .join(format!("chaos-{number}-m{member}"))
        })
        .filter(|group| {
            // One of this name was left by a run that was killed, and may have limits.
            let _ = fs::remove_dir(group);
            fs::create_dir(group).is_ok()
        })
        .collect()
}

/// What plants a bug in a build that can have it.
fn planted(mutant: &String) -> (OsString, OsString) {
    ("BATON_CHAOS_MUTANT".into(), mutant.into())
}

/// Whether a server says that it has a flag.
fn knows(server: &Path, flag: &str) -> bool {
    let help = Command::new(server).arg("--help").output();
    help.is_ok_and(|said| {
        let said = [said.stdout, said.stderr].concat();
        memchr::memmem::find(&said, flag.as_bytes()).is_some()
    })
}

fn arguments(plan: &Plan, member: Member, knows_catchup: bool) -> Vec<OsString> {
    let address = |member| Place::Member(member).address();
    let client = format!("http://{}:{}", address(member), net::CLIENT_PORT);
    let peer = |member| format!("http://{}:{PEER_PORT}", address(member));
    let cluster: Vec<String> = (1..=plan.members)
        .map(|member| format!("m{member}={}", peer(member)))
        .collect();
    let server = &plan.server;
    let own = [
        format!("--name=m{member}"),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={}", peer(member)),
        format!("--initial-advertise-peer-urls={}", peer(member)),
        format!("--initial-cluster={}", cluster.join(",")),
        "--initial-cluster-state=new".to_owned(),
        "--initial-cluster-token=chaos".to_owned(),
        format!("--heartbeat-interval={}", server.heartbeat_ms),
        format!("--election-timeout={}", server.election_ms),
        format!("--snapshot-count={}", server.snapshot_count),
    ];
    // What a member that was away is sent entries of, instead of a snapshot: few, so that snapshots are sent.
    let catchup =
        knows_catchup.then(|| format!("--snapshot-catchup-entries={}", server.snapshot_count / 2));
    own.iter()
        .chain(&catchup)
        .chain(&server.flags)
        .map(OsString::from)
        .collect()
}

/// Makes sure that a planted bug is in effect: a build without any ignores what asks for one.
async fn ensure_planted(member: Member, mutant: &str) -> Result<()> {
    let (_, page) = http::ask(member, "GET", "/debug/chaos/mutants").await?;
    let page: serde_json::Value = serde_json::from_str(&page).unwrap_or_default();
    let mutants = page["mutants"].as_array();
    let in_effect = mutants.is_some_and(|mutants| {
        mutants
            .iter()
            .any(|it| it["name"] == mutant && it["in_effect"] == true)
    });
    ensure!(
        in_effect,
        "m{member} is no build that has `{mutant}` planted"
    );
    Ok(())
}

/// Asks a member for its status a few times a second, and looks at its log.
async fn observe(node: Arc<Node>, seen: Arc<Mutex<BTreeMap<Member, Seen>>>, recorder: Recorder) {
    let mut ticks = tokio::time::interval(OBSERVE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut hashes = Hashes::of(node.member);
    for tick in 0_u64.. {
        ticks.tick().await;
        node.scan_log();
        if tick % MEASURE == 0
            && let Some(usage) = node.usage()
        {
            recorder.add(Record::Member(MemberStep {
                member: node.member,
                at: recorder.now(),
                event: MemberEvent::Usage(usage),
            }));
        }
        let Ok(status) = node.status().await else {
            continue;
        };
        let header = status.header.unwrap_or_default();
        let leads = status.leader == header.member_id;
        seen.lock().insert(
            node.member,
            Seen {
                leads,
                term: status.raft_term,
                at: Instant::now(),
            },
        );
        recorder.add(Record::Member(MemberStep {
            member: node.member,
            at: recorder.now(),
            event: MemberEvent::Status {
                leads,
                term: status.raft_term,
                applied_index: status.raft_applied_index,
                revision: header.revision,
            },
        }));
        hashes.follow(&recorder).await;
    }
}

/// Records when nothing of the harness ran for a while.
async fn watch_the_harness(recorder: Recorder) {
    let mut last = Instant::now();
    loop {
        tokio::time::sleep(HEARTBEAT).await;
        let pause = last.elapsed();
        if pause > STALL {
            let at = recorder.now();
            recorder.add(Record::Stalled {
                at,
                nanos: nanos(pause),
            });
        }
        last = Instant::now();
    }
}
