//! Keys and values of the BPF maps that hold agents and their compiled policies.
//!
//! Every table is shared by all policies of a load: a key starts with the id of the policy it
//! belongs to. A new version of a policy is written under a fresh id, whole, before the one write of
//! [`Agent`] that makes it current.

use crate::{
    event::Operation,
    hook::Hook,
    limits::{COUNTER_ROWS, LEASE_SLOTS, LEXER_CELLS, LEXER_STATES},
};

/// What a rule, or a default, says.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Effect {
    /// Zero, so that memory nobody wrote denies.
    Deny = 0,
    /// The action goes on.
    Allow = 1,
}

/// An effect and the rule it came from, in 32 bits: what the maps store.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Verdict(u32);

/// Stands where an [`Effect`] does: allowed, where the file is the one that was pinned.
const PINNED: u32 = 2;

/// The rule id that says "no rule".
pub const NO_RULE: u16 = u16::MAX;

impl Verdict {
    /// No rule matched: the default decides.
    pub const UNMATCHED: Self = Self(u32::MAX);

    /// The verdict of rule `rule`.
    pub const fn new(effect: Effect, rule: u16) -> Self {
        Self((effect as u32) << 16 | rule as u32)
    }

    /// The verdict of rule `rule`, which allows the file that it pinned and no other.
    pub const fn pinned(rule: u16) -> Self {
        Self(PINNED << 16 | rule as u32)
    }

    /// Whether the rule allows no more than the file that it pinned.
    #[inline(always)]
    pub fn is_pinned(self) -> bool {
        self.0 >> 16 == PINNED
    }

    /// In one word, for a function that can return no more.
    #[inline(always)]
    pub const fn pack(self) -> u64 {
        self.0 as u64
    }

    /// The way back from [`Self::pack`]; what is no verdict denies.
    #[inline(always)]
    pub const fn unpack(word: u64) -> Self {
        Self(word as u32)
    }

    /// The effect of the rule, where one matched. Anything unknown denies.
    #[inline(always)]
    pub fn effect(self) -> Option<Effect> {
        match self.0 {
            u32::MAX => None,
            raw if raw >> 16 == Effect::Allow as u32 || raw >> 16 == PINNED => Some(Effect::Allow),
            _ => Some(Effect::Deny),
        }
    }

    /// What it comes to under `default`, an [`Effect`].
    #[inline(always)]
    pub fn standing(self, default: u8) -> Standing {
        match self.effect() {
            Some(Effect::Allow) if self.is_pinned() => Standing(self),
            Some(Effect::Allow) => Standing::ALLOWED,
            Some(Effect::Deny) => Standing::DENIED_BY_RULE,
            None if default == Effect::Allow as u8 => Standing::ALLOWED,
            None => Standing::DENIED_BY_DEFAULT,
        }
    }

    /// The rule id, or [`NO_RULE`].
    #[inline(always)]
    pub fn rule(self) -> u16 {
        self.0 as u16
    }
}

/// What a [`Verdict`] comes to, whichever rule it is of: that matters only where the rule pins. A verdict
/// without the rest, and no enum: of one the compiler compares members before it looks whether they are there,
/// which the kernel's verifier refuses.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Standing(Verdict);

impl Standing {
    const ALLOWED: Self = Self(Verdict::new(Effect::Allow, NO_RULE));
    const DENIED_BY_RULE: Self = Self(Verdict::new(Effect::Deny, NO_RULE));
    const DENIED_BY_DEFAULT: Self = Self(Verdict::UNMATCHED);
}

/// What is done to a file.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Opened for reading.
    Read = 0,
    /// Opened for writing, created, truncated.
    Write = 1,
    /// Run as a program or as a script.
    Exec = 2,
    /// Connected to, or sent a datagram: a UNIX-domain socket.
    Connect = 3,
}

/// Number of [`Access`] kinds.
pub const ACCESS_KINDS: usize = 4;

/// A workload under guard: the value of `AGENTS`, keyed by agent id. Replacing it swaps the policy.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agent {
    /// Key of the component hash ([`crate::hash`]) of the current policy.
    pub hash_key: [u64; 2],
    /// Symbol of the component `self`, which stands for the agent's own processes under `/proc`.
    pub self_symbol: u64,
    /// cgroup id of the agent's root.
    pub cgroup: u64,
    /// Id of the current policy: the first part of every other key.
    pub policy: u32,
    /// Any of [`AgentFlag`].
    pub flags: u32,
    /// Defaults for files, programs and UNIX-domain sockets, by [`Access`], as [`Effect`].
    pub default_file: [u8; ACCESS_KINDS],
    /// Default for connections, as [`Effect`].
    pub default_egress: u8,
    /// Default for listening, as [`Effect`].
    pub default_listen: u8,
    /// Port of the agent's DNS proxy at the loopback address, by [`Family`]: IPv4, IPv6. 0 where there is
    /// none.
    pub dns_ports: [u16; 2],
    /// Nothing; stands where there would be padding, which the verifier calls unread.
    pub reserved: [u8; 2],
    /// Key in `RINGS` of the ring buffer that its events go to, which others may share.
    pub ring: u32,
    /// What the policy says of each [`Operation`]; where no rule does, the default with [`NO_RULE`].
    pub operations: [Verdict; OPERATIONS],
}

