//! Leases and their renewal.

use std::time::Duration;

use crate::BootInstant;

/// A lease that was renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renewal {
    /// When the request was *sent*: the server counts from a later instant, so whoever counts from here
    /// stops before the server does.
    pub sent: BootInstant,
    /// The time to live from then on.
    pub ttl: Duration,
}
