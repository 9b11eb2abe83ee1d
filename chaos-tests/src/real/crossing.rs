//! Datagrams sent from one place to another, to see what the network does to them.
//!
//! They belong to nobody's protocol, so they show the state of a path whatever the servers at its ends do.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::ErrorKind;
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::sync::oneshot;

use super::net::Place;

/// How datagrams are sent.
#[derive(Debug, Clone, Copy)]
pub struct Volley {
    /// How many.
    pub count: u32,
    /// The time between two of them.
    pub gap: Duration,
    /// How large each is, in bytes; at least 16.
    pub bytes: usize,
    /// How long the last one is waited for.
    pub patience: Duration,
    /// Whether to wait for that long even when all have arrived, for some may arrive again.
    pub linger: bool,
}

/// A few, to see whether a path is open.
pub const KNOCK: Volley = Volley {
    count: 3,
    gap: Duration::from_millis(10),
    bytes: 16,
    patience: Duration::from_millis(250),
    linger: false,
};

/// What came of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Crossing {
    /// How many were sent.
    pub sent: u32,
    /// How many of them arrived.
    pub arrived: u32,
    /// How many arrived again.
    pub again: u32,
    /// How many arrived after one that was sent later.
    pub overtaken: u32,
    /// How long each was under way, in the order of arrival.
    pub delays: Vec<Duration>,
    /// From the first sent to the last arrived.
    pub took: Duration,
}

impl Crossing {
    /// How long half of them took at most.
    pub fn median(&self) -> Duration {
        let mut delays = self.delays.clone();
        delays.sort();
        delays.get(delays.len() / 2).copied().unwrap_or_default()
    }
}

/// Sends datagrams and waits for them.
///
/// # Errors
/// A namespace or a socket cannot be had.
pub async fn send(from: Place, to: Place, volley: Volley) -> Result<Crossing> {
    let (answer, answered) = oneshot::channel();
    // A thread of its own: it changes its network namespace and must not be used for anything else after that.
    thread::Builder::new()
        .name("crossing".into())
        .spawn(move || answer.send(cross(from, to, volley)))?;
    answered.await.context("the probing thread is gone")?
}

fn cross(from: Place, to: Place, volley: Volley) -> Result<Crossing> {
    let home = File::open("/proc/thread-self/ns/net")?;
    let receiver = socket(to, &home)?;
    let sender = socket(from, &home)?;
    sender.connect(receiver.local_addr()?)?;
    let began = Instant::now();
    let mut seen = BTreeSet::new();
    let mut result = Crossing::default();
    let mut next = began;
    let end = began + volley.gap * volley.count + volley.patience;
    loop {
        let now = Instant::now();
        if now >= next && result.sent < volley.count {
            let mut datagram = vec![0; volley.bytes.max(16)];
            datagram[..8].copy_from_slice(&u64::from(result.sent).to_be_bytes());
            let under_way = u64::try_from(began.elapsed().as_nanos())?;
            datagram[8..16].copy_from_slice(&under_way.to_be_bytes());
            // A full queue or a refusal is a datagram that does not arrive.
            let _ = sender.send(&datagram);
            result.sent += 1;
            next += volley.gap;
            continue;
        }
        let all = result.sent == volley.count;
        if now >= end || (all && result.arrived == volley.count && !volley.linger) {
            return Ok(result);
        }
        let until = if all { end } else { next.min(end) };
        receiver.set_read_timeout(Some(
            until
                .saturating_duration_since(now)
                .max(Duration::from_micros(100)),
        ))?;
        let mut datagram = [0; 2048];
        match receiver.recv(&mut datagram) {
            Ok(16..) => {
                let number = u64::from_be_bytes(datagram[..8].try_into()?);
                let sent = u64::from_be_bytes(datagram[8..16].try_into()?);
                if !seen.insert(number) {
                    result.again += 1;
                } else {
                    result.arrived += 1;
                    if seen.last().is_some_and(|last| *last > number) {
                        result.overtaken += 1;
                    }
                }
                result.took = began.elapsed();
                let under_way = began.elapsed().saturating_sub(Duration::from_nanos(sent));
                result.delays.push(under_way);
            }
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn socket(place: Place, home: &File) -> Result<UdpSocket> {
    let namespace = match place.namespace() {
        Some(path) => File::open(path)?,
        None => home.try_clone()?,
    };
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
    Ok(UdpSocket::bind((place.address(), 0))?)
}
