//! Inodes that are freed.

use aya_ebpf::{macros::lsm, programs::LsmContext};

use crate::directories;

/// `void inode_free_security(struct inode *inode)`
///
/// Every inode of the host comes by before its memory can become another's.
#[lsm(hook = "inode_free_security")]
fn inode_free(ctx: LsmContext) -> i32 {
    directories::forget(ctx.arg(0));
    0
}
