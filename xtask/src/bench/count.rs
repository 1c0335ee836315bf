//! Counts guest instructions. Under `-icount` with a shift of 0 QEMU's time stamp counter goes up by one for
//! each instruction that the guest executes, its kernel's among them.

use std::arch::x86_64::_rdtsc;

use anyhow::Result;

use super::work::{Place, Work};

/// Instructions that one call of `work` takes: the least of what several rounds give, since an interrupt that
/// falls into a round only adds.
pub fn instructions(work: Work, place: &Place) -> Result<u64> {
    let (rounds, calls) = work.repetitions();
    let mut least = u64::MAX;
    let mut doing = work.prepare(place)?;
    for _ in 0..rounds {
        let before = now();
        for call in 0..calls {
            doing.call(call)?;
        }
        least = least.min(now().saturating_sub(before));
    }
    Ok(least / u64::from(calls))
}

fn now() -> u64 {
    // SAFETY: every x86-64 processor has the instruction.
    unsafe { _rdtsc() }
}
