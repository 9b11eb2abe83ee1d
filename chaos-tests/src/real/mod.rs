//! Clusters of real processes in namespaces of their own, and faults made with the tools of the kernel.
//!
//! Every fault proves that it took hold and that it is gone. What a host cannot do is skipped by name.

pub mod host;
