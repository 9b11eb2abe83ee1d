//! The log on a real and on a simulated disk.

use std::io;
use std::sync::mpsc;
use std::time::Duration;

use batond::storage::log::{Done, Driver, Log, LogOptions, OpenError, Vote};
use batond::storage::{Disk, RealDisk, SimDisk};

use crate::helpers::{SMALL, all, append, done, entry, id, open, options, wait};

#[test]
fn entries_votes_and_positions_survive_a_restart() {
    let dir = tempfile::tempdir().expect("tempdir");
    let vote = Vote {
        term: 2,
        member_id: 7,
        committed: true,
    };
    let written: Vec<_> = (0..500).map(|i| entry(2, i, 300)).collect();
    {
        let log = open(RealDisk::new(dir.path()));
        wait(|done| log.save_vote(vote, done)).expect("vote");
        for chunk in written.chunks(7) {
            append(&log, chunk.to_vec());
        }
        log.save_committed(id(2, 480));
        wait(|done| log.purge(id(2, 99), done)).expect("purge");
    }
    let log = open(RealDisk::new(dir.path()));
    let state = log.state();
    assert_eq!(state.vote, Some(vote));
    assert_eq!(state.committed, Some(id(2, 480)));
    assert_eq!(state.purged, Some(id(2, 99)));
    assert_eq!(state.last, Some(id(2, 499)));
    assert!(
        all(&log) == written[100..],
        "all that was not purged is there"
    );
}

#[test]
fn entries_are_readable_before_they_are_durable() {
    let log = open(SimDisk::new(1));
    let (done, _later) = done();
    log.append(vec![entry(1, 0, 10)], done);
    assert_eq!(all(&log), [entry(1, 0, 10)]);
}

#[test]
fn entries_beyond_memory_are_read_from_segments() {
    let log = open(SimDisk::new(1));
    let written: Vec<_> = (0..2000).map(|i| entry(1, i, 200)).collect();
    for chunk in written.chunks(13) {
        append(&log, chunk.to_vec());
    }
    assert!(all(&log) == written);
    for from in [0, 1, 12, 13, 777, 1900, 1999] {
        let some = log.entries(from, from + 50, usize::MAX).expect("entries");
        let to = (from as usize + 50).min(2000);
        assert!(some == written[from as usize..to], "from {from}");
    }
}

#[test]
fn reading_stops_at_the_byte_limit_but_gives_at_least_one_entry() {
    let log = open(SimDisk::new(1));
    append(&log, (0..1000).map(|i| entry(1, i, 100)).collect());
    for from in [0, 990] {
        let lens = |max| log.entries(from, u64::MAX, max).expect("entries").len();
        assert_eq!(lens(1), 1, "from {from}");
        assert_eq!(lens(350), 3, "from {from}");
    }
}

#[test]
fn what_was_truncated_does_not_come_back() {
    let disk = SimDisk::new(1);
    let expected: Vec<_> = (0..400)
        .map(|i| entry(1, i, 100))
        .chain((400..700).map(|i| entry(3, i, 120)))
        .collect();
    {
        let log = open(disk.clone());
        append(&log, (0..900).map(|i| entry(1, i, 100)).collect());
        wait(|done| log.truncate_after(Some(id(1, 399)), done)).expect("truncate");
        append(&log, expected[400..].to_vec());
        assert!(all(&log) == expected, "before the restart");
    }
    assert!(all(&open(disk)) == expected, "after the restart");
}

#[test]
fn truncate_and_append_in_one_batch_keep_their_order() {
    let disk = SimDisk::new(1);
    {
        let log = open(disk.clone());
        let (first, _) = done();
        log.append((0..10).map(|i| entry(1, i, 10)).collect(), first);
        let (second, _) = done();
        log.truncate_after(None, second);
        append(&log, (0..3).map(|i| entry(2, i, 10)).collect());
    }
    let expected: Vec<_> = (0..3).map(|i| entry(2, i, 10)).collect();
    assert_eq!(all(&open(disk)), expected);
}

#[test]
fn a_purge_beyond_the_end_moves_the_log() {
    let disk = SimDisk::new(1);
    {
        let log = open(disk.clone());
        append(&log, (0..10).map(|i| entry(1, i, 10)).collect());
        wait(|done| log.purge(id(4, 1000), done)).expect("purge");
        assert_eq!(log.state().last, Some(id(4, 1000)));
        append(&log, vec![entry(4, 1001, 10)]);
    }
    let log = open(disk);
    assert_eq!(all(&log), [entry(4, 1001, 10)]);
    let error = log.entries(5, 6, usize::MAX).expect_err("it is purged");
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
}

