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
    mode::DIRECTORY,
    table::{ABSTRACT_DEV, Agent, AgentFlag, Lexer},
};
use aya_ebpf::helpers::generated::{bpf_loop, bpf_probe_read_kernel, bpf_probe_read_kernel_str};

use crate::{
    cache::keeps_its_name,
    directories::{self, Terms, Way},
    kernel::{Object, PIPE_MAGIC, PROC_MAGIC, Reach, checked, offset, read, typed},
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
    object: u64,
    /// What to look at next, and where it must end.
    dentry: u64,
    root: u64,
    reach: PhantomData<R>,
}

/// Climbs from `object`, whose facts are in `scratch`, to the root of its file system, or to a directory of which it is
/// known how the root leads there. Afterwards `scratch.path[..path_len]` holds the names, also where it failed on its
/// way.
#[inline(always)]
pub fn climb<R: Reach>(scratch: *mut Scratch, agent: &Agent, object: &Object<R>) {
    // SAFETY: the caller holds the slot; nobody else has a reference.
    let memory = unsafe { &mut *scratch };
    memory.path_len = 0;
    memory.depth = 0;
    memory.status = GOING;
    memory.is_proc = u32::from(memory.facts.magic == PROC_MAGIC);
    memory.other_process = 0;
    memory.directory = 0;
    memory.terms = Terms::NONE;
    (memory.depth_above, memory.bytes_above) = (0, 0);
    if memory.facts.magic == PIPE_MAGIC {
        memory.status = ARRIVED;
        return;
    }
    let root = memory.facts.root;
    let dentry = object.dentry;
    let mut climb = Climb { scratch, agent, object: dentry, dentry, root, reach: PhantomData::<R> };
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
    if memory.facts.rest == 0 {
        let tables = KernelTables { policy: agent.policy };
        let Some(start) = tables.start(memory.facts.dev) else {
            return End::Unknown(Reason::UnknownFilesystem);
        };
        memory.state = start;
    }
    let walked = memory.depth;
    memory.status = GOING;
    let mut round = Round { scratch, agent };
    // SAFETY: as in `climb`.
    unsafe { bpf_loop(MAX_DEPTH as u32 + 1, down as *mut _, (&raw mut round).cast(), 0) };
    if memory.status == ARRIVED && memory.directory != 0 {
        let way = Way {
            state: memory.state_before,
            depth: memory.depth_above + walked - 1,
            bytes: memory.bytes_above + memory.path_len - memory.last_bytes,
        };
        directories::remember(memory.directory, memory.terms, way);
    }
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
    memory.path_len = padded(copy_name(memory, 0, name));
}

/// Copies the name at this address to `path[start..]`, which has room for the longest. Returns its length, or 0 where
/// it could not be read.
#[inline(always)]
fn copy_name(memory: &mut Scratch, start: u64, name: u64) -> u64 {
    // SAFETY: by the caller there is room for a whole name, and the helper writes no more than it is told.
    let copied = unsafe {
        let to = memory.path.as_mut_ptr().add(start as usize);
        bpf_probe_read_kernel_str(to.cast(), NAME_MAX as u32 + 1, name as *const _)
    };
    // The count includes the NUL.
    if (2..=NAME_MAX as i64 + 1).contains(&copied) { copied as u64 - 1 } else { 0 }
}

/// Bytes of a name of this length, with its NUL and what is padded; none of no name.
#[inline(always)]
fn padded(len: u64) -> u64 {
    if len == 0 { 0 } else { (len + PATH_ALIGN as u64) & !(PATH_ALIGN as u64 - 1) }
}

/// Reads the names that [`climb`] left out, to tell of them. A global function for the verifier, as is
/// [`hash_name`].
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn read_rest(scratch: *mut Scratch) -> u64 {
    // SAFETY: the caller holds the slot; the verifier has the null case looked at.
    let Some(memory) = (unsafe { scratch.as_mut() }) else { return 1 };
    let mut context = scratch;
    if memory.facts.rest != 0 {
        let context = (&raw mut context).cast();
        // SAFETY: as in `climb`.
        unsafe { bpf_loop(MAX_DEPTH as u32, name_above as *mut _, context, 0) };
    }
    0
}

/// One more name. Returns 1 to stop.
unsafe extern "C" fn name_above(_index: u32, context: *mut *mut Scratch) -> i64 {
    // SAFETY: `read_rest` passes its own live variable, which points to the caller's slot.
    let memory = unsafe { &mut **context };
    let (dentry, start) = (memory.facts.rest, memory.path_len);
    let parent = read::<u64>(dentry, offset!(dentry_parent));
    let name = read::<u64>(dentry, offset!(dentry_name));
    let (Ok(parent), Ok(name)) = (parent, name) else { return 1 };
    if dentry == memory.facts.root || start > PATH_BYTES as u64 {
        return 1;
    }
    memory.path_len = start + padded(copy_name(memory, start, name));
    memory.facts.rest = parent;
    0
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
    if dentry == climb.root || !R::BY_ADDRESS && is_known(memory, agent, climb) {
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
    // `start` leaves room for a whole name.
    let len = copy_name(memory, start, name);
    if len == 0 {
        return Err(Reason::Failed);
    }

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
    memory.path_len = start + padded(len);
    climb.dentry = parent;
    Ok(false)
}

/// Whether the walk has come to a directory to which the way is known; and notes the first that it comes to.
#[inline(always)]
fn is_known<R: Reach>(memory: &mut Scratch, agent: &Agent, climb: &Climb<R>) -> bool {
    let depth = memory.depth;
    if depth == 0 {
        return false;
    }
    let inode: u64 = typed(climb.dentry, offset!(dentry_inode));
    if inode == 0 {
        return false;
    }
    let inode = checked(inode);
    let directory = directories::number(inode);
    if depth == 1 {
        let terms = Terms::now(agent);
        // Looked at again under these terms: as long as they hold the object lies in this directory, and keeps it.
        if typed::<u64>(climb.object, offset!(dentry_parent)) == climb.dentry
            && keeps_its_name(inode, DIRECTORY)
        {
            memory.terms = terms;
            memory.directory = directory;
            memory.last_bytes = memory.path_len;
        }
    }
    let terms = memory.terms;
    if terms.are_none() {
        memory.directory = 0;
        return false;
    }
    let Some(way) = directories::way_to(directory, terms) else { return false };
    // What is beyond a bound is walked to where it is met.
    if depth + way.depth > MAX_DEPTH as u64 || memory.path_len + way.bytes > PATH_BYTES as u64 {
        return false;
    }
    if depth == 1 {
        memory.directory = 0;
    }
    memory.state = way.state;
    (memory.depth_above, memory.bytes_above) = (way.depth, way.bytes);
    memory.facts.rest = climb.dentry;
    true
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
    if depth == 0 {
        memory.state_before = memory.state;
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
