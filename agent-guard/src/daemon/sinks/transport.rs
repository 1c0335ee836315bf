//! The far end of a sink.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::{
    audit::AuditLog,
    config::To,
    file::{RotatedFile, Stdout},
    http::{Splunk, Webhook},
    kafka::Kafka,
    otlp::Otlp,
    syslog::Syslog,
    unix::UnixSocket,
};

/// Where a sink's lines go. Each worker has one, on a thread of its own that it may block.
pub trait Transport {
    /// Delivers lines, each a whole JSON object and a newline, in order: all of them, or as many as the error says.
    /// Delivered is what need not be kept any longer. A delivery that takes too long is dropped where it waits, and
    /// the lines come again.
    async fn deliver(&mut self, lines: &[Bytes]) -> Result<(), Undelivered>;

    /// Lets go of files and connections, and takes them up anew by their names: somebody has moved, or renewed, what
    /// is behind them.
    ///
    /// # Errors
    /// Why it goes on with what it had.
    fn reopen(&mut self) -> Result<(), String>;

    /// When [`Self::tick`] is to be called, whether lines come or not.
    fn due(&self) -> Option<Instant> {
        None
    }

    /// Does what is due.
    fn tick(&mut self) {}

    /// Nothing more comes.
    fn close(&mut self) {}
}

/// Lines did not get there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undelivered {
    /// Lines that did, from the first on.
    pub delivered: usize,
    /// Why the next one did not: text of the far end's is bounded and printable. No secrets.
    pub error: String,
    /// What may be done.
    pub retry: Retry,
}

/// What may be done about lines that were not delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Trying again, after this time at the least where the far end has named one.
    Later(Option<Duration>),
    /// Nothing: the far end will never take the next so many lines, and they are lost. Those after them are tried
    /// again.
    Never(usize),
}

impl Undelivered {
    /// Nothing was delivered, and all may be tried again.
    #[must_use]
    pub fn later(error: impl ToString) -> Self {
        Self { delivered: 0, error: error.to_string(), retry: Retry::Later(None) }
    }
}

/// Every kind of far end.
pub enum FarEnd {
    /// A tamper-evident log.
    Audit(Box<AuditLog>),
    /// A file.
    File(RotatedFile),
    /// Standard output.
    Stdout(Stdout),
    /// A UNIX-domain socket.
    Unix(UnixSocket),
    /// A syslog receiver.
    Syslog(Box<Syslog>),
    /// A webhook.
    Webhook(Box<Webhook>),
    /// Splunk's HTTP Event Collector.
    Splunk(Box<Splunk>),
    /// An OpenTelemetry collector.
    Otlp(Box<Otlp>),
    /// A Kafka cluster.
    Kafka(Kafka),
}

impl FarEnd {
    /// Opens what can be opened before anybody answers: files, secrets, certificates.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn open(to: &To) -> anyhow::Result<Self> {
        Ok(match to {
            To::Audit(config) => Self::Audit(Box::new(AuditLog::open(config)?)),
            To::File(config) => Self::File(RotatedFile::open(config)?),
            To::Stdout(_) => Self::Stdout(Stdout::open()?),
            To::Unix(config) => Self::Unix(UnixSocket::new(config)),
            To::Syslog(config) => Self::Syslog(Box::new(Syslog::open(config)?)),
            To::Webhook(config) => Self::Webhook(Box::new(Webhook::open(config)?)),
            To::Splunk(config) => Self::Splunk(Box::new(Splunk::open(config)?)),
            To::Otlp(config) => Self::Otlp(Box::new(Otlp::open(config)?)),
            To::Kafka(config) => Self::Kafka(Kafka::open(config)?),
        })
    }
}

impl Transport for FarEnd {
    async fn deliver(&mut self, lines: &[Bytes]) -> Result<(), Undelivered> {
        match self {
            Self::Audit(log) => log.deliver(lines).await,
            Self::File(file) => file.deliver(lines).await,
            Self::Stdout(stdout) => stdout.deliver(lines).await,
            Self::Unix(socket) => socket.deliver(lines).await,
            Self::Syslog(syslog) => syslog.deliver(lines).await,
            Self::Webhook(webhook) => webhook.deliver(lines).await,
            Self::Splunk(splunk) => splunk.deliver(lines).await,
            Self::Otlp(otlp) => otlp.deliver(lines).await,
            Self::Kafka(kafka) => kafka.deliver(lines).await,
        }
    }

    fn reopen(&mut self) -> Result<(), String> {
        match self {
            Self::Audit(log) => log.reopen(),
            Self::File(file) => file.reopen(),
            Self::Stdout(stdout) => stdout.reopen(),
            Self::Unix(socket) => socket.reopen(),
            Self::Syslog(syslog) => syslog.reopen(),
            Self::Webhook(webhook) => webhook.reopen(),
            Self::Splunk(splunk) => splunk.reopen(),
            Self::Otlp(otlp) => otlp.reopen(),
            Self::Kafka(kafka) => kafka.reopen(),
        }
    }

    fn due(&self) -> Option<Instant> {
        match self {
            Self::Audit(log) => log.due(),
            _ => None,
        }
    }

    fn tick(&mut self) {
        if let Self::Audit(log) = self {
            log.tick();
        }
    }

    fn close(&mut self) {
        if let Self::Audit(log) = self {
            log.close();
        }
    }
}
