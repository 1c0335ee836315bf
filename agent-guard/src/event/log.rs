//! The JSON log: every record a line, and every line that could not be written accounted for.

use std::{
    fmt,
    fs::File,
    io::{self, Write},
    path::Path,
    time::{Duration, Instant},
};

use bytes::BytesMut;

use super::{Body, Encoder, Losses, Notice, OpenError, Record, Sink};

/// How often a log that keeps failing says so.
const REMIND: Duration = Duration::from_secs(60);

/// Encodes records and writes them. A failure never stops the caller: it is counted, reported at
/// once and then every minute, and followed by an [`Notice::EventsLost`] as soon as writing works.
#[derive(Debug)]
pub struct EventLog<W> {
    encoder: Encoder,
    sink: Sink<W>,
    line: BytesMut,
    /// Lines lost since the last notice.
    lost: u64,
    reported: Option<Instant>,
}

/// The log can not be written: to be shown to the user.
#[derive(Debug)]
pub struct Fault {
    /// What the kernel said.
    pub error: io::Error,
    /// Lines lost so far.
    pub lost: u64,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { error, lost } = self;
        write!(
            f,
            "cannot write events: {error}; lost so far: {lost}. Enforcement goes on; the log tells \
             of the loss once it can be written again"
        )
    }
}

impl EventLog<File> {
    /// A log of this host's events in the file at `path`; `-` is standard output.
    ///
    /// # Errors
    /// It can not be opened.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let failed = |source| OpenError::Open { path: path.to_owned(), source };
        let sink = match path == Path::new("-") {
            true => Sink::stdout().map_err(failed)?,
            false => Sink::file(path)?,
        };
        Ok(Self::new(Encoder::of_this_host().map_err(failed)?, sink))
    }
}

impl<W: Write> EventLog<W> {
    /// A log of what `encoder` makes, into `sink`.
    pub fn new(encoder: Encoder, sink: Sink<W>) -> Self {
        Self { encoder, sink, line: BytesMut::with_capacity(4096), lost: 0, reported: None }
    }

    /// Writes `record`, and before it what was lost. A [`Fault`] comes back where that failed and it
    /// is time to say so.
    pub fn append(&mut self, record: &Record, now: Instant) -> Option<Fault> {
        if self.lost > 0 {
            let losses = Losses { unwritten: self.lost, ..Losses::default() };
            let notice = Record {
                time_ns: record.time_ns,
                context: record.context.clone(),
                body: Body::Notice(Notice::EventsLost(losses)),
            };
            if let Err(error) = self.write(&notice) {
                return self.fail(error, now);
            }
            self.lost = 0;
            self.reported = None;
        }
        match self.write(record) {
            Ok(()) => None,
            Err(error) => self.fail(error, now),
        }
    }

    /// Completes the last line. What comes back is the number of lines that are lost without the log
    /// telling of it.
    pub fn finish(mut self) -> u64 {
        let torn = self.sink.complete().is_err();
        self.lost.saturating_add(torn.into())
    }

    fn write(&mut self, record: &Record) -> io::Result<()> {
        self.line.clear();
        self.encoder.encode(record, &mut self.line)?;
        self.sink.write_line(&self.line)
    }

    fn fail(&mut self, error: io::Error, now: Instant) -> Option<Fault> {
        self.lost = self.lost.saturating_add(1);
        let due = self.reported.is_none_or(|last| now.saturating_duration_since(last) >= REMIND);
        due.then(|| {
            self.reported = Some(now);
            Fault { error, lost: self.lost }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{io::ErrorKind, sync::mpsc};

    use agent_guard_common::event::Action;
    use serde_json::Value;

    use super::*;
    use crate::event::fixture::{denied, file, host};

    /// Fails as often as it is told to, then passes on what it is given.
    struct Failing {
        times: usize,
        lines: mpsc::Sender<Vec<u8>>,
    }

    impl Write for Failing {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            match self.times.checked_sub(1) {
                Some(left) => {
                    self.times = left;
                    Err(ErrorKind::StorageFull.into())
                }
                None => {
                    self.lines.send(bytes.to_vec()).unwrap();
                    Ok(bytes.len())
                }
            }
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn failing(times: usize) -> (EventLog<Failing>, impl Iterator<Item = Value>) {
        let (lines, written) = mpsc::channel();
        let log = EventLog::new(Encoder::new(host(), 1), Sink::new(Failing { times, lines }));
        (log, written.into_iter().map(|line| serde_json::from_slice(&line).unwrap()))
    }

    #[test]
    fn a_full_disk_is_told_of_at_once_and_then_every_minute() {
        let (mut log, _written) = failing(usize::MAX);
        let record = denied(Action::Read, file(b"/a"));
        let start = Instant::now();
        let mut told = |seconds| {
            let fault = log.append(&record, start + Duration::from_secs(seconds));
            fault.map(|fault| (fault.error.kind(), fault.lost))
        };
        assert_eq!(told(0), Some((ErrorKind::StorageFull, 1)));
        assert_eq!(told(1), None);
        assert_eq!(told(59), None);
        assert_eq!(told(60), Some((ErrorKind::StorageFull, 4)));
        assert_eq!(told(61), None);
        assert_eq!(log.finish(), 5);
    }

    #[test]
    fn when_writing_works_again_the_log_tells_how_much_was_lost() {
        let (mut log, mut written) = failing(3);
        let record = denied(Action::Read, file(b"/a"));
        for _ in 0..5 {
            log.append(&record, Instant::now());
        }
        assert_eq!(log.finish(), 0);
        let loss = written.next().unwrap();
        assert_eq!(loss["class_uid"], 6008);
        assert_eq!(loss["unmapped"]["agent_guard"]["losses"]["unwritten"], 3);
        assert!(written.next().unwrap()["file"].is_object());
        assert!(written.next().unwrap()["file"].is_object());
        assert_eq!(written.next(), None);
    }

    #[test]
    fn a_second_failure_is_told_of_at_once_too() {
        let (mut log, _written) = failing(1);
        let record = denied(Action::Read, file(b"/a"));
        let now = Instant::now();
        assert!(log.append(&record, now).is_some());
        assert!(log.append(&record, now).is_none());
        log = EventLog { sink: failing(1).0.sink, ..log };
        assert!(log.append(&record, now).is_some());
    }
}
