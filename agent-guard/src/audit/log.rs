//! The writer of a log: one at a time, in a directory of the log's own.

mod error;
mod succession;
#[cfg(test)]
mod tests;

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use ed25519_dalek::SigningKey;
use rustix::fs::{FlockOperation, flock};

pub use self::error::{AppendError, LogError};
use self::succession::{put_in_place, signing_key};
use super::{
    checkpoint::{Checkpoint, Reason, Torn},
    format::{Chain, ChainId},
    key::{self, KeyError, PublicKey},
    recover::{Found, recover},
    segment,
};
use crate::{
    bytes::random,
    event::{Host, Sink},
};

/// What a log is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The directory that it has to itself.
    pub directory: PathBuf,
    /// The file of the key that signs it.
    pub key: PathBuf,
    /// Records after which the next checkpoint is made.
    pub checkpoint_records: u64,
    /// How long a record waits for its checkpoint.
    pub checkpoint_every: Duration,
    /// How long a file becomes before the next one begins, bytes.
    pub rotate_bytes: u64,
}

/// A log that is being written.
#[derive(Debug)]
pub struct Log {
    settings: Settings,
    host: Host,
    key: SigningKey,
    chain: Chain,
    number: u64,
    path: PathBuf,
    sink: Sink<File>,
    /// How long the file is, bytes.
    bytes: u64,
    /// Records since the last checkpoint.
    unsigned: u64,
    /// When the next checkpoint is due, where there are such records; and when a file that could not be begun
    /// is tried again.
    due: Instant,
    rotation_due: Instant,
    /// A checkpoint without which nothing else is written: the first of a file.
    owed: Option<(Reason, Option<Torn>)>,
    #[expect(dead_code, reason = "it is locked for as long as it is open")]
    lock: File,
}

impl Log {
    /// Opens the log, and goes on with what is there. Where the key is missing and nothing was signed by it,
    /// one is drawn.
    ///
    /// # Errors
    /// The log, or its key, is not to be had.
    pub fn open(settings: Settings, host: Host, now: Instant) -> Result<Self, LogError> {
        let directory = &settings.directory;
        let lock = claim(directory)?;
        let segments = segment::all(directory)?;
        let failed = |source| LogError::Read { path: directory.clone(), source };
        let (chain, expected, torn) = match recover(&segments).map_err(failed)? {
            Found::Nothing(torn) => (None, None, torn),
            Found::Chain { chain, key, torn } => (Some(*chain), Some(key), torn),
            Found::Damaged { file, why } => {
                tracing::error!(
                    "the audit log can not go on from {}: {why}. Another chain begins in another file; \
                     `agent-guard audit verify {}` says what is left",
                    file.display(),
                    directory.display()
                );
                (None, None, None)
            }
        };
        let goes_on = chain.is_some() || torn.is_some();
        let chain = match chain {
            Some(chain) => chain,
            None => Chain::new(ChainId(random().map_err(|error| LogError::Random(error.into()))?)),
        };
        let key = signing_key(&settings, expected)?;
        let last = segments.last();
        // What is compressed is not written to, nor what belongs to another chain.
        let here = last.filter(|last| {
            let plain = segment::path(directory, last.number) == last.path;
            let empty = fs::metadata(&last.path).is_ok_and(|file| file.len() == 0);
            plain && (goes_on || empty)
        });
        let next = || last.map_or(1, |last| last.number.saturating_add(1));
        let number = here.map_or_else(next, |here| here.number);
        let path = segment::path(directory, number);
        let sink = Sink::file(&path)?;
        let bytes = fs::metadata(&path).map_err(failed)?.len();
        if let Some(torn) = &torn {
            tracing::warn!(
                "{} ends within a line of {} bytes, which an earlier writer did not finish; it is fenced off",
                path.display(),
                torn.bytes
            );
        }
        let mut log = Self {
            host,
            key,
            chain,
            number,
            path,
            sink,
            bytes,
            unsigned: 0,
            due: now,
            rotation_due: now,
            owed: Some((Reason::Start, torn)),
            lock,
            settings,
        };
        match log.settle() {
            Ok(()) => log.succeed()?,
            Err(error) => log.complain(&error),
        }
        Ok(log)
    }

    /// The public half of the key that signs.
    #[must_use]
    pub fn key(&self) -> PublicKey {
        key::public_half(&self.key)
    }

    /// The file that is written.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes `event`, a line of OCSF JSON, the next record.
    ///
    /// # Errors
    /// Nothing of it was written.
    pub fn append(&mut self, event: &[u8], now: Instant) -> Result<(), AppendError> {
        self.settle()?;
        let length = u64::try_from(event.len()).unwrap_or(u64::MAX);
        let full = self.bytes.saturating_add(length) > self.settings.rotate_bytes;
        if full
            && now >= self.rotation_due
            && let Err(error) = self.rotate()
        {
            self.rotation_due = now + self.settings.checkpoint_every;
            self.complain(&error);
        }
        self.settle()?;
        let sealed = self.chain.seal(event, None)?;
        self.sink.write_line(&sealed.line)?;
        self.advance(sealed.line.len(), sealed.chain);
        if self.unsigned == 0 {
            self.due = now + self.settings.checkpoint_every;
        }
        self.unsigned += 1;
        if self.unsigned >= self.settings.checkpoint_records
            && let Err(error) = self.checkpoint(Reason::Interval, None, None)
        {
            self.complain(&error);
        }
        Ok(())
    }

