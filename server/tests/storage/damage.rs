//! Damage to the log: either all that was acknowledged is there, or the log is refused.

use std::time::Duration;

use batond::storage::log::survey;
use batond::storage::log::{
    Driver, Log, LogEntry, LogId, LogOptions, LogState, Payload, Survey, Vote,
};
use batond::storage::{Disk, SimDisk};
use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::helpers::{append, entry, id, open, wait};

const SEGMENT: u64 = 8 << 10;
const SECTOR: usize = 512;

fn small() -> LogOptions {
    LogOptions {
        segment_bytes: SEGMENT,
        ..LogOptions::default()
    }
}

/// A disk with a log in which everything occurs, recycled segments and long rows of zeros too, and
/// what was acknowledged.
fn written() -> (SimDisk, LogState, Vec<LogEntry>) {
    let disk = SimDisk::new(1);
    let log = Log::open(disk.clone(), small(), Driver::Thread).expect("log opens");
    for i in 0..60 {
        append(&log, vec![entry(1, i, 40 * (i % 9) as usize)]);
        if i % 8 == 7 {
            wait(|done| log.purge(id(1, i - 4), done)).expect("purge");
        }
    }
    wait(|done| {
        log.save_vote(
            Vote {
                term: 2,
                member_id: 3,
                committed: false,
            },
            done,
        )
    })
    .expect("vote");
    wait(|done| log.truncate_after(Some(id(1, 57)), done)).expect("truncate");
    let zeros = Payload::Command(Bytes::from(vec![0; 1600]));
    append(
        &log,
        vec![
            LogEntry {
                id: id(2, 58),
                payload: zeros,
            },
            entry(2, 59, 700),
        ],
    );
    append(&log, vec![entry(2, 60, 30)]);
    append(&log, vec![entry(2, 61, 900), entry(2, 62, 0)]);
    let (state, entries) = (log.state(), crate::helpers::all(&log));
    drop(log);
    (disk, state, entries)
}

/// What a reader that takes `survey` for it says: the log, or that it is refused.
type Verdict = Option<(LogState, Vec<LogEntry>)>;

fn careful(survey: Survey) -> Verdict {
    survey
        .error
        .is_none()
        .then_some((survey.state, survey.entries))
}

/// A planted bug: whatever cannot be read is taken for the remains of a write that never finished.
fn careless(survey: Survey) -> Verdict {
    Some((survey.state, survey.entries))
}

/// Flips every byte of every segment, and counts the flips after which `read` gives something else
/// than `expected`.
fn wrong_after_flips(disk: &SimDisk, expected: &Verdict, read: fn(Survey) -> Verdict) -> usize {
    let mut wrong = 0;
    for name in segments(disk) {
        for at in 0..SEGMENT as usize {
            let bits = [0xff, 1 << (at % 8)][at / 8 % 2];
            disk.damage(&name, |bytes| bytes[at] ^= bits);
            let verdict = read(survey(disk));
            wrong += usize::from(verdict.is_some() && verdict != *expected);
            disk.damage(&name, |bytes| bytes[at] ^= bits);
        }
    }
    wrong
}

fn segments(disk: &SimDisk) -> Vec<String> {
    let names = disk.list().expect("list");
    names
        .into_iter()
        .filter(|name| name.ends_with(".log"))
        .collect()
}

#[test]
fn an_undamaged_log_is_read_whole() {
    let (disk, state, entries) = written();
    assert!(segments(&disk).len() >= 2, "the sweep crosses segments");
    assert_eq!(careful(survey(&disk)), Some((state, entries)));
}

#[test]
fn no_flipped_byte_makes_the_log_shorter() {
    let (disk, state, entries) = written();
    assert_eq!(
        wrong_after_flips(&disk, &Some((state, entries)), careful),
        0
    );
}

