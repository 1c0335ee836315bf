//! A log for tests, with lines as the daemon makes them.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use agent_guard_common::event::Action;
use bytes::BytesMut;
use tempfile::TempDir;

use super::{Log, LogError, Report, Settings, segment, verify};
use crate::event::{
    Encoder,
    fixture::{denied, file, host},
};

pub struct Place {
    _directory: TempDir,
    pub settings: Settings,
    encoder: Encoder,
}

impl Place {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let settings = Settings {
            directory: directory.path().join("log"),
            key: directory.path().join("audit.key"),
            checkpoint_records: 4,
            checkpoint_every: Duration::from_secs(60),
            rotate_bytes: u64::MAX,
        };
        Self { _directory: directory, settings, encoder: Encoder::new(host(), 0xab) }
    }

    pub fn try_open(&self) -> Result<Log, LogError> {
        Log::open(self.settings.clone(), host(), Instant::now())
    }

    pub fn open(&self) -> Log {
        self.try_open().unwrap()
    }

    pub fn event(&mut self) -> BytesMut {
        let mut line = BytesMut::new();
        let path = b"/a,\"fingerprint\":{\"record_integrity\":{\n\xff";
        self.encoder.encode(&denied(Action::Read, file(path)), &mut line).unwrap();
        line
    }

    pub fn append(&mut self, log: &mut Log, events: usize) {
        for _ in 0..events {
            log.append(&self.event(), Instant::now()).unwrap();
        }
    }

    /// A log of so many events, ended in order.
    pub fn log(&mut self, events: usize) -> Vec<u8> {
        let mut log = self.open();
        self.append(&mut log, events);
        log.close().unwrap();
        self.bytes()
    }

    pub fn files(&self) -> Vec<PathBuf> {
        segment::all(&self.settings.directory)
            .unwrap()
            .into_iter()
            .map(|segment| segment.path)
            .collect()
    }

    /// All of its files, one behind the other.
    pub fn bytes(&self) -> Vec<u8> {
        self.files().into_iter().flat_map(|file| fs::read(file).unwrap()).collect()
    }

    pub fn verify(&self) -> Report {
        self.verify_with(verify::Known::default())
    }

    pub fn verify_with(&self, known: verify::Known) -> Report {
        let files = verify::Files::of(std::slice::from_ref(&self.settings.directory)).unwrap();
        verify::verify(&files, known).unwrap()
    }
}

pub fn last_line(file: &Path) -> Vec<u8> {
    fs::read(file).unwrap().split_inclusive(|byte| *byte == b'\n').next_back().unwrap().to_vec()
}
