//! Baton's server, as a library so that tests and the simulator can run it in-process.

pub mod admission;
pub mod apply_loop;
pub mod boot;
pub mod chaos;
pub mod compactor;
pub mod config;
pub mod core;
pub mod flusher;
pub mod http;
pub mod lessor;
pub mod line;
pub mod logging;
pub mod metrics;
pub mod node;
pub mod peer;
pub mod raft;
pub mod read;
pub mod serve;
pub mod service;
pub mod sim;
pub mod state_hash;
pub mod storage;
pub mod waiters;
pub mod watch;
