//! Names: made, removed, changed, and given a second time. The `path_*` hooks run at the system call, also
//! where io_uring makes it, and never for what an overlay does in its layers.

use agent_guard_common::{
    event::Action,
    hook::Hook,
    mode::{FORMAT, REGULAR},
};
use aya_ebpf::{macros::lsm, programs::LsmContext};

use super::{DENIED, lsm_result};
use crate::{
    cache,
    emit::Enforcement,
    guard::{self, Ask, Caller, Refusal, Telling},
    kernel::{Object, Typed, offset, typed},
};

/// `-ENOMEM`
const NO_MEMORY: i32 = -12;
/// `-EXDEV`: what a rename between two file systems fails with, upon which programs copy.
const CROSS_DEVICE: i32 = -18;

/// `int path_mknod(const struct path *dir, struct dentry *dentry, umode_t mode, unsigned int dev)`
///
/// Also `open(O_CREAT)`, which makes the file before `file_open` runs, so that a refusal there would
/// leave an empty file behind; and bind(2) of a UNIX-domain socket.
#[lsm(hook = "path_mknod")]
fn path_mknod(ctx: LsmContext) -> i32 {
    let earlier: i32 = ctx.arg(4);
    if earlier != 0 {
        return earlier;
    }
    let Some(caller) = Caller::current(Hook::PathMknod, Enforcement::Refuse) else { return 0 };
    let (dentry, mode, device): (u64, u32, u32) = (ctx.arg(1), ctx.arg(2), ctx.arg(3));
    // Of the mode, a `umode_t`, only the lower half means anything.
    let mode = mode & 0xffff;
    let mut object = Object::<Typed>::of_dentry(dentry);
    object.made = (mode, kernel_device(device));
    // The open that follows tells what was allowed.
    let telling = if mode as u16 & FORMAT == REGULAR { Telling::Early } else { Telling::All };
    lsm_result(guard::file(caller, &object, Ask::change(Action::Create, telling)))
}

/// A device number as mknod(2) has it (`new_decode_dev`), as the kernel keeps it.
#[inline(always)]
fn kernel_device(device: u32) -> u32 {
    let (major, minor) = (device >> 8 & 0xfff, device & 0xff | device >> 12 & 0xf_ff00);
    major << 20 | minor
}

/// `s_magic` of message queues (`ipc/mqueue.c`).
const MQUEUE_MAGIC: u64 = 0x1980_0202;

/// `int inode_create(struct inode *dir, struct dentry *dentry, umode_t mode)`
///
/// mq_open makes a queue without asking `path_mknod`.
#[lsm(hook = "inode_create")]
fn inode_create(ctx: LsmContext) -> i32 {
    message_queue(Hook::InodeCreate, Action::Create, Telling::Early, ctx.arg(1), ctx.arg(3))
}

/// `int inode_unlink(struct inode *dir, struct dentry *dentry)`
///
/// mq_unlink removes one without asking `path_unlink`, which tells of those that unlink(2) removes. Whoever
/// removes one of several names ends what is remembered of the file, as in `inode_link`.
#[lsm(hook = "inode_unlink")]
fn inode_unlink(ctx: LsmContext) -> i32 {
    let earlier: i32 = ctx.arg(2);
    let inode: u64 = typed(ctx.arg(1), offset!(dentry_inode));
    if earlier == 0
        && inode != 0
        && typed::<u32>(inode, offset!(inode_links)) > 1
        && !cache::mark_linked(inode)
    {
        return NO_MEMORY;
    }
    message_queue(Hook::InodeUnlink, Action::Delete, Telling::Late, ctx.arg(1), earlier)
}

