//! The one path on which everything is decided: scope, object, decision, count, event, outcome.
//!
//! What can not be judged is denied: an unknown file system, a detached object, a bound, a failed
//! read, a missing policy.

use agent_guard_common::{
    decide::{
        Decision, Endpoint, Moved, Reason, Request, alike, decide_alias, decide_connect,
        decide_file, decide_listen, decide_operation, decide_pin,
    },
    event::{Action, EventHeader, Operation, Outcome},
    hook::Hook,
    mode::{FORMAT, REGULAR},
    socket::{AF_INET, AF_INET6, AF_UNSPEC},
    table::{Agent, AgentFlag, Counter, DEAD, Effect, Family, Label, NO_RULE},
};
use aya_ebpf::bindings::task_struct;

use crate::{
    cache::Question,
    emit::{self, Enforcement, Judged},
    kernel::{Facts, Object, Reach, Typed, enforcing},
    maps::{self, KernelTables, Scratch},
    scope, terminal,
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
    /// The label of the current task, where it was found by that.
    pub label: Option<*mut Label>,
    pub hook: Hook,
    pub enforcement: Enforcement,
}

impl Caller {
    /// The agent that the current task belongs to, if any.
    #[inline(always)]
    pub fn current(hook: Hook, enforcement: Enforcement) -> Option<Self> {
        let task = scope::current();
        if scope::is_outside(task) { None } else { Self::inside(task, hook, enforcement) }
    }

    /// As [`Self::current`], of the current task that is not known to be outside.
    #[inline(always)]
    pub fn inside(task: *mut task_struct, hook: Hook, enforcement: Enforcement) -> Option<Self> {
        let (agent, label) = match scope::labelled(task) {
            Some((agent, label)) => (agent, Some(label)),
            None => (scope::agent_by_cgroup(task), None),
        };
        if agent == 0 { None } else { Some(Self { agent, label, hook, enforcement }) }
    }

    /// Remembers the dentry of which the task's call was told, and returns the one before.
    #[inline(always)]
    fn foretold(&self, dentry: u64) -> u64 {
        match self.label {
            // SAFETY: as `scope::labelled` says.
            Some(label) => unsafe { core::mem::replace(&mut (*label).foretold, dentry) },
            None => scope::foretold(dentry),
        }
    }
}

/// What is asked of a file, and what an event calls it.
#[derive(Clone, Copy)]
pub struct Ask {
    pub request: Request,
    pub action: Action,
    pub telling: Telling,
}

/// Which of its decisions a hook tells of, where several hooks see one call.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Telling {
    /// All.
    All,
    /// Denials: a later hook of the call speaks for the rest. Not every denial ends the call: it may only be
    /// observed, or concern a file that is not made because it is there.
    Early,
    /// All but the denial of which an early hook has just told, this being the task's next decision.
    AfterEarly,
    /// What stops the call now: an earlier hook has told of the rest.
    Late,
}

impl Ask {
    /// An open.
    #[inline(always)]
    pub fn open(request: Request, telling: Telling) -> Self {
        let action = match request {
            Request::Read => Action::Read,
            Request::Write => Action::Write,
            Request::ReadWrite => Action::ReadWrite,
            Request::Exec => Action::Exec,
            Request::Load => Action::Load,
            Request::Connect => Action::ConnectLocal,
        };
        Self { request, action, telling }
    }

    /// A change of a name or of metadata: a write.
    #[inline(always)]
    pub fn change(action: Action, telling: Telling) -> Self {
        Self { request: Request::Write, action, telling }
    }
}

/// Decides what is asked of a file.
#[inline(always)]
pub fn file<R: Reach>(caller: Caller, object: &Object<R>, ask: Ask) -> Verdict {
    let Some(scratch) = maps::scratch() else {
        return without_memory(caller);
    };
    let agent = maps::agent(caller.agent);
    let judged = judge_object(scratch, agent, object, ask.request);
    let outcome = tell_file(scratch, caller, agent, ask, judged);
    maps::release(scratch);
    outcome.into()
}

/// As [`file`], of a `struct file` that the verifier trusts; what was allowed is remembered for those who ask
/// the same `question`.
#[inline(always)]
pub fn opened(caller: Caller, file: u64, ask: Ask, question: Option<Question>) -> Verdict {
    let Some(scratch) = maps::scratch() else {
        return without_memory(caller);
    };
    let agent = maps::agent(caller.agent);
    let judged = judge_object(scratch, agent, &Object::<Typed>::of_file(file), ask.request);
    let outcome = tell_file(scratch, caller, agent, ask, judged);
    // SAFETY: this program holds the slot; nobody else has a reference.
    let pinned = unsafe { (*scratch).pinned };
    maps::release(scratch);
    if let (Outcome::Allowed, Some(question)) = (outcome, question)
        && pinned == 0
    {
        question.remember(file);
    }
    outcome.into()
}

