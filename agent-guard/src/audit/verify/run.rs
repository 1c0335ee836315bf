//! Verification of files.

use std::path::{Path, PathBuf};

use thiserror::Error;

use super::{Known, Report, Verifier};
use crate::{
    audit::{
        lines::Lines,
        segment::{self, SegmentError},
    },
    event::SafeText,
};

/// Why files can not be verified.
#[derive(Debug, Error)]
pub enum FilesError {
    /// The directory is not to be had.
    #[error(transparent)]
    Segments(#[from] SegmentError),
    /// The directory holds no log.
    #[error("{0} holds no audit log: no file in it is called audit-000001.jsonl or alike")]
    Empty(PathBuf),
    /// A file can not be opened.
    #[error("cannot read {path}: {source}")]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// The files of a log, the oldest first.
#[derive(Debug)]
pub struct Files(pub(in crate::audit) Vec<PathBuf>);

impl Files {
    /// Those that are named, in that order; in place of a directory the files of the log in it.
    ///
    /// # Errors
    /// A directory is not to be had, or holds no log.
    pub fn of(given: &[PathBuf]) -> Result<Self, FilesError> {
        let mut files = Vec::new();
        for path in given {
            if !path.is_dir() {
                files.push(path.clone());
                continue;
            }
            let found = segment::all(path)?;
            if found.is_empty() {
                return Err(FilesError::Empty(path.clone()));
            }
            files.extend(found.into_iter().map(|segment| segment.path));
        }
        Ok(Self(files))
    }
}

/// Verifies the log in these files.
///
/// # Errors
/// A file can not be opened. One that can not be read on is a finding.
pub fn verify(files: &Files, known: Known) -> Result<Report, FilesError> {
    let mut verifier = Verifier::new(known);
    for path in &files.0 {
        let failed = |source| FilesError::Open { path: path.clone(), source };
        let mut lines = Lines::open(path).map_err(failed)?;
        verifier.file(shown(path));
        loop {
            match lines.read_line() {
                Ok(Some(line)) => verifier.line(&line),
                Ok(None) => break,
                Err(error) => {
                    verifier.unreadable(&error.to_string());
                    break;
                }
            }
        }
    }
    Ok(verifier.finish())
}

fn shown(path: &Path) -> String {
    SafeText::new(path.as_os_str().as_encoded_bytes()).to_string()
}
