//! Every map, and the policy tables seen as [`Tables`]. All agents share them; their sizes are in
//! [`agent_guard_common::limits`]. Entries take memory when they are made.

use core::{cell::UnsafeCell, ffi::c_void};

use agent_guard_common::{
    decide::{Component, Tables, Transport, decide_lease},
    event::{EventHeader, PATH_ROOM},
    hook::Hook,
    limits::{
        ALL_LEASES, COUNTER_ROWS, MAX_AGENTS, MAX_ALIASES, MAX_ALL_INTERVALS, MAX_DEPTH, MAX_EDGES,
        MAX_PINS, MAX_POLICIES, MAX_PREFIXES, MAX_STARTS, MAX_STATES, MAX_TERMINALS, RING_BYTES,
        ROOM,
    },
    table::{
        Agent, Alias, ChangeTime, Counter, CounterKey, Counters, Diverted, EdgeKey, Family,
        FileKey, Interval, IntervalKey, Label, Lease, LeaseKey, Lexer, NO_RING, PREFIX_BASE_BITS,
        PortSet, PrefixKey, StartKey, State, StateKey, TerminalKey, Verdict, Way,
    },
};
use aya_ebpf::{
    bindings::{
        BPF_F_NO_PREALLOC, BPF_LOCAL_STORAGE_GET_F_CREATE, BPF_SK_STORAGE_GET_F_CREATE,
        bpf_map_type::{BPF_MAP_TYPE_INODE_STORAGE, BPF_MAP_TYPE_TASK_STORAGE},
        bpf_sock, task_struct,
    },
    btf_maps::{HashMap, HashOfMaps, LpmTrie, PerCpuArray, RingBuf, SkStorage, lpm_trie::Key},
    helpers::generated::{
        bpf_get_smp_processor_id, bpf_inode_storage_get, bpf_ktime_get_boot_ns, bpf_sk_storage_get,
        bpf_task_storage_get,
    },
    macros::btf_map,
};

use crate::{cache::Remembered, directories::Terms, kernel::Facts};

/// A number that user space writes. In a section of its own, which is a map of its own: a program reads it
/// without a look-up.
#[repr(transparent)]
struct Shared(UnsafeCell<u32>);

// SAFETY: read and written whole by every processor.
unsafe impl Sync for Shared {}

#[unsafe(no_mangle)]
#[unsafe(link_section = ".data.generation")]
static GENERATION: Shared = Shared(UnsafeCell::new(0));

const LAZY: usize = BPF_F_NO_PREALLOC as usize;

#[btf_map]
static AGENTS: HashMap<u32, Agent, MAX_AGENTS, LAZY> = HashMap::new();
#[btf_map]
static AGENT_OF_CGROUP: HashMap<u64, u32, MAX_AGENTS, LAZY> = HashMap::new();
#[btf_map]
static STARTS: HashMap<StartKey, u32, { ROOM * MAX_STARTS }, LAZY> = HashMap::new();
#[btf_map]
static EDGES: HashMap<EdgeKey, u32, { ROOM * MAX_EDGES }, LAZY> = HashMap::new();
#[btf_map]
static STATES: HashMap<StateKey, State, { ROOM * MAX_STATES }, LAZY> = HashMap::new();
#[btf_map]
static ALIASES: HashMap<FileKey, Alias, { ROOM * MAX_ALIASES }, LAZY> = HashMap::new();
#[btf_map]
static PINS: HashMap<FileKey, ChangeTime, { ROOM * MAX_PINS }, LAZY> = HashMap::new();
#[btf_map]
static LEXERS: HashMap<u32, Lexer, MAX_POLICIES, LAZY> = HashMap::new();
#[btf_map]
static PREFIXES: LpmTrie<PrefixKey, PortSet, { ROOM * MAX_PREFIXES }> = LpmTrie::new();
#[btf_map]
static INTERVALS: HashMap<IntervalKey, Interval, { ROOM * MAX_ALL_INTERVALS }, LAZY> =
    HashMap::new();
