//! A lease that is renewed beside what its client does, and how long its client may count on it.

use std::time::Duration;

use baton_proto::etcdserverpb as pb;
use rand::Rng;
use rand::rngs::SmallRng;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::Context;
use crate::client::Client;
use crate::history::{Answer, Nanos, Outcome, Recorder, nanos};

/// A lease and the process that renews it.
///
/// Its deadline is reckoned as a careful client does: from when the last renewal that was answered was sent, not from when
/// the answer came.
#[derive(Debug)]
pub struct Session {
    lease: i64,
    ttl: Duration,
    recorder: Recorder,
    deadline: watch::Receiver<Nanos>,
    renewing: watch::Sender<bool>,
    renewals: JoinHandle<()>,
}

impl Session {
    /// Asks for a lease of `seconds` and begins to renew it. `None` if the lease was not certainly granted.
    pub async fn open(
        context: &Context,
        client: &mut Client,
        workload: &'static str,
        seconds: i64,
        chance: &mut SmallRng,
    ) -> Option<Self> {
        // Its own number is known even when the answer is lost; the server draws one as well now and then.
        let id = if chance.random_bool(0.2) {
            0
        } else {
            chance.random_range(1..i64::MAX)
        };
        let sent = context.recorder.now();
        let outcome = client
            .call(pb::LeaseGrantRequest { ttl: seconds, id })
            .await;
        let Outcome::Ok(Answer::LeaseGrant(granted)) = outcome else {
            return None;
        };
        let ttl = Duration::from_secs(granted.ttl.max(0).cast_unsigned());
        let (deadline, deadline_seen) = watch::channel(sent.saturating_add(nanos(ttl)));
        let (renewing, renewing_seen) = watch::channel(true);
        let renewer = Renewer {
            client: context.client(workload, context.any_member(chance)),
            members: context.members,
            recorder: context.recorder.clone(),
            lease: granted.id,
            ttl,
            deadline,
            renewing: renewing_seen,
        };
        Some(Self {
            lease: granted.id,
            ttl,
            recorder: context.recorder.clone(),
            deadline: deadline_seen,
            renewing,
            renewals: tokio::spawn(renewer.run()),
        })
    }

    /// The lease.
    pub fn lease(&self) -> i64 {
        self.lease
    }

    /// The time to live that was granted.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Until when its client may count on the lease if no further renewal is answered; 0 if the server said that it is gone.
    pub fn deadline(&self) -> Nanos {
        *self.deadline.borrow()
    }

    /// Whether the lease certainly still lives.
    pub fn is_alive(&self) -> bool {
        self.recorder.now() < self.deadline()
    }

    /// Waits until the lease may have ended.
    pub async fn lost(&self) {
        let mut deadline = self.deadline.clone();
        loop {
            let until = *deadline.borrow_and_update();
            if self.recorder.now() >= until {
                return;
            }
            let passed = tokio::time::sleep_until(self.recorder.instant(until));
            tokio::select! {
                biased;
                Ok(()) = deadline.changed() => {}
                () = passed => {}
            }
        }
    }

    /// Renews it no more, as a client that was stopped would. What it held is not given back.
    pub async fn freeze(&mut self) {
        // Nobody listens any more if the lease is gone.
        let _ = self.renewing.send(false);
        // A renewal that is under way is waited for, so that the deadline is the last.
        let _ = (&mut self.renewals).await;
    }

    /// Ends the lease, and everything that lives by it.
    pub async fn close(mut self, client: &mut Client) {
        if !self.renewals.is_finished() {
            self.freeze().await;
        }
        client.call(pb::LeaseRevokeRequest { id: self.lease }).await;
    }
}

/// The process that renews a lease.
struct Renewer {
    client: Client,
    members: u64,
    recorder: Recorder,
    lease: i64,
    ttl: Duration,
    deadline: watch::Sender<Nanos>,
    renewing: watch::Receiver<bool>,
}

impl Renewer {
    async fn run(mut self) {
        let mut wait = self.ttl / 3;
        loop {
            let stopped = self.renewing.wait_for(|renewing| !*renewing);
            if tokio::time::timeout(wait, stopped).await.is_ok() {
                return;
            }
            let sent = self.recorder.now();
            let renewal = pb::LeaseKeepAliveRequest { id: self.lease };
            match self.client.call_within(renewal, self.ttl / 3).await {
                Outcome::Ok(Answer::LeaseKeepAlive(answer)) if answer.ttl > 0 => {
                    let ttl = Duration::from_secs(answer.ttl.cast_unsigned());
                    self.deadline.send_replace(sent.saturating_add(nanos(ttl)));
                    wait = self.ttl / 3;
                }
                Outcome::Ok(_) => {
                    self.deadline.send_replace(0);
                    return;
                }
                Outcome::Failed(_) | Outcome::Unknown(_) => {
                    let next = self.client.member() % self.members + 1;
                    self.client.move_to(next);
                    wait = self.ttl / 20;
                }
            }
        }
    }
}
