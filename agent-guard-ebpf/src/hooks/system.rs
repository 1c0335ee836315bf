//! The kernel itself: namespaces, bpf(2), counters, its log, code that is handed to it.

use agent_guard_common::{event::Operation, hook::Hook};
use aya_ebpf::{EbpfContext as _, macros::lsm, programs::LsmContext};

use super::operate;
use crate::{guard::Tell, kernel::prototype};

/// Argument `N`, where it depends on the prototype which one is read. The compiler would else make one
/// load with a computed place of the two, which the verifier does not take.
#[inline(always)]
fn argument<const N: usize>(ctx: &LsmContext) -> i32 {
    let value: u64;
    // SAFETY: the kernel passes a context with that many arguments where this prototype is its own.
    unsafe {
        core::arch::asm!("{0} = *(u64 *)({1} + {2})", out(reg) value, in(reg) ctx.as_ptr(), const N * 8);
    }
    value as i32
}

/// `int userns_create(const struct cred *cred)`
#[lsm(hook = "userns_create")]
fn userns_create(ctx: LsmContext) -> i32 {
    let earlier: i32 = ctx.arg(1);
    if earlier != 0 {
        return earlier;
    }
    operate(Hook::UsernsCreate, Operation::UserNamespace, Tell::All)
}

/// `int bpf(int cmd, union bpf_attr *attr, unsigned int size)`
/// `int bpf(int cmd, union bpf_attr *attr, unsigned int size, bool kernel)`
#[lsm(hook = "bpf")]
fn bpf(ctx: LsmContext) -> i32 {
    let earlier = if prototype(Hook::Bpf) == 0 { argument::<3>(&ctx) } else { argument::<4>(&ctx) };
    if earlier != 0 {
        return earlier;
    }
    operate(Hook::Bpf, Operation::Bpf, Tell::All)
}

/// What `perf_event_open` is asked first, before it is asked of the kind of counter.
const PERF_SECURITY_OPEN: i32 = 0;

/// `int perf_event_open(struct perf_event_attr *attr, int type)`
/// `int perf_event_open(int type)`
#[lsm(hook = "perf_event_open")]
fn perf_event_open(ctx: LsmContext) -> i32 {
    let (kind, earlier) = if prototype(Hook::PerfEventOpen) == 0 {
        (argument::<1>(&ctx), argument::<2>(&ctx))
    } else {
        (argument::<0>(&ctx), argument::<1>(&ctx))
    };
    if earlier != 0 {
        return earlier;
    }
    let tell = if kind == PERF_SECURITY_OPEN { Tell::All } else { Tell::Denials };
    operate(Hook::PerfEventOpen, Operation::Perf, tell)
}

/// `int kernel_load_data(enum kernel_load_data_id id, bool contents)`
#[lsm(hook = "kernel_load_data")]
fn kernel_load_data(ctx: LsmContext) -> i32 {
    let earlier: i32 = ctx.arg(2);
    if earlier != 0 {
        return earlier;
    }
    hand_over(Hook::KernelLoadData, ctx.arg(0))
}

/// `int kernel_read_file(struct file *file, enum kernel_read_file_id id, bool contents)`
#[lsm(hook = "kernel_read_file")]
fn kernel_read_file(ctx: LsmContext) -> i32 {
    let earlier: i32 = ctx.arg(3);
    if earlier != 0 {
        return earlier;
    }
    hand_over(Hook::KernelReadFile, ctx.arg(1))
}

/// `int syslog(int type)`
///
/// syslog(2), and opening and reading the files of the kernel's log, which only an exact rule opens.
#[lsm(hook = "syslog")]
fn syslog(ctx: LsmContext) -> i32 {
    let earlier: i32 = ctx.arg(1);
    if earlier != 0 {
        return earlier;
    }
    operate(Hook::Syslog, Operation::KernelLog, Tell::All)
}

/// `enum kernel_load_data_id` and `enum kernel_read_file_id` have the same numbers.
const FIRMWARE: u32 = 1;
const KEXEC_IMAGE: u32 = 3;
const KEXEC_INITRAMFS: u32 = 4;

/// Firmware is what a driver asks for, by a name of its own, whoever opens its device. What else there is,
/// and what later kernels add, becomes part of the kernel.
#[inline(always)]
fn hand_over(hook: Hook, id: u32) -> i32 {
    let operation = match id {
        FIRMWARE => return 0,
        KEXEC_IMAGE | KEXEC_INITRAMFS => Operation::Kexec,
        _ => Operation::Module,
    };
    operate(hook, operation, Tell::All)
}
