//! Fencing tokens.

use std::fmt;
use std::num::NonZeroU64;

use baton_client::{Client, Compare, Get, Txn};
use serde::{Deserialize, Serialize};

use crate::answers::revision;
use crate::{Error, Name, SessionId};

/// A fencing token: the revision the holder's key was created at. Of two holds of a name, the later has
/// the greater token, whoever holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Token(NonZeroU64);

impl Token {
    /// The token of a key created at this revision; none for a key that is absent.
    pub fn from_revision(create_revision: i64) -> Option<Self> {
        let revision = u64::try_from(create_revision).ok()?;
        NonZeroU64::new(revision).map(Self)
    }

    /// The revision the holder's key was created at.
    pub fn revision(self) -> i64 {
        i64::try_from(self.0.get()).unwrap_or(i64::MAX)
    }

    /// The same as a number that is never negative.
    pub fn get(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A hold that can be shown to others: what is held, by whom, with which token. A service that is sent
/// one can put [`compare`](Self::compare) into its own transactions, or [`verify`](Self::verify) it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Fence {
    /// What is held.
    pub name: String,
    /// The holder's key.
    pub key: String,
    /// Greater than that of every earlier hold of this name.
    pub token: Token,
    /// Whose it is.
    pub session: SessionId,
}

impl Fence {
    pub(crate) fn new(name: &Name, session: SessionId, token: Token) -> Self {
        Self {
            name: name.as_str().to_owned(),
            key: name.waiter(session),
            token,
            session,
        }
    }

    /// A condition for a transaction: the hold is there.
    ///
    /// It looks at the holder's key alone, and that is enough: a key that once was first in line is first
    /// until it is removed.
    pub fn compare(&self) -> Compare {
        Compare::created_at(&self.key, self.token.revision())
    }

    /// Asks whether the hold is there. Gives the revision at which it was; by the time the answer is here
    /// that may have changed, so a write had better be [fenced](Self::compare) itself.
    ///
    /// Reads; may be dropped at any time.
    ///
    /// # Errors
    /// [`Error::Stale`] if it is not, [`Error::Client`] if there is no answer.
    pub async fn verify(&self, client: &Client) -> Result<i64, Error> {
        let txn = Txn::new()
            .when(self.compare())
            .then(Get::key(&self.key).keys_only())
            .or_else(Get::key(&self.key).keys_only());
        let answer = client.txn(txn).await?;
        if answer.succeeded {
            Ok(revision(answer.header.as_ref()))
        } else {
            Err(Error::Stale {
                fence: self.clone(),
            })
        }
    }
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} of session {} with token {}",
            self.name, self.session, self.token
        )
    }
}
