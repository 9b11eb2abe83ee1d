//! Pure functions that judge a history, one file per promise.
//!
//! Each says how many facts it examined, so that a quiet run is not mistaken for a good one. Each has tests that it passes
//! a correct history and that it catches one with a planted fault.
