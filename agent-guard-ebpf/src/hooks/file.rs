//! Files: opened and created.

use agent_guard_common::{
    decide::{Reason, Request},
    hook::Hook,
};
use aya_ebpf::{macros::lsm, programs::LsmContext};

use super::lsm_result;
use crate::{
    emit::Enforcement,
    guard::{self, Caller},
    kernel::{Object, PROCESS_MAGIC, offset, read},
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
    match read::<u32>(file, offset!(file_flags)) {
        Ok(flags) if flags & FMODE_EXEC != 0 => Request::Load,
        _ => held_request(file),
    }
}

/// What an open file can be used for, whatever it was opened for.
#[inline(always)]
pub fn held_request(file: u64) -> Request {
    let (Ok(mode), Ok(flags)) =
        (read::<u32>(file, offset!(file_mode)), read::<u32>(file, offset!(file_flags)))
    else {
        return Request::ReadWrite;
    };
    let writes = mode & FMODE_WRITE != 0 || flags & O_TRUNC != 0;
    match (mode & FMODE_READ != 0, writes) {
        (true, true) => Request::ReadWrite,
        (false, true) => Request::Write,
        (_, false) => Request::Read,
    }
}

/// Whether a file was opened with `O_PATH`: it gives no access, and opening it again is judged.
#[inline(always)]
pub fn is_path_only(file: u64) -> Result<bool, Reason> {
    Ok(read::<u32>(file, offset!(file_flags))? & O_PATH != 0)
}

/// `int file_open(struct file *file)`
///
/// A file opened to be run is judged here only for what `bprm_check_security` never sees: the loader
/// that a program names.
#[lsm(hook = "file_open")]
fn file_open(ctx: LsmContext) -> i32 {
    let earlier: i32 = ctx.arg(1);
    if earlier != 0 {
        return earlier;
    }
    let Some(caller) = Caller::current(Hook::FileOpen, Enforcement::Refuse) else { return 0 };
    let file: u64 = ctx.arg(0);
    let (request, object) = (open_request(file), Object::of_file(file));
    // A handle on a process, where that is a file: what is done with it is judged then.
    if object.magic == PROCESS_MAGIC {
        return 0;
    }
    lsm_result(guard::file(caller, &object, request, matches!(request, Request::Load)))
}

/// `int inode_create(struct inode *dir, struct dentry *dentry, umode_t mode)`
///
/// `open(O_CREAT)` makes the file before `file_open` runs, so a refusal there would leave an empty
/// file behind.
#[lsm(hook = "inode_create")]
fn inode_create(ctx: LsmContext) -> i32 {
    let earlier: i32 = ctx.arg(3);
    if earlier != 0 {
        return earlier;
    }
    let Some(caller) = Caller::current(Hook::InodeCreate, Enforcement::Refuse) else { return 0 };
    let dentry: u64 = ctx.arg(1);
    // The open that follows tells what was allowed.
    lsm_result(guard::file(caller, &Object::of_new_dentry(dentry), Request::Write, true))
}
