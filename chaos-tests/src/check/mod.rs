//! Pure functions that judge a history, one file per promise.
//!
//! Each says how many facts it examined, so that a quiet run is not mistaken for a good one. Each has tests that it passes
//! a correct history and that it catches one with a planted fault.

pub mod agree;
pub mod effects;
mod explain;
pub mod faults;
pub mod known;
pub mod processes;
pub mod real_time;
pub mod revisions;
pub mod witness;

use crate::history::History;
use crate::plan::Plan;
use crate::verdict::Judgement;

/// Everything that there is to judge about a run.
pub fn judge_all(history: &History, _plan: &Plan) -> Vec<Judgement> {
    vec![
        revisions::judge(history),
        real_time::judge(history),
        faults::judge(history),
        processes::judge(history),
    ]
}

#[cfg(test)]
mod testing;
