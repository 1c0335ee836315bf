//! Processes outside the agent. Among its own an agent does what the kernel lets it.

use agent_guard_common::{event::Operation, hook::Hook, table::Counter};
use aya_ebpf::{
    bindings::task_struct,
    macros::{fexit, lsm},
    programs::{FExitContext, LsmContext},
};

use super::{NOT_PERMITTED, operation_result};
use crate::{
    emit::Enforcement,
    guard::{self, Caller, Tell},
    kernel::has,
    maps, process, scope,
};

/// Decides an operation upon the process that `task` belongs to.
#[inline(always)]
fn upon(hook: Hook, operation: Operation, task: *mut task_struct, tell: Tell) -> i32 {
    let Some(caller) = Caller::current(hook, Enforcement::Refuse) else { return 0 };
    let target = match process::is_own(caller, task) {
        Ok(true) => return 0,
        Ok(false) => process::id(task as u64),
        Err(reason) => Err(reason),
    };
    operation_result(guard::operate(caller, operation, target, tell))
}

/// As [`upon`] for [`Operation::Tune`], where the program at the return, `check`, sees the refusal too.
#[inline(always)]
fn tune(hook: Hook, check: Hook, task: *mut task_struct) -> i32 {
    let result = upon(hook, Operation::Tune, task, Tell::All);
    if result != 0 && has(check) {
        scope::tell_of_refusal();
    }
    result
}

/// Tells of what the kernel refused by itself: tuning a process that has capabilities which the caller lacks,
/// about which it asks nobody. Nothing is decided here.
#[inline(always)]
fn tell_of_tuning(hook: Hook, task: *mut task_struct, returned: i32) -> i32 {
    if returned != NOT_PERMITTED {
        return 0;
    }
    let Some(caller) = Caller::current(hook, Enforcement::Kernel) else { return 0 };
    if scope::take_told_refusal() {
        return 0;
    }
    let target = match process::is_own(caller, task) {
        Ok(true) => return 0,
        Ok(false) => process::id(task as u64),
        Err(reason) => Err(reason),
    };
    if target.is_err() {
        maps::count(caller.agent, hook, Counter::Failed);
    } else {
        // A policy that allows the operation has left the capability, and something else took it away.
        guard::operate(caller, Operation::Tune, target, Tell::Denials);
    }
    0
}

/// `PTRACE_MODE_NOAUDIT`: who reads `/proc/PID/stat` of everybody, as ps does, is shown less and not told of.
const NOAUDIT: u32 = 4;

/// `int ptrace_access_check(struct task_struct *child, unsigned int mode)`
///
/// Beside ptrace(2): process_vm_readv, pidfd_getfd, kcmp, setns to a process, and what `/proc/PID` guards.
#[lsm(hook = "ptrace_access_check")]
fn ptrace_access_check(ctx: LsmContext) -> i32 {
    let earlier: i32 = ctx.arg(2);
    if earlier != 0 {
        return earlier;
    }
    let mode: u32 = ctx.arg(1);
    let tell = if mode & NOAUDIT != 0 { Tell::Nothing } else { Tell::All };
    upon(Hook::PtraceAccessCheck, Operation::Trace, ctx.arg(0), tell)
}

/// `int ptrace_traceme(struct task_struct *parent)`
#[lsm(hook = "ptrace_traceme")]
fn ptrace_traceme(ctx: LsmContext) -> i32 {
    let earlier: i32 = ctx.arg(1);
    if earlier != 0 {
        return earlier;
    }
    upon(Hook::PtraceTraceme, Operation::Trace, ctx.arg(0), Tell::All)
}

/// `int task_kill(struct task_struct *p, struct kernel_siginfo *info, int sig, const struct cred *cred)`
///
/// Signals that the kernel sends of its own accord do not come by.
#[lsm(hook = "task_kill")]
fn task_kill(ctx: LsmContext) -> i32 {
    let earlier: i32 = ctx.arg(4);
    if earlier != 0 {
        return earlier;
    }
    upon(Hook::TaskKill, Operation::Signal, ctx.arg(0), Tell::All)
}

/// `int task_setrlimit(struct task_struct *p, unsigned int resource, struct rlimit *new_rlim)`
///
/// `task_prlimit` is given credentials and no process; reading limits is all that it could add.
#[lsm(hook = "task_setrlimit")]
fn task_setrlimit(ctx: LsmContext) -> i32 {
    let earlier: i32 = ctx.arg(3);
    if earlier != 0 {
        return earlier;
    }
    upon(Hook::TaskSetrlimit, Operation::Tune, ctx.arg(0), Tell::All)
}

/// `int task_setscheduler(struct task_struct *p)`
#[lsm(hook = "task_setscheduler")]
fn task_setscheduler(ctx: LsmContext) -> i32 {
    let earlier: i32 = ctx.arg(1);
    if earlier != 0 {
        return earlier;
    }
    tune(Hook::TaskSetscheduler, Hook::SetschedulerCheck, ctx.arg(0))
}

/// `int security_task_setscheduler(struct task_struct *p)`
#[fexit(function = "security_task_setscheduler")]
fn setscheduler_check(ctx: FExitContext) -> i32 {
    tell_of_tuning(Hook::SetschedulerCheck, ctx.arg(0), ctx.arg(1))
}

/// `int task_setnice(struct task_struct *p, int nice)`
#[lsm(hook = "task_setnice")]
fn task_setnice(ctx: LsmContext) -> i32 {
    let earlier: i32 = ctx.arg(2);
    if earlier != 0 {
        return earlier;
    }
    tune(Hook::TaskSetnice, Hook::SetniceCheck, ctx.arg(0))
}

/// `int security_task_setnice(struct task_struct *p, int nice)`
#[fexit(function = "security_task_setnice")]
fn setnice_check(ctx: FExitContext) -> i32 {
    tell_of_tuning(Hook::SetniceCheck, ctx.arg(0), ctx.arg(2))
}

/// `int task_setioprio(struct task_struct *p, int ioprio)`
#[lsm(hook = "task_setioprio")]
fn task_setioprio(ctx: LsmContext) -> i32 {
    let earlier: i32 = ctx.arg(2);
    if earlier != 0 {
        return earlier;
    }
    tune(Hook::TaskSetioprio, Hook::SetioprioCheck, ctx.arg(0))
}

/// `int security_task_setioprio(struct task_struct *p, int ioprio)`
#[fexit(function = "security_task_setioprio")]
fn setioprio_check(ctx: FExitContext) -> i32 {
    tell_of_tuning(Hook::SetioprioCheck, ctx.arg(0), ctx.arg(2))
}

/// `int task_movememory(struct task_struct *p)`
#[lsm(hook = "task_movememory")]
fn task_movememory(ctx: LsmContext) -> i32 {
    let earlier: i32 = ctx.arg(1);
    if earlier != 0 {
        return earlier;
    }
    upon(Hook::TaskMovememory, Operation::Tune, ctx.arg(0), Tell::All)
}
