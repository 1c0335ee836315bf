//! Events and counters of a decision.

use agent_guard_common::{
    decide::{Decision, Reason},
    event::{Action, EventHeader, Outcome, PATH_ROOM},
    table::{Agent, AgentFlag, Counter, Effect, NO_RING},
};
use aya_ebpf::helpers::{
    bpf_get_current_cgroup_id, bpf_get_current_comm, bpf_get_current_pid_tgid,
    bpf_get_current_task, bpf_get_current_uid_gid, bpf_ktime_get_boot_ns,
    generated::bpf_ringbuf_output,
};

use crate::{
    guard::Caller,
    kernel::{enforcing, offset, read},
    maps::{self, AgentCounters, Scratch},
};

/// What a denial does where it is enforced.
#[derive(Clone, Copy)]
pub enum Enforcement {
    /// The hook's return value refuses the call.
    Refuse,
    /// The process is killed.
    Kill,
    /// The kernel refuses the call by itself, where denials are only observed too.
    Kernel,
}

/// A decision that the verifier knows nothing of, so that it checks what follows once, and not for each
/// decision that could be made: packed, as [`Decision::pack`] does.
#[derive(Clone, Copy)]
pub struct Judged(u64);

impl Judged {
    /// Takes a decision by way of the slot's memory: what is read there is unknown to the verifier.
    #[inline(always)]
    pub fn new(scratch: *mut Scratch, decision: Decision) -> Self {
        // SAFETY: the caller holds the slot. Volatile, so that the compiler does not look through.
        Self(unsafe {
            core::ptr::write_volatile(&raw mut (*scratch).judged, decision.pack());
            core::ptr::read_volatile(&raw const (*scratch).judged)
        })
    }

    /// What a global function returned.
    #[inline(always)]
    pub fn of(packed: u64) -> Self {
        Self(packed)
    }

    #[inline(always)]
    pub fn is_allowed(self) -> bool {
        self.0 >> 32 == Effect::Allow as u64
    }

    #[inline(always)]
    pub fn is_diverted(self) -> bool {
        (self.0 >> 16) as u8 == Reason::Diverted as u8
    }

    /// What becomes of the action.
    #[inline(always)]
    pub fn outcome(self, policy: Option<&Agent>, enforcement: Enforcement) -> Outcome {
        let audit = policy.is_some_and(|agent| agent.flags & AgentFlag::AUDIT != 0);
        match enforcement {
            _ if self.is_allowed() => Outcome::Allowed,
            Enforcement::Refuse | Enforcement::Kill if audit || !enforcing() => Outcome::Observed,
            enforcement => enforcement.of_denial(),
        }
    }
}

impl Enforcement {
    #[inline(always)]
    pub fn of_denial(self) -> Outcome {
        match self {
            Self::Refuse | Self::Kernel => Outcome::Denied,
            Self::Kill => Outcome::Killed,
        }
    }
}

/// Counts a decision, and sends the event in `scratch` where it is to be told. The header's words on the
/// object, and the path, are the caller's.
#[inline(always)]
pub fn tell(
    scratch: *mut Scratch,
    caller: Caller,
    policy: Option<&Agent>,
    action: Action,
    judged: Judged,
    outcome: Outcome,
) {
    // Who has no row any more has no ring buffer either.
    let (policy, flags, ring) = policy.map_or((0, AgentFlag::LOG_ALLOWED, NO_RING), |agent| {
        (agent.policy, agent.flags, agent.ring)
    });
    let who = u64::from(caller.agent) | u64::from(policy) << 32;
    let what =
        caller.hook as u64 | (action as u64) << 8 | (outcome as u64) << 16 | u64::from(flags) << 32;
    tell_of(scratch, who, what, judged.0, ring.into());
}

/// A global function for the verifier, which checks it once by itself, and so takes numbers: agent |
/// policy << 32; hook | action << 8 | outcome << 16 | flags of the agent << 32; [`Judged`]; and [`Agent::ring`].
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn tell_of(scratch: *mut Scratch, who: u64, what: u64, judged: u64, ring: u64) -> u64 {
    // SAFETY: the caller holds the slot; the verifier has the null case looked at.
    let Some(memory) = (unsafe { scratch.as_mut() }) else { return 1 };
    let (hook, outcome, flags) = (what as u8, (what >> 16) as u8, (what >> 32) as u32);
    let agent = who as u32;
    let counters = AgentCounters::of(agent);
    let count = |counter| {
        if let Some(counters) = counters {
            counters.add(hook, counter);
        }
    };
    count(Counter::Decided);
    let decision = Decision::unpack(judged);
    if decision.reason.is_failure() {
        count(Counter::Failed);
    }
    if outcome != Outcome::Allowed as u8 {
        count(Counter::Denied);
    } else if flags & AgentFlag::LOG_ALLOWED == 0 {
        return 0;
    }
    let header = &mut memory.header;
    header.agent = agent;
    header.policy = (who >> 32) as u32;
    header.hook = hook;
    header.action = (what >> 8) as u8;
    header.outcome = outcome;
    header.reason = decision.reason as u8;
    header.rule = decision.rule;
    fill_caller(header);
    if !send(ring as u32, memory) {
        count(Counter::Lost);
    }
    0
}

/// The part of an event that says who acts, and when.
#[inline(always)]
fn fill_caller(header: &mut EventHeader) {
    // SAFETY: these helpers have no preconditions.
    let (now, cgroup, task) =
        unsafe { (bpf_ktime_get_boot_ns(), bpf_get_current_cgroup_id(), bpf_get_current_task()) };
    let (pid_tgid, uid_gid) = (bpf_get_current_pid_tgid(), bpf_get_current_uid_gid());
    header.boot_ns = now;
    header.cgroup = cgroup;
    header.pid = (pid_tgid >> 32) as u32;
    header.tid = pid_tgid as u32;
    header.ppid = parent(task).unwrap_or(0);
    header.uid = uid_gid as u32;
    header.gid = (uid_gid >> 32) as u32;
    header.comm = bpf_get_current_comm().unwrap_or([0; 16]);
}

#[inline(always)]
fn parent(task: u64) -> Result<u32, Reason> {
    read(read(task, offset!(task_parent))?, offset!(task_tgid))
}

/// Sends the event with the first `path_len` bytes of its path; false where it is lost.
#[inline(always)]
fn send(ring: u32, memory: &mut Scratch) -> bool {
    let path_len = memory.path_len;
    if path_len > PATH_ROOM as u64 {
        return false;
    }
    let Some(ring) = maps::ring(ring) else { return false };
    memory.header.path_len = path_len as u32;
    // SAFETY: the header and `PATH_ROOM` bytes of path lie behind one another in the slot.
    let sent = unsafe {
        bpf_ringbuf_output(
            ring,
            (&raw mut memory.header).cast(),
            size_of::<EventHeader>() as u64 + path_len,
            0,
        )
    };
    sent == 0
}
