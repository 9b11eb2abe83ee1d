//! What survives a restart. The only code that knows a file name.
//!
//! Two stores with different promises: the [`log`] (vote and entries) is synced before anything is
//! acknowledged and can never be rebuilt; the state store ([`StateStore`]) holds applied state,
//! is written behind the answers, and can always be rebuilt from the log or from a peer.

mod data_dir;
mod disk;
mod fjall_store;
mod inspect;
pub mod log;
mod mem_store;
mod real_disk;
mod sim_disk;
mod state_store;

pub use data_dir::{DataDir, DataDirError, Identity};
pub use disk::{Disk, DiskFile};
pub use fjall_store::{FjallStore, StateError};
pub use inspect::inspect;
pub use mem_store::MemStore;
pub use real_disk::{RealDisk, RealFile};
pub use sim_disk::{SimDisk, SimFile};
pub use state_store::{AllRows, Rows, SCAN_BYTES, Snapshot, StateStore};
