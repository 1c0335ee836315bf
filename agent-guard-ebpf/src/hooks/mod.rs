//! The entries, one file for each family. Each shows the kernel's prototype; the loader compares the
//! parameters with the running kernel's BTF before it loads anything.

mod cgroup;
mod control;
mod exec;
mod file;
mod metadata;
mod mount;
mod names;
mod net;
mod process;
mod receive;
mod system;
mod task;
mod trace;

pub use self::net::{AF_INET, AF_INET6};
use agent_guard_common::{event::Operation, hook::Hook};

use crate::{
    emit::Enforcement,
    guard::{self, Caller, Tell, Verdict},
};

/// `-EACCES`
const DENIED: i32 = -13;
/// `-EPERM`
const NOT_PERMITTED: i32 = -1;

/// What an LSM program returns.
#[inline(always)]
fn lsm_result(verdict: Verdict) -> i32 {
    match verdict {
        Verdict::Proceed => 0,
        Verdict::Stop => DENIED,
    }
}

/// Decides an operation of the current task that is upon no process. Refused as the kernel refuses whoever
/// lacks the capability.
#[inline(always)]
fn operate(hook: Hook, operation: Operation, tell: Tell) -> i32 {
    match Caller::current(hook, Enforcement::Refuse) {
        Some(caller) => operation_result(guard::operate(caller, operation, Ok(0), tell)),
        None => 0,
    }
}

/// What an LSM program returns for an operation.
#[inline(always)]
fn operation_result(verdict: Verdict) -> i32 {
    match verdict {
        Verdict::Proceed => 0,
        Verdict::Stop => NOT_PERMITTED,
    }
}
