//! The endpoints of a client: which is asked, and which are left alone for a while.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use parking_lot::{Mutex, RwLock};
use rand::Rng;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::Error;
use crate::address::Address;
use crate::connection::{Connection, Dialer};

/// The first pause after a failure; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(25);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

type Opening = Shared<BoxFuture<'static, Result<Connection, String>>>;

/// An endpoint: its one connection, and how it has been doing.
pub(crate) struct Endpoint {
    pub(crate) address: Arc<Address>,
    dialer: Arc<Dialer>,
    state: Mutex<State>,
    /// Changes whenever it left something unanswered for too long.
    silent: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    opening: Option<Opening>,
    /// Failures since it last answered.
    failures: u32,
    /// It is left alone until then.
    pause_until: Option<Instant>,
    last_failure: Option<String>,
}

impl Endpoint {
    fn new(address: Address, dialer: Arc<Dialer>) -> Arc<Self> {
        Arc::new(Self {
            address: Arc::new(address),
            dialer,
            state: Mutex::default(),
            silent: watch::Sender::new(()),
        })
    }

    /// Its connection, opened if there is none. All who ask meanwhile wait for the same one.
    ///
    /// # Errors
    /// Why it cannot be opened.
    pub(crate) async fn connection(&self) -> Result<Connection, String> {
        let opening = {
            let mut state = self.state.lock();
            let usable = state
                .opening
                .as_ref()
                .filter(|opening| match opening.peek() {
                    None => true,
                    Some(Ok(connection)) => !connection.is_closed(),
                    Some(Err(_)) => false,
                });
            match usable {
                Some(opening) => opening.clone(),
                None => {
                    let opening = self.open();
                    state.opening = Some(opening.clone());
                    opening
                }
            }
        };
        opening.await
    }

    fn open(&self) -> Opening {
        let address = self.address.clone();
        let dialer = self.dialer.clone();
        // A task, so that it goes on when those who wait for it give up.
        let opening = tokio::spawn(async move { dialer.open(address).await });
        opening
            .map(|opened| opened.unwrap_or_else(|error| Err(error.to_string())))
            .boxed()
            .shared()
    }

    /// It did not answer, or could not serve: the others are asked first for a while.
    pub(crate) fn failed(&self, why: String) {
        let mut state = self.state.lock();
        let now = Instant::now();
        state.last_failure = Some(why);
        // Many requests fail with one connection; that is one failure.
        if state.pause_until.is_some_and(|until| until > now) {
            return;
        }
        let doublings = state.failures.min(16);
        state.failures = state.failures.saturating_add(1);
        let pause = FIRST_PAUSE
            .saturating_mul(1 << doublings)
            .min(LONGEST_PAUSE);
        state.pause_until = Some(now + jittered(pause));
    }

    /// It left something unanswered for too long: the same, and streams that would not notice leave it.
    /// Perhaps only the connection is dead: whoever asks it again does so on a new one, while those who
    /// still wait for answers on this one may get them.
    pub(crate) fn fell_silent(&self, why: String) {
        self.failed(why);
        let mut state = self.state.lock();
        let is_open = |opening: &mut Opening| opening.peek().is_some();
        drop(state.opening.take_if(is_open));
        drop(state);
        self.silent.send_replace(());
    }

    /// Tells whenever it falls silent from now on.
    pub(crate) fn silences(&self) -> watch::Receiver<()> {
        self.silent.subscribe()
    }

    /// It answered.
    pub(crate) fn answered(&self) {
        let mut state = self.state.lock();
        state.failures = 0;
        state.pause_until = None;
    }

    fn pause_until(&self, now: Instant) -> Option<Instant> {
        let until = self.state.lock().pause_until;
        until.filter(|until| *until > now)
    }
}

/// Between half and one and a half of `pause`, so that clients that failed together do not return together.
#[allow(
    clippy::disallowed_methods,
    reason = "spreads clients over time; no simulation repeats a client"
)]
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::rng().random_range(0.5..1.5))
}

#[allow(
    clippy::disallowed_methods,
    reason = "spreads clients over members; no simulation repeats a client"
)]
fn random_index(count: usize) -> usize {
    rand::rng().random_range(0..count.max(1))
}

/// Which endpoint to ask.
pub(crate) enum Choice {
    /// This one.
    Now(Arc<Endpoint>),
    /// None before then.
    At(Instant),
}

/// All endpoints of a client. Never empty.
pub(crate) struct Endpoints {
    list: RwLock<Vec<Arc<Endpoint>>>,
    /// Index of the one that is asked as long as it answers.
    preferred: AtomicUsize,
}

