//! A typed async client of the etcd v3 API. It works against Baton and against etcd.
//!
//! [`Client`] is cheap to clone and to be shared. Requests are plain values ([`Get`], [`Put`],
//! [`Delete`], [`Txn`], [`Watch`]); answers are the messages of the wire ([`pb`]).
//!
//! # What is repeated, and what is not
//! A request is sent to another endpoint only where that cannot do harm: it reads, or certainly
//! nothing was done by the attempt before. Where a change was sent and no answer came, the client
//! says so: [`Error::Unknown`]. See [`Error::outcome`].

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
