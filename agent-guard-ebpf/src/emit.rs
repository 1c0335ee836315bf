//! Events and counters of a decision.

use agent_guard_common::{
    decide::{Decision, Reason},
    event::{Action, EventHeader, Outcome, PATH_ROOM},
    hook::Hook,
    table::{Agent, AgentFlag, Counter, Effect},
};
use aya_ebpf::helpers::{
    bpf_get_current_cgroup_id, bpf_get_current_comm, bpf_get_current_pid_tgid,
    bpf_get_current_task, bpf_get_current_uid_gid, bpf_ktime_get_boot_ns,
    generated::bpf_ringbuf_output,
};

use crate::{
    kernel::{enforcing, offset, read},
    maps::{self, EVENTS, Scratch},
};

/// What a denial does where it is enforced.
#[derive(Clone, Copy)]
pub enum Enforcement {
    /// The hook's return value refuses the call.
    Refuse,
    /// The process is killed.
    Kill,
}

/// What becomes of an action, and whether to enforce.
#[inline(always)]
pub fn outcome(agent: Option<&Agent>, decision: &Decision, enforcement: Enforcement) -> Outcome {
    let audit = agent.is_some_and(|agent| agent.flags & AgentFlag::AUDIT != 0);
    match decision.effect {
        Effect::Allow => Outcome::Allowed,
        Effect::Deny if audit || !enforcing() => Outcome::Observed,
        Effect::Deny => match enforcement {
            Enforcement::Refuse => Outcome::Denied,
            Enforcement::Kill => Outcome::Killed,
        },
    }
}

/// Counts a decision; says whether it is to be emitted.
#[inline(always)]
pub fn count(hook: Hook, agent: Option<&Agent>, decision: &Decision) -> bool {
    maps::count(hook, Counter::Decided);
    if decision.reason.is_failure() {
        maps::count(hook, Counter::Failed);
    }
    match decision.effect {
        Effect::Deny => {
            maps::count(hook, Counter::Denied);
            true
        }
        Effect::Allow => agent.is_none_or(|agent| agent.flags & AgentFlag::LOG_ALLOWED != 0),
    }
}

/// The part of an event that says who, by which hook, and how it ended.
#[inline(always)]
pub fn fill(
    header: &mut EventHeader,
    agent: u32,
    policy: u32,
    hook: Hook,
    action: Action,
    decision: &Decision,
    outcome: Outcome,
) {
    // SAFETY: these helpers have no preconditions.
    let (now, cgroup, task) =
        unsafe { (bpf_ktime_get_boot_ns(), bpf_get_current_cgroup_id(), bpf_get_current_task()) };
    let (pid_tgid, uid_gid) = (bpf_get_current_pid_tgid(), bpf_get_current_uid_gid());
    *header = EventHeader {
        boot_ns: now,
        cgroup,
        inode: 0,
        agent,
        policy,
        pid: (pid_tgid >> 32) as u32,
        tid: pid_tgid as u32,
        ppid: parent(task).unwrap_or(0),
        uid: uid_gid as u32,
        gid: (uid_gid >> 32) as u32,
        dev: 0,
        path_len: 0,
        rule: decision.rule,
        port: 0,
        protocol: 0,
        family: 0,
        hook: hook as u8,
        action: action as u8,
        reason: decision.reason as u8,
        outcome: outcome as u8,
        operation: 0,
        reserved: [0; 3],
        target: 0,
        addr: [0; 16],
        comm: bpf_get_current_comm().unwrap_or([0; 16]),
    };
}

#[inline(always)]
fn parent(task: u64) -> Result<u32, Reason> {
    read(read(task, offset!(task_parent))?, offset!(task_tgid))
}

/// Sends the event in `scratch` with the first `path_len` bytes of its path.
#[inline(always)]
pub fn send_with_path(hook: Hook, scratch: *mut Scratch) {
    // SAFETY: the caller holds the slot; nobody else has a reference.
    let memory = unsafe { &mut *scratch };
    let path_len = memory.path_len;
    if path_len > PATH_ROOM as u64 {
        maps::count(hook, Counter::Lost);
        return;
    }
    memory.header.path_len = path_len as u32;
    // SAFETY: the header and `PATH_ROOM` bytes of path lie behind one another in the slot.
    let sent = unsafe {
        bpf_ringbuf_output(
            (&raw const EVENTS).cast_mut().cast(),
            (&raw mut memory.header).cast(),
            size_of::<EventHeader>() as u64 + path_len,
            0,
        )
    };
    if sent != 0 {
        maps::count(hook, Counter::Lost);
    }
}

/// Sends an event without a path.
#[inline(always)]
pub fn send(hook: Hook, header: &EventHeader) {
    // SAFETY: the helper reads the header, all of whose bytes are initialised.
    let sent = unsafe {
        bpf_ringbuf_output(
            (&raw const EVENTS).cast_mut().cast(),
            core::ptr::from_ref(header).cast_mut().cast(),
            size_of::<EventHeader>() as u64,
            0,
        )
    };
    if sent != 0 {
        maps::count(hook, Counter::Lost);
    }
}
