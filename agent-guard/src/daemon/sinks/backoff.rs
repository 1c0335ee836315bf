//! When a far end that failed is tried again.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};

/// The first wait. Each is up to twice as long, by chance: many hosts that lost one receiver do not come back to it
/// at once.
const SHORTEST: Duration = Duration::from_millis(500);

/// What waits grow to, before chance.
const LONGEST: Duration = Duration::from_secs(30);

/// Longest wait that a far end can ask for.
const MOST_ASKED: Duration = Duration::from_secs(600);

/// The waits between attempts of one outage.
#[derive(Debug)]
pub struct Backoff(ExponentialBackoff);

impl Backoff {
    /// From the shortest on.
    #[must_use]
    pub fn new() -> Self {
        let waits = ExponentialBuilder::default()
            .with_min_delay(SHORTEST)
            .with_max_delay(LONGEST)
            .with_factor(2.0)
            .without_max_times()
            .with_jitter();
        Self(waits.build())
    }

    /// The next wait, which is as long as the far end has `asked` for at least.
    pub fn next(&mut self, asked: Option<Duration>) -> Duration {
        let wait = self.0.next().unwrap_or(LONGEST);
        wait.max(asked.unwrap_or_default().min(MOST_ASKED))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound_and_differ() {
        let waits = |_| {
            let mut backoff = Backoff::new();
            (0..50).map(|_| backoff.next(None)).collect::<Vec<_>>()
        };
        let runs: Vec<_> = (0..4).map(waits).collect();
        for run in &runs {
            assert!(run[0] >= SHORTEST && run[0] <= 2 * SHORTEST, "{run:?}");
            assert!(run[49] >= LONGEST && run[49] <= 2 * LONGEST, "{run:?}");
        }
        assert!(runs.iter().any(|run| *run != runs[0]), "all hosts at once");
    }

    #[test]
    fn a_far_end_may_ask_for_longer_waits_within_a_bound() {
        let asked = |seconds| Backoff::new().next(Some(Duration::from_secs(seconds)));
        assert!(asked(0) >= SHORTEST);
        assert_eq!(asked(77), Duration::from_secs(77));
        assert_eq!(asked(u64::MAX), MOST_ASKED);
    }
}
