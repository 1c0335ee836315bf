//! What became of a sink's lines.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use super::{entry::Entry, ledger::Ledger};

/// Counted since the daemon started, by the worker and by who feeds it.
#[derive(Debug)]
pub struct Counters {
    ledger: Ledger,
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
    /// Nothing is counted yet, but what stands in `ledger` is to be told.
    #[must_use]
    pub fn new(ledger: Ledger) -> Self {
        Self {
            untold: ledger.untold().into(),
            ledger,
            delivered: AtomicU64::new(0),
            retried: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            spooled: AtomicU64::new(0),
            spooled_bytes: AtomicU64::new(0),
            problem: Mutex::new(None),
        }
    }

    /// Puts an entry into memory, or counts it as lost, as `push` says. A notice that is not taken is told again by
    /// who made it.
    pub fn take(&self, entry: Entry, push: impl FnOnce(Entry) -> bool) -> bool {
        if entry.tells > 0 {
            return push(entry);
        }
        // First: whoever is killed in between has lost it.
        self.ledger.enter();
        let taken = push(entry);
        if !taken {
            self.lose_lines(1);
            self.ledger.leave(1);
        }
        taken
    }

    /// Entries from memory are delivered, or on disk.
    pub fn settle(&self, entries: &[Entry]) {
        self.ledger.leave(entries.iter().filter(|entry| entry.tells == 0).count() as u64);
        self.ledger.tell(entries.iter().map(|entry| entry.tells).sum());
    }

    /// Counts an entry from memory that is lost. What it told of is to be told again.
    pub fn lose(&self, entry: &Entry) {
        match entry.tells {
            0 => {
                self.lose_lines(1);
                self.ledger.leave(1);
            }
            tells => self.untell(tells),
        }
    }

    /// The same for one that was on disk.
    pub fn lose_stored(&self, entry: &Entry) {
        match entry.tells {
            0 => self.lose_lines(1),
            tells => self.owe(tells),
        }
    }

    /// Counts lines that are lost.
    pub fn lose_lines(&self, lines: u64) {
        self.lost.fetch_add(lines, Relaxed);
        self.owe(lines);
    }

    /// Lost lines are to be told of that were counted before.
    pub fn owe(&self, lines: u64) {
        self.ledger.owe(lines);
        self.untell(lines);
    }

    /// Somebody else tells of lost lines that were taken from here.
    pub fn hand_over(&self, lines: u64) {
        self.ledger.tell(lines);
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

    fn entry(tells: u64) -> Entry {
        Entry { line: "{}\n".into(), tells }
    }

    #[test]
    fn what_a_lost_notice_told_of_is_told_again_and_counted_once() {
        let counters = Counters::new(Ledger::private());
        assert!(!counters.take(entry(0), |_| false));
        counters.lose_lines(4);
        assert_eq!((counters.take_untold(), counters.take_untold()), (5, 0));
        counters.lose(&entry(5));
        assert_eq!((counters.take_untold(), counters.lost.load(Relaxed)), (5, 5));
    }

    #[test]
    fn the_next_daemon_knows_what_this_one_had_in_memory_and_what_it_did_not_tell() {
        let file = tempfile::tempfile().unwrap();
        let counters = Counters::new(Ledger::open(&file).unwrap().0);
        for _ in 0..10 {
            assert!(counters.take(entry(0), |_| true));
        }
        assert!(!counters.take(entry(0), |_| false));
        counters.settle(&[entry(0), entry(0)]);
        counters.lose(&entry(0));
        // A notice of the two that is in memory is as good as none.
        assert_eq!(counters.take_untold(), 2);
        assert!(counters.take(entry(2), |_| true));
        let (ledger, gone) = Ledger::open(&file).unwrap();
        assert_eq!((gone, ledger.untold()), (7, 2));

        // One that was on disk, and was refused then, is owed again.
        let counters = Counters::new(ledger);
        assert_eq!(counters.take_untold(), 2);
        counters.settle(&[entry(2)]);
        counters.lose_stored(&entry(2));
        counters.lose_stored(&entry(0));
        let (ledger, gone) = Ledger::open(&file).unwrap();
        assert_eq!((gone, ledger.untold()), (0, 3));
    }
}
