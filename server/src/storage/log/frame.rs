//! Batches on disk: how a write that never finished is told from one that was damaged later.
//!
//! A segment is a row of 512-byte sectors. Each carries 496 bytes and a trailer: the number of the
//! batch it belongs to, the serial number of the segment, and a CRC32C over all of that and over its
//! place in the file. So any sector, alone, is one of three things:
//!
//! - **current**: it was written to this segment, in batch *n*;
//! - **unwritten**: zeros, or content of the file's former life (a lower serial number);
//! - **damaged**: anything else. No write leaves such a sector behind, because a disk writes a sector
//!   whole or not at all.
//!
//! A batch starts on a new sector, so no later write changes the content of a synced sector. Batch
//! *n + 1* is written only after the sync of batch *n* returned: a sector of it proves that *n* was
//! synced. And a sync covers all sectors of its batch, so **one unwritten sector inside a batch proves
//! that its sync never returned**, that nobody was told of it, and that it may be forgotten. A batch
//! that is followed by a later one, or that is damaged but has no unwritten sector, may have been
//! acknowledged: the log is not opened.
//!
//! A batch says how long it is in its first sector. If that sector is unwritten the batch was never
//! acknowledged; if it is damaged nothing can be said and the log is not opened.
//!
//! Batches are chained: each holds the checksum of all before it and of itself, so that a batch can
//! follow no other than the one it was written after, across segments too.
//!
//! What this cannot see is a disk that loses a sector it had reported as synced, if that sector was in
//! the very last batch. From the next batch on it can.

use crc32c::{crc32c, crc32c_append};

/// What a disk writes whole or not at all.
pub(super) const SECTOR: usize = 512;
/// Writes cover whole pages, so that the kernel need not read before it writes.
pub(super) const PAGE: usize = 4096;
/// Payload of a sector.
pub(super) const BODY: usize = 496;
/// Length of the records, checksum of the chain before and with this batch.
const BATCH_HEADER: usize = 12;

/// What a sector turns out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sector {
    Current { batch: u64 },
    Unwritten,
    Damaged,
}

/// Fills in the trailer of `sector`, which stands at `offset`.
pub(super) fn seal(sector: &mut [u8], offset: u64, serial: u32, batch: u64) {
    sector[496..504].copy_from_slice(&batch.to_le_bytes());
    sector[504..508].copy_from_slice(&serial.to_le_bytes());
    let crc = checksum(sector, offset);
    sector[508..].copy_from_slice(&crc.to_le_bytes());
}

/// Decides what `sector`, which stands at `offset` of the segment `serial`, is.
pub(super) fn judge(sector: &[u8], offset: u64, serial: u32) -> Sector {
    let found = u32_at(sector, 504);
    if checksum(sector, offset) == u32_at(sector, 508) {
        return match found.cmp(&serial) {
            std::cmp::Ordering::Less => Sector::Unwritten,
            std::cmp::Ordering::Equal => Sector::Current {
                batch: u64_at(sector, 496),
            },
            std::cmp::Ordering::Greater => Sector::Damaged,
        };
    }
    // Zeros, or a write that stopped inside a sector of zeros. Serial numbers are not zero and
    // neither is the checksum, so that this takes at least two changed bytes in a synced sector.
    if sector[504..] == [0; 8] {
        Sector::Unwritten
    } else {
        Sector::Damaged
    }
}

/// Never zero.
fn checksum(sector: &[u8], offset: u64) -> u32 {
    crc32c_append(crc32c(&offset.to_le_bytes()), &sector[..508]).max(1)
}

/// Bytes that `records` bytes of records take on disk.
pub(super) fn framed_len(records: usize) -> usize {
    (BATCH_HEADER + records).div_ceil(BODY) * SECTOR
}

/// Appends the sectors of a batch to `out`; the first one stands at `offset`. Returns the checksum of
/// the chain with this batch.
pub(super) fn put_batch(
    out: &mut Vec<u8>,
    offset: u64,
    serial: u32,
    batch: u64,
    chain: u32,
    records: &[u8],
) -> u32 {
    let next = crc32c_append(chain, records);
    let mut header = [0; BATCH_HEADER];
    header[..4].copy_from_slice(&(records.len() as u32).to_le_bytes());
    header[4..8].copy_from_slice(&chain.to_le_bytes());
    header[8..].copy_from_slice(&next.to_le_bytes());
    let start = out.len();
    let (head, rest) = records.split_at(records.len().min(BODY - BATCH_HEADER));
    out.extend_from_slice(&header);
    out.extend_from_slice(head);
    out.resize(start + SECTOR, 0);
    for body in rest.chunks(BODY) {
        let at = out.len();
        out.extend_from_slice(body);
        out.resize(at + SECTOR, 0);
    }
    for (i, sector) in out[start..].chunks_exact_mut(SECTOR).enumerate() {
        seal(sector, offset + (i * SECTOR) as u64, serial, batch);
    }
    next
}

