//! Short forms.

use std::io;
use std::sync::mpsc;

use batond::storage::Disk;
use batond::storage::log::{Done, Driver, Log, LogEntry, LogId, LogOptions, Payload};
use bytes::Bytes;

pub const SMALL: u64 = 64 << 10;

pub fn options() -> LogOptions {
    LogOptions {
        segment_bytes: SMALL,
        tail_bytes: 8 << 10,
        ..LogOptions::default()
    }
}

pub fn open(disk: impl Disk) -> Log {
    Log::open(disk, options(), Driver::Thread).expect("log opens")
}

pub fn id(term: u64, index: u64) -> LogId {
    LogId { term, index }
}

pub fn entry(term: u64, index: u64, len: usize) -> LogEntry {
    LogEntry {
        id: id(term, index),
        payload: Payload::Command(Bytes::from(vec![index as u8; len])),
    }
}

/// A callback, and where to wait for it.
pub fn done() -> (Done, mpsc::Receiver<io::Result<()>>) {
    let (sender, receiver) = mpsc::channel();
    let done: Done = Box::new(move |result| {
        let _ = sender.send(result);
    });
    (done, receiver)
}

pub fn wait(f: impl FnOnce(Done)) -> io::Result<()> {
    let (done, receiver) = done();
    f(done);
    receiver.recv().expect("the callback is called")
}

pub fn append(log: &Log, entries: Vec<LogEntry>) {
    wait(|done| log.append(entries, done)).expect("append");
}

pub fn all(log: &Log) -> Vec<LogEntry> {
    let from = log.state().purged.map_or(0, |purged| purged.index + 1);
    log.entries(from, u64::MAX, usize::MAX).expect("entries")
}
