//! The fault campaign on a simulated cluster: the real server, client and workloads in one thread, on time that stands still
//! while they work, with everything left to chance drawn from one seed. The same seed gives the same run.
//!
//! Each member lives in a runtime of its own ([`machine`]), so that it can be paused, and killed without a word. The clients,
//! the network between members ([`batond::sim`]) and that to clients ([`wire`]) live in another. The [`cluster`] lets each of
//! them run for a millisecond in turn, and looks at the [`invariants`] of consensus after every one. The [`nemesis`] does what
//! a plan says; an [`episode`] is a plan from the start of the cluster to the verdict.

pub mod campaign;
pub mod cluster;
pub mod command;
mod coverage;
pub mod episode;
pub mod generate;
pub mod invariants;
pub mod machine;
pub mod nemesis;
pub mod points;
pub mod wire;
