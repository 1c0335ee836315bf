//! Lines of a file of the log, plain or compressed by gzip, one at a time.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read as _},
    path::Path,
    thread,
    time::Duration,
};

use flate2::bufread::MultiGzDecoder;

use super::format::MAX_LINE;

/// How often, and how long each time, the rest of a last line is waited for: its writer may be about to
/// write it.
const WAITS: u32 = 10;
const WAIT: Duration = Duration::from_millis(50);

/// How much is read at once.
const BUFFER: usize = 1 << 17;

/// What compressed files begin with, and how they are called.
const FORMATS: [(&[u8], &str); 4] =
    [(b"\x28\xb5\x2f\xfd", "zstd"), (b"\xfd7zXZ", "xz"), (b"BZh", "bzip2"), (b"PK\x03\x04", "zip")];

const GZIP: &[u8] = b"\x1f\x8b";

/// A line.
#[derive(Debug)]
pub enum Line<'a> {
    /// With its newline.
    Whole(&'a [u8]),
    /// The last one, which has no newline.
    Torn(&'a [u8]),
    /// Longer than a record may be; it was passed over.
    TooLong,
}

/// The lines of a file.
pub struct Lines {
    input: Box<dyn BufRead>,
    buffer: Vec<u8>,
    /// Whether more may come behind the end.
    grows: bool,
}

impl Lines {
    /// Of the file at `path`; `-` is standard input.
    ///
    /// # Errors
    /// It can not be opened, or is compressed otherwise.
    pub fn open(path: &Path) -> io::Result<Self> {
        if path == Path::new("-") {
            return Ok(Self::new(Box::new(io::stdin().lock())));
        }
        let file = File::open(path)?;
        let grows = file.metadata()?.is_file();
        let mut file = BufReader::with_capacity(BUFFER, file);
        let start = file.fill_buf()?;
        if start.starts_with(GZIP) {
            let decoder = MultiGzDecoder::new(file);
            return Ok(Self::new(Box::new(BufReader::with_capacity(BUFFER, decoder))));
        }
        if let Some((_, name)) = FORMATS.iter().find(|(magic, _)| start.starts_with(magic)) {
            let advice = format!(
                "compressed by {name}; only gzip is read: decompress it, or pipe it to `-`"
            );
            return Err(io::Error::other(advice));
        }
        Ok(Self { grows, ..Self::new(Box::new(file)) })
    }

    /// Of these bytes.
    #[must_use]
    pub fn new(input: Box<dyn BufRead>) -> Self {
        Self { input, buffer: Vec::new(), grows: false }
    }

    /// The next line.
    ///
    /// # Errors
    /// What the system said, or that what is compressed is damaged.
    pub fn read_line(&mut self) -> io::Result<Option<Line<'_>>> {
        self.buffer.clear();
        let mut waits = if self.grows { WAITS } else { 0 };
        loop {
            let room = (MAX_LINE + 1).saturating_sub(self.buffer.len());
            (&mut self.input).take(room as u64).read_until(b'\n', &mut self.buffer)?;
            if self.buffer.is_empty() {
                return Ok(None);
            }
            if self.buffer.ends_with(b"\n") && self.buffer.len() <= MAX_LINE {
                return Ok(Some(Line::Whole(&self.buffer)));
            }
            if self.buffer.len() > MAX_LINE {
                if !self.buffer.ends_with(b"\n") {
                    self.input.skip_until(b'\n')?;
                }
                return Ok(Some(Line::TooLong));
            }
            if waits == 0 {
                return Ok(Some(Line::Torn(&self.buffer)));
            }
            waits -= 1;
            thread::sleep(WAIT);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn lengths(bytes: Vec<u8>) -> Vec<(char, usize)> {
        let mut lines = Lines::new(Box::new(io::Cursor::new(bytes)));
        let mut found = Vec::new();
        while let Some(line) = lines.read_line().unwrap() {
            found.push(match line {
                Line::Whole(line) => ('w', line.len()),
                Line::Torn(line) => ('t', line.len()),
                Line::TooLong => ('l', 0),
            });
        }
        found
    }

    #[test]
    fn a_line_is_as_long_as_it_may_be_and_no_longer() {
        let line = |length: usize| [vec![b'x'; length - 1], vec![b'\n']].concat();
        let whole = lengths([line(MAX_LINE), line(2)].concat());
        assert_eq!(whole, [('w', MAX_LINE), ('w', 2)]);
        for length in [MAX_LINE + 1, MAX_LINE + 2, 3 * MAX_LINE] {
            assert_eq!(lengths([line(length), line(2)].concat()), [('l', 0), ('w', 2)]);
        }
        assert_eq!(lengths(b"a\nb".to_vec()), [('w', 2), ('t', 1)]);
        assert_eq!(lengths(vec![b'x'; MAX_LINE + 5]), [('l', 0)]);
        assert_eq!(lengths(Vec::new()), []);
    }

    #[test]
    fn what_is_compressed_otherwise_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        File::create(&path).unwrap().write_all(b"\x28\xb5\x2f\xfd....").unwrap();
        let Err(error) = Lines::open(&path) else { panic!("zstd was read") };
        assert!(error.to_string().contains("zstd"), "{error}");
    }
}
