//! All that was asked and answered about each lease.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::history::{Answer, History, Member, Nanos, Operation, Outcome, Request, nanos};

/// An answer that promises that a lease lives for its time to live from when it was called.
#[derive(Debug, Clone, Copy)]
pub struct Promise {
    /// The operation.
    pub op: u64,
    /// The member that answered.
    pub member: Member,
    /// When it was called.
    pub called: Nanos,
    /// When it was answered.
    pub returned: Nanos,
    /// Until when the lease has to live.
    pub until: Nanos,
}

/// A request to revoke it.
#[derive(Debug, Clone, Copy)]
pub struct Revocation {
    /// The operation.
    pub op: u64,
    /// When it was called.
    pub called: Nanos,
    /// When it returned.
    pub returned: Nanos,
    /// The revision of the answer, if it was answered with success.
    pub acknowledged: Option<i64>,
}

/// An answer that it is gone.
#[derive(Debug, Clone, Copy)]
pub struct Gone {
    /// The operation.
    pub op: u64,
    /// When it was called.
    pub called: Nanos,
    /// When it was answered.
    pub returned: Nanos,
}

/// An answer that it is there.
#[derive(Debug, Clone, Copy)]
pub struct Left {
    /// The operation.
    pub op: u64,
    /// The member that answered.
    pub member: Member,
    /// When it was called.
    pub called: Nanos,
    /// When it was answered.
    pub returned: Nanos,
    /// The seconds that are left.
    pub ttl: i64,
    /// What it was granted for, where the answer says so.
    pub granted_ttl: Option<i64>,
}

/// Since when a lease is known to be gone.
#[derive(Debug, Clone, Copy)]
pub struct KnownGone {
    /// Since when.
    pub at: Nanos,
    /// What shows it.
    pub op: u64,
    /// In words.
    pub how: &'static str,
}

/// Everything about one lease.
#[derive(Debug, Default)]
pub struct Account {
    /// Its time to live in seconds, as granted.
    pub ttl: Option<i64>,
    /// The longest time to live, in seconds, that its number was, or may have been, given out with.
    pub longest_ttl: i64,
    /// Grants that were acknowledged: more than one if its number was given out again.
    pub grants: Vec<Promise>,
    /// Renewals that were acknowledged.
    pub renewals: Vec<Promise>,
    /// When grants and renewals of unknown outcome were called and given up.
    pub maybe_renewed: Vec<(Nanos, Nanos)>,
    /// Requests to revoke it that were, or may have been, carried out.
    pub revocations: Vec<Revocation>,
    /// Answers that it is gone.
    pub gone: Vec<Gone>,
    /// Answers that it is there.
    pub left: Vec<Left>,
    /// Grants of unknown outcome under its number.
    maybe_granted: usize,
}

impl Account {
    /// Whether its number was certainly given out once only.
    pub fn is_single(&self) -> bool {
        self.grants.len() + self.maybe_granted <= 1
    }

    /// What promised that it lives, of all that was called before `at`.
    pub fn promises_by(&self, at: Nanos) -> impl Iterator<Item = &Promise> {
        let all = self.grants.iter().chain(&self.renewals);
        all.filter(move |promise| promise.called < at)
    }

    /// Until when it has to live by what was called before `at`. `None` if nothing was promised, or its number was given
    /// out again, so that it is not known which one is meant.
    pub fn promised_by(&self, at: Nanos) -> Option<Nanos> {
        let until = self.promises_by(at).map(|promise| promise.until).max();
        until.filter(|_| self.maybe_granted == 0)
    }

    /// The same by what was answered before `at`.
    pub fn promised_before(&self, at: Nanos) -> Option<Nanos> {
        let answered = self.promises_by(at).filter(|promise| promise.returned < at);
        let until = answered.map(|promise| promise.until).max();
        until.filter(|_| self.maybe_granted == 0)
    }

    /// Whether its grant was acknowledged before `at`.
    pub fn was_granted_by(&self, at: Nanos) -> bool {
        self.grants.first().is_some_and(|grant| grant.returned < at)
    }