/// The key in `RINGS` that no agent has.
pub const NO_RING: u32 = 0;

/// Room for the verdicts on each kind of [`Operation`], in whole words of eight bytes: the last may be of none.
pub const OPERATIONS: usize = Operation::ALL.len().next_multiple_of(2);

/// Bits of [`Agent::flags`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgentFlag;

impl AgentFlag {
    /// Denials are recorded and not enforced (`mode: audit`, tier `observe`).
    pub const AUDIT: u32 = 1;
    /// Allowed actions are recorded too.
    pub const LOG_ALLOWED: u32 = 1 << 1;
    /// A glob stands before the last component of some pattern, so every component is lexed.
    pub const INNER_GLOBS: u32 = 1 << 2;
}

/// Key of `STARTS`: where the walk starts on a file system.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StartKey {
    /// Policy id.
    pub policy: u32,
    /// `super_block.s_dev` (major << 20 | minor), or [`ABSTRACT_DEV`].
    pub dev: u32,
}

/// Stands for the file system of abstract socket names, which lie in none: no file system has this
/// number. A name there is one component, whatever its bytes.
pub const ABSTRACT_DEV: u32 = u32::MAX;

/// Key of `EDGES`: the way from a state over a component.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EdgeKey {
    /// Policy id.
    pub policy: u32,
    /// State the walk is in.
    pub state: u32,
    /// Hash of the component's name, or the number of its glob class.
    pub symbol: u64,
}

/// Key of `STATES`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StateKey {
    /// Policy id.
    pub policy: u32,
    /// State number.
    pub state: u32,
}

/// The state from which no rule can match any more. It has no row in `STATES`.
pub const DEAD: u32 = 0;

/// A state of the path automaton: the value of `STATES`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// State after a component that no edge names.
    pub next: u32,
    /// Verdicts of a path that ends here, by [`Access`].
    pub verdicts: [Verdict; ACCESS_KINDS],
    /// The same for guarded objects (devices, other processes under `/proc`): allowed only by a
    /// pattern without wildcards.
    pub guarded: [Verdict; ACCESS_KINDS],
    /// Number of the class of states that decide alike, here and for everything below; 0 is that of
    /// [`DEAD`].
    pub subtree: u32,
}

impl State {
    /// The row of [`DEAD`]: no rule matches. A value rather than the absence of one, because the
    /// compiler reads what is absent before it looks whether it is, and kernels before 6.3 refuse to
    /// read what may not have been written.
    pub const NOTHING: Self = Self {
        next: DEAD,
        verdicts: [Verdict::UNMATCHED; ACCESS_KINDS],
        guarded: [Verdict::UNMATCHED; ACCESS_KINDS],
        subtree: 0,
    };
}

/// Key of `ALIASES` and `PINS`: a file that was found when the policy was loaded.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileKey {
    /// Policy id.
    pub policy: u32,
    /// `super_block.s_dev` (major << 20 | minor).
    pub dev: u32,
    /// Inode number.
    pub inode: u64,
}

/// What deny rules say of a file with several names, whichever of them they name: the value of `ALIASES`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alias {
    /// Denials by [`Access`]; [`Verdict::UNMATCHED`] where there is none.
    pub verdicts: [Verdict; ACCESS_KINDS],
    /// `inode.i_generation`, which tells the file from a later one of the same number.
    pub generation: u32,
    /// Whether it is known, as 1. Where it is not, a later file of the same number is denied too.
    pub has_generation: u32,
}

/// When a file that a rule pins was last changed, in what it holds or in its metadata: the value of `PINS`.
/// No call sets this time to another than the present.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChangeTime {
    /// Seconds since the Unix epoch.
    pub seconds: i64,
    /// And nanoseconds, below 10^9.
    pub nanoseconds: u32,
    /// Nothing; zero.
    pub reserved: u32,
}