/// What stands where a batch is expected.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    Batch {
        records: Vec<u8>,
        /// Bytes it takes.
        len: usize,
        /// Checksum of the chain with it.
        chain: u32,
    },
    /// Nothing that was acknowledged. What an unfinished write left behind ends at `remains`, which
    /// is the place itself if there is nothing.
    End { remains: usize },
    /// Something that may have been acknowledged.
    Damage { offset: usize, what: String },
}

/// Reads batch number `batch`, expected at `at` of the segment whose whole content is `file`.
pub(super) fn read_batch(file: &[u8], at: usize, serial: u32, batch: u64, chain: u32) -> Found {
    let sector = |offset: usize| judge(&file[offset..offset + SECTOR], offset as u64, serial);
    let damage = |offset: usize, what: String| Found::Damage { offset, what };
    if at + SECTOR > file.len() {
        return Found::End { remains: at };
    }
    match sector(at) {
        Sector::Unwritten => return end(file, at, serial, batch),
        Sector::Damaged => {
            return damage(at, format!("the first sector of batch {batch} is damaged"));
        }
        Sector::Current { batch: found } if found != batch => {
            return damage(
                at,
                format!("batch {found} stands where batch {batch} is expected"),
            );
        }
        Sector::Current { .. } => {}
    }
    let len = u32_at(file, at) as usize;
    let (before, with) = (u32_at(file, at + 4), u32_at(file, at + 8));
    let framed = framed_len(len);
    if before != chain || at + framed > file.len() {
        return damage(
            at,
            format!("batch {batch} does not follow the one before it"),
        );
    }
    let mut damaged = None;
    for offset in (at..at + framed).step_by(SECTOR) {
        match sector(offset) {
            Sector::Current { batch: found } if found == batch => {}
            Sector::Unwritten => return end(file, at, serial, batch),
            Sector::Current { .. } | Sector::Damaged => damaged = damaged.or(Some(offset)),
        }
    }
    if let Some(offset) = damaged {
        return damage(offset, format!("a sector of batch {batch} is damaged"));
    }
    match records_of(&file[at..at + framed], chain) {
        None => damage(
            at,
            format!("the content of batch {batch} does not match its checksum"),
        ),
        Some(records) => Found::Batch {
            records,
            len: framed,
            chain: with,
        },
    }
}

/// The records in the sectors of a batch, if they match its checksum.
fn records_of(sectors: &[u8], chain: u32) -> Option<Vec<u8>> {
    let (len, with) = (u32_at(sectors, 0) as usize, u32_at(sectors, 8));
    let mut records = Vec::with_capacity(len + SECTOR);
    for (i, sector) in sectors.chunks_exact(SECTOR).enumerate() {
        let skip = if i == 0 { BATCH_HEADER } else { 0 };
        records.extend_from_slice(&sector[skip..BODY]);
    }
    records.truncate(len);
    (records.len() == len && crc32c_append(chain, &records) == with).then_some(records)
}

/// Reads again a batch that was written at `offset`; `None` if something else stands there now.
pub(super) fn reread_batch(
    sectors: &[u8],
    offset: u64,
    serial: u32,
    batch: u64,
) -> Option<Vec<u8>> {
    let intact = sectors.chunks_exact(SECTOR).enumerate().all(|(i, sector)| {
        judge(sector, offset + (i * SECTOR) as u64, serial) == Sector::Current { batch }
    });
    if intact {
        records_of(sectors, u32_at(sectors, 4))
    } else {
        None
    }
}

/// The log ends at `at` unless a later batch stands anywhere behind it.
fn end(file: &[u8], at: usize, serial: u32, batch: u64) -> Found {
    let mut remains = at;
    for (i, sector) in file[at..].chunks_exact(SECTOR).enumerate() {
        let offset = at + i * SECTOR;
        match judge(sector, offset as u64, serial) {
            Sector::Unwritten => {}
            Sector::Current { batch: found } if found > batch => {
                let what = format!("batch {batch} is missing, but batch {found} follows");
                return Found::Damage { offset: at, what };
            }
            Sector::Current { .. } | Sector::Damaged => remains = offset + SECTOR,
        }
    }
    Found::End { remains }
}

/// The little-endian number at `at`.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut array = [0; 4];
    array.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(array)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut array = [0; 8];
    array.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(array)
}
