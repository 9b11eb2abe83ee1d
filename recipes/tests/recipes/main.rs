//! The recipes against running servers: Baton, and a real etcd where one is installed.

mod double_barrier;
mod mutex;
mod queue;
mod support;
