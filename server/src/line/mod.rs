//! Standing in line: what the lock and the election service are made of.
//!
//! Whoever wants something called `name` has a key `name/<lease>` and holds it while no key of the
//! directory `name/` was created earlier. The create revision is the place in line and the fencing token,
//! and the lease ends the hold. Clients that do all this by themselves, with transactions and watches,
//! stand in the same lines.
//!
//! ```text
//! enter   propose: create the key if it is missing ---------> applied: first? -> held
//! wait    state: own key gone? -> expired   none before it? -> held
//!         else wait for the deletion of its own key or of its predecessor (wakes.rs), look again
//! leave   the last call of a key has it removed (stays.rs, cleaner.rs)
//! ```
//!
//! A hand-over costs the commit of the deletion and an answer: the apply loop wakes the successor, whose
//! turn it is by the state as applied here. That state may be behind, but whoever was first in it was
//! first at that revision; that a hold may end at any time by its lease is true of every hold.
//!
//! # When the caller goes away
//!
//! The caller's future owns no proposal. A task of its own makes the key and does not rest before it
//! knows what became of it; the caller only waits for the task's answer, which carries a [`Stay`]. If
//! nobody takes the answer, or whoever has it is dropped, the stay is dropped, and the key is removed.

mod cleaner;
mod requests;
mod stays;
mod wakes;

use std::sync::Arc;

use baton_proto::etcdserverpb::request_op::Request;
use baton_proto::etcdserverpb::response_op::Response as Answer;
use baton_proto::etcdserverpb::{PutRequest, RangeRequest, TxnRequest, TxnResponse};
use baton_proto::log::command::Op;
use baton_state_machine::{ApplyError, KeyRange, Response};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot, watch};

use crate::chaos::{Mutant, planted};
use crate::core::{Committed, Core, ProposeError};
use requests::{if_created, if_modified, op, read};

pub use requests::{delete_if_created, first_created, found, put_if_created};
pub use stays::{Claim, Removal, Stay, Stays};
pub use wakes::{Registered, Wakes};

/// Proposals of the same key that may be under way at once, where the outcome of the first is not known.
const ATTEMPTS_MAX: usize = 4;

/// Where calls of this member stand in line. Cheap to clone.
#[derive(Clone)]
pub struct Line {
    core: Core,
    stays: Arc<Stays>,
}

/// A key in line.
#[derive(Debug)]
pub struct Place {
    /// The key.
    pub key: Bytes,
    /// Its creation: the place in line, and the fencing token of the hold.
    pub create_revision: i64,
    /// The revision at which it was found or made.
    pub entered_at: i64,
    /// Nobody stood before it then.
    pub is_first: bool,
    /// Dropped, the key is removed, if nothing says otherwise.
    pub stay: Stay,
    directory: KeyRange,
}

/// The key is gone: its lease ended, or somebody deleted it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("session is expired")]
pub struct Expired;

/// The key by which the owner of `lease` stands in line for `name`.
pub fn key(name: &[u8], lease: i64) -> Bytes {
    let sign = if lease < 0 { "-" } else { "" };
    let lease = lease.unsigned_abs();
    [name, format!("/{sign}{lease:x}").as_bytes()]
        .concat()
        .into()
}

impl Line {
    /// The line over `core`, and the work of removing keys, to be run for as long as it is used.
    pub fn new(core: Core) -> (Self, impl Future<Output = ()>) {
        let (removals, to_remove) = mpsc::unbounded_channel();
        let stays = Stays::new(removals, core.stopping());
        let clean = cleaner::run(core.clone(), to_remove);
        (Self { core, stays }, clean)
    }

    /// Makes the key of `lease` in the line for `name`, with `value` in it. If it is there already, it
    /// keeps its place and gets the value, or keeps that too if there is none to give.
    ///
    /// Returns once the outcome is known, however long that takes. Dropped before, the key is removed as
    /// soon as it can be.
    ///
    /// # Errors
    /// It was refused, or the member is stopping.
    pub async fn enter(
        &self,
        name: &[u8],
        lease: i64,
        value: Option<Bytes>,
    ) -> Result<Place, ProposeError> {
        let stay = self.stays.join(key(name, lease));
        let entrance = Entrance {
            core: self.core.clone(),
            stays: Arc::clone(&self.stays),
            key: key(name, lease),
            directory: KeyRange::directory(name),
            lease,
            value,
        };
        let (mut caller, entered) = oneshot::channel();
        tokio::spawn(async move {
            let place = entrance.pass(stay, &mut caller).await;
            // Nobody there to take the place: it goes with its stay.
            let _ = caller.send(place);
        });
        entered.await.unwrap_or(Err(ProposeError::Stopped))
    }

