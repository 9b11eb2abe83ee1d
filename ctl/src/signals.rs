//! Signals that mean the command, and those that mean nobody.

use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// Signals that are passed on.
const ALL: [Signal; 7] = [
    Signal::INT,
    Signal::TERM,
    Signal::HUP,
    Signal::QUIT,
    Signal::USR1,
    Signal::USR2,
    Signal::WINCH,
];

/// Signals that this process was sent. They do not end it any more.
pub struct Signals {
    received: mpsc::UnboundedReceiver<Signal>,
}

impl Signals {
    /// Listens from now on. Who started this process may have it ignore some, as `nohup` does: they stay ignored.
    ///
    /// # Errors
    /// If the system refuses a handler.
    pub fn new() -> std::io::Result<Self> {
        let (sender, received) = mpsc::unbounded_channel();
        let ignored = ignored();
        for kind in ALL {
            if ignored & 1 << (kind.as_raw() - 1) != 0 {
                continue;
            }
            let mut stream = signal(SignalKind::from_raw(kind.as_raw()))?;
            let sender = sender.clone();
            tokio::spawn(async move {
                while stream.recv().await.is_some() && sender.send(kind).is_ok() {}
            });
        }
        Ok(Self { received })
    }

    /// The next signal. Cancel safe.
    pub async fn next(&mut self) -> Signal {
        match self.received.recv().await {
            Some(signal) => signal,
            None => std::future::pending().await,
        }
    }

    /// The next signal that asks this process to end. Cancel safe.
    pub async fn end(&mut self) -> Signal {
        loop {
            let signal = self.next().await;
            if matches!(
                signal,
                Signal::INT | Signal::TERM | Signal::HUP | Signal::QUIT
            ) {
                return signal;
            }
        }
    }
}

/// The signals this process ignores, a bit each. None where the system does not tell.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}
