//! States of the automaton that are remembered of directories: a walk that comes by one of them ends there.
//!
//! What is remembered is the state in which a walk leaves a directory for what is in it. It follows from the policy, and
//! from the names of the directory and of those above it. It holds while these are the same:
//!
//! - The tables of a policy are never changed. One that is swapped has another id, which is part of what is remembered.
//! - A directory has one name, and no call gives it a second. Whatever changes it, or the way to it, writes
//!   `rename_lock`; names that change by themselves are not remembered. [`crate::cache`] says so of files.
//! - A directory that was removed keeps its name, for those who still have something open in it.
//! - A directory is known by the address of its inode. Before the kernel frees that, which it may then use for another
//!   directory, `inode_free_security` has it forgotten. Nothing is remembered of it then any more: who comes by holds
//!   what is in it, and so itself. Who no longer does since that was moved away, remembers under a count of renames that
//!   is over.
//! - Mounts do not matter: a walk ends at the root of the file system.
//!
//! What is remembered is forgotten after [`REMEMBERED_TICKS`], as verdicts are.

use core::{
    cell::UnsafeCell,
    ptr::{read_volatile, write_volatile},
};

use agent_guard_common::{
    event::PATH_ROOM,
    hook::Hook,
    limits::{MAX_DEPTH, REMEMBERED_TICKS},
    table::{Agent, AgentFlag},
};
use aya_ebpf::helpers::generated::bpf_jiffies64;

use crate::{
    cache::renames,
    kernel::{self, distance, scatter},
};

/// Rows for directories, in each of which a directory has a place for every other policy. Whoever finds it taken
/// takes it.
const ROWS: usize = 2048;
const WAYS: usize = 2;

/// What is known of a directory, and as of when. Several processors write it, one at a time.
#[repr(C)]
struct Known {
    /// How often it was written, or [`WRITTEN`] while it is.
    version: u64,
    /// The directory's [`number`], or 0.
    directory: u64,
    /// The policy, and the count of renames.
    of: u64,
    /// Since when, in ticks.
    since: u64,
    /// A packed [`Way`].
    way: u64,
}

const WRITTEN: u64 = u64::MAX;

#[repr(transparent)]
struct Places(UnsafeCell<[Known; ROWS * WAYS]>);

// SAFETY: who writes to a place has taken it, and who reads from it looks whether somebody wrote meanwhile.
unsafe impl Sync for Places {}

#[unsafe(no_mangle)]
static DIRECTORIES: Places = Places(UnsafeCell::new(
    [const { Known { version: 0, directory: 0, of: 0, since: 0, way: 0 } }; ROWS * WAYS],
));

/// How the root of a file system leads to a directory.
#[derive(Clone, Copy)]
pub struct Way {
    /// The state behind the directory's name.
    pub state: u32,
    /// Components, at most [`MAX_DEPTH`].
    pub depth: u64,
    /// Bytes of their names, each padded; at most [`PATH_ROOM`].
    pub bytes: u64,
}

impl Way {
    /// None is remembered.
    const UNKNOWN: u64 = u64::MAX;

    #[inline(always)]
    fn pack(self) -> u64 {
        const { assert!(MAX_DEPTH < 1 << 16 && PATH_ROOM < 1 << 16) };
        self.bytes << 48 | self.depth << 32 | u64::from(self.state)
    }

    #[inline(always)]
    fn unpack(word: u64) -> Option<Self> {
        if word == Self::UNKNOWN {
            return None;
        }
        Some(Self { state: word as u32, depth: word >> 32 & 0xffff, bytes: word >> 48 })
    }
}

/// Under what a walk remembers, and finds what others did.
#[derive(Clone, Copy)]
pub struct Terms {
    /// The policy, and the count of renames; or 0.
    of: u64,
    /// In ticks.
    now: u64,
}

impl Terms {
    /// Under which nothing is remembered.
    pub const NONE: Self = Self { of: 0, now: 0 };

