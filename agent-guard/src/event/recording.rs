//! A file of event lines, read again.

use std::io::{self, BufRead, Read as _};

use super::{DecodeError, Record, decode};

/// Longest line that is read, bytes. An event is longest where a path of 4,096 bytes and the name at its end are
/// escaped throughout, at five bytes for each in JSON: some 25 KiB. The rest is room for what others add.
pub const MAX_LINE: usize = 1 << 18;

/// Reads lines, and counts those that hold no record.
#[derive(Debug)]
pub struct Recording<R> {
    source: R,
    line: Vec<u8>,
    skipped: Skipped,
}

/// A line and what it says.
#[derive(Debug)]
pub struct Entry<'a> {
    /// As it stands in the file, with its newline where it has one.
    pub line: &'a [u8],
    /// The event.
    pub record: Record,
}

/// How many lines held no record, and why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// No JSON, or no event.
    pub malformed: u64,
    /// Events of others.
    pub foreign: u64,
    /// Events of this guard with something that this version does not know.
    pub unknown: u64,
    /// Longer than [`MAX_LINE`].
    pub too_long: u64,
}

impl Skipped {
    /// Counts a line that is no record.
    pub fn count(&mut self, why: &DecodeError) {
        match why {
            DecodeError::Json(_) => self.malformed += 1,
            DecodeError::Foreign => self.foreign += 1,
            DecodeError::Unknown(_) => self.unknown += 1,
        }
    }

    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.malformed + self.foreign + self.unknown + self.too_long
    }
}

impl std::ops::AddAssign for Skipped {
    fn add_assign(&mut self, other: Self) {
        self.malformed += other.malformed;
        self.foreign += other.foreign;
        self.unknown += other.unknown;
        self.too_long += other.too_long;
    }
}

impl std::fmt::Display for Skipped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kinds = [
            (self.malformed, "no event"),
            (self.foreign, "of others"),
            (self.unknown, "of another version"),
            (self.too_long, "too long"),
        ];
        write!(f, "{} line(s) were passed over:", self.total())?;
        let told = kinds.iter().filter(|(count, _)| *count > 0);
        for (number, (count, what)) in told.enumerate() {
            write!(f, "{} {count} {what}", if number > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

impl<R: BufRead> Recording<R> {
    /// Lines of `source`.
    pub fn new(source: R) -> Self {
        Self { source, line: Vec::new(), skipped: Skipped::default() }
    }

    /// The next event; `None` at the end.
    ///
    /// # Errors
    /// What the system said.
    pub fn next_entry(&mut self) -> io::Result<Option<Entry<'_>>> {
        let record = loop {
            match self.read_line()? {
                Read::End => return Ok(None),
                Read::TooLong => self.skipped.too_long += 1,
                Read::Line if self.line.trim_ascii().is_empty() => {}
                Read::Line => match decode(&self.line) {
                    Ok(record) => break record,
                    Err(error) => self.skipped.count(&error),
                },
            }
        };
        Ok(Some(Entry { line: &self.line, record }))
    }

    /// The lines so far that held no record.
    pub fn skipped(&self) -> Skipped {
        self.skipped
    }

    fn read_line(&mut self) -> io::Result<Read> {
        self.line.clear();
        let limit = MAX_LINE as u64 + 1;
        if (&mut self.source).take(limit).read_until(b'\n', &mut self.line)? == 0 {
            return Ok(Read::End);
        }
        if self.line.len() <= MAX_LINE {
            return Ok(Read::Line);
        }
        while self.line.last() != Some(&b'\n') {
            self.line.clear();
            if (&mut self.source).take(limit).read_until(b'\n', &mut self.line)? == 0 {
                break;
            }
        }
        Ok(Read::TooLong)
    }
}

/// What came of reading a line.
enum Read {
    Line,
    TooLong,
    End,
}

#[cfg(test)]
mod tests {
    use agent_guard_common::event::Action;
    use bytes::BytesMut;

    use super::*;
    use crate::event::{
        Encoder,
        fixture::{denied, file, host},
    };

    fn event() -> Vec<u8> {
        let mut line = BytesMut::new();
        let record = denied(Action::Read, file(b"/a"));
        Encoder::new(host(), 1).encode(&record, &mut line).unwrap();
        line.to_vec()
    }

    fn count(bytes: &[u8]) -> (usize, Skipped) {
        let mut recording = Recording::new(bytes);
        let mut events = 0;
        while recording.next_entry().unwrap().is_some() {
            events += 1;
        }
        (events, recording.skipped())
    }

    #[test]
    fn lines_that_hold_no_event_are_counted_and_the_rest_is_read() {
        let other: &[u8] = b"{\"time\":1,\"class_uid\":1001,\"activity_id\":1,\"unmapped\":{}}\n";
        let lines = [b"nonsense\n", other, b"\n", &event(), b"{\"cut", b"\n", &event()].concat();
        let skipped = Skipped { malformed: 2, foreign: 1, ..Skipped::default() };
        assert_eq!(count(&lines), (2, skipped));
        let told = "3 line(s) were passed over: 2 no event, 1 of others";
        assert_eq!(skipped.to_string(), told);
    }

    #[test]
    fn a_line_is_read_up_to_the_bound_and_no_further() {
        let mut longest = event();
        longest.pop();
        longest.resize(MAX_LINE - 1, b' ');
        longest.push(b'\n');
        assert_eq!(count(&longest), (1, Skipped::default()));
        longest.insert(0, b' ');
        let lines = [longest, event()].concat();
        assert_eq!(count(&lines), (1, Skipped { too_long: 1, ..Skipped::default() }));
        let endless = vec![b'x'; 3 * MAX_LINE];
        assert_eq!(count(&endless), (0, Skipped { too_long: 1, ..Skipped::default() }));
    }
}