#[btf_map]
static LEASES: HashMap<LeaseKey, Lease, ALL_LEASES, LAZY> = HashMap::new();
/// Which agent's a pseudo terminal is, by the id of its cgroup.
#[btf_map]
static TERMINALS: HashMap<TerminalKey, u64, MAX_TERMINALS, LAZY> = HashMap::new();
#[btf_map]
static DIVERTED: SkStorage<Diverted> = SkStorage::new();
/// Where events go, by [`Agent::ring`]. An agent that floods its own loses nobody else's.
#[btf_map]
static RINGS: HashOfMaps<u32, RingBuf<EventHeader, RING_BYTES>, MAX_AGENTS> = HashOfMaps::new();
#[btf_map]
static COUNTERS: HashMap<CounterKey, Counters, { MAX_AGENTS * COUNTER_ROWS as usize }, LAZY> =
    HashMap::new();
#[btf_map]
static LABELS: ObjectStorage<Label, TASK_STORAGE> = ObjectStorage::new();
#[btf_map]
static REMEMBERED: ObjectStorage<Remembered, INODE_STORAGE> = ObjectStorage::new();
#[btf_map]
static SCRATCH: PerCpuArray<Scratch, SCRATCH_SLOTS> = PerCpuArray::new();

/// Decisions that can be under way on one CPU at once. LSM programs are preempted on kernels that are
/// fully preemptible; each that is half-way holds a slot. Where all are taken, the next is denied.
const SCRATCH_SLOTS: usize = 8;

/// Working memory of a decision: a slot of the CPU, held from [`scratch`] to [`release`]. Not task
/// storage: every task of an agent would cost several KiB, and recent kernels allocate it without
/// waiting, which may fail at any time.
#[repr(C)]
pub struct Scratch {
    /// 1 while a decision holds the slot.
    busy: u64,
    /// Event under construction; `path` follows it without a gap and goes out with it.
    pub header: EventHeader,
    /// Names from the object up to the root, each NUL-terminated and padded to eight bytes.
    pub path: [u8; PATH_ROOM],
    /// What the automaton is fed, in the same order.
    pub components: [Component; MAX_DEPTH],
    /// What the decision is about.
    pub facts: Facts,
    /// Bytes used in `path`.
    pub path_len: u64,
    /// Entries used in `components`.
    pub depth: u64,
    /// Next byte of `path` for the glob automaton, and its state.
    pub lexed: u64,
    pub lexer_state: u64,
    /// Components and bytes of the path above those that were read.
    pub depth_above: u64,
    pub bytes_above: u64,
    /// The directory that the object is in, by [`crate::directories::number`], where the way to it is to be
    /// remembered; else 0. Under which terms, and the bytes of the object's own name.
    pub directory: u64,
    pub terms: Terms,
    pub last_bytes: u64,
    /// State of the path automaton, and the one before the last component.
    pub state: u32,
    pub state_before: u32,
    /// The decision, for [`crate::emit::Judged`].
    pub judged: u64,
    /// How the walk ended: see the constants of [`crate::walk`].
    pub status: u32,
    /// The file system is a procfs.
    pub is_proc: u32,
    /// The path leads through another process's entry in it.
    pub other_process: u32,
    /// A rule with a pin allows it, or would: what is said holds for the file as it now is.
    pub pinned: u32,
}

const TASK_STORAGE: usize = BPF_MAP_TYPE_TASK_STORAGE as usize;
const INODE_STORAGE: usize = BPF_MAP_TYPE_INODE_STORAGE as usize;

/// Storage in tasks or inodes. aya-ebpf 0.2 has no such types; the layout is what its loader reads from BTF.
#[repr(C)]
struct ObjectStorage<T, const KIND: usize> {
    r#type: *const [i32; KIND],
    key: *const i32,
    value: *const T,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; BPF_F_NO_PREALLOC as usize],
}

// SAFETY: the pointers carry types for the loader and are never dereferenced.
unsafe impl<T, const KIND: usize> Sync for ObjectStorage<T, KIND> {}

