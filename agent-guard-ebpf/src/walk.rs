//! From an object to a state of the policy's automaton.
//!
//! Up: `d_parent` from the object to the root of its file system; every name is copied, hashed and,
//! where a glob can matter, lexed. Down: the automaton is fed from the root to the object. A walk
//! inside one file system gives the same answer under every mount, symlink and chroot.
//!
//! All state between two rounds but the dentry lives in [`Scratch`]: what the verifier reads from map memory is
//! unknown to it in every round, so it checks each callback once.

use core::marker::PhantomData;

use agent_guard_common::{
    decide::{Component, Reason, Tables, step},
    event::PATH_ROOM,
    hash::{NameHash, keep_bytes},
    limits::{
        ABSTRACT_NAME_MAX, LEXER_CELLS, LEXER_STATES, MAX_DEPTH, NAME_MAX, PATH_ALIGN, PATH_BYTES,
    },
    table::{ABSTRACT_DEV, Agent, AgentFlag, Lexer},
};
use aya_ebpf::helpers::generated::{bpf_loop, bpf_probe_read_kernel, bpf_probe_read_kernel_str};

use crate::{
    kernel::{Object, PIPE_MAGIC, PROC_MAGIC, Reach, offset, read},
    maps::{self, KernelTables, Scratch},
    process,
};

/// How a walk ended: 0 while it goes on, else [`ARRIVED`], else a [`Reason`] above [`FAILED`].
const GOING: u32 = 0;
const ARRIVED: u32 = 1;
const FAILED: u32 = 0x100;

/// Where a walk arrived.
pub enum End {
    /// In a state of the automaton; `true` for an object behind another process's `/proc` entry.
    State(u32, bool),
    /// At a pipe, which has no path.
    Pipe,
    /// Nowhere that can be judged.
    Unknown(Reason),
}

/// Notes that what is judged could not be read.
#[inline(always)]
pub fn fail(scratch: *mut Scratch) {
    // SAFETY: the caller holds the slot; nobody else has a reference.
    unsafe { (*scratch).status = FAILED + Reason::Failed as u32 };
}

/// On the way up. In the caller's stack, where the verifier does not forget the type of a pointer.
struct Climb<R> {
    scratch: *mut Scratch,
    agent: *const Agent,
    /// What to look at next, and where it must end.
    dentry: u64,
    root: u64,
    reach: PhantomData<R>,
}

/// Climbs from `object`, whose facts are in `scratch`, to the root of its file system. Afterwards
/// `scratch.path[..path_len]` holds the names, also where it failed on its way.
#[inline(always)]
pub fn climb<R: Reach>(scratch: *mut Scratch, agent: &Agent, object: &Object<R>) {
    // SAFETY: the caller holds the slot; nobody else has a reference.
    let memory = unsafe { &mut *scratch };
    memory.path_len = 0;
    memory.depth = 0;
    memory.status = GOING;
    memory.is_proc = u32::from(memory.facts.magic == PROC_MAGIC);
    memory.other_process = 0;
    if memory.facts.magic == PIPE_MAGIC {
        memory.status = ARRIVED;
        return;
    }
    let root = memory.facts.root;
    let mut climb =
        Climb { scratch, agent, dentry: object.dentry, root, reach: PhantomData::<R> };
    let context = (&raw mut climb).cast();
    // SAFETY: the callback has the prototype that the helper asks for, and the context outlives it.
    unsafe { bpf_loop(MAX_DEPTH as u32 + 1, up::<R> as *mut _, context, 0) };
}

struct Round {
    scratch: *mut Scratch,
    agent: *const Agent,
}

