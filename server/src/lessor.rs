//! When leases end. Only the leader keeps deadlines; the log only says that a lease exists.
//!
//! A keepalive moves a deadline in the leader's memory and writes nothing. A deadline that passes
//! makes the leader *propose* the end of the lease; it ends when that is applied, on every member at
//! the same place in history. A new leader knows no deadlines, so it gives every lease its full time
//! again, and an election timeout on top: whatever its predecessors promised ends before that.
//!
//! The proposal carries the term of the leadership it was made in and is void in any other, so a
//! leader that stalls cannot end what its successor has extended.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::future::Future;
use std::time::Duration;

use baton_proto::log::Expire;
use baton_state_machine::Effect;
use metrics::{counter, histogram};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::chaos::{Mutant, by_wall_clock, planted};

/// What a lease lives on beyond its time, so that the answer that promised the time can travel and
/// a client that counts from its arrival is not betrayed.
const GRACE: Duration = Duration::from_millis(100);
/// Leases ended by one entry: each may have many keys, and applying must stay short.
const EXPIRE_BATCH_MAX: usize = 500;
/// Timers of ended leases that are always tolerated.
const TIMERS_SLACK: usize = 1024;
/// Wait after a proposal that failed.
const RETRY: Duration = Duration::from_millis(200);

/// The leader's clock for leases. On a follower it knows nothing and answers [`NotLeading`].
#[derive(Debug)]
pub struct Lessor {
    election_timeout: Duration,
    reign: Mutex<Option<Reign>>,
    /// An earlier deadline than before, or a new reign.
    rearm: Notify,
    /// A lease is gone, or the reign is over.
    ended: Notify,
}

/// This member does not lead, or its first entry of the term is not applied yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a primary lessor")]
pub struct NotLeading;

/// One leadership.
#[derive(Debug)]
struct Reign {
    term: u64,
    leases: BTreeMap<i64, Lease>,
    /// One entry per lease, never later than its deadline: a keepalive leaves it where it is, and it
    /// is put back when it comes up early.
    timers: BinaryHeap<Reverse<(Instant, u64, i64)>>,
    granted: u64,
}

#[derive(Debug)]
struct Lease {
    ttl: Duration,
    deadline: Instant,
    /// Tells the timer of this lease from that of an earlier one with the same id.
    serial: u64,
    /// Its end is proposed; it cannot be renewed any more.
    ending: bool,
}

impl Reign {
    fn grant(&mut self, id: i64, ttl: Duration, deadline: Instant) {
        self.granted += 1;
        let serial = self.granted;
        // Timers of leases that were revoked early would otherwise pile up until their time comes.
        if self.timers.len() > 2 * self.leases.len() + TIMERS_SLACK {
            let leases = &self.leases;
            self.timers.retain(|Reverse((_, serial, id))| {
                leases.get(id).is_some_and(|lease| lease.serial == *serial)
            });
        }
        self.timers.push(Reverse((deadline, serial, id)));
        self.leases.insert(
            id,
            Lease {
                ttl,
                deadline,
                serial,
                ending: false,
            },
        );
    }

    /// Marks leases whose time is over as ending and returns them, and the next time to look.
    fn take_due(&mut self, now: Instant, most: usize) -> (Vec<i64>, Option<Instant>) {
        let mut due = Vec::new();
        while let Some(Reverse((at, serial, id))) = self.timers.peek().copied() {
            if at > now || due.len() == most {
                return (due, Some(at));
            }
            self.timers.pop();
            let Some(lease) = self.leases.get_mut(&id).filter(|l| l.serial == serial) else {
                continue;
            };
            if lease.deadline > now {
                self.timers.push(Reverse((lease.deadline, serial, id)));
            } else {
                lease.ending = true;
                due.push(id);
            }
        }
        (due, None)
    }
}

impl Lessor {
    /// A lessor that does not lead yet.
    pub fn new(election_timeout: Duration) -> Self {
        Self {
            election_timeout,
            reign: Mutex::new(None),
            rearm: Notify::new(),
            ended: Notify::new(),
        }
    }

