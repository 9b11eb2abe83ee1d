//! The line of waiters of a name, in etcd's layout, shared with every client that follows it.
//!
//! A waiter is the key `name/` + the session's lease in hex, bound to that lease. Its place is the revision
//! it was created at, and nothing else: whoever was created first holds. A waiter watches two keys: its
//! predecessor's, and its own. What a watch tells is a hint; who holds is decided by reading both at
//! one revision ([`decide`]).
//!
//! # A create that arrives late
//! A create whose answer is lost may arrive after the waiter it made the first time has come and gone, and
//! would leave a waiter behind that nobody waits for, alive for as long as the session is. So a session
//! has a key of its own, outside of every name; a create is conditional on the revision that key was changed
//! at; and the removal that ends an attempt with a create of unknown outcome changes it. Where every create
//! was answered, that costs a comparison.

use std::sync::Arc;
use std::time::Duration;

use baton_client::mvccpb::{KeyValue, event::EventType};
use baton_client::{
    BootInstant, Compare, Delete, Get, Notification, Outcome, Put, Txn, Watch, WatchError, Watcher,
    pb, prefix_end,
};
use bytes::Bytes;

use crate::answers::{reads, revision};
use crate::patience::passes;
use crate::session::{Retry, Shared};
use crate::{Error, LossReason, Name, Token};

/// A hold that is shorter than this is over before it would be worth a watch of its key.
const UNWATCHED: Duration = Duration::from_millis(5);

/// Time to find out why the key of a hold is gone, before the holder is told that it is.
const WHY: Duration = Duration::from_millis(200);

/// What a waiter does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// It is first: it holds.
    Hold,
    /// It waits for this key to be deleted.
    Watch(Bytes),
    /// It does not stand in line any more.
    Gone,
}

/// What a waiter created at `token` does next, given its own key and the youngest of those that are
/// older, as they were at one revision.
pub(crate) fn decide(token: Token, own: Option<&KeyValue>, predecessor: Option<&KeyValue>) -> Step {
    if own.is_none_or(|own| own.create_revision != token.revision()) {
        return Step::Gone;
    }
    match predecessor {
        None => Step::Hold,
        Some(predecessor) => Step::Watch(predecessor.key.clone()),
    }
}

/// A waiter in line.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) token: Token,
    /// At the revision `seen`.
    pub(crate) step: Step,
    pub(crate) seen: i64,
}

impl Place {
    /// Takes the answer to a [look](Line::look_txn).
    fn looked(&mut self, answer: pb::TxnResponse) {
        self.seen = revision(answer.header.as_ref());
        let mut reads = reads(answer);
        let own = reads.next().unwrap_or_default();
        let predecessor = reads.next().unwrap_or_default();
        self.step = decide(self.token, own.first(), predecessor.first());
    }
}

/// Why there is no place in line.
pub(crate) enum NoPlace {
    /// Others are there, and it was asked not to wait.
    Taken,
    /// Nobody wants it any more.
    Abandoned,
    Failed(Error),
}

impl From<Error> for NoPlace {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// A session's place in the line of one name: at most one at a time, kept so by the session's
/// [turns](Shared::turns).
pub(crate) struct Line {
    shared: Arc<Shared>,
    key: String,
    prefix: String,
    /// A create was sent whose outcome was not told. It may arrive at any time.
    is_doubtful: bool,
    /// Watches the waiter's own key, from when it is first waited for.
    own: Option<Watcher>,
}

impl Line {
    pub(crate) fn new(shared: Arc<Shared>, name: &Name) -> Self {
        Self {
            key: name.waiter(shared.id),
            prefix: name.prefix(),
            is_doubtful: false,
            own: None,
            shared,
        }
    }

