//! Tasks: the agent is inherited.

use agent_guard_common::{event::Operation, hook::Hook, table::Counter};
use aya_ebpf::{bindings::task_struct, macros::lsm, programs::LsmContext};

use super::operate;
use crate::{guard::Tell, maps, scope};

/// `-ENOMEM`
const NO_MEMORY: i32 = -12;

/// Flag of clone3(2).
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// `int task_alloc(struct task_struct *task, unsigned long clone_flags)`
///
/// A child of an agent that can not be labelled is not made: it could leave the cgroup and the policy. Nor is
/// one that starts elsewhere: it would outlive the run, whose end is that of the cgroup.
#[lsm(hook = "task_alloc")]
fn task_alloc(ctx: LsmContext) -> i32 {
    let earlier: i32 = ctx.arg(2);
    if earlier != 0 {
        return earlier;
    }
    let child: *mut task_struct = ctx.arg(0);
    if !scope::inherit(child) {
        maps::count(scope::agent_of(scope::current()), Hook::TaskAlloc, Counter::Failed);
        return NO_MEMORY;
    }
    let flags: u64 = ctx.arg(1);
    if flags & CLONE_INTO_CGROUP == 0 {
        return 0;
    }
    operate(Hook::TaskAlloc, Operation::Cgroup, Tell::All)
}
