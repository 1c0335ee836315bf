//! What workloads have come to, those that are gone included: these numbers never go back.

use std::collections::HashMap;

use agent_guard_common::hook::Hook;

use crate::{daemon::view, kernel::counters::HookCounts};

/// Workloads that metrics have numbers of their own of; those of the others are added up. A time series is kept for
/// each, for as long as whoever collects them keeps any.
pub const MAX_SERIES: usize = 256;

/// What was counted since the daemon started, and of those whom it has taken over, before.
#[derive(Default)]
pub struct Totals {
    known: HashMap<u32, Known>,
    hooks: HashMap<u8, HookCounts>,
    others: view::Counts,
    /// Workloads with a series of their own.
    series: usize,
}

/// A workload that is there.
#[derive(Default)]
struct Known {
    last: HashMap<u8, HookCounts>,
    has_series: bool,
}

impl Totals {
    /// Takes what an agent has come to by now.
    pub fn take(&mut self, agent: u32, counts: &[(Hook, HookCounts)]) {
        let series = &mut self.series;
        let known = self.known.entry(agent).or_insert_with(|| {
            let has_series = *series < MAX_SERIES;
            *series += usize::from(has_series);
            Known { has_series, ..Known::default() }
        });
        for (hook, now) in counts {
            let last = known.last.entry(*hook as u8).or_default();
            let new = HookCounts {
                decided: now.decided.saturating_sub(last.decided),
                denied: now.denied.saturating_sub(last.denied),
                lost: now.lost.saturating_sub(last.lost),
                failed: now.failed.saturating_sub(last.failed),
                skipped: 0,
            };
            *last = *now;
            let sum = self.hooks.entry(*hook as u8).or_default();
            sum.decided += new.decided;
            sum.denied += new.denied;
            sum.lost += new.lost;
            sum.failed += new.failed;
            if !known.has_series {
                self.others.add(&new);
            }
        }
    }

    /// Forgets an agent that is gone; what it came to stays counted.
    pub fn leave(&mut self, agent: u32) {
        if self.known.remove(&agent).is_some_and(|known| known.has_series) {
            self.series -= 1;
        }
    }

    /// Whether an agent has a series of its own.
    pub fn has_series(&self, agent: u32) -> bool {
        self.known.get(&agent).is_some_and(|known| known.has_series)
    }

    /// What those came to that have none.
    pub fn others(&self) -> view::Counts {
        self.others
    }

    /// What each hook came to. What the kernel has skipped of its calls is in `skipped`, by number.
    pub fn hooks(&self, skipped: &[u64]) -> Vec<view::HookCounts> {
        let of = |number: usize, hook: Hook| {
            let mut counts = view::Counts::default();
            counts.add(&self.hooks.get(&(hook as u8)).copied().unwrap_or_default());
            let skipped = skipped.get(number).copied().unwrap_or(0);
            view::HookCounts { hook: hook.spec().program.to_owned(), counts, skipped }
        };
        let all = Hook::TABLE.iter().enumerate().map(|(number, spec)| of(number, spec.hook));
        all.filter(|hook| hook.counts != view::Counts::default() || hook.skipped > 0).collect()
    }
}

impl view::Counts {
    /// Adds what a hook has counted.
    pub fn add(&mut self, counts: &HookCounts) {
        self.decided += counts.decided;
        self.denied += counts.denied;
        self.lost += counts.lost;
        self.failed += counts.failed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(decided: u64) -> [(Hook, HookCounts); 1] {
        [(Hook::FileOpen, HookCounts { decided, denied: 1, ..HookCounts::default() })]
    }

    fn decided(totals: &Totals) -> u64 {
        totals.hooks(&[]).iter().map(|hook| hook.counts.decided).sum()
    }

    #[test]
    fn what_is_gone_stays_counted_and_nothing_is_counted_twice() {
        let mut totals = Totals::default();
        totals.take(1, &counts(5));
        totals.take(1, &counts(7));
        totals.take(2, &counts(1));
        assert_eq!(decided(&totals), 8);
        totals.leave(1);
        // Another agent that has drawn the same number.
        totals.take(1, &counts(3));
        assert_eq!(decided(&totals), 11);
    }

    #[test]
    fn beyond_the_bound_agents_are_added_up_and_the_sum_never_goes_back() {
        let mut totals = Totals::default();
        let bound = u32::try_from(MAX_SERIES).unwrap();
        for agent in 0..=bound {
            totals.take(agent, &counts(1));
        }
        assert!(totals.has_series(bound - 1) && !totals.has_series(bound));
        assert_eq!(totals.others().decided, 1);
        totals.leave(bound);
        totals.leave(0);
        assert_eq!(totals.others().decided, 1);
        // The place that came free is the next one's.
        totals.take(bound + 1, &counts(1));
        assert!(totals.has_series(bound + 1));
        assert_eq!((totals.others().decided, decided(&totals)), (1, u64::from(bound) + 2));
    }
}
