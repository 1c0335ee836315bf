//! The only place that reads kernel memory. Offsets come from the running kernel's BTF
//! ([`agent_guard_common::offsets`]); a read that fails is an error that its caller turns into a denial.

use agent_guard_common::{
    decide::{Reason, Request},
    guarded::{self, Node},
    hook::Hook,
    offsets::Offsets,
};
use aya_ebpf::helpers::bpf_probe_read_kernel;

/// Set by the loader before the programs are loaded. The verifier then knows every offset.
#[unsafe(no_mangle)]
static OFFSETS: Offsets = zero_offsets();

/// Set by the loader: 1 where denials are to be enforced, 0 on tier `observe`.
#[unsafe(no_mangle)]
static ENFORCE: u32 = 0;

/// Set by the loader: 1 where LSM programs judge, so that cgroup programs only divert name queries.
#[unsafe(no_mangle)]
static LSM_JUDGES: u32 = 0;

/// Set by the loader: which of the prototypes in the hook table each hook has on this kernel.
#[unsafe(no_mangle)]
static PROTOTYPES: [u8; Hook::TABLE.len()] = [0; Hook::TABLE.len()];

const fn zero_offsets() -> Offsets {
    // SAFETY: the struct holds integers only.
    unsafe { core::mem::zeroed() }
}

/// The offsets of the running kernel.
#[inline(always)]
pub fn offsets() -> &'static Offsets {
    &OFFSETS
}

/// An offset by its field, read so that the compiler can not take today's zero for granted.
macro_rules! offset {
    ($field:ident) => {
        // SAFETY: a static; volatile because the loader writes it behind the compiler's back.
        unsafe { core::ptr::read_volatile(&raw const (*$crate::kernel::offsets()).$field) }
    };
}
pub(crate) use offset;

/// Whether this load enforces.
#[inline(always)]
pub fn enforcing() -> bool {
    // SAFETY: as in `offset!`.
    unsafe { core::ptr::read_volatile(&raw const ENFORCE) == 1 }
}

/// Whether LSM programs judge what comes by cgroup programs.
#[inline(always)]
pub fn lsm_judges() -> bool {
    // SAFETY: as in `offset!`.
    unsafe { core::ptr::read_volatile(&raw const LSM_JUDGES) == 1 }
}

/// The number of the prototype that `hook` has here. A constant to the verifier, which leaves out what
/// speaks of the others.
#[inline(always)]
pub fn prototype(hook: Hook) -> u8 {
    // SAFETY: as in `offset!`; a hook has the number of its row.
    unsafe { core::ptr::read_volatile((&raw const PROTOTYPES).cast::<u8>().add(hook as usize)) }
}

/// Reads a `T` at `base + offset` in kernel memory.
#[inline(always)]
pub fn read<T>(base: u64, offset: u32) -> Result<T, Reason> {
    // SAFETY: the helper checks the address and fails on one that can not be read.
    unsafe { bpf_probe_read_kernel((base + u64::from(offset)) as *const T) }
        .map_err(|_| Reason::Failed)
}

/// A `struct dentry` and what the decision needs of its file system and inode. A member that could not
/// be read is zero, and `fault` says so: every member is written on every path, because the compiler
/// moves loads before checks, and kernels before 6.3 refuse to read a stack slot that may be unwritten.
#[derive(Clone, Copy)]
pub struct Object {
    pub dentry: u64,
    pub root: u64,
    pub magic: u64,
    pub dev: u32,
    pub number: u64,
    pub mode: u16,
    pub rdev: u32,
    pub fault: Option<Reason>,
}

/// `s_magic` of the file systems that are treated apart (`include/uapi/linux/magic.h`).
pub const PROC_MAGIC: u64 = 0x9fa0;
pub const PIPE_MAGIC: u64 = 0x5049_5045;

impl Object {
    /// The object that `struct file` has open; at address 0, a fault.
    #[inline(always)]
    pub fn of_file(file: u64) -> Self {
        let mut reads = Reads { fault: None };
        let inode = reads.get(file, offset!(file_inode));
        let dentry = reads.get(file, offset!(file_dentry));
        let number = reads.get(inode, offset!(inode_ino));
        let mode = reads.get(inode, offset!(inode_mode));
        let rdev = reads.get(inode, offset!(inode_rdev));
        Self { number, mode, rdev, ..Self::placed(reads, dentry) }
    }

    /// An object that has a name and, at creation, no inode.
    #[inline(always)]
    pub fn of_new_dentry(dentry: u64) -> Self {
        Self::placed(Reads { fault: None }, dentry)
    }

    #[inline(always)]
    fn placed(mut reads: Reads, dentry: u64) -> Self {
        let sb: u64 = reads.get(dentry, offset!(dentry_sb));
        Self {
            dentry,
            root: reads.get(sb, offset!(sb_root)),
            magic: reads.get(sb, offset!(sb_magic)),
            dev: reads.get(sb, offset!(sb_dev)),
            number: 0,
            mode: 0,
            rdev: 0,
            fault: reads.fault,
        }
    }

    /// Whether a rule must name it exactly.
    #[inline(always)]
    pub fn is_guarded(&self, request: Request) -> bool {
        let writes = matches!(request, Request::Write | Request::ReadWrite);
        guarded::is_guarded(&Node { magic: self.magic, mode: self.mode, rdev: self.rdev }, writes)
    }
}

/// Reads of which any may fail.
struct Reads {
    fault: Option<Reason>,
}

impl Reads {
    #[inline(always)]
    fn get<T: Default>(&mut self, base: u64, offset: u32) -> T {
        match read(base, offset) {
            Ok(value) => value,
            Err(reason) => {
                self.fault = Some(reason);
                T::default()
            }
        }
    }
}
