//! The only place that reads kernel memory. Offsets come from the running kernel's BTF
//! ([`agent_guard_common::offsets`]); a read that fails is an error that its caller turns into a denial.

use core::marker::PhantomData;

use agent_guard_common::{
    decide::{Reason, Request},
    guarded::{self, Node},
    hook::{Hook, NO_PROTOTYPE},
    mode::{DIRECTORY, FORMAT},
    offsets::{ABSENT, Offsets},
    table::{ChangeTime, FileKey},
};
use aya_ebpf::helpers::{bpf_get_current_task, bpf_probe_read_kernel, bpf_probe_read_user};

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

/// Set by the loader: the address of `rename_lock`, or 0 where it is not known.
#[unsafe(no_mangle)]
static RENAME_LOCK: u64 = 0;

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

/// The address of `rename_lock`, a `seqlock_t`, which starts with its count; or 0.
#[inline(always)]
pub fn rename_lock() -> u64 {
    // SAFETY: as in `offset!`.
    unsafe { core::ptr::read_volatile(&raw const RENAME_LOCK) }
}

/// The number of the prototype that `hook` has here. A constant to the verifier, which leaves out what
/// speaks of the others.
#[inline(always)]
pub fn prototype(hook: Hook) -> u8 {
    // SAFETY: as in `offset!`; a hook has the number of its row.
    unsafe { core::ptr::read_volatile((&raw const PROTOTYPES).cast::<u8>().add(hook as usize)) }
}

/// Whether this kernel has `hook`.
#[inline(always)]
pub fn has(hook: Hook) -> bool {
    prototype(hook) != NO_PROTOTYPE
}

/// Reads a `T` at `base + offset` in kernel memory.
#[inline(always)]
pub fn read<T>(base: u64, offset: u32) -> Result<T, Reason> {
    // SAFETY: the helper checks the address and fails on one that can not be read.
    unsafe { bpf_probe_read_kernel((base + u64::from(offset)) as *const T) }
        .map_err(|_| Reason::Failed)
}

/// Reads a word of the caller's memory. Another thread may have changed it since the kernel did, as it may
/// every argument there.
#[inline(always)]
pub fn read_user(address: u64) -> Result<u64, Reason> {
    // SAFETY: the helper checks the address and fails on one that can not be read.
    unsafe { bpf_probe_read_user(address as *const u64) }.map_err(|_| Reason::Failed)
}

/// Reads a member by a pointer whose type the verifier knows: an argument of an LSM hook, or what was read
/// so from one. One instruction in place of a helper's eighty; where nothing can be read it gives zero.
#[inline(always)]
pub fn typed<T>(base: u64, offset: u32) -> T {
    // SAFETY: the verifier takes no pointer but of a type that it knows, at the place of a member.
    unsafe { core::ptr::read_volatile((base + u64::from(offset)) as *const T) }
}

/// A pointer that was found not to be null. From here on: the compiler would else do sums with it before, which the
/// verifier refuses.
#[inline(always)]
pub fn checked(pointer: u64) -> u64 {
    let mut pointer = pointer;
    // SAFETY: changes nothing.
    unsafe { core::arch::asm!("{0} = {0}", inout(reg) pointer) };
    pointer
}

/// How far the kernel object at `pointer` lies from `place` in a map: a number that stands for its address, which the
/// verifier lets nobody compute with.
#[inline(always)]
pub fn distance(pointer: u64, place: u64) -> u64 {
    let mut distance = pointer;
    // SAFETY: subtracts. In assembly, because the compiler would do sums first with what is a pointer.
    unsafe { core::arch::asm!("{0} -= {1}", inout(reg) distance, in(reg) place) };
    distance
}

/// Spreads what [`distance`] says of objects, which lie some hundreds of bytes apart, over places.
#[inline(always)]
pub fn scatter(distance: u64) -> u64 {
    distance.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40
}

/// How members of what a hook is about are read.
pub trait Reach: Copy {
    /// Whether an address will do, which any function can be given.
    const BY_ADDRESS: bool;

    /// Reads a `T` at `base + offset`.
    fn member<T>(base: u64, offset: u32) -> Result<T, Reason>;
}

