//! The tamper-evident log: a directory of its own, with a chain of hashes and signed checkpoints.

use std::{path::PathBuf, time::Duration};

use bytes::Bytes;
use serde::Deserialize;
use tokio::time::Instant;

use super::{
    config::mebibytes,
    transport::{Retry, Transport, Undelivered},
};
use crate::{
    audit::{AppendError, Log, LogError, Settings},
    event::Host,
};

/// Most records between two checkpoints, and the longest time, seconds: what is not signed yet can be changed unseen.
const MOST_RECORDS: u64 = 1_000_000;
const MOST_SECONDS: u64 = 24 * 60 * 60;

/// Largest file, MiB.
const MOST_MIB: u32 = 1 << 20;

/// A tamper-evident log.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditConfig {
    /// Its directory, which it has to itself.
    pub path: PathBuf,
    /// The key that signs it, drawn where there is none.
    #[serde(default = "key")]
    pub key: PathBuf,
    /// From what size on, in MiB, another file begins. None is ever removed.
    #[serde(default = "rotate_mib")]
    pub rotate_mib: u32,
    /// Records between two checkpoints.
    #[serde(default = "checkpoint_records")]
    pub checkpoint_records: u64,
    /// Seconds that a record waits for its checkpoint.
    #[serde(default = "checkpoint_seconds")]
    pub checkpoint_seconds: u64,
}

fn key() -> PathBuf {
    "/var/lib/agent-guard/audit.key".into()
}

fn rotate_mib() -> u32 {
    64
}

fn checkpoint_records() -> u64 {
    1_000
}

fn checkpoint_seconds() -> u64 {
    60
}

impl AuditConfig {
    /// # Errors
    /// What of it can not be.
    pub fn check(&self) -> Result<(), String> {
        let bounds = [
            ("rotate_mib", u64::from(self.rotate_mib), u64::from(MOST_MIB)),
            ("checkpoint_records", self.checkpoint_records, MOST_RECORDS),
            ("checkpoint_seconds", self.checkpoint_seconds, MOST_SECONDS),
        ];
        match bounds.into_iter().find(|(_, given, most)| !(1..=*most).contains(given)) {
            Some((name, _, most)) => Err(format!("`{name}` is 1 to {most}")),
            None if self.key.starts_with(&self.path) => Err(format!(
                "the key {} lies in the log's own directory, which is copied to those who verify it; put it elsewhere",
                self.key.display()
            )),
            None => Ok(()),
        }
    }

    fn settings(&self) -> Settings {
        Settings {
            directory: self.path.clone(),
            key: self.key.clone(),
            checkpoint_records: self.checkpoint_records,
            checkpoint_every: Duration::from_secs(self.checkpoint_seconds),
            rotate_bytes: mebibytes(self.rotate_mib),
        }
    }
}

/// The log, as a far end.
pub struct AuditLog(Log);

impl AuditLog {
    /// Opens it, and goes on with what is there.
    ///
    /// # Errors
    /// See [`LogError`].
    pub fn open(config: &AuditConfig) -> Result<Self, LogError> {
        let log = Log::open(config.settings(), Host::this(), std::time::Instant::now())?;
        tracing::info!(
            "the audit log goes on in {}, signed by {}",
            log.path().display(),
            log.key()
        );
        Ok(Self(log))
    }
}

impl Transport for AuditLog {
    async fn deliver(&mut self, lines: &[Bytes]) -> Result<(), Undelivered> {
        for (delivered, line) in lines.iter().enumerate() {
            self.0.append(line, std::time::Instant::now()).map_err(|error| Undelivered {
                delivered,
                retry: match &error {
                    AppendError::Event(_) => Retry::Never(1),
                    AppendError::File(_) => Retry::Later(None),
                },
                error: error.to_string(),
            })?;
        }
        Ok(())
    }

    fn reopen(&mut self) -> Result<(), String> {
        self.0.reopen();
        Ok(())
    }

    fn due(&self) -> Option<Instant> {
        self.0.due().map(Instant::from_std)
    }

    fn tick(&mut self) {
        self.0.tick(std::time::Instant::now());
    }

    fn close(&mut self) {
        if let Err(error) = self.0.close() {
            tracing::error!(
                "the end of the audit log {} is not signed: {error}",
                self.0.path().display()
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Result<AuditConfig, String> {
        let config: AuditConfig = toml::from_str(text).map_err(|error| error.to_string())?;
        config.check().map(|()| config)
    }

    #[test]
    fn a_log_needs_a_directory_and_nothing_else() {
        let config = config("path = '/log'").unwrap();
        assert_eq!(config.key, PathBuf::from("/var/lib/agent-guard/audit.key"));
        assert_eq!((config.rotate_mib, config.checkpoint_records), (64, 1_000));
        assert_eq!(config.settings().checkpoint_every, Duration::from_secs(60));
    }

    #[test]
    fn what_can_not_be_is_refused() {
        for (text, words) in [
            ("key = '/k'", "missing field `path`"),
            ("path = '/log'\nrotate_mib = 0", "`rotate_mib` is 1 to 1048576"),
            ("path = '/log'\ncheckpoint_records = 0", "`checkpoint_records` is 1 to 1000000"),
            ("path = '/log'\ncheckpoint_records = 1000001", "`checkpoint_records` is 1 to"),
            ("path = '/log'\ncheckpoint_seconds = 86401", "`checkpoint_seconds` is 1 to 86400"),
            ("path = '/log'\nkey = '/log/audit.key'", "put it elsewhere"),
            ("path = '/log'\nkeep = 3", "unknown field `keep`"),
        ] {
            let told = config(text).unwrap_err();
            assert!(told.contains(words), "{text}: {told}");
        }
        assert!(config("path = '/log'\ncheckpoint_records = 1000000").is_ok());
    }
}