    /// Takes a place in line, or finds the one the session has already. `if_free`: only if nobody is
    /// there. `is_wanted` is asked before an attempt is repeated.
    ///
    /// After an error call [`leave`](Self::leave).
    pub(crate) async fn enter(
        &mut self,
        value: &Bytes,
        if_free: bool,
        is_wanted: impl Fn() -> bool,
    ) -> Result<Place, NoPlace> {
        let mut lost = self.shared.lost();
        let mut retry = Retry::new();
        loop {
            let put = Put::new(&self.key, value).lease(self.shared.id.lease());
            let predecessor = Get::prefix(&self.prefix).last_created().keys_only();
            let expected = self.shared.marker();
            let mut txn = Txn::new()
                .when(Compare::absent(&self.key))
                .when(self.shared.unchanged_since(expected));
            if if_free {
                txn = txn.when(Compare::absent(&self.prefix).over(prefix_end(&self.prefix)));
            }
            let txn = txn
                .then(predecessor)
                .then(put)
                .or_else(Get::key(&self.key))
                .or_else(self.shared.own_key());
            let result = tokio::select! {
                biased;
                reason = &mut lost => {
                    self.is_doubtful = true;
                    return Err(Error::Lost(reason).into());
                }
                result = self.shared.client.txn(txn) => result,
            };
            match result {
                Ok(answer) if answer.succeeded => {
                    let entered = self.entered(answer);
                    self.is_doubtful |= entered.is_err();
                    return Ok(entered?);
                }
                Ok(answer) => {
                    let seen = revision(answer.header.as_ref());
                    let mut reads = reads(answer);
                    let own = reads.next().and_then(|mut kvs| kvs.pop());
                    let marker = reads.next().and_then(|mut kvs| kvs.pop());
                    if let Some(own) = own {
                        let found = self.found(&own, value, seen).await;
                        // An error leaves no key, and here there is one.
                        self.is_doubtful |= found.is_err();
                        return found.map_err(NoPlace::from);
                    }
                    let marker = marker.map_or(0, |marker| marker.mod_revision);
                    if if_free && marker == expected {
                        return Err(NoPlace::Taken);
                    }
                    self.shared.marker_seen(marker);
                }
                Err(error) => match error.outcome() {
                    Outcome::Unknown => {
                        tracing::debug!(key = self.key, "a create has no answer: {error}");
                        self.is_doubtful = true;
                    }
                    Outcome::NotDone => {
                        if error.refusal().is_some_and(|it| it.is_lease_not_found()) {
                            self.shared.check_now();
                            return Err(Error::Lost(LossReason::Revoked).into());
                        }
                        if if_free || !passes(&error) {
                            return Err(Error::from(error).into());
                        }
                        tracing::debug!(key = self.key, "a create was not done: {error}");
                    }
                },
            }
            if !is_wanted() {
                return Err(NoPlace::Abandoned);
            }
            retry.pause().await;
        }
    }

    fn entered(&self, answer: pb::TxnResponse) -> Result<Place, Error> {
        let seen = revision(answer.header.as_ref());
        let token = Token::from_revision(seen).ok_or_else(|| {
            baton_client::Error::Malformed("a transaction that put has no revision".to_owned())
        })?;
        let predecessor = reads(answer).next().and_then(|mut kvs| kvs.pop());
        let step = match predecessor {
            None => Step::Hold,
            Some(predecessor) => Step::Watch(predecessor.key),
        };
        Ok(Place { token, step, seen })
    }

    /// The session stands in line already: from an attempt whose answer was lost, or from before it was
    /// resumed.
    async fn found(&mut self, own: &KeyValue, value: &Bytes, seen: i64) -> Result<Place, Error> {
        let token = Token::from_revision(own.create_revision).ok_or_else(|| {
            baton_client::Error::Malformed("a key was created at no revision".to_owned())
        })?;
        let mut place = Place {
            token,
            step: Step::Gone,
            seen,
        };
        // Whoever made it may have sent another create. And it is this attempt's to remove, also if it fails here.
        self.is_doubtful = true;
        if own.value != *value {
            let put = Put::new(&self.key, value).lease(self.shared.id.lease());
            let txn = Txn::new()
                .when(Compare::created_at(&self.key, token.revision()))
                .then(put);
            let request = || self.shared.client.txn(txn.clone());
            self.shared
                .until_answered("to set a value", request)
                .await?;
        }
        self.look(&mut place, None).await?;
        Ok(place)
    }

    /// Reads what the waiter does next. Behind a revision that a watch has told of, the member that told it
    /// knows enough: a key that is gone at some revision does not come back, and whoever is first there
    /// was first. So no majority is asked, unless it is another member that answers, and behind.
    async fn look(&self, place: &mut Place, told: Option<i64>) -> Result<(), Error> {
        if let Some(told) = told
            && let Ok(answer) = self
                .shared
                .client
                .txn(self.look_txn(place.token, true))
                .await
            && revision(answer.header.as_ref()) >= told
        {
            place.looked(answer);
            return Ok(());
        }
        let request = || self.shared.client.txn(self.look_txn(place.token, false));
        let answer = self.shared.until_answered("to look", request).await?;
        place.looked(answer);
        Ok(())
    }

