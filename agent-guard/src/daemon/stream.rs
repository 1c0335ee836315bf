//! Where the records of all workloads go: the sinks, and whoever follows.

use std::{cell::RefCell, fmt, path::Path, rc::Rc, sync::Arc};

use anyhow::Context as _;
use bytes::BytesMut;
use tokio::sync::broadcast;

use super::{
    sinks::{SinkConfig, Sinks},
    view,
};
use crate::{
    event::{Encoder, Record},
    workload::Output,
};

/// Lines that a follower may be behind before it loses some.
const BEHIND: usize = 4096;

/// A line for those who follow, and whether it is of something that was not simply allowed.
#[derive(Clone, Debug)]
pub struct Line {
    /// The event, with a newline.
    pub json: Arc<[u8]>,
    /// See [`Events::Denials`](super::sinks::Events::Denials).
    pub show: bool,
}

/// The stream, shared by the reporters of all workloads.
#[derive(Clone)]
pub struct Stream(Rc<RefCell<Inner>>);

struct Inner {
    sinks: Sinks,
    encoder: Encoder,
    followers: broadcast::Sender<Line>,
    buffer: BytesMut,
    /// Records that came by.
    records: u64,
}

impl Stream {
    /// Opens the sinks, whose spools are below `spools`.
    ///
    /// # Errors
    /// One can not be opened.
    pub fn open(sinks: &[SinkConfig], spools: &Path) -> anyhow::Result<Self> {
        Ok(Self(Rc::new(RefCell::new(Inner {
            sinks: Sinks::open(sinks, spools)?,
            encoder: Encoder::of_this_host().context("numbering events")?,
            followers: broadcast::Sender::new(BEHIND),
            buffer: BytesMut::new(),
            records: 0,
        }))))
    }

    /// Has the sinks open files and connections anew: somebody has moved or renewed what is behind their names.
    pub fn reopen(&self) {
        self.0.borrow().sinks.reopen();
    }

    /// Tells what is not told yet of what sinks have lost.
    pub fn tick(&self) {
        self.0.borrow_mut().sinks.tick();
    }

    /// How the sinks do.
    pub fn sinks(&self) -> Vec<view::Sink> {
        self.0.borrow().sinks.views()
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
        self.0.borrow().sinks.take_all()
    }

    /// Delivers what waits, or has it kept.
    pub fn finish(&self) {
        self.0.borrow_mut().sinks.finish();
    }
}

impl Output for Stream {
    fn send(&mut self, record: &Record, show: bool) {
        let mut inner = self.0.borrow_mut();
        let Inner { sinks, encoder, followers, buffer, records } = &mut *inner;
        *records += 1;
        let show = show || record.is_notice();
        sinks.send(record, show);
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
