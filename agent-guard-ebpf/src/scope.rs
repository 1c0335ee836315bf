//! Whose action is this? A task belongs to the agent whose root is its cgroup or one above it, and
//! carries a label that sticks: leaving the cgroup does not shed the policy.

use agent_guard_common::{decide::Reason, limits::MAX_CGROUP_LEVEL, table::Label};
use aya_ebpf::{
    bindings::task_struct,
    helpers::{
        bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id, bpf_get_current_task_btf,
    },
};

use crate::{
    kernel::{offset, read},
    maps,
};

/// The current task, trusted by the verifier.
#[inline(always)]
pub fn current() -> *mut task_struct {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_get_current_task_btf() }
}

/// The agent of the current task, or 0: by its label, else by its cgroup, remembered in the label.
#[inline(always)]
pub fn agent_of(task: *mut task_struct) -> u32 {
    // SAFETY: the helper has no preconditions.
    let cgroup = unsafe { bpf_get_current_cgroup_id() };
    let generation = maps::generation();
    if let Some(label) = maps::label(task) {
        // SAFETY: a value of task storage lives as long as its task, which is running this.
        let label = unsafe { &*label };
        if label.agent != 0 || (label.cgroup == cgroup && label.generation == generation) {
            return label.agent;
        }
    }
    let agent = agent_of_current_cgroup();
    if let Some(label) = maps::label_or_create(task) {
        // SAFETY: as above; only the task itself writes its label.
        unsafe { *label = Label { cgroup, generation, agent, foretold: 0 } };
    }
    agent
}

/// The agent of the current task by its cgroup alone, the innermost root first, or 0. For programs
/// that may not use task storage.
#[inline(always)]
pub fn agent_of_current_cgroup() -> u32 {
    let mut agent = 0;
    for level in 0..=MAX_CGROUP_LEVEL {
        // SAFETY: the helper has no preconditions; it returns 0 below the task's own level.
        let cgroup = unsafe { bpf_get_current_ancestor_cgroup_id(level as i32) };
        if cgroup == 0 {
            break;
        }
        match maps::agent_of_cgroup(cgroup) {
            0 => {}
            inner => agent = inner,
        }
    }
    agent
}

/// The agent by whose cgroup programs a socket passes: that of the cgroup it was made in, or the nearest
/// above it, or 0.
#[inline(always)]
pub fn agent_of_socket(sk: u64) -> Result<u32, Reason> {
    let mut cgroup: u64 = read(sk, offset!(sock_cgroup))?;
    for _ in 0..=MAX_CGROUP_LEVEL {
        if cgroup == 0 {
            break;
        }
        let node: u64 = read(cgroup, offset!(cgroup_kn))?;
        match maps::agent_of_cgroup(read(node, offset!(kernfs_id))?) {
            // `struct cgroup` starts with its own `self`, so a parent's css is the parent.
            0 => cgroup = read(cgroup, offset!(cgroup_parent))?,
            agent => return Ok(agent),
        }
    }
    Ok(0)
}

/// Remembers the dentry of which the current task's call was told, and returns the one before. Without
/// a label nothing is remembered, and told twice.
#[inline(always)]
pub fn foretold(dentry: u64) -> u64 {
    match maps::label(current()) {
        // SAFETY: as in `agent_of`.
        Some(label) => unsafe { core::mem::replace(&mut (*label).foretold, dentry) },
        None => 0,
    }
}

/// Copies the label of the current task to a child that is being made. False where an agent's child
/// could not be given it.
#[inline(always)]
pub fn inherit(child: *mut task_struct) -> bool {
    let agent = agent_of(current());
    if agent == 0 {
        return true;
    }
    let Some(label) = maps::label_or_create(child) else { return false };
    // SAFETY: the child does not run yet; nobody else writes its label.
    unsafe { *label = Label { cgroup: 0, generation: 0, agent, foretold: 0 } };
    true
}
