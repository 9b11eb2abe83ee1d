//! What survives a restart, a crash, and a damaged disk.

mod crash;
mod damage;
mod data_dir;
mod helpers;
mod log;
mod state;
