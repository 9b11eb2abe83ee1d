//! A typed async client of the etcd v3 API. It works against Baton and against etcd.
//!
//! [`Client`] is cheap to clone and to be shared. Requests are plain values ([`Get`], [`Put`],
//! [`Delete`], [`Txn`], [`Watch`]); answers are the messages of the wire ([`pb`]).
//!
//! # What is repeated, and what is not
//! A request is sent to another endpoint only where that cannot do harm: it reads, or certainly
//! nothing was done by the attempt before. Where a change was sent and no answer came, the client
//! says so: [`Error::Unknown`]. See [`Error::outcome`].

mod boot_time;
mod client;
mod error;
mod kv;
mod lease;
mod options;
mod watch;

pub use baton_proto::etcdserverpb as pb;
pub use baton_proto::mvccpb;
pub use tonic::Code;

pub use boot_time::BootInstant;
pub use client::Client;
pub use error::{Error, Outcome, Refusal};
pub use kv::{Compare, Delete, Get, Op, Put, Txn, prefix_end};
pub use lease::Renewal;
pub use options::{Credentials, Options};
pub use watch::{Notification, Watch, WatchError, Watcher};
