//! Agents and compiled policies in the BPF maps.

use std::collections::HashMap as StdHashMap;

use agent_guard_common::table::{
    Agent, Alias, ChangeTime, EdgeKey, FileKey, Interval, IntervalKey, Lexer, PREFIX_BASE_BITS,
    PortSet, PrefixKey, StartKey, State, StateKey,
};
use aya::{
    Ebpf,
    maps::{Array, HashMap, LpmTrie, MapData, MapError, lpm_trie::Key},
};

use super::{Row, load::MapSizes};
use crate::policy::compile::Compiled;

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
    /// The object lacks a map: a build fault.
    #[error("the object file holds no map `{0}`")]
    NoMap(&'static str),
    /// The kernel did not say when no program reads the old policy any more.
    #[error("waiting for running programs: {0}")]
    Wait(std::io::Error),
}

/// How long programs are given to end where the kernel can not be asked.
const UNBARRIERED_PAUSE: std::time::Duration = std::time::Duration::from_millis(500);

type Owned<K, V> = HashMap<MapData, Row<K>, Row<V>>;

/// The maps that hold agents and policies.
pub struct Tables {
    agents: HashMap<MapData, u32, Row<Agent>>,
    agent_of_cgroup: HashMap<MapData, u64, u32>,
    generation: Array<MapData, u32>,
    starts: Owned<StartKey, u32>,
    edges: Owned<EdgeKey, u32>,
    states: Owned<StateKey, State>,
    aliases: Owned<FileKey, Alias>,
    pins: Owned<FileKey, ChangeTime>,
    lexers: HashMap<MapData, u32, Row<Lexer>>,
    prefixes: LpmTrie<MapData, Row<PrefixKey>, Row<PortSet>>,
    intervals: Owned<IntervalKey, Interval>,
    /// Keys of every policy in the maps, to remove it by.
    installed: StdHashMap<u32, Keys>,
    next_policy: u32,
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

/// Takes a map out of the object as the type that its declaration has.
fn take<T: TryFrom<aya::maps::Map, Error = MapError>>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<T, InstallError> {
    let map = ebpf.take_map(name).ok_or(InstallError::NoMap(name))?;
    T::try_from(map).map_err(in_map(name))
}

fn in_map(map: &'static str) -> impl FnOnce(MapError) -> InstallError {
    move |source| InstallError::Map { map, source }
}

/// Room for the current policy and its successor, twice over so that a mount table that grows while
/// the agent runs still fits.
pub fn sizes_for(compiled: &Compiled) -> MapSizes {
    let room =
        |entries: usize| u32::try_from(entries.saturating_mul(4).max(1024)).unwrap_or(u32::MAX);
    MapSizes {
        edges: room(compiled.edges.len()),
        states: room(compiled.states.len()),
        aliases: room(compiled.aliases.len()),
        pins: room(compiled.pins.len()),
        prefixes: room(compiled.prefixes.len()),
        intervals: room(compiled.intervals.len()),
        starts: room(compiled.starts.len()),
    }
}

impl Tables {
    /// Takes the maps out of a loaded object.
    pub fn take(ebpf: &mut Ebpf) -> Result<Self, InstallError> {
        Ok(Self {
            agents: take(ebpf, "AGENTS")?,
            agent_of_cgroup: take(ebpf, "AGENT_OF_CGROUP")?,
            generation: take(ebpf, "GENERATION")?,
            starts: take(ebpf, "STARTS")?,
            edges: take(ebpf, "EDGES")?,
            states: take(ebpf, "STATES")?,
            aliases: take(ebpf, "ALIASES")?,
            pins: take(ebpf, "PINS")?,
            lexers: take(ebpf, "LEXERS")?,
            prefixes: take(ebpf, "PREFIXES")?,
            intervals: take(ebpf, "INTERVALS")?,
            installed: StdHashMap::new(),
            next_policy: 1,
        })
    }

    /// Writes `compiled` under a fresh id and returns that id. No agent has it yet. On an error what
    /// was written of it is taken out again.
    pub fn write_policy(&mut self, compiled: &Compiled) -> Result<u32, InstallError> {
        let policy = self.next_policy;
        self.next_policy = policy.checked_add(1).unwrap_or(1);
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
        self.lexers.insert(policy, Row(*compiled.lexer), 0).map_err(in_map("LEXERS"))
    }

    /// Makes `agent` current under `id`, in one write, and reads it back. The policy that it had
    /// before is removed once no program can be reading it.
    pub fn set_agent(&mut self, id: u32, agent: Agent) -> Result<(), InstallError> {
        let before = self.agents.get(&id, 0).ok().map(|row| row.0.policy);
        self.agents.insert(id, Row(agent), 0).map_err(in_map("AGENTS"))?;
        if self.agents.get(&id, 0).map_err(in_map("AGENTS"))?.0 != agent {
            return Err(InstallError::ReadBack { map: "AGENTS" });
        }
        if let Some(old) = before.filter(|old| *old != agent.policy) {
            wait_for_running_programs()?;
            self.remove_policy(old);
        }
        Ok(())
    }

    /// Puts the processes of a cgroup, and of all below it, under agent `id`.
    pub fn bind_cgroup(&mut self, cgroup: u64, id: u32) -> Result<(), InstallError> {
        self.agent_of_cgroup.insert(cgroup, id, 0).map_err(in_map("AGENT_OF_CGROUP"))?;
        self.next_generation()
    }

    /// Forgets an agent, its cgroup and its policy.
    pub fn remove_agent(&mut self, cgroup: u64, id: u32) -> Result<(), InstallError> {
        let policy = self.agents.get(&id, 0).map_err(in_map("AGENTS"))?.0.policy;
        self.agent_of_cgroup.remove(&cgroup).map_err(in_map("AGENT_OF_CGROUP"))?;
        self.next_generation()?;
        self.agents.remove(&id).map_err(in_map("AGENTS"))?;
        wait_for_running_programs()?;
        self.remove_policy(policy);
        Ok(())
    }

    /// Tasks that were found to belong to no agent look again.
    fn next_generation(&mut self) -> Result<(), InstallError> {
        let generation = self.generation.get(&0, 0).map_err(in_map("GENERATION"))?;
        self.generation.set(0, generation.wrapping_add(1), 0).map_err(in_map("GENERATION"))
    }

    /// Entries that are gone already are no concern of a removal. What a decision ends with goes
    /// first, so that a program that was overtaken in spite of all waiting denies.
    fn remove_policy(&mut self, policy: u32) {
        let Some(keys) = self.installed.remove(&policy) else { return };
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
}

/// Returns when every program that was running has ended: BPF programs run inside RCU read sections,
/// and `membarrier(MEMBARRIER_CMD_GLOBAL)` waits for a grace period. Hosts with `nohz_full` refuse it;
/// there a pause many times longer than a program's run stands in, and [`Tables::remove_policy`] takes
/// entries out in an order in which a program that was overtaken denies.
fn wait_for_running_programs() -> Result<(), InstallError> {
    match rustix::thread::membarrier(rustix::thread::MembarrierCommand::Global) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::INVAL) => {
            std::thread::sleep(UNBARRIERED_PAUSE);
            Ok(())
        }
        Err(error) => Err(InstallError::Wait(error.into())),
    }
}
