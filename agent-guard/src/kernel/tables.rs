//! Agents and compiled policies in the BPF maps.

use std::collections::HashMap as StdHashMap;

use agent_guard_common::{
    limits::RING_BYTES,
    table::{
        Agent, Alias, ChangeTime, Counters, EdgeKey, FileKey, Interval, IntervalKey, Lease,
        LeaseKey, Lexer, PREFIX_BASE_BITS, PortSet, PrefixKey, StartKey, State, StateKey,
    },
};
use aya::{
    maps::{
        Array, HashMap, HashOfMaps, LpmTrie, Map, MapData, MapError, PerCpuHashMap, PerCpuValues,
        RingBuf, lpm_trie::Key,
    },
    sys::SyscallError,
};

use anyhow::Context as _;
use tokio::io::{Interest, unix::AsyncFd};

use super::{Row, pins::Pins};
use crate::{bytes::random, policy::compile::Compiled, state_dir::Turn};

/// Why a policy is not in the kernel. The one before it is still in force.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// A map is full, or the kernel refused an entry.
    #[error("writing {map}: {source}")]
    Map {
        /// Name of the map.
        map: &'static str,
        /// The kernel's word.
        source: MapError,
    },
    /// What was read back is not what was written.
    #[error("{map} holds something else than what was written to it")]
    ReadBack {
        /// Name of the map.
        map: &'static str,
    },
    /// A map holds as much as it can.
    #[error(
        "{map} is full: the policies of all agents on this host share it; end an agent, or make its policy smaller"
    )]
    Full {
        /// Name of the map.
        map: &'static str,
    },
    /// No id could be drawn.
    #[error("drawing an id: {0}")]
    Id(rustix::io::Errno),
    /// The guards of this host could not take turns.
    #[error("waiting for the other guards of this host: {0}")]
    Turn(std::io::Error),
}

type Owned<K, V> = HashMap<MapData, Row<K>, Row<V>>;

/// The maps that hold agents and policies.
pub struct Tables {
    agents: HashMap<MapData, u32, Row<Agent>>,
    agent_of_cgroup: HashMap<MapData, u64, u32>,
    generation: Array<MapData, u32>,
    grace: Grace,
    counters: PerCpuHashMap<MapData, u32, Row<Counters>>,
    starts: Owned<StartKey, u32>,
    edges: Owned<EdgeKey, u32>,
    states: Owned<StateKey, State>,
    aliases: Owned<FileKey, Alias>,
    pins: Owned<FileKey, ChangeTime>,
    lexers: HashMap<MapData, u32, Row<Lexer>>,
    prefixes: LpmTrie<MapData, Row<PrefixKey>, Row<PortSet>>,
    intervals: Owned<IntervalKey, Interval>,
    leases: Owned<LeaseKey, Lease>,
    /// Keys of the policies that were written here, to remove them by.
    installed: StdHashMap<u32, Keys>,
}

#[derive(Default)]
struct Keys {
    starts: Vec<StartKey>,
    edges: Vec<EdgeKey>,
    states: Vec<StateKey>,
    aliases: Vec<FileKey>,
    pins: Vec<FileKey>,
    prefixes: Vec<(u32, PrefixKey)>,
    intervals: Vec<IntervalKey>,
}

/// The id that no policy has.
pub const NO_POLICY: u32 = 0;

/// `BPF_MAP_TYPE_RINGBUF`, for which aya makes no map outside of an object.
const RINGBUF: u32 = 27;

/// The map that is the section `.data.generation`.
const GENERATION: &str = "-data-generation";

/// `BPF_NOEXIST`: only a new entry.
const NO_EXIST: u64 = 1;

/// Ids that are drawn before it is given up. One in four billion is taken by each agent or policy.
const ID_DRAWS: usize = 16;

fn in_map(map: &'static str) -> impl Fn(MapError) -> InstallError {
    move |source| match &source {
        MapError::SyscallError(SyscallError { io_error, .. })
            if matches!(io_error.raw_os_error(), Some(libc::E2BIG | libc::ENOSPC)) =>
        {
            InstallError::Full { map }
        }
        _ => InstallError::Map { map, source },
    }
}

