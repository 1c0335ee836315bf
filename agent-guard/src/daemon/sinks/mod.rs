//! Where the records of all workloads go: any number of sinks, each with a filter, a queue, a worker and counters of
//! its own. Whatever a far end does, the daemon does not wait for it.
//!
//! ```text
//! record → filter → encoder → queue → worker → far end
//!                                      ↕
//!                                    spool
//! ```
//!
//! What did not fit is counted, and told in that sink's own stream once there is room again.

mod backoff;
mod config;
mod connect;
mod counters;
mod entry;
mod far_text;
mod file;
mod filter;
mod http;
mod kafka;
mod ledger;
mod otlp;
mod queue;
mod secret;
mod spool;
mod syslog;
mod tls;
mod transport;
mod unix;
mod worker;

use std::{
    path::Path,
    sync::{Arc, atomic::Ordering::Relaxed, mpsc},
    thread,
    time::Duration,
};

use anyhow::Context as _;
use bytes::BytesMut;
use tokio::{runtime::Runtime, time::Instant};

pub use self::{
    config::{SinkConfig, read},
    filter::Events,
};
use self::{
    counters::Counters,
    entry::{Entry, MAX_LINE},
    ledger::Ledger,
    queue::Queue,
    spool::Spool,
    transport::FarEnd,
    worker::Worker,
};
use super::view;
use crate::{
    event::{Body, Context, Encoder, Losses, Notice, Record},
    state_dir,
};

/// How long the end waits for what is still to be delivered. The rest is spooled.
const FLUSH: Duration = Duration::from_secs(3);

/// How much longer it waits for that, and for workers that hang.
const GIVE_UP: Duration = Duration::from_secs(2);

/// How often a sink that goes on losing events is told of.
const REMIND: Duration = Duration::from_secs(60);

/// All sinks.
pub struct Sinks {
    sinks: Vec<Sink>,
    /// Ends once all workers have.
    ended: mpsc::Receiver<()>,
}

/// The daemon's end of a sink.
struct Sink {
    config: SinkConfig,
    encoder: Encoder,
    line: BytesMut,
    queue: Arc<Queue>,
    counters: Arc<Counters>,
    /// When and under what the last record was lost, or the first one came.
    last: Option<(u64, Arc<Context>)>,
    reported: Option<Instant>,
}

impl Sinks {
    /// Opens all of them, with their spools below `spools`, and starts their workers.
    ///
    /// # Errors
    /// One can not be opened: what is missing on this host. A far end that does not answer is no error.
    pub fn open(configs: &[SinkConfig], spools: &Path) -> anyhow::Result<Self> {
        let (alive, ended) = mpsc::channel();
        let open = |config: &SinkConfig| {
            Sink::open(config, spools, alive.clone())
                .with_context(|| format!("the sink `{}`", config.name))
        };
        Ok(Self { sinks: configs.iter().map(open).collect::<Result<_, _>>()?, ended })
    }

    /// Whether one takes what is allowed.
    pub fn take_all(&self) -> bool {
        self.sinks.iter().any(|sink| sink.config.filter.events == Events::All)
    }

    /// Takes a record. One that is to be shown is about something that was not simply allowed.
    pub fn send(&mut self, record: &Record, show: bool) {
        for sink in &mut self.sinks {
            if sink.config.filter.takes(record, show) {
                sink.take(record);
            }
        }
    }

    /// Tells what is not told yet of what was lost.
    pub fn tick(&mut self) {
        for sink in &mut self.sinks {
            sink.tell_losses();
        }
    }

    /// Has every worker open its far end anew.
    pub fn reopen(&self) {
        for sink in &self.sinks {
            sink.queue.reopen();
        }
    }

    /// How they do.
    pub fn views(&self) -> Vec<view::Sink> {
        self.sinks.iter().map(Sink::view).collect()
    }

    /// Delivers what can be delivered within [`FLUSH`], and has the rest spooled.
    pub fn finish(&mut self) {
        let deadline = Instant::now() + FLUSH;
        for sink in &mut self.sinks {
            sink.tell_losses();
            sink.queue.close(deadline);
        }
        // Nobody sends anything: it ends when the last worker does.
        let _ = self.ended.recv_timeout(FLUSH + GIVE_UP);
        for sink in self.sinks.drain(..) {
            sink.finish();
        }
    }
}