/// Closes an object that no path leads to and that is not known to be harmless. The event calls it by
/// the name that the kernel gave it.
#[inline(always)]
pub fn anonymous<R: Reach>(caller: Caller, object: &Object<R>) -> Verdict {
    let Some(scratch) = maps::scratch() else {
        return without_memory(caller);
    };
    let agent = maps::agent(caller.agent);
    // SAFETY: this program holds the slot; nobody else has a reference.
    let examined = unsafe {
        (*scratch).facts.begin(object);
        (*scratch).facts.examine(object)
    };
    let reason = match (agent, examined) {
        (None, _) => Reason::NoPolicy,
        (Some(_), Ok(())) => Reason::Interface,
        (Some(_), Err(_)) => Reason::Failed,
    };
    walk::name(scratch, object.dentry);
    let judged = Judged::new(scratch, Decision::deny(reason));
    let ask = Ask { request: Request::ReadWrite, action: Action::Receive, telling: Telling::All };
    let outcome = tell_file(scratch, caller, agent, ask, judged);
    maps::release(scratch);
    outcome.into()
}

/// Why a rename or link may not be.
#[derive(Clone, Copy)]
pub enum Refusal {
    /// One of the places may not be written.
    Denied,
    /// Both may, and the policy says different things of them. Who copies instead is judged by what it
    /// reads and writes.
    Differs,
}

/// Decides a rename or link between two places. The event names the old one, or the new one where that
/// is denied.
#[inline(always)]
pub fn two_places<R: Reach>(
    caller: Caller,
    action: Action,
    old: &Object<R>,
    new: &Object<R>,
) -> Option<Refusal> {
    let Some(scratch) = maps::scratch() else {
        return match without_memory(caller) {
            Verdict::Proceed | Verdict::Divert => None,
            Verdict::Stop => Some(Refusal::Denied),
        };
    };
    let ask = Ask::change(action, Telling::All);
    let agent = maps::agent(caller.agent);
    let mut judged = judge_object(scratch, agent, new, ask.request);
    let mut differs = false;
    if judged.is_allowed() {
        // SAFETY: this program holds the slot; nobody else has a reference.
        let (there, facts) = unsafe { ((*scratch).state, (*scratch).facts) };
        judged = judge_object(scratch, agent, old, ask.request);
        // SAFETY: as above.
        let (here, old_facts) = unsafe { ((*scratch).state, &(*scratch).facts) };
        let moved = Moved {
            directory: facts.is_directory() || old_facts.is_directory(),
            guarded: facts.is_guarded(ask.request) || old_facts.is_guarded(ask.request),
        };
        if let (true, Some(agent)) = (judged.is_allowed(), agent)
            && !alike(&KernelTables { policy: agent.policy }, agent, here, there, moved)
        {
            judged = Judged::new(scratch, Decision::deny(Reason::Differs));
            differs = true;
        }
    }
    let outcome = tell_file(scratch, caller, agent, ask, judged);
    maps::release(scratch);
    match outcome.into() {
        Verdict::Proceed | Verdict::Divert => None,
        Verdict::Stop if differs => Some(Refusal::Differs),
        Verdict::Stop => Some(Refusal::Denied),
    }
}

/// Judges `object`. Afterwards `scratch` holds its facts, its path, and the state that its verdict is of.
#[inline(always)]
pub fn judge_object<R: Reach>(
    scratch: *mut Scratch,
    agent: Option<&'static Agent>,
    object: &Object<R>,
    request: Request,
) -> Judged {
    // SAFETY: this program holds the slot; nobody else has a reference.
    unsafe {
        (*scratch).path_len = 0;
        (*scratch).state = DEAD;
        (*scratch).pinned = 0;
        (*scratch).facts.begin(object);
    }
    let Some(agent) = agent else {
        return Judged::of(judge(scratch, core::ptr::null(), request as u64));
    };
    if R::BY_ADDRESS {
        look_by_address(scratch, agent);
    } else {
        look(scratch, agent, object);
    }
    Judged::of(judge(scratch, agent, request as u64))
}

