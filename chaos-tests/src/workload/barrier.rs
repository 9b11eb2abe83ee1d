//! Barriers by keys: a keeper who puts a barrier up and takes it down again, or dies and leaves that to its lease, and
//! clients that wait for it; and double barriers, which all enter together and leave together.
//!
//! Who passes writes at which revision it saw that it may.

use std::time::Duration;

use baton_proto::etcdserverpb as pb;
use baton_proto::mvccpb::event::EventType;
use bytes::Bytes;
use pb::range_request::SortOrder;
use pb::request_op::Request as Op;
use rand::Rng;
use rand::rngs::SmallRng;
use tokio::task::JoinSet;

use super::Context;
use super::ask::{by_creation, created_at, delete, get, prefix_end, put, ranges, txn};
use super::await_event::{Waited, event};
use super::line::AGAIN;
use super::session::Session;
use crate::client::Client;
use crate::history::{Answer, Outcome};

/// Its name in histories.
pub const BARRIER: &str = "barrier";
/// Barriers: `barrier/gate/<generation>`.
pub const GATES: &str = "barrier/gate/";
/// Who passed one: `barrier/passed/<generation>/<client>`, with the revision as the value.
pub const PASSED: &str = "barrier/passed/";
/// Double barriers: `barrier/double/<generation>/`, and in it `m/<client>` of who is in, with how many have to come as the
/// value, `ready` when they all came, `in/<client>` and `out/<client>` of who passed, with the revision as the value.
pub const DOUBLES: &str = "barrier/double/";

/// Passes barriers until the load is to end.
pub async fn run(context: Context, clients: u32) {
    let at_gates = clients.div_ceil(2);
    let mut tasks = JoinSet::new();
    for number in 0..clients {
        let mut chance = context.chance(&format!("barrier/{number}"));
        let member = context.any_member(&mut chance);
        let part = Part {
            client: context.client(BARRIER, member),
            context: context.clone(),
            number,
            chance,
        };
        match number {
            0 => tasks.spawn(part.keep_gates()),
            _ if number < at_gates => tasks.spawn(part.pass_gates()),
            _ => tasks.spawn(part.meet(clients - at_gates, number == at_gates)),
        };
    }
    while tasks.join_next().await.is_some() {}
}

struct Part {
    context: Context,
    client: Client,
    number: u32,
    chance: SmallRng,
}

impl Part {
    async fn go_elsewhere(&mut self) {
        let member = self.context.any_member(&mut self.chance);
        self.client.move_to(member);
        self.context.sleep(AGAIN).await;
    }

    async fn stopped(context: Context) {
        let mut stop = context.stop;
        // An error means that the run is gone.
        let _ = stop.wait_for(|stop| *stop).await;
    }

    async fn session(&mut self) -> Option<Session> {
        let seconds = self.chance.random_range(1..=3);
        let (client, chance) = (&mut self.client, &mut self.chance);
        let session = Session::open(&self.context, client, BARRIER, seconds, chance).await;
        if session.is_none() {
            self.go_elsewhere().await;
        }
        session
    }

    async fn keep_gates(mut self) {
        let mut generation = 0;
        while !self.context.stopped() {
            let Some(mut session) = self.session().await else {
                continue;
            };
            let mut dies = false;
            for _ in 0..self.chance.random_range(1..=10) {
                if self.context.stopped() || !session.is_alive() {
                    break;
                }
                generation += 1;
                let gate = format!("{GATES}{generation}");
                let up = txn(
                    [created_at(&gate, 0)],
                    [Op::RequestPut(put(&gate, "up", session.lease()))],
                    [],
                );
                if !matches!(self.client.call(up).await, Outcome::Ok(_)) {
                    // It may come up later, and goes with the session.
                    break;
                }
                let open = Duration::from_millis(self.chance.random_range(20..=400));
                self.context.sleep(open).await;
                if self.chance.random_bool(0.05) {
                    // The next one is put up beside what this leaves.
                    session.freeze().await;
                    dies = true;
                    break;
                }
                if !matches!(self.client.call(delete(&gate)).await, Outcome::Ok(_)) {
                    break;
                }
                self.context.rest(&mut self.chance).await;
            }
            if !dies {
                session.close(&mut self.client).await;
            }
        }
    }

    async fn pass_gates(mut self) {
        let mut passed: Option<String> = None;
        while !self.context.stopped() {
            let newest = pb::RangeRequest {
                limit: 1,
                sort_order: SortOrder::Descend as i32,
                ..by_creation(GATES)
            };
            let Outcome::Ok(Answer::Range(found)) = self.client.call(newest).await else {
                self.go_elsewhere().await;
                continue;
            };
            let gate = found.kvs.first().map(|kv| kv.key.clone());
            let Some(gate) = gate.and_then(|gate| String::from_utf8(gate.into()).ok()) else {
                self.context.rest(&mut self.chance).await;
                continue;
            };
            let at = found.header.unwrap_or_default().revision;
            let Some(open) = self.wait_for_gate(&gate, at).await else {
                return;
            };
            let generation = gate.strip_prefix(GATES).unwrap_or_default();
            let key = format!("{PASSED}{generation}/{}", self.number);
            self.client.call(put(&key, open.to_string(), 0)).await;
            if let Some(before) = passed.replace(key) {
                self.client.call(delete(&before)).await;
            }
        }
    }