    fn look_txn(&self, token: Token, is_serializable: bool) -> Txn {
        let mut own = Get::key(&self.key).keys_only();
        let mut predecessor = Get::prefix(&self.prefix)
            .last_created()
            .max_create_revision(token.revision() - 1)
            .keys_only();
        if is_serializable {
            own = own.serializable();
            predecessor = predecessor.serializable();
        }
        Txn::new().then(own).then(predecessor)
    }

    /// How many stand before a place.
    pub(crate) async fn ahead(&self, place: &Place) -> Result<u64, Error> {
        if place.step == Step::Hold {
            return Ok(0);
        }
        let read = Get::prefix(&self.prefix)
            .max_create_revision(place.token.revision() - 1)
            .keys_only();
        let request = || self.shared.client.get(read.clone());
        let answer = self.shared.until_answered("to count", request).await?;
        Ok(answer.kvs.len() as u64)
    }

    /// Waits until the place is first, and holds. May be dropped at any time; then [`leave`](Self::leave).
    ///
    /// # Errors
    /// [`Error::Lost`] if the key is removed, or the session ends.
    pub(crate) async fn wait(&mut self, place: &mut Place) -> Result<(), Error> {
        let mut retry = Retry::new();
        loop {
            let predecessor = match &place.step {
                Step::Hold => return Ok(()),
                Step::Gone => return Err(self.removed().await),
                Step::Watch(predecessor) => predecessor.clone(),
            };
            match self.predecessor_gone(&predecessor, place).await {
                Ok(told) => {
                    retry = Retry::new();
                    self.look(place, Some(told)).await?;
                }
                // The place is kept: it is the key, and the key is there.
                Err(error) => {
                    tracing::debug!(key = self.key, "watching, once more: {error}");
                    self.own = None;
                    if !matches!(error, WatchError::Compacted { .. }) {
                        retry.pause().await;
                    }
                    self.look(place, None).await?;
                }
            }
        }
    }

    /// Waits until a watch tells that the predecessor is gone, or the waiter itself. Gives the revision
    /// that was told.
    async fn predecessor_gone(
        &mut self,
        predecessor: &Bytes,
        place: &Place,
    ) -> Result<i64, WatchError> {
        let from = place.seen + 1;
        let watch = Watch::key(predecessor).from(from).deletes();
        let client = self.shared.client.clone();
        let (other, own) = tokio::join!(client.watch(watch), self.own_watch(from));
        let (mut other, own) = (other?, own?);
        loop {
            let told = tokio::select! {
                biased;
                told = own.next() => told?,
                told = other.next() => told?,
            };
            if has_delete(&told) {
                return Ok(told.revision);
            }
        }
    }

    async fn own_watch(&mut self, from: i64) -> Result<&mut Watcher, WatchError> {
        if self.own.is_none() {
            let watch = Watch::key(&self.key).from(from).deletes();
            self.own = Some(self.shared.client.watch(watch).await?);
        }
        Ok(self.own.as_mut().expect("set above"))
    }

    /// Waits until the holder's key is removed. May be dropped at any time.
    pub(crate) async fn hold_ends(&mut self, place: &mut Place) -> LossReason {
        let mut lost = self.shared.lost();
        let ends = async {
            if self.own.is_none() {
                tokio::time::sleep(UNWATCHED).await;
            }
            let mut retry = Retry::new();
            loop {
                let result = match self.own_watch(place.seen + 1).await {
                    Ok(own) => own.next().await,
                    Err(error) => Err(error),
                };
                match result {
                    // It was there at the revision the watch begins behind.
                    Ok(told) if has_delete(&told) => return,
                    Ok(_) => {}
                    Err(error) => {
                        tracing::debug!(key = self.key, "watching, once more: {error}");
                        self.own = None;
                        if !matches!(error, WatchError::Compacted { .. }) {
                            retry.pause().await;
                        }
                        if self.look(place, None).await.is_ok() && place.step == Step::Gone {
                            return;
                        }
                    }
                }
            }
        };
        tokio::select! {
            biased;
            reason = &mut lost => return reason,
            () = ends => {}
        }
        // The holder has to stop now: it is told why if that is known soon.
        match tokio::time::timeout(WHY, self.removed()).await {
            Ok(Error::Lost(reason)) => reason,
            _ => LossReason::Removed,
        }
    }

