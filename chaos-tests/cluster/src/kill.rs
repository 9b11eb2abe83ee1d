//! The kill campaign: members of a cluster under load die, come back, and nothing acknowledged may be missing.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::check::{self, Violation};
use crate::client::Client;
use crate::history::Event;
use crate::process::{Cluster, Program};
use crate::watcher;
use crate::writers::Writers;

/// Who dies in a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    /// The leader, by SIGKILL.
    Leader,
    /// One follower, by SIGKILL.
    Follower,
    /// Every member at once, by SIGKILL.
    All,
    /// The leader, asked to leave by SIGTERM.
    LeaderAsked,
}

impl fmt::Display for Victim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Leader => "leader killed",
            Self::Follower => "follower killed",
            Self::All => "all killed",
            Self::LeaderAsked => "leader terminated",
        })
    }
}

/// How a campaign is run.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Members of the cluster.
    pub members: usize,
    /// Concurrent writers.
    pub writers: usize,
    /// Acknowledged writes before each kill and after each return.
    pub writes: usize,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            members: 3,
            writers: 8,
            writes: 200,
        }
    }
}

/// What one round did.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    /// Who died.
    pub victim: Victim,
    /// The longest time without an acknowledged write around the death.
    pub silence: Duration,
    /// The store's revision at the end.
    pub revision: i64,
}

/// A running campaign.
#[derive(Debug)]
pub struct Campaign {
    cluster: Cluster,
    writers: Writers,
    plan: Plan,
    /// The log as every member had it at the last check.
    log: Vec<Event>,
}

/// The revision of the first write to a new store.
const FIRST_REVISION: i64 = 2;

impl Campaign {
    /// Starts a cluster and its writers.
    ///
    /// # Errors
    /// If the cluster does not start.
    pub async fn start(program: &Program, plan: Plan) -> Result<Self> {
        let cluster = Cluster::start(program, plan.members).await?;
        let writers = Writers::start(&cluster.urls(), plan.writers);
        Ok(Self {
            cluster,
            writers,
            plan,
            log: Vec::new(),
        })
    }

    /// Kills under load, restarts, waits for writes to go on, then stops the load and judges everything since the last
    /// round.
    ///
    /// # Errors
    /// If the cluster does not come back, or a check finds a violation; the cluster's directory is kept and named.
    pub async fn round(&mut self, victim: Victim) -> Result<Round> {
        let outcome = self.kill_and_judge(victim).await;
        if outcome.is_err() {
            let kept = self.cluster.keep_directory();
            return outcome
                .map_err(|error| error.context(format!("cluster kept in {}", kept.display())));
        }
        outcome
    }

    async fn kill_and_judge(&mut self, victim: Victim) -> Result<Round> {
        self.writers.progress(self.plan.writes).await?;
        let leader = self.cluster.leader().await?;
        let follower = (leader + 1) % self.cluster.members.len();
        let died = Instant::now();
        let dead: Vec<usize> = match victim {
            Victim::Leader | Victim::LeaderAsked => vec![leader],
            Victim::Follower => vec![follower],
            Victim::All => (0..self.cluster.members.len()).collect(),
        };
        for index in &dead {
            let member = &mut self.cluster.members[*index];
            if victim == Victim::LeaderAsked {
                member.terminate().await?;
            } else {
                member.kill();
            }
        }
        if victim != Victim::All && self.cluster.members.len() > 2 {
            self.writers.progress(self.plan.writes).await?;
        }
        let resumed = Instant::now();
        for index in dead {
            self.cluster.members[index].start()?;
        }
        self.cluster.ready().await?;
        self.writers.progress(self.plan.writes).await?;
        let silence = match victim {
            Victim::All => self.writers.longest_silence(died, Instant::now()),
            _ => self.writers.longest_silence(died, resumed),
        };
        self.writers.pause().await;
        let revision = self.judge(self.log.len()).await?;
        self.writers.resume();
        Ok(Round {
            victim,
            silence,
            revision,
        })
    }

    /// Reads the whole history again from every member and judges it as one.
    ///
    /// # Errors
    /// As for [`Campaign::round`].
    pub async fn finish(mut self) -> Result<i64> {
        self.writers.pause().await;
        let outcome = self.judge(0).await;
        if outcome.is_err() {
            let kept = self.cluster.keep_directory();
            return outcome
                .map_err(|error| error.context(format!("cluster kept in {}", kept.display())));
        }
        outcome
    }

    /// Judges what is beyond the first `trusted` events of the log. Calls that failed may still happen while this reads:
    /// the log is read up to a revision that a linearizable read gave.
    async fn judge(&mut self, trusted: usize) -> Result<i64> {
        let clients: Vec<Client> = self
            .cluster
            .members
            .iter()
            .map(|member| member.client())
            .collect();
        let mut revision = 0;
        for client in &clients {
            revision = revision.max(client.revision().await?);
        }
        self.log.truncate(trusted);
        let from = self
            .log
            .last()
            .map_or(FIRST_REVISION, |event| event.revision + 1);
        let mut logs = Vec::new();
        let mut hashes = Vec::new();
        for (member, client) in self.cluster.members.iter().zip(&clients) {
            logs.push((
                member.name().to_owned(),
                watcher::log(client, from, revision).await?,
            ));
            hashes.push((member.name().to_owned(), client.hash_kv(revision).await?));
        }
        let writes = self.writers.history();
        let mut found = check::members_agree(&logs);
        found.extend(check::hashes_are_equal(&hashes));
        self.log.extend(logs.swap_remove(0).1);
        found.extend(check::acknowledged_writes_are_there(
            &writes,
            &self.log,
            FIRST_REVISION,
        ));
        found.extend(check::revisions_are_given_once(
            &writes,
            &self.log,
            FIRST_REVISION,
        ));
        found.extend(check::revisions_follow_real_time(&writes));
        report(&found)?;
        Ok(revision)
    }
}

/// Turns violations into an error that lists the first of them.
pub(crate) fn report(found: &[Violation]) -> Result<()> {
    if found.is_empty() {
        return Ok(());
    }
    let shown: Vec<String> = found.iter().take(20).map(ToString::to_string).collect();
    bail!("{} violations:\n  {}", found.len(), shown.join("\n  "))
}
