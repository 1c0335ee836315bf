//! The counters of our programs, summed over the CPUs, and the kernel's own of how often it did not run
//! them.

use std::{
    fs, io,
    os::fd::{AsRawFd, OwnedFd},
};

use agent_guard_common::{
    hook::{Hook, HookSpec},
    table::{self, Counter},
};
use aya::maps::{MapData, MapError, PerCpuHashMap};

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

/// The counters of an agent at every hook, and how often the kernel had skipped a program before it came.
pub struct Counters {
    map: PerCpuHashMap<MapData, u32, Row<table::Counters>>,
    programs: Vec<(Hook, OwnedFd)>,
    agent: u32,
    skipped: Vec<u64>,
}

impl Counters {
    /// Those of `agent` in the maps that are pinned, and the kernel's of `programs`, which are loaded. What it
    /// has skipped by now is not this agent's.
    pub fn open(pins: &Pins, programs: Vec<(Hook, OwnedFd)>, agent: u32) -> Result<Self, MapError> {
        let mut counters =
            Self { map: pins.map("COUNTERS")?, programs, agent, skipped: Vec::new() };
        let now = Hook::TABLE.iter().map(|spec| counters.skipped_since_load(spec.hook));
        counters.skipped = now.collect::<io::Result<_>>()?;
        Ok(counters)
    }

    /// Counts on from where another process began.
    #[must_use]
    pub fn resume(mut self, skipped: Vec<u64>) -> Self {
        self.skipped = skipped;
        self
    }

    /// What the kernel had skipped before the agent came, in the order of the hooks.
    pub fn skipped(&self) -> &[u64] {
        &self.skipped
    }

    /// What each hook has counted.
    pub fn read(&self) -> Result<Vec<(Hook, HookCounts)>, MapError> {
        let rows = self.map.get(&self.agent, 0)?;
        let before = self.skipped.iter().copied().chain(std::iter::repeat(0));
        let of = |(spec, before): (&HookSpec, u64)| -> Result<_, MapError> {
            let sum = |counter| rows.iter().map(|row| row.0.of(spec.hook, counter)).sum();
            let counts = HookCounts {
                decided: sum(Counter::Decided),
                denied: sum(Counter::Denied),
                lost: sum(Counter::Lost),
                failed: sum(Counter::Failed),
                skipped: self.skipped_since_load(spec.hook)?.saturating_sub(before),
            };
            Ok((spec.hook, counts))
        };
        Hook::TABLE.iter().zip(before).map(of).collect()
    }

    /// How often the kernel did not run a program since it was loaded; 0 for one that is not loaded, as
    /// those of other tiers are not.
    fn skipped_since_load(&self, hook: Hook) -> io::Result<u64> {
        let program = self.programs.iter().find(|(of, _)| *of == hook);
        let Some((_, program)) = program else { return Ok(0) };
        misses(&fs::read_to_string(format!("/proc/self/fdinfo/{}", program.as_raw_fd()))?)
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
