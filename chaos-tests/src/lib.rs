//! Fault campaigns in Jepsen's manner: clusters under load and faults, what clients saw, and the checkers that judge it.
//!
//! [`plan`] says what a run does, [`workload`] makes load through [`client`], everything seen goes into a [`history`],
//! [`check`] judges that and nothing else, and [`verdict`] weighs what the checkers found. The server is known only as a
//! program that takes etcd's flags and speaks etcd's API, so any etcd v3 server can be judged.

pub mod campaign;
pub mod check;
pub mod client;
pub mod generate;
pub mod history;
pub mod known_bad;
pub mod model;
pub mod mutants;
pub mod plan;
pub mod progress;
pub mod real;
pub mod report;
pub mod run;
pub mod seed;
pub mod selftest;
pub mod shrink;
pub mod verdict;
pub mod workload;
