//! The state and its one entrance.

/// Everything that is replicated.
#[derive(Debug, Default)]
pub struct State {}
