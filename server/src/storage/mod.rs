//! What survives a restart. The only code that knows a file name.
//!
//! Two stores with different promises: the [`log`] (vote and entries) is synced before anything is
//! acknowledged and can never be rebuilt; the state store ([`StateStore`]) holds applied state,
//! is written behind the answers, and can always be rebuilt from the log or from a peer.

mod disk;
mod state_store;

pub use disk::{Disk, DiskFile};
pub use state_store::{Rows, Snapshot, StateStore};
