//! Metadata: length, mode, owner, times, extended attributes, flags. Each is a write.
//!
//! The `inode_*` hooks also run for what an overlay does in its layers, after the same was judged on the
//! overlay itself.

use agent_guard_common::{event::Action, hook::Hook};
use aya_ebpf::{macros::lsm, programs::LsmContext};

use super::{earlier_at, lsm_result, number};
use crate::{
    emit::Enforcement,
    guard::{self, Ask, Caller, Telling},
    kernel::{
        self, Object, Probed, Typed, acts_for_itself, is_of_overlay, is_on_stack, offset, read,
    },
};

/// `int path_truncate(const struct path *path)`
///
/// truncate(2) comes with a path on its own stack. Before 6.2 `O_TRUNC` and ftruncate(2) come by here too,
/// with the path inside the file, whose open was judged and told of.
#[lsm(hook = "path_truncate")]
fn path_truncate(ctx: LsmContext) -> i32 {
    let telling = if is_on_stack(number(&ctx, 0)) { Telling::All } else { Telling::Late };
    by_path(Hook::PathTruncate, ctx.arg(0), Ask::change(Action::Truncate, telling), ctx.arg(1))
}

/// `int path_chmod(const struct path *path, umode_t mode)`
#[lsm(hook = "path_chmod")]
fn path_chmod(ctx: LsmContext) -> i32 {
    by_path(Hook::PathChmod, ctx.arg(0), SET, ctx.arg(2))
}

/// `int path_chown(const struct path *path, kuid_t uid, kgid_t gid)`
#[lsm(hook = "path_chown")]
fn path_chown(ctx: LsmContext) -> i32 {
    by_path(Hook::PathChown, ctx.arg(0), SET, ctx.arg(3))
}

/// Setting metadata, told whatever becomes of it.
const SET: Ask = Ask {
    request: agent_guard_common::decide::Request::Write,
    action: Action::SetMetadata,
    telling: Telling::All,
};

#[inline(always)]
fn by_path(hook: Hook, path: u64, ask: Ask, earlier: i32) -> i32 {
    if earlier != 0 {
        return earlier;
    }
    let Some(caller) = Caller::current(hook, Enforcement::Refuse) else { return 0 };
    lsm_result(guard::file(caller, &Object::<Typed>::of_path(path), ask))
}

/// `iattr.ia_valid` bits: of what a `path_*` hook of the same call has judged, mode, owner, group and
/// length; and of the times.
const ATTR_JUDGED: u32 = 0xf;
const ATTR_TIMES: u32 = 1 << 4 | 1 << 5;

/// `int inode_setattr(struct dentry *dentry, struct iattr *attr)`, from 6.8 on
/// `int inode_setattr(struct mnt_idmap *idmap, struct dentry *dentry, struct iattr *attr)`
///
/// For the times, which have no other hook. Where the length changes the kernel sets them by itself.
#[lsm(hook = "inode_setattr")]
fn inode_setattr(ctx: LsmContext) -> i32 {
    let (dentry, earlier) = match kernel::prototype(Hook::InodeSetattr) {
        0 => (0, earlier_at!(ctx, 2)),
        _ => (1, earlier_at!(ctx, 3)),
    };
    if earlier != 0 {
        return earlier;
    }
    let valid = read(number(&ctx, dentry + 1), offset!(iattr_valid)).unwrap_or(ATTR_TIMES);
    if valid & ATTR_TIMES == 0 || valid & ATTR_JUDGED != 0 {
        return 0;
    }
    by_dentry(Hook::InodeSetattr, number(&ctx, dentry), 0)
}

/// `int inode_setxattr(struct mnt_idmap *idmap, struct dentry *dentry, const char *name,
/// const void *value, size_t size, int flags)`; before 6.3 the first is
/// `struct user_namespace *mnt_userns`
#[lsm(hook = "inode_setxattr")]
fn inode_setxattr(ctx: LsmContext) -> i32 {
    by_dentry(Hook::InodeSetxattr, ctx.arg(1), ctx.arg(6))
}

