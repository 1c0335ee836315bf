//! What can stand in the way of a log.

use std::{io, path::PathBuf};

use thiserror::Error;

use crate::{
    audit::{
        format::NotAnEvent,
        key::{KeyError, PublicKey},
        segment::SegmentError,
    },
    event::OpenError,
};

/// Why a log can not be written.
#[derive(Debug, Error)]
pub enum LogError {
    /// Its directory is not to be had.
    #[error("the audit log's directory {path}: {source}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others may put files into it.
    #[error(
        "others than its writer may change the audit log's directory {path} (mode {mode:o}, owner \
         {owner}); `chmod 700` and `chown` it"
    )]
    Exposed {
        /// The directory.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
        /// The id of its owner.
        owner: u32,
    },
    /// Another process writes it.
    #[error(
        "another process writes the audit log in {0}, and a chain has one writer; give each its own directory"
    )]
    Busy(PathBuf),
    /// Its files are not to be had.
    #[error(transparent)]
    Segments(#[from] SegmentError),
    /// What is there can not be read.
    #[error("the audit log in {path} can not be read: {source}")]
    Read {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Its file can not be written.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Its key is not to be had.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The key is gone.
    #[error(
        "the audit key {path} is missing, and the log in {log} is signed by {expected}. Put that key \
         back; or, where it is lost, move the log away, and another chain begins"
    )]
    KeyMissing {
        /// Where it should be.
        path: PathBuf,
        /// The log's directory.
        log: PathBuf,
        /// The key's public half.
        expected: Box<PublicKey>,
    },
    /// The key is another one.
    #[error(
        "the audit key {path} is {found}, but the log in {log} goes on with {expected}. Put that key \
         back, and the new one to {path}.next: then the old one signs that the new one is its successor"
    )]
    WrongKey {
        /// Its file.
        path: PathBuf,
        /// The log's directory.
        log: PathBuf,
        /// The key's public half.
        found: Box<PublicKey>,
        /// That of the key that is due.
        expected: Box<PublicKey>,
    },
    /// Nothing random is to be had.
    #[error("naming a chain: {0}")]
    Random(io::Error),
}

/// Why an event was not written.
#[derive(Debug, Error)]
pub enum AppendError {
    /// It is none, and never will be.
    #[error(transparent)]
    Event(#[from] NotAnEvent),
    /// The file could not be written; it may be later.
    #[error(transparent)]
    File(#[from] io::Error),
}
