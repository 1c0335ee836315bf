//! Every bound that both sides keep, with its reason. What exceeds one is refused at load or denied
//! and counted in the kernel, never dropped.

/// Components between an object and the root of its file system. Deeper objects are denied: the
/// kernel's walk needs an end, and `PATH_MAX` rarely leaves room for half as many.
pub const MAX_DEPTH: usize = 128;

/// Bytes of a component's name, the kernel's own `NAME_MAX`.
pub const NAME_MAX: usize = 255;

/// Bytes of all components of an object's path, each padded to [`PATH_ALIGN`]. Longer is denied.
pub const PATH_BYTES: usize = 4096;

/// Bytes of an abstract socket name: `sun_path` without the NUL that it begins with.
pub const ABSTRACT_NAME_MAX: usize = 107;

/// Messages of one netlink datagram, and control messages of one sendmsg(2), that are looked at. More
/// are denied: what asks for interfaces sends one, and rarely two.
pub const MAX_MESSAGES: u32 = 16;

/// Names start on this boundary in an event's path, so that the kernel hashes whole words.
pub const PATH_ALIGN: usize = 8;

/// Levels of the cgroup tree that are searched for an agent; `run` refuses to make one deeper, or its canary, which
/// lies one below.
pub const MAX_CGROUP_LEVEL: u32 = 24;

/// Cells of a policy's glob table ([`crate::table::Lexer`]): 16 KiB a policy, enough for a few
/// hundred name patterns.
pub const LEXER_CELLS: usize = 8192;

/// States of a policy's glob table.
pub const LEXER_STATES: usize = 1024;

/// Disjoint port ranges under one address prefix; bounds the kernel's binary search to 11 steps.
pub const MAX_INTERVALS: u32 = 1024;

/// Addresses that an agent may hold by host name at once ([`crate::table::Lease`]). An answer that does not
/// fit is withheld. A name has a handful of addresses, and each is forgotten with its TTL.
pub const MAX_LEASES: usize = 8192;

/// The same, of all agents together.
pub const ALL_LEASES: usize = 8 * MAX_LEASES;

/// Port ranges that rules with host names may open, or close, at one address at once. Rules that say the
/// same share one, so only different rules for names on one shared address add up.
pub const LEASE_SLOTS: usize = 16;

/// Agents at once under one set of programs: a thousand on a host, and canaries.
pub const MAX_AGENTS: usize = 2048;

/// Rows of counters that an agent has, each for some of the CPUs: few CPUs wait for one another, and many take no
/// more memory. Not per-CPU memory, of which the kernel has little at hand and gets more only while nobody waits:
/// agents that come in a burst would be refused. Room for all rows is not taken beforehand.
pub const COUNTER_ROWS: u32 = 8;

/// Policies in the maps at once: every agent's own and its successor while they are swapped.
pub const MAX_POLICIES: usize = 2 * MAX_AGENTS;

/// Bytes of an agent's ring buffer: some 40,000 events that nobody has read yet. More are counted as lost.
pub const RING_BYTES: usize = 8 << 20;

/// Ring buffers that are kept when their agents have ended: who comes next takes one, and so waits for nobody. The
/// kernel waits until every program has ended when one is made or removed.
pub const SPARE_RINGS: usize = 2;

/// States of a policy's path automaton: 10,000 rules take a fifth.
pub const MAX_STATES: usize = 1 << 17;

/// Edges between them, at 16 bytes each with the key.
pub const MAX_EDGES: usize = 1 << 19;

/// Address prefixes of a policy.
pub const MAX_PREFIXES: usize = 1 << 17;

/// Port ranges of a policy, under all prefixes together.
pub const MAX_ALL_INTERVALS: usize = 1 << 18;

/// Files with several names of which a policy denies one.
pub const MAX_ALIASES: usize = 1 << 14;

/// Files that a policy pins: as many programs and libraries as a large distribution's.
pub const MAX_PINS: usize = 1 << 14;

/// Pseudo terminals of agents. The kernel's own bound for a host is 4,096 (`kernel.pty.max`), and one that is
/// gone makes room when the next has its number. What does not fit counts as another's.
pub const MAX_TERMINALS: usize = 1 << 14;

/// Processes of a terminal's session among which one of the agent's is looked for, the newest first. Who works
/// in one has a few dozen; where none is found the terminal is another's.
pub const MAX_SESSION: u32 = 512;

/// How long the verdict on an open is remembered, in ticks of the kernel's clock: 16 to 164 seconds, as the kernel
/// was built for 1,000 to 100 of them. What is remembered holds for a count of renames that begins again after
/// 2^31, of which no host makes more than ten millions a second.
pub const REMEMBERED_TICKS: u64 = 1 << 14;

/// File systems of a policy.
pub const MAX_STARTS: usize = 1 << 15;

/// How often the largest policy fits the maps, which all agents share: with its successor. An entry takes
/// memory when it is made; room for one takes 8 to 16 bytes.
pub const ROOM: usize = 2;

/// Rules in a policy, all sections together; ids are 16 bits wide, and the highest are kept for defaults and
/// "no rule".
pub const MAX_RULES: usize = 65_000;

/// Rules that a guard adds to a policy.
pub const OWN_RULES: usize = 1;
