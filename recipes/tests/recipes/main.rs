//! The recipes against running servers: Baton, and a real etcd where one is installed.

mod mutex;
mod support;
