//! Where the records of all workloads go: the sinks, and whoever follows.

use std::{
    cell::RefCell,
    fmt,
    fs::File,
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
    time::Instant,
};

use bytes::BytesMut;
use tokio::sync::broadcast;

use super::config::{Filter, SinkConfig};
use crate::{
    event::{Encoder, EventLog, OpenError, Record},
    workload::Output,
};

/// Lines that a follower may be behind before it loses some.
const BEHIND: usize = 4096;

/// A line for those who follow, and whether it is of something that was not simply allowed.
#[derive(Clone, Debug)]
pub struct Line {
    /// The event, with a newline.
    pub json: Arc<[u8]>,
    /// See [`Filter::Denials`].
    pub show: bool,
}

/// The stream, shared by the reporters of all workloads.
#[derive(Clone)]
pub struct Stream(Rc<RefCell<Inner>>);

struct Inner {
    sinks: Vec<(SinkConfig, EventLog<File>)>,
    encoder: Encoder,
    followers: broadcast::Sender<Line>,
    buffer: BytesMut,
    /// Records that came by.
    records: u64,
}

impl SinkConfig {
    fn path(&self) -> PathBuf {
        match self {
            Self::File { path, .. } => path.clone(),
            Self::Stdout { .. } => "-".into(),
        }
    }

    fn filter(&self) -> Filter {
        let (Self::File { events, .. } | Self::Stdout { events }) = self;
        *events
    }
}

impl Stream {
    /// Opens the sinks.
    ///
    /// # Errors
    /// One can not be opened.
    pub fn open(sinks: &[SinkConfig]) -> Result<Self, OpenError> {
        let open = |sink: &SinkConfig| Ok((sink.clone(), EventLog::open(&sink.path())?));
        let failed = |source| OpenError::Open { path: Path::new("-").to_owned(), source };
        Ok(Self(Rc::new(RefCell::new(Inner {
            sinks: sinks.iter().map(open).collect::<Result<_, _>>()?,
            encoder: Encoder::of_this_host().map_err(failed)?,
            followers: broadcast::Sender::new(BEHIND),
            buffer: BytesMut::new(),
            records: 0,
        }))))
    }

    /// Opens the files anew, by their names: somebody has moved them away.
    pub fn reopen(&self) {
        let mut inner = self.0.borrow_mut();
        for (config, log) in &mut inner.sinks {
            match EventLog::open(&config.path()) {
                Ok(new) => {
                    let lost = std::mem::replace(log, new).finish();
                    if lost > 0 {
                        tracing::warn!("{lost} event(s) could not be written and are lost");
                    }
                }
                Err(error) => tracing::error!("{error}; events go on to the file as it was"),
            }
        }
    }

    /// Where those subscribe who want what comes.
    pub fn followers(&self) -> broadcast::Sender<Line> {
        self.0.borrow().followers.clone()
    }

    /// Records that came by.
    pub fn records(&self) -> u64 {
        self.0.borrow().records
    }

    /// Whether anybody wants to know of what is allowed.
    pub fn takes_all(&self) -> bool {
        self.0.borrow().sinks.iter().any(|(config, _)| config.filter() == Filter::All)
    }

    /// Completes the files.
    pub fn finish(&self) {
        for (_, log) in self.0.borrow_mut().sinks.drain(..) {
            let lost = log.finish();
            if lost > 0 {
                tracing::warn!("{lost} event(s) could not be written and are lost");
            }
        }
    }
}

impl Output for Stream {
    fn send(&mut self, record: &Record, show: bool) {
        let mut inner = self.0.borrow_mut();
        let Inner { sinks, encoder, followers, buffer, records } = &mut *inner;
        *records += 1;
        let show = show || record.is_notice();
        for (config, log) in sinks {
            if (show || config.filter() == Filter::All)
                && let Some(fault) = log.append(record, Instant::now())
            {
                tracing::error!("{}: {fault}", config.path().display());
            }
        }
        if followers.receiver_count() > 0 {
            buffer.clear();
            if encoder.encode(record, buffer).is_ok() {
                // Whoever followed may just have gone.
                let _ = followers.send(Line { json: buffer.as_ref().into(), show });
            }
        }
    }

    fn warn(&mut self, text: fmt::Arguments<'_>) {
        tracing::warn!("{text}");
    }
}
