//! The counters of our programs, summed over their rows, and the kernel's own of how often it did not run
//! them.

use std::{
    fs, io,
    os::fd::{AsRawFd, OwnedFd},
};

use agent_guard_common::{
    hook::{Hook, HookSpec},
    limits::COUNTER_ROWS,
    table::{self, Counter, CounterKey},
};
use aya::maps::{HashMap, MapData, MapError};
use serde::{Deserialize, Serialize};

use super::{Row, pins::Pins};

/// What one hook has counted for an agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HookCounts {
    /// Actions of agents that were decided.
    pub decided: u64,
    /// Of these, denied.
    pub denied: u64,
    /// Events that did not fit the ring buffer.
    pub lost: u64,
    /// Decisions that a failed helper or a bound turned into a denial.
    pub failed: u64,
    /// Calls for which the kernel did not run the program, because it was already running on that CPU.
    /// They went on, whoever made them.
    pub skipped: u64,
}

/// How often the kernel did not run a program since it was loaded, by hook, in the order of the table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skips(pub Vec<u64>);

/// The programs that are loaded, which the kernel counts for.
pub struct SkipCounters(Vec<(Hook, OwnedFd)>);

impl SkipCounters {
    /// Over these.
    pub fn new(programs: Vec<(Hook, OwnedFd)>) -> Self {
        Self(programs)
    }

    /// How often the kernel skipped each; 0 for one that is not loaded, as those of other tiers are not.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn read(&self) -> io::Result<Skips> {
        let skipped = |spec: &HookSpec| {
            let program = self.0.iter().find(|(of, _)| *of == spec.hook);
            let Some((_, program)) = program else { return Ok(0) };
            misses(&fs::read_to_string(format!("/proc/self/fdinfo/{}", program.as_raw_fd()))?)
        };
        Hook::TABLE.iter().map(skipped).collect::<io::Result<_>>().map(Skips)
    }
}

/// The counters of all agents.
pub struct Counters {
    map: HashMap<MapData, Row<CounterKey>, Row<table::Counters>>,
}

impl Counters {
    /// In the maps that are pinned.
    ///
    /// # Errors
    /// The map is not there.
    pub fn open(pins: &Pins) -> Result<Self, MapError> {
        Ok(Self { map: pins.map("COUNTERS")? })
    }

    /// What each hook has counted for `agent`, with what the kernel skipped since it had skipped `before`.
    ///
    /// # Errors
    /// There is no such agent.
    pub fn read(
        &self,
        agent: u32,
        before: &Skips,
        now: &Skips,
    ) -> Result<Vec<(Hook, HookCounts)>, MapError> {
        let row = |row| self.map.get(&Row(CounterKey { agent, row }), 0);
        let rows = (0..COUNTER_ROWS).map(row).collect::<Result<Vec<_>, _>>()?;
        let nothing = || std::iter::repeat(&0);
        let skipped = now.0.iter().chain(nothing()).zip(before.0.iter().chain(nothing()));
        let of = |(spec, (now, before)): (&HookSpec, (&u64, &u64))| {
            let sum = |counter| rows.iter().map(|row| row.0.of(spec.hook, counter)).sum();
            let counts = HookCounts {
                decided: sum(Counter::Decided),
                denied: sum(Counter::Denied),
                lost: sum(Counter::Lost),
                failed: sum(Counter::Failed),
                skipped: now.saturating_sub(*before),
            };
            (spec.hook, counts)
        };
        Ok(Hook::TABLE.iter().zip(skipped).map(of).collect())
    }
}

fn misses(fdinfo: &str) -> io::Result<u64> {
    let line = fdinfo.lines().find_map(|line| line.strip_prefix("recursion_misses:"));
    line.and_then(|number| number.trim().parse().ok())
        .ok_or_else(|| io::Error::other("the kernel does not tell how often it skips a program"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_own_count_is_read_and_its_absence_is_an_error() {
        let told =
            "pos:\t0\nprog_type:\t29\nrun_cnt:\t7\nrecursion_misses:\t12\nverified_insns:\t9\n";
        assert_eq!(misses(told).unwrap(), 12);
        misses("pos:\t0\nrun_cnt:\t7\n").unwrap_err();
        misses("recursion_misses:\tmany\n").unwrap_err();
    }
}