impl ChangeTime {
    /// From the members of an inode. Kernels from 6.13 on keep a mark of their own above the nanoseconds.
    #[inline(always)]
    pub const fn new(seconds: i64, nanoseconds: u32) -> Self {
        const BITS: u32 = (1 << 30) - 1;
        const { assert!(999_999_999 <= BITS) };
        Self { seconds, nanoseconds: nanoseconds & BITS, reserved: 0 }
    }
}

/// The value of `LEXERS`, keyed by policy id: a byte automaton that puts a component's name into a
/// glob class, the set of component globs that it matches. Class 0 matches none.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Lexer {
    /// Equivalence class of each byte.
    pub classes: [u8; 256],
    /// Columns of a row in `next`.
    pub stride: u32,
    /// State before the first byte.
    pub start: u32,
    /// `next[state * stride + class]`.
    pub next: [u16; LEXER_CELLS],
    /// Glob class of a name that ends in a state.
    pub accept: [u16; LEXER_STATES],
    /// Id of the cgroup of the guard that has written the policy. The kernel side does not read it: once that
    /// cgroup is gone, everything of the policy can be taken out, unless an agent has it.
    pub writer: u64,
}

/// Key data of `PREFIXES`, a longest-prefix trie. Policy, family and way are always matched whole:
/// a prefix of `n` address bits has length `PREFIX_BASE_BITS + n`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PrefixKey {
    /// Policy id, in native byte order: it only needs to be equal.
    pub policy: u32,
    /// [`Family`].
    pub family: u16,
    /// [`Way`].
    pub way: u16,
    /// Address in network byte order; IPv4 in the first four bytes.
    pub addr: [u8; 16],
}

/// Bits of a [`PrefixKey`] before the address.
pub const PREFIX_BASE_BITS: u32 = 64;

/// Address family of an endpoint. IPv4-mapped IPv6 addresses are IPv4.
#[repr(u16)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4
    V4 = 4,
    /// IPv6
    V6 = 6,
}

/// Whose address an endpoint is, and which rules therefore speak of it.
#[repr(u16)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Way {
    /// The far end's: `egress`.
    To = 0,
    /// The agent's own: `listen`.
    On = 1,
    /// The agent's own, and every one of this host's: `listen`, with one prefix of no bits a family.
    OnAny = 2,
}

/// The value of `PREFIXES`: where the port ranges of the longest matching prefix lie. They hold the
/// rules of every shorter prefix that covers it, already merged.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortSet {
    /// Index of the first [`Interval`].
    pub first: u32,
    /// Number of intervals, sorted by port and disjoint; at most [`crate::limits::MAX_INTERVALS`].
    pub count: u32,
}

/// Key of `INTERVALS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IntervalKey {
    /// Policy id.
    pub policy: u32,
    /// Index of the interval within the policy.
    pub index: u32,
}

/// A range of ports and what the rules say of it: the value of `INTERVALS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    /// First port.
    pub low: u16,
    /// Last port.
    pub high: u16,
    /// Verdict over TCP.
    pub tcp: Verdict,
    /// Verdict over UDP.
    pub udp: Verdict,
}

/// Key of `LEASES`: an address that an agent was told for a host name.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LeaseKey {
    /// [`Agent::cgroup`], which tells agents apart and outlives the versions of a policy.
    pub cgroup: u64,
    /// [`Family`].
    pub family: u32,
    /// Nothing; zero.
    pub reserved: u32,
    /// Address in network byte order; IPv4 in the first four bytes.
    pub addr: [u8; 16],
}

impl LeaseKey {
    /// The key of an address.
    #[inline(always)]
    pub fn new(cgroup: u64, family: Family, addr: [u8; 16]) -> Self {
        Self { cgroup, family: family as u32, reserved: 0, addr }
    }
}

/// What the rules with host names say of an address: the value of `LEASES`. Zeroed slots have expired.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// In no order. Where several speak of a port, deny beats allow.
    pub slots: [LeaseSlot; LEASE_SLOTS],
}

/// A range of ports, and what a rule says of it for a while.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseSlot {
    /// Nanoseconds on `CLOCK_BOOTTIME` from which on the slot says nothing.
    pub expires_ns: u64,
    /// Verdict over TCP.
    pub tcp: Verdict,
    /// Verdict over UDP.
    pub udp: Verdict,
    /// First port.
    pub low: u16,
    /// Last port.
    pub high: u16,
    /// Nothing; keeps the size a multiple of eight.
    pub reserved: u32,
}

impl LeaseSlot {
    /// A slot that says nothing.
    pub const EMPTY: Self = Self {
        expires_ns: 0,
        tcp: Verdict::UNMATCHED,
        udp: Verdict::UNMATCHED,
        low: 0,
        high: 0,
        reserved: 0,
    };
}

