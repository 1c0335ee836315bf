//! Where lines go. A line goes out whole or, when that fails half-way, is completed before the next.

use std::{
    fs::{self, File, Metadata},
    io::{self, ErrorKind, Read, Seek, SeekFrom, Write},
    os::{fd::AsFd, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::{FileType, Mode, OFlags, fstat, open};
use thiserror::Error;

/// Writes whole lines and never half of one twice.
#[derive(Debug)]
pub struct Sink<W> {
    out: W,
    /// The end of a line that went out only in part.
    rest: Vec<u8>,
}

/// Why a file can not take events.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The kernel said no.
    #[error(
        "cannot open {path:?} for events: {source}; name a regular file that can be written, or `-` for stdout"
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A symbolic link may lead where an agent wants it to.
    #[error(
        "{path:?} is a symbolic link, which events are not written through; name the file itself"
    )]
    Symlink {
        /// The link.
        path: PathBuf,
    },
    /// A FIFO or socket: a reader that stops would stop the guard's reading of events.
    #[error(
        "{path:?} is neither a regular file nor a character device; to feed a pipe, use `-` and stdout"
    )]
    Kind {
        /// The file.
        path: PathBuf,
    },
}

impl Sink<File> {
    /// Opens `path` for appending, made with mode 0600 where it does not exist. What an earlier run
    /// left as half a line is ended first.
    ///
    /// # Errors
    /// [`OpenError`] where it is a link, no file, or can not be written.
    pub fn file(path: &Path) -> Result<Self, OpenError> {
        let failed = |source| OpenError::Open { path: path.to_owned(), source };
        let flags = OFlags::RDWR
            | OFlags::APPEND
            | OFlags::CREATE
            | OFlags::NOFOLLOW
            | OFlags::CLOEXEC
            | OFlags::NOCTTY;
        let fd = open(path, flags, Mode::RUSR | Mode::WUSR).map_err(|error| {
            if error == rustix::io::Errno::LOOP {
                OpenError::Symlink { path: path.to_owned() }
            } else {
                failed(error.into())
            }
        })?;
        let kind = fstat(&fd).map_err(|error| failed(error.into()))?.st_mode;
        let mut file = File::from(fd);
        let rest = match FileType::from_raw_mode(kind) {
            FileType::RegularFile if ends_within_a_line(&mut file).map_err(failed)? => vec![b'\n'],
            FileType::RegularFile | FileType::CharacterDevice => Vec::new(),
            _ => return Err(OpenError::Kind { path: path.to_owned() }),
        };
        Ok(Self { out: file, rest })
    }

    /// Standard output, without the buffer that `std` puts before it.
    ///
    /// # Errors
    /// Where there is none, or no descriptor is left for it.
    pub fn stdout() -> io::Result<Self> {
        Ok(Self::new(io::stdout().as_fd().try_clone_to_owned()?.into()))
    }
}

impl Sink<File> {
    /// Waits until what was written is on disk.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn sync(&self) -> io::Result<()> {
        self.out.sync_data()
    }

    /// Whether `path` still names the file that is written.
    #[must_use]
    pub fn is_at(&self, path: &Path) -> bool {
        let id = |metadata: Metadata| (metadata.dev(), metadata.ino());
        match (self.out.metadata(), fs::symlink_metadata(path)) {
            (Ok(own), Ok(there)) => id(own) == id(there),
            _ => false,
        }
    }
}