/// Draws ids until `take` finds one that is free. Ids are never 0. They are drawn and not counted, so that
/// one is not given again while something still remembers who had it.
fn fresh_id(
    map: &'static str,
    mut take: impl FnMut(u32) -> Result<(), MapError>,
) -> Result<u32, InstallError> {
    let mut taken = MapError::KeyNotFound;
    for _ in 0..ID_DRAWS {
        let id = u32::from_ne_bytes(random().map_err(InstallError::Id)?).max(1);
        match take(id) {
            Ok(()) => return Ok(id),
            Err(MapError::SyscallError(SyscallError { call, io_error }))
                if io_error.raw_os_error() == Some(libc::EEXIST) =>
            {
                taken = MapError::SyscallError(SyscallError { call, io_error });
            }
            Err(error) => return Err(in_map(map)(error)),
        }
    }
    Err(in_map(map)(taken))
}

impl Tables {
    /// Opens the maps that are pinned at `pins`.
    pub fn open(pins: &Pins) -> Result<Self, InstallError> {
        fn map<T: TryFrom<Map, Error = MapError>>(
            pins: &Pins,
            name: &'static str,
        ) -> Result<T, InstallError> {
            pins.map(name).map_err(in_map(name))
        }
        Ok(Self {
            agents: map(pins, "AGENTS")?,
            agent_of_cgroup: map(pins, "AGENT_OF_CGROUP")?,
            generation: map(pins, GENERATION)?,
            grace: Grace::open(pins)?,
            counters: map(pins, "COUNTERS")?,
            starts: map(pins, "STARTS")?,
            edges: map(pins, "EDGES")?,
            states: map(pins, "STATES")?,
            aliases: map(pins, "ALIASES")?,
            pins: map(pins, "PINS")?,
            lexers: map(pins, "LEXERS")?,
            prefixes: map(pins, "PREFIXES")?,
            intervals: map(pins, "INTERVALS")?,
            leases: map(pins, "LEASES")?,
            installed: StdHashMap::new(),
        })
    }

    /// Adds an agent and returns its id. Nobody belongs to it before [`Self::bind_cgroup`].
    pub fn add_agent(&mut self, agent: Agent) -> Result<u32, InstallError> {
        let turn = turn_to_insert(&mut self.grace)?;
        self.insert_agent(&turn, agent)
    }

    /// Adds an agent to which the processes of its cgroup, and of all below it, belong from here on.
    pub fn add_bound_agent(&mut self, agent: Agent) -> Result<u32, InstallError> {
        let turn = turn_to_insert(&mut self.grace)?;
        let id = self.insert_agent(&turn, agent)?;
        self.insert_cgroup(&turn, agent.cgroup, id)?;
        Ok(id)
    }