/// By pointers whose types the verifier knows, as [`typed`] does.
#[derive(Clone, Copy)]
pub struct Typed;

/// By addresses, as [`read`] does.
#[derive(Clone, Copy)]
pub struct Probed;

impl Reach for Typed {
    const BY_ADDRESS: bool = false;

    #[inline(always)]
    fn member<T>(base: u64, offset: u32) -> Result<T, Reason> {
        Ok(typed(base, offset))
    }
}

impl Reach for Probed {
    const BY_ADDRESS: bool = true;

    #[inline(always)]
    fn member<T>(base: u64, offset: u32) -> Result<T, Reason> {
        read(base, offset)
    }
}

/// Reads of which any may fail: what could not be read is zero, and `fault` says so.
pub struct Reads {
    pub fault: Option<Reason>,
}

impl Reads {
    #[inline(always)]
    pub fn get<T: Default>(&mut self, base: u64, offset: u32) -> T {
        match read(base, offset) {
            Ok(value) => value,
            Err(reason) => {
                self.fault = Some(reason);
                T::default()
            }
        }
    }
}

/// What is asked about: a `struct dentry`, and the `struct inode` behind it. An address that could not be
/// read is [`UNREAD`], and whatever is read from there fails.
#[derive(Clone, Copy)]
pub struct Object<R> {
    pub dentry: u64,
    /// 0 where there is none yet.
    pub inode: u64,
    /// Mode and device number that a file without an inode is to have.
    pub made: (u32, u32),
    /// An open file has an inode: without one it is not to pass for a name that has none yet.
    opened: bool,
    reach: PhantomData<R>,
}

/// No address of the kernel's.
const UNREAD: u64 = u64::MAX / 2;

impl Object<Probed> {
    /// None at all.
    pub const NONE: Self =
        Self { dentry: 0, inode: 0, made: (0, 0), opened: false, reach: PhantomData };
}

impl<R: Reach> Object<R> {
    /// The object that `struct file` has open.
    #[inline(always)]
    pub fn of_file(file: u64) -> Self {
        let dentry = R::member(file, offset!(file_dentry)).unwrap_or(UNREAD);
        let inode = R::member(file, offset!(file_inode)).unwrap_or(UNREAD);
        Self { dentry, inode, made: (0, 0), opened: true, reach: PhantomData }
    }

    /// The object that a `struct path` leads to.
    #[inline(always)]
    pub fn of_path(path: u64) -> Self {
        Self::of_dentry(R::member(path, offset!(path_dentry)).unwrap_or(UNREAD))
    }

    /// The object that a name stands for, or a place where there is none yet.
    #[inline(always)]
    pub fn of_dentry(dentry: u64) -> Self {
        let inode = R::member(dentry, offset!(dentry_inode)).unwrap_or(UNREAD);
        Self { dentry, inode, made: (0, 0), opened: false, reach: PhantomData }
    }

    /// Whether it is part of a cgroup tree.
    #[inline(always)]
    pub fn is_cgroup(&self) -> bool {
        self.magic().is_ok_and(guarded::is_cgroup)
    }

    /// `s_magic` of its file system.
    #[inline(always)]
    pub fn magic(&self) -> Result<u64, Reason> {
        R::member(R::member(self.dentry, offset!(dentry_sb))?, offset!(sb_magic))
    }

    /// The name that the kernel gave it, where it hangs in no tree: the first 16 bytes; what follows the NUL
    /// means nothing.
    #[inline(always)]
    pub fn kernel_name(&self) -> Result<[u64; 2], Reason> {
        kernel_name(self.dentry)
    }
}

#[inline(always)]
fn kernel_name(dentry: u64) -> Result<[u64; 2], Reason> {
    read(read(dentry, offset!(dentry_name))?, 0)
}

/// Whether a file, an argument of the hook, is a process descriptor: from 6.9 on a file system of its own.
#[inline(always)]
pub fn is_pidfd(file: u64) -> bool {
    Object::<Typed>::of_file(file).magic() == Ok(PIDFS_MAGIC)
}

