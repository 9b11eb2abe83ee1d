//! Promise 5: *A lease never ends before its time to live since the last acknowledged keepalive, and ends soon after it,
//! through any change of leader.*
//!
//! * Nothing shows a lease gone, neither the end of its keys nor an answer, before its time is over, counted from when its
//!   last acknowledged renewal was called; unless a client revoked it, or may have.
//! * It is gone an election timeout and some slack after its time is over, counted from the last renewal, the last change of
//!   leader and the last trouble; where there is trouble at the end, nothing is said.
//! * All its keys go in one revision, and none comes after that.
//! * After it was revoked, or seen gone, no renewal succeeds.
//! * Members tell the same time that is left of it, and list it while it is certainly there.
//! * No number is given out twice.

mod account;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;

use self::account::{Account, Promise, accounts};
use super::deleters::Deleters;
use super::timing::Timing;
use super::witness::{self, Witness};
use crate::history::{Answer, History, Member, MemberEvent, Nanos, nanos};
use crate::model::FIRST_REVISION;
use crate::verdict::{Judgement, Violation};

/// What a lease may live on beyond its time, where nothing is wrong.
#[derive(Debug, Clone, Copy)]
pub struct Slack {
    /// The election timeout: what a new leader adds to the time of every lease.
    pub election: Duration,
    /// For looking at deadlines now and then, and for a busy machine.
    pub other: Duration,
}

impl Slack {
    /// What servers with this election timeout are given.
    pub fn of_election(election: Duration) -> Self {
        let other = Duration::from_secs(3);
        Self { election, other }
    }

    fn nanos(self) -> Nanos {
        nanos(self.election + self.other)
    }
}

/// Its name.
pub const CHECKER: &str = "lease";

/// What it judges.
const PROMISE: &str = "A lease never ends before its time to live since the last acknowledged keepalive, and ends soon \
                       after it, through any change of leader.";

/// Judges the leases of a history, of all workloads.
pub fn judge(history: &History, slack: Slack) -> Judgement {
    let mut judge = Judge {
        judgement: Judgement::new(CHECKER, PROMISE),
        accounts: accounts(history),
        timing: Timing::of(history),
        slack,
    };
    judge.grants();
    judge.renewals();
    judge.sightings();
    let witness = witness::gather(history);
    if let Some(lost) = &witness.lost {
        judge.judgement.inconclusive.push(lost.clone());
    }
    judge.log(&witness, &Deleters::of(history));
    judge.times_to_live();
    judge.lists(history);
    judge.judgement
}

struct Judge {
    judgement: Judgement,
    accounts: BTreeMap<i64, Account>,
    timing: Timing,
    slack: Slack,
}

impl Judge {
    fn violated(&mut self, violation: Violation) {
        self.judgement.violated(violation);
    }

    /// No number is given out twice while the first one who has it can count on it.
    fn grants(&mut self) {
        for (id, account) in &self.accounts {
            self.judgement.count("granted", account.grants.len());
            for pair in account.grants.windows(2) {
                let [first, second] = pair else { continue };
                let promised = account.promised_by(second.called);
                let could_end = account.may_be_revoked_by(second.returned);
                if !could_end && promised.is_some_and(|until| second.returned < until) {
                    let what = format!("lease {id:x} was granted twice");
                    self.judgement.violated(
                        Violation::new(what)
                            .by([first.op, second.op])
                            .at(second.returned),
                    );
                }
            }
        }
    }

    /// No renewal succeeds once the lease is known to be gone.
    fn renewals(&mut self) {
        let mut survivals = 0;
        for (id, account) in &self.accounts {
            self.judgement
                .count("renewals acknowledged", account.renewals.len());
            self.judgement.count(
                "revocations",
                account
                    .revocations
                    .iter()
                    .filter(|r| r.acknowledged.is_some())
                    .count(),
            );
            let Some(granted) = account.grants.first().map(|grant| grant.returned) else {
                continue;
            };
            let last = account.renewals.iter().map(|renewal| renewal.called).max();
            survivals += self.timing.leader_changes(granted, last.unwrap_or(0));
            let Some(gone) = account.known_gone() else {
                continue;
            };
            for renewal in account.renewals.iter().filter(|r| r.called > gone.at) {
                let what = format!("lease {id:x} was renewed after {}", gone.how);
                self.judgement.violated(
                    Violation::new(what)
                        .by([gone.op, renewal.op])
                        .at(renewal.returned),
                );
            }
            for left in account.left.iter().filter(|left| left.called > gone.at) {
                let what = format!(
                    "member {} said that lease {id:x} was there after {}",
                    left.member, gone.how
                );
                self.judgement.violated(
                    Violation::new(what)
                        .by([gone.op, left.op])
                        .at(left.returned),
                );
            }
        }
        self.judgement.count("survived a leader change", survivals);
    }

