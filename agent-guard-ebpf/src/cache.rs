//! Verdicts that are remembered in the inode: what was allowed, and is asked again, is allowed without a walk: an
//! open, running a file, mapping it as code.
//!
//! What is remembered is the verdict on the only name that a regular file has. It holds while that is so and
//! the name is the same:
//!
//! - Renames on the host, of the file or of a directory above it, go through `d_move` or `d_exchange`, and a
//!   directory that is found in another place through `d_splice_alias`; all write `rename_lock`, whose count
//!   is part of what is remembered.
//! - A second name is given by `vfs_link` alone, whose hook marks the inode before there is one. So does the
//!   hook of removing one of several: the count of links falls while the name still stands. What is marked is
//!   never remembered again; nor is what has any other number of links than one.
//! - A name that was removed is no longer hashed, and what is opened by it is not remembered.
//! - Names that change by themselves, as those in encrypted directories do when the key comes or goes, and
//!   those on file systems that take them in any case, are not remembered.
//! - A policy that is swapped has another id, and the label that a task finds its policy in is renewed when
//!   `GENERATION` changes. While somebody changes it nothing is remembered, and nothing known is used.
//! - Mounts do not matter: a walk ends at the root of the file system.
//!
//! A verdict is forgotten after [`REMEMBERED_TICKS`], too, long before 32 bits have counted so many renames that they
//! begin again. Only what was allowed, and of which nobody is to be told, is remembered; and
//! nothing that a rule with a pin allowed, which speaks of the file as it is.

use core::{
    ffi::c_void,
    ptr::{read_volatile, write_volatile},
};

use agent_guard_common::{
    decide::Request,
    limits::REMEMBERED_TICKS,
    mode::{FORMAT, REGULAR},
    offsets::ABSENT,
    table::{AgentFlag, Label},
};
use aya_ebpf::helpers::generated::bpf_jiffies64;

use crate::{
    asked,
    guard::Caller,
    kernel::{offset, read, rename_lock, typed},
    maps,
};

/// Policies whose verdicts one inode holds. One that finds its place taken takes it.
const WAYS: usize = 2;
/// Kinds of [`Request`] that are remembered: reading, writing, both, running, and loading to run.
const KINDS: usize = 5;

/// Tries at marking an inode, for each of which another processor may be making storage of the same inode: for
/// this map, and for that of another build.
const TRIES: usize = 4;

/// The value of `REMEMBERED`: what is known of an inode, in the inode itself.
#[repr(C)]
pub struct Remembered {
    /// 1 once the file had, or was about to have, more than one name. It stays.
    linked: u64,
    /// For each kind of request the ways, one behind the other.
    allowed: [Allowed; KINDS * WAYS],
}

/// That an open was allowed. Several processors write it, each word whole; what is read of two writers is the
/// verdict of one, at the age of the other.
#[repr(C)]
struct Allowed {
    /// The policy that allowed it, and the count of renames at that time; or 0.
    of: u64,
    /// When it began to be judged, in ticks.
    since: u64,
}

/// `s_magic` of the file systems whose names only the kernel's own calls change, and on which a file has one
/// inode (`include/uapi/linux/magic.h`).
const LOCAL: [u64; 5] = [EXT4_MAGIC, XFS_MAGIC, BTRFS_MAGIC, F2FS_MAGIC, TMPFS_MAGIC];
const EXT4_MAGIC: u64 = 0xef53;
const XFS_MAGIC: u64 = 0x5846_5342;
const BTRFS_MAGIC: u64 = 0x9123_683e;
const F2FS_MAGIC: u64 = 0xf2f5_2010;
const TMPFS_MAGIC: u64 = 0x0102_1994;

/// `i_flags` bits: an inode of the kernel's own, for which no hook is called, and one whose names are encrypted.
const S_PRIVATE: u32 = 1 << 9;
const S_ENCRYPTED: u32 = 1 << 14;

/// An open, and what its verdict is remembered under: seen before it is judged.
#[derive(Clone, Copy)]
pub struct Question {
    /// Below [`KINDS`].
    kind: usize,
    generation: u32,
    policy: u32,
    renames: u32,
    now: u64,
}

impl Question {
    /// What the caller asks of a file. `None` where nothing is to be remembered.
    #[inline(always)]
    pub fn new(caller: Caller, request: Request) -> Option<Self> {
        let kind = match request {
            Request::Read => 0,
            Request::Write => 1,
            Request::ReadWrite => 2,
            Request::Exec => 3,
            Request::Load => 4,
            Request::Connect => return None,
        };
        let label = caller.label?;
        // SAFETY: the label of the running task, as `scope::labelled` says.
        let foretold = unsafe { (*label).foretold };
        // A denial that was told of early is judged once more, to be forgotten.
        if foretold != 0 {
            return None;
        }
        let generation = maps::generation();
        let policy = policy_of(caller.agent, label, generation);
        if policy == 0 {
            return None;
        }
        let renames = renames()?;
        // SAFETY: the helper has no preconditions.
        let now = unsafe { bpf_jiffies64() };
        Some(Self { kind, generation, policy, renames, now })
    }

