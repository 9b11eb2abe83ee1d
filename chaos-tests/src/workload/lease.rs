//! Leases: granted, renewed in time or just so or not at all, given keys, robbed of keys, revoked, and asked after at every
//! member.
//!
//! Each client has a few leases at once and does one thing at a time.

use std::time::Duration;

use baton_proto::etcdserverpb as pb;
use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use tokio::task::JoinSet;

use super::Context;
use super::ask::{delete, get, put, txn};
use crate::client::Client;
use crate::history::{Answer, Nanos, Outcome, nanos};
use pb::request_op::Request as Op;

/// Its name in histories.
pub const LEASE: &str = "lease";
/// Where its keys are: `lease/<client>/<serial>`.
pub const KEYS: &str = "lease/";

/// Leases of a client at once.
const AT_ONCE: usize = 4;
/// How many leases that are gone are still asked after.
const REMEMBERED: usize = 4;

/// Uses leases until the load is to end.
pub async fn run(context: Context, clients: u32) {
    let mut tasks = JoinSet::new();
    for number in 0..clients {
        let mut chance = context.chance(&format!("lease/{number}"));
        let member = context.any_member(&mut chance);
        let user = User {
            client: context.client(LEASE, member),
            context: context.clone(),
            number,
            chance,
            serial: 0,
            held: Vec::new(),
            gone: Vec::new(),
        };
        tasks.spawn(user.run());
    }
    while tasks.join_next().await.is_some() {}
}

/// How a lease is renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// Three times in its life.
    Regularly,
    /// At any time in it, sometimes just before its end.
    Irregularly,
    /// Not at all.
    Never,
}

#[derive(Debug)]
struct Lease {
    id: i64,
    ttl: Duration,
    manner: Manner,
    /// When it is renewed next.
    next: Nanos,
    /// When renewals are to stop, and it is left alone or revoked.
    until: Nanos,
    keys: Vec<String>,
}

struct User {
    context: Context,
    client: Client,
    number: u32,
    chance: SmallRng,
    serial: u64,
    held: Vec<Lease>,
    gone: Vec<i64>,
}

impl User {
    async fn run(mut self) {
        while !self.context.stopped() {
            let now = self.context.recorder.now();
            let due = self
                .held
                .iter()
                .position(|lease| lease.manner != Manner::Never && lease.next <= now);
            match due {
                Some(index) if self.held[index].until <= now => self.let_go(index).await,
                Some(index) => self.renew(index).await,
                None if self.held.len() < AT_ONCE && self.chance.random_bool(0.5) => {
                    self.grant().await;
                }
                None => self.anything().await,
            }
            self.pause().await;
        }
        for lease in std::mem::take(&mut self.held) {
            self.client
                .call(pb::LeaseRevokeRequest { id: lease.id })
                .await;
        }
    }

    /// Rests, but not past the next renewal.
    async fn pause(&mut self) {
        let drawn = self
            .context
            .pause
            .mul_f64(self.chance.random_range(0.0..=1.0));
        let now = self.context.recorder.now();
        let next = self
            .held
            .iter()
            .filter(|lease| lease.manner != Manner::Never)
            .map(|lease| Duration::from_nanos(lease.next.saturating_sub(now)))
            .min();
        let pause = next.map_or(drawn, |next| drawn.min(next));
        self.context.sleep(pause).await;
    }

    /// Any member for the next call, most often the same as for the last.
    fn wander(&mut self) {
        if self.chance.random_bool(0.2) {
            let member = self.context.any_member(&mut self.chance);
            self.client.move_to(member);
        }
    }

    fn new_key(&mut self) -> String {
        self.serial += 1;
        format!("{KEYS}{}/{}", self.number, self.serial)
    }

    fn new_value(&mut self) -> String {
        self.serial += 1;
        format!("{}/{}", self.client.number(), self.serial)
    }

    async fn grant(&mut self) {
        self.wander();
        let ttl = match self.chance.random_range(0..10) {
            0..7 => self.chance.random_range(1..=2),
            7..9 => self.chance.random_range(2..=5),
            _ => self.chance.random_range(6..=10),
        };
        let id = if self.chance.random_bool(0.5) {
            0
        } else {
            self.chance.random_range(1..i64::MAX)
        };
        let sent = self.context.recorder.now();
        let outcome = self.client.call(pb::LeaseGrantRequest { ttl, id }).await;
        let Outcome::Ok(Answer::LeaseGrant(granted)) = outcome else {
            return;
        };
        let manner = match self.chance.random_range(0..10) {
            0..4 => Manner::Regularly,
            4..7 => Manner::Irregularly,
            _ => Manner::Never,
        };
        let ttl = Duration::from_secs(granted.ttl.max(0).cast_unsigned());
        let renewed_for = ttl.mul_f64(self.chance.random_range(0.5..3.0));
        let mut lease = Lease {
            id: granted.id,
            ttl,
            manner,
            next: sent,
            until: sent + nanos(renewed_for),
            keys: Vec::new(),
        };
        self.plan_renewal(&mut lease, sent);
        for _ in 0..self.chance.random_range(1..=3) {
            let key = self.new_key();
            let value = self.new_value();
            if let Outcome::Ok(_) = self.client.call(put(&key, value, lease.id)).await {
                lease.keys.push(key);
            }
        }
        self.held.push(lease);
    }

    fn plan_renewal(&mut self, lease: &mut Lease, sent: Nanos) {
        let part = match lease.manner {
            Manner::Regularly => 1.0 / 3.0,
            Manner::Irregularly => self.chance.random_range(0.05..0.98),
            Manner::Never => 1.0,
        };
        lease.next = sent + nanos(lease.ttl.mul_f64(part));
    }