    /// Those of now, for an agent's walk. None where somebody is to be told of what is allowed, by a whole path, and
    /// where the kernel would not say what it frees.
    #[inline(always)]
    pub fn now(agent: &Agent) -> Self {
        if agent.flags & AgentFlag::LOG_ALLOWED != 0 || !kernel::has(Hook::InodeFree) {
            return Self::NONE;
        }
        match renames() {
            // SAFETY: the helper has no preconditions.
            Some(count) => unsafe {
                Self { of: u64::from(agent.policy) << 32 | u64::from(count), now: bpf_jiffies64() }
            },
            None => Self::NONE,
        }
    }

    #[inline(always)]
    pub fn are_none(self) -> bool {
        self.of == 0
    }

    /// Whether nothing was renamed since.
    #[inline(always)]
    fn hold(self) -> bool {
        renames() == Some(self.of as u32)
    }
}

/// The number of the directory with this inode, a pointer of a type that the verifier knows.
#[inline(always)]
pub fn number(inode: u64) -> u64 {
    distance(inode, DIRECTORIES.0.get() as u64)
}

#[inline(always)]
fn place(directory: u64, way: usize) -> *mut Known {
    let row = scatter(directory) as usize % ROWS;
    // SAFETY: a row is below `ROWS`, and a way below `WAYS`.
    unsafe { DIRECTORIES.0.get().cast::<Known>().add(row * WAYS + way % WAYS) }
}

/// What is remembered of a directory.
#[inline(always)]
pub fn way_to(directory: u64, terms: Terms) -> Option<Way> {
    let place = place(directory, (terms.of >> 32) as usize);
    // SAFETY: a place is always there. Volatile, as others write to it; x86 reads in order.
    let word = unsafe {
        let version = read_volatile(&raw const (*place).version);
        let is_it = read_volatile(&raw const (*place).directory) == directory
            && read_volatile(&raw const (*place).of) == terms.of
            && terms.now.wrapping_sub(read_volatile(&raw const (*place).since)) < REMEMBERED_TICKS;
        let word = read_volatile(&raw const (*place).way);
        let whole = version != WRITTEN && read_volatile(&raw const (*place).version) == version;
        if is_it && whole { word } else { Way::UNKNOWN }
    };
    Way::unpack(word)
}

/// Remembers the way to the directory of this number, in which something lay when `terms` began.
#[inline(always)]
pub fn remember(directory: u64, terms: Terms, way: Way) {
    // What was read in between may have been read by a name that is no longer.
    if !terms.hold() {
        return;
    }
    write(place(directory, (terms.of >> 32) as usize), |known| {
        // SAFETY: the place was taken. Volatile, as others read it.
        unsafe {
            write_volatile(&raw mut (*known).directory, directory);
            write_volatile(&raw mut (*known).of, terms.of);
            write_volatile(&raw mut (*known).since, terms.now);
            write_volatile(&raw mut (*known).way, way.pack());
        }
    });
}

/// Forgets the inode that is about to be freed, whatever it is of.
#[inline(always)]
pub fn forget(inode: u64) {
    let directory = number(inode);
    for way in 0..WAYS {
        let place = place(directory, way);
        // SAFETY: as in `way_to`.
        if unsafe { read_volatile(&raw const (*place).directory) } == directory {
            // Where somebody writes there now, it is of another directory.
            // SAFETY: as in `remember`.
            write(place, |known| unsafe { write_volatile(&raw mut (*known).directory, 0) });
        }
    }
}

/// Takes the place and writes to it, unless somebody does already.
#[inline(always)]
fn write(place: *mut Known, write: impl FnOnce(*mut Known)) {
    let mut version = WRITTEN;
    // SAFETY: a place is always there; the exchange is one instruction, so that one of two has the place.
    unsafe {
        core::arch::asm!("{0} = xchg_64({1} + 0, {0})", inout(reg) version, in(reg) &raw mut (*place).version);
    }
    if version != WRITTEN {
        write(place);
        // SAFETY: as above. Volatile, so that it stays behind what was written; x86 writes in order.
        unsafe { write_volatile(&raw mut (*place).version, version.wrapping_add(1)) };
    }
}