    /// Whether an open of `file`, the trusted argument of the hook, was allowed before and still is.
    #[inline(always)]
    pub fn is_answered(&self, file: u64) -> bool {
        let inode: u64 = typed(file, offset!(file_inode));
        let Some(known) = maps::remembered(inode as *mut c_void) else { return false };
        let allowed = self.place(known);
        // SAFETY: a value of inode storage lives as long as its inode, which is open here. Volatile, as others
        // write to it.
        let (of, since, linked) = unsafe {
            (
                read_volatile(&raw const (*allowed).of),
                read_volatile(&raw const (*allowed).since),
                read_volatile(&raw const (*known).linked),
            )
        };
        of == self.word()
            && self.now.wrapping_sub(since) < REMEMBERED_TICKS
            && linked == 0
            && typed::<u32>(inode, offset!(inode_links)) == 1
    }

    /// Remembers that an open of `file`, the trusted argument of the hook, was allowed.
    #[inline(always)]
    pub fn remember(&self, file: u64) {
        let inode: u64 = typed(file, offset!(file_inode));
        let dentry: u64 = typed(file, offset!(file_dentry));
        // What was judged in between may have been judged by a name, or a policy, that is no longer.
        let stands = typed::<u32>(inode, offset!(inode_links)) == 1
            && typed::<u64>(dentry, offset!(dentry_hashed)) != 0
            && renames() == Some(self.renames)
            && maps::generation() == self.generation;
        if !stands || !keeps_its_name(inode, REGULAR) {
            return;
        }
        let Some(known) = self.memory(inode) else { return };
        let allowed = self.place(known);
        // SAFETY: as in `is_answered`.
        unsafe {
            if read_volatile(&raw const (*known).linked) != 0 {
                return;
            }
            write_volatile(&raw mut (*allowed).of, self.word());
            write_volatile(&raw mut (*allowed).since, self.now);
        }
    }

    /// Where to remember. Storage is made for what is asked a second time: to make it takes longer than to judge.
    #[inline(always)]
    fn memory(&self, inode: u64) -> Option<*mut Remembered> {
        let there = maps::remembered(inode as *mut c_void);
        if there.is_some() || !asked::before(inode, self.policy) {
            return there;
        }
        maps::remembered_or_create(inode as *mut c_void)
    }

    #[inline(always)]
    fn place(&self, known: *mut Remembered) -> *mut Allowed {
        let index = self.kind * WAYS + self.policy as usize % WAYS;
        // SAFETY: the value is live; a kind is below `KINDS`, and the remainder below `WAYS`.
        unsafe { (&raw mut (*known).allowed).cast::<Allowed>().add(index) }
    }

    #[inline(always)]
    fn word(&self) -> u64 {
        u64::from(self.policy) << 32 | u64::from(self.renames)
    }
}

/// The policy whose remembered verdicts hold for a task of `agent`, or 0: somebody is told of what it allows,
/// or is changing it.
#[inline(always)]
fn policy_of(agent: u32, label: *mut Label, generation: u32) -> u32 {
    // SAFETY: as in `Question::new`.
    let (known, policy) = unsafe { ((*label).generation, (*label).policy) };
    // What is odd is never known.
    if known == generation {
        return policy;
    }
    if generation & 1 != 0 {
        return 0;
    }
    let policy = match maps::agent(agent) {
        Some(agent) if agent.flags & AgentFlag::LOG_ALLOWED == 0 => agent.policy,
        _ => 0,
    };
    // SAFETY: as above. The count was read before the agent's row, and changes after it.
    unsafe { ((*label).policy, (*label).generation) = (policy, generation) };
    policy
}

/// The count of renames, where none goes on.
#[inline(always)]
pub fn renames() -> Option<u32> {
    let lock = rename_lock();
    if lock == 0 {
        return None;
    }
    read(lock, 0).ok().filter(|count: &u32| count & 1 == 0)
}

/// Whether the name of a file of this `format` with this inode, a pointer of a type that the verifier knows, changes
/// by nothing but what is counted or marked here. It is so for as long as the inode lives.
#[inline(always)]
pub fn keeps_its_name(inode: u64, format: u16) -> bool {
    let sb: u64 = typed(inode, offset!(inode_sb));
    let encoding = offset!(sb_encoding);
    typed::<u16>(inode, offset!(inode_mode)) & FORMAT == format
        && typed::<u32>(inode, offset!(inode_flags)) & (S_PRIVATE | S_ENCRYPTED) == 0
        && LOCAL.contains(&typed::<u64>(sb, offset!(sb_magic)))
        && (encoding == ABSENT || typed::<u64>(sb, encoding) == 0)
}

/// Marks the inode, a pointer that the verifier trusts, as one that has, or will have, more than one name. False
/// where memory ran out.
#[inline(always)]
pub fn mark_linked(inode: u64) -> bool {
    if !keeps_its_name(inode, REGULAR) {
        return true;
    }
    for _ in 0..TRIES {
        if let Some(known) = maps::remembered_or_create(inode as *mut c_void) {
            // SAFETY: as in `Question::is_answered`.
            unsafe { write_volatile(&raw mut (*known).linked, 1) };
            return true;
        }
    }
    false
}