/// Goes down from the root to a state, by the names that [`climb`] found.
#[inline(always)]
pub fn descend(scratch: *mut Scratch, agent: &Agent) -> End {
    // SAFETY: as in `climb`.
    let memory = unsafe { &mut *scratch };
    match memory.status {
        ARRIVED => {}
        GOING => return End::Unknown(Reason::TooDeep),
        failed => return End::Unknown(reason(failed)),
    }
    if memory.facts.magic == PIPE_MAGIC {
        return End::Pipe;
    }
    let tables = KernelTables { policy: agent.policy };
    let Some(start) = tables.start(memory.facts.dev) else {
        return End::Unknown(Reason::UnknownFilesystem);
    };
    memory.state = start;
    memory.status = GOING;
    let mut round = Round { scratch, agent };
    // SAFETY: as in `climb`.
    unsafe { bpf_loop(MAX_DEPTH as u32 + 1, down as *mut _, (&raw mut round).cast(), 0) };
    match memory.status {
        ARRIVED => End::State(memory.state, memory.other_process != 0),
        GOING => End::Unknown(Reason::Failed),
        failed => End::Unknown(reason(failed)),
    }
}

/// Puts the name of an object that hangs in no tree where [`climb`] puts a path; nothing where it can not
/// be read.
#[inline(always)]
pub fn name(scratch: *mut Scratch, dentry: u64) {
    // SAFETY: as in `climb`.
    let memory = unsafe { &mut *scratch };
    memory.path_len = 0;
    let Ok(name) = read::<u64>(dentry, offset!(dentry_name)) else { return };
    // SAFETY: the path has room for a whole name, and the helper writes no more than it is told.
    let copied = unsafe {
        bpf_probe_read_kernel_str(
            memory.path.as_mut_ptr().cast(),
            NAME_MAX as u32 + 1,
            name as *const _,
        )
    };
    // The count includes the NUL.
    if (2..=NAME_MAX as i64 + 1).contains(&copied) {
        memory.path_len = (copied as u64 - 1 + PATH_ALIGN as u64) & !(PATH_ALIGN as u64 - 1);
    }
}

#[inline(always)]
fn reason(status: u32) -> Reason {
    match status.wrapping_sub(FAILED) {
        5 => Reason::Detached,
        6 => Reason::TooDeep,
        7 => Reason::TooLong,
        _ => Reason::Failed,
    }
}

/// One component up. Returns 1 to stop.
unsafe extern "C" fn up<R: Reach>(_index: u32, context: *mut Climb<R>) -> i64 {
    // SAFETY: `climb` passes its own live `Climb`.
    let climb = unsafe { &mut *context };
    // SAFETY: as in `climb`.
    let (memory, agent) = unsafe { (&mut *climb.scratch, &*climb.agent) };
    memory.status = match one_up(memory, agent, climb) {
        Ok(false) => GOING,
        Ok(true) => ARRIVED,
        Err(reason) => FAILED + reason as u32,
    };
    i64::from(memory.status != GOING)
}

#[inline(always)]
fn one_up<R: Reach>(
    memory: &mut Scratch,
    agent: &Agent,
    climb: &mut Climb<R>,
) -> Result<bool, Reason> {
    let dentry = climb.dentry;
    if dentry == climb.root {
        return Ok(true);
    }
    let parent: u64 = R::member(dentry, offset!(dentry_parent))?;
    if parent == dentry {
        return Err(Reason::Detached);
    }
    let depth = memory.depth;
    if depth >= MAX_DEPTH as u64 {
        return Err(Reason::TooDeep);
    }
    let start = memory.path_len;
    if start > PATH_BYTES as u64 {
        return Err(Reason::TooLong);
    }
    let name: u64 = R::member(dentry, offset!(dentry_name))?;
    // SAFETY: `start` leaves room for a whole name, and the helper writes no more than it is told.
    let copied = unsafe {
        let to = memory.path.as_mut_ptr().add(start as usize);
        bpf_probe_read_kernel_str(to.cast(), NAME_MAX as u32 + 1, name as *const _)
    };
    // The count includes the NUL.
    if copied < 2 || copied > NAME_MAX as i64 + 1 {
        return Err(Reason::Failed);
    }
    let len = copied as u64 - 1;

    let mut component = Component { literal: hash_name(memory, start, len, agent), class: 0 };
    if depth == 0 || agent.flags & AgentFlag::INNER_GLOBS != 0 {
        let lexer = maps::lexer(agent.policy).ok_or(Reason::Failed)?;
        component.class = glob_class(memory, start, len, lexer);
    }
    if memory.is_proc != 0 && parent == climb.root {
        match process_entry(dentry, agent)? {
            Entry::NoProcess => {}
            Entry::Own => component = Component { literal: agent.self_symbol, class: 0 },
            Entry::Other => memory.other_process = 1,
        }
    }
    // SAFETY: `depth` is below the length.
    unsafe { *memory.components.as_mut_ptr().add(depth as usize) = component };
    memory.depth = depth + 1;
    memory.path_len = (start + len + PATH_ALIGN as u64) & !(PATH_ALIGN as u64 - 1);
    climb.dentry = parent;
    Ok(false)
}

