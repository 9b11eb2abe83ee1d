//! What survives a restart, a crash, and a damaged disk.

mod crash;
mod damage;
mod helpers;
mod log;
