//! Files and programs on tiers `trace` and `observe`: judged by what the call resolved to, after it
//! did so and before user space can use it. A denial kills the process.

use agent_guard_common::{
    decide::{Reason, Request},
    event::Action,
    hook::Hook,
    table::Counter,
};
use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, bpf_get_current_task, bpf_send_signal},
    macros::raw_tracepoint,
    programs::RawTracePointContext,
};

use super::file::{is_path_only, open_request};
use crate::{
    emit::Enforcement,
    guard::{self, Ask, Caller, Telling, Verdict},
    kernel::{Object, Probed, offset, read, read_user, system_call},
    maps, scope,
    terminal::{self, TIOCSPTLCK},
};

const SIGKILL: u32 = 9;

/// Open flag that the kernel takes out of the file's own flags once it has emptied the file.
const O_TRUNC: u64 = 0o1000;

/// What a system call's result is good for.
enum Call {
    /// It returned a descriptor of a file that it resolved or fetched, and had the file emptied where
    /// `truncates`.
    Opens { truncates: bool },
    /// It set up an io_uring, whose opens and connects pass no tracepoint of this tier.
    IoUring,
    /// It made the process or the thread that now returns from it for the first time.
    Begins,
    /// It locked or unlocked the terminal whose other end is this descriptor.
    Unlocks { descriptor: u64 },
    /// Nothing judged here.
    Other,
}

/// `void sys_exit(struct pt_regs *regs, long ret)`
#[raw_tracepoint(tracepoint = "sys_exit")]
fn sys_exit(ctx: RawTracePointContext) -> i32 {
    let returned: i64 = ctx.arg(1);
    if returned < 0 {
        return 0;
    }
    let regs: u64 = ctx.arg(0);
    let call = match call(regs, returned) {
        Call::Other => return 0,
        Call::Unlocks { descriptor } => {
            if let Ok(file) = file_of_descriptor(descriptor) {
                terminal::unlock_terminal(file, scope::agent_of(scope::current()).into());
            }
            return 0;
        }
        call => call,
    };
    let Some(caller) = Caller::current(Hook::SysExit, Enforcement::Kill) else { return 0 };
    let verdict = match call {
        Call::Opens { truncates } => {
            // An address and no `Result`: the compiler loads what that holds before it looks whether it holds
            // any, and the verifier of 6.1 refuses to read stack that nobody wrote. From 0 nothing can be read.
            let file = file_of_descriptor(returned as u64).unwrap_or(0);
            let object = Object::<Probed>::of_file(file);
            if is_path_only(file) == Ok(true) && !object.is_cgroup() {
                return 0;
            }
            let request = match open_request(file) {
                Request::Read if truncates => Request::ReadWrite,
                request => request,
            };
            guard::file(caller, &object, Ask::open(request, Telling::All))
        }
        Call::IoUring => guard::close_interface(caller, Action::IoUring),
        // What one process of the two opened before its end, the other would keep.
        Call::Begins if shares_descriptors().unwrap_or(true) => {
            guard::close_interface(caller, Action::ShareDescriptors)
        }
        Call::Begins => Verdict::Proceed,
        Call::Unlocks { .. } | Call::Other => Verdict::Proceed,
    };
    kill_if(caller, verdict)
}

/// `void sched_process_exec(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm)`
///
/// The file is the program that will run: for a script, its interpreter.
#[raw_tracepoint(tracepoint = "sched_process_exec")]
fn sched_exec(ctx: RawTracePointContext) -> i32 {
    let Some(caller) = Caller::current(Hook::SchedExec, Enforcement::Kill) else { return 0 };
    let bprm: u64 = ctx.arg(2);
    let object = Object::<Probed>::of_file(read(bprm, offset!(bprm_file)).unwrap_or(0));
    let ask = Ask::open(Request::Exec, Telling::All);
    kill_if(caller, guard::file(caller, &object, ask))
}