impl<T, const KIND: usize> ObjectStorage<T, KIND> {
    const fn new() -> Self {
        use core::ptr::null;
        Self { r#type: null(), key: null(), value: null(), max_entries: null(), map_flags: null() }
    }

    #[inline(always)]
    fn map(&self) -> *mut c_void {
        core::ptr::from_ref(self).cast_mut().cast()
    }
}

impl<T> ObjectStorage<T, TASK_STORAGE> {
    #[inline(always)]
    fn entry(&self, task: *mut task_struct, flags: u32) -> Option<*mut T> {
        // SAFETY: the helper takes this map and a task that the verifier knows to be trusted.
        let value = unsafe {
            bpf_task_storage_get(self.map(), task.cast(), core::ptr::null_mut(), u64::from(flags))
        };
        if value.is_null() { None } else { Some(value.cast()) }
    }
}

impl<T> ObjectStorage<T, INODE_STORAGE> {
    #[inline(always)]
    fn entry(&self, inode: *mut c_void, flags: u32) -> Option<*mut T> {
        // SAFETY: the helper takes this map and an inode that the verifier knows to be trusted.
        let value = unsafe {
            bpf_inode_storage_get(self.map(), inode, core::ptr::null_mut(), u64::from(flags))
        };
        if value.is_null() { None } else { Some(value.cast()) }
    }
}

/// What is known of an inode, a pointer that the verifier trusts, if anything is.
#[inline(always)]
pub fn remembered(inode: *mut c_void) -> Option<*mut Remembered> {
    REMEMBERED.entry(inode, 0)
}

/// As [`remembered`], made where it is missing. `None` where memory ran out, and where another processor made
/// storage of the inode at the same time, which a second call finds.
#[inline(always)]
pub fn remembered_or_create(inode: *mut c_void) -> Option<*mut Remembered> {
    REMEMBERED.entry(inode, BPF_LOCAL_STORAGE_GET_F_CREATE)
}

/// The label of `task`, if it has one.
#[inline(always)]
pub fn label(task: *mut task_struct) -> Option<*mut Label> {
    LABELS.entry(task, 0)
}

/// The label of `task`, made where it is missing. `None` only where memory ran out.
#[inline(always)]
pub fn label_or_create(task: *mut task_struct) -> Option<*mut Label> {
    LABELS.entry(task, BPF_LOCAL_STORAGE_GET_F_CREATE)
}

/// Whom a socket sent name queries to, if they were diverted.
///
/// # Safety
/// `socket` is the one that the kernel has put into the running program's context.
#[inline(always)]
pub unsafe fn diverted(socket: *mut bpf_sock) -> Option<*mut Diverted> {
    // SAFETY: by the caller; no initial value is given.
    unsafe { diverted_entry(socket, core::ptr::null_mut(), 0) }
}

/// As [`diverted`], begun with `value` where the socket has none. `None` only where memory ran out.
///
/// # Safety
/// As for [`diverted`].
#[inline(always)]
pub unsafe fn diverted_or(socket: *mut bpf_sock, mut value: Diverted) -> Option<*mut Diverted> {
    // SAFETY: by the caller; the helper copies the value.
    unsafe { diverted_entry(socket, &raw mut value, BPF_SK_STORAGE_GET_F_CREATE) }
}

#[inline(always)]
unsafe fn diverted_entry(
    socket: *mut bpf_sock,
    value: *mut Diverted,
    flags: u32,
) -> Option<*mut Diverted> {
    let map = (&raw const DIVERTED).cast_mut().cast();
    // SAFETY: the helper takes this map and, by the caller, a socket that the verifier knows.
    let entry = unsafe { bpf_sk_storage_get(map, socket.cast(), value.cast(), u64::from(flags)) };
    if entry.is_null() { None } else { Some(entry.cast()) }
}

/// Takes working memory of this CPU, which the program does not leave while it runs. `None` where
/// every slot is taken.
#[inline(always)]
pub fn scratch() -> Option<*mut Scratch> {
    for slot in 0..SCRATCH_SLOTS as u32 {
        let scratch = SCRATCH.get_ptr_mut(slot)?;
        let mut busy: u64 = 1;
        // SAFETY: the slot is live; the exchange is one instruction, so that of two programs of which
        // one preempted the other only one finds the slot free.
        unsafe {
            core::arch::asm!("{0} = xchg_64({1} + 0, {0})", inout(reg) busy, in(reg) &raw mut (*scratch).busy);
        }
        if busy == 0 {
            return Some(scratch);
        }
    }
    None
}

/// Gives working memory back.
#[inline(always)]
pub fn release(scratch: *mut Scratch) {
    // SAFETY: the caller holds the slot. Volatile, so that the store stays behind what was done with it.
    unsafe { core::ptr::write_volatile(&raw mut (*scratch).busy, 0) };
}

/// The agent with this id.
#[inline(always)]
pub fn agent(id: u32) -> Option<&'static Agent> {
    // SAFETY: user space replaces elements whole; the one found stays readable until this program ends.
    unsafe { AGENTS.get(id) }
}