/// Words of the longest name.
const NAME_WORDS: u64 = (NAME_MAX as u64 + 1) / 8;

/// Hashes the name at `path[start..start + len]`, as [`agent_guard_common::hash::name_symbol`] does. The
/// bytes behind the name are cleared up to the next word, so that every word is hashed as it stands.
///
/// A global function for the verifier, as is [`glob_class`]: checked once by itself, instead of once
/// for each length that a caller could pass and each round at which the loop could end.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn hash_name(memory: *mut Scratch, start: u64, len: u64, agent: *const Agent) -> u64 {
    // SAFETY: both callers' pointers are live; the verifier has the null case looked at.
    let (Some(memory), Some(agent)) = (unsafe { (memory.as_mut(), agent.as_ref()) }) else {
        return 0;
    };
    if start > PATH_BYTES as u64 || len > NAME_MAX as u64 {
        return 0;
    }
    // SAFETY: start is at most PATH_BYTES, so that NAME_MAX + 1 bytes follow; both are multiples of eight.
    let words = unsafe { memory.path.as_mut_ptr().add(start as usize).cast::<u64>() };
    let last = len / 8;
    // SAFETY: `last` is below NAME_WORDS.
    unsafe {
        let word = words.add(last as usize);
        *word = keep_bytes(*word, len % 8);
    }
    let mut hash = NameHash::new(agent.hash_key, len);
    let used = len.div_ceil(8);
    for word in 0..NAME_WORDS {
        if word >= used {
            break;
        }
        // SAFETY: `word` is below NAME_WORDS.
        hash.word(unsafe { *words.add(word as usize) });
    }
    hash.finish()
}

/// Runs the name at `path[start..start + len]` through the policy's glob automaton.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn glob_class(memory: *mut Scratch, start: u64, len: u64, lexer: *const Lexer) -> u64 {
    // SAFETY: as in `hash_name`.
    let (Some(memory), Some(lexer)) = (unsafe { (memory.as_mut(), lexer.as_ref()) }) else {
        return 0;
    };
    if len > NAME_MAX as u64 {
        return 0;
    }
    memory.lexed = start;
    memory.lexer_state = u64::from(lexer.start);
    let mut round = LexerRound { memory, lexer };
    // SAFETY: the callback has the prototype that the helper asks for, and the context outlives it.
    unsafe { bpf_loop(len as u32, lex as *mut _, (&raw mut round).cast(), 0) };
    let state = memory.lexer_state & (LEXER_STATES as u64 - 1);
    // SAFETY: masked to the length, a power of two.
    u64::from(unsafe { *lexer.accept.as_ptr().add(state as usize) })
}

struct LexerRound {
    memory: *mut Scratch,
    lexer: *const Lexer,
}

/// One byte through the glob automaton. Returns 1 to stop.
unsafe extern "C" fn lex(_index: u32, context: *mut LexerRound) -> i64 {
    // SAFETY: `glob_class` passes its own live `LexerRound`.
    let (memory, lexer) = unsafe { (&mut *(*context).memory, &*(*context).lexer) };
    let at = memory.lexed;
    if at >= PATH_ROOM as u64 {
        return 1;
    }
    // SAFETY: `at` is below the length of `path`; a byte indexes all of `classes`.
    let class = unsafe {
        let byte = *memory.path.as_ptr().add(at as usize);
        *lexer.classes.as_ptr().add(usize::from(byte))
    };
    let cell = memory.lexer_state * u64::from(lexer.stride) + u64::from(class);
    // SAFETY: masked to the length, a power of two. The loader's tables never exceed it.
    let state = unsafe { *lexer.next.as_ptr().add((cell & (LEXER_CELLS as u64 - 1)) as usize) };
    memory.lexer_state = u64::from(state);
    memory.lexed = at + 1;
    0
}

