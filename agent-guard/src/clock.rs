//! The clock that the kernel programs tell time by: it does not jump, and goes on while the host sleeps.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds on `CLOCK_BOOTTIME`.
#[must_use]
pub fn boot_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    u64::try_from(i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec)).unwrap_or(0)
}
