//! What waits on disk until the far end is back: entries in order, in files of a bounded size, across restarts.
//!
//! The files are called by the number of their first entry, and numbers go on from one to the next; so what is
//! missing between two entries that can be read is counted exactly. A file `position` has the number of the first
//! entry that is not delivered. It is written after the far end has an entry: what is delivered twice after a crash
//! is what was delivered last.

mod frame;
mod segment;

use std::{
    collections::VecDeque,
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use bytes::{Buf as _, BufMut as _};

use self::{
    frame::HEADER,
    segment::{Read, Segment},
};
use super::entry::Entry;

/// Bytes of a file at which the next one is begun, and least room of a spool.
pub const SEGMENT: u64 = 1 << 20;

/// The file with the number of the first entry that is not delivered.
const POSITION: &str = "position";

/// A bounded queue on disk with one writer and one reader, who are the same.
#[derive(Debug)]
pub struct Spool {
    directory: PathBuf,
    limit: u64,
    /// From the oldest on. Only the last one is written to.
    segments: VecDeque<Segment>,
    /// Whether the last one may be written to.
    appending: bool,
    position: File,
    /// The number of the first entry that is not delivered.
    first: u64,
    /// The number that the next entry gets.
    next: u64,
    /// Lost lines that the next daemon is to tell of.
    owed: u64,
}

impl Spool {
    /// Opens the spool in `directory`, which is made where it is missing, with room for `limit` bytes. What comes
    /// beside it is how many entries that were in it are lost.
    ///
    /// # Errors
    /// The directory can not be used.
    pub fn open(directory: &Path, limit: u64) -> anyhow::Result<(Self, u64)> {
        let told = || format!("the spool {}", directory.display());
        DirBuilder::new().recursive(true).mode(0o700).create(directory).with_context(told)?;
        let kind = fs::symlink_metadata(directory).with_context(told)?;
        if !kind.is_dir()
            || kind.uid() != rustix::process::geteuid().as_raw()
            || kind.mode() & 0o022 != 0
        {
            bail!("{} has to be a directory that nobody else owns or may write to", told());
        }
        let position = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(directory.join(POSITION))
            .with_context(told)?;
        let mut segments = segment::all(directory).with_context(told)?;
        let (first, owed) = read_position(&position).unzip();
        let oldest = segments.front().map(|segment| segment.first);
        let mut spool = Self {
            directory: directory.to_owned(),
            limit,
            first: first.or(oldest).unwrap_or(0),
            next: 0,
            owed: owed.unwrap_or(0),
            appending: false,
            position,
            segments: VecDeque::new(),
        };
        spool.next = spool.first;
        let mut lost = 0;
        if let Some(last) = segments.back_mut() {
            let (end, torn) = last.end().with_context(told)?;
            spool.next = spool.first.max(end);
            lost = u64::from(torn);
        }
        spool.segments = segments;
        lost += spool.resume().with_context(told)?;
        Ok((spool, lost))
    }

    /// Entries that wait.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.next - self.first
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of its files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.length).sum()
    }

    /// How many of `entries`, from the first on, there is room for.
    #[must_use]
    pub fn room_for(&self, entries: &[Entry]) -> usize {
        let mut left = self.limit.saturating_sub(self.bytes());
        let fits = |entry: &&Entry| match left.checked_sub(frame_size(entry)) {
            Some(rest) => {
                left = rest;
                true
            }
            None => false,
        };
        entries.iter().take_while(fits).count()
    }

    /// Puts all of `entries` in behind those that wait, and on disk.
    ///
    /// # Errors
    /// What the kernel said, and then none of them is in it.
    pub fn append(&mut self, entries: &[Entry]) -> io::Result<()> {
        let mut frames = Vec::new();
        for (number, entry) in (self.next..).zip(entries) {
            frame::put(entry, number, &mut frames);
        }
        if frames.is_empty() {
            return Ok(());
        }
        let is_full = self.segments.back().is_none_or(|last| last.length >= SEGMENT);
        if is_full || !self.appending {
            self.segments.push_back(Segment::create(&self.directory, self.next)?);
            self.appending = true;
        }
        let Some(last) = self.segments.back_mut() else { return Ok(()) };
        if let Err(error) = last.append(&frames) {
            // What it now ends with may be half an entry.
            if last.cut().is_err() {
                self.appending = false;
            }
            return Err(error);
        }
        self.next += entries.len() as u64;
        Ok(())
    }

    /// The oldest entries: at most so many, of at most so many bytes together; one at least, where there is one. What
    /// comes beside them is how many were found lost.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn peek(&mut self, most: usize, most_bytes: usize) -> io::Result<(Vec<Entry>, u64)> {
        let mut lost = 0;
        loop {
            let (mut entries, mut bytes) = (Vec::new(), 0);
            let mut number = self.first;
            let mut broken = false;
            for segment in &mut self.segments {
                let mut offset = segment.read_to;
                while entries.len() < most && number < self.next {
                    match segment.read(offset)? {
                        Read::Entry(entry, found, end) if found == number => {
                            if !entries.is_empty() && bytes + entry.size() > most_bytes {
                                return Ok((entries, lost));
                            }
                            bytes += entry.size();
                            entries.push(entry);
                            (offset, number) = (end, number + 1);
                        }
                        Read::End => break,
                        Read::Entry(..) | Read::Broken => {
                            broken = true;
                            break;
                        }
                    }
                }
                if broken || entries.len() == most {
                    break;
                }
            }
            if !entries.is_empty() || number == self.next {
                return Ok((entries, lost));
            }
            // What comes next can not be read, or is not there.
            lost += self.skip()?;
        }
    }

    /// Forgets the oldest entries, as many as were peeked at and are done with.
    ///
    /// # Errors
    /// What the kernel said: after a restart they may come again.
    pub fn forget(&mut self, entries: u64) -> io::Result<()> {
        let mut left = entries.min(self.len());
        self.first += left;
        for segment in &mut self.segments {
            while left > 0 && segment.step()? {
                left -= 1;
            }
        }
        self.settle()
    }

    /// Leaves lost lines for the next daemon to tell of.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn owe(&mut self, lines: u64) -> io::Result<()> {
        self.owed = lines;
        self.write_position()
    }

    /// Lost lines that the last daemon did not tell of; whoever takes them does.
    #[must_use]
    pub fn take_owed(&mut self) -> u64 {
        std::mem::take(&mut self.owed)
    }

    /// Goes on behind what can not be read. What comes back is how many entries are lost.
    fn skip(&mut self) -> io::Result<u64> {
        let before = self.first;
        let oldest = self.segments.front_mut();
        let readable = match oldest {
            Some(segment) => segment.next_readable(segment.read_to)?.map(|found| (segment, found)),
            None => None,
        };
        match readable {
            Some((segment, (number, offset))) if number > before && number < self.next => {
                segment.read_to = offset;
                self.first = number;
            }
            _ => {
                self.first = self.segments.get(1).map_or(self.next, |segment| segment.first);
                if let Some(oldest) = self.segments.front_mut() {
                    oldest.read_to = oldest.length;
                }
            }
        }
        self.settle()?;
        Ok(self.first.saturating_sub(before))
    }

    /// Goes on where the last daemon has stopped. What comes back is how many entries are missing.
    fn resume(&mut self) -> io::Result<u64> {
        for at in 0..self.segments.len() {
            let after = self.segments.get(at + 1).map(|segment| segment.first);
            let Some(segment) = self.segments.get_mut(at) else { break };
            if after.is_some_and(|after| after <= self.first) {
                segment.read_to = segment.length;
                continue;
            }
            let missing = segment.first.saturating_sub(self.first);
            self.first += missing;
            for _ in segment.first..self.first {
                if !segment.step()? {
                    break;
                }
            }
            self.settle()?;
            return Ok(missing);
        }
        Ok(0)
    }

    fn write_position(&self) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(20);
        bytes.put_u64_le(self.first);
        bytes.put_u64_le(self.owed);
        bytes.put_u32_le(crc32fast::hash(&bytes));
        self.position.write_all_at(&bytes, 0)
    }

    /// Writes down what is delivered, and then takes away the files of it: a file that is missing is one that was
    /// lost.
    fn settle(&mut self) -> io::Result<()> {
        self.write_position()?;
        while let Some(oldest) = self.segments.front()
            && (self.is_empty() || (self.segments.len() > 1 && oldest.read_to >= oldest.length))
        {
            fs::remove_file(&oldest.path)?;
            self.segments.pop_front();
        }
        self.appending &= !self.segments.is_empty();
        Ok(())
    }
}

fn frame_size(entry: &Entry) -> u64 {
    (HEADER + entry.line.len()) as u64
}

/// The first entry and what is owed. `None` where there is none, or it is torn.
fn read_position(file: &File) -> Option<(u64, u64)> {
    let mut bytes = [0; 20];
    file.read_exact_at(&mut bytes, 0).ok()?;
    let (mut numbers, mut checksum) = bytes.split_at(16);
    let is_whole = crc32fast::hash(numbers) == checksum.get_u32_le();
    is_whole.then(|| (numbers.get_u64_le(), numbers.get_u64_le()))
}

#[cfg(test)]
mod tests;
