//! The recipes against running servers: Baton, and a real etcd where one is installed.

mod barrier;
mod double_barrier;
mod election;
mod failover;
mod mutex;
mod proxy;
mod queue;
mod queue_storm;
mod session;
mod storm;
mod support;
