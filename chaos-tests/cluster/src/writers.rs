//! Concurrent clients that put unique values and remember what they were told.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::client::Client;
use crate::history::{Outcome, Write};

/// Writer tasks and the history they share.
#[derive(Debug)]
pub struct Writers {
    shared: Arc<Shared>,
    running: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    urls: Vec<String>,
    next_value: AtomicU64,
    writes: Mutex<Vec<Write>>,
    acknowledged: watch::Sender<usize>,
    idle: watch::Sender<usize>,
}

impl Writers {
    /// Starts `count` writers. Each keeps to one member until a call fails, then goes on with the next one.
    pub fn start(urls: &[String], count: usize) -> Self {
        let shared = Arc::new(Shared {
            urls: urls.to_vec(),
            next_value: AtomicU64::new(0),
            writes: Mutex::new(Vec::new()),
            acknowledged: watch::Sender::new(0),
            idle: watch::Sender::new(0),
        });
        let (running, permission) = watch::channel(true);
        let tasks = (0..count)
            .map(|number| {
                let shared = Arc::clone(&shared);
                tokio::spawn(shared.write_until_stopped(number, permission.clone()))
            })
            .collect();
        Self {
            shared,
            running,
            tasks,
        }
    }

    /// Waits until `count` more writes have been acknowledged.
    ///
    /// # Errors
    /// If that takes more than 60 s.
    pub async fn progress(&self, count: usize) -> Result<()> {
        let mut acknowledged = self.shared.acknowledged.subscribe();
        let target = *acknowledged.borrow() + count;
        let reached = acknowledged.wait_for(|done| *done >= target);
        let outcome = tokio::time::timeout(Duration::from_secs(60), reached)
            .await
            .map(|result| result.is_ok());
        match outcome {
            Ok(true) => Ok(()),
            _ => bail!("writes did not go on within 60 s"),
        }
    }

    /// Lets every call in flight end and starts no further ones until [`Writers::resume`].
    pub async fn pause(&self) {
        self.running.send_replace(false);
        let mut idle = self.shared.idle.subscribe();
        let all = self.tasks.len();
        // The sender lives in `shared`, so this ends only by every writer being idle.
        let _ = idle.wait_for(|count| *count == all).await;
    }

    /// Lets writers go on.
    pub fn resume(&self) {
        self.running.send_replace(true);
    }

    /// A copy of everything written so far.
    pub fn history(&self) -> Vec<Write> {
        self.shared.writes.lock().expect("no writer panics").clone()
    }

    /// The longest time without a single acknowledgement that touches the span from `from` to `to`.
    pub fn longest_silence(&self, from: Instant, to: Instant) -> Duration {
        let writes = self.shared.writes.lock().expect("no writer panics");
        let mut moments: Vec<Instant> = writes
            .iter()
            .filter(|write| write.revision().is_some())
            .map(|write| write.returned)
            .collect();
        moments.sort();
        let before = moments
            .partition_point(|moment| *moment < from)
            .saturating_sub(1);
        let after = moments
            .partition_point(|moment| *moment <= to)
            .min(moments.len().saturating_sub(1));
        let Some(span) = moments.get(before..=after) else {
            return to - from;
        };
        span.windows(2)
            .map(|pair| pair[1] - pair[0])
            .max()
            .unwrap_or(to - from)
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Shared {
    async fn write_until_stopped(
        self: Arc<Self>,
        number: usize,
        mut permission: watch::Receiver<bool>,
    ) {
        let mut member = number % self.urls.len();
        let mut client = Client::new(&self.urls[member]);
        loop {
            if !*permission.borrow_and_update() {
                self.idle.send_modify(|count| *count += 1);
                let allowed = permission.wait_for(|allowed| *allowed).await.is_ok();
                self.idle.send_modify(|count| *count -= 1);
                if !allowed {
                    return;
                }
            }
            let serial = self.next_value.fetch_add(1, Ordering::Relaxed);
            let key = format!("writer/{number}/{}", serial % 16).into_bytes();
            let value = serial.to_string().into_bytes();
            let called = Instant::now();
            let answer = client.put(key.clone(), value.clone()).await;
            let outcome = answer.map_or(Outcome::Unknown, Outcome::Acknowledged);
            let write = Write {
                key,
                value,
                called,
                returned: Instant::now(),
                outcome,
            };
            self.writes.lock().expect("no writer panics").push(write);
            if outcome == Outcome::Unknown {
                member = (member + 1) % self.urls.len();
                client = Client::new(&self.urls[member]);
                // A dead member refuses at once; without this a writer would spin between dead members.
                tokio::time::sleep(Duration::from_millis(5)).await;
            } else {
                self.acknowledged.send_modify(|count| *count += 1);
            }
        }
    }
}