    /// Answers that say that a lease is gone come late enough, and those that say that it is there early enough.
    fn sightings(&mut self) {
        let mut violations = Vec::new();
        for (id, account) in &self.accounts {
            for gone in &account.gone {
                self.judgement.count("answers that a lease is gone", 1);
                let promised = account.promised_by(gone.returned);
                if account.may_be_revoked_by(gone.returned) {
                    continue;
                }
                if let Some(until) = promised
                    && account.was_granted_by(gone.called)
                    && gone.returned < until
                {
                    violations.push(early(*id, gone.returned, until).by([gone.op]));
                }
            }
            for left in &account.left {
                let late = self.late(account, left.called);
                if let Some(until) = late {
                    let what = format!(
                        "lease {id:x} was still there {} ms after it had to be gone",
                        (left.called - until) / 1_000_000
                    );
                    violations.push(Violation::new(what).by([left.op]).at(left.called));
                }
            }
        }
        self.judgement.violations.extend(violations);
    }

    /// By when a lease that was there at `at` had to be gone, if it was too late then.
    fn late(&self, account: &Account, at: Nanos) -> Option<Nanos> {
        let calm = self.timing.calm_since(at)?;
        let renewed = account.last_renewed(at)?;
        account.ttl?;
        let ttl = Duration::from_secs(account.longest_ttl.cast_unsigned());
        let until = renewed.max(calm) + nanos(ttl) + self.slack.nanos();
        (at > until).then_some(until)
    }

