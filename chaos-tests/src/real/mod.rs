//! Clusters of real processes in namespaces of their own, and faults made with the tools of the kernel.
//!
//! Every fault proves that it took hold and that it is gone. What a host cannot do is skipped by name.

pub mod boxed;
pub mod clock;
pub mod cluster;
pub mod crossing;
pub mod disk;
pub mod episode;
pub mod hashes;
pub mod host;
pub mod http;
pub mod nemesis;
pub mod net;
pub mod node;
pub mod probe;
pub mod shaper;
pub mod tool;
pub mod wait;