/// Whom a socket sent name queries to before they went to the DNS proxy, kept in the socket itself: the
/// last of each family, for one socket may use both. Network byte order throughout.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Diverted {
    /// IPv6 address.
    pub v6: [u32; 4],
    /// IPv4 address.
    pub v4: u32,
    /// Port of the proxy, by [`Family`] as in [`Agent::dns_ports`].
    pub proxy_ports: [u16; 2],
}

/// Key of `TERMINALS`: a pseudo terminal. The value is the cgroup id of the agent that unlocked it last.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TerminalKey {
    /// `super_block.s_dev` of its file system.
    pub dev: u32,
    /// `inode.i_rdev`, which has its number.
    pub rdev: u32,
}

/// What a task of an agent is known by: the value of `LABELS`, kept in the task itself. Others have none.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    /// Agent id. Sticky: it outlives a change of cgroup.
    pub agent: u32,
    /// [`Agent::policy`] where its verdicts may be remembered, or 0.
    pub policy: u32,
    /// Value of `GENERATION` when the policy was looked up.
    pub generation: u32,
    /// Nothing.
    pub reserved: u32,
    /// The dentry whose denial an early hook of the call has just told of, [`REFUSED`], or 0.
    pub foretold: u64,
}

impl Label {
    /// That of a task of `agent`.
    #[inline(always)]
    pub const fn new(agent: u32) -> Self {
        Self { agent, policy: 0, generation: 0, reserved: 0, foretold: 0 }
    }
}

/// In place of a dentry: a capability was just refused, and told of.
pub const REFUSED: u64 = 1;

/// What `COUNTERS` counts for each hook.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// Actions of agents that were decided.
    Decided = 0,
    /// Of these, denied.
    Denied = 1,
    /// Events that did not fit the ring buffer.
    Lost = 2,
    /// Decisions that a failed helper or a bound turned into a denial.
    Failed = 3,
}

/// Number of [`Counter`] kinds.
const COUNTER_KINDS: usize = 4;

/// Key of `COUNTERS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CounterKey {
    /// Agent id.
    pub agent: u32,
    /// Which of its [`COUNTER_ROWS`](crate::limits::COUNTER_ROWS) rows.
    pub row: u32,
}

impl CounterKey {
    /// The row of `agent` that this CPU counts in.
    #[inline(always)]
    pub const fn of_cpu(agent: u32, cpu: u32) -> Self {
        Self { agent, row: cpu % COUNTER_ROWS }
    }
}

/// What an agent's actions came to, by hook, on the CPUs that share a row: the value of `COUNTERS`.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Counters(pub [u64; COUNTER_KINDS * Hook::TABLE.len()]);

impl Counters {
    /// Nothing counted.
    pub const ZERO: Self = Self([0; COUNTER_KINDS * Hook::TABLE.len()]);

    /// How many there are.
    pub const COUNT: usize = Self::ZERO.0.len();

    /// Where the counter of the hook with this number stands; beyond the end where there is no such hook.
    #[inline(always)]
    pub fn index(hook: u8, counter: Counter) -> usize {
        hook as usize * COUNTER_KINDS + counter as usize
    }

    /// What was counted at `hook`.
    pub fn of(&self, hook: Hook, counter: Counter) -> u64 {
        self.0.get(Self::index(hook as u8, counter)).copied().unwrap_or(0)
    }
}

const _: () = {
    assert!(size_of::<Agent>() == 56 + 4 * OPERATIONS);
    assert!(size_of::<StartKey>() == 8);
    assert!(size_of::<EdgeKey>() == 16);
    assert!(size_of::<StateKey>() == 8);
    assert!(size_of::<State>() == 40);
    assert!(size_of::<FileKey>() == 16);
    assert!(size_of::<Alias>() == 4 * ACCESS_KINDS + 8);
    assert!(size_of::<ChangeTime>() == 16);
    assert!(size_of::<PrefixKey>() == 24);
    assert!(size_of::<PortSet>() == 8);
    assert!(size_of::<IntervalKey>() == 8);
    assert!(size_of::<Interval>() == 12);
    assert!(size_of::<LeaseKey>() == 32);
    assert!(size_of::<LeaseSlot>() == 24);
    assert!(size_of::<Lease>() == 24 * LEASE_SLOTS);
    assert!(size_of::<Diverted>() == 24);
    assert!(size_of::<TerminalKey>() == 8);
    assert!(size_of::<Label>() == 24);
    assert!(size_of::<CounterKey>() == 8);
    assert!(size_of::<Lexer>() == 256 + 8 + 2 * LEXER_CELLS + 2 * LEXER_STATES + 8);
};