    /// Returns once nobody stands before `place`, with the revision that made it so as far as it can be
    /// told: that of the deletion, where the holder left right before it, and else that at which it was
    /// found. Safe to drop half-way.
    ///
    /// # Errors
    /// Its key is gone, at once when it goes.
    pub async fn wait(&self, place: &Place) -> Result<i64, Expired> {
        let mut freed_at = None;
        loop {
            let (wake, behind_holder) = {
                let state = self.core.state().read();
                let is_there = state.create_revision(&place.key) == Some(place.create_revision);
                if !is_there && !planted(Mutant::LockUnchecked) {
                    return Err(Expired);
                }
                let before = state.predecessor(&place.directory, place.create_revision);
                let Some(before) = before else {
                    return Ok(freed_at.unwrap_or_else(|| state.revision()));
                };
                let keys = [place.key.clone(), before.clone()];
                let behind_holder = state.first_created(&place.directory) == Some(before);
                (self.core.wakes().register(keys), behind_holder)
            };
            // What was told of may be the deletion of an older key of that name.
            let told = wake.woken().await;
            freed_at = told.filter(|at| behind_holder && *at > place.create_revision);
            if planted(Mutant::LockOutOfOrder)
                && let Some(at) = told
            {
                return Ok(at);
            }
        }
    }
}

/// One key on its way into a line.
struct Entrance {
    core: Core,
    stays: Arc<Stays>,
    key: Bytes,
    directory: KeyRange,
    lease: i64,
    value: Option<Bytes>,
}

/// What became of the attempt to create the key.
struct Looked {
    is_created: bool,
    /// No key of the line was created earlier.
    is_first: bool,
    create_revision: i64,
    mod_revision: i64,
    /// Of the store, after it.
    revision: i64,
}

impl Entrance {
    /// A caller that went away may stand in line again on another member, with the same key, before this
    /// is over. So a key that is found without a caller is left alone: it is not this call's.
    async fn pass(
        self,
        mut stay: Stay,
        caller: &mut oneshot::Sender<Result<Place, ProposeError>>,
    ) -> Result<Place, ProposeError> {
        let begun_at = self.core.state().read().revision();
        loop {
            let (looked, has_lost) = self.create(caller).await?;
            let mut mod_revision = looked.mod_revision;
            if !looked.is_created {
                match self.share(&stay, looked.create_revision, caller).await? {
                    Some(revision) => mod_revision = revision,
                    None => continue,
                }
            }
            // An attempt of which nothing can be heard any more may have made it.
            let is_own = looked.is_created || has_lost && looked.create_revision > begun_at;
            stay.entered(Claim {
                create_revision: looked.create_revision,
                mod_revision,
                held_before: looked.is_first && !is_own,
            });
            return Ok(Place {
                key: self.key,
                create_revision: looked.create_revision,
                entered_at: looked.revision,
                is_first: looked.is_first,
                stay,
                directory: self.directory,
            });
        }
    }

    /// Writes a key that was found again, so that it is this call's too. Gives its modification, `None`
    /// where it has to be looked at again.
    async fn share(
        &self,
        stay: &Stay,
        create_revision: i64,
        caller: &mut oneshot::Sender<Result<Place, ProposeError>>,
    ) -> Result<Option<i64>, ProposeError> {
        // All at once they would foil each other: each finds that another wrote it since.
        let turn = stay.turn();
        let _turn = tokio::select! {
            biased;
            () = caller.closed() => return Err(ProposeError::Superseded),
            turn = turn.lock() => turn,
        };
        let mod_revision = {
            let state = self.core.state().read();
            let is_same = state.create_revision(&self.key) == Some(create_revision);
            state.mod_revision(&self.key).filter(|_| is_same)
        };
        let Some(mod_revision) = mod_revision else {
            return Ok(None);
        };
        match self.rewrite(mod_revision).await {
            Err(error) if error.is_unknown() => Ok(None),
            rewritten => rewritten,
        }
    }

