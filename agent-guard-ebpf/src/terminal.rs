//! Whose a pseudo terminal is.
//!
//! The end that programs run on can not be opened before whoever holds the other end, `ptmx`, has unlocked it.
//! Who does that holds all that passes through. So it is noted at every unlocking on the host, and nothing that was
//! noted of an earlier terminal with the same number is left once this one can be opened.
//!
//! Another's terminal is the agent's too where the session that it controls has a process of the agent: where the
//! agent was started from it. A session is entered by fork alone.

use agent_guard_common::{
    decide::Reason,
    guarded::{DEVPTS_MAGIC, is_pseudo_terminal, is_ptmx},
    limits::MAX_SESSION,
    table::{Agent, TerminalKey},
};
use aya_ebpf::helpers::generated::bpf_loop;

use crate::{
    kernel::{offset, read},
    maps::{self, Scratch},
    process,
};

/// ioctl(2) command that locks and unlocks.
pub const TIOCSPTLCK: u32 = 0x4004_5431;

/// Notes that the agent with this id, or nobody's process (0), unlocks the terminal whose other end is the `struct
/// file` at this address. What is no such end belongs to nobody.
///
/// A global function for the verifier: checked once by itself, instead of once for each way by which a hook
/// comes to it.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn unlock_terminal(file: u64, agent: u64) -> u64 {
    if let Ok(key) = other_end(file) {
        maps::set_terminal(key, maps::agent(agent as u32).map(|agent| agent.cgroup));
    }
    0
}

/// The terminal that is reached through the `struct file` of a `ptmx`.
#[inline(always)]
fn other_end(file: u64) -> Result<TerminalKey, Reason> {
    let inode: u64 = read(file, offset!(file_inode))?;
    if !is_ptmx(read(inode, offset!(inode_mode))?, read(inode, offset!(inode_rdev))?) {
        return Err(Reason::Interface);
    }
    let opened: u64 = read(file, offset!(file_private))?;
    let ptmx: u64 = read(opened, offset!(tty_file_tty))?;
    let terminal: u64 = read(ptmx, offset!(tty_link))?;
    let dentry: u64 = read(terminal, offset!(tty_private))?;
    let sb: u64 = read(dentry, offset!(dentry_sb))?;
    let inode: u64 = read(dentry, offset!(dentry_inode))?;
    Ok(TerminalKey { dev: read(sb, offset!(sb_dev))?, rdev: read(inode, offset!(inode_rdev))? })
}

/// What [`terminal_of`] returns. What is no terminal is the agent's as far as that goes.
pub const OWN: u64 = 0;
pub const OTHERS: u64 = 1;
const FAULT: u64 = 2;

/// Whose terminal the object is that `scratch.facts` describe; above [`OTHERS`] where that could not be read. A
/// global function for the same reason as [`unlock_terminal`].
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn terminal_of(scratch: *const Scratch, agent: *const Agent) -> u64 {
    // SAFETY: the caller holds the slot, and its agent is live; the verifier has the null cases looked at.
    let (Some(memory), Some(agent)) = (unsafe { (scratch.as_ref(), agent.as_ref()) }) else {
        return FAULT;
    };
    let facts = &memory.facts;
    if !is_pseudo_terminal(facts.mode as u16, facts.rdev) {
        return OWN;
    }
    // Such a device leads to a terminal in this file system only.
    if facts.magic != DEVPTS_MAGIC {
        return OTHERS;
    }
    let key = TerminalKey { dev: facts.dev, rdev: facts.rdev };
    match owner(facts.dentry, key, agent) {
        Ok(Owner::Agent) => OWN,
        Ok(Owner::Session(0)) => OTHERS,
        Ok(Owner::Session(first)) => search_session(first, agent),
        Err(_) => FAULT,
    }
}

enum Owner {
    Agent,
    /// Who is in the session that it controls: the list's first node, or 0 where there is none.
    Session(u64),
}

#[inline(always)]
fn owner(dentry: u64, key: TerminalKey, agent: &Agent) -> Result<Owner, Reason> {
    let terminal: u64 = read(dentry, offset!(dentry_private))?;
    // Its other end is closed: it can not be opened any more.
    if terminal == 0 {
        return Ok(Owner::Agent);
    }
    // In this order. Where the other end is somebody else's, what was noted goes before the lock does.
    if !is_locked(terminal)? && maps::terminal(key) == Some(agent.cgroup) {
        return Ok(Owner::Agent);
    }
    Ok(Owner::Session(match read::<u64>(terminal, offset!(tty_session))? {
        0 => 0,
        session => read(session, offset!(pid_tasks) + SESSION * HEAD)?,
    }))
}

/// `TTY_PTY_LOCK`, a bit of the other end's flags: 16, and 6 from 6.15 on. Neither kernel uses the other's.
const LOCKED: u64 = 1 << 16 | 1 << 6;

#[inline(always)]
fn is_locked(terminal: u64) -> Result<bool, Reason> {
    let ptmx: u64 = read(terminal, offset!(tty_link))?;
    Ok(read::<u64>(ptmx, offset!(tty_flags))? & LOCKED != 0)
}

/// `PIDTYPE_SID`: the place of sessions in `pid.tasks` and `task_struct.pid_links`.
const SESSION: u32 = 3;
/// Bytes of `struct hlist_head` and `struct hlist_node`.
const HEAD: u32 = 8;
const NODE: u32 = 16;

/// Looks for a process of the agent in a session.
#[inline(always)]
fn search_session(first: u64, agent: &Agent) -> u64 {
    let mut search = Search { link: first, agent, end: OTHERS };
    // SAFETY: the callback has the prototype that the helper asks for, and the context outlives it.
    unsafe {
        bpf_loop(MAX_SESSION, look_at as *mut _, (&raw mut search).cast(), 0);
        // Volatile, because the compiler does not know that the helper writes to it.
        core::ptr::read_volatile(&raw const search.end)
    }
}

struct Search {
    /// The node of the process to look at next.
    link: u64,
    agent: *const Agent,
    end: u64,
}

/// One process of a session, the newest first. Returns 1 to stop.
unsafe extern "C" fn look_at(_index: u32, search: *mut Search) -> i64 {
    // SAFETY: `search_session` passes its own live variable, and a live agent in it.
    let (search, agent) = unsafe { (&mut *search, &*(*search).agent) };
    let task = search.link - u64::from(offset!(task_pid_links) + SESSION * NODE);
    match (process::is_inside(task, agent), read(search.link, 0)) {
        (Ok(true), _) => search.end = OWN,
        (Ok(false), Ok(next)) => {
            search.link = next;
            return i64::from(next == 0);
        }
        _ => search.end = FAULT,
    }
    1
}