/// The decision on the object that `scratch.facts` begin with, packed.
///
/// A global function for the verifier: checked once by itself, instead of once for each way by which a hook
/// comes to it.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn judge(scratch: *mut Scratch, agent: *const Agent, request: u64) -> u64 {
    // SAFETY: the caller holds the slot, and elements of the agents' map stay readable; the verifier has the
    // null cases looked at.
    let (Some(memory), Some(agent)) = (unsafe { (scratch.as_mut(), agent.as_ref()) }) else {
        return Decision::deny(Reason::NoPolicy).pack();
    };
    let request = match request {
        0 => Request::Read,
        1 => Request::Write,
        3 => Request::Exec,
        4 => Request::Load,
        5 => Request::Connect,
        _ => Request::ReadWrite,
    };
    let facts = memory.facts;
    let runs = matches!(request, Request::Exec | Request::Load);
    let decision = match walk::descend(scratch, agent) {
        // What has no name is nobody's path any more, whatever it was called.
        End::State(..) if runs && facts.links == 0 => Decision::deny(Reason::Detached),
        End::State(state, other_process) => {
            let whose = terminal::terminal_of(scratch, agent);
            if whose > terminal::OTHERS {
                return Decision::deny(Reason::Failed).pack();
            }
            // Without branches, each of which the verifier would follow through all that comes.
            let guarded = other_process | facts.is_guarded(request) | (whose == terminal::OTHERS);
            let tables = KernelTables { policy: agent.policy };
            let by_name = decide_file(&tables, agent, state, request, guarded);
            memory.pinned = u32::from(by_name.reason == Reason::Changed);
            by_any_name(agent, &facts, request, by_pin(agent, &facts, by_name))
        }
        End::Pipe => ANONYMOUS,
        End::Unknown(Reason::Detached) if !runs && facts.is_memfd() => ANONYMOUS,
        End::Unknown(reason) => Decision::deny(reason),
    };
    decision.pack()
}

/// What is said of pipes and anonymous memory.
const ANONYMOUS: Decision = Decision { effect: Effect::Allow, rule: NO_RULE, reason: Reason::Pipe };

/// Reads the facts of `object`, with which those in `scratch` begin, and its path.
#[inline(always)]
fn look<R: Reach>(scratch: *mut Scratch, agent: &Agent, object: &Object<R>) {
    // SAFETY: the caller holds the slot; nobody else has a reference.
    match unsafe { (*scratch).facts.examine(object) } {
        Ok(()) => walk::climb(scratch, agent, object),
        Err(_) => walk::fail(scratch),
    }
}

/// As [`look`], apart for the same reason as [`judge`].
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn look_by_address(scratch: *mut Scratch, agent: *const Agent) -> u64 {
    // SAFETY: as in `judge`.
    let (Some(memory), Some(agent)) = (unsafe { (scratch.as_mut(), agent.as_ref()) }) else {
        return 1;
    };
    let object = memory.facts.object();
    look(scratch, agent, &object);
    0
}

/// Looks at the file itself only where its name leads to a rule that pins it.
#[inline(always)]
fn by_pin(agent: &Agent, facts: &Facts, by_name: Decision) -> Decision {
    if by_name.reason != Reason::Changed {
        return by_name;
    }
    match facts.changed() {
        Ok(now) => decide_pin(maps::pin(facts.key(agent.policy)), &now, by_name),
        Err(reason) => Decision::deny(reason),
    }
}

/// Only a file with several names can have one that is denied.
#[inline(always)]
fn by_any_name(agent: &Agent, facts: &Facts, request: Request, by_name: Decision) -> Decision {
    if facts.links < 2 || facts.mode as u16 & FORMAT != REGULAR {
        return by_name;
    }
    match maps::alias(facts.key(agent.policy)) {
        Some(alias) => decide_alias(alias, facts.generation, request, by_name),
        None => by_name,
    }
}

/// Tells of the decision on the object that was judged last.
#[inline(always)]
pub fn tell_file(
    scratch: *mut Scratch,
    caller: Caller,
    agent: Option<&Agent>,
    ask: Ask,
    judged: Judged,
) -> Outcome {
    // SAFETY: this program holds the slot; nobody else has a reference.
    let memory = unsafe { &mut *scratch };
    let told = caller.foretold(0);
    let outcome = judged.outcome(agent, caller.enforcement);
    let silent = match (ask.telling, outcome) {
        (Telling::Early, Outcome::Allowed) => true,
        (Telling::Early, _) => {
            // A denied program ends the call.
            if outcome == Outcome::Observed || ask.action == Action::Create {
                caller.foretold(memory.facts.dentry);
            }
            // What is mapped as code may have been told of when it was run.
            ask.action == Action::Map && told != 0 && memory.facts.dentry == told
        }
        (Telling::AfterEarly, Outcome::Denied | Outcome::Observed) => {
            told != 0 && memory.facts.dentry == told
        }
        (Telling::Late, Outcome::Allowed | Outcome::Observed) => true,
        (_, _) => false,
    };
    if !silent {
        memory.header.dev = memory.facts.dev;
        memory.header.inode = memory.facts.number;
        forget_target(&mut memory.header);
        if outcome != Outcome::Allowed {
            walk::read_rest(scratch);
        }
        emit::tell(scratch, caller, agent, ask.action, judged, outcome);
    }
    outcome
}