/// The agent whose root is this cgroup, or 0.
#[inline(always)]
pub fn agent_of_cgroup(cgroup: u64) -> u32 {
    // SAFETY: as for `agent`.
    unsafe { AGENT_OF_CGROUP.get(cgroup) }.copied().unwrap_or(0)
}

/// Changes whenever `AGENT_OF_CGROUP` or the policy of an agent does. Odd while that goes on.
#[inline(always)]
pub fn generation() -> u32 {
    // SAFETY: a number; user space stores it whole. Volatile, because it does so behind the compiler's back.
    unsafe { GENERATION.0.get().read_volatile() }
}

/// The glob automaton of a policy.
#[inline(always)]
pub fn lexer(policy: u32) -> Option<&'static Lexer> {
    // SAFETY: as for `agent`; a policy's lexer is never changed once it is current.
    unsafe { LEXERS.get(policy) }
}

/// What deny rules say of a file by its other names.
#[inline(always)]
pub fn alias(key: FileKey) -> Option<&'static Alias> {
    // SAFETY: as for `agent`; a policy's aliases are never changed once it is current.
    unsafe { ALIASES.get(key) }
}

/// When a file that a rule pins was last changed, as of the time when the policy was loaded.
#[inline(always)]
pub fn pin(key: FileKey) -> Option<&'static ChangeTime> {
    // SAFETY: as for `agent`; a policy's pins are never changed once it is current.
    unsafe { PINS.get(key) }
}

/// The cgroup of the agent whose a pseudo terminal is, if one's.
#[inline(always)]
pub fn terminal(key: TerminalKey) -> Option<u64> {
    // SAFETY: a number; whoever changes it stores it whole.
    unsafe { TERMINALS.get(key) }.copied()
}

/// Notes whose a pseudo terminal is: the agent's with this cgroup, or nobody's. Where there is no room it is
/// nobody's.
#[inline(always)]
pub fn set_terminal(key: TerminalKey, cgroup: Option<u64>) {
    let set = cgroup.is_some_and(|cgroup| TERMINALS.insert(key, cgroup, 0).is_ok());
    if !set {
        // What is not there is nobody's already.
        let _ = TERMINALS.remove(key);
    }
}

/// The ring buffer with this key, which may be gone.
#[inline(always)]
pub fn ring(key: u32) -> Option<*mut c_void> {
    // Guards write something else there.
    if key == NO_RING {
        return None;
    }
    // SAFETY: what is found is only passed to a helper.
    unsafe { RINGS.get(&key) }.map(|ring| core::ptr::from_ref(ring).cast_mut().cast())
}

/// The counters of one agent for this CPU, and some others.
#[derive(Clone, Copy)]
pub struct AgentCounters(*mut Counters);

impl AgentCounters {
    /// Those of `agent`, which may have ended.
    #[inline(always)]
    pub fn of(agent: u32) -> Option<Self> {
        // SAFETY: the helper has no preconditions.
        let cpu = unsafe { bpf_get_smp_processor_id() };
        COUNTERS.get_ptr_mut(CounterKey::of_cpu(agent, cpu)).map(Self)
    }

