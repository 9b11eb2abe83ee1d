//! What the replicated state promises, rule by rule, and against a reference model.

mod alarms;
mod compaction;
mod hash;
mod leases;
mod loading;
mod members;
mod ranges;
mod reference;
mod txns;
mod waiters_cost;
mod world;
mod writes;