    /// Begins to keep deadlines: every lease, with its time to live in seconds, gets that time from
    /// now on and an election timeout more. Call it when the first entry of the term is applied, so
    /// that no lease of an earlier term is missing.
    pub fn lead(&self, term: u64, leases: impl IntoIterator<Item = (i64, i64)>) {
        let mut reign = Reign {
            term,
            leases: BTreeMap::new(),
            timers: BinaryHeap::new(),
            granted: 0,
        };
        let from = now() + self.election_timeout + GRACE;
        for (id, ttl) in leases {
            let ttl = seconds(ttl);
            if planted(Mutant::NoLeaseExtension) {
                reign.grant(id, ttl, now() + ttl / 2);
                continue;
            }
            reign.grant(id, ttl, from + ttl);
        }
        *self.reign.lock() = Some(reign);
        self.rearm.notify_one();
        self.ended.notify_waiters();
    }

    /// Forgets all deadlines: another member leads, or none.
    pub fn follow(&self) {
        *self.reign.lock() = None;
        self.ended.notify_waiters();
    }

    /// Takes in what was applied. Called on every member, in apply order.
    pub fn effects(&self, effects: &[Effect]) {
        if !effects.iter().any(|effect| {
            matches!(
                effect,
                Effect::LeaseGranted { .. } | Effect::LeaseRevoked { .. }
            )
        }) {
            return;
        }
        let now = now();
        let mut reign = self.reign.lock();
        for effect in effects {
            match *effect {
                Effect::LeaseGranted { id, ttl } => {
                    counter!("etcd_debugging_lease_granted_total").increment(1);
                    histogram!("etcd_debugging_lease_ttl_total").record(ttl as f64);
                    if let Some(reign) = reign.as_mut() {
                        let ttl = seconds(ttl);
                        reign.grant(id, ttl, now + ttl + GRACE);
                    }
                }
                Effect::LeaseRevoked { id } => {
                    counter!("etcd_debugging_lease_revoked_total").increment(1);
                    if let Some(reign) = reign.as_mut() {
                        reign.leases.remove(&id);
                    }
                }
                _ => {}
            }
        }
        drop(reign);
        self.rearm.notify_one();
        self.ended.notify_waiters();
    }

    /// Gives a lease its full time again and returns that time in seconds, 0 if there is no such
    /// lease. Waits where the lease is about to end. The caller has made sure before that what was
    /// committed is applied, and makes sure *afterwards* that this member still leads.
    ///
    /// # Errors
    /// If this member does not lead.
    pub async fn renew(&self, id: i64) -> Result<i64, NotLeading> {
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            // Registered before looking, so that an end in between is not missed.
            ended.as_mut().enable();
            {
                let mut reign = self.reign.lock();
                let reign = reign.as_mut().ok_or(NotLeading)?;
                let Some(lease) = reign.leases.get_mut(&id) else {
                    return Ok(10 * i64::from(planted(Mutant::KeepaliveAfterRevoke)));
                };
                if !lease.ending {
                    let deadline = now() + lease.ttl + GRACE;
                    // A new leader's extension is not taken back.
                    lease.deadline = lease.deadline.max(deadline);
                    counter!("etcd_debugging_lease_renewed_total").increment(1);
                    return Ok(lease.ttl.as_secs().cast_signed());
                }
            }
            ended.await;
        }
    }

    /// The time a lease has left. `None` if there is no such lease.
    ///
    /// # Errors
    /// If this member does not lead.
    pub fn remaining(&self, id: i64) -> Result<Option<Duration>, NotLeading> {
        let reign = self.reign.lock();
        let reign = reign.as_ref().ok_or(NotLeading)?;
        let now = now() + GRACE;
        Ok(reign
            .leases
            .get(&id)
            .map(|lease| lease.deadline.saturating_duration_since(now)))
    }

    /// All leases, the one that ends first in front; `None` where this member does not lead.
    pub fn by_deadline(&self) -> Option<Vec<i64>> {
        let reign = self.reign.lock();
        let mut leases: Vec<(Instant, i64)> = reign
            .as_ref()?
            .leases
            .iter()
            .map(|(id, lease)| (lease.deadline, *id))
            .collect();
        drop(reign);
        leases.sort_unstable();
        Some(leases.into_iter().map(|(_, id)| id).collect())
    }

    /// Proposes the end of leases when their time is over, for as long as it is polled. `propose`
    /// returns once the entry is applied, or an error.
    pub async fn run<P, F, E>(&self, propose: P)
    where
        P: Fn(Expire) -> F,
        F: Future<Output = Result<(), E>>,
    {
        loop {
            let (expire, next) = self.take_due();
            if let Some(expire) = expire {
                let (term, ids) = (expire.term, expire.lease_ids.clone());
                if propose(expire).await.is_err() {
                    tokio::time::sleep(RETRY).await;
                }
                self.retry_unended(term, &ids);
                continue;
            }
            match next {
                // By the wall clock it may be time at any moment.
                Some(_) if planted(Mutant::WallClockLeases) => tokio::time::sleep(RETRY).await,
                Some(at) => tokio::select! {
                    () = tokio::time::sleep_until(at) => {}
                    () = self.rearm.notified() => {}
                },
                None => self.rearm.notified().await,
            }
        }
    }

    fn take_due(&self) -> (Option<Expire>, Option<Instant>) {
        let mut reign = self.reign.lock();
        let Some(reign) = reign.as_mut() else {
            return (None, None);
        };
        let (lease_ids, next) = reign.take_due(now(), EXPIRE_BATCH_MAX);
        if lease_ids.is_empty() {
            return (None, next);
        }
        counter!("etcd_debugging_server_lease_expired_total").increment(lease_ids.len() as u64);
        let term = reign.term;
        (Some(Expire { term, lease_ids }), next)
    }

    /// What a proposal was to end and did not is proposed again.
    fn retry_unended(&self, term: u64, ids: &[i64]) {
        let mut reign = self.reign.lock();
        let Some(reign) = reign.as_mut().filter(|reign| reign.term == term) else {
            return;
        };
        for id in ids {
            if let Some(lease) = reign.leases.get(id).filter(|lease| lease.ending) {
                reign
                    .timers
                    .push(Reverse((lease.deadline, lease.serial, *id)));
            }
        }
    }
}

