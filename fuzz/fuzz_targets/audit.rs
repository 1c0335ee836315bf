//! Any bytes are a log or are not: nothing panics, and what is not as it was written is told.
//!
//! Beside the bytes themselves a log is verified that was written in order, with these bytes put into it: the
//! first byte says where, the second how many of its own they take the place of.
#![no_main]

use std::{io::Cursor, sync::LazyLock, time::Duration, time::Instant};

use agent_guard::{
    audit::{
        Lines, Log, Settings,
        verify::{Kept, Known, Report, Verifier},
    },
    event::Host,
};
use libfuzzer_sys::fuzz_target;

const EVENT: &[u8] =
    b"{\"type_uid\":100102,\"metadata\":{\"uid\":\"r-1\"},\"unmapped\":{\"agent_guard\":{\"a\":{}}}}\n";

/// A log of a few records, made anew at each start.
static LOG: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let directory = std::env::temp_dir().join(format!("agent-guard-fuzz-{}", std::process::id()));
    let settings = Settings {
        directory: directory.join("log"),
        key: directory.join("key"),
        checkpoint_records: 3,
        checkpoint_every: Duration::from_secs(3600),
        rotate_bytes: u64::MAX,
    };
    let host = Host { name: "fuzz".to_owned(), kernel: "6.12.0".to_owned() };
    let mut log = Log::open(settings, host, Instant::now()).unwrap();
    for _ in 0..8 {
        log.append(EVENT, Instant::now()).unwrap();
    }
    log.close().unwrap();
    let bytes = std::fs::read(log.path()).unwrap();
    std::fs::remove_dir_all(directory).unwrap();
    bytes
});

fn verify(log: &[u8], known: Known) -> Report {
    let mut verifier = Verifier::new(known);
    verifier.file("fuzz".to_owned());
    let mut lines = Lines::new(Box::new(Cursor::new(log.to_vec())));
    while let Some(line) = lines.read_line().unwrap() {
        verifier.line(&line);
    }
    let report = verifier.finish();
    assert_eq!(report.intact, report.findings.is_empty());
    assert!(report.findings.iter().all(|finding| !finding.text.is_empty()));
    report
}

fuzz_target!(|bytes: &[u8]| {
    // Nobody has the key: what was not written in order is not intact. An empty log is none.
    let alone = verify(bytes, Known::default());
    assert!(!alone.trusted);
    let _ = Kept::read(bytes);

    let [at, over, rest @ ..] = bytes else { return };
    let log = &*LOG;
    let last = log.split_inclusive(|byte| *byte == b'\n').next_back().unwrap();
    let at = log.len() * usize::from(*at) / 256;
    let end = (at + usize::from(*over)).min(log.len());
    let changed = [&log[..at], rest, &log[end..]].concat();
    let known = Known { expected: vec![Kept::read(last).unwrap()], ..Known::default() };
    let report = verify(&changed, known);
    assert_eq!(report.intact, changed == *log, "{:?}", report.findings);
});
