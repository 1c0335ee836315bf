//! Whose action is this? A task belongs to the agent whose root is its cgroup or one above it, and
//! carries a label that sticks: leaving the cgroup does not shed the policy.

use agent_guard_common::{
    decide::Reason,
    limits::MAX_CGROUP_LEVEL,
    table::{Label, REFUSED},
};
use aya_ebpf::{
    bindings::task_struct,
    helpers::{bpf_get_current_ancestor_cgroup_id, bpf_get_current_task_btf, generated::bpf_loop},
};

use crate::{
    kernel::{offset, read, typed},
    maps, nobodys,
};

/// The current task, trusted by the verifier.
#[inline(always)]
pub fn current() -> *mut task_struct {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_get_current_task_btf() }
}

/// The agent of the current task, or 0: by its label, else by its cgroup.
#[inline(always)]
pub fn agent_of(task: *mut task_struct) -> u32 {
    if is_outside(task) {
        return 0;
    }
    match labelled(task) {
        Some((agent, _)) => agent,
        None => agent_by_cgroup(task),
    }
}

/// Whether the current task is known to be no agent's, by reads alone: everybody on the host comes by here.
#[inline(always)]
pub fn is_outside(task: *mut task_struct) -> bool {
    // Without a label it has nothing at all, unless others keep something with tasks.
    typed::<u64>(task as u64, offset!(task_storage)) == 0 && is_in_nobodys_cgroup(task)
}

#[inline(always)]
fn is_in_nobodys_cgroup(task: *mut task_struct) -> bool {
    let css_set: u64 = typed(task as u64, offset!(task_cgroups));
    let cgroup: u64 = typed(css_set, offset!(css_set_cgroup));
    let node: u64 = typed(cgroup, offset!(cgroup_kn));
    nobodys::is_noted(typed(node, offset!(kernfs_id)), maps::generation())
}

/// The agent that sticks to the current task, and its label, which only the task itself writes and which lives
/// as long as it.
#[inline(always)]
pub fn labelled(task: *mut task_struct) -> Option<(u32, *mut Label)> {
    let label = maps::label(task)?;
    // SAFETY: a value of task storage lives as long as its task, which is running this.
    match unsafe { (*label).agent } {
        0 => None,
        agent => Some((agent, label)),
    }
}

/// The agent of the current task, which has no label, by its cgroup, or 0.
#[inline(always)]
pub fn agent_by_cgroup(task: *mut task_struct) -> u32 {
    if is_in_nobodys_cgroup(task) { 0 } else { look_up() as u32 }
}

/// Looks the current task up by its cgroup and those above. What is found is remembered: an agent in the task's
/// label, that there is none with the cgroup.
///
/// A global function for the verifier, checked once by itself.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn look_up() -> u64 {
    // Before the look-ups: what they say is of this generation at least.
    let generation = maps::generation();
    let task = current();
    // By one cgroup, though the task may be moved meanwhile: what is noted of it holds for all tasks in it.
    let agent =
        match cgroup_of(task as u64).and_then(|cgroup| Ok((above(cgroup)?, nearest(cgroup)?))) {
            Ok(((cgroup, _), 0)) => {
                nobodys::note(cgroup, generation);
                0
            }
            Ok((_, agent)) => agent,
            Err(_) => agent_of_current_cgroup(),
        };
    if agent != 0
        && let Some(label) = maps::label_or_create(task)
    {
        // SAFETY: as in `labelled`.
        unsafe { *label = Label::new(agent) };
    }
    u64::from(agent)
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
    nearest(read(sk, offset!(sock_cgroup))?)
}

/// The `struct cgroup` of the task at this address.
#[inline(always)]
pub fn cgroup_of(task: u64) -> Result<u64, Reason> {
    read(read(task, offset!(task_cgroups))?, offset!(css_set_cgroup))
}

/// The agent whose root is the `struct cgroup` at this address, or the nearest above it, or 0. Fails beyond
/// the levels that agents begin on.
#[inline(always)]
fn nearest(cgroup: u64) -> Result<u32, Reason> {
    let mut search = Search { cgroup, agent: 0, end: Search::GOING };
    // SAFETY: the callback has the prototype that the helper asks for, and the context outlives it.
    let (agent, end) = unsafe {
        bpf_loop(MAX_CGROUP_LEVEL + 1, search_one as *mut _, (&raw mut search).cast(), 0);
        // Volatile, because the compiler does not know that the helper writes to it.
        (
            core::ptr::read_volatile(&raw const search.agent),
            core::ptr::read_volatile(&raw const search.end),
        )
    };
    if end == Search::DONE { Ok(agent as u32) } else { Err(Reason::Failed) }
}

struct Search {
    cgroup: u64,
    agent: u64,
    end: u64,
}

impl Search {
    const GOING: u64 = 0;
    const DONE: u64 = 1;
    const FAULT: u64 = 2;
}

/// One cgroup up, until there is an agent. Returns 1 to stop.
unsafe extern "C" fn search_one(_index: u32, search: *mut Search) -> i64 {
    // SAFETY: `nearest` passes its own live variable.
    let search = unsafe { &mut *search };
    match above(search.cgroup) {
        Ok((id, parent)) => {
            search.agent = u64::from(maps::agent_of_cgroup(id));
            search.cgroup = parent;
            if search.agent == 0 && parent != 0 {
                return 0;
            }
            search.end = Search::DONE;
        }
        Err(_) => search.end = Search::FAULT,
    }
    1
}

/// Remembers the dentry of which the current task's call was told, and returns the one before. Without
/// a label nothing is remembered, and told twice.
#[inline(always)]
pub fn foretold(dentry: u64) -> u64 {
    match maps::label(current()) {
        // SAFETY: as in `labelled`.
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
    // SAFETY: as in `labelled`.
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
    unsafe { *label = Label::new(agent) };
    true
}
