//! The counters of our programs, summed over the CPUs, and the kernel's own of how often it did not run
//! them.

use std::{
    fs, io,
    os::fd::{AsRawFd, OwnedFd},
};

use agent_guard_common::{
    hook::Hook,
    table::{COUNTER_KINDS, Counter},
};
use aya::maps::{Map, MapData, MapError, PerCpuArray};

/// What one hook has counted since it was loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
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

impl HookCounts {
    /// What was added since `before`.
    fn since(self, before: &Self) -> Self {
        Self {
            decided: self.decided.saturating_sub(before.decided),
            denied: self.denied.saturating_sub(before.denied),
            lost: self.lost.saturating_sub(before.lost),
            failed: self.failed.saturating_sub(before.failed),
            skipped: self.skipped.saturating_sub(before.skipped),
        }
    }
}

/// The counters of every hook, and what they said before the agent came.
pub struct Counters {
    map: PerCpuArray<MapData, u64>,
    programs: Vec<(Hook, OwnedFd)>,
    baseline: Vec<HookCounts>,
}

impl Counters {
    /// The counters in `map`, and those of `programs`, which are loaded.
    pub fn new(map: Map, programs: Vec<(Hook, OwnedFd)>) -> Result<Self, MapError> {
        Ok(Self { map: map.try_into()?, programs, baseline: Vec::new() })
    }

    /// Begins to count from what they say now.
    pub fn start(&mut self) -> Result<(), MapError> {
        self.baseline = self.absolute()?.into_iter().map(|(_, counts)| counts).collect();
        Ok(())
    }

    /// Counts on from where another process began.
    pub fn resume(&mut self, baseline: Vec<HookCounts>) {
        self.baseline = baseline;
    }

    /// Where the counting began, in the order of the hooks.
    pub fn baseline(&self) -> &[HookCounts] {
        &self.baseline
    }

    /// What each hook has counted since.
    pub fn read(&self) -> Result<Vec<(Hook, HookCounts)>, MapError> {
        let mut counts = self.absolute()?;
        for ((_, counts), before) in counts.iter_mut().zip(&self.baseline) {
            *counts = counts.since(before);
        }
        Ok(counts)
    }

    fn absolute(&self) -> Result<Vec<(Hook, HookCounts)>, MapError> {
        let sum = |hook: Hook, counter: Counter| -> Result<u64, MapError> {
            Ok(self.map.get(&(hook as u32 * COUNTER_KINDS + counter as u32), 0)?.iter().sum())
        };
        let of = |hook| -> Result<_, MapError> {
            let counts = HookCounts {
                decided: sum(hook, Counter::Decided)?,
                denied: sum(hook, Counter::Denied)?,
                lost: sum(hook, Counter::Lost)?,
                failed: sum(hook, Counter::Failed)?,
                skipped: self.skipped(hook)?,
            };
            Ok((hook, counts))
        };
        Hook::TABLE.iter().map(|spec| of(spec.hook)).collect()
    }

    /// How often the kernel did not run a program since it was loaded; 0 for one that is not loaded, as
    /// those of other tiers are not.
    fn skipped(&self, hook: Hook) -> io::Result<u64> {
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