    /// Whether a client had asked for its end before `at`.
    pub fn may_be_revoked_by(&self, at: Nanos) -> bool {
        self.revocations
            .iter()
            .any(|revocation| revocation.called < at)
    }

    /// The last time before `at` at which it may have been granted or renewed.
    pub fn last_renewed(&self, at: Nanos) -> Option<Nanos> {
        let promises = self.promises_by(at).map(|promise| promise.returned);
        let maybe = self.maybe_renewed.iter().filter(|(called, _)| *called < at);
        promises.chain(maybe.map(|(_, returned)| *returned)).max()
    }

    /// Since when it is known to be gone for good.
    pub fn known_gone(&self) -> Option<KnownGone> {
        if !self.is_single() {
            return None;
        }
        let revoked = self.revocations.iter().filter(|r| r.acknowledged.is_some());
        let revoked = revoked.map(|revocation| KnownGone {
            at: revocation.returned,
            op: revocation.op,
            how: "it was revoked",
        });
        let granted = self.grants.first()?.returned;
        let seen = self.gone.iter().filter(|gone| gone.called > granted);
        let seen = seen.map(|gone| KnownGone {
            at: gone.returned,
            op: gone.op,
            how: "it was gone",
        });
        revoked.chain(seen).min_by_key(|gone| gone.at)
    }
}

/// All leases of a history by their numbers.
pub fn accounts(history: &History) -> BTreeMap<i64, Account> {
    let mut accounts = BTreeMap::new();
    for op in &history.operations {
        enter(&mut accounts, op);
    }
    accounts
}

fn promise(op: &Operation, ttl: i64) -> Promise {
    let ttl = Duration::from_secs(ttl.max(0).cast_unsigned());
    Promise {
        op: op.id,
        member: op.member,
        called: op.called,
        returned: op.returned,
        until: op.called.saturating_add(nanos(ttl)),
    }
}

fn enter(accounts: &mut BTreeMap<i64, Account>, op: &Operation) {
    let gone = Gone {
        op: op.id,
        called: op.called,
        returned: op.returned,
    };
    match (&op.request, &op.outcome) {
        (Request::LeaseGrant(_), Outcome::Ok(Answer::LeaseGrant(granted))) => {
            let account = accounts.entry(granted.id).or_default();
            account.ttl = Some(granted.ttl);
            account.longest_ttl = account.longest_ttl.max(granted.ttl);
            account.grants.push(promise(op, granted.ttl));
        }
        (Request::LeaseGrant(request), Outcome::Unknown(_)) if request.id != 0 => {
            let account = accounts.entry(request.id).or_default();
            account.maybe_granted += 1;
            account.longest_ttl = account.longest_ttl.max(request.ttl);
            account.maybe_renewed.push((op.called, op.returned));
        }
        (Request::LeaseKeepAlive(request), Outcome::Ok(Answer::LeaseKeepAlive(answer))) => {
            let account = accounts.entry(request.id).or_default();
            if answer.ttl > 0 {
                account.renewals.push(promise(op, answer.ttl));
            } else {
                account.gone.push(gone);
            }
        }
        (Request::LeaseKeepAlive(request), Outcome::Unknown(_)) => {
            let account = accounts.entry(request.id).or_default();
            account.maybe_renewed.push((op.called, op.returned));
        }
        (Request::LeaseRevoke(request), Outcome::Ok(_) | Outcome::Unknown(_)) => {
            let account = accounts.entry(request.id).or_default();
            account.revocations.push(Revocation {
                op: op.id,
                called: op.called,
                returned: op.returned,
                acknowledged: match &op.outcome {
                    Outcome::Ok(answer) => Some(answer.header().revision),
                    _ => None,
                },
            });
        }
        (Request::LeaseTimeToLive(request), Outcome::Ok(Answer::LeaseTimeToLive(answer))) => {
            let account = accounts.entry(request.id).or_default();
            if answer.ttl < 0 {
                account.gone.push(gone);
            } else {
                account.left.push(Left {
                    op: op.id,
                    member: op.member,
                    called: op.called,
                    returned: op.returned,
                    ttl: answer.ttl,
                    granted_ttl: Some(answer.granted_ttl),
                });
            }
        }
        _ => {}
    }
}