#[test]
fn purged_segments_are_used_again() {
    let disk = SimDisk::new(1);
    let log = open(disk.clone());
    for i in 0..2000 {
        append(&log, vec![entry(1, i, 400)]);
        if i % 50 == 49 {
            wait(|done| log.purge(id(1, i - 10), done)).expect("purge");
        }
    }
    drop(log);
    let files = disk.list().expect("list");
    assert!(files.len() <= 5, "{files:?}");
    assert_eq!(all(&open(disk)).len(), 10);
}

#[test]
fn a_gap_is_refused_and_changes_nothing() {
    let log = open(SimDisk::new(1));
    append(&log, vec![entry(1, 0, 10)]);
    let refused = wait(|done| log.append(vec![entry(1, 2, 10)], done));
    let error = refused.expect_err("there is a gap");
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    assert_eq!(log.state().last, Some(id(1, 0)));
}

#[test]
fn a_missing_log_is_refused_unless_a_new_one_was_asked_for() {
    let options = LogOptions {
        create: false,
        ..options()
    };
    let refused = Log::open(SimDisk::new(1), options, Driver::Thread);
    assert!(matches!(refused, Err(OpenError::Missing)));
}

#[test]
fn after_a_failed_sync_every_call_fails_and_the_process_is_told() {
    let disk = SimDisk::new(1);
    let (sender, fatal) = mpsc::channel();
    let options = LogOptions {
        on_fatal: Box::new(move |error| sender.send(error.to_string()).expect("test listens")),
        ..options()
    };
    let log = Log::open(disk.clone(), options, Driver::Thread).expect("log opens");
    append(&log, vec![entry(1, 0, 10)]);
    disk.fail_sync(1);
    wait(|done| log.append(vec![entry(1, 1, 10)], done)).expect_err("the sync failed");
    assert_eq!(fatal.recv().expect("told"), "injected sync error");
    wait(|done| log.append(vec![entry(1, 2, 10)], done)).expect_err("the log has failed");
    wait(|done| log.save_vote(Vote::default(), done)).expect_err("the log has failed");
}

#[test]
fn what_a_failed_sync_left_in_memory_alone_is_written_again_on_opening() {
    for seed in 0..20 {
        let disk = SimDisk::new(seed);
        let log = open(disk.clone());
        append(&log, vec![entry(1, 0, 10)]);
        disk.fail_sync(1);
        wait(|done| log.append(vec![entry(1, 1, 3000)], done)).expect_err("the sync failed");
        drop(log);
        let log = open(disk.clone());
        let read_back = all(&log).len() as u64;
        append(&log, vec![entry(1, read_back, 10)]);
        drop(log);
        disk.crash();
        assert_eq!(all(&open(disk)).len() as u64, read_back + 1, "seed {seed}");
    }
}

#[test]
fn a_full_disk_is_foreseen_then_stops_the_log_and_loses_nothing() {
    let disk = SimDisk::new(1);
    let log = open(disk.clone());
    append(&log, vec![entry(1, 0, 400)]);
    disk.set_capacity(Some(SMALL));
    let mut acknowledged = 1;
    let mut foreseen = false;
    let error = loop {
        match wait(|done| log.append(vec![entry(1, acknowledged, 400)], done)) {
            Ok(()) => acknowledged += 1,
            Err(error) => break error,
        }
        foreseen |= log.space_low();
    };
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert!(foreseen, "space_low came before the failure");
    drop(log);
    disk.crash();
    disk.set_capacity(None);
    let log = open(disk);
    assert_eq!(log.state().last, Some(id(1, acknowledged - 1)));
    append(&log, vec![entry(1, acknowledged, 400)]);
}

#[tokio::test(start_paused = true)]
async fn as_a_task_one_sync_serves_all_that_waited() {
    let syncs = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let count = syncs.clone();
    let sync_delay = move || {
        count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        Duration::from_millis(5)
    };
    let driver = Driver::Task {
        sync_delay: Box::new(sync_delay),
    };
    let log = Log::open(SimDisk::new(1), options(), driver).expect("log opens");
    let (sender, mut order) = tokio::sync::mpsc::unbounded_channel();
    for i in 0..100 {
        let sender = sender.clone();
        let done: Done = Box::new(move |result| {
            result.expect("append");
            sender.send(i).expect("test listens");
        });
        log.append(vec![entry(1, i, 10)], done);
    }
    for i in 0..100 {
        assert_eq!(order.recv().await, Some(i));
    }
    assert_eq!(syncs.load(std::sync::atomic::Ordering::SeqCst), 1);
}