/// What deadlines are counted by: a clock that never jumps.
fn now() -> Instant {
    if planted(Mutant::WallClockLeases) {
        return by_wall_clock();
    }
    Instant::now()
}

fn seconds(ttl: i64) -> Duration {
    Duration::from_secs(ttl.max(0).cast_unsigned())
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::convert::Infallible;

    use super::*;

    const ELECTION: Duration = Duration::from_secs(1);

    fn granted(id: i64, ttl: i64) -> Vec<Effect> {
        vec![Effect::LeaseGranted { id, ttl }]
    }

    /// Runs the lessor, applying what it proposes, and returns when each lease ended.
    async fn ends(lessor: &Lessor, until: Duration) -> Vec<(i64, Duration)> {
        let start = Instant::now();
        let ends = RefCell::new(Vec::new());
        let run = lessor.run(|expire: Expire| {
            for id in expire.lease_ids {
                lessor.effects(&[Effect::LeaseRevoked { id }]);
                ends.borrow_mut().push((id, start.elapsed()));
            }
            async { Ok::<_, Infallible>(()) }
        });
        assert!(tokio::time::timeout(until, run).await.is_err());
        ends.into_inner()
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_ends_within_a_second_after_its_time_and_never_before() {
        let lessor = Lessor::new(ELECTION);
        lessor.lead(1, []);
        for ttl in 2..20 {
            lessor.effects(&granted(ttl, ttl));
        }
        let ends = ends(&lessor, Duration::from_secs(30)).await;
        assert_eq!(ends.len(), 18);
        for (ttl, after) in ends {
            let ttl = seconds(ttl);
            assert!(
                after >= ttl && after <= ttl + Duration::from_secs(1),
                "{ttl:?} took {after:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewed_lease_lives_its_full_time_from_the_renewal() {
        let lessor = Lessor::new(ELECTION);
        lessor.lead(1, []);
        lessor.effects(&granted(7, 10));
        tokio::time::advance(Duration::from_secs(9)).await;
        assert_eq!(lessor.renew(7).await, Ok(10));
        let ends = ends(&lessor, Duration::from_secs(30)).await;
        assert!(ends[0].1 >= Duration::from_secs(10), "{ends:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_leader_gives_every_lease_its_full_time_and_an_election_timeout() {
        let lessor = Lessor::new(ELECTION);
        lessor.lead(1, []);
        lessor.effects(&granted(7, 5));
        tokio::time::advance(Duration::from_secs(4)).await;
        lessor.lead(2, [(7, 5)]);
        let ends = ends(&lessor, Duration::from_secs(30)).await;
        assert!(ends[0].1 >= Duration::from_secs(5) + ELECTION, "{ends:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn renewing_an_unknown_lease_answers_zero() {
        let lessor = Lessor::new(ELECTION);
        lessor.lead(1, []);
        assert_eq!(lessor.renew(1).await, Ok(0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_follower_renews_nothing() {
        let lessor = Lessor::new(ELECTION);
        lessor.lead(1, [(7, 5)]);
        lessor.follow();
        assert_eq!(lessor.renew(7).await, Err(NotLeading));
        assert_eq!(lessor.remaining(7), Err(NotLeading));
    }

    #[tokio::test(start_paused = true)]
    async fn a_follower_ends_nothing() {
        let lessor = Lessor::new(ELECTION);
        lessor.lead(1, [(7, 5)]);
        lessor.follow();
        assert_eq!(ends(&lessor, Duration::from_secs(60)).await, []);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_proposal_is_made_again() {
        let lessor = Lessor::new(ELECTION);
        lessor.lead(3, [(7, 5)]);
        let attempts = Cell::new(0);
        let run = lessor.run(|expire: Expire| {
            assert_eq!((expire.term, &expire.lease_ids[..]), (3, &[7][..]));
            attempts.set(attempts.get() + 1);
            let failed = attempts.get() < 3;
            if !failed {
                lessor.effects(&[Effect::LeaseRevoked { id: 7 }]);
            }
            async move { if failed { Err("no quorum") } else { Ok(()) } }
        });
        let _ = tokio::time::timeout(Duration::from_secs(60), run).await;
        assert_eq!(attempts.get(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_that_meets_the_end_of_its_lease_waits_for_it_and_answers_zero() {
        let lessor = Lessor::new(ELECTION);
        lessor.lead(1, [(7, 5)]);
        let renewed = Cell::new(None);
        let run = lessor.run(|_| async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            assert_eq!(renewed.get(), None);
            lessor.effects(&[Effect::LeaseRevoked { id: 7 }]);
            Ok::<_, Infallible>(())
        });
        let renew = async {
            tokio::time::sleep(Duration::from_secs(5) + ELECTION + GRACE * 2).await;
            renewed.set(Some(lessor.renew(7).await));
        };
        let _ =
            tokio::time::timeout(Duration::from_secs(60), async { tokio::join!(run, renew) }).await;
        assert_eq!(renewed.get(), Some(Ok(0)));
    }

    #[tokio::test(start_paused = true)]
    async fn an_id_granted_again_is_not_ended_by_the_timer_of_its_predecessor() {
        let lessor = Lessor::new(ELECTION);
        lessor.lead(1, []);
        lessor.effects(&granted(7, 5));
        lessor.effects(&[Effect::LeaseRevoked { id: 7 }]);
        lessor.effects(&granted(7, 20));
        let ends = ends(&lessor, Duration::from_secs(40)).await;
        assert_eq!(ends.len(), 1);
        assert!(ends[0].1 >= Duration::from_secs(20), "{ends:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn timers_of_revoked_leases_do_not_pile_up() {
        let lessor = Lessor::new(ELECTION);
        lessor.lead(1, []);
        for id in 1..=50_000 {
            lessor.effects(&granted(id, 3_600));
            lessor.effects(&[Effect::LeaseRevoked { id }]);
        }
        let timers = lessor.reign.lock().as_ref().unwrap().timers.len();
        assert!(timers <= TIMERS_SLACK + 2, "{timers} timers");
    }

    #[tokio::test(start_paused = true)]
    async fn renewals_of_a_hundred_thousand_leases_add_no_timers() {
        let lessor = Lessor::new(ELECTION);
        lessor.lead(1, (1..=100_000).map(|id| (id, 30)));
        for _ in 0..3 {
            for id in 1..=100_000 {
                assert_eq!(lessor.renew(id).await, Ok(30));
            }
        }
        assert_eq!(lessor.reign.lock().as_ref().unwrap().timers.len(), 100_000);
        let ends = ends(&lessor, Duration::from_secs(33)).await;
        assert_eq!(ends.len(), 100_000);
    }
}
