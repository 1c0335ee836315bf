//! Where a run's events go: the log, and a line on stderr for each denial.

use std::{
    fmt,
    fs::File,
    io::{self, IsTerminal},
    time::Instant,
};

use super::stderr::say;
use crate::{
    event::{EventLog, Record, TextLine},
    workload::Output,
};

/// Standard error, and the log where there is one.
pub struct Terminal {
    log: Option<EventLog<File>>,
    colour: bool,
}

impl Terminal {
    /// Over `log`.
    pub fn new(log: Option<EventLog<File>>) -> Self {
        let colour = io::stderr().is_terminal()
            && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { log, colour }
    }

    /// Completes the log, and says how much it lost without telling.
    pub fn finish(self) {
        let lines = self.log.map_or(0, EventLog::finish);
        if lines > 0 {
            say(format_args!("agent-guard: {lines} event(s) could not be written and are lost"));
        }
    }
}

impl Output for Terminal {
    fn send(&mut self, record: &Record, show: bool) {
        if show {
            say(TextLine { record, colour: self.colour });
        }
        if let Some(fault) = self.log.as_mut().and_then(|log| log.append(record, Instant::now())) {
            say(format_args!("agent-guard: {fault}"));
        }
    }

    fn warn(&mut self, text: fmt::Arguments<'_>) {
        say(format_args!("agent-guard: {text}"));
    }
}