enum Entry {
    NoProcess,
    Own,
    Other,
}

/// Whether an entry of a procfs root is a process, and whether that one belongs to the agent: its
/// cgroup is the agent's root or lies below it.
#[inline(always)]
fn process_entry(dentry: u64, agent: &Agent) -> Result<Entry, Reason> {
    let inode: u64 = read(dentry, offset!(dentry_inode))?;
    if inode == 0 {
        return Ok(Entry::NoProcess);
    }
    let proc_inode = inode - u64::from(offset!(proc_inode_vfs));
    let pid: u64 = read(proc_inode, offset!(proc_inode_pid))?;
    if pid == 0 {
        return Ok(Entry::NoProcess);
    }
    // The list of tasks that have this thread id (PIDTYPE_PID, 0) links their `pid_links[0]`.
    let link: u64 = read(pid, offset!(pid_tasks))?;
    if link == 0 {
        return Ok(Entry::Other);
    }
    let task = link - u64::from(offset!(task_pid_links));
    Ok(if process::is_inside(task, agent)? { Entry::Own } else { Entry::Other })
}

/// One component down. Returns 1 to stop.
unsafe extern "C" fn down(_index: u32, context: *mut Round) -> i64 {
    // SAFETY: `descend` passes its own live `Round`.
    let round = unsafe { &*context };
    // SAFETY: as in `climb`.
    let (memory, agent) = unsafe { (&mut *round.scratch, &*round.agent) };
    let Some(depth) = memory.depth.checked_sub(1) else {
        memory.status = ARRIVED;
        return 1;
    };
    if depth >= MAX_DEPTH as u64 {
        memory.status = FAILED + Reason::TooDeep as u32;
        return 1;
    }
    // SAFETY: `depth` is below the length.
    let component = unsafe { *memory.components.as_ptr().add(depth as usize) };
    match step(&KernelTables { policy: agent.policy }, memory.state, component) {
        Some(state) => {
            memory.state = state;
            memory.depth = depth;
            0
        }
        None => {
            memory.status = FAILED + Reason::Failed as u32;
            1
        }
    }
}

/// The state of the abstract socket name of `len` bytes at `name`: one component, whatever its bytes.
/// Afterwards `scratch.path[..path_len]` holds them.
#[inline(always)]
pub fn walk_abstract(scratch: *mut Scratch, agent: &Agent, name: u64, len: u64) -> End {
    // SAFETY: the caller holds the slot; nobody else has a reference.
    let memory = unsafe { &mut *scratch };
    if len > ABSTRACT_NAME_MAX as u64 {
        return End::Unknown(Reason::TooLong);
    }
    // The compiler may keep a copy from before the check; kernels before 6.3 know that one for unbounded. In
    // assembly, because it knows the mask to change nothing.
    let mut len = len;
    const { assert!(ABSTRACT_NAME_MAX <= 127) };
    // SAFETY: masks a register.
    unsafe { core::arch::asm!("{0} &= 127", inout(reg) len) };
    // SAFETY: `len` is below the length of `path`, and the helper writes no more than it is told.
    let copied = unsafe {
        bpf_probe_read_kernel(memory.path.as_mut_ptr().cast(), len as u32, name as *const _)
    };
    let Some(lexer) = maps::lexer(agent.policy) else { return End::Unknown(Reason::Failed) };
    if copied != 0 {
        return End::Unknown(Reason::Failed);
    }
    memory.path_len = len;
    let component = Component {
        literal: hash_name(memory, 0, len, agent),
        class: glob_class(memory, 0, len, lexer),
    };
    let tables = KernelTables { policy: agent.policy };
    let Some(start) = tables.start(ABSTRACT_DEV) else {
        return End::Unknown(Reason::UnknownFilesystem);
    };
    match step(&tables, start, component) {
        Some(state) => End::State(state, false),
        None => End::Unknown(Reason::Failed),
    }
}
