//! A typed async client of the etcd v3 API. It works against Baton and against etcd.
//!
//! [`Client`] is cheap to clone and to be shared. Requests are plain values ([`Get`], [`Put`],
//! [`Delete`], [`Txn`], [`Watch`]); answers are the messages of the wire ([`pb`]).
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use baton_client::{Client, Compare, Get, Put, Txn, Watch};
//!
//! let client = Client::new(["10.0.0.1:2379", "10.0.0.2:2379", "10.0.0.3:2379"])?;
//!
//! // Write if nobody else did.
//! let txn = Txn::new()
//!     .when(Compare::absent("config/mode"))
//!     .then(Put::new("config/mode", "normal"));
//! client.txn(txn).await?;
//!
//! // Read, and follow what changes from there on.
//! let read = client.get(Get::prefix("config/")).await?;
//! let revision = read.header.map_or(0, |header| header.revision);
//! let mut watcher = client.watch(Watch::prefix("config/").from(revision + 1)).await?;
//! loop {
//!     for event in watcher.next().await?.events {
//!         println!("{event:?}");
//!     }
//! }
//! # }
//! ```
//!
//! # Endpoints
//! A client has one connection to each endpoint it uses. It begins with a random one and stays with it as
//! long as it answers; when it cannot be reached, leaves a read unanswered for
//! [`Options::attempt_timeout`], or says that it knows no leader, the next one is asked. One that failed
//! is left alone for a while, which grows from 25 ms to 1 s with each failure in a row, so that a dead one
//! is not tried first each time. Requests, except serializable reads and those about one member, ask to be refused
//! by a member that knows no leader, rather than to wait for one.
//!
//! # What is repeated, and what is not
//! A request is repeated, within its [`Options::request_timeout`], only where that cannot do harm:
//!
//! * *Reads and renewals* are repeated after every failure but a refusal. A transaction of plain reads
//!   alone is a read.
//! * *Changes* are repeated only if they were certainly not done: no connection could be made; the
//!   connection closed before the request was sent; the server closed it saying that it did not process
//!   the request (GOAWAY, REFUSED_STREAM); or it answered what it only answers before proposing (`too many
//!   requests`, `no leader`, `rpc not supported for learner`, a token it does not accept). Else, where a
//!   change was sent and no answer came, or one that does not tell, the client says so:
//!   [`Error::Unknown`].
//! * *Lock and campaign* are repeated like reads: the key they make is named by the lease, so a second
//!   time finds the first.
//!
//! [`Error::outcome`] tells a change that was not done from one that may have been. Nothing else is
//! repeated behind the caller's back. What was sent may take effect *later* than its answer was missed: to
//! make sure, read, and write again under a [`Compare`] that holds only once.
//!
//! # Leases
//! ```no_run
//! # async fn example(client: baton_client::Client) -> Result<(), baton_client::Error> {
//! use baton_client::Put;
//! use std::time::Duration;
//!
//! let lease = client.grant(Duration::from_secs(10), 0).await?.id;
//! client.put(Put::new("members/me", "10.0.0.7").lease(lease)).await?;
//! // Every few seconds:
//! match client.renew(lease).await? {
//!     Some(renewal) => println!("safe until {:?}", renewal.sent.plus(renewal.ttl)),
//!     None => println!("it ran out, and the key is gone"),
//! }
//! # Ok(())
//! # }
//! ```
//! `baton-recipes` has sessions that do this, and locks, elections and queues on top.
//!
//! # Namespaces
//! [`Client::namespaced`] gives a client that sees and touches only keys that begin with a prefix, and does
//! not see the prefix.
//!
//! # Runtime
//! Everything is to be awaited in a tokio runtime with time and IO enabled.

mod address;
mod auth;
mod boot_time;
mod client;
mod cluster;
mod connection;
mod core;
mod endpoints;
mod error;
mod kv;
mod lease;
mod lock;
mod mailbox;
mod maintenance;
mod namespace;
mod options;
mod parts;
mod renewals;
mod rules;
mod tls;
mod token;
mod watch;
mod watch_hub;

pub use baton_proto::etcdserverpb as pb;
pub use baton_proto::{authpb, mvccpb, v3electionpb, v3lockpb};
pub use tonic::{Code, Status};

pub use boot_time::BootInstant;
pub use client::{Client, RangeParts};
pub use connection::{Raw, SendError};
pub use error::{Error, Outcome, Refusal};
pub use kv::{Compare, Delete, Get, Op, Put, Txn, prefix_end};
pub use lease::Renewal;
pub use lock::Observer;
pub use options::{Credentials, Options};
pub use parts::Parts;
pub use tls::{Identity, Tls};
pub use watch::{Notification, Watch, WatchError, Watcher};