impl Sink {
    fn open(config: &SinkConfig, spools: &Path, alive: mpsc::Sender<()>) -> anyhow::Result<Self> {
        let far_end = FarEnd::open(&config.to)?;
        let queue = Arc::new(Queue::new(config.queue_bytes));
        let counters = Arc::new(open_counters(&config.name)?);
        let spool = match config.spool_bytes {
            0 => None,
            limit => Some(open_spool(config, &spools.join(&config.name), limit, &counters)?),
        };
        let encoder =
            Encoder::of_this_host().context("numbering events")?.in_encoding(config.encoding);
        let worker =
            Worker::new(&config.name, Arc::clone(&queue), Arc::clone(&counters), spool, far_end);
        let (give, given) = mpsc::channel::<Runtime>();
        thread::Builder::new()
            .name(format!("sink-{}", config.name))
            .spawn(move || {
                if let Ok(runtime) = given.recv() {
                    runtime.block_on(worker.run());
                    // Name queries that hang are left behind.
                    runtime.shutdown_background();
                }
                drop(alive);
            })
            .context("starting its worker")?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        // It waits for it.
        let _ = give.send(runtime.context("starting its runtime")?);
        Ok(Self {
            config: config.clone(),
            encoder,
            line: BytesMut::new(),
            queue,
            counters,
            last: None,
            reported: None,
        })
    }

    /// Takes a record in, or counts it.
    fn take(&mut self, record: &Record) {
        let last = || (record.time_ns, Arc::clone(&record.context));
        self.last.get_or_insert_with(last);
        self.tell_losses();
        if !self.push(record, 0) {
            self.last = Some(last());
            self.complain();
        }
    }

    /// Tells of what was lost, once half of the queue is free: else the notices would take the room of the events.
    fn tell_losses(&mut self) {
        if self.queue.is_pressed() {
            return;
        }
        let unwritten = self.counters.take_untold();
        if unwritten == 0 {
            return;
        }
        let Some((time_ns, context)) = self.last.clone() else {
            return self.counters.untell(unwritten);
        };
        let notice = Notice::EventsLost(Losses { unwritten, ..Losses::default() });
        let notice = Record { time_ns, context, body: Body::Notice(notice) };
        match self.push(&notice, unwritten) {
            true => self.reported = None,
            false => self.counters.untell(unwritten),
        }
    }

    /// Puts a record into the queue, or counts it where there is no room. It tells of so many lost lines.
    fn push(&mut self, record: &Record, tells: u64) -> bool {
        self.line.clear();
        let is_line =
            self.encoder.encode(record, &mut self.line).is_ok() && self.line.len() <= MAX_LINE;
        let entry = Entry { line: self.line.split().freeze(), tells };
        self.counters.take(entry, |entry| is_line && self.queue.push(entry))
    }

    fn complain(&mut self) {
        let now = Instant::now();
        if self.reported.is_none_or(|last| now - last >= REMIND) {
            self.reported = Some(now);
            let lost = self.counters.lost.load(Relaxed);
            tracing::error!(
                "sink {}: there is no room for what waits, and {lost} event(s) are lost so far; its stream tells of them once there is",
                self.config.name
            );
        }
    }

    fn view(&self) -> view::Sink {
        let Self { config, queue, counters, .. } = self;
        let (waiting, room) = queue.fill();
        view::Sink {
            name: config.name.clone(),
            kind: config.to.kind().to_owned(),
            problem: counters.problem(),
            delivered: counters.delivered.load(Relaxed),
            retried: counters.retried.load(Relaxed),
            lost: counters.lost.load(Relaxed),
            queue_bytes: waiting as u64,
            queue_room: room as u64,
            spooled: counters.spooled.load(Relaxed),
            spool_bytes: counters.spooled_bytes.load(Relaxed),
            spool_room: config.spool_bytes,
        }
    }

    /// Says what nobody else says.
    fn finish(&self) {
        let name = &self.config.name;
        // A worker that hangs has not emptied it.
        let left = self.queue.take(usize::MAX, usize::MAX);
        left.iter().for_each(|entry| self.counters.lose(entry));
        let lost = self.counters.take_untold();
        if lost > 0 {
            tracing::warn!(
                "sink {name}: {lost} event(s) are lost, of which its stream does not tell"
            );
        }
    }
}

/// The counters of a sink, with what the last daemon did not come to count.
fn open_counters(name: &str) -> anyhow::Result<Counters> {
    let (file, path) = state_dir::open(&format!("sink-{name}")).context("opening its ledger")?;
    let (ledger, gone) =
        Ledger::open(&file).with_context(|| format!("opening its ledger {}", path.display()))?;
    let counters = Counters::new(ledger);
    if gone > 0 {
        tracing::error!(
            "sink {name}: {gone} event(s) were in memory when the last daemon died, and are lost"
        );
        counters.lose_lines(gone);
    }
    Ok(counters)
}

fn open_spool(
    config: &SinkConfig,
    directory: &Path,
    limit: u64,
    counters: &Counters,
) -> anyhow::Result<Spool> {
    let (mut spool, lost) = Spool::open(directory, limit)?;
    let name = &config.name;
    if !spool.is_empty() {
        tracing::info!("sink {name}: {} event(s) are spooled and go first", spool.len());
    }
    if lost > 0 {
        tracing::error!(
            "sink {name}: {lost} event(s) in the spool were torn or corrupted and are lost"
        );
    }
    counters.lose_lines(lost);
    counters.owe(spool.take_owed());
    Ok(spool)
}
