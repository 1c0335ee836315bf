//! The counters of our programs, summed over the CPUs, and the kernel's own of how often it did not run
//! them.

use std::{
    fs, io,
    os::fd::{AsFd, AsRawFd},
};

use agent_guard_common::{
    hook::Hook,
    table::{COUNTER_KINDS, Counter},
};
use aya::{
    Ebpf,
    maps::{MapError, PerCpuArray},
};

/// What one hook has counted since it was loaded.
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

impl HookCounts {
    /// What was added since `before`.
    pub fn since(self, before: &Self) -> Self {
        Self {
            decided: self.decided.saturating_sub(before.decided),
            denied: self.denied.saturating_sub(before.denied),
            lost: self.lost.saturating_sub(before.lost),
            failed: self.failed.saturating_sub(before.failed),
            skipped: self.skipped.saturating_sub(before.skipped),
        }
    }
}

/// Reads the counters of every hook.
pub fn read(ebpf: &Ebpf) -> Result<Vec<(Hook, HookCounts)>, MapError> {
    let Some(map) = ebpf.map("COUNTERS") else { return Ok(Vec::new()) };
    let map: PerCpuArray<_, u64> = PerCpuArray::try_from(map)?;
    let sum = |hook: Hook, counter: Counter| -> Result<u64, MapError> {
        Ok(map.get(&(hook as u32 * COUNTER_KINDS + counter as u32), 0)?.iter().sum())
    };
    Hook::TABLE
        .iter()
        .map(|spec| {
            let counts = HookCounts {
                decided: sum(spec.hook, Counter::Decided)?,
                denied: sum(spec.hook, Counter::Denied)?,
                lost: sum(spec.hook, Counter::Lost)?,
                failed: sum(spec.hook, Counter::Failed)?,
                skipped: skipped(ebpf, spec.program)?,
            };
            Ok((spec.hook, counts))
        })
        .collect()
}

/// How often the kernel did not run a program since it was loaded; 0 for one that is not loaded, as those of
/// other tiers are not.
fn skipped(ebpf: &Ebpf, program: &str) -> io::Result<u64> {
    let Some(Ok(program)) = ebpf.program(program).map(|program| program.fd()) else { return Ok(0) };
    let path = format!("/proc/self/fdinfo/{}", program.as_fd().as_raw_fd());
    misses(&fs::read_to_string(path)?)
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