    fn insert_agent(&mut self, _turn: &Turn, agent: Agent) -> Result<u32, InstallError> {
        let agents = &mut self.agents;
        let id = fresh_id("AGENTS", |id| agents.insert(id, Row(agent), NO_EXIST))?;
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| no_cpus(error))?;
        let zero = PerCpuValues::try_from(vec![Row(Counters::ZERO); cpus]).map_err(no_cpus)?;
        self.counters.insert(id, zero, 0).map_err(in_map("COUNTERS"))?;
        Ok(id)
    }

    /// The row of an agent.
    pub fn agent(&self, id: u32) -> Result<Agent, InstallError> {
        self.agents.get(&id, 0).map(|row| row.0).map_err(in_map("AGENTS"))
    }

    /// Makes the ring buffer that an agent's events go to.
    pub fn make_ring(&mut self, id: u32) -> Result<RingBuf<MapData>, InstallError> {
        let ring = new_ring(RING_BYTES as u32)?;
        self.set_ring(id, &ring)?;
        Ok(ring)
    }

    /// Lets an agent's events go to `ring`, which others may share.
    pub fn set_ring(&mut self, id: u32, ring: &RingBuf<MapData>) -> Result<(), InstallError> {
        let _turn = turn_to_insert(&mut self.grace)?;
        self.grace.rings.insert(id, ring, 0).map_err(in_map("RINGS"))
    }

    /// The ring buffer that an agent's events go to.
    pub fn ring(&self, id: u32) -> Result<RingBuf<MapData>, InstallError> {
        self.grace.rings.get(&id, 0).map_err(in_map("RINGS"))
    }

    /// Writes `compiled` under a fresh id, for the agent with this cgroup, and returns that id. No agent has it
    /// yet. On an error what was written of it is taken out again; what a guard leaves that is killed here
    /// [`Self::sweep`] finds by the cgroup.
    pub fn write_policy(&mut self, compiled: &Compiled, cgroup: u64) -> Result<u32, InstallError> {
        let lexers = &mut self.lexers;
        // First in and last out, so that no other row is without it.
        let lexer = Lexer { cgroup, ..*compiled.lexer };
        let policy = fresh_id("LEXERS", |id| lexers.insert(id, Row(lexer), NO_EXIST))?;
        let mut keys = Keys::default();
        let written = self.write_tables(policy, compiled, &mut keys);
        self.installed.insert(policy, keys);
        match written {
            Ok(()) => Ok(policy),
            Err(error) => {
                self.remove_policy(policy);
                Err(error)
            }
        }
    }

    fn write_tables(
        &mut self,
        policy: u32,
        compiled: &Compiled,
        keys: &mut Keys,
    ) -> Result<(), InstallError> {
        for (dev, state) in &compiled.starts {
            let key = StartKey { policy, dev: *dev };
            self.starts.insert(Row(key), Row(*state), 0).map_err(in_map("STARTS"))?;
            keys.starts.push(key);
        }
        for (state, symbol, next) in &compiled.edges {
            let key = EdgeKey { policy, state: *state, symbol: *symbol };
            self.edges.insert(Row(key), Row(*next), 0).map_err(in_map("EDGES"))?;
            keys.edges.push(key);
        }
        for (state, row) in &compiled.states {
            let key = StateKey { policy, state: *state };
            self.states.insert(Row(key), Row(*row), 0).map_err(in_map("STATES"))?;
            keys.states.push(key);
        }
        for ((dev, inode), alias) in &compiled.aliases {
            let key = FileKey { policy, dev: *dev, inode: *inode };
            self.aliases.insert(Row(key), Row(*alias), 0).map_err(in_map("ALIASES"))?;
            keys.aliases.push(key);
        }
        for ((dev, inode), changed) in &compiled.pins {
            let key = FileKey { policy, dev: *dev, inode: *inode };
            self.pins.insert(Row(key), Row(*changed), 0).map_err(in_map("PINS"))?;
            keys.pins.push(key);
        }
        for prefix in &compiled.prefixes {
            let key = PrefixKey {
                policy,
                family: prefix.family as u16,
                way: prefix.way as u16,
                addr: prefix.addr,
            };
            let length = PREFIX_BASE_BITS + prefix.bits;
            let ports = Row(prefix.ports);
            self.prefixes
                .insert(&Key::new(length, Row(key)), ports, 0)
                .map_err(in_map("PREFIXES"))?;
            keys.prefixes.push((length, key));
        }
        for (index, interval) in (0..).zip(&compiled.intervals) {
            let key = IntervalKey { policy, index };
            self.intervals.insert(Row(key), Row(*interval), 0).map_err(in_map("INTERVALS"))?;
            keys.intervals.push(key);
        }
        Ok(())
    }

    /// Makes `agent` current under `id`, in one write, and reads it back. The policy that it had
    /// before is removed once no program can be reading it.
    pub fn set_agent(&mut self, id: u32, agent: Agent) -> Result<(), InstallError> {
        let before = self.agents.get(&id, 0).ok().map(|row| row.0.policy);
        let turn = turn_to_insert(&mut self.grace)?;
        self.change(&turn, |tables| {
            tables.agents.insert(id, Row(agent), 0).map_err(in_map("AGENTS"))
        })?;
        drop(turn);
        if self.agents.get(&id, 0).map_err(in_map("AGENTS"))?.0 != agent {
            return Err(InstallError::ReadBack { map: "AGENTS" });
        }
        if let Some(old) = before.filter(|old| *old != agent.policy) {
            self.grace.wait()?;
            self.remove_policy(old);
        }
        Ok(())
    }

    /// Puts the processes of a cgroup, and of all below it, under agent `id`.
    pub fn bind_cgroup(&mut self, cgroup: u64, id: u32) -> Result<(), InstallError> {
        let turn = turn_to_insert(&mut self.grace)?;
        self.insert_cgroup(&turn, cgroup, id)
    }

    fn insert_cgroup(&mut self, turn: &Turn, cgroup: u64, id: u32) -> Result<(), InstallError> {
        self.change(turn, |tables| {
            tables.agent_of_cgroup.insert(cgroup, id, 0).map_err(in_map("AGENT_OF_CGROUP"))
        })
    }

    /// The agent that a cgroup was bound to.
    pub fn agent_of_cgroup(&self, cgroup: u64) -> Result<Option<u32>, InstallError> {
        match self.agent_of_cgroup.get(&cgroup, 0) {
            Ok(agent) => Ok(Some(agent)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(in_map("AGENT_OF_CGROUP")(error)),
        }
    }

    /// Forgets an agent, its cgroup, its policy, its events and its counters. Whoever still has its label is
    /// denied everything.
    pub fn remove_agent(&mut self, cgroup: u64, id: u32) -> Result<(), InstallError> {
        let policy = match self.agents.get(&id, 0) {
            Ok(agent) => agent.0.policy,
            Err(MapError::KeyNotFound) => return Ok(()),
            Err(error) => return Err(in_map("AGENTS")(error)),
        };
        // Until no program can hold what is freed here, nobody inserts.
        let turn = Turn::take().map_err(InstallError::Turn)?;
        self.change(&turn, |tables| {
            gone(tables.agent_of_cgroup.remove(&cgroup)).map_err(in_map("AGENT_OF_CGROUP"))?;
            gone(tables.agents.remove(&id)).map_err(in_map("AGENTS"))
        })?;
        gone(self.counters.remove(&id)).map_err(in_map("COUNTERS"))?;
        self.remove_leases(cgroup)?;
        // The last, because removing it waits as `Grace::wait` does.
        match self.grace.rings.remove(&id) {
            Ok(()) => {}
            Err(error) => {
                gone(Err(error)).map_err(in_map("RINGS"))?;
                self.grace.wait()?;
            }
        }
        drop(turn);
        self.remove_policy(policy);
        Ok(())
    }

    /// Takes away what host names have opened for the agent with this cgroup.
    pub fn remove_leases(&mut self, cgroup: u64) -> Result<(), InstallError> {
        let leases: Vec<_> = self.leases.keys().flatten().collect();
        for lease in leases.iter().filter(|lease| lease.0.cgroup == cgroup) {
            gone(self.leases.remove(lease)).map_err(in_map("LEASES"))?;
        }
        Ok(())
    }

    /// Forgets the agents whose cgroup is gone: their guards died before they could say who they are. And the
    /// policies that were written for them, whether as the first or as the next.
    pub fn sweep(&mut self, has_gone: impl Fn(u64) -> bool) -> Result<(), InstallError> {
        let agents: Vec<u32> = self.agents.keys().flatten().collect();
        for id in agents {
            match self.agents.get(&id, 0) {
                Ok(agent) if has_gone(agent.0.cgroup) => self.remove_agent(agent.0.cgroup, id)?,
                _ => {}
            }
        }
        let policies: Vec<u32> = self.lexers.keys().flatten().collect();
        for policy in policies {
            if self.lexers.get(&policy, 0).is_ok_and(|lexer| has_gone(lexer.0.cgroup)) {
                self.remove_policy(policy);
            }
        }
        Ok(())
    }

    /// Makes a change by which tasks of no agent may come to belong to one, or those of an agent to have another
    /// policy: afterwards all look again. While it goes on, and where whoever makes it dies, what was remembered
    /// of agents counts for nothing. Two that count at once would leave the tasks of one of them believing what
    /// they knew.
    fn change(
        &mut self,
        _turn: &Turn,
        change: impl FnOnce(&mut Self) -> Result<(), InstallError>,
    ) -> Result<(), InstallError> {
        let (during, after) = next(self.generation.get(&0, 0).map_err(in_map(GENERATION))?);
        self.generation.set(0, during, 0).map_err(in_map(GENERATION))?;
        let changed = change(self);
        self.generation.set(0, after, 0).map_err(in_map(GENERATION))?;
        changed
    }

    /// Takes a policy that no agent has out again.
    ///
    /// Entries that are gone already are no concern of a removal. What a decision ends with goes
    /// first, so that a program that was overtaken in spite of all waiting denies.
    pub fn remove_policy(&mut self, policy: u32) {
        if policy == NO_POLICY {
            return;
        }
        let keys = self.installed.remove(&policy).unwrap_or_else(|| self.keys_of(policy));
        for key in keys.states {
            let _ = self.states.remove(&Row(key));
        }
        for key in keys.intervals {
            let _ = self.intervals.remove(&Row(key));
        }
        for key in keys.starts {
            let _ = self.starts.remove(&Row(key));
        }
        for key in keys.edges {
            let _ = self.edges.remove(&Row(key));
        }
        for (length, key) in keys.prefixes {
            let _ = self.prefixes.remove(&Key::new(length, Row(key)));
        }
        for key in keys.aliases {
            let _ = self.aliases.remove(&Row(key));
        }
        for key in keys.pins {
            let _ = self.pins.remove(&Row(key));
        }
        let _ = self.lexers.remove(&policy);
    }

    /// The keys of a policy that another process wrote, looked for among those of all.
    fn keys_of(&self, policy: u32) -> Keys {
        fn of<K: Copy + 'static, V: Copy + 'static>(
            map: &Owned<K, V>,
            is_of: impl Fn(&K) -> bool,
        ) -> Vec<K> {
            map.keys().flatten().map(|key| key.0).filter(is_of).collect()
        }
        let prefixes = self.prefixes.keys().flatten();
        let prefixes = prefixes.map(|key| (key.prefix_len(), key.data().0));
        Keys {
            starts: of(&self.starts, |key| key.policy == policy),
            edges: of(&self.edges, |key| key.policy == policy),
            states: of(&self.states, |key| key.policy == policy),
            aliases: of(&self.aliases, |key| key.policy == policy),
            pins: of(&self.pins, |key| key.policy == policy),
            prefixes: prefixes.filter(|(_, key)| key.policy == policy).collect(),
            intervals: of(&self.intervals, |key| key.policy == policy),
        }
    }
}

