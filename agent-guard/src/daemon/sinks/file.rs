//! Files, and standard output.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use serde::Deserialize;

use super::{
    config::mebibytes,
    transport::{Transport, Undelivered},
};
use crate::event::{OpenError, Sink};

/// Old files that are kept unless the configuration says otherwise.
const KEEP: u32 = 5;

/// Most old files that can be kept: each rotation renames all of them.
const MOST_KEPT: u32 = 1_000;

/// A file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileConfig {
    /// Its path.
    pub path: PathBuf,
    /// From what size on, in MiB, it becomes an old one; 0: never.
    #[serde(default)]
    pub rotate_mib: u32,
    /// How many old ones are kept, as `PATH.1`, the newest, and so on.
    #[serde(default = "keep")]
    pub keep: u32,
}

fn keep() -> u32 {
    KEEP
}

impl FileConfig {
    /// # Errors
    /// What of it can not be.
    pub fn check(&self) -> Result<(), String> {
        match self.keep {
            0 | MOST_KEPT.. => Err(format!("`keep` is 1 to {}", MOST_KEPT - 1)),
            _ => Ok(()),
        }
    }
}

/// A file that becomes an old one when it has grown, and is opened anew when somebody else has moved it.
pub struct RotatedFile {
    path: PathBuf,
    limit: Option<u64>,
    keep: u32,
    sink: Sink<File>,
    size: u64,
}

impl RotatedFile {
    /// Opens it, with mode 0600 where it is made.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(config: &FileConfig) -> Result<Self, OpenError> {
        let FileConfig { path, rotate_mib, keep } = config;
        let (sink, size) = open(path)?;
        let limit = (*rotate_mib > 0).then(|| mebibytes(*rotate_mib));
        Ok(Self { path: path.clone(), limit, keep: *keep, sink, size })
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let length = line.len() as u64;
        // An empty file stays, however long the line.
        if self.size > 0
            && self.limit.is_some_and(|limit| self.size + length > limit)
            && let Err(error) = self.rotate()
        {
            let path = self.path.display();
            tracing::error!(
                "{path} has grown and can not be made an old one: {error}; it grows on"
            );
            // Tried again when it has grown by as much once more.
            self.size = 0;
        }
        self.sink.write_line(line)?;
        self.size += length;
        Ok(())
    }

    /// Makes the file `PATH.1`, and those before it one older each.
    fn rotate(&mut self) -> io::Result<()> {
        self.sink.complete()?;
        for number in (1..self.keep).rev() {
            rename(&old(&self.path, number), &old(&self.path, number + 1))?;
        }
        rename(&self.path, &old(&self.path, 1))?;
        let (sink, size) = open(&self.path).map_err(io::Error::other)?;
        (self.sink, self.size) = (sink, size);
        Ok(())
    }
}

fn open(path: &Path) -> Result<(Sink<File>, u64), OpenError> {
    let sink = Sink::file(path)?;
    let failed = |source| OpenError::Open { path: path.to_owned(), source };
    let size = fs::metadata(path).map_err(failed)?.len();
    Ok((sink, size))
}

fn old(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

/// What is not there need not be renamed.
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        renamed => renamed,
    }
}

impl Transport for RotatedFile {
    async fn deliver(&mut self, lines: &[Bytes]) -> Result<(), Undelivered> {
        write_all(lines, |line| self.write(line))
    }

    fn reopen(&mut self) -> Result<(), String> {
        // The rest of a line that went out in part belongs into the file as it was, which may be the one that is
        // opened. Where that fails the line stays torn, and counts as written.
        let _ = self.sink.complete();
        let (sink, size) = open(&self.path).map_err(|error| error.to_string())?;
        (self.sink, self.size) = (sink, size);
        Ok(())
    }
}

/// Standard output.
pub struct Stdout(Sink<File>);

impl Stdout {
    /// Takes it as it is.
    ///
    /// # Errors
    /// There is none.
    pub fn open() -> io::Result<Self> {
        Sink::stdout().map(Self)
    }
}

impl Transport for Stdout {
    async fn deliver(&mut self, lines: &[Bytes]) -> Result<(), Undelivered> {
        write_all(lines, |line| self.0.write_line(line))
    }

    fn reopen(&mut self) -> Result<(), String> {
        Ok(())
    }
}

fn write_all(
    lines: &[Bytes],
    mut write: impl FnMut(&[u8]) -> io::Result<()>,
) -> Result<(), Undelivered> {
    for (delivered, line) in lines.iter().enumerate() {
        write(line).map_err(|error| Undelivered { delivered, ..Undelivered::later(error) })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn small(path: PathBuf, limit: u64, keep: u32) -> RotatedFile {
        let file = RotatedFile::open(&FileConfig { path, rotate_mib: 0, keep }).unwrap();
        RotatedFile { limit: Some(limit), ..file }
    }

    #[test]
    fn a_file_that_has_grown_becomes_an_old_one_and_the_oldest_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        let mut file = small(path.clone(), 8, 2);
        for line in ["1234\n", "12\n", "3\n", "a long line\n", "4\n"] {
            file.write(line.as_bytes()).unwrap();
        }
        let read = |path: PathBuf| fs::read_to_string(path).unwrap();
        assert_eq!(read(path.clone()), "4\n");
        assert_eq!(
            (read(old(&path, 1)), read(old(&path, 2))),
            ("a long line\n".into(), "3\n".into())
        );
        assert!(!old(&path, 3).exists());
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn the_size_of_an_earlier_run_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        fs::write(&path, "1234567\n").unwrap();
        small(path.clone(), 8, 1).write(b"8\n").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"8\n");
        assert_eq!(fs::read(old(&path, 1)).unwrap(), b"1234567\n");
    }

    #[test]
    fn what_somebody_has_moved_is_written_to_until_it_is_opened_anew() {
        let dir = tempfile::tempdir().unwrap();
        let (path, moved) = (dir.path().join("events.jsonl"), dir.path().join("moved"));
        let mut file = small(path.clone(), 1 << 20, 1);
        file.write(b"1\n").unwrap();
        fs::rename(&path, &moved).unwrap();
        file.write(b"2\n").unwrap();
        file.reopen().unwrap();
        file.write(b"3\n").unwrap();
        assert_eq!(
            (fs::read(&moved).unwrap(), fs::read(&path).unwrap()),
            (b"1\n2\n".into(), b"3\n".into())
        );

        // Where nobody has moved it, what is left of a line comes before the next.
        file.reopen().unwrap();
        file.write(b"3b\n").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"3\n3b\n");

        fs::rename(&path, &moved).unwrap();
        std::os::unix::fs::symlink("elsewhere", &path).unwrap();
        assert!(file.reopen().unwrap_err().contains("symbolic link"));
        file.write(b"4\n").unwrap();
        assert_eq!(fs::read(&moved).unwrap(), b"3\n3b\n4\n");
    }
}
