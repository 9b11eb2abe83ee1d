//! Every planted bug breaks what it says: what holds in a server that is whole does not hold with it. And a server
//! that is whole withstands being killed at the points made for it.

#[path = "../sim_cluster/mod.rs"]
mod sim_cluster;

mod cluster;
mod parts;
mod points;
mod services;

use batond::chaos::{Mutant, plant};
use parking_lot::Mutex;

/// A bug is in effect in the whole process, so one test at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

struct Cured;

impl Drop for Cured {
    fn drop(&mut self) {
        plant(None);
    }
}

/// Sees that something holds, and that it does not where the bug is in effect.
fn is_broken_by(mutant: Mutant, holds: impl Fn() -> bool) {
    let _one = ONE_AT_A_TIME.lock();
    let _cured = Cured;
    assert!(holds(), "it holds without {}", mutant.name());
    plant(Some(mutant));
    assert!(!holds(), "{} breaks nothing", mutant.name());
}
