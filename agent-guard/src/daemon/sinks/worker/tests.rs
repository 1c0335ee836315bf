//! The worker against a far end that does as it is told, in a time that does not pass by itself.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard},
};

use tempfile::TempDir;

use super::*;
use crate::daemon::sinks::ledger::Ledger;

/// What becomes of a delivery; without a step it gets there.
enum Step {
    /// The first so many get there, and the rest may come again.
    Later(usize, Option<Duration>),
    /// The first so many get there, and the next so many are refused.
    Never(usize, usize),
    /// Nobody answers.
    Hang,
}

#[derive(Clone, Default)]
struct Script(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    steps: VecDeque<Step>,
    /// While set, every delivery fails.
    away: bool,
    taken: Vec<String>,
    attempts: Vec<Instant>,
    reopened: usize,
}

impl Script {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    fn steps(self, steps: impl IntoIterator<Item = Step>) -> Self {
        self.inner().steps = steps.into_iter().collect();
        self
    }

    fn taken(&self) -> Vec<String> {
        self.inner().taken.clone()
    }
}

impl Transport for Script {
    async fn deliver(&mut self, lines: &[Bytes]) -> Result<(), Undelivered> {
        let step = {
            let mut inner = self.inner();
            inner.attempts.push(Instant::now());
            if inner.away { Some(Step::Later(0, None)) } else { inner.steps.pop_front() }
        };
        let (delivered, retry) = match step {
            None => (lines.len(), None),
            Some(Step::Later(delivered, asked)) => (delivered, Some(Retry::Later(asked))),
            Some(Step::Never(delivered, refused)) => (delivered, Some(Retry::Never(refused))),
            Some(Step::Hang) => std::future::pending().await,
        };
        let text =
            lines.iter().take(delivered).map(|line| String::from_utf8(line.to_vec()).unwrap());
        self.inner().taken.extend(text.map(|line| line.trim_end().to_owned()));
        match retry {
            None => Ok(()),
            Some(retry) => Err(Undelivered { delivered, error: "it fails".to_owned(), retry }),
        }
    }

    fn reopen(&mut self) -> Result<(), String> {
        self.inner().reopened += 1;
        Ok(())
    }
}

struct Bench {
    queue: Arc<Queue>,
    counters: Arc<Counters>,
    far_end: Script,
    spools: TempDir,
}

impl Bench {
    /// With a queue of so many entries.
    fn new(room: usize, far_end: Script) -> Self {
        Self {
            queue: Arc::new(Queue::new(room * entry(0).size())),
            counters: Arc::new(Counters::new(Ledger::private())),
            far_end,
            spools: tempfile::tempdir().unwrap(),
        }
    }

    /// A spool with room for so many entries; 0: none.
    fn worker(&self, spool: usize) -> Worker<Script> {
        let limit = spool * (entry(0).line.len() + 24);
        let spool = (spool > 0).then(|| {
            let (spool, lost) = Spool::open(&self.spools.path().join("s"), limit as u64).unwrap();
            self.counters.lose_lines(lost);
            spool
        });
        let (queue, counters) = (Arc::clone(&self.queue), Arc::clone(&self.counters));
        Worker::new("test", queue, counters, spool, self.far_end.clone())
    }

    /// Puts entries in, and counts those for which there is no room, as the daemon's end does.
    fn push(&self, numbers: std::ops::Range<usize>) {
        for number in numbers {
            let _ = self.counters.take(entry(number), |entry| self.queue.push(entry));
        }
    }

    fn lost(&self) -> u64 {
        self.counters.lost.load(Relaxed)
    }

    /// Runs the worker while time passes.
    async fn work_for(&self, worker: Worker<Script>, seconds: u64) -> tokio::task::JoinHandle<()> {
        let task = tokio::task::spawn_local(worker.run());
        self.pass(seconds).await;
        task
    }

    async fn pass(&self, seconds: u64) {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }

    async fn close(&self, task: tokio::task::JoinHandle<()>) {
        self.queue.close(Instant::now() + Duration::from_secs(3));
        task.await.unwrap();
    }
}

fn entry(number: usize) -> Entry {
    Entry { line: format!("{number:06}\n").into(), tells: 0 }
}

fn lines(numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|number| format!("{number:06}")).collect()
}

/// Runs a test of a worker. Time passes when everybody waits.
fn in_time(test: impl AsyncFnOnce()) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    tokio::task::LocalSet::new().block_on(&runtime.unwrap(), test());
}

#[test]
fn lines_get_there_in_order_and_what_fails_is_tried_again_from_where_it_failed() {
    in_time(async || {
        let steps = [Step::Later(3, None), Step::Later(0, None), Step::Later(2, None)];
        let bench = Bench::new(100, Script::default().steps(steps));
        bench.push(0..20);
        let task = bench.work_for(bench.worker(0), 60).await;
        bench.push(20..30);
        bench.close(task).await;
        assert_eq!(bench.far_end.taken(), lines(0..30));
        let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Relaxed);
        let Counters { delivered, retried, lost, .. } = &*bench.counters;
        assert_eq!((count(delivered), count(retried), count(lost)), (30, 3, 0));
        assert_eq!(bench.counters.problem(), None);
    });
}

