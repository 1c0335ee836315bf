//! Tasks: the agent is inherited.

use aya_ebpf::{bindings::task_struct, macros::lsm, programs::LsmContext};

use crate::scope;

/// `int task_alloc(struct task_struct *task, unsigned long clone_flags)`
#[lsm(hook = "task_alloc")]
fn task_alloc(ctx: LsmContext) -> i32 {
    let earlier: i32 = ctx.arg(2);
    if earlier == 0 {
        let child: *mut task_struct = ctx.arg(0);
        scope::inherit(child);
    }
    earlier
}
