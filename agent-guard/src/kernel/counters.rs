//! The kernel's counters, summed over the CPUs.

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
}

impl HookCounts {
    /// What was added since `before`.
    pub fn since(self, before: &Self) -> Self {
        Self {
            decided: self.decided.saturating_sub(before.decided),
            denied: self.denied.saturating_sub(before.denied),
            lost: self.lost.saturating_sub(before.lost),
            failed: self.failed.saturating_sub(before.failed),
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
            };
            Ok((spec.hook, counts))
        })
        .collect()
}
