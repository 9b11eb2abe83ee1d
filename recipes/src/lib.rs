//! Locks, elections, queues and barriers over any etcd v3 server. Every hold carries a fencing token.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! use baton_client::Client;
//! use baton_recipes::Session;
//!
//! let client = Client::new(["127.0.0.1:2379"])?;
//! let session = Session::open(&client, Duration::from_secs(10)).await?;
//! let guard = session.mutex("orders/42").lock().await?;
//! guard.put("orders/42", "paid").await?;
//! guard.release().await?;
//! session.close().await?;
//! # Ok(())
//! # }
//! ```

mod answers;
mod barrier;
mod double_barrier;
mod election;
mod error;
mod fence;
mod hold;
mod line;
mod mutex;
mod name;
mod names;
mod once;
mod owned;
mod patience;
mod queue;
mod session;
mod timer;

pub use baton_client::BootInstant;

pub use barrier::Barrier;
pub use double_barrier::{DoubleBarrier, EnterError, Inside, Members};
pub use election::{Election, Leader, LeaderEvent, LeaderLatch, Leadership};
pub use error::Error;
pub use fence::{Fence, Token};
pub use hold::{Acquire, Grant, Hold, Position};
pub use mutex::{LockInfo, Mutex, MutexGuard, Waiter};
pub use name::Name;
pub use queue::{ClaimInfo, Job, JobId, Queue, QueueInfo, Waiting};
pub use session::{LossReason, Lost, Session, SessionBuilder, SessionId, SessionState};