fn ends_within_a_line(file: &mut File) -> io::Result<bool> {
    if file.seek(SeekFrom::End(0))? == 0 {
        return Ok(false);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}

impl<W: Write> Sink<W> {
    /// Lines to `out`, which should not buffer.
    pub fn new(out: W) -> Self {
        Self { out, rest: Vec::new() }
    }

    /// Writes `line`, which ends with a newline, by one `write` where the kernel takes it whole.
    ///
    /// # Errors
    /// What the kernel said, where nothing of `line` was written: it is lost. A line of which a part
    /// was written counts as written; its rest goes out before the next one.
    pub fn write_line(&mut self, line: &[u8]) -> io::Result<()> {
        self.complete()?;
        match write_some(&mut self.out, line)? {
            written if written == line.len() => Ok(()),
            written => {
                self.rest.extend_from_slice(line.get(written..).unwrap_or_default());
                // A failure here comes up again, and is accounted for, with the next line.
                let _ = self.complete();
                Ok(())
            }
        }
    }

    /// Writes what is left of a line that went out in part.
    ///
    /// # Errors
    /// What the kernel said, where it is still not whole.
    pub fn complete(&mut self) -> io::Result<()> {
        while !self.rest.is_empty() {
            let written = write_some(&mut self.out, &self.rest)?;
            self.rest.drain(..written.min(self.rest.len()));
        }
        Ok(())
    }
}

/// One `write`, of at least one byte.
fn write_some(out: &mut impl Write, bytes: &[u8]) -> io::Result<usize> {
    loop {
        match out.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => return Ok(written),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::{collections::VecDeque, os::unix::fs::PermissionsExt};

    use super::*;

    /// Takes what it is told to: so many bytes, or an error.
    #[derive(Default)]
    pub struct Script {
        pub steps: VecDeque<Result<usize, ErrorKind>>,
        pub taken: Vec<u8>,
        pub writes: usize,
    }

    impl Script {
        pub fn of(steps: impl IntoIterator<Item = Result<usize, ErrorKind>>) -> Self {
            Self { steps: steps.into_iter().collect(), ..Self::default() }
        }
    }

    impl Write for Script {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.writes += 1;
            let taken = self.steps.pop_front().unwrap_or(Ok(usize::MAX))?.min(bytes.len());
            self.taken.extend_from_slice(&bytes[..taken]);
            Ok(taken)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_is_one_write() {
        let mut sink = Sink::new(Script::default());
        sink.write_line(b"one\n").unwrap();
        sink.write_line(b"two\n").unwrap();
        assert_eq!((sink.out.taken.as_slice(), sink.out.writes), (&b"one\ntwo\n"[..], 2));
    }

    #[test]
    fn an_interrupted_write_is_tried_again() {
        let mut sink = Sink::new(Script::of([Err(ErrorKind::Interrupted)]));
        sink.write_line(b"one\n").unwrap();
        assert_eq!(sink.out.taken, b"one\n");
    }

    #[test]
    fn a_line_taken_in_part_is_completed_at_once() {
        let mut sink = Sink::new(Script::of([Ok(1), Ok(2)]));
        sink.write_line(b"one\n").unwrap();
        assert_eq!(sink.out.taken, b"one\n");
    }

    #[test]
    fn a_line_cut_by_a_full_disk_is_completed_before_the_next() {
        let full = Err(ErrorKind::StorageFull);
        let mut sink = Sink::new(Script::of([Ok(2), full, full]));
        sink.write_line(b"one\n").unwrap();
        sink.write_line(b"lost\n").unwrap_err();
        assert_eq!(sink.out.taken, b"on");
        sink.write_line(b"two\n").unwrap();
        assert_eq!(sink.out.taken, b"one\ntwo\n");
    }

    #[test]
    fn a_full_disk_is_an_error_and_not_an_end() {
        let mut sink = Sink::file(Path::new("/dev/full")).unwrap();
        for _ in 0..2 {
            let error = sink.write_line(b"one\n").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::StorageFull);
        }
    }

    #[test]
    fn a_new_file_is_for_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        Sink::file(&path).unwrap().write_line(b"one\n").unwrap();
        Sink::file(&path).unwrap().write_line(b"two\n").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"one\ntwo\n");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn half_a_line_of_an_earlier_run_is_ended_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        std::fs::write(&path, "{\"cut").unwrap();
        Sink::file(&path).unwrap().write_line(b"{}\n").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"{\"cut\n{}\n");
    }

    #[test]
    fn links_directories_and_pipes_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (link, fifo) = (dir.path().join("link"), dir.path().join("fifo"));
        std::os::unix::fs::symlink("target", &link).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
            .unwrap();
        assert!(matches!(Sink::file(&link).unwrap_err(), OpenError::Symlink { .. }));
        assert!(matches!(Sink::file(&fifo).unwrap_err(), OpenError::Kind { .. }));
        assert!(matches!(Sink::file(dir.path()).unwrap_err(), OpenError::Open { .. }));
        assert!(!dir.path().join("target").exists());
    }
}
