//! Whether a process belongs to an agent.

use agent_guard_common::{decide::Reason, table::Agent};
use aya_ebpf::bindings::task_struct;

use crate::{
    guard::Caller,
    kernel::{offset, read},
    maps, scope,
};

/// Whether `task`, an argument of the hook, is the caller's own: by the label that sticks to it, or by
/// its cgroup. Where the agent is gone nobody is.
#[inline(always)]
pub fn is_own(caller: Caller, task: *mut task_struct) -> Result<bool, Reason> {
    if let Some(label) = maps::label(task) {
        // SAFETY: a value of task storage lives as long as its task, which the hook's caller holds.
        if unsafe { (*label).agent } == caller.agent {
            return Ok(true);
        }
    }
    match maps::agent(caller.agent) {
        Some(agent) => is_inside(task as u64, agent),
        None => Ok(false),
    }
}

/// Whether the cgroup of the task at `task` is the agent's root or lies below it.
#[inline(always)]
pub fn is_inside(task: u64, agent: &Agent) -> Result<bool, Reason> {
    scope::is_within(scope::cgroup_of(task)?, agent.cgroup)
}

/// The process id of a task, in the initial namespace.
#[inline(always)]
pub fn id(task: u64) -> Result<u32, Reason> {
    read(task, offset!(task_tgid))
}

/// Bytes of `struct upid`: a number, and a pointer to the namespace that it counts in.
const UPID: u32 = 16;

/// The process id of a task as it sees it itself, in the innermost namespace.
#[inline(always)]
pub fn own_id(task: u64) -> Result<i32, Reason> {
    let leader: u64 = read(task, offset!(task_leader))?;
    let pid: u64 = read(leader, offset!(task_pid))?;
    let level: u32 = read(pid, offset!(pid_level))?;
    read(pid + u64::from(level) * u64::from(UPID), offset!(pid_numbers))
}