    /// When [`Self::tick`] is to be called; never where everything is signed.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        (self.unsigned > 0).then_some(self.due)
    }

    /// Signs what has waited long enough.
    pub fn tick(&mut self, now: Instant) {
        if self.unsigned == 0 || now < self.due {
            return;
        }
        if let Err(error) = self.checkpoint(Reason::Interval, None, None) {
            self.due = now + self.settings.checkpoint_every;
            self.complain(&error);
        }
    }

    /// Takes up the key that waits in its place beside the old one, and begins another file where somebody
    /// has moved the one that is written.
    pub fn reopen(&mut self) {
        if let Err(error) = self.succeed() {
            tracing::error!("the audit log goes on with the key as it was: {error}");
        }
        if !self.sink.is_at(&self.path)
            && let Err(error) = self.rotate()
        {
            self.complain(&error);
        }
    }

    /// Signs the end.
    ///
    /// # Errors
    /// It could not be written: what came since the last checkpoint is not signed.
    pub fn close(&mut self) -> io::Result<()> {
        self.settle()?;
        self.checkpoint(Reason::Stop, None, None)
    }

    /// Writes the checkpoint that a file has to begin with.
    fn settle(&mut self) -> io::Result<()> {
        let Some((reason, torn)) = self.owed else { return Ok(()) };
        self.checkpoint(reason, torn, None)
    }

    fn checkpoint(
        &mut self,
        reason: Reason,
        torn: Option<Torn>,
        next_key: Option<PublicKey>,
    ) -> io::Result<()> {
        let checkpoint = Checkpoint { reason, records: self.unsigned, next_key, torn };
        let event = checkpoint.event(&self.chain, &self.path, &self.host)?;
        let sealed = self.chain.seal(&event, Some(&self.key)).map_err(io::Error::other)?;
        self.sink.write_line(&sealed.line)?;
        self.advance(sealed.line.len(), sealed.chain);
        self.unsigned = 0;
        self.owed = None;
        self.sink.complete()?;
        self.sink.sync()
    }

    fn advance(&mut self, bytes: usize, chain: Chain) {
        self.bytes = self.bytes.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
        self.chain = chain;
    }

    /// Ends the file, and begins the next.
    fn rotate(&mut self) -> io::Result<()> {
        let number = self.number.saturating_add(1);
        let path = segment::path(&self.settings.directory, number);
        let sink = Sink::file(&path).map_err(io::Error::other)?;
        if let Err(error) = self.checkpoint(Reason::Rotation, None, None) {
            // It is empty, and would be taken for one that was begun.
            let _ = fs::remove_file(&path);
            return Err(error);
        }
        (self.number, self.path, self.sink, self.bytes) = (number, path, sink, 0);
        self.owed = Some((Reason::Continued, None));
        self.settle()
    }

    /// Signs, with the key as it was, that the one that waits beside it is its successor. It signs at once too:
    /// only then does the log verify by the public half that lies beside the key.
    fn succeed(&mut self) -> Result<(), LogError> {
        let (path, waiting) = (&self.settings.key, key::beside(&self.settings.key, "next"));
        if !waiting.exists() {
            return Ok(());
        }
        let next = key::load(&waiting)?;
        let public = key::public_half(&next);
        let path = path.clone();
        self.checkpoint(Reason::Key, None, Some(public))
            .map_err(|source| KeyError::File { path: path.clone(), source })?;
        self.key = next;
        tracing::info!("the audit log is signed by {public} from here on");
        put_in_place(&path, &public)?;
        self.checkpoint(Reason::Key, None, None)
            .map_err(|source| KeyError::File { path, source })?;
        Ok(())
    }

    fn complain(&self, error: &io::Error) {
        tracing::error!("the audit log {}: {error}", self.path.display());
    }
}

/// The right to write the log in `directory`, made where it is missing.
fn claim(directory: &Path) -> Result<File, LogError> {
    let failed = |source| LogError::Directory { path: directory.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
    let lock = File::open(directory).map_err(failed)?;
    let metadata = lock.metadata().map_err(failed)?;
    let (mode, owner) = (metadata.mode() & 0o7777, metadata.uid());
    if mode & 0o022 != 0 || owner != rustix::process::geteuid().as_raw() {
        return Err(LogError::Exposed { path: directory.to_owned(), mode, owner });
    }
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(LogError::Busy(directory.to_owned())),
        Err(error) => Err(failed(error.into())),
    }
}
