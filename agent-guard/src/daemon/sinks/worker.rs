//! What takes lines from a sink's queue to its far end, by way of the spool while that is away.
//!
//! Lines keep their order: first what is on its way, then the spool, then the queue. What is on its way and came from
//! the queue is put into the spool before anything else is.

use std::{sync::Arc, sync::atomic::Ordering::Relaxed, time::Duration};

use bytes::Bytes;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::{
    backoff::Backoff,
    counters::Counters,
    entry::Entry,
    queue::Queue,
    spool::Spool,
    transport::{Retry, Transport, Undelivered},
};

/// Most lines of one delivery.
const MOST_LINES: usize = 512;

/// Most bytes of one delivery: what receivers take in one request, and some time on a slow line.
const MOST_BYTES: usize = 512 << 10;

/// How long a delivery may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a spool that failed is left alone.
const SPOOL_REST: Duration = Duration::from_secs(1);

/// How often something that goes on failing is told of.
const REMIND: Duration = Duration::from_secs(60);

/// A sink's worker.
pub struct Worker<T> {
    name: String,
    queue: Arc<Queue>,
    counters: Arc<Counters>,
    store: Option<Store>,
    far_end: T,
    /// What is on its way, in order.
    pending: Vec<Entry>,
    /// Whether it is the head of the spool too.
    is_stored: bool,
    backoff: Backoff,
    reported: Option<Instant>,
}

/// A spool, and how it does.
struct Store {
    spool: Spool,
    /// Since it failed, until when it is left alone.
    rest: Option<Instant>,
}

impl<T: Transport> Worker<T> {
    /// One that takes from `queue` to `far_end`, and counts in `counters`.
    pub fn new(
        name: &str,
        queue: Arc<Queue>,
        counters: Arc<Counters>,
        spool: Option<Spool>,
        far_end: T,
    ) -> Self {
        let worker = Self {
            name: name.to_owned(),
            queue,
            counters,
            store: spool.map(|spool| Store { spool, rest: None }),
            far_end,
            pending: Vec::new(),
            is_stored: false,
            backoff: Backoff::new(),
            reported: None,
        };
        worker.show_spool();
        worker
    }

    /// Works until the queue is closed, and delivers what waits until the time is up. The rest goes into the spool, or
    /// is lost.
    pub async fn run(mut self) {
        while !self.is_over() {
            if self.queue.take_reopen() {
                self.reopen();
            }
            self.load();
            if self.pending.is_empty() {
                match self.queue.closed() {
                    None => self.queue.changed().await,
                    Some(_) => break,
                }
                continue;
            }
            match self.deliver().await {
                Ok(()) => self.arrived(self.pending.len()),
                Err(Undelivered { retry: Retry::Later(_), delivered, error })
                    if self.queue.closed().is_some() =>
                {
                    self.arrived(delivered);
                    self.told(&error);
                    break;
                }
                Err(undelivered) => self.fail(undelivered).await,
            }
        }
        self.put_away();
    }

    /// Whether the time to deliver what waits is up.
    fn is_over(&self) -> bool {
        self.queue.closed().is_some_and(|deadline| deadline <= Instant::now())
    }

    fn reopen(&mut self) {
        if let Err(error) = self.far_end.reopen() {
            tracing::error!("sink {}: {error}; events go on to what it had", self.name);
        }
    }

    /// Takes up what is to be delivered next.
    fn load(&mut self) {
        if !self.pending.is_empty() {
            return;
        }
        if let Some(store) = &mut self.store
            && !store.spool.is_empty()
        {
            match store.spool.peek(MOST_LINES, MOST_BYTES) {
                Ok((entries, lost)) => {
                    if lost > 0 {
                        tracing::error!(
                            "sink {}: {lost} event(s) can not be read from the spool any more and are lost",
                            self.name
                        );
                        self.counters.lose_lines(lost);
                    }
                    (self.pending, self.is_stored) = (entries, true);
                }
                Err(error) => {
                    // Nothing is known of what is in it: it waits for the next daemon.
                    tracing::error!(
                        "sink {}: the spool can not be read ({error}) and is left alone",
                        self.name
                    );
                    self.store = None;
                }
            }
            self.show_spool();
        }
        if self.pending.is_empty() {
            (self.pending, self.is_stored) = (self.queue.take(MOST_LINES, MOST_BYTES), false);
        }
    }

    /// Delivers what is on its way. Meanwhile what presses in the queue goes into the spool.
    async fn deliver(&mut self) -> Result<(), Undelivered> {
        let lines: Vec<Bytes> = self.pending.iter().map(|entry| entry.line.clone()).collect();
        let Self { name, queue, counters, store, far_end, pending, is_stored, .. } = self;
        let mut due = Instant::now() + PATIENCE;
        let mut delivery = std::pin::pin!(far_end.deliver(&lines));
        loop {
            if let Some(deadline) = queue.closed() {
                due = due.min(deadline);
            }
            tokio::select! {
                biased;
                result = timeout_at(due, &mut delivery) => {
                    return result.unwrap_or_else(|_| Err(Undelivered::later("it took too long")));
                }
                () = queue.changed() => {
                    if queue.is_pressed() && let Some(store) = store {
                        *is_stored |= store.fill(name, queue, counters, pending, *is_stored);
                    }
                }
            }
        }
    }

