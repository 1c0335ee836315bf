//! The files of a log: `audit-000001.jsonl`, `audit-000002.jsonl` and so on in a directory of its own.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use thiserror::Error;

/// A file of a log.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Segment {
    /// Its number, from 1 on.
    pub number: u64,
    /// The file.
    pub path: PathBuf,
}

/// Why the files of a log are not to be had.
#[derive(Debug, Error)]
pub enum SegmentError {
    /// The directory can not be read.
    #[error("the audit log's directory {path}: {source}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is there twice, plain and compressed.
    #[error("{0} and {1} are the same part of the log; remove the one that is not whole")]
    Twice(PathBuf, PathBuf),
}

/// The file with this number in `directory`.
#[must_use]
pub fn path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("audit-{number:06}.jsonl"))
}

fn number(name: &str) -> Option<u64> {
    let plain = name.strip_suffix(".gz").unwrap_or(name);
    plain.strip_prefix("audit-")?.strip_suffix(".jsonl")?.parse().ok()
}

/// All files of the log in `directory`, the oldest first.
///
/// # Errors
/// The directory can not be read, or a file is there twice.
pub fn all(directory: &Path) -> Result<Vec<Segment>, SegmentError> {
    let failed = |source| SegmentError::Directory { path: directory.to_owned(), source };
    let mut segments = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if let Some(number) = entry.file_name().to_str().and_then(number) {
            segments.push(Segment { number, path: entry.path() });
        }
    }
    segments.sort();
    match segments.array_windows().find(|[one, other]| one.number == other.number) {
        Some([one, other]) => Err(SegmentError::Twice(one.path.clone(), other.path.clone())),
        None => Ok(segments),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_come_by_their_numbers_and_nothing_else_is_one() {
        let directory = tempfile::tempdir().unwrap();
        for name in [
            "audit-1000000.jsonl",
            "audit-000002.jsonl",
            "audit-000001.jsonl.gz",
            "audit-x.jsonl",
            "audit.key",
        ] {
            fs::write(directory.path().join(name), "").unwrap();
        }
        let numbers: Vec<_> =
            all(directory.path()).unwrap().iter().map(|segment| segment.number).collect();
        assert_eq!(numbers, [1, 2, 1_000_000]);
        fs::write(directory.path().join("audit-000001.jsonl"), "").unwrap();
        assert!(matches!(all(directory.path()), Err(SegmentError::Twice(..))));
    }
}
