//! Whose action is this? A task belongs to the agent whose root is its cgroup or one above it, and
//! carries a label that sticks: leaving the cgroup does not shed the policy.

use agent_guard_common::{
    decide::Reason,
    limits::MAX_CGROUP_LEVEL,
    table::{Label, REFUSED},
};
use aya_ebpf::{
    bindings::task_struct,
    helpers::{
        bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id, bpf_get_current_task_btf,
        generated::bpf_loop,
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
    // SAFETY: the callback has the prototype that the helper asks for, and the context outlives it.
    unsafe {
        bpf_loop(MAX_CGROUP_LEVEL + 1, root_at as *mut _, (&raw mut agent).cast(), 0);
        // Volatile, because the compiler does not know that the helper writes to it.
        core::ptr::read_volatile(&raw const agent)
    }
}

/// Takes the agent whose root is the current task's cgroup on this level. Returns 1 to stop.
unsafe extern "C" fn root_at(level: u32, agent: *mut u32) -> i64 {
    // SAFETY: the helper has no preconditions; it returns 0 below the task's own level.
    let cgroup = unsafe { bpf_get_current_ancestor_cgroup_id(level as i32) };
    if cgroup == 0 {
        return 1;
    }
    match maps::agent_of_cgroup(cgroup) {
        0 => {}
        // SAFETY: `agent_of_current_cgroup` passes its own live variable.
        inner => unsafe { *agent = inner },
    }
    0
}

/// Whether the `struct cgroup` at this address is the one with the id `root`, or lies below it.
#[inline(always)]
pub fn is_within(cgroup: u64, root: u64) -> Result<bool, Reason> {
    let mut climb = Climb { cgroup, root, end: Climb::GOING };
    // SAFETY: the callback has the prototype that the helper asks for, and the context outlives it.
    let end = unsafe {
        bpf_loop(MAX_CGROUP_LEVEL + 1, climb_one as *mut _, (&raw mut climb).cast(), 0);
        // Volatile, because the compiler does not know that the helper writes to it.
        core::ptr::read_volatile(&raw const climb.end)
    };
    match end {
        Climb::FOUND => Ok(true),
        Climb::FAULT => Err(Reason::Failed),
        _ => Ok(false),
    }
}

struct Climb {
    cgroup: u64,
    root: u64,
    end: u64,
}

impl Climb {
    const GOING: u64 = 0;
    const FOUND: u64 = 1;
    const FAULT: u64 = 2;
}

/// One cgroup up. Returns 1 to stop.
unsafe extern "C" fn climb_one(_index: u32, climb: *mut Climb) -> i64 {
    // SAFETY: `is_within` passes its own live variable.
    let climb = unsafe { &mut *climb };
    match above(climb.cgroup) {
        Ok((id, _)) if id == climb.root => climb.end = Climb::FOUND,
        Ok((_, parent)) => {
            climb.cgroup = parent;
            return i64::from(parent == 0);
        }
        Err(_) => climb.end = Climb::FAULT,
    }
    1
}

/// The id of the `struct cgroup` at this address, and the address of the one above it, or 0.
#[inline(always)]
fn above(cgroup: u64) -> Result<(u64, u64), Reason> {
    let node: u64 = read(cgroup, offset!(cgroup_kn))?;
    let id = read(node, offset!(kernfs_id))?;
    // `struct cgroup` starts with its own `self`, so a parent's css is the parent.
    Ok((id, read(cgroup, offset!(cgroup_parent))?))
}

/// The agent by whose cgroup programs a socket passes: that of the cgroup it was made in, or the nearest
/// above it, or 0.
#[inline(always)]
pub fn agent_of_socket(sk: u64) -> Result<u32, Reason> {
    let mut search = Search { cgroup: read(sk, offset!(sock_cgroup))?, agent: 0, fault: 0 };
    // SAFETY: the callback has the prototype that the helper asks for, and the context outlives it.
    let (agent, fault) = unsafe {
        bpf_loop(MAX_CGROUP_LEVEL + 1, search_one as *mut _, (&raw mut search).cast(), 0);
        // Volatile, because the compiler does not know that the helper writes to it.
        (
            core::ptr::read_volatile(&raw const search.agent),
            core::ptr::read_volatile(&raw const search.fault),
        )
    };
    if fault == 0 { Ok(agent as u32) } else { Err(Reason::Failed) }
}

struct Search {
    cgroup: u64,
    agent: u64,
    fault: u64,
}

/// One cgroup up, until there is an agent. Returns 1 to stop.
unsafe extern "C" fn search_one(_index: u32, search: *mut Search) -> i64 {
    // SAFETY: `agent_of_socket` passes its own live variable.
    let search = unsafe { &mut *search };
    match above(search.cgroup) {
        Ok((id, parent)) => {
            search.agent = u64::from(maps::agent_of_cgroup(id));
            search.cgroup = parent;
            i64::from(search.agent != 0 || parent == 0)
        }
        Err(_) => {
            search.fault = 1;
            1
        }
    }
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

/// Remembers that the current task was just refused a capability, and that this was told.
#[inline(always)]
pub fn tell_of_refusal() {
    foretold(REFUSED);
}

/// Whether the refusal at hand is the one that was just told; the next one is not.
#[inline(always)]
pub fn take_told_refusal() -> bool {
    let Some(label) = maps::label(current()) else { return false };
    // SAFETY: as in `agent_of`.
    let foretold = unsafe { &mut (*label).foretold };
    let told = *foretold == REFUSED;
    if told {
        *foretold = 0;
    }
    told
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
