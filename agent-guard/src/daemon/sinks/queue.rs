//! What waits in memory between the daemon and a sink's worker. Whoever puts something in never waits.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::{sync::Notify, time::Instant};

use super::entry::Entry;

/// A bounded queue with one reader.
#[derive(Debug)]
pub struct Queue {
    limit: usize,
    inner: Mutex<Inner>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    entries: VecDeque<Entry>,
    bytes: usize,
    reopen: bool,
    closed: Option<Instant>,
}

impl Queue {
    /// An empty one that takes `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { limit, inner: Mutex::default(), changed: Notify::new() }
    }

    /// Takes `entry`, unless there is no room or nobody reads any more.
    #[must_use]
    pub fn push(&self, entry: Entry) -> bool {
        let mut inner = self.inner();
        if inner.closed.is_some() || entry.size() > self.limit.saturating_sub(inner.bytes) {
            return false;
        }
        inner.bytes += entry.size();
        inner.entries.push_back(entry);
        drop(inner);
        self.changed.notify_one();
        true
    }

    /// Takes the oldest entries out: at most so many, of at most so many bytes together; one at least, where there
    /// is one.
    #[must_use]
    pub fn take(&self, most: usize, most_bytes: usize) -> Vec<Entry> {
        let mut inner = self.inner();
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while taken.len() < most
            && let Some(next) = inner.entries.front()
            && (taken.is_empty() || bytes + next.size() <= most_bytes)
            && let Some(entry) = inner.entries.pop_front()
        {
            bytes += entry.size();
            taken.push(entry);
        }
        inner.bytes -= bytes;
        taken
    }

    /// Puts entries back that were taken last, in their order. They have had their room.
    pub fn put_back(&self, entries: Vec<Entry>) {
        let mut inner = self.inner();
        for entry in entries.into_iter().rev() {
            inner.bytes += entry.size();
            inner.entries.push_front(entry);
        }
    }

    /// Bytes that wait, and for how many there is room.
    #[must_use]
    pub fn fill(&self) -> (usize, usize) {
        (self.inner().bytes, self.limit)
    }

    /// Whether half of the room is taken.
    #[must_use]
    pub fn is_pressed(&self) -> bool {
        self.inner().bytes > self.limit / 2
    }

    /// Asks the reader to open its far end anew.
    pub fn reopen(&self) {
        self.inner().reopen = true;
        self.changed.notify_one();
    }

    /// Whether that was asked for since the last call.
    #[must_use]
    pub fn take_reopen(&self) -> bool {
        std::mem::take(&mut self.inner().reopen)
    }

    /// Takes no more. What waits is to be delivered until `deadline`.
    pub fn close(&self, deadline: Instant) {
        self.inner().closed = Some(deadline);
        self.changed.notify_one();
    }

    /// Until when what waits is to be delivered, once no more comes.
    #[must_use]
    pub fn closed(&self) -> Option<Instant> {
        self.inner().closed
    }

    /// Returns once something has come since the last return, or was asked for.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Nobody leaves it half changed.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(text: &'static str) -> Entry {
        Entry { line: text.as_bytes().into(), tells: 0 }
    }

    #[test]
    fn it_takes_as_many_bytes_as_it_may_and_no_more() {
        let queue = Queue::new(3 * entry("one\n").size());
        assert!(queue.push(entry("one\n")) && queue.push(entry("two\n")));
        assert!(queue.is_pressed());
        assert!(!queue.push(entry("three\n")), "two bytes too many");
        assert!(queue.push(entry("six\n")));
        assert_eq!(queue.fill().0, queue.fill().1);
        assert!(!queue.push(entry("")));
    }

    #[test]
    fn entries_come_out_in_order_and_within_bounds() {
        let queue = Queue::new(1 << 20);
        for text in ["1\n", "2\n", "3\n", "4\n"] {
            assert!(queue.push(entry(text)));
        }
        let one = entry("1\n").size();
        assert_eq!(queue.take(2, usize::MAX), [entry("1\n"), entry("2\n")]);
        assert_eq!(queue.take(9, one), [entry("3\n")]);
        queue.put_back(vec![entry("2\n"), entry("3\n")]);
        assert_eq!(queue.fill().0, 3 * one);
        // One comes out however large it is: it would stay for ever.
        assert_eq!(queue.take(9, 0), [entry("2\n")]);
        assert_eq!(queue.take(9, usize::MAX), [entry("3\n"), entry("4\n")]);
        assert_eq!((queue.take(9, usize::MAX), queue.fill().0), (vec![], 0));
    }

    #[test]
    fn who_is_closed_takes_nothing_and_gives_what_it_has() {
        let queue = Queue::new(1 << 20);
        assert!(queue.push(entry("1\n")));
        queue.close(Instant::now());
        assert!(!queue.push(entry("2\n")));
        assert_eq!(queue.take(9, usize::MAX), [entry("1\n")]);
    }

    #[tokio::test]
    async fn a_change_before_the_wait_is_not_missed() {
        let queue = Queue::new(1 << 20);
        queue.reopen();
        queue.changed().await;
        assert!(queue.take_reopen() && !queue.take_reopen());
    }
}
