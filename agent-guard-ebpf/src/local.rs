//! UNIX-domain sockets: who is at the other end, and whether the agent may talk to it.

use agent_guard_common::{
    decide::{Decision, Reason, Request, decide_file},
    event::Action,
    table::{ABSTRACT_DEV, Agent, DEAD, Effect, NO_RULE},
};

use crate::{
    emit,
    guard::{Caller, Verdict, without_memory},
    kernel::{Object, is_within, offset, read},
    maps::{self, KernelTables, Scratch},
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
    // SAFETY: the caller holds the slot; nobody else has a reference.
    unsafe { (*scratch).path_len = 0 };
    let (mut dev, mut number) = (0, 0);
    let end = match (agent, name(other)) {
        (None, _) => End::Unknown(Reason::NoPolicy),
        (_, Err(reason)) => End::Unknown(reason),
        (Some(agent), Ok(Name::Path(dentry))) => {
            let object = Object::of_dentry(dentry);
            (dev, number) = (object.dev, object.number);
            match object.fault {
                Some(reason) => End::Unknown(reason),
                None => walk::walk(scratch, agent, &object),
            }
        }
        (Some(agent), Ok(Name::Abstract(bytes, len))) => {
            dev = ABSTRACT_DEV;
            walk::walk_abstract(scratch, agent, bytes, len)
        }
        // No rule can name it; the default holds.
        (Some(_), Ok(Name::None)) => End::State(DEAD, false),
    };
    let decision = match agent {
        Some(agent) => decide(agent, other, end),
        None => Decision::deny(Reason::NoPolicy),
    };
    let outcome = emit::outcome(agent, &decision, caller.enforcement);
    if emit::count(caller.hook, agent, &decision) {
        let policy = agent.map_or(0, |agent| agent.policy);
        // SAFETY: as above.
        let header = unsafe { &mut (*scratch).header };
        let action = Action::ConnectLocal;
        emit::fill(header, caller.agent, policy, caller.hook, action, &decision, outcome);
        header.dev = dev;
        header.inode = number;
        emit::send_with_path(caller.hook, scratch);
    }
    outcome.into()
}

/// A socket that the agent made is open to it, whatever the name.
#[inline(always)]
fn decide(agent: &Agent, other: u64, end: End) -> Decision {
    match read(other, offset!(sock_cgroup)).and_then(|maker| is_within(maker, agent.cgroup)) {
        Ok(true) => Decision { effect: Effect::Allow, rule: NO_RULE, reason: Reason::Own },
        Ok(false) => match end {
            End::State(state, guarded) => {
                let tables = KernelTables { policy: agent.policy };
                decide_file(&tables, agent, state, Request::Connect, guarded)
            }
            End::Pipe => Decision::deny(Reason::Failed),
            End::Unknown(reason) => Decision::deny(reason),
        },
        Err(reason) => Decision::deny(reason),
    }
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
