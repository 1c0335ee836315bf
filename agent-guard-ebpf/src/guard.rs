//! The one path on which everything is decided: scope, object, decision, count, event, outcome.
//!
//! What can not be judged is denied: an unknown file system, a detached object, a bound, a failed
//! read, a missing policy.

use agent_guard_common::{
    decide::{Decision, Endpoint, Reason, Request, decide_connect, decide_file},
    event::{Action, EventHeader, Outcome},
    hook::Hook,
    table::{Agent, Counter, Effect, Family, NO_RULE},
};

use crate::{
    emit::{self, Enforcement},
    hooks::{AF_INET, AF_INET6},
    kernel::Object,
    maps::{self, KernelTables, Scratch},
    scope,
    walk::{self, End},
};

/// Whether the caller goes on, is sent to the DNS proxy, or is to be stopped.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Proceed,
    Divert,
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
    if early && decision.effect == Effect::Allow {
        return Verdict::Proceed;
    }
    let outcome = emit::outcome(agent, &decision, caller.enforcement);
    if outcome == Outcome::Observed {
        if early {
            scope::foretold(object.dentry);
        } else if told != 0 && object.dentry == told {
            return Verdict::Proceed;
        }
    }
    if emit::count(caller.hook, agent, &decision) {
        let policy = agent.map_or(0, |agent| agent.policy);
        // SAFETY: as above.
        let header = unsafe { &mut (*scratch).header };
        emit::fill(header, caller.agent, policy, caller.hook, action(request), &decision, outcome);
        header.dev = object.dev;
        header.inode = object.number;
        emit::send_with_path(caller.hook, scratch);
    }
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
    /// Whether a cgroup program of the agent will come by this traffic and can send it elsewhere.
    pub divertible: bool,
}

/// Decides a connection or a datagram. The event is built in the caller's frame, because cgroup
/// programs have no task storage.
#[inline(always)]
pub fn connect(caller: Caller, action: Action, target: &Target) -> Verdict {
    let agent = maps::agent(caller.agent);
    let decision = match (agent, &target.endpoint) {
        (None, _) => Decision::deny(Reason::NoPolicy),
        (_, Err(reason)) => Decision::deny(*reason),
        (Some(agent), Ok(endpoint)) => {
            let tables = KernelTables { policy: agent.policy };
            decide_connect(&tables, agent, endpoint, target.divertible)
        }
    };
    let verdict = finish(caller, agent, action, &decision, Some(target));
    if decision.reason == Reason::Diverted { Verdict::Divert } else { verdict }
}

/// Whether the DNS proxy gets what goes to `endpoint`: what [`connect`] says, without count or event.
#[inline(always)]
pub fn diverts(agent: &Agent, endpoint: &Endpoint) -> bool {
    let tables = KernelTables { policy: agent.policy };
    decide_connect(&tables, agent, endpoint, true).reason == Reason::Diverted
}

/// Closes an interface that this tier can not judge.
#[inline(always)]
pub fn close_interface(caller: Caller, action: Action) -> Verdict {
    finish(caller, maps::agent(caller.agent), action, &Decision::deny(Reason::Interface), None)
}

#[inline(always)]
fn finish(
    caller: Caller,
    agent: Option<&Agent>,
    action: Action,
    decision: &Decision,
    target: Option<&Target>,
) -> Verdict {
    let outcome = emit::outcome(agent, decision, caller.enforcement);
    if emit::count(caller.hook, agent, decision) {
        // SAFETY: integers and byte arrays, for which zero is a value.
        let mut header: EventHeader = unsafe { core::mem::zeroed() };
        let policy = agent.map_or(0, |agent| agent.policy);
        emit::fill(&mut header, caller.agent, policy, caller.hook, action, decision, outcome);
        if let Some(target) = target {
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
        }
        emit::send(caller.hook, &header);
    }
    outcome.into()
}

/// Without working memory nothing can be judged, and no event built: denied, counted as lost too, and
/// told through the diagnostic log.
#[inline(always)]
fn without_memory(caller: Caller) -> Verdict {
    let agent = maps::agent(caller.agent);
    let decision = Decision::deny(Reason::Failed);
    emit::count(caller.hook, agent, &decision);
    maps::count(caller.hook, Counter::Lost);
    aya_log_ebpf::warn!(
        (),
        "hook {}: no memory to decide in; agent {} is denied",
        caller.hook as u8,
        caller.agent
    );
    emit::outcome(agent, &decision, caller.enforcement).into()
}
