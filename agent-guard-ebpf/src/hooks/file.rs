//! Files: opened.

use agent_guard_common::{
    decide::{Reason, Request},
    hook::Hook,
};
use aya_ebpf::{macros::lsm, programs::LsmContext};

use super::lsm_result;
use crate::{
    cache::Question,
    emit::Enforcement,
    guard::{self, Ask, Caller, Telling},
    kernel::{is_of_overlay, is_pidfd, offset, read, typed},
    scope,
};

/// `f_mode` bits.
const FMODE_READ: u32 = 1;
const FMODE_WRITE: u32 = 2;
/// `f_flags` bits: `O_TRUNC`, `O_PATH`, and `__FMODE_EXEC`, set where the kernel opens a file to run it.
const O_TRUNC: u32 = 0o1000;
const O_PATH: u32 = 0o1000_0000;
const FMODE_EXEC: u32 = 0x20;

/// What an open asks for, by the file's own mode and flags.
#[inline(always)]
pub fn open_request(file: u64) -> Request {
    match (read(file, offset!(file_mode)), read(file, offset!(file_flags))) {
        (Ok(mode), Ok(flags)) => request_of(mode, flags),
        _ => Request::ReadWrite,
    }
}

/// As [`open_request`], of `f_mode` and `f_flags`.
#[inline(always)]
fn request_of(mode: u32, flags: u32) -> Request {
    if flags & FMODE_EXEC != 0 { Request::Load } else { held(mode, flags) }
}

/// What an open file can be used for, whatever it was opened for.
#[inline(always)]
pub fn held_request(file: u64) -> Request {
    let (Ok(mode), Ok(flags)) =
        (read::<u32>(file, offset!(file_mode)), read::<u32>(file, offset!(file_flags)))
    else {
        return Request::ReadWrite;
    };
    held(mode, flags)
}

#[inline(always)]
fn held(mode: u32, flags: u32) -> Request {
    let writes = mode & FMODE_WRITE != 0 || flags & O_TRUNC != 0;
    match (mode & FMODE_READ != 0, writes) {
        (true, true) => Request::ReadWrite,
        (false, true) => Request::Write,
        (_, false) => Request::Read,
    }
}

/// Whether a file was opened with `O_PATH`: it gives no access, and opening it again is judged. All the same
/// a process can be started in the cgroup that such a directory stands for (`CLONE_INTO_CGROUP`).
#[inline(always)]
pub fn is_path_only(file: u64) -> Result<bool, Reason> {
    Ok(read::<u32>(file, offset!(file_flags))? & O_PATH != 0)
}

/// `int file_open(struct file *file)`
///
/// A process descriptor gives no access: what is done with one is judged as an operation. Kernels from 6.9
/// on open it as a file. A file opened to be run is judged here only for what `bprm_check_security` never sees: the
/// loader that a program names.
#[lsm(hook = "file_open")]
fn file_open(ctx: LsmContext) -> i32 {
    let earlier: i32 = ctx.arg(1);
    if earlier != 0 {
        return earlier;
    }
    if scope::is_outside(scope::current()) {
        return 0;
    }
    open(&ctx)
}

/// An open of a task that is not known to be outside. A function of its own, because an entry saves all
/// registers that are used on any of its ways, and everybody's opens come by there.
#[inline(never)]
fn open(ctx: &LsmContext) -> i32 {
    let Some(caller) = Caller::inside(scope::current(), Hook::FileOpen, Enforcement::Refuse) else {
        return 0;
    };
    let file: u64 = ctx.arg(0);
    let request = request_of(typed(file, offset!(file_mode)), typed(file, offset!(file_flags)));
    let question = Question::new(caller, request);
    if question.is_some_and(|question| question.is_answered(file)) {
        return 0;
    }
    if is_of_overlay(file) || is_pidfd(file) {
        return 0;
    }
    let telling = if request == Request::Load { Telling::Early } else { Telling::AfterEarly };
    lsm_result(guard::opened(caller, file, Ask::open(request, telling), question))
}
