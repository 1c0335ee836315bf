//! The entries, one file for each family. Each shows the kernel's prototype; the loader compares the
//! parameters with the running kernel's BTF before it loads anything.

mod capability;
mod cgroup;
mod control;
mod exec;
mod file;
mod inode;
mod listen;
mod metadata;
mod mount;
mod names;
mod net;
mod process;
mod receive;
mod socket;
mod system;
mod task;
mod trace;
mod unix;

use agent_guard_common::{event::Operation, hook::Hook};
use aya_ebpf::{EbpfContext as _, programs::LsmContext};

use crate::{
    emit::Enforcement,
    guard::{self, Caller, Tell, Verdict},
    kernel,
};

/// An argument of a hook as a number, by its place. The verifier takes a read of the context for the pointer
/// that it is, and lets nobody compare it.
#[inline(always)]
fn number(ctx: &LsmContext, place: u32) -> u64 {
    kernel::read(ctx.as_ptr() as u64, place * 8).unwrap_or(0)
}

/// The verdict of earlier programs, at the place `$place` behind the arguments on some kernels and at another
/// on others. In assembly: the compiler would make one load of two at an address that it chooses before, and
/// the verifier wants the context itself and a constant.
macro_rules! earlier_at {
    ($ctx:ident, $place:literal) => {{
        let value: i64;
        // SAFETY: reads eight bytes of the context, where the kernel has put the arguments and the verdict.
        unsafe {
            core::arch::asm!(
                "{value} = *(u64 *)({context} + {offset})",
                value = out(reg) value,
                context = in(reg) aya_ebpf::EbpfContext::as_ptr(&$ctx),
                offset = const 8 * $place,
            );
        }
        value as i32
    }};
}
use earlier_at;

/// `-EACCES`
const DENIED: i32 = -13;
/// `-EPERM`
const NOT_PERMITTED: i32 = -1;

/// What an LSM program returns.
#[inline(always)]
fn lsm_result(verdict: Verdict) -> i32 {
    match verdict {
        Verdict::Proceed | Verdict::Divert => 0,
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
        Verdict::Proceed | Verdict::Divert => 0,
        Verdict::Stop => NOT_PERMITTED,
    }
}
