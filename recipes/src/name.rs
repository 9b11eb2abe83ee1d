//! What a lock, an election, a queue or a barrier is called, and the keys that follow from it.

use std::fmt;
use std::sync::Arc;

use crate::{Error, SessionId};

/// Keys of ours that are no waiter's lie here, outside of every name: whatever lies under `name/` stands
/// in line, for every client of etcd.
pub(crate) const RESERVED: &str = "baton.recipes";

/// The name of a recipe's keys, as in etcd: a waiter of `name` is the key `name/` + its lease in hex.
///
/// As in etcd, whatever lies under `name/` stands in line: `orders` waits behind every waiter of
/// `orders/42` that is older than its own. Names that are used together should not be prefixes of each other.
///
/// Any string makes a `Name`; what makes no sense as one is refused with [`Error::Invalid`] at the
/// first request: the empty name, one with a NUL, one that ends with `/`, and those that lie under
/// `baton.recipes`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

impl Name {
    /// The name as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// # Errors
    /// [`Error::Invalid`] with what to do about it.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let name = &*self.0;
        let fault = if name.is_empty() {
            "is empty: give it at least one character".to_owned()
        } else if name.contains('\0') {
            "contains a NUL character: leave it out".to_owned()
        } else if name.ends_with('/') {
            "ends with '/', which separates a name from its waiters: leave the last '/' out"
                .to_owned()
        } else if name == RESERVED
            || name
                .strip_prefix(RESERVED)
                .is_some_and(|rest| rest.starts_with('/'))
        {
            format!("lies under {RESERVED:?}, where sessions keep their own keys: choose another")
        } else {
            return Ok(());
        };
        Err(Error::Invalid(format!("the name {name:?} {fault}")))
    }

    /// All waiters begin with this.
    pub(crate) fn prefix(&self) -> String {
        format!("{}/", self.0)
    }

    /// The waiter of a session.
    pub(crate) fn waiter(&self, session: SessionId) -> String {
        format!("{}/{session}", self.0)
    }

    /// Where a holder is asked to give up what it holds.
    pub(crate) fn release_request(&self, session: SessionId) -> String {
        format!("{RESERVED}/release-requests/{}/{session}", self.0)
    }
}

/// The key that numbers some of a session's transactions.
pub(crate) fn lane(session: SessionId, lane: u64) -> String {
    format!("{RESERVED}/lanes/{session}/{lane:016x}")
}

/// All keys of sessions themselves begin with this.
pub(crate) fn session_prefix() -> String {
    format!("{RESERVED}/sessions/")
}

/// A session's own key.
pub(crate) fn session_key(session: SessionId) -> String {
    format!("{RESERVED}/sessions/{session}")
}

impl<S: AsRef<str>> From<S> for Name {
    fn from(name: S) -> Self {
        Self(name.as_ref().into())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(name: &str) -> String {
        Name::from(name).check().unwrap_err().to_string()
    }

    #[test]
    fn a_name_that_would_collide_with_the_layout_is_refused_with_what_to_do() {
        assert!(fault("").contains("at least one character"));
        assert!(fault("a\0b").contains("NUL"));
        assert!(fault("a/").contains("leave the last '/' out"));
        assert!(fault("baton.recipes").contains("choose another"));
        assert!(fault("baton.recipes/sessions").contains("choose another"));
    }

    #[test]
    fn names_that_etcds_clients_use_are_taken() {
        for name in [
            "a",
            "orders/42",
            "/locks/a",
            "a//b",
            "baton.recipesque",
            "größe",
        ] {
            Name::from(name).check().unwrap();
        }
    }
}