/// `int inode_removexattr(struct mnt_idmap *idmap, struct dentry *dentry, const char *name)`; before 6.3
/// the first is `struct user_namespace *mnt_userns`
#[lsm(hook = "inode_removexattr")]
fn inode_removexattr(ctx: LsmContext) -> i32 {
    by_dentry(Hook::InodeRemovexattr, ctx.arg(1), ctx.arg(3))
}

/// `int inode_set_acl(struct mnt_idmap *idmap, struct dentry *dentry, const char *acl_name,
/// struct posix_acl *kacl)`
#[lsm(hook = "inode_set_acl")]
fn inode_set_acl(ctx: LsmContext) -> i32 {
    by_dentry(Hook::InodeSetAcl, ctx.arg(1), ctx.arg(4))
}

/// `int inode_remove_acl(struct mnt_idmap *idmap, struct dentry *dentry, const char *acl_name)`
#[lsm(hook = "inode_remove_acl")]
fn inode_remove_acl(ctx: LsmContext) -> i32 {
    by_dentry(Hook::InodeRemoveAcl, ctx.arg(1), ctx.arg(3))
}

/// `int inode_file_setattr(struct dentry *dentry, struct file_kattr *fa)`
///
/// file_setattr(2), and the ioctls that set flags.
#[lsm(hook = "inode_file_setattr")]
fn inode_file_setattr(ctx: LsmContext) -> i32 {
    by_dentry(Hook::InodeFileSetattr, ctx.arg(0), ctx.arg(2))
}

#[inline(always)]
fn by_dentry(hook: Hook, dentry: u64, earlier: i32) -> i32 {
    if earlier != 0 {
        return earlier;
    }
    let Some(caller) = Caller::current(hook, Enforcement::Refuse) else { return 0 };
    if acts_for_itself() {
        return 0;
    }
    lsm_result(guard::file(caller, &Object::<Probed>::of_dentry(dentry), SET))
}

/// Commands of ioctl(2) that need no descriptor for writing. The first four, with their 32-bit numbers,
/// come by `inode_file_setattr` where the kernel has it.
const FS_IOC_SETFLAGS: u32 = 0x4008_6602;
const FS_IOC32_SETFLAGS: u32 = 0x4004_6602;
const FS_IOC_FSSETXATTR: u32 = 0x401c_5820;
const FS_IOC_SETVERSION: u32 = 0x4008_7602;
const FS_IOC32_SETVERSION: u32 = 0x4004_7602;
const EXT4_IOC_SETVERSION: u32 = 0x4008_6604;
const EXT4_IOC32_SETVERSION: u32 = 0x4004_6604;
const FS_IOC_SET_ENCRYPTION_POLICY: u32 = 0x800c_6613;
const FS_IOC_ENABLE_VERITY: u32 = 0x4080_6685;
const FAT_IOCTL_SET_ATTRIBUTES: u32 = 0x4004_7211;

/// What file_ioctl makes of a command that sets metadata; the others pass.
#[inline(always)]
pub fn ioctl(hook: Hook, file: u64, command: u32) -> i32 {
    let judged = match command {
        FS_IOC_SETFLAGS | FS_IOC32_SETFLAGS | FS_IOC_FSSETXATTR => {
            !kernel::has(Hook::InodeFileSetattr)
        }
        FS_IOC_SETVERSION
        | FS_IOC32_SETVERSION
        | EXT4_IOC_SETVERSION
        | EXT4_IOC32_SETVERSION
        | FS_IOC_SET_ENCRYPTION_POLICY
        | FS_IOC_ENABLE_VERITY
        | FAT_IOCTL_SET_ATTRIBUTES => true,
        _ => false,
    };
    if !judged {
        return 0;
    }
    let Some(caller) = Caller::current(hook, Enforcement::Refuse) else { return 0 };
    if is_of_overlay(file) {
        return 0;
    }
    lsm_result(guard::file(caller, &Object::<Typed>::of_file(file), SET))
}