    /// Why the key is gone: with its lease, or alone.
    async fn removed(&self) -> Error {
        let renewal = || self.shared.client.renew(self.shared.id.lease());
        match self
            .shared
            .until_answered("to ask for the lease", renewal)
            .await
        {
            Ok(Some(_)) => Error::Lost(LossReason::Removed),
            Ok(None) => {
                self.shared.check_now();
                Error::Lost(LossReason::Revoked)
            }
            Err(error) => error,
        }
    }

    /// Leaves the line, and comes back when nothing is left there, nor can come: of a place, or of an
    /// attempt at one. Gives the revision at which it was gone.
    ///
    /// # Errors
    /// [`Error::Lost`] if the session ends before; all goes with it.
    pub(crate) async fn leave(&mut self, token: Option<Token>) -> Result<i64, Error> {
        self.own = None;
        let started = BootInstant::now();
        let result = match token {
            Some(token) => self.remove(token).await,
            None if self.is_doubtful => self.remove_attempt().await,
            None => return Ok(0),
        };
        if let Err(error) = &result {
            tracing::debug!(
                key = self.key,
                after = ?BootInstant::now().since(started),
                "removal left to the end of the lease: {error}"
            );
        }
        result
    }

    async fn remove(&mut self, token: Token) -> Result<i64, Error> {
        let is_doubtful = self.is_doubtful;
        let mut txn = Txn::new()
            .when(Compare::created_at(&self.key, token.revision()))
            .then(Delete::key(&self.key));
        if is_doubtful {
            txn = txn.then(self.shared.change()).or_else(self.shared.change());
        }
        let request = || self.shared.client.txn(txn.clone());
        let answer = self.shared.until_removed(request).await?;
        let at = revision(answer.header.as_ref());
        if is_doubtful {
            self.shared.marker_seen(at);
            self.is_doubtful = false;
        }
        Ok(at)
    }

    /// Removes what a create of unknown outcome left or will leave.
    async fn remove_attempt(&mut self) -> Result<i64, Error> {
        loop {
            // Conditional, so that a copy of this removal that arrives late removes nothing either.
            let expected = self.shared.marker();
            let txn = Txn::new()
                .when(self.shared.unchanged_since(expected))
                .then(self.shared.change())
                .then(Delete::key(&self.key))
                .or_else(self.shared.own_key());
            let request = || self.shared.client.txn(txn.clone());
            let answer = self.shared.until_removed(request).await?;
            let at = revision(answer.header.as_ref());
            if answer.succeeded {
                self.shared.marker_seen(at);
                self.is_doubtful = false;
                return Ok(at);
            }
            let marker = reads(answer).next().and_then(|mut kvs| kvs.pop());
            let marker = marker.map_or(0, |marker| marker.mod_revision);
            self.shared.marker_seen(marker);
        }
    }
}

fn has_delete(told: &Notification) -> bool {
    let delete = EventType::Delete as i32;
    told.events.iter().any(|event| event.r#type == delete)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn created(key: &'static str, create_revision: i64) -> KeyValue {
        KeyValue {
            key: Bytes::from_static(key.as_bytes()),
            create_revision,
            ..Default::default()
        }
    }

    fn token(revision: i64) -> Token {
        Token::from_revision(revision).unwrap()
    }

    #[test]
    fn whoever_nobody_precedes_holds() {
        let own = created("a/1", 7);
        assert_eq!(decide(token(7), Some(&own), None), Step::Hold);
    }

    #[test]
    fn a_waiter_watches_the_youngest_that_is_older() {
        let own = created("a/2", 9);
        let predecessor = created("a/1", 7);
        let step = decide(token(9), Some(&own), Some(&predecessor));
        assert_eq!(step, Step::Watch(predecessor.key));
    }

    #[test]
    fn a_waiter_whose_key_is_gone_holds_nothing() {
        assert_eq!(decide(token(7), None, None), Step::Gone);
    }

    #[test]
    fn a_key_created_anew_is_not_the_waiters() {
        let own = created("a/1", 8);
        assert_eq!(decide(token(7), Some(&own), None), Step::Gone);
    }
}