#[test]
fn a_far_end_that_was_away_gets_all_that_memory_and_disk_could_hold_and_the_rest_is_counted() {
    in_time(async || {
        let bench = Bench::new(50, Script::default());
        bench.far_end.inner().away = true;
        bench.push(0..10);
        let task = bench.work_for(bench.worker(100), 5).await;
        assert_eq!(bench.counters.problem().as_deref(), Some("it fails"));
        for at in (10..300).step_by(10) {
            bench.push(at..at + 10);
            bench.pass(1).await;
        }
        assert_eq!(bench.counters.spooled.load(Relaxed), 100);
        assert_eq!(bench.lost(), 150);
        bench.far_end.inner().away = false;
        bench.pass(120).await;
        bench.push(300..310);
        assert_eq!((bench.lost(), bench.counters.take_untold()), (150, 150));
        bench.close(task).await;
        assert_eq!(bench.far_end.taken(), [lines(0..150), lines(300..310)].concat());
        assert_eq!(bench.counters.spooled_bytes.load(Relaxed), 0);
    });
}

#[test]
fn what_is_in_the_spool_outlives_the_worker_and_goes_first() {
    in_time(async || {
        let bench = Bench::new(100, Script::default());
        bench.far_end.inner().away = true;
        bench.push(0..10);
        let task = bench.work_for(bench.worker(100), 5).await;
        bench.push(10..20);
        bench.close(task).await;
        assert_eq!((bench.far_end.taken(), bench.lost()), (vec![], 0));

        let again = Bench { queue: Arc::new(Queue::new(1 << 20)), ..bench };
        again.far_end.inner().away = false;
        again.push(20..30);
        let task = again.work_for(again.worker(100), 1).await;
        again.close(task).await;
        assert_eq!(again.far_end.taken(), lines(0..30));
    });
}

#[test]
fn a_far_end_that_hangs_is_given_up_and_what_presses_goes_to_disk_meanwhile() {
    in_time(async || {
        let bench = Bench::new(20, Script::default().steps([Step::Hang]));
        let task = bench.work_for(bench.worker(1000), 1).await;
        for at in (0..200).step_by(5) {
            bench.push(at..at + 5);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(bench.lost(), 0);
        assert!(bench.counters.spooled.load(Relaxed) > 150);
        assert!(bench.far_end.taken().is_empty());
        bench.pass(40).await;
        bench.close(task).await;
        assert_eq!(bench.far_end.taken(), lines(0..200));
    });
}

#[test]
fn what_is_refused_for_ever_is_lost_and_counted_and_holds_nobody_up() {
    in_time(async || {
        let steps = [Step::Never(2, 1), Step::Never(0, 2), Step::Never(1, usize::MAX)];
        let bench = Bench::new(100, Script::default().steps(steps));
        bench.push(0..10);
        let worker = bench.worker(0);
        let start = Instant::now();
        let task = bench.work_for(worker, 0).await;
        bench.pass(1).await;
        bench.push(10..12);
        bench.close(task).await;
        assert_eq!(start.elapsed().as_secs(), 1);
        assert_eq!(bench.far_end.taken(), [lines(0..2), lines(5..6), lines(10..12)].concat());
        assert_eq!((bench.lost(), bench.counters.take_untold()), (7, 7));
    });
}

#[test]
fn a_far_end_that_refuses_nothing_is_not_asked_without_an_end() {
    in_time(async || {
        let steps = (0..9).map(|_| Step::Never(0, 0));
        let bench = Bench::new(100, Script::default().steps(steps));
        bench.push(0..1);
        let task = bench.work_for(bench.worker(0), 3).await;
        assert!(bench.far_end.inner().attempts.len() < 5);
        bench.pass(600).await;
        bench.close(task).await;
        assert_eq!((bench.far_end.taken(), bench.lost()), (lines(0..1), 0));
    });
}

#[test]
fn a_wait_that_the_far_end_asks_for_is_kept_and_a_hangup_ends_it() {
    in_time(async || {
        let asked = || Step::Later(0, Some(Duration::from_secs(100)));
        let bench = Bench::new(100, Script::default().steps([asked(), asked()]));
        bench.push(0..1);
        let task = bench.work_for(bench.worker(0), 99).await;
        assert_eq!(bench.far_end.inner().attempts.len(), 1);
        bench.pass(2).await;
        assert_eq!(bench.far_end.inner().attempts.len(), 2);
        bench.queue.reopen();
        bench.pass(1).await;
        assert_eq!((bench.far_end.taken(), bench.far_end.inner().reopened), (lines(0..1), 1));
        bench.close(task).await;
    });
}

#[test]
fn without_a_spool_what_is_not_delivered_at_the_end_is_counted() {
    in_time(async || {
        let bench = Bench::new(100, Script::default().steps([Step::Later(4, None)]));
        bench.push(0..10);
        bench.queue.close(Instant::now() + Duration::from_secs(3));
        bench.worker(0).run().await;
        assert_eq!((bench.far_end.taken(), bench.lost()), (lines(0..4), 6));
    });
}

#[test]
fn a_hang_at_the_end_is_bounded_and_what_waits_is_spooled() {
    in_time(async || {
        let bench = Bench::new(100, Script::default().steps([Step::Hang]));
        bench.push(0..10);
        let start = Instant::now();
        bench.queue.close(Instant::now() + Duration::from_secs(3));
        bench.worker(100).run().await;
        assert!(start.elapsed() <= Duration::from_secs(4));
        assert_eq!((bench.counters.spooled.load(Relaxed), bench.lost()), (10, 0));
    });
}

#[test]
fn losses_that_were_not_told_are_told_after_a_restart() {
    in_time(async || {
        let bench = Bench::new(100, Script::default());
        bench.counters.lose_lines(3);
        bench.queue.close(Instant::now());
        bench.worker(100).run().await;
        let (mut spool, lost) = Spool::open(&bench.spools.path().join("s"), 1 << 20).unwrap();
        assert_eq!((spool.take_owed(), lost, bench.counters.take_untold()), (3, 0, 0));
    });
}
