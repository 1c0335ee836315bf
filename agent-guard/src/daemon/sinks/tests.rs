//! A whole sink, from records to a socket.

use std::{
    io::{BufRead as _, BufReader},
    os::unix::net::UnixListener,
    path::PathBuf,
};

use agent_guard_common::event::Action;
use serde_json::Value;
use tempfile::TempDir;

use super::{
    config::To,
    filter::Filter,
    unix::{Kind, UnixConfig},
    *,
};
use crate::event::fixture::{denied, file};

/// To a socket that nobody listens on yet, without a spool.
fn config(dir: &TempDir) -> (SinkConfig, PathBuf) {
    let path = dir.path().join("socket");
    let config = SinkConfig {
        name: "test".to_owned(),
        filter: Filter::default(),
        encoding: Encoding::default(),
        queue_bytes: 64 << 10,
        spool_bytes: 0,
        to: To::Unix(UnixConfig { path: path.clone(), socket: Kind::Stream }),
    };
    (config, path)
}

fn open(config: &SinkConfig, dir: &TempDir, ledger: &File) -> Sink {
    let (alive, _) = mpsc::channel();
    Sink::open(config, dir.path(), ledger, alive).unwrap()
}

/// Reads from the socket until so many events came, or were told of as lost.
fn read(path: &Path, events: u64) -> (u64, u64) {
    let (listener, mut whole, mut lost) = (UnixListener::bind(path).unwrap(), 0, 0);
    for stream in listener.incoming() {
        for line in BufReader::new(stream.unwrap()).lines() {
            let event: Value = serde_json::from_str(&line.unwrap()).unwrap();
            match event["unmapped"]["agent_guard"]["losses"]["unwritten"].as_u64() {
                Some(unwritten) => lost += unwritten,
                None => whole += 1,
            }
            if whole + lost >= events {
                return (whole, lost);
            }
        }
    }
    (whole, lost)
}

/// Tells of losses, as the daemon does from time to time, until all is read.
fn told(mut sink: Sink, path: PathBuf, events: u64) -> (u64, u64) {
    sink.queue.reopen();
    let reader = thread::spawn(move || read(&path, events));
    while !reader.is_finished() {
        sink.queue.reopen();
        sink.tell_losses();
        thread::sleep(Duration::from_millis(10));
    }
    reader.join().unwrap()
}

#[test]
fn what_came_and_what_is_told_of_as_lost_is_what_there_was() {
    let (dir, ledger) = (tempfile::tempdir().unwrap(), tempfile::tempfile().unwrap());
    let (config, path) = config(&dir);
    let mut sink = open(&config, &dir, &ledger);
    for _ in 0..500 {
        sink.take(&denied(Action::Read, file(b"/a")));
    }
    let lost = sink.view().lost;
    assert!(lost > 0 && lost < 500, "{lost}");
    assert_eq!(told(sink, path, 500), (500 - lost, lost));
}

#[test]
fn what_a_daemon_that_died_had_in_memory_is_told_by_the_next() {
    let (dir, ledger) = (tempfile::tempdir().unwrap(), tempfile::tempfile().unwrap());
    let (config, path) = config(&dir);
    let mut first = open(&config, &dir, &ledger);
    for _ in 0..500 {
        first.take(&denied(Action::Read, file(b"/a")));
    }
    // Another takes over, without an end of the first, which gets nothing delivered.
    let elsewhere = dir.path().join("elsewhere");
    let to = To::Unix(UnixConfig { path: elsewhere.clone(), socket: Kind::Stream });
    let moved = SinkConfig { to, ..config };
    let mut next = open(&moved, &dir, &ledger);
    next.take(&denied(Action::Read, file(b"/a")));
    assert!(!path.exists());
    assert_eq!(told(next, elsewhere, 501), (1, 500));
}
