//! How an entry stands in a file: a header, and the line.

use bytes::{Buf, BufMut, Bytes};

use crate::daemon::sinks::entry::{Entry, MAX_LINE};

/// Bytes of the header: length of the line, checksum of the rest, number, and what the entry tells of. All in little
/// endian.
pub const HEADER: usize = 4 + 4 + 8 + 8;

/// A header that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the line.
    pub length: usize,
    /// CRC-32 of number, what is told of, and line.
    checksum: u32,
    /// The entry's number: each has the one after that of the entry before it.
    pub number: u64,
    tells: u64,
}

/// Appends an entry to `out`.
pub fn put(entry: &Entry, number: u64, out: &mut Vec<u8>) {
    // Whoever calls has compared it with `MAX_LINE`.
    let length = u32::try_from(entry.line.len()).unwrap_or(u32::MAX);
    out.put_u32_le(length);
    out.put_u32_le(checksum(number, entry.tells, &entry.line));
    out.put_u64_le(number);
    out.put_u64_le(entry.tells);
    out.put_slice(&entry.line);
}

impl Header {
    /// Reads a header. `None` for what can be none.
    #[must_use]
    pub fn read(mut bytes: &[u8]) -> Option<Self> {
        if bytes.len() < HEADER {
            return None;
        }
        let length = usize::try_from(bytes.get_u32_le()).ok()?;
        let checksum = bytes.get_u32_le();
        let header =
            Self { length, checksum, number: bytes.get_u64_le(), tells: bytes.get_u64_le() };
        (length <= MAX_LINE).then_some(header)
    }

    /// The entry, where `line` is what was written with this header.
    #[must_use]
    pub fn entry(&self, line: Bytes) -> Option<Entry> {
        let is_whole = checksum(self.number, self.tells, &line) == self.checksum;
        is_whole.then_some(Entry { line, tells: self.tells })
    }
}

fn checksum(number: u64, tells: u64, line: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for bytes in [&number.to_le_bytes(), &tells.to_le_bytes(), line] {
        hasher.update(bytes);
    }
    hasher.finalize()
}