#[inline(always)]
fn kill_if(caller: Caller, verdict: Verdict) -> i32 {
    // SAFETY: the helper has no preconditions.
    if verdict == Verdict::Stop && unsafe { bpf_send_signal(SIGKILL) } != 0 {
        maps::count(caller.agent, caller.hook, Counter::Failed);
    }
    0
}

/// Sorts a call by its number, in the table of the ABI that it was made through. The kernel goes by 32 bits of
/// the number, and keeps whatever the caller had above.
#[inline(always)]
fn call(regs: u64, returned: i64) -> Call {
    let Ok(call) = system_call(regs) else { return Call::Opens { truncates: true } };
    let flags = match call {
        // open
        (true, 5) => read(regs, offset!(regs_cx)),
        (false, 2) => read(regs, offset!(regs_si)),
        // openat, open_by_handle_at
        (true, 295 | 342) | (false, 257 | 304) => read(regs, offset!(regs_dx)),
        // openat2: the first word of `struct open_how`
        (_, 437) => read(regs, offset!(regs_dx)).and_then(read_user),
        // creat, which opens for writing, and pidfd_getfd, which opens nothing
        (true, 8 | 438) | (false, 85 | 438) => Ok(0),
        (_, 425) => return Call::IoUring,
        // fork, clone, vfork, clone3: zero is what the new task returns
        (true, 2 | 120 | 190 | 435) | (false, 56..=58 | 435) if returned == 0 => {
            return Call::Begins;
        }
        // ioctl
        (true, 54) if is_unlocking(regs, offset!(regs_cx)) => {
            return unlocks(regs, offset!(regs_bx));
        }
        (false, 16) if is_unlocking(regs, offset!(regs_si)) => {
            return unlocks(regs, offset!(regs_di));
        }
        _ => return Call::Other,
    };
    Call::Opens { truncates: flags.map_or(true, |flags: u64| flags & O_TRUNC != 0) }
}

/// Whether the command of an ioctl(2), in the register at this offset, is about a terminal's lock.
#[inline(always)]
fn is_unlocking(regs: u64, command: u32) -> bool {
    read::<u32>(regs, command) == Ok(TIOCSPTLCK)
}

#[inline(always)]
fn unlocks(regs: u64, descriptor: u32) -> Call {
    // The kernel looks at 32 bits of it. What can not be read is no descriptor.
    let descriptor = read::<u32>(regs, descriptor).unwrap_or(u32::MAX);
    Call::Unlocks { descriptor: descriptor.into() }
}

/// Whether the current task, which has just begun, is a process with the descriptors of the one that made it
/// (`CLONE_FILES` without `CLONE_THREAD`).
///
/// Asked of a new process only, whose single thread is the single user of a table of its own. Of its maker
/// nothing can be told: `copy_process` adds a thread to the users of the table first and to the threads of
/// the process last, so that a process that makes threads looks meanwhile as if it shared.
#[inline(always)]
fn shares_descriptors() -> Result<bool, Reason> {
    let id = bpf_get_current_pid_tgid();
    if id as u32 != (id >> 32) as u32 {
        return Ok(false);
    }
    // SAFETY: the helper has no preconditions.
    let task = unsafe { bpf_get_current_task() };
    let users: i32 = read(read(task, offset!(task_files))?, offset!(files_count))?;
    Ok(users > 1)
}

/// The `struct file` behind a descriptor of the current task.
#[inline(always)]
fn file_of_descriptor(descriptor: u64) -> Result<u64, Reason> {
    // SAFETY: the helper has no preconditions.
    let task = unsafe { bpf_get_current_task() };
    let files: u64 = read(task, offset!(task_files))?;
    let table: u64 = read(files, offset!(files_fdt))?;
    let max: u32 = read(table, offset!(fdt_max))?;
    if descriptor >= u64::from(max) {
        return Err(Reason::Failed);
    }
    let array: u64 = read(table, offset!(fdt_fd))?;
    let file: u64 = read(array + descriptor * 8, 0)?;
    if file == 0 { Err(Reason::Failed) } else { Ok(file) }
}
