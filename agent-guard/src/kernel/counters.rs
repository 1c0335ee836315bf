//! The kernel's counters, summed over the CPUs.

use agent_guard_common::{
    hook::Hook,
    table::{COUNTER_KINDS, Counter},
};
use aya::maps::{Map, MapError, PerCpuArray};

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
}

impl HookCounts {
    /// What was added since `before`.
    fn since(self, before: &Self) -> Self {
        Self {
            decided: self.decided.saturating_sub(before.decided),
            denied: self.denied.saturating_sub(before.denied),
            lost: self.lost.saturating_sub(before.lost),
            failed: self.failed.saturating_sub(before.failed),
        }
    }
}

/// What was added to `counts` since `baseline`, which is in the same order.
pub fn since(
    mut counts: Vec<(Hook, HookCounts)>,
    baseline: &[HookCounts],
) -> Vec<(Hook, HookCounts)> {
    for ((_, counts), before) in counts.iter_mut().zip(baseline) {
        *counts = counts.since(before);
    }
    counts
}

/// Reads the counters of every hook from the map `COUNTERS`.
pub fn read(map: &Map) -> Result<Vec<(Hook, HookCounts)>, MapError> {
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
