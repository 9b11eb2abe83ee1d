//! Telling clients what changed: every event once, in revision order, whole revisions.
//!
//! ```text
//! apply loop --push--> Ring --flushed--> state store
//!     |                  ^                   ^
//!     publish            | read              | read what the ring no longer has
//!     v                  |                   |
//! WatchHub --wake--> watch stream: one Cursor per watcher
//! ```
//!
//! The [`ring`] keeps recent revisions, [`history`] finds older ones, the [`hub`] knows which
//! watchers a change concerns, and a [`cursor`] is a watcher's place between what it was sent and
//! what it has yet to be sent. No watcher has a buffer of events: a slow one is a cursor that is far
//! behind.

pub mod cursor;
pub mod history;
pub mod hub;
pub(crate) mod ranges;
pub mod ring;

pub use cursor::{Batch, Cursor, Read, Source};
pub use history::{History, HistoryView};
pub use hub::{Due, Mailbox, Registered, WatchHub, Watched, Watcher, WatcherSpec};
pub use ring::{Recorded, Ring};

#[cfg(test)]
mod model;