    /// Notes that the first of what is on its way got there.
    fn arrived(&mut self, lines: usize) {
        self.counters.delivered.fetch_add(lines as u64, Relaxed);
        if !self.is_stored {
            self.counters.settle(self.pending.get(..lines).unwrap_or(&self.pending));
        }
        self.done(lines);
        if lines > 0 {
            self.backoff = Backoff::new();
        }
        if self.pending.is_empty() && self.counters.set_problem(None).is_some() {
            tracing::info!("sink {}: delivers again", self.name);
            self.reported = None;
        }
    }

    /// Is done with the first of what is on its way.
    fn done(&mut self, lines: usize) {
        let done = self.pending.drain(..lines.min(self.pending.len())).count();
        if let Some(store) = self.store.as_mut().filter(|_| self.is_stored)
            && let Err(error) = store.spool.forget(done as u64)
        {
            tracing::warn!(
                "sink {}: the spool forgets nothing ({error}); events may come twice",
                self.name
            );
        }
        self.show_spool();
    }

    async fn fail(&mut self, undelivered: Undelivered) {
        let Undelivered { delivered, error, retry } = undelivered;
        self.arrived(delivered);
        match retry {
            // A far end that refuses nothing has failed.
            Retry::Never(lines @ 1..) => {
                let refused = lines.min(self.pending.len());
                self.told(&format!("{refused} event(s) are refused for ever and lost: {error}"));
                for entry in self.pending.iter().take(refused) {
                    match self.is_stored {
                        true => self.counters.lose_stored(entry),
                        false => self.counters.lose(entry),
                    }
                }
                self.done(refused);
            }
            Retry::Never(_) => self.pause(error, None).await,
            Retry::Later(asked) => self.pause(error, asked).await,
        }
    }

    /// Waits before the next attempt. Meanwhile what comes goes into the spool.
    async fn pause(&mut self, error: String, asked: Option<Duration>) {
        self.counters.retried.fetch_add(1, Relaxed);
        self.told(&format!("{error}; what comes is kept as far as there is room"));
        self.counters.set_problem(Some(error));
        let due = Instant::now() + self.backoff.next(asked);
        while self.queue.closed().is_none() && Instant::now() < due {
            if self.queue.take_reopen() {
                return self.reopen();
            }
            self.store();
            tokio::select! {
                () = sleep_until(due) => {}
                () = self.queue.changed() => {}
            }
        }
    }

    /// Puts what is on its way and what waits in the queue into the spool, as far as it goes.
    fn store(&mut self) {
        let Self { name, queue, counters, store, pending, is_stored, .. } = self;
        if let Some(store) = store {
            *is_stored |= store.fill(name, queue, counters, pending, *is_stored);
        }
    }

    /// Ends: what is not delivered goes into the spool, or is lost.
    fn put_away(mut self) {
        if let Some(store) = &mut self.store {
            store.rest = None;
        }
        self.store();
        let mut lost: Vec<Entry> = if self.is_stored { Vec::new() } else { self.pending };
        lost.extend(self.queue.take(usize::MAX, usize::MAX));
        for entry in &lost {
            self.counters.lose(entry);
        }
        if let Some(store) = &mut self.store {
            let untold = self.counters.take_untold();
            match store.spool.owe(untold) {
                Ok(()) => self.counters.hand_over(untold),
                Err(error) => {
                    tracing::debug!("sink {}: {error}", self.name);
                    self.counters.untell(untold);
                }
            }
        }
    }

    /// Tells of a failure: at once, and then from time to time.
    fn told(&mut self, text: &str) {
        let now = Instant::now();
        if self.reported.is_none_or(|last| now - last >= REMIND) {
            self.reported = Some(now);
            tracing::error!("sink {}: {text}", self.name);
        }
    }

    fn show_spool(&self) {
        if let Some(store) = &self.store {
            store.show(&self.counters);
        }
    }
}

impl Store {
    /// Puts `pending`, unless that `is_stored`, and then what waits in the queue into the spool, as far as there is
    /// room. Returns whether `pending` is in it.
    fn fill(
        &mut self,
        name: &str,
        queue: &Queue,
        counters: &Counters,
        pending: &[Entry],
        is_stored: bool,
    ) -> bool {
        if self.rest.is_some_and(|until| Instant::now() < until) {
            return false;
        }
        if !is_stored {
            if self.spool.room_for(pending) < pending.len() {
                return false;
            }
            if let Err(error) = self.spool.append(pending) {
                self.fail(name, &error);
                return false;
            }
            counters.settle(pending);
        }
        loop {
            let mut entries = queue.take(MOST_LINES, MOST_BYTES);
            let rest = entries.split_off(self.spool.room_for(&entries));
            let is_full = !rest.is_empty();
            queue.put_back(rest);
            if entries.is_empty() {
                break;
            }
            if let Err(error) = self.spool.append(&entries) {
                queue.put_back(entries);
                self.fail(name, &error);
                break;
            }
            counters.settle(&entries);
            self.rest = None;
            if is_full {
                break;
            }
        }
        self.show(counters);
        true
    }

    fn fail(&mut self, name: &str, error: &std::io::Error) {
        if self.rest.is_none() {
            tracing::error!(
                "sink {name}: the spool takes nothing: {error}; events are kept in memory as far as there is room"
            );
        }
        self.rest = Some(Instant::now() + SPOOL_REST);
    }

    fn show(&self, counters: &Counters) {
        counters.spooled.store(self.spool.len(), Relaxed);
        counters.spooled_bytes.store(self.spool.bytes(), Relaxed);
    }
}

#[cfg(test)]
mod tests;