    /// Creates the key if it is missing, looks at it if not. Tells too whether attempts were lost whose
    /// outcome will never be known.
    ///
    /// An attempt that is not heard of for long is made again, which changes nothing if the first took
    /// effect. It may still do so later, when the key was made and removed again by then; that second one
    /// is removed. So is what comes of attempts whose caller went away. They are waited for outside of the
    /// stay: of some nothing is ever heard, and the key of a later call must not stay for their sake.
    async fn create(
        &self,
        caller: &mut oneshot::Sender<Result<Place, ProposeError>>,
    ) -> Result<(Looked, bool), ProposeError> {
        let op = Op::Txn(self.create_if_missing());
        let patience = self.core.identity().request_timeout;
        let superseded = watch::Sender::new(false);
        let mut attempts = FuturesUnordered::new();
        let mut has_lost = false;
        let known = loop {
            if attempts.len() < ATTEMPTS_MAX {
                let (core, op, mut told) = (self.core.clone(), op.clone(), superseded.subscribe());
                attempts.push(async move {
                    let superseded = async {
                        let _ = told.wait_for(|superseded| *superseded).await;
                    };
                    core.propose_until_known(op, superseded).await
                });
            }
            tokio::select! {
                biased;
                () = caller.closed() => break Err(ProposeError::Superseded),
                Some(known) = attempts.next() => match known {
                    Err(error) if error.is_unknown() => has_lost = true,
                    known => break known,
                },
                () = tokio::time::sleep(patience) => {}
            }
        };
        superseded.send_replace(true);
        if !attempts.is_empty() {
            let (stays, key) = (Arc::clone(&self.stays), self.key.clone());
            tokio::spawn(async move {
                while let Some(late) = attempts.next().await {
                    if let Ok(looked) = late.and_then(Looked::of)
                        && looked.is_created
                    {
                        stays.join(key.clone()).entered(Claim {
                            create_revision: looked.create_revision,
                            mod_revision: looked.mod_revision,
                            held_before: false,
                        });
                    }
                }
            });
        }
        Ok((Looked::of(known?)?, has_lost))
    }

    fn create_if_missing(&self) -> TxnRequest {
        let first = Request::RequestRange(RangeRequest {
            keys_only: true,
            ..first_created(&self.directory)
        });
        let put = Request::RequestPut(PutRequest {
            key: self.key.clone(),
            value: self.value.clone().unwrap_or_default(),
            lease: self.lease,
            ..PutRequest::default()
        });
        TxnRequest {
            compare: vec![if_created(&self.key, 0)],
            success: vec![op(put), op(read(&self.key)), op(first.clone())],
            failure: vec![op(read(&self.key)), op(first)],
        }
    }

    /// Writes the key again, unless it changed since `mod_revision`: whoever wants to remove it as it was
    /// leaves it alone then. Gives the new modification, `None` if it had changed.
    async fn rewrite(&self, mod_revision: i64) -> Result<Option<i64>, ProposeError> {
        let put = Request::RequestPut(PutRequest {
            key: self.key.clone(),
            value: self.value.clone().unwrap_or_default(),
            lease: self.lease,
            ignore_value: self.value.is_none(),
            ..PutRequest::default()
        });
        let rewrite = TxnRequest {
            compare: vec![if_modified(&self.key, mod_revision)],
            success: vec![op(put)],
            failure: Vec::new(),
        };
        let committed = self.core.propose(Op::Txn(rewrite)).await?;
        let Response::Txn(response) = committed.response else {
            return Ok(None);
        };
        Ok(response.succeeded.then_some(committed.revision))
    }
}

impl Looked {
    fn of(committed: Committed) -> Result<Self, ProposeError> {
        let Response::Txn(TxnResponse {
            succeeded,
            responses,
            ..
        }) = committed.response
        else {
            return Err(ProposeError::Refused(ApplyError::Malformed));
        };
        let mut found = responses.into_iter().filter_map(|op| match op.response? {
            Answer::ResponseRange(range) => range.kvs.into_iter().next(),
            _ => None,
        });
        let (Some(own), Some(first)) = (found.next(), found.next()) else {
            return Err(ProposeError::Refused(ApplyError::Malformed));
        };
        Ok(Self {
            is_created: succeeded,
            is_first: own.create_revision == first.create_revision,
            create_revision: own.create_revision,
            mod_revision: own.mod_revision,
            revision: committed.revision,
        })
    }
}
