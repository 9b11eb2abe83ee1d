//! Waiting for an instant of a clock that goes on while the machine is suspended.

use std::time::Duration;

use baton_client::BootInstant;
#[cfg(target_os = "linux")]
use tokio::net::unix::pipe::Receiver;
#[cfg(target_os = "linux")]
use tokio::sync::{Semaphore, SemaphorePermit};

/// How often the clock is looked at where there is no timer that counts a suspend.
const LOOK: Duration = Duration::from_millis(500);

/// A process has so many timers at most: each is a descriptor, and there have to be some left.
#[cfg(target_os = "linux")]
static TIMERS: Semaphore = Semaphore::const_new(128);

/// Wakes at an instant. On Linux a `CLOCK_BOOTTIME` timer, which is due at once when the machine wakes
/// up behind it. Where there is none, or there are many already, the clock is looked at twice a second.
pub(crate) struct Alarm {
    /// A timer is read as a pipe is: what comes out of it is how often it fired.
    #[cfg(target_os = "linux")]
    timer: Option<(Receiver, SemaphorePermit<'static>)>,
}

impl Alarm {
    #[cfg(target_os = "linux")]
    pub(crate) fn new() -> Self {
        use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};
        let new = || {
            let permit = TIMERS.try_acquire().ok()?;
            let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
            let timer = timerfd_create(TimerfdClockId::Boottime, flags).ok()?;
            let timer = Receiver::from_owned_fd_unchecked(timer).ok()?;
            Some((timer, permit))
        };
        Self { timer: new() }
    }

    #[cfg(not(target_os = "linux"))]
    pub(crate) fn new() -> Self {
        Self {}
    }

    /// Waits until `at`. Cancel safe.
    pub(crate) async fn at(&mut self, at: BootInstant) {
        loop {
            let left = at.remaining();
            if left.is_zero() {
                return;
            }
            if !self.timer_fired(left).await {
                tokio::time::sleep(left.min(LOOK)).await;
            }
        }
    }

    /// Waits for the timer, set to this time; false if there is none. It may fire early.
    #[cfg(target_os = "linux")]
    async fn timer_fired(&mut self, left: Duration) -> bool {
        use rustix::time::{Itimerspec, TimerfdTimerFlags, Timespec, timerfd_settime};
        let Some((timer, _)) = &self.timer else {
            return false;
        };
        let time = Itimerspec {
            it_interval: Timespec::default(),
            it_value: Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            },
        };
        if timerfd_settime(timer, TimerfdTimerFlags::empty(), &time).is_err() {
            return false;
        }
        if timer.readable().await.is_err() {
            return false;
        }
        // Read so that it is not ready any more; it may not be, if that was an earlier setting's.
        let _ = timer.try_read(&mut [0; 8]);
        true
    }

    #[cfg(not(target_os = "linux"))]
    async fn timer_fired(&mut self, _: Duration) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_alarm_can_be_set_again_and_never_rings_early() {
        let mut alarm = Alarm::new();
        for _ in 0..3 {
            let at = BootInstant::now().plus(Duration::from_millis(5));
            alarm.at(at).await;
            assert!(BootInstant::now() >= at);
        }
        alarm.at(BootInstant::now()).await;
    }

    #[tokio::test]
    async fn without_a_timer_the_clock_is_looked_at() {
        let mut alarm = Alarm::new();
        #[cfg(target_os = "linux")]
        {
            alarm.timer = None;
        }
        let at = BootInstant::now().plus(Duration::from_millis(5));
        alarm.at(at).await;
        assert!(BootInstant::now() >= at);
    }
}
