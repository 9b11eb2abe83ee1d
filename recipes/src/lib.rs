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
//!
//! # What a hold is worth
//! The server lets one session at a time be first in line. A hold ends here before the server can give it to
//! another: the session's deadline is counted from when its last answered renewal was *sent*, and ends a
//! margin before the lease does, on a clock that goes on while the machine is suspended. What no lock can
//! do is to stop a process that was paused in the middle of something, and goes on later: so every
//! hold has a [fencing token](Token), and [`Grant::put`] and [`Grant::txn`] write only while it is held, as
//! decided by the server.
//!
//! # Dropping futures
//! Every future may be dropped at any time, and wrapped in any timeout. What is asked of the server and has
//! to be undone is owned by a task of the session: a dropped wait leaves the line, a dropped guard is
//! released, in the background and in order. Only fenced writes, dropped while under way, leave an unknown
//! outcome, like every write. A runtime that shuts down takes these tasks with it: [close](Session::close)
//! the session before, or what it held ends with its time to live.
//!
//! # Metrics
//! Through the `metrics` crate; recipes are told apart by the label `recipe`.
//!
//! | Name | of what |
//! | --- | --- |
//! | `baton_recipes_wait_seconds` | from the wish to the hold |
//! | `baton_recipes_hold_seconds` | from the hold to the end of it |
//! | `baton_recipes_holds_lost_total` | holds that ended without being released, by `reason` |
//! | `baton_recipes_dropped_releases_total` | guards that were dropped instead of released |
//! | `baton_recipes_sessions_ended_total` | sessions, by `reason` |

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