#[inline(always)]
fn message_queue(hook: Hook, action: Action, telling: Telling, dentry: u64, earlier: i32) -> i32 {
    if earlier != 0 {
        return earlier;
    }
    let Some(caller) = Caller::current(hook, Enforcement::Refuse) else { return 0 };
    let object = Object::<Typed>::of_dentry(dentry);
    // What can not be read is judged.
    if object.magic().is_ok_and(|magic| magic != MQUEUE_MAGIC && magic != 0) {
        return 0;
    }
    lsm_result(guard::file(caller, &object, Ask::change(action, telling)))
}

/// `int path_mkdir(const struct path *dir, struct dentry *dentry, umode_t mode)`
#[lsm(hook = "path_mkdir")]
fn path_mkdir(ctx: LsmContext) -> i32 {
    one_place(Hook::PathMkdir, Action::Create, ctx.arg(1), ctx.arg(3))
}

/// `int path_symlink(const struct path *dir, struct dentry *dentry, const char *old_name)`
#[lsm(hook = "path_symlink")]
fn path_symlink(ctx: LsmContext) -> i32 {
    one_place(Hook::PathSymlink, Action::Create, ctx.arg(1), ctx.arg(3))
}

/// `int path_unlink(const struct path *dir, struct dentry *dentry)`
#[lsm(hook = "path_unlink")]
fn path_unlink(ctx: LsmContext) -> i32 {
    one_place(Hook::PathUnlink, Action::Delete, ctx.arg(1), ctx.arg(2))
}

/// `int path_rmdir(const struct path *dir, struct dentry *dentry)`
#[lsm(hook = "path_rmdir")]
fn path_rmdir(ctx: LsmContext) -> i32 {
    one_place(Hook::PathRmdir, Action::Delete, ctx.arg(1), ctx.arg(2))
}

#[inline(always)]
fn one_place(hook: Hook, action: Action, dentry: u64, earlier: i32) -> i32 {
    if earlier != 0 {
        return earlier;
    }
    let Some(caller) = Caller::current(hook, Enforcement::Refuse) else { return 0 };
    let object = Object::<Typed>::of_dentry(dentry);
    lsm_result(guard::file(caller, &object, Ask::change(action, Telling::All)))
}

/// `int path_rename(const struct path *old_dir, struct dentry *old_dentry, const struct path *new_dir,
/// struct dentry *new_dentry, unsigned int flags)`
///
/// Runs once for an exchange too, which is a rename both ways.
#[lsm(hook = "path_rename")]
fn path_rename(ctx: LsmContext) -> i32 {
    two_places(Hook::PathRename, Action::Rename, [ctx.arg(1), ctx.arg(3)], ctx.arg(5))
}

/// `int path_link(struct dentry *old_dentry, const struct path *new_dir, struct dentry *new_dentry)`
#[lsm(hook = "path_link")]
fn path_link(ctx: LsmContext) -> i32 {
    two_places(Hook::PathLink, Action::Link, [ctx.arg(0), ctx.arg(2)], ctx.arg(3))
}

/// `int inode_link(struct dentry *old_dentry, struct inode *dir, struct dentry *new_dentry)`
///
/// Every link on the host comes by, whoever makes it. Where the file can not be marked it is not linked.
#[lsm(hook = "inode_link")]
fn inode_link(ctx: LsmContext) -> i32 {
    let earlier: i32 = ctx.arg(3);
    if earlier != 0 {
        return earlier;
    }
    let inode: u64 = typed(ctx.arg(0), offset!(dentry_inode));
    if inode == 0 || cache::mark_linked(inode) { 0 } else { NO_MEMORY }
}

#[inline(always)]
fn two_places(hook: Hook, action: Action, [old, new]: [u64; 2], earlier: i32) -> i32 {
    if earlier != 0 {
        return earlier;
    }
    let Some(caller) = Caller::current(hook, Enforcement::Refuse) else { return 0 };
    let (old, new) = (Object::<Typed>::of_dentry(old), Object::of_dentry(new));
    match guard::two_places(caller, action, &old, &new) {
        None => 0,
        Some(Refusal::Denied) => DENIED,
        Some(Refusal::Differs) => CROSS_DEVICE,
    }
}
