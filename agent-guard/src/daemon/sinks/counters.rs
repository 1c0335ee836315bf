//! What became of a sink's lines.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use super::entry::Entry;

/// Counted since the daemon started, by the worker and by who feeds it.
#[derive(Debug, Default)]
pub struct Counters {
    /// Lines that the far end has.
    pub delivered: AtomicU64,
    /// Deliveries that failed and are tried again.
    pub retried: AtomicU64,
    /// Lines that the far end will never have.
    pub lost: AtomicU64,
    /// Lines in the spool.
    pub spooled: AtomicU64,
    /// Bytes that the spool takes.
    pub spooled_bytes: AtomicU64,
    /// Lost lines that no notice tells of yet.
    untold: AtomicU64,
    /// Why nothing is delivered at the moment.
    problem: Mutex<Option<String>>,
}

impl Counters {
    /// Counts an entry that is lost. What it told of is to be told again.
    pub fn lose(&self, entry: &Entry) {
        match entry.tells {
            0 => self.lose_lines(1),
            tells => self.untell(tells),
        }
    }

    /// Counts lines that are lost.
    pub fn lose_lines(&self, lines: u64) {
        self.lost.fetch_add(lines, Relaxed);
        self.untell(lines);
    }

    /// Lost lines that were not told of yet; whoever takes them tells, or gives them back by [`Self::untell`].
    #[must_use]
    pub fn take_untold(&self) -> u64 {
        self.untold.swap(0, Relaxed)
    }

    /// What was to be told was not.
    pub fn untell(&self, lines: u64) {
        self.untold.fetch_add(lines, Relaxed);
    }

    /// Why nothing is delivered, if so.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets that, and returns what it was.
    pub fn set_problem(&self, problem: Option<String>) -> Option<String> {
        std::mem::replace(
            &mut *self.problem.lock().unwrap_or_else(PoisonError::into_inner),
            problem,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_lost_notice_told_of_is_told_again_and_counted_once() {
        let counters = Counters::default();
        let entry = |tells| Entry { line: "{}\n".into(), tells };
        counters.lose(&entry(0));
        counters.lose_lines(4);
        assert_eq!((counters.take_untold(), counters.take_untold()), (5, 0));
        counters.lose(&entry(5));
        assert_eq!((counters.take_untold(), counters.lost.load(Relaxed)), (5, 5));
    }
}