    async fn renew(&mut self, index: usize) {
        self.wander();
        let mut lease = self.held.swap_remove(index);
        let sent = self.context.recorder.now();
        let renewal = pb::LeaseKeepAliveRequest { id: lease.id };
        match self.client.call(renewal).await {
            Outcome::Ok(Answer::LeaseKeepAlive(answer)) if answer.ttl > 0 => {
                self.plan_renewal(&mut lease, sent);
                self.held.push(lease);
            }
            Outcome::Ok(_) => self.forget(lease.id),
            Outcome::Failed(_) | Outcome::Unknown(_) => {
                let member = self.context.any_member(&mut self.chance);
                self.client.move_to(member);
                lease.next = self.context.recorder.now() + nanos(lease.ttl / 10);
                self.held.push(lease);
            }
        }
    }

    fn forget(&mut self, id: i64) {
        if self.gone.len() == REMEMBERED {
            self.gone.remove(0);
        }
        self.gone.push(id);
    }

    /// Renews a lease no more: it ends by itself, or is revoked.
    async fn let_go(&mut self, index: usize) {
        if self.chance.random_bool(0.6) {
            self.held[index].manner = Manner::Never;
            return;
        }
        let lease = self.held.swap_remove(index);
        self.client
            .call(pb::LeaseRevokeRequest { id: lease.id })
            .await;
        // A renewal of it must find it gone, at whichever member.
        if self.chance.random_bool(0.5) {
            self.wander();
            let renewal = pb::LeaseKeepAliveRequest { id: lease.id };
            self.client.call(renewal).await;
        }
        self.forget(lease.id);
    }

    async fn anything(&mut self) {
        self.wander();
        match self.chance.random_range(0..100) {
            0..35 => self.ask_after_one().await,
            35..50 => self.read_a_key().await,
            50..60 => {
                self.client.call(pb::LeaseLeasesRequest {}).await;
            }
            60..70 => self.move_a_key().await,
            70..78 => self.take_a_key_away().await,
            78..88 => self.add_keys_at_once().await,
            88..93 => self.grant_again().await,
            _ => self.ask_after_what_is_gone().await,
        }
    }

    /// Asks for the time that is left of a lease, and drops it when it is gone.
    async fn ask_after_one(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let index = self.chance.random_range(0..self.held.len());
        let id = self.held[index].id;
        let keys = self.chance.random_bool(0.5);
        let outcome = self
            .client
            .call(pb::LeaseTimeToLiveRequest { id, keys })
            .await;
        if let Outcome::Ok(Answer::LeaseTimeToLive(answer)) = outcome
            && answer.ttl < 0
        {
            self.held.swap_remove(index);
            self.forget(id);
        }
    }

    async fn ask_after_what_is_gone(&mut self) {
        let Some(id) = self.gone.choose(&mut self.chance).copied() else {
            return;
        };
        if self.chance.random_bool(0.5) {
            let keys = true;
            self.client
                .call(pb::LeaseTimeToLiveRequest { id, keys })
                .await;
        } else {
            self.client.call(pb::LeaseKeepAliveRequest { id }).await;
        }
    }

    /// A lease of this client and one of its keys.
    fn a_key(&mut self) -> Option<(usize, String)> {
        let with_keys: Vec<usize> = (0..self.held.len())
            .filter(|index| !self.held[*index].keys.is_empty())
            .collect();
        let index = *with_keys.choose(&mut self.chance)?;
        let key = self.held[index].keys.choose(&mut self.chance)?.clone();
        Some((index, key))
    }

    async fn read_a_key(&mut self) {
        if let Some((_, key)) = self.a_key() {
            self.client.call(get(&key)).await;
        }
    }

    /// Puts a key of one lease under another.
    async fn move_a_key(&mut self) {
        let Some((from, key)) = self.a_key() else {
            return;
        };
        let to = self.chance.random_range(0..self.held.len());
        let value = self.new_value();
        let lease = self.held[to].id;
        if let Outcome::Ok(_) = self.client.call(put(&key, value, lease)).await {
            self.held[from].keys.retain(|known| *known != key);
            self.held[to].keys.push(key);
        }
    }

    /// Deletes a key, or puts it under no lease and then deletes it.
    async fn take_a_key_away(&mut self) {
        let Some((index, key)) = self.a_key() else {
            return;
        };
        self.held[index].keys.retain(|known| *known != key);
        if self.chance.random_bool(0.5) {
            let value = self.new_value();
            self.client.call(put(&key, value, 0)).await;
            self.context.rest(&mut self.chance).await;
        }
        self.client.call(delete(&key)).await;
    }

    /// Puts several keys under a lease in one revision.
    async fn add_keys_at_once(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let index = self.chance.random_range(0..self.held.len());
        let lease = self.held[index].id;
        let keys = [self.new_key(), self.new_key()];
        let value = self.new_value();
        let puts = keys
            .each_ref()
            .map(|key| Op::RequestPut(put(key, value.clone(), lease)));
        if let Outcome::Ok(_) = self.client.call(txn([], puts, [])).await {
            self.held[index].keys.extend(keys);
        }
    }

    /// Asks for a lease by a number that is taken.
    async fn grant_again(&mut self) {
        if let Some(id) = self.held.choose(&mut self.chance).map(|lease| lease.id) {
            self.client.call(pb::LeaseGrantRequest { ttl: 5, id }).await;
        }
    }
}