impl Endpoints {
    pub(crate) fn new<E: AsRef<str>>(
        texts: impl IntoIterator<Item = E>,
        dialer: &Arc<Dialer>,
    ) -> Result<Self, Error> {
        let list = parse(texts, dialer, &[])?;
        let preferred = AtomicUsize::new(random_index(list.len()));
        Ok(Self {
            list: RwLock::new(list),
            preferred,
        })
    }

    /// Replaces them. Those that stay keep their connection.
    pub(crate) fn replace<E: AsRef<str>>(
        &self,
        texts: impl IntoIterator<Item = E>,
        dialer: &Arc<Dialer>,
    ) -> Result<(), Error> {
        let mut list = self.list.write();
        let in_use = self.preferred_of(&list);
        let new = parse(texts, dialer, &list)?;
        let kept = new
            .iter()
            .position(|endpoint| Arc::ptr_eq(endpoint, &in_use));
        let preferred = kept.unwrap_or_else(|| random_index(new.len()));
        self.preferred.store(preferred, Ordering::Relaxed);
        *list = new;
        Ok(())
    }

    /// As they were written.
    pub(crate) fn texts(&self) -> Vec<String> {
        let list = self.list.read();
        list.iter()
            .map(|endpoint| endpoint.address.text.clone())
            .collect()
    }

    pub(crate) fn count(&self) -> usize {
        self.list.read().len()
    }

    /// The one that is asked as long as it answers.
    pub(crate) fn preferred(&self) -> Arc<Endpoint> {
        self.preferred_of(&self.list.read())
    }

    #[allow(
        clippy::indexing_slicing,
        reason = "never empty, and the index is taken modulo its length"
    )]
    fn preferred_of(&self, list: &[Arc<Endpoint>]) -> Arc<Endpoint> {
        list[self.preferred.load(Ordering::Relaxed) % list.len()].clone()
    }

    /// This endpoint answers: stay with it.
    pub(crate) fn prefer(&self, endpoint: &Arc<Endpoint>) {
        let list = self.list.read();
        if let Some(index) = list.iter().position(|other| Arc::ptr_eq(other, endpoint)) {
            self.preferred.store(index, Ordering::Relaxed);
        }
    }

    /// The endpoint that was written like this failed.
    pub(crate) fn failed(&self, text: &str, why: String) {
        let list = self.list.read();
        if let Some(endpoint) = list.iter().find(|endpoint| endpoint.address.text == text) {
            endpoint.failed(why);
        }
    }

    /// The preferred one, or the next that is not left alone.
    pub(crate) fn choose(&self) -> Choice {
        let now = Instant::now();
        let list = self.list.read();
        let start = self.preferred.load(Ordering::Relaxed);
        let mut earliest = None;
        let from_preferred = list
            .iter()
            .cycle()
            .skip(start % list.len())
            .take(list.len());
        for endpoint in from_preferred {
            match endpoint.pause_until(now) {
                None => return Choice::Now(endpoint.clone()),
                Some(until) => earliest = Some(earliest.map_or(until, |e: Instant| e.min(until))),
            }
        }
        Choice::At(earliest.unwrap_or(now))
    }

    /// Waits for an endpoint to ask. Cancel safe.
    pub(crate) async fn chosen(&self) -> Arc<Endpoint> {
        loop {
            match self.choose() {
                Choice::Now(endpoint) => return endpoint,
                Choice::At(time) => tokio::time::sleep_until(time).await,
            }
        }
    }

    /// What went wrong last at each that is not well, for a person.
    pub(crate) fn failures(&self) -> String {
        let list = self.list.read();
        let mut failures = Vec::new();
        for endpoint in list.iter() {
            let state = endpoint.state.lock();
            if state.failures > 0 {
                failures.extend(state.last_failure.clone());
            }
        }
        if failures.is_empty() {
            return "no answer".to_owned();
        }
        failures.join("; ")
    }
}

fn parse<E: AsRef<str>>(
    texts: impl IntoIterator<Item = E>,
    dialer: &Arc<Dialer>,
    known: &[Arc<Endpoint>],
) -> Result<Vec<Arc<Endpoint>>, Error> {
    let mut list: Vec<Arc<Endpoint>> = Vec::new();
    for text in texts {
        let address = Address::parse(text.as_ref())?;
        let same = |endpoint: &&Arc<Endpoint>| {
            endpoint.address.target == address.target && endpoint.address.tls == address.tls
        };
        if list.iter().find(same).is_some() {
            continue;
        }
        let known = known.iter().find(same).cloned();
        list.push(known.unwrap_or_else(|| Endpoint::new(address, dialer.clone())));
    }
    if list.is_empty() {
        return Err(Error::Invalid(
            "no endpoint given; write host:port of at least one member".to_owned(),
        ));
    }
    Ok(list)
}
