//! Standing in a line by keys, as clients do that know nothing of lock and election services; and what a contender may do
//! with its place.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use baton_proto::etcdserverpb as pb;
use baton_proto::mvccpb::event::EventType;
use bytes::Bytes;
use pb::request_op::Request as Op;
use rand::Rng;
use rand::rngs::SmallRng;

use super::Context;
use super::ask::{created_at, created_before, first_created, get, put, ranges, txn};
use super::await_event::{Waited, event};
use super::session::Session;
use crate::client::Client;
use crate::history::{Answer, Hold, HoldEnd, Nanos, Outcome, Record, Request};

/// The longest that a place in line is waited for.
pub const LONGEST_WAIT: Duration = Duration::from_secs(15);
/// The pause before something that failed is tried again.
pub const AGAIN: Duration = Duration::from_millis(50);

/// What a contender is about to do with its place, or with what it stands in line for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// Waits, works, gives back.
    Orderly,
    /// Stands still for longer than its lease lives, then goes on.
    Pauses,
    /// Dies while it holds.
    Dies,
    /// Walks away while it waits, if it has to wait, and lives on.
    WalksAway,
    /// Has its session ended while it waits, if it has to wait, and waits on all the same. Otherwise orderly.
    Outlived,
}

impl Manner {
    /// Most are orderly.
    pub fn draw(chance: &mut SmallRng) -> Self {
        match chance.random_range(0..100) {
            0..82 => Self::Orderly,
            82..87 => Self::Pauses,
            87..91 => Self::Dies,
            91..94 => Self::WalksAway,
            _ => Self::Outlived,
        }
    }

    /// How long its place is waited for.
    pub fn patience(self, chance: &mut SmallRng) -> Duration {
        match self {
            Self::WalksAway => Duration::from_millis(chance.random_range(1..=400)),
            _ => LONGEST_WAIT,
        }
    }
}

/// Something that is held.
#[derive(Debug)]
pub struct Held {
    /// The key that stands for it.
    pub key: String,
    /// Its create revision.
    pub token: i64,
    /// When its holder learned of it.
    pub from: Nanos,
}