    /// Waits until a gate that was there at revision `at` is gone, and gives the revision at which it is. `None` at the end
    /// of the load.
    async fn wait_for_gate(&mut self, gate: &str, mut at: i64) -> Option<i64> {
        loop {
            let waited = event(
                &self.context,
                BARRIER,
                &self.client,
                EventType::Delete,
                (Bytes::copy_from_slice(gate.as_bytes()), Bytes::new()),
                at + 1,
                Self::stopped(self.context.clone()),
            );
            match waited.await {
                Waited::Came(revision) => return Some(revision),
                Waited::GivenUp => return None,
                Waited::Unsure => {}
            }
            loop {
                self.go_elsewhere().await;
                if self.context.stopped() {
                    return None;
                }
                if let Outcome::Ok(Answer::Range(found)) = self.client.call(get(gate)).await {
                    at = found.header.unwrap_or_default().revision;
                    if found.kvs.is_empty() {
                        return Some(at);
                    }
                    break;
                }
            }
        }
    }

    /// Enters and leaves double barriers of `count` members, one after the other.
    async fn meet(mut self, count: u32, tidies: bool) {
        let mut session = None;
        let mut generation: u64 = 0;
        while !self.context.stopped() {
            generation += 1;
            if !self.meet_once(&mut session, generation, count).await {
                break;
            }
            // When all are in the last one, all are out of the one before it.
            if tidies && generation > 2 {
                let before = format!("{DOUBLES}{}/", generation - 1);
                let tidy = pb::DeleteRangeRequest {
                    range_end: prefix_end(&before),
                    key: before.into(),
                    prev_kv: false,
                };
                self.client.call(tidy).await;
            }
        }
        if let Some(session) = session {
            session.close(&mut self.client).await;
        }
    }

    /// One double barrier. `false` at the end of the load.
    async fn meet_once(
        &mut self,
        session: &mut Option<Session>,
        generation: u64,
        count: u32,
    ) -> bool {
        let place = format!("{DOUBLES}{generation}/");
        let Some(ready) = self.enter(session, &place, count).await else {
            return false;
        };
        let key = format!("{place}in/{}", self.number);
        self.client.call(put(&key, ready.to_string(), 0)).await;
        self.context.rest(&mut self.chance).await;
        let own = format!("{place}m/{}", self.number);
        while !matches!(self.client.call(delete(&own)).await, Outcome::Ok(_)) {
            if self.context.stopped() {
                return false;
            }
            self.go_elsewhere().await;
        }
        let Some(empty) = self.leave(&place).await else {
            return false;
        };
        let key = format!("{place}out/{}", self.number);
        self.client.call(put(&key, empty.to_string(), 0)).await;
        true
    }

    /// Comes to a double barrier and waits until all have. Gives the revision at which they had.
    async fn enter(
        &mut self,
        session: &mut Option<Session>,
        place: &str,
        count: u32,
    ) -> Option<i64> {
        let members = format!("{place}m/");
        let own = format!("{members}{}", self.number);
        let ready = format!("{place}ready");
        while !self.context.stopped() {
            let lease = match session {
                Some(session) if session.is_alive() => session.lease(),
                _ => {
                    if let Some(lost) = session.take() {
                        lost.close(&mut self.client).await;
                    }
                    *session = self.session().await;
                    continue;
                }
            };
            let come = txn(
                [created_at(&own, 0), created_at(&ready, 0)],
                [Op::RequestPut(put(&own, count.to_string(), lease))],
                [],
            );
            let look = txn(
                [],
                [
                    Op::RequestRange(get(&ready)),
                    Op::RequestRange(by_creation(&members)),
                ],
                [],
            );
            if !matches!(self.client.call(come).await, Outcome::Ok(_)) {
                self.go_elsewhere().await;
                continue;
            }
            let Outcome::Ok(Answer::Txn(looked)) = self.client.call(look).await else {
                self.go_elsewhere().await;
                continue;
            };
            let at = looked.header.unwrap_or_default().revision;
            let found = ranges(looked);
            let [is_ready, here] = found.as_slice() else {
                return None;
            };
            if is_ready.count > 0 {
                return Some(at);
            }
            if here.count >= i64::from(count) {
                let all_here = txn(
                    [created_at(&ready, 0)],
                    [Op::RequestPut(put(&ready, count.to_string(), 0))],
                    [],
                );
                self.client.call(all_here).await;
                continue;
            }
            let context = self.context.clone();
            let give_up = async {
                tokio::select! {
                    biased;
                    () = Self::stopped(context.clone()) => {}
                    () = lost(session.as_ref()) => {}
                }
            };
            let waited = event(
                &context,
                BARRIER,
                &self.client,
                EventType::Put,
                (Bytes::copy_from_slice(place.as_bytes()), prefix_end(place)),
                at + 1,
                give_up,
            );
            if waited.await == Waited::Unsure {
                self.go_elsewhere().await;
            }
        }
        None
    }

    /// Waits until nobody is in a double barrier any more. Gives the revision at which that is so.
    async fn leave(&mut self, place: &str) -> Option<i64> {
        let members = format!("{place}m/");
        while !self.context.stopped() {
            let Outcome::Ok(Answer::Range(here)) = self.client.call(by_creation(&members)).await
            else {
                self.go_elsewhere().await;
                continue;
            };
            let at = here.header.unwrap_or_default().revision;
            if here.kvs.is_empty() {
                return Some(at);
            }
            let waited = event(
                &self.context,
                BARRIER,
                &self.client,
                EventType::Delete,
                (
                    Bytes::copy_from_slice(members.as_bytes()),
                    prefix_end(&members),
                ),
                at + 1,
                Self::stopped(self.context.clone()),
            );
            if waited.await == Waited::Unsure {
                self.go_elsewhere().await;
            }
        }
        None
    }
}

/// Waits until the session may have ended, if there is one.
async fn lost(session: Option<&Session>) {
    if let Some(session) = session {
        session.lost().await;
    }
}
