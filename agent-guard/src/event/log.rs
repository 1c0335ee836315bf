//! The JSON log: every record a line, and every line that could not be written accounted for.

use std::{
    fmt,
    io::{self, Write},
    time::{Duration, Instant},
};

use bytes::BytesMut;

use super::{Body, Encoder, Losses, Notice, Record, Sink};

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