impl Held {
    /// Records that the holder believed in it until `until`.
    pub fn ended(
        &self,
        context: &Context,
        (workload, client): (&'static str, &Client),
        (name, lease): (&str, i64),
        until: Nanos,
        end: HoldEnd,
    ) {
        context.recorder.add(Record::Hold(Hold {
            workload: workload.to_owned(),
            client: client.number(),
            name: name.to_owned(),
            key: self.key.clone(),
            token: self.token,
            lease,
            from: self.from,
            until,
            end,
        }));
    }
}

/// What became of an attempt to be the first in a line.
#[derive(Debug)]
pub enum Attempt {
    /// It is.
    Held(Held),
    /// It is not, and nothing of the attempt is left.
    Not,
    /// It is not, but a key may be left, or may come up later. It goes with the session.
    Unclear,
}

/// Returns when a place in line is not to be waited for any longer: after `limit`, when the session may have ended, or at
/// the end of the load.
pub async fn patience_ends(context: &Context, session: &Session, limit: Duration) {
    let mut stop = context.stop.clone();
    tokio::select! {
        biased;
        // An error means that the run is gone.
        _ = stop.wait_for(|stop| *stop) => {}
        () = session.lost() => {}
        () = tokio::time::sleep(limit) => {}
    }
}

/// Asks a service for a place in line and waits for its answer, as `manner` has it. `None` if the answer was not waited for,
/// or is of no use to whoever waited.
pub async fn ask_service(
    manner: Manner,
    request: impl Into<Request>,
    context: &Context,
    client: &mut Client,
    chance: &mut SmallRng,
    (workload, session): (&'static str, &Session),
) -> Option<Outcome> {
    let limit = manner.patience(chance);
    if manner == Manner::Outlived {
        let other = context.client(workload, context.any_member(chance));
        let limit = Duration::from_millis(chance.random_range(1..=100));
        let answer = client.call_within(request, LONGEST_WAIT * 2);
        return outlived(context, other, session, limit, answer).await;
    }
    tokio::select! {
        biased;
        () = patience_ends(context, session, limit) => None,
        outcome = client.call_within(request, LONGEST_WAIT * 2) => Some(outcome),
    }
}

/// Waits for an answer. After `limit` somebody else ends the session, and it is still waited for: `None`, then, for what it
/// says is of no use to whoever waited.
async fn outlived<T>(
    context: &Context,
    mut other: Client,
    session: &Session,
    limit: Duration,
    answer: impl Future<Output = T>,
) -> Option<T> {
    let mut answer = std::pin::pin!(answer);
    tokio::select! {
        biased;
        answer = &mut answer => return Some(answer),
        () = patience_ends(context, session, limit) => {}
    }
    let id = session.lease();
    let mut stop = context.stop.clone();
    let waits_on = async {
        tokio::join!(other.call(pb::LeaseRevokeRequest { id }), answer);
    };
    tokio::select! {
        biased;
        // An error means that the run is gone.
        _ = stop.wait_for(|stop| *stop) => {}
        () = waits_on => {}
    }
    None
}

/// A contender in one line, by keys.
pub struct Contender<'a> {
    /// The run.
    pub context: &'a mut Context,
    /// Its process.
    pub client: &'a mut Client,
    /// Its chance.
    pub chance: &'a mut SmallRng,
    /// The workload.
    pub workload: &'static str,
    /// The prefix of all keys of the line.
    pub line: &'a str,
    /// The value of its key.
    pub value: Bytes,
}

impl Contender<'_> {
    /// Creates a key, waits for the one before it to go, and looks again, until its key is the first.
    pub async fn stand(
        &mut self,
        session: &Session,
        mut give_up: Pin<&mut impl Future<Output = ()>>,
    ) -> Attempt {
        let key = format!("{}{:x}", self.line, session.lease());
        let create = txn(
            [created_at(&key, 0)],
            [
                Op::RequestPut(put(&key, self.value.clone(), session.lease())),
                Op::RequestRange(first_created(self.line)),
            ],
            [
                Op::RequestRange(get(&key)),
                Op::RequestRange(first_created(self.line)),
            ],
        );
        let created = match self.client.call(create).await {
            Outcome::Ok(Answer::Txn(created)) => created,
            Outcome::Failed(_) => return Attempt::Not,
            _ => return Attempt::Unclear,
        };
        let revision = created.header.unwrap_or_default().revision;
        let succeeded = created.succeeded;
        let found = ranges(created);
        let token = if succeeded {
            revision
        } else {
            let own = found.first().and_then(|range| range.kvs.first());
            own.map_or(revision, |kv| kv.create_revision)
        };
        let first = found.last().and_then(|range| range.kvs.first());
        if first.is_some_and(|first| first.key == key) {
            return self.held(key, token);
        }
        loop {
            // Whether the own key is still there, and whom it is behind, at one revision.
            let look = txn(
                [created_at(&key, token)],
                [Op::RequestRange(created_before(self.line, token))],
                [],
            );
            let looked = tokio::select! {
                biased;
                () = give_up.as_mut() => return Attempt::Unclear,
                looked = self.client.call(look) => looked,
            };
            let Outcome::Ok(Answer::Txn(looked)) = looked else {
                self.go_elsewhere().await;
                continue;
            };
            if !looked.succeeded {
                return Attempt::Not;
            }
            let revision = looked.header.unwrap_or_default().revision;
            let found = ranges(looked);
            let before = found.first().and_then(|range| range.kvs.first());
            let Some(before) = before else {
                return self.held(key, token);
            };
            let waited = event(
                self.context,
                self.workload,
                self.client,
                EventType::Delete,
                (before.key.clone(), Bytes::new()),
                revision + 1,
                give_up.as_mut(),
            );
            match waited.await {
                Waited::Came(_) => {}
                Waited::Unsure => self.go_elsewhere().await,
                Waited::GivenUp => return Attempt::Unclear,
            }
        }
    }

    fn held(&self, key: String, token: i64) -> Attempt {
        let from = self.context.recorder.now();
        Attempt::Held(Held { key, token, from })
    }

    async fn go_elsewhere(&mut self) {
        let member = self.context.any_member(self.chance);
        self.client.move_to(member);
        tokio::time::sleep(AGAIN).await;
    }
}