/// What is known of the end of a connection that is judged.
#[derive(Clone, Copy)]
pub struct Target {
    pub family: u16,
    pub protocol: u16,
    pub endpoint: Result<Endpoint, Reason>,
    /// Whether a cgroup program of the agent will come by this traffic and can send it elsewhere.
    pub divertible: bool,
}

impl Target {
    /// One that could not be read, which denies.
    #[inline(always)]
    pub fn unreadable(reason: Reason) -> Self {
        Self::closed(AF_UNSPEC, 0, reason)
    }

    /// One that is denied for `reason`.
    #[inline(always)]
    pub fn closed(family: u16, protocol: u16, reason: Reason) -> Self {
        Self { family, protocol, endpoint: Err(reason), divertible: false }
    }

    #[inline(always)]
    fn show(&self, header: &mut EventHeader) {
        header.family = self.family;
        header.protocol = self.protocol;
        if let Ok(endpoint) = &self.endpoint {
            // The endpoint as it was judged, in its own family.
            header.family = match endpoint.family {
                Family::V4 => AF_INET,
                Family::V6 => AF_INET6,
            };
            header.addr = endpoint.addr;
            header.port = endpoint.port;
        }
    }
}

/// Decides a connection or a datagram.
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
    finish(caller, agent, action, decision, |header| target.show(header))
}

/// Whether the DNS proxy gets what goes to `endpoint`: what [`connect`] says, without count or event.
#[inline(always)]
pub fn diverts(agent: &Agent, endpoint: &Endpoint) -> bool {
    let tables = KernelTables { policy: agent.policy };
    decide_connect(&tables, agent, endpoint, true).reason == Reason::Diverted
}

/// Decides listening on an address of this host, or accepting there.
#[inline(always)]
pub fn listen(caller: Caller, action: Action, target: &Target) -> Verdict {
    let agent = maps::agent(caller.agent);
    let decision = match (agent, &target.endpoint) {
        (None, _) => Decision::deny(Reason::NoPolicy),
        (_, Err(reason)) => Decision::deny(*reason),
        (Some(agent), Ok(endpoint)) => {
            decide_listen(&KernelTables { policy: agent.policy }, agent, endpoint)
        }
    };
    finish(caller, agent, action, decision, |header| target.show(header))
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
    // SAFETY: this program holds the slot; nobody else has a reference.
    let memory = unsafe { &mut *scratch };
    memory.path_len = 0;
    memory.header.dev = 0;
    memory.header.inode = 0;
    forget_target(&mut memory.header);
    fill(&mut memory.header);
    emit::tell(scratch, caller, agent, action, judged, outcome);
    maps::release(scratch);
    if judged.is_diverted() { Verdict::Divert } else { outcome.into() }
}

/// Which decisions on an operation are told of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Tell {
    /// All that the agent's events are to tell of.
    All,
    /// Denials: another hook of the same call tells of what was allowed.
    Denials,
    /// None: the kernel asks on behalf of somebody who only looks around. It is counted.
    Nothing,
}

/// Decides an operation upon the process `target`, or upon none (0).
#[inline(always)]
pub fn operate(
    caller: Caller,
    operation: Operation,
    target: Result<u32, Reason>,
    tell: Tell,
) -> Verdict {
    let agent = maps::agent(caller.agent);
    let decision = match (agent, target) {
        (None, _) => Decision::deny(Reason::NoPolicy),
        (Some(agent), Ok(_)) => decide_operation(agent, operation),
        (Some(_), Err(reason)) => Decision::deny(reason),
    };
    match (tell, decision.effect) {
        (Tell::Denials, Effect::Allow) => return Verdict::Proceed,
        (Tell::Nothing, effect) => return in_silence(caller, agent, effect),
        (Tell::All, _) | (Tell::Denials, Effect::Deny) => {}
    }
    finish(caller, agent, Action::Operate, decision, |header| {
        header.operation = operation as u8;
        header.target = target.unwrap_or(0);
    })
}

/// Counts a decision that no event tells of.
#[inline(always)]
fn in_silence(caller: Caller, agent: Option<&Agent>, effect: Effect) -> Verdict {
    maps::count(caller.agent, caller.hook, Counter::Decided);
    if effect == Effect::Allow {
        return Verdict::Proceed;
    }
    maps::count(caller.agent, caller.hook, Counter::Denied);
    unless_audited(agent)
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
pub fn without_memory(caller: Caller) -> Verdict {
    for counter in [Counter::Decided, Counter::Failed, Counter::Denied, Counter::Lost] {
        maps::count(caller.agent, caller.hook, counter);
    }
    unless_audited(maps::agent(caller.agent))
}

/// What a denial comes to.
#[inline(always)]
fn unless_audited(agent: Option<&Agent>) -> Verdict {
    let audit = agent.is_some_and(|agent| agent.flags & AgentFlag::AUDIT != 0);
    if audit || !enforcing() { Verdict::Proceed } else { Verdict::Stop }
}
