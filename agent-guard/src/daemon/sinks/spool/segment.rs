//! One file of a spool.

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Read as _, Seek as _, SeekFrom},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use bytes::Bytes;

use super::frame::{HEADER, Header};
use crate::daemon::sinks::entry::Entry;

/// What the names of all of them end with, behind 16 hexadecimal digits.
const SUFFIX: &str = ".spool";

/// A file of entries whose numbers follow each other.
#[derive(Debug)]
pub struct Segment {
    pub path: PathBuf,
    /// The number of its first entry.
    pub first: u64,
    /// Bytes of whole entries.
    pub length: u64,
    /// Where the first entry begins that is not done with.
    pub read_to: u64,
    file: File,
}

/// What stands at a place.
#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    /// An entry, its number, and where the next one begins.
    Entry(Entry, u64, u64),
    /// Nothing more.
    End,
    /// Something else than was written.
    Broken,
}

/// Those of a directory, from the oldest on.
pub fn all(directory: &Path) -> io::Result<VecDeque<Segment>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let digits = name.strip_suffix(SUFFIX).filter(|digits| digits.len() == 16);
        let Some(first) = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()) else {
            continue;
        };
        let file = options().open(&path)?;
        let length = file.metadata()?.len();
        found.push(Segment { path, first, length, read_to: 0, file });
    }
    found.sort_by_key(|segment| segment.first);
    Ok(found.into())
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    options
}

impl Segment {
    /// A new one in `directory`, whose first entry will have the number `first`.
    pub fn create(directory: &Path, first: u64) -> io::Result<Self> {
        let path = directory.join(format!("{first:016x}{SUFFIX}"));
        // One of this name has no entry that was ever counted.
        let file = options().create(true).truncate(true).open(&path)?;
        Ok(Self { path, first, length: 0, read_to: 0, file })
    }

    /// Appends whole entries, and waits until they are on disk.
    pub fn append(&mut self, frames: &[u8]) -> io::Result<()> {
        self.file.write_all_at(frames, self.length)?;
        self.file.sync_data()?;
        self.length += frames.len() as u64;
        Ok(())
    }

    /// Cuts off what stands behind the last whole entry.
    pub fn cut(&mut self) -> io::Result<()> {
        self.file.set_len(self.length)
    }

    /// What stands at `offset`.
    pub fn read(&self, offset: u64) -> io::Result<Read> {
        if offset >= self.length {
            return Ok(Read::End);
        }
        let Some(header) = self.header(offset)? else { return Ok(Read::Broken) };
        let begin = offset + HEADER as u64;
        let mut line = vec![0; header.length];
        match self.file.read_exact_at(&mut line, begin) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(Read::Broken),
            read => read?,
        }
        let end = begin + header.length as u64;
        Ok(match header.entry(line.into()) {
            Some(entry) if end <= self.length => Read::Entry(entry, header.number, end),
            _ => Read::Broken,
        })
    }

    /// Is done with an entry that was read. False where there is none.
    pub fn step(&mut self) -> io::Result<bool> {
        if self.read_to >= self.length {
            return Ok(false);
        }
        let Some(header) = self.header(self.read_to)? else { return Ok(false) };
        self.read_to += (HEADER + header.length) as u64;
        Ok(true)
    }

    fn header(&self, offset: u64) -> io::Result<Option<Header>> {
        let mut bytes = [0; HEADER];
        match self.file.read_exact_at(&mut bytes, offset) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(None),
            read => read.map(|()| Header::read(&bytes)),
        }
    }

    /// The first entry behind the broken one at `offset` that can be read, as its number and place. It is looked for
    /// at every byte: a broken one may not tell how long it is.
    pub fn next_readable(&self, offset: u64) -> io::Result<Option<(u64, u64)>> {
        let mut bytes = Vec::new();
        let rest = self.length.saturating_sub(offset);
        (&self.file).seek(SeekFrom::Start(offset))?;
        (&self.file).take(rest).read_to_end(&mut bytes)?;
        // More entries than headers fit there are not.
        let most = self.first + self.length / HEADER as u64;
        for at in 1..bytes.len() {
            let Some(header) = bytes.get(at..).and_then(Header::read) else { continue };
            let line = bytes.get(at + HEADER..).and_then(|rest| rest.get(..header.length));
            if (self.first..=most).contains(&header.number)
                && let Some(line) = line
                && header.entry(Bytes::copy_from_slice(line)).is_some()
            {
                return Ok(Some((header.number, offset + at as u64)));
            }
        }
        Ok(None)
    }

    /// Finds where its last whole entry ends, and cuts off what stands behind. What comes back is the number of the
    /// entry that would come next, and whether something was cut off.
    pub fn end(&mut self) -> io::Result<(u64, bool)> {
        let (mut offset, mut next) = (0, self.first);
        loop {
            match self.read(offset)? {
                Read::Entry(_, number, end) => (offset, next) = (end, number + 1),
                Read::End => return Ok((next, false)),
                Read::Broken => match self.next_readable(offset)? {
                    Some((_, readable)) => offset = readable,
                    None => break,
                },
            }
        }
        self.length = offset;
        self.cut()?;
        Ok((next, true))
    }

    /// Has every append from here on fail.
    #[cfg(test)]
    pub fn close_for_writing(&mut self) {
        self.file = File::open(&self.path).unwrap();
    }
}