/// What a decision needs to know of an [`Object`], its file system and its inode.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Facts {
    pub dentry: u64,
    pub inode: u64,
    pub root: u64,
    pub magic: u64,
    pub number: u64,
    pub dev: u32,
    pub rdev: u32,
    pub links: u32,
    pub generation: u32,
    pub mode: u32,
    /// 1 where it is an open file.
    opened: u32,
    /// The dentry from which on the names of the path were not read, or 0.
    pub rest: u64,
}

/// `s_magic` of the file systems that are treated apart (`include/uapi/linux/magic.h`).
pub const PROC_MAGIC: u64 = 0x9fa0;
pub const PIPE_MAGIC: u64 = 0x5049_5045;
const OVERLAY_MAGIC: u64 = 0x794c_7630;
pub const SOCKET_MAGIC: u64 = 0x534f_434b;
pub const PIDFS_MAGIC: u64 = 0x5049_4446;
pub const ANONYMOUS_MAGIC: u64 = 0x0904_1934;
const TMPFS_MAGIC: u64 = 0x0102_1994;

/// What the kernel puts before the name of a memfd.
const MEMFD: u64 = u64::from_le_bytes(*b"memfd:\0\0");
const MEMFD_BYTES: u64 = 0xffff_ffff_ffff;

impl Facts {
    /// Writes down what is to be examined.
    #[inline(always)]
    pub fn begin<R>(&mut self, object: &Object<R>) {
        self.dentry = object.dentry;
        self.inode = object.inode;
        self.opened = u32::from(object.opened);
        (self.mode, self.rdev) = object.made;
        (self.number, self.dev, self.links, self.generation) = (0, 0, 0, 0);
        self.rest = 0;
    }

    /// What was begun with, by its addresses.
    #[inline(always)]
    pub fn object(&self) -> Object<Probed> {
        Object {
            dentry: self.dentry,
            inode: self.inode,
            made: (self.mode, self.rdev),
            opened: self.opened != 0,
            reach: PhantomData,
        }
    }

    /// Reads the rest.
    #[inline(always)]
    pub fn examine<R: Reach>(&mut self, object: &Object<R>) -> Result<(), Reason> {
        let (dentry, inode) = (object.dentry, object.inode);
        let sb: u64 = R::member(dentry, offset!(dentry_sb))?;
        self.root = R::member(sb, offset!(sb_root))?;
        self.magic = R::member(sb, offset!(sb_magic))?;
        self.dev = R::member(sb, offset!(sb_dev))?;
        if self.root == 0 || object.opened && inode == 0 {
            return Err(Reason::Failed);
        }
        if inode == 0 {
            return Ok(());
        }
        let inode = checked(inode);
        self.number = R::member(inode, offset!(inode_ino))?;
        self.mode = u32::from(R::member::<u16>(inode, offset!(inode_mode))?);
        self.rdev = R::member(inode, offset!(inode_rdev))?;
        self.links = R::member(inode, offset!(inode_links))?;
        self.generation = R::member(inode, offset!(inode_generation))?;
        Ok(())
    }

    /// Where policies keep what they know of this file.
    #[inline(always)]
    pub fn key(&self, policy: u32) -> FileKey {
        FileKey { policy, dev: self.dev, inode: self.number }
    }

    /// When the inode was last changed.
    #[inline(always)]
    pub fn changed(&self) -> Result<ChangeTime, Reason> {
        let seconds = read(self.inode, offset!(inode_changed_s))?;
        Ok(ChangeTime::new(seconds, read(self.inode, offset!(inode_changed_ns))?))
    }

    #[inline(always)]
    pub fn is_directory(&self) -> bool {
        self.mode as u16 & FORMAT == DIRECTORY
    }

    /// Whether a file that hangs in no tree is a memfd: on tmpfs, under a name that the kernel gives to
    /// nothing else there.
    #[inline(always)]
    pub fn is_memfd(&self) -> bool {
        self.magic == TMPFS_MAGIC
            && kernel_name(self.dentry).is_ok_and(|[start, _]| start & MEMFD_BYTES == MEMFD)
    }

    /// Whether a rule must name it exactly.
    #[inline(always)]
    pub fn is_guarded(&self, request: Request) -> bool {
        let writes = matches!(request, Request::Write | Request::ReadWrite);
        let mode = self.mode as u16;
        guarded::is_guarded(&Node { magic: self.magic, mode, rdev: self.rdev }, writes)
    }
}