    /// What the log of events says of leases: when their keys went, and that they went together.
    fn log(&mut self, witness: &Witness, deleters: &Deleters) {
        let mut leases: BTreeMap<i64, BTreeSet<Bytes>> = BTreeMap::new();
        let mut lease_of: BTreeMap<Bytes, i64> = BTreeMap::new();
        let mut ended: BTreeMap<i64, i64> = BTreeMap::new();
        let revoked = self.revoked();
        for (revision, seen) in (FIRST_REVISION + 1..).zip(&witness.revisions) {
            let mut gone: BTreeMap<i64, BTreeSet<Bytes>> = BTreeMap::new();
            let mut put = Vec::new();
            for kv in seen.events.iter().filter_map(|event| {
                let kv = event.kv.as_ref()?;
                if event.r#type == 0 {
                    put.push(kv);
                    return None;
                }
                Some(kv)
            }) {
                if let Some(lease) = lease_of.get(&kv.key) {
                    gone.entry(*lease).or_default().insert(kv.key.clone());
                }
            }
            for (lease, keys) in &gone {
                let by_lease = keys
                    .iter()
                    .any(|key| !deleters.may_have(key, revision, &self.timing));
                if by_lease && self.accounts.get(lease).is_some_and(Account::is_single) {
                    self.end(*lease, revision);
                    ended.insert(*lease, revision);
                    let all = leases.get(lease).cloned().unwrap_or_default();
                    for key in all.difference(keys) {
                        let key = String::from_utf8_lossy(key);
                        let what = format!("{key} was left when its lease {lease:x} ended");
                        self.violated(Violation::new(what).at_revision(revision).at(seen.at));
                    }
                    self.judgement
                        .count("keys that went with a lease", keys.len());
                }
                for key in keys {
                    lease_of.remove(key);
                    if let Some(all) = leases.get_mut(lease) {
                        all.remove(key);
                    }
                }
            }
            for kv in put {
                if let Some(before) = lease_of.remove(&kv.key)
                    && let Some(keys) = leases.get_mut(&before)
                {
                    keys.remove(&kv.key);
                }
                if kv.lease == 0 {
                    continue;
                }
                if let Some(end) = ended.get(&kv.lease) {
                    let key = String::from_utf8_lossy(&kv.key);
                    let what = format!(
                        "{key} was put under lease {:x}, which ended at revision {end}",
                        kv.lease
                    );
                    self.violated(Violation::new(what).at_revision(revision).at(seen.at));
                }
                lease_of.insert(kv.key.clone(), kv.lease);
                leases.entry(kv.lease).or_default().insert(kv.key.clone());
            }
            for (_, lease, op) in revoked.iter().filter(|(at, _, _)| *at == revision) {
                if let Some(key) = leases.get(lease).and_then(BTreeSet::first) {
                    let key = String::from_utf8_lossy(key);
                    let what = format!("{key} was left when its lease {lease:x} was revoked");
                    self.violated(Violation::new(what).by([*op]).at_revision(revision));
                }
            }
        }
        let last = FIRST_REVISION + i64::try_from(witness.revisions.len()).unwrap_or(i64::MAX);
        if witness.lost.is_none() {
            self.what_is_left(&leases, last);
        }
    }

    /// The revisions by which leases were revoked, the leases, and the operations that did it.
    fn revoked(&self) -> Vec<(i64, i64, u64)> {
        let single = self
            .accounts
            .iter()
            .filter(|(_, account)| account.is_single());
        single
            .flat_map(|(id, account)| {
                let revocations = account.revocations.iter();
                revocations.filter_map(|r| Some((r.acknowledged?, *id, r.op)))
            })
            .collect()
    }

    /// The keys of a lease went at `revision`, and no client deleted them.
    fn end(&mut self, lease: i64, revision: i64) {
        let Some(account) = self.accounts.get(&lease) else {
            return;
        };
        let known = self.timing.known(revision);
        if account.may_be_revoked_by(known) {
            return;
        }
        self.judgement.count("expired", 1);
        let renewed = account.last_renewed(known).unwrap_or(0);
        if self.timing.leader_changes(renewed, known) > 0 {
            self.judgement.count("expired across a leader change", 1);
        }
        if let Some(until) = account.promised_by(known)
            && known < until
        {
            let renewal = account.promises_by(known).map(|promise| promise.op).last();
            self.judgement
                .violated(early(lease, known, until).by(renewal).at_revision(revision));
        }
        let at = self.timing.not_before(revision);
        if self.timing.calm_since(at).is_some() {
            self.judgement.count("ends judged for being late", 1);
        }
        if let Some(until) = self.late(account, at) {
            let what = format!(
                "lease {lease:x} ended {} ms or more after it had to",
                (at - until) / 1_000_000
            );
            self.judgement
                .violated(Violation::new(what).at_revision(revision).at(known));
        }
    }

    /// Keys that are there after the last event, though their leases had to be gone.
    fn what_is_left(&mut self, leases: &BTreeMap<i64, BTreeSet<Bytes>>, last: i64) {
        let at = self.timing.not_before(last + 1);
        let mut violations = Vec::new();
        for (lease, keys) in leases {
            let Some(account) = self.accounts.get(lease) else {
                continue;
            };
            if let Some(key) = keys.first()
                && let Some(until) = self.late(account, at)
            {
                let what = format!(
                    "{} is left at revision {last}, though its lease {lease:x} had to be gone {} ms before",
                    String::from_utf8_lossy(key),
                    (at - until) / 1_000_000
                );
                violations.push(Violation::new(what).at_revision(last).at(at));
            }
        }
        self.judgement.violations.extend(violations);
    }

    /// What members say is left of a lease is no less than was promised, no more than could be, and of the right whole.
    fn times_to_live(&mut self) {
        let mut violations = Vec::new();
        for (id, account) in &self.accounts {
            let Some(ttl) = account.ttl.filter(|_| account.is_single()) else {
                continue;
            };
            for left in account
                .left
                .iter()
                .filter(|left| left.granted_ttl.is_some())
            {
                self.judgement.count("times to live compared", 1);
                let promised = account.promised_before(left.called);
                let least = promised.map_or(0, |until| {
                    until.saturating_sub(left.returned) / 1_000_000_000
                });
                let most = ttl.cast_unsigned() + self.slack.election.as_secs() + 2;
                let told = left.ttl.cast_unsigned();
                if told < least || told > most {
                    let what = format!(
                        "member {} said that lease {id:x} had {told} s left when it had {least} at least and {most} at most",
                        left.member
                    );
                    violations.push(Violation::new(what).by([left.op]).at(left.returned));
                }
                if left.granted_ttl != Some(ttl) {
                    let what = format!(
                        "member {} said that lease {id:x} was granted for {} s when it was for {ttl}",
                        left.member,
                        left.granted_ttl.unwrap_or_default()
                    );
                    violations.push(Violation::new(what).by([left.op]).at(left.returned));
                }
            }
        }
        self.judgement.violations.extend(violations);
    }

    /// The member that granted a lease lists it as long as it is certainly there.
    fn lists(&mut self, history: &History) {
        let mut violations = Vec::new();
        let starts: Vec<(Member, Nanos)> = history
            .members
            .iter()
            .filter(|step| matches!(step.event, MemberEvent::Started { .. }))
            .map(|step| (step.member, step.at))
            .collect();
        for (op, answer) in history.answered() {
            let Answer::LeaseLeases(list) = answer else {
                continue;
            };
            let listed: BTreeSet<i64> = list.leases.iter().map(|lease| lease.id).collect();
            for (id, account) in &self.accounts {
                // Its number may have been given out again since, by a member that this one lags behind.
                let grants = account.grants.iter();
                let last = grants
                    .filter(|grant| grant.called < op.returned)
                    .max_by_key(|grant| grant.called);
                let by_it = |grant: &&Promise| grant.member == op.member;
                let Some(granted) = last.filter(by_it).filter(|g| g.returned < op.called) else {
                    continue;
                };
                let is_there = account
                    .promised_before(op.called)
                    .is_some_and(|until| op.returned < until)
                    && !account.may_be_revoked_by(op.returned);
                // A member that was started anew may not have caught up with what it said before.
                let is_caught_up = |(member, at): &(Member, Nanos)| {
                    *member != op.member || *at < granted.called || op.returned < *at
                };
                if !is_there || !starts.iter().all(is_caught_up) {
                    continue;
                }
                self.judgement.count("leases looked for in lists", 1);
                if !listed.contains(id) {
                    let what = format!(
                        "member {} did not list lease {id:x}, which it had granted",
                        op.member
                    );
                    violations.push(Violation::new(what).by([granted.op, op.id]).at(op.returned));
                }
            }
        }
        self.judgement.violations.extend(violations);
    }
}

