//! Crashes and stalls at points of the server's code, in a build that has them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use chaos_tests::history::Member;
use chaos_tests::plan::PointAction;
use parking_lot::Mutex;

/// Whether this build has them.
pub const BUILT_IN: bool = cfg!(feature = "chaos");

/// What happens at which point of which member. Cheap to clone.
#[derive(Clone, Default)]
pub struct Points {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    /// The member that runs at this moment.
    running: Option<Member>,
    armed: BTreeMap<Member, Armed>,
}

struct Armed {
    point: String,
    action: PointAction,
    crash: Arc<dyn Fn() + Send + Sync>,
    hits: u64,
}

impl fmt::Debug for Points {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Points")
    }
}

impl Points {
    /// From now on `action` happens whenever the member comes to the point. A crash happens once, by `crash`: nothing that the
    /// member does after it may have an effect.
    pub fn arm(
        &self,
        member: Member,
        point: &str,
        action: PointAction,
        crash: impl Fn() + Send + Sync + 'static,
    ) {
        let armed = Armed {
            point: point.to_owned(),
            action,
            crash: Arc::new(crash),
            hits: 0,
        };
        self.inner.lock().armed.insert(member, armed);
    }

    /// Nothing happens at points of the member any more. Tells how often it came there.
    pub fn disarm(&self, member: Member) -> u64 {
        let armed = self.inner.lock().armed.remove(&member);
        armed.map_or(0, |armed| armed.hits)
    }

    /// Who runs from now on.
    pub fn run(&self, member: Option<Member>) {
        self.inner.lock().running = member;
    }

    /// Somebody comes to a point, and waits as long as is answered.
    pub fn reached(&self, point: &str) -> Duration {
        let crash = {
            let mut inner = self.inner.lock();
            let Some(running) = inner.running else {
                return Duration::ZERO;
            };
            match inner.armed.get_mut(&running) {
                Some(armed) if armed.point == point => {
                    armed.hits += 1;
                    match armed.action {
                        PointAction::Stall(ms) => return Duration::from_millis(ms),
                        PointAction::Crash if armed.hits > 1 => return Duration::ZERO,
                        PointAction::Crash => Arc::clone(&armed.crash),
                    }
                }
                _ => return Duration::ZERO,
            }
        };
        crash();
        Duration::ZERO
    }

    /// Has these decide what happens at points in this thread.
    pub fn take_over(&self) {
        #[cfg(feature = "chaos")]
        {
            let points = self.clone();
            batond::chaos::simulate(Some(std::rc::Rc::new(
                move |point: batond::chaos::Point| points.reached(point.name()),
            )));
        }
    }
}

/// Plants a bug by its name, in place of the one before.
///
/// # Errors
/// This build has none of that name, or none at all.
pub fn plant(mutant: Option<&str>) -> anyhow::Result<()> {
    #[cfg(feature = "chaos")]
    {
        use batond::chaos::Mutant;
        let named = |name: &str| {
            let found = Mutant::ALL.iter().find(|mutant| mutant.name() == name);
            found.ok_or_else(|| anyhow::anyhow!("there is no planted bug {name}"))
        };
        batond::chaos::plant(mutant.map(named).transpose()?.copied());
        Ok(())
    }
    #[cfg(not(feature = "chaos"))]
    match mutant {
        None => Ok(()),
        Some(name) => {
            anyhow::bail!("planted bug {name}: this build has none; build with --features chaos")
        }
    }
}