/// `super_block.s_flags` bit of a file system that the kernel mounted for itself.
const SB_KERNMOUNT: u64 = 1 << 22;

/// `MNT_NS_INTERNAL`, which is `ERR_PTR(-EINVAL)`.
const MNT_NS_INTERNAL: u64 = -22_i64 as u64;

/// Whether an overlay opens this file of a layer, an argument of the hook, for an open of its own that was judged.
///
/// From 6.5 on, and for copying up and reading directories on every kernel, the file's mount is a private
/// clone of the layer's (`clone_private_mount`), which no process can reach: it is in no namespace and
/// marked so, as are the mounts of what the kernel mounted for itself (memfd, pipes, message queues),
/// whose file system says so too. Before 6.5 a layer's inode is opened under the overlay's own path
/// (`open_with_fake_path`), and only then is a file's inode another than its dentry's. `FMODE_BACKING`
/// would say it in one bit, which 6.14 moved to where others were.
#[inline(always)]
pub fn is_of_overlay(file: u64) -> bool {
    let dentry: u64 = typed(file, offset!(file_dentry));
    let sb: u64 = typed(dentry, offset!(dentry_sb));
    if typed::<u64>(dentry, offset!(dentry_inode)) != typed(file, offset!(file_inode)) {
        return typed::<u64>(sb, offset!(sb_magic)) == OVERLAY_MAGIC;
    }
    // What lies around the member that is pointed to has no type.
    let mount = typed::<u64>(file, offset!(file_mount)) - u64::from(offset!(mount_vfs));
    read(mount, offset!(mount_namespace)) == Ok(MNT_NS_INTERNAL)
        && typed::<u64>(sb, offset!(sb_flags)) & SB_KERNMOUNT == 0
}

/// `thread_info.status` bit of a 32-bit call; the x32 bit of a call's number.
const TS_COMPAT: u32 = 2;
const X32_BIT: u32 = 0x4000_0000;

/// The system call that the current task is in, from its `struct pt_regs`: whether its number is of the
/// 32-bit table, and the number. The kernel goes by 32 bits of it, and keeps whatever the caller had above.
#[inline(always)]
pub fn system_call(regs: u64) -> Result<(bool, u32), Reason> {
    let number: u32 = read(regs, offset!(regs_orig_ax))?;
    // SAFETY: the helper has no preconditions.
    let task = unsafe { bpf_get_current_task() };
    let compat = read::<u32>(task, offset!(task_status))? & TS_COMPAT != 0;
    Ok((compat, if compat { number } else { number & !X32_BIT }))
}

/// `task_struct.flags` bit of io_uring's workers.
const PF_IO_WORKER: u32 = 0x10;

/// Whether the kernel acts on its own in the current task: with credentials that are not the task's
/// (`override_creds`), as overlays do on their layers. io_uring lends a request other credentials too
/// (`IORING_REGISTER_PERSONALITY`), so a task that ever had a ring never counts.
#[inline(always)]
pub fn acts_for_itself() -> bool {
    lent_credentials().unwrap_or(false)
}

#[inline(always)]
fn lent_credentials() -> Result<bool, Reason> {
    // SAFETY: the helper has no preconditions.
    let task = unsafe { bpf_get_current_task() };
    let lent = read::<u64>(task, offset!(task_cred))? != read(task, offset!(task_real_cred))?;
    let io_worker = read::<u32>(task, offset!(task_flags))? & PF_IO_WORKER != 0;
    let ring = offset!(task_io_uring);
    Ok(lent && !io_worker && (ring == ABSENT || read::<u64>(task, ring)? == 0))
}

/// Bytes of a kernel stack on x86_64 (`THREAD_SIZE`).
const STACK_BYTES: u64 = 16 * 1024;

/// Whether `address` lies on the current task's kernel stack.
#[inline(always)]
pub fn is_on_stack(address: u64) -> bool {
    // SAFETY: the helper has no preconditions.
    let task = unsafe { bpf_get_current_task() };
    read::<u64>(task, offset!(task_stack))
        .is_ok_and(|stack| address.wrapping_sub(stack) < STACK_BYTES)
}
