//! What is counted, and how a figure is told.

use std::{arch::x86_64::_rdtsc, sync::OnceLock, time::Instant};

use clap::ValueEnum;
use serde_json::json;

#[derive(Clone, Copy, ValueEnum)]
pub enum Clock {
    /// Time.
    Nanoseconds,
    /// Instructions of a guest whose time stamp counter counts them.
    Instructions,
}

impl Clock {
    /// The clock's reading.
    pub fn now(self) -> u64 {
        match self {
            Self::Nanoseconds => {
                static START: OnceLock<Instant> = OnceLock::new();
                let nanos = START.get_or_init(Instant::now).elapsed().as_nanos();
                u64::try_from(nanos).unwrap_or(u64::MAX)
            }
            // SAFETY: every x86-64 processor has the instruction.
            Self::Instructions => unsafe { _rdtsc() },
        }
    }

    /// How much `action` takes.
    pub fn count<T>(self, action: impl FnOnce() -> T) -> (u64, T) {
        let before = self.now();
        let result = action();
        (self.now().saturating_sub(before), result)
    }
}

/// Prints the figure of `work`, as a line that the bench reads.
pub fn tell(work: &str, figure: u64) {
    println!("{}", json!({ "work": work, "figure": figure }));
}
