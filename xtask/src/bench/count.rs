//! What is counted: guest instructions, or time. Under `-icount` with a shift of 0 QEMU's time stamp counter goes up
//! by one for each instruction that the guest executes, its kernel's among them; and while it has nothing to do, by
//! one for each nanosecond.

use std::{arch::x86_64::_rdtsc, sync::OnceLock, time::Instant};

use anyhow::Result;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::{place::Place, work::Work};

/// What a figure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Clock {
    Instructions,
    Nanoseconds,
}

impl Clock {
    /// As the programs that count are told.
    pub fn name(self) -> &'static str {
        match self {
            Self::Instructions => "instructions",
            Self::Nanoseconds => "nanoseconds",
        }
    }

    /// What one call of `work` takes: the least of what several rounds give, since what interrupts a round only
    /// adds.
    pub fn count(self, work: Work, place: &Place) -> Result<u64> {
        let (rounds, calls) = work.repetitions();
        let mut least = u64::MAX;
        let mut doing = work.prepare(place)?;
        for _ in 0..rounds {
            let before = self.now();
            for call in 0..calls {
                doing.call(call)?;
            }
            least = least.min(self.now().saturating_sub(before));
        }
        Ok(least / u64::from(calls))
    }

    fn now(self) -> u64 {
        match self {
            // SAFETY: every x86-64 processor has the instruction.
            Self::Instructions => unsafe { _rdtsc() },
            Self::Nanoseconds => {
                static START: OnceLock<Instant> = OnceLock::new();
                let nanos = START.get_or_init(Instant::now).elapsed().as_nanos();
                u64::try_from(nanos).unwrap_or(u64::MAX)
            }
        }
    }
}
