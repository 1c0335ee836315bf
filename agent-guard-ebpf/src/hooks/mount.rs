//! Mounts and roots. A mount that is made detached (fsopen, open_tree) has no hook until it is attached:
//! files of a new file system are denied as on one that the policy does not know, and those of a known
//! one are judged by their place in it.

use agent_guard_common::{event::Operation, hook::Hook};
use aya_ebpf::{macros::lsm, programs::LsmContext};

use super::operate;
use crate::guard::Tell;

/// `int sb_mount(const char *dev_name, const struct path *path, const char *type, unsigned long flags,
/// void *data)`
#[lsm(hook = "sb_mount")]
fn sb_mount(ctx: LsmContext) -> i32 {
    let earlier: i32 = ctx.arg(5);
    if earlier != 0 {
        return earlier;
    }
    operate(Hook::SbMount, Operation::Mount, Tell::All)
}

/// `int sb_remount(struct super_block *sb, void *mnt_opts)`
///
/// mount(2) has passed `sb_mount` before, fsconfig(2) has not.
#[lsm(hook = "sb_remount")]
fn sb_remount(ctx: LsmContext) -> i32 {
    let earlier: i32 = ctx.arg(2);
    if earlier != 0 {
        return earlier;
    }
    operate(Hook::SbRemount, Operation::Mount, Tell::Denials)
}

/// `int sb_umount(struct vfsmount *mnt, int flags)`
#[lsm(hook = "sb_umount")]
fn sb_umount(ctx: LsmContext) -> i32 {
    let earlier: i32 = ctx.arg(2);
    if earlier != 0 {
        return earlier;
    }
    operate(Hook::SbUmount, Operation::Mount, Tell::All)
}

/// `int sb_pivotroot(const struct path *old_path, const struct path *new_path)`
#[lsm(hook = "sb_pivotroot")]
fn sb_pivotroot(ctx: LsmContext) -> i32 {
    let earlier: i32 = ctx.arg(2);
    if earlier != 0 {
        return earlier;
    }
    operate(Hook::SbPivotroot, Operation::Mount, Tell::All)
}

/// `int move_mount(const struct path *from_path, const struct path *to_path)`
#[lsm(hook = "move_mount")]
fn move_mount(ctx: LsmContext) -> i32 {
    let earlier: i32 = ctx.arg(2);
    if earlier != 0 {
        return earlier;
    }
    operate(Hook::MoveMount, Operation::Mount, Tell::All)
}

/// `int path_chroot(const struct path *path)`
#[lsm(hook = "path_chroot")]
fn path_chroot(ctx: LsmContext) -> i32 {
    let earlier: i32 = ctx.arg(1);
    if earlier != 0 {
        return earlier;
    }
    operate(Hook::PathChroot, Operation::Chroot, Tell::All)
}
