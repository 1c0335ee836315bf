//! Tasks: the agent is inherited.

use agent_guard_common::{hook::Hook, table::Counter};
use aya_ebpf::{bindings::task_struct, macros::lsm, programs::LsmContext};

use crate::{maps, scope};

/// `-ENOMEM`
const NO_MEMORY: i32 = -12;

/// `int task_alloc(struct task_struct *task, unsigned long clone_flags)`
///
/// A child of an agent that can not be labelled is not made: it could leave the cgroup and the policy.
#[lsm(hook = "task_alloc")]
fn task_alloc(ctx: LsmContext) -> i32 {
    let earlier: i32 = ctx.arg(2);
    if earlier != 0 {
        return earlier;
    }
    let child: *mut task_struct = ctx.arg(0);
    if scope::inherit(child) {
        return 0;
    }
    maps::count(Hook::TaskAlloc, Counter::Failed);
    aya_log_ebpf::warn!((), "no memory for the label of a child: the child is not made");
    NO_MEMORY
}
