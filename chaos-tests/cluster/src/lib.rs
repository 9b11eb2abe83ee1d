//! Clusters of real server processes, faults, workloads and the checkers that judge what clients saw.
//!
//! The harness knows a server only as a program that takes etcd's flags and speaks etcd's API, so every run can be pointed
//! at a real etcd first: a check that fails there is a fault of the check.
//!
//! * [`process`] starts, kills, stops and restarts servers on loopback ports.
//! * [`client`] is one connection to one member, without retries: a failed call means "unknown", never "not done".
//! * [`etcdctl`] runs the command-line client that users have.
//! * [`history`] is what clients were told; [`check`] holds the pure functions that judge it.
//! * [`writers`] and [`watcher`] produce histories; [`kill`] and [`watch`] are whole campaigns.

pub mod check;
pub mod client;
pub mod etcdctl;
pub mod history;
pub mod kill;
pub mod process;
pub mod watch;
pub mod watcher;
pub mod writers;
