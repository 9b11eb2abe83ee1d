//! What happens at the points, in a build that has them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::Write;
use std::rc::Rc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use baton_state_machine::planted::{plant, planted};
use parking_lot::Mutex;
use rustix::process::{Signal, getpid, kill_process};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Mutant, Point};

const POINTS: &str = "BATON_CHAOS_POINTS";
const MUTANT: &str = "BATON_CHAOS_MUTANT";

/// How often each point was reached since the process began.
static HITS: [AtomicU64; Point::ALL.len()] = [const { AtomicU64::new(0) }; Point::ALL.len()];
static ARMED: Mutex<BTreeMap<u8, Armed>> = Mutex::new(BTreeMap::new());

/// What a point is armed with.
#[derive(Clone, Debug)]
struct Armed {
    /// As it was written.
    action: String,
    kind: Kind,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Crash { hits_left: u64 },
    Stall { time: Duration, hits_left: u64 },
}

/// Decides in a simulation how long whoever reaches a point waits.
type Simulated = Rc<dyn Fn(Point) -> Duration>;

thread_local! {
    static SIMULATED: RefCell<Option<Simulated>> = const { RefCell::new(None) };
}

/// Reads what the environment arms and plants, and tells it.
///
/// # Errors
/// It names something that does not exist.
pub fn start() -> Result<(), String> {
    if let Ok(points) = std::env::var(POINTS) {
        arm(&points).map_err(|error| format!("{POINTS}: {error}"))?;
    }
    if let Ok(name) = std::env::var(MUTANT) {
        let mutant = Mutant::ALL.iter().find(|mutant| mutant.name() == name);
        let mutant = mutant.ok_or_else(|| format!("{MUTANT}: there is no bug {name:?}"))?;
        plant(Some(*mutant));
        tracing::warn!(mutant = name, about = mutant.about(), "a bug is in effect");
    }
    tracing::warn!("this is a build for fault campaigns: it has fault points and planted bugs");
    Ok(())
}

/// Arms the points of a list as [`chaos`](super) describes it, and disarms all others.
///
/// # Errors
/// It names something that does not exist; then nothing is changed.
pub fn arm(list: &str) -> Result<(), String> {
    let named = list.split(',').filter(|item| !item.is_empty()).map(parse);
    let armed: BTreeMap<u8, Armed> = named.collect::<Result<_, _>>()?;
    *ARMED.lock() = armed;
    Ok(())
}

fn parse(item: &str) -> Result<(u8, Armed), String> {
    let (name, action) = item
        .split_once('=')
        .ok_or_else(|| format!("{item:?} is not point=action"))?;
    let point = Point::ALL.iter().find(|point| point.name() == name);
    let point = point.ok_or_else(|| format!("there is no point {name:?}"))?;
    let number = |text: &str| {
        let number = text.parse().ok().filter(|number| *number > 0);
        number.ok_or_else(|| format!("{text:?} is not a positive number"))
    };
    let kind = match action.split(':').collect::<Vec<_>>()[..] {
        ["crash"] => Kind::Crash { hits_left: 1 },
        ["crash", hit] => Kind::Crash {
            hits_left: number(hit)?,
        },
        ["stall", millis] => Kind::Stall {
            time: Duration::from_millis(number(millis)?),
            hits_left: u64::MAX,
        },
        ["stall", millis, hits] => Kind::Stall {
            time: Duration::from_millis(number(millis)?),
            hits_left: number(hits)?,
        },
        _ => return Err(format!("there is no action {action:?}")),
    };
    let action = action.to_owned();
    Ok((*point as u8, Armed { action, kind }))
}

/// Every point, how often it was reached, and what it is armed with.
pub fn points() -> Value {
    let armed = ARMED.lock();
    let point = |point: &Point| {
        json!({
            "name": point.name(),
            "hits": HITS[*point as usize].load(Ordering::Relaxed),
            "armed": armed.get(&(*point as u8)).map(|armed| &armed.action),
        })
    };
    json!({ "points": Point::ALL.iter().map(point).collect::<Vec<_>>() })
}

/// Every planted bug, what it breaks, and whether it is in effect.
pub fn mutants() -> Value {
    let mutant = |mutant: &Mutant| {
        json!({
            "name": mutant.name(),
            "about": mutant.about(),
            "in_effect": planted(*mutant),
        })
    };
    json!({ "mutants": Mutant::ALL.iter().map(mutant).collect::<Vec<_>>() })
}

