//! UNIX-domain sockets: who is at the other end, and whether the agent may talk to it.

use agent_guard_common::{
    decide::{Decision, Reason, Request, decide_file},
    table::{ABSTRACT_DEV, Agent, DEAD, Effect, NO_RULE},
};

use crate::{
    emit::Judged,
    guard::{self, Ask, Caller, Telling, Verdict, without_memory},
    kernel::{Object, Probed, offset, read},
    maps::{self, KernelTables, Scratch},
    scope,
    walk::{self, End},
};

/// By what a socket can be found. `sun_path` begins with a NUL where the name is abstract.
enum Name {
    /// The dentry that it is bound to.
    Path(u64),
    /// Where its bytes lie, and how many they are.
    Abstract(u64, u64),
    /// It was never bound: one of a pair.
    None,
}

/// Decides a connection, or a datagram, to the UNIX-domain `struct sock` at `other`.
#[inline(always)]
pub fn connect(caller: Caller, other: u64) -> Verdict {
    let Some(scratch) = maps::scratch() else {
        return without_memory(caller);
    };
    let verdict = connect_with(scratch, caller, other);
    maps::release(scratch);
    verdict
}

#[inline(always)]
fn connect_with(scratch: *mut Scratch, caller: Caller, other: u64) -> Verdict {
    let agent = maps::agent(caller.agent);
    // Also where it is the agent's own: the event tells which it was.
    let judged = match name(other) {
        Ok(Name::Path(dentry)) => guard::judge_object(
            scratch,
            agent,
            &Object::<Probed>::of_dentry(dentry),
            Request::Connect,
        ),
        Ok(Name::Abstract(bytes, len)) => judge_abstract(scratch, agent, bytes, len),
        // No rule can name it; the default holds.
        Ok(Name::None) => judge_abstract(scratch, agent, 0, 0),
        Err(reason) => unnamed(scratch, Decision::deny(reason)),
    };
    let judged = match is_own(agent, other) {
        Ok(false) => judged,
        Ok(true) => Judged::new(scratch, OWN),
        Err(reason) => Judged::new(scratch, Decision::deny(reason)),
    };
    let ask = Ask::open(Request::Connect, Telling::All);
    guard::tell_file(scratch, caller, agent, ask, judged).into()
}

/// What is said of a socket that the agent made, whatever its name.
const OWN: Decision = Decision { effect: Effect::Allow, rule: NO_RULE, reason: Reason::Own };

#[inline(always)]
fn is_own(agent: Option<&Agent>, other: u64) -> Result<bool, Reason> {
    let agent = agent.ok_or(Reason::NoPolicy)?;
    scope::is_within(read(other, offset!(sock_cgroup))?, agent.cgroup)
}

/// Judges an abstract name; of none there are 0 bytes.
#[inline(always)]
fn judge_abstract(
    scratch: *mut Scratch,
    agent: Option<&'static Agent>,
    bytes: u64,
    len: u64,
) -> Judged {
    let Some(agent) = agent else {
        return unnamed(scratch, Decision::deny(Reason::NoPolicy));
    };
    let end = if bytes == 0 {
        End::State(DEAD, false)
    } else {
        walk::walk_abstract(scratch, agent, bytes, len)
    };
    let decision = match end {
        End::State(state, guarded) => {
            let tables = KernelTables { policy: agent.policy };
            decide_file(&tables, agent, state, Request::Connect, guarded)
        }
        End::Pipe => Decision::deny(Reason::Failed),
        End::Unknown(reason) => Decision::deny(reason),
    };
    // SAFETY: this program holds the slot; nobody else has a reference.
    let len = unsafe { (*scratch).path_len };
    let judged = unnamed(scratch, decision);
    // SAFETY: as above.
    unsafe {
        (*scratch).path_len = len;
        (*scratch).facts.dev = ABSTRACT_DEV;
    }
    judged
}

/// A decision on what no file stands for.
#[inline(always)]
fn unnamed(scratch: *mut Scratch, decision: Decision) -> Judged {
    // SAFETY: this program holds the slot; nobody else has a reference.
    unsafe {
        (*scratch).path_len = 0;
        (*scratch).facts.begin(&Object::NONE);
    }
    Judged::new(scratch, decision)
}

#[inline(always)]
fn name(other: u64) -> Result<Name, Reason> {
    /// `sun_family`, and the NUL that an abstract name begins with.
    const BEFORE_NAME: u32 = 3;
    let dentry: u64 = read(other, offset!(unix_dentry))?;
    if dentry != 0 {
        return Ok(Name::Path(dentry));
    }
    let address: u64 = read(other, offset!(unix_address))?;
    if address == 0 {
        return Ok(Name::None);
    }
    let len: u32 = read(address, offset!(unix_address_len))?;
    let first: u8 = read(address, offset!(unix_address_name) + BEFORE_NAME - 1)?;
    if first != 0 || len < BEFORE_NAME {
        return Err(Reason::Failed);
    }
    let bytes = address + u64::from(offset!(unix_address_name) + BEFORE_NAME);
    Ok(Name::Abstract(bytes, u64::from(len - BEFORE_NAME)))
}
