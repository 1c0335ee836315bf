//! The entries, one file for each family. Each shows the kernel's prototype; the loader compares the
//! parameters with the running kernel's BTF before it loads anything.

mod cgroup;
mod exec;
mod file;
mod listen;
mod net;
mod socket;
mod task;
mod trace;
mod unix;

use crate::guard::Verdict;

/// `-EACCES`
const DENIED: i32 = -13;

/// What an LSM program returns.
#[inline(always)]
fn lsm_result(verdict: Verdict) -> i32 {
    match verdict {
        Verdict::Proceed => 0,
        Verdict::Stop => DENIED,
    }
}