/// In this thread, `decide` is asked at every point in place of what is armed: how long whoever reached it waits. Where the
/// code is not asynchronous nobody waits, so that time stands still. `None` ends it.
pub fn simulate(decide: Option<Rc<dyn Fn(Point) -> Duration>>) {
    SIMULATED.with(|simulated| *simulated.borrow_mut() = decide);
}

/// The code has come to a point. What it is armed with happens; a stall stops this thread.
#[allow(
    clippy::disallowed_methods,
    reason = "stopping the thread is what was asked for"
)]
pub fn point(point: Point) {
    let (simulated, stall) = come_to(point);
    if !simulated && !stall.is_zero() {
        std::thread::sleep(stall);
    }
}

/// The same where the code is asynchronous: a stall stops only this task.
pub async fn reach(point: Point) {
    let (_, stall) = come_to(point);
    if !stall.is_zero() {
        tokio::time::sleep(stall).await;
    }
}

/// Whether this is a simulation, and how long to wait.
fn come_to(point: Point) -> (bool, Duration) {
    HITS[point as usize].fetch_add(1, Ordering::Relaxed);
    if let Some(decide) = SIMULATED.with(|simulated| simulated.borrow().clone()) {
        return (true, decide(point));
    }
    let mut armed = ARMED.lock();
    let stall = match armed.get_mut(&(point as u8)).map(|armed| &mut armed.kind) {
        None => Duration::ZERO,
        Some(Kind::Crash { hits_left: 1 }) => crash(point),
        Some(Kind::Crash { hits_left }) => {
            *hits_left -= 1;
            Duration::ZERO
        }
        Some(Kind::Stall { hits_left: 0, .. }) => Duration::ZERO,
        Some(Kind::Stall { time, hits_left }) => {
            *hits_left -= 1;
            *time
        }
    };
    (false, stall)
}

/// Now, by the wall clock: what was now when it was first asked, and as long later as the wall clock has moved since.
#[allow(
    clippy::disallowed_methods,
    reason = "what a planted bug takes for the right clock"
)]
pub fn by_wall_clock() -> Instant {
    static BEGAN: OnceLock<(Instant, SystemTime)> = OnceLock::new();
    let (began, wall) = BEGAN.get_or_init(|| (Instant::now(), SystemTime::now()));
    let moved = SystemTime::now().duration_since(*wall);
    *began + moved.unwrap_or_default()
}

/// Ends the process as if it were killed: nothing is flushed, and nobody is told.
fn crash(point: Point) -> ! {
    // Not through the log, which may drop it.
    let _ = writeln!(std::io::stderr(), "chaos: crash at {}", point.name());
    let _ = kill_process(getpid(), Signal::KILL);
    std::process::abort()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_one_point_or_bug() {
        let names = Point::ALL.iter().map(|point| point.name());
        let names: std::collections::BTreeSet<_> = names.collect();
        assert_eq!(names.len(), Point::ALL.len());
        let names = Mutant::ALL.iter().map(|mutant| mutant.name());
        let names: std::collections::BTreeSet<_> = names.collect();
        assert_eq!(names.len(), Mutant::ALL.len());
    }

    #[test]
    fn what_does_not_exist_is_refused() {
        for list in [
            "log.nowhere=crash",
            "log.before_sync",
            "log.before_sync=melt",
            "log.before_sync=crash:0",
            "log.before_sync=stall",
            "log.before_sync=stall:x",
        ] {
            assert!(parse(list).is_err(), "{list}");
        }
    }

    #[test]
    fn actions_are_read_as_written() {
        let (point, armed) = parse("flush.before_sync=stall:200:3").unwrap();
        assert_eq!(point, Point::FlushBeforeSync as u8);
        assert_eq!(armed.action, "stall:200:3");
        let (time, hits) = (Duration::from_millis(200), 3);
        assert!(
            matches!(armed.kind, Kind::Stall { time: t, hits_left } if (t, hits_left) == (time, hits))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_simulation_decides_in_place_of_what_is_armed() {
        simulate(Some(Rc::new(|point| {
            Duration::from_secs(u64::from(point == Point::ReadIndexSend))
        })));
        let before = tokio::time::Instant::now();
        point(Point::ReadIndexSend);
        reach(Point::ForwardSend).await;
        assert_eq!(before.elapsed(), Duration::ZERO);
        reach(Point::ReadIndexSend).await;
        assert_eq!(before.elapsed(), Duration::from_secs(1));
        simulate(None);
    }
}
