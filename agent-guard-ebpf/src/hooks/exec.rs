//! Programs, and code that is mapped.

use agent_guard_common::{
    decide::{Reason, Request},
    event::Action,
    hook::Hook,
};
use aya_ebpf::{
    EbpfContext as _, helpers::bpf_get_current_task, macros::lsm, programs::LsmContext,
};

use super::lsm_result;
use crate::{
    cache::Question,
    emit::Enforcement,
    guard::{self, Ask, Caller, Telling},
    kernel::{Object, Probed, offset, read, typed},
    scope,
};

/// `PROT_*` bit.
const PROT_EXEC: u64 = 4;
/// `vm_flags` bit.
const VM_EXEC: u64 = 4;
/// `i_flags` bit: an inode of the kernel's own, to which no name leads.
const S_PRIVATE: u32 = 512;

/// `int bprm_check_security(struct linux_binprm *bprm)`
///
/// Runs once for a script and once more for its interpreter: both must be allowed.
#[lsm(hook = "bprm_check_security")]
fn bprm_check(ctx: LsmContext) -> i32 {
    let earlier: i32 = ctx.arg(1);
    if earlier != 0 {
        return earlier;
    }
    let Some(caller) = Caller::current(Hook::BprmCheck, Enforcement::Refuse) else { return 0 };
    let bprm: u64 = ctx.arg(0);
    let file: u64 = typed(bprm, offset!(bprm_file));
    let question = Question::new(caller, Request::Exec);
    if question.is_some_and(|question| question.is_answered(file)) {
        return 0;
    }
    let ask = Ask::open(Request::Exec, Telling::AfterEarly);
    lsm_result(guard::opened(caller, file, ask, question))
}

/// `int mmap_file(struct file *file, unsigned long reqprot, unsigned long prot, unsigned long flags)`
///
/// `prot` is what the mapping gets: where reading implies running, more than `reqprot`. Without a file it
/// is anonymous memory. The file is read as a number, because some verifiers take it for never null and
/// leave out what speaks of null, and others want to see that looked at.
#[lsm(hook = "mmap_file")]
fn mmap_file(ctx: LsmContext) -> i32 {
    let earlier: i32 = ctx.arg(4);
    if earlier != 0 {
        return earlier;
    }
    let prot: u64 = ctx.arg(2);
    if prot & PROT_EXEC == 0 {
        return 0;
    }
    match read::<u64>(ctx.as_ptr() as u64, 0) {
        Ok(0) => 0,
        Ok(_) => map_file(ctx.arg(0)),
        // A fault, and denied as one.
        Err(_) => map(Hook::MmapFile, Err(Reason::Failed)),
    }
}

/// Judges the file that is to be mapped, which the verifier trusts once it was looked at.
#[inline(always)]
fn map_file(file: u64) -> i32 {
    if file == 0 {
        return 0;
    }
    let Some(caller) = Caller::current(Hook::MmapFile, Enforcement::Refuse) else { return 0 };
    let question = Question::new(caller, Request::Load);
    if question.is_some_and(|question| question.is_answered(file)) {
        return 0;
    }
    if typed::<u32>(typed(file, offset!(file_inode)), offset!(inode_flags)) & S_PRIVATE != 0 {
        return 0;
    }
    if is_own_program(file) == Ok(true) {
        // Where it is only observed, its exec has told of it.
        scope::foretold(typed(file, offset!(file_dentry)));
    }
    lsm_result(guard::opened(caller, file, LOAD, question))
}

const LOAD: Ask = Ask { request: Request::Load, action: Action::Map, telling: Telling::Early };

/// `int file_mprotect(struct vm_area_struct *vma, unsigned long reqprot, unsigned long prot)`
///
/// What is code already was judged when it became so.
#[lsm(hook = "file_mprotect")]
fn file_mprotect(ctx: LsmContext) -> i32 {
    let earlier: i32 = ctx.arg(3);
    if earlier != 0 {
        return earlier;
    }
    let prot: u64 = ctx.arg(2);
    if prot & PROT_EXEC == 0 {
        return 0;
    }
    let vma: u64 = ctx.arg(0);
    if read::<u64>(vma, offset!(vma_flags)).is_ok_and(|flags| flags & VM_EXEC != 0) {
        return 0;
    }
    map(Hook::FileMprotect, read(vma, offset!(vma_file)))
}

/// Judges a file that becomes code. Memory without a file passes, and so does what the kernel keeps
/// shared anonymous memory in.
#[inline(always)]
fn map(hook: Hook, file: Result<u64, Reason>) -> i32 {
    let file = match file {
        Ok(0) => return 0,
        Ok(file) => file,
        // A fault, and denied as one.
        Err(_) => 0,
    };
    let Some(caller) = Caller::current(hook, Enforcement::Refuse) else { return 0 };
    if is_private(file) == Ok(true) {
        return 0;
    }
    let object = Object::<Probed>::of_file(file);
    if is_own_program(file) == Ok(true) {
        // Where it is only observed, its exec has told of it.
        scope::foretold(object.dentry);
    }
    lsm_result(guard::file(caller, &object, LOAD))
}

#[inline(always)]
fn is_private(file: u64) -> Result<bool, Reason> {
    let inode: u64 = read(file, offset!(file_inode))?;
    Ok(read::<u32>(inode, offset!(inode_flags))? & S_PRIVATE != 0)
}

/// Whether this is the very file that the current process was started from, as exec opened it.
#[inline(always)]
fn is_own_program(file: u64) -> Result<bool, Reason> {
    // SAFETY: the helper has no preconditions.
    let task = unsafe { bpf_get_current_task() };
    let program: u64 = read(read(task, offset!(task_mm))?, offset!(mm_exe_file))?;
    Ok(file != 0 && program == file)
}
