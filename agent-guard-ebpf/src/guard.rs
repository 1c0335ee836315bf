//! The one path on which everything is decided: scope, object, decision, count, event, outcome.
//!
//! What can not be judged is denied: an unknown file system, a detached object, a bound, a failed
//! read, a missing policy.

use agent_guard_common::{
    decide::{Decision, Endpoint, Reason, Request, decide_connect, decide_file},
    event::{Action, EventHeader, Outcome},
    hook::Hook,
    table::{Agent, AgentFlag, Counter, Effect, Family, NO_RULE},
};

use crate::{
    emit::{self, Enforcement, Judged},
    hooks::{AF_INET, AF_INET6},
    kernel::{Object, enforcing},
    maps::{self, KernelTables, Scratch},
    scope,
    walk::{self, End},
};

/// Whether the caller goes on or is to be stopped.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Proceed,
    Stop,
}

impl From<Outcome> for Verdict {
    #[inline(always)]
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Allowed | Outcome::Observed => Self::Proceed,
            Outcome::Denied | Outcome::Killed => Self::Stop,
        }
    }
}

/// Who acts, and at which hook.
#[derive(Clone, Copy)]
pub struct Caller {
    pub agent: u32,
    pub hook: Hook,
    pub enforcement: Enforcement,
}

impl Caller {
    /// The agent that the current task belongs to, if any.
    #[inline(always)]
    pub fn current(hook: Hook, enforcement: Enforcement) -> Option<Self> {
        match scope::agent_of(scope::current()) {
            0 => None,
            agent => Some(Self { agent, hook, enforcement }),
        }
    }
}

/// Decides `request` on a file. A hook that is `early` speaks only of denials, because a later one of
/// the same call speaks for the rest; and where its denial was only observed, the later one, which is
/// the task's next decision, does not tell of it again.
#[inline(always)]
pub fn file(caller: Caller, object: &Object, request: Request, early: bool) -> Verdict {
    let Some(scratch) = maps::scratch() else {
        return without_memory(caller);
    };
    let verdict = file_with(scratch, caller, object, request, early);
    maps::release(scratch);
    verdict
}

#[inline(always)]
fn file_with(
    scratch: *mut Scratch,
    caller: Caller,
    object: &Object,
    request: Request,
    early: bool,
) -> Verdict {
    let agent = maps::agent(caller.agent);
    // SAFETY: the caller holds the slot; nobody else has a reference.
    unsafe { (*scratch).path_len = 0 };
    let told = scope::foretold(0);
    let decision = match (agent, object.fault) {
        (None, _) => Decision::deny(Reason::NoPolicy),
        (_, Some(reason)) => Decision::deny(reason),
        (Some(agent), None) => judge_file(scratch, agent, object, request),
    };
    let judged = Judged::new(scratch, decision);
    if early && judged.is_allowed() {
        return Verdict::Proceed;
    }
    let outcome = judged.outcome(agent, caller.enforcement);
    if outcome == Outcome::Observed {
        if early {
            scope::foretold(object.dentry);
        } else if told != 0 && object.dentry == told {
            return Verdict::Proceed;
        }
    }
    // SAFETY: as above.
    let header = unsafe { &mut (*scratch).header };
    header.dev = object.dev;
    header.inode = object.number;
    forget_target(header);
    emit::tell(scratch, caller, agent, action(request), judged, outcome);
    outcome.into()
}

#[inline(always)]
fn judge_file(scratch: *mut Scratch, agent: &Agent, object: &Object, request: Request) -> Decision {
    match walk::walk(scratch, agent, object) {
        End::State(state, other_process) => {
            let guarded = other_process || object.is_guarded(request);
            decide_file(&KernelTables { policy: agent.policy }, agent, state, request, guarded)
        }
        End::Pipe => Decision { effect: Effect::Allow, rule: NO_RULE, reason: Reason::Pipe },
        End::Unknown(reason) => Decision::deny(reason),
    }
}

#[inline(always)]
fn action(request: Request) -> Action {
    match request {
        Request::Read => Action::Read,
        Request::Write => Action::Write,
        Request::ReadWrite => Action::ReadWrite,
        Request::Exec => Action::Exec,
        Request::Load => Action::Load,
    }
}

/// What is known of the far end of a connection.
#[derive(Clone, Copy)]
pub struct Target {
    pub family: u16,
    pub protocol: u16,
    pub endpoint: Result<Endpoint, Reason>,
}

/// Decides a connection or a datagram.
#[inline(always)]
pub fn connect(caller: Caller, action: Action, target: &Target) -> Verdict {
    let agent = maps::agent(caller.agent);
    let decision = match (agent, &target.endpoint) {
        (None, _) => Decision::deny(Reason::NoPolicy),
        (_, Err(reason)) => Decision::deny(*reason),
        (Some(agent), Ok(endpoint)) => {
            decide_connect(&KernelTables { policy: agent.policy }, agent, endpoint)
        }
    };
    finish(caller, agent, action, decision, |header| {
        header.family = target.family;
        header.protocol = target.protocol;
        if let Ok(endpoint) = &target.endpoint {
            // The endpoint as it was judged, in its own family.
            header.family = match endpoint.family {
                Family::V4 => AF_INET,
                Family::V6 => AF_INET6,
            };
            header.addr = endpoint.addr;
            header.port = endpoint.port;
        }
    })
}

/// Closes an interface that this tier can not judge.
#[inline(always)]
pub fn close_interface(caller: Caller, action: Action) -> Verdict {
    let agent = maps::agent(caller.agent);
    finish(caller, agent, action, Decision::deny(Reason::Interface), |_| {})
}

/// Tells of a decision about anything but a file. `fill` says in the header what it was about.
#[inline(always)]
fn finish(
    caller: Caller,
    agent: Option<&Agent>,
    action: Action,
    decision: Decision,
    fill: impl FnOnce(&mut EventHeader),
) -> Verdict {
    let Some(scratch) = maps::scratch() else {
        return without_memory(caller);
    };
    let judged = Judged::new(scratch, decision);
    let outcome = judged.outcome(agent, caller.enforcement);
    // SAFETY: the caller holds the slot; nobody else has a reference.
    let memory = unsafe { &mut *scratch };
    memory.path_len = 0;
    memory.header.dev = 0;
    memory.header.inode = 0;
    forget_target(&mut memory.header);
    fill(&mut memory.header);
    emit::tell(scratch, caller, agent, action, judged, outcome);
    maps::release(scratch);
    outcome.into()
}

/// Clears what the slot's last event said of a connection or an operation.
#[inline(always)]
fn forget_target(header: &mut EventHeader) {
    header.port = 0;
    header.protocol = 0;
    header.family = 0;
    header.operation = 0;
    header.reserved = [0; 3];
    header.target = 0;
    header.addr = [0; 16];
}

/// Without working memory nothing can be judged, and no event built: denied, and counted as failed and
/// lost. No word in the diagnostic log: the verifier takes as long over the making of a line as over a
/// walk.
#[inline(always)]
fn without_memory(caller: Caller) -> Verdict {
    for counter in [Counter::Decided, Counter::Failed, Counter::Denied, Counter::Lost] {
        maps::count(caller.hook, counter);
    }
    let audit = maps::agent(caller.agent).is_some_and(|agent| agent.flags & AgentFlag::AUDIT != 0);
    if audit || !enforcing() { Verdict::Proceed } else { Verdict::Stop }
}
