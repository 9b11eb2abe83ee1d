//! Segments: files of a fixed length, named by serial number and first index, zero-filled when they
//! are made and used again when their entries are purged.
//!
//! The first sector is the header. It repeats all state but the entries, so that an old segment can
//! go without taking the vote with it.

use std::io;

use super::entry::LogState;
use super::frame::{BODY, PAGE, SECTOR, Sector, judge, seal};
use super::record::{decode_state, encode_state, take};
use super::recover::next_after;
use super::{Damage, OpenError};
use crate::storage::{Disk, DiskFile};

const MAGIC: [u8; 8] = *b"batonlog";
/// Format of segments. A segment of a later format is refused.
const VERSION: u32 = 1;
/// Zeros written at a time while a file is filled.
pub(super) const FILL_BYTES: usize = 1 << 20;

/// What the first sector of a segment says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Grows by one from segment to segment, over the life of the log.
    pub(super) serial: u32,
    /// Length of the file.
    pub(super) len: u64,
    /// Number of the first batch.
    pub(super) batch: u64,
    /// Checksum of the chain before the first batch.
    pub(super) chain: u32,
    /// The log before the first batch.
    pub(super) state: LogState,
}

impl Header {
    pub(super) fn name(&self) -> String {
        let first = next_after(self.state.last);
        format!("{:08}-{first:020}.log", self.serial)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.serial.to_le_bytes());
        out.extend_from_slice(&self.len.to_le_bytes());
        out.extend_from_slice(&self.batch.to_le_bytes());
        out.extend_from_slice(&self.chain.to_le_bytes());
        encode_state(&self.state, &mut out);
        out.resize(SECTOR, 0);
        seal(&mut out, 0, self.serial, 0);
        out
    }

    /// Decodes the header of the segment `name` from its whole content.
    fn decode(name: &str, serial: u32, file: &[u8]) -> Result<Self, OpenError> {
        let damaged = |what: &str| OpenError::damaged(name, 0, what);
        let sector = file
            .get(..SECTOR)
            .ok_or_else(|| damaged("the file is shorter than a header"))?;
        if judge(sector, 0, serial) != (Sector::Current { batch: 0 }) {
            return Err(damaged("the header of the segment is damaged"));
        }
        let mut input = &sector[..BODY];
        let mut decode = || -> Option<Result<Self, u32>> {
            if take(&mut input)? != MAGIC {
                return None;
            }
            let version = u32::from_le_bytes(take(&mut input)?);
            if version != VERSION {
                return Some(Err(version));
            }
            Some(Ok(Self {
                serial: u32::from_le_bytes(take(&mut input)?),
                len: u64::from_le_bytes(take(&mut input)?),
                batch: u64::from_le_bytes(take(&mut input)?),
                chain: u32::from_le_bytes(take(&mut input)?),
                state: decode_state(&mut input)?,
            }))
        };
        match decode() {
            None => Err(damaged("the header of the segment makes no sense")),
            Some(Err(found)) => Err(OpenError::NewerFormat {
                file: name.to_owned(),
                found,
                known: VERSION,
            }),
            Some(Ok(header)) if header.len != file.len() as u64 => {
                Err(OpenError::Damaged(Damage {
                    file: name.to_owned(),
                    offset: file.len() as u64,
                    what: format!(
                        "the segment is {} bytes long and was {}",
                        file.len(),
                        header.len
                    ),
                }))
            }
            Some(Ok(header)) => Ok(header),
        }
    }
}

/// Serial number of a segment, by its file name.
pub(super) fn serial_of(name: &str) -> Option<u32> {
    let (serial, first) = name.strip_suffix(".log")?.split_once('-')?;
    if serial.len() != 8 || first.len() != 20 {
        return None;
    }
    serial.parse().ok()
}

/// Name of a file that can become a segment.
pub(super) fn spare_name(number: u64) -> String {
    format!("spare-{number}")
}

/// Number of a file that can become a segment.
pub(super) fn spare_of(name: &str) -> Option<u64> {
    name.strip_prefix("spare-")?.parse().ok()
}

/// Reads the segment `name`.
pub(super) fn load<D: Disk>(
    disk: &D,
    name: &str,
    serial: u32,
) -> Result<(Header, Vec<u8>), OpenError> {
    let read = || -> io::Result<Vec<u8>> {
        let file = disk.open(name)?;
        let mut bytes = vec![0; file.len()? as usize];
        file.read_at(0, &mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|source| OpenError::io(name, source))?;
    let header = Header::decode(name, serial, &bytes)?;
    Ok((header, bytes))
}

/// A length for a segment that holds at least `needed` bytes behind its header.
pub(super) fn segment_len(target: u64, needed: usize) -> u64 {
    target
        .max((SECTOR + needed) as u64)
        .next_multiple_of(PAGE as u64)
}