fn early(lease: i64, at: Nanos, until: Nanos) -> Violation {
    let what = format!(
        "lease {lease:x} was gone {} ms before its time was over",
        (until - at).div_ceil(1_000_000)
    );
    Violation::new(what).at(at)
}

#[cfg(test)]
mod tests {
    use baton_proto::etcdserverpb as pb;

    use super::*;
    use crate::history::{Operation, Outcome, Request};
    use crate::selftest::honest::header;

    const LEASE: i64 = 7;
    const SECOND: Nanos = 1_000_000_000;

    fn operation(member: Member, at: Nanos, request: Request, answer: Answer) -> Operation {
        Operation {
            id: at,
            workload: "lease".into(),
            client: 1,
            member,
            called: at,
            returned: at + SECOND / 10,
            request,
            outcome: Outcome::Ok(answer),
        }
    }

    fn granted(member: Member, at: Nanos) -> Operation {
        granted_for(5, member, at)
    }

    fn granted_for(ttl: i64, member: Member, at: Nanos) -> Operation {
        let request = pb::LeaseGrantRequest { id: LEASE, ttl };
        let answer = pb::LeaseGrantResponse {
            header: Some(header(1, 1)),
            id: LEASE,
            ttl,
            ..Default::default()
        };
        operation(member, at, request.into(), Answer::LeaseGrant(answer))
    }

    fn there(ttl: i64, at: Nanos) -> Operation {
        let answer = pb::LeaseTimeToLiveResponse {
            header: Some(header(1, 1)),
            id: LEASE,
            ttl,
            granted_ttl: 9,
            ..Default::default()
        };
        let request = pb::LeaseTimeToLiveRequest {
            id: LEASE,
            keys: false,
        };
        operation(1, at, request.into(), Answer::LeaseTimeToLive(answer))
    }

    fn not_listed(member: Member, at: Nanos) -> Operation {
        let answer = pb::LeaseLeasesResponse {
            header: Some(header(1, 1)),
            leases: Vec::new(),
        };
        let request = pb::LeaseLeasesRequest {}.into();
        operation(member, at, request, Answer::LeaseLeases(answer))
    }

    fn wrong(operations: Vec<Operation>) -> Vec<String> {
        let history = History {
            operations,
            ..History::default()
        };
        let judgement = judge(&history, Slack::of_election(Duration::from_secs(1)));
        let violations = judgement.violations.into_iter();
        violations.map(|violation| violation.what).collect()
    }

    #[test]
    fn a_lease_may_live_as_long_as_it_was_granted_for_though_its_number_is_granted_for_less_later()
    {
        let granted = [
            granted_for(9, 1, 0),
            there(0, 11 * SECOND),
            granted_for(5, 1, 15 * SECOND),
        ];
        assert_eq!(wrong(granted.to_vec()), [""; 0]);
        let late = [granted_for(5, 1, 0), there(0, 11 * SECOND)];
        assert_eq!(wrong(late.to_vec()).len(), 2);
    }

    #[test]
    fn a_member_has_to_list_the_lease_that_it_granted() {
        let wrong = wrong(vec![granted(3, 0), not_listed(3, SECOND)]);
        assert_eq!(
            wrong,
            ["member 3 did not list lease 7, which it had granted"]
        );
    }

    #[test]
    fn a_member_may_not_know_yet_that_another_one_gave_out_the_number_again() {
        let again = [granted(3, 0), granted(4, 20 * SECOND)];
        let listed = not_listed(3, 21 * SECOND);
        assert_eq!(wrong([&again[..], &[listed]].concat()), [""; 0]);
    }
}
