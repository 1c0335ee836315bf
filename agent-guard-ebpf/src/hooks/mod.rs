//! The entries, one file for each family. Each shows the kernel's prototype; the loader compares the
//! parameters with the running kernel's BTF before it loads anything.

mod cgroup;
mod exec;
mod file;
mod net;
mod task;
mod trace;

pub use self::net::{AF_INET, AF_INET6};
use crate::guard::Verdict;

/// `-EACCES`
const DENIED: i32 = -13;

/// What an LSM program returns.
#[inline(always)]
fn lsm_result(verdict: Verdict) -> i32 {
    match verdict {
        Verdict::Proceed | Verdict::Divert => 0,
        Verdict::Stop => DENIED,
    }
}