/// What the generation is while a change is made, which is odd, and when it is made. One that finds it odd carries
/// on for somebody who died.
fn next(generation: u32) -> (u32, u32) {
    let during = generation | 1;
    (during, during.wrapping_add(1))
}

/// What is not there need not be removed.
fn gone(removed: Result<(), MapError>) -> Result<(), MapError> {
    match removed {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error))
            if error.io_error.raw_os_error() == Some(libc::ENOENT) =>
        {
            Ok(())
        }
        other => other,
    }
}

/// The kernel did not say how many processors it counts on.
fn no_cpus(why: std::io::Error) -> InstallError {
    InstallError::Map { map: "COUNTERS", source: MapError::IoError(why) }
}

/// The right to insert into a map whose entries programs hold while they run. From 6.1 on the kernel gives the
/// memory of an entry that was replaced or removed to the next one at once, and a program that still held it
/// would go on with another agent's. So what was freed rests until all such programs have ended, and nobody
/// inserts meanwhile.
pub fn turn_to_insert(grace: &mut Grace) -> Result<Turn, InstallError> {
    let turn = Turn::take().map_err(InstallError::Turn)?;
    grace.wait()?;
    Ok(turn)
}

/// What waits until every program that was running has ended: a write to a map of maps returns only then
/// (`maybe_wait_bpf_programs` in `kernel/bpf/syscall.c`). `membarrier` does not do: it waits for nobody where
/// one processor is online, and a program can be preempted there too.
pub struct Grace {
    rings: HashOfMaps<MapData, u32, RingBuf<MapData>>,
    idle: RingBuf<MapData>,
}