#[test]
fn the_sweep_catches_a_log_that_takes_damage_for_an_unfinished_write() {
    let (disk, state, entries) = written();
    let wrong = wrong_after_flips(&disk, &Some((state, entries)), careless);
    assert!(wrong > 1000, "{wrong}");
}

#[test]
fn every_flipped_byte_of_the_last_batch_is_noticed() {
    let (disk, ..) = written();
    let last = segments(&disk).pop().expect("a segment");
    let mut end = 0;
    disk.damage(&last, |bytes| end = written_end(bytes));
    // Its two entries take two sectors.
    for at in end - 2 * SECTOR..end {
        disk.damage(&last, |bytes| bytes[at] ^= 0x10);
        let survey = survey(&disk);
        assert!(survey.error.is_some(), "byte {at}");
        disk.damage(&last, |bytes| bytes[at] ^= 0x10);
    }
}

/// Where the log ends in its last segment: after the last sector with the segment's serial number.
fn written_end(bytes: &[u8]) -> usize {
    let serial = &bytes[504..508];
    let mut sectors = bytes.chunks_exact(SECTOR);
    let last = sectors.rposition(|sector| sector[504..508] == *serial);
    (last.expect("the header has it") + 1) * SECTOR
}

#[test]
fn a_segment_of_any_other_length_is_refused() {
    let (disk, ..) = written();
    for name in segments(&disk) {
        let lens = (0..SEGMENT as usize).chain([SEGMENT as usize + 1]);
        for len in lens {
            let copy = disk.copy();
            copy.damage(&name, |bytes| bytes.resize(len, 0));
            assert!(survey(&copy).error.is_some(), "{name} at length {len}");
        }
    }
}

#[test]
fn a_missing_segment_is_refused_unless_it_was_the_last() {
    let (disk, ..) = written();
    let names = segments(&disk);
    for name in &names[..names.len() - 1] {
        let copy = disk.copy();
        copy.remove(name).expect("remove");
        assert!(survey(&copy).error.is_some(), "{name}");
    }
}

#[test]
fn a_refusal_names_the_file_and_says_what_to_do() {
    let (disk, ..) = written();
    let last = segments(&disk).pop().expect("a segment");
    disk.damage(&last, |bytes| bytes[SECTOR + 20] ^= 1);
    let error = survey(&disk).error.expect("it is refused").to_string();
    for part in [last.as_str(), "at byte 512", "remove it from the cluster"] {
        assert!(error.contains(part), "{error}");
    }
}