    /// Adds one to a counter of the hook with this number.
    #[inline(always)]
    pub fn add(self, hook: u8, counter: Counter) {
        let mut index = Counters::index(hook, counter);
        // SAFETY: an index is below 1,024, so that nothing changes; but the compiler can no longer compare one
        // register and use another, of which the verifier knows no bound.
        unsafe { core::arch::asm!("{0} &= 1023", inout(reg) index) };
        if index >= Counters::COUNT {
            return;
        }
        // SAFETY: the row is live, and the index lies in it. Others add to it meanwhile, so it is one instruction;
        // `core` has no atomic addition for BPF.
        unsafe {
            let value = (&raw mut (*self.0).0).cast::<u64>().add(index);
            core::arch::asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) value, in(reg) 1u64);
        }
    }
}

/// Adds one to a counter of `agent` at `hook`.
#[inline(always)]
pub fn count(agent: u32, hook: Hook, counter: Counter) {
    if let Some(counters) = AgentCounters::of(agent) {
        counters.add(hook as u8, counter);
    }
}

/// The tables of one policy in the kernel.
#[derive(Clone, Copy)]
pub struct KernelTables {
    pub policy: u32,
}

impl Tables for KernelTables {
    #[inline(always)]
    fn start(&self, dev: u32) -> Option<u32> {
        // SAFETY: as for `agent`.
        unsafe { STARTS.get(StartKey { policy: self.policy, dev }) }.copied()
    }

    #[inline(always)]
    fn edge(&self, state: u32, symbol: u64) -> Option<u32> {
        // SAFETY: as for `agent`.
        unsafe { EDGES.get(EdgeKey { policy: self.policy, state, symbol }) }.copied()
    }

    #[inline(always)]
    fn other(&self, state: u32) -> Option<u32> {
        // SAFETY: as for `agent`.
        unsafe { STATES.get(StateKey { policy: self.policy, state }) }.map(|state| state.next)
    }

    #[inline(always)]
    fn state(&self, state: u32) -> Option<State> {
        // SAFETY: as for `agent`.
        unsafe { STATES.get(StateKey { policy: self.policy, state }) }.copied()
    }

    #[inline(always)]
    fn prefix(&self, way: Way, family: Family, addr: [u8; 16]) -> Option<PortSet> {
        let data = PrefixKey { policy: self.policy, family: family as u16, way: way as u16, addr };
        PREFIXES.get(&Key::new(PREFIX_BASE_BITS + 128, data)).copied()
    }

    #[inline(always)]
    fn interval(&self, index: u32) -> Option<Interval> {
        // SAFETY: as for `agent`.
        unsafe { INTERVALS.get(IntervalKey { policy: self.policy, index }) }.copied()
    }

    #[inline(always)]
    fn leased(&self, key: &LeaseKey, port: u16, transport: Transport) -> Verdict {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = key.addr;
        let high = u64::from_ne_bytes([a, b, c, d, e, f, g, h]);
        let low = u64::from_ne_bytes([i, j, k, l, m, n, o, p]);
        let place = u64::from(port) | (transport as u64) << 16 | u64::from(key.family) << 32;
        Verdict::unpack(leased(key.cgroup, high, low, place))
    }
}

/// A global function for the verifier, which checks its loop once by itself; the key is made here, because
/// its callers have no room on their stack. The halves of the address, and port | transport << 16 |
/// family << 32.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn leased(cgroup: u64, high: u64, low: u64, place: u64) -> u64 {
    let [[a, b, c, d, e, f, g, h], [i, j, k, l, m, n, o, p]] = [high, low].map(u64::to_ne_bytes);
    let addr = [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p];
    let key = LeaseKey { cgroup, family: (place >> 32) as u32, reserved: 0, addr };
    // SAFETY: as for `agent`.
    let Some(lease) = (unsafe { LEASES.get(key) }) else { return Verdict::UNMATCHED.pack() };
    let tcp = (place >> 16) as u16 == Transport::Tcp as u16;
    let transport = if tcp { Transport::Tcp } else { Transport::Udp };
    // SAFETY: the helper has no preconditions.
    let now_ns = unsafe { bpf_ktime_get_boot_ns() };
    decide_lease(lease, now_ns, place as u16, transport).pack()
}