/// The key in `RINGS` that no agent has.
const NOBODY: u32 = 0;

/// Bytes of the ring buffer that is written there: the least that there is.
const IDLE_BYTES: u32 = 4096;

impl Grace {
    /// Over the maps that are pinned at `pins`.
    pub fn open(pins: &Pins) -> Result<Self, InstallError> {
        let rings = pins.map("RINGS").map_err(in_map("RINGS"))?;
        Ok(Self { rings, idle: new_ring(IDLE_BYTES)? })
    }

    fn wait(&mut self) -> Result<(), InstallError> {
        self.rings.insert(NOBODY, &self.idle, 0).map_err(in_map("RINGS"))
    }
}

/// A ring buffer of which is told when something is in it.
///
/// # Errors
/// What the system said.
pub fn readable(ring: RingBuf<MapData>) -> anyhow::Result<AsyncFd<RingBuf<MapData>>> {
    // SAFETY: the descriptor belongs to the map that moves into the `AsyncFd`, and closes with it.
    unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }
        .context("watching the ring buffer")
}

/// Makes a ring buffer.
pub fn new_ring(bytes: u32) -> Result<RingBuf<MapData>, InstallError> {
    let ring = || {
        let shape = aya_obj::Map::new_from_params(RINGBUF, 0, 0, bytes, 0);
        RingBuf::try_from(Map::from_map_data(MapData::create(shape, "events", None)?)?)
    };
    ring().map_err(in_map("RINGS"))
}

#[cfg(test)]
mod tests {
    use super::next;

    #[test]
    fn the_generation_is_odd_while_a_change_is_made_and_another_one_afterwards() {
        assert_eq!(next(0), (1, 2));
        assert_eq!(next(6), (7, 8));
        assert_eq!(next(7), (7, 8), "somebody died in between");
        assert_eq!(next(u32::MAX - 1), (u32::MAX, 0));
    }
}