/// The disk of a log whose last batch, of entries with `lens` bytes, was written but never synced.
fn with_unsynced_batch(lens: &[usize]) -> (SimDisk, Vec<LogEntry>, Vec<LogEntry>) {
    let (disk, state, before) = written();
    let next = state.last.map_or(0, |LogId { index, .. }| index + 1);
    let batch: Vec<_> = (next..)
        .zip(lens)
        .map(|(i, len)| entry(2, i, *len))
        .collect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("runtime");
    runtime.block_on(async {
        let driver = Driver::Task {
            sync_delay: Box::new(|| Duration::from_secs(3600)),
        };
        let log = Log::open(disk.clone(), small(), driver).expect("log opens");
        log.append(batch.clone(), Box::new(|_| {}));
        // The writer gets as far as the sync.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    });
    (disk, before.clone(), [before, batch].concat())
}

/// Crashes a copy of the disk that keeps the picked sectors, and checks what is read then.
fn check_crash(disk: &SimDisk, before: &[LogEntry], after: &[LogEntry], keeps: &[(u64, bool)]) {
    let copy = disk.copy();
    copy.crash_keeping(|_, sector| keeps.contains(&(sector, true)));
    let found = survey(&copy);
    assert!(found.error.is_none(), "{keeps:?}: {:?}", found.error);
    let whole = keeps.iter().all(|(_, kept)| *kept);
    assert!(
        found.entries == after || (!whole && found.entries == before),
        "{keeps:?}"
    );
}

#[test]
fn any_part_of_an_unsynced_batch_may_be_lost() {
    let (disk, before, after) = with_unsynced_batch(&[600, 0, 700]);
    let last = segments(&disk).pop().expect("a segment");
    let sectors = disk.unsynced_sectors(&last);
    assert!((3..=16).contains(&sectors.len()), "{sectors:?}");
    for mask in 0..1_u32 << sectors.len().min(12) {
        let keeps: Vec<_> = (sectors.iter().enumerate())
            .map(|(bit, sector)| (*sector, mask >> bit & 1 == 1))
            .collect();
        check_crash(&disk, &before, &after, &keeps);
    }
}

#[test]
fn any_part_of_a_large_unsynced_batch_may_be_lost() {
    let (disk, before, after) = with_unsynced_batch(&[2500, 2000]);
    let last = segments(&disk).pop().expect("a segment");
    let sectors = disk.unsynced_sectors(&last);
    let mut rng = StdRng::seed_from_u64(5);
    for round in 0..3000 {
        let odds = [0.1, 0.5, 0.95][round % 3];
        let keeps: Vec<_> = sectors
            .iter()
            .map(|s| (*s, rng.random_bool(odds)))
            .collect();
        check_crash(&disk, &before, &after, &keeps);
    }
}

#[test]
fn no_flipped_byte_beside_a_torn_write_makes_the_log_shorter() {
    let (disk, before, _) = with_unsynced_batch(&[600, 0, 700]);
    let last = segments(&disk).pop().expect("a segment");
    let lost = disk.unsynced_sectors(&last)[3];
    disk.crash_keeping(|_, sector| sector != lost);
    let found = survey(&disk);
    assert_eq!(found.entries, before, "the batch is torn");
    let expected = Some((found.state, found.entries));
    assert_eq!(wrong_after_flips(&disk, &expected, careful), 0);
}

#[test]
fn a_write_cut_at_any_byte_takes_nothing_acknowledged_with_it() {
    let (disk, before, after) = with_unsynced_batch(&[600, 0, 700]);
    let last = segments(&disk).pop().expect("a segment");
    let full = disk.copy();
    full.crash_keeping(|_, _| true);
    let mut end = 0;
    full.damage(&last, |bytes| end = written_end(bytes));
    for cut in end - 3 * SECTOR..end {
        let copy = full.copy();
        copy.damage(&last, |bytes| bytes[cut..end].fill(0));
        let found = survey(&copy);
        let intact = found.entries == before || found.entries == after;
        assert!(found.error.is_some() || intact, "cut at {cut}");
    }
}

#[test]
fn an_opened_log_does_not_mix_new_writes_with_the_remains_of_old_ones() {
    let (disk, before, _) = with_unsynced_batch(&[600, 0, 700]);
    let last = segments(&disk).pop().expect("a segment");
    // The first sector of the batch is lost, the others are there.
    let mut end = 0;
    let full = disk.copy();
    full.crash_keeping(|_, _| true);
    full.damage(&last, |bytes| end = written_end(bytes));
    let first = (end / SECTOR - 3) as u64;
    disk.crash_keeping(|_, sector| sector != first);
    drop(open(disk.clone()));
    disk.damage(&last, |bytes| {
        assert_eq!(written_end(bytes), end - 3 * SECTOR, "the remains are gone");
    });
    assert_eq!(survey(&disk).entries, before);
}

#[test]
fn content_of_a_segments_former_life_is_not_read() {
    let (disk, _, entries) = written();
    let last = segments(&disk).pop().expect("a segment");
    let mut stale = 0;
    disk.damage(&last, |bytes| {
        let end = written_end(bytes);
        stale = bytes[end..]
            .chunks_exact(SECTOR)
            .filter(|s| s[504..508] != [0; 4])
            .count();
    });
    assert!(stale > 0, "the last segment was used before");
    assert_eq!(survey(&disk).entries, entries);
}
