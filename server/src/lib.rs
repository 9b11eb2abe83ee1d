//! Baton's server, as a library so that tests and the simulator can run it in-process.

pub mod config;
pub mod core;
pub mod http;
pub mod lessor;
pub mod logging;
pub mod metrics;
pub mod serve;
pub mod storage;
pub mod watch;
