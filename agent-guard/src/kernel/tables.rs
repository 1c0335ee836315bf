//! Agents in the BPF maps, and the policies that they are under.

use std::collections::BTreeSet;

use agent_guard_common::{
    limits::{COUNTER_ROWS, RING_BYTES, SPARE_RINGS},
    table::{Agent, CounterKey, Counters, Lease, LeaseKey, NO_RING},
};
use aya::{
    maps::{Array, HashMap, Map, MapData, MapError, RingBuf},
    sys::SyscallError,
};

use super::{
    Row,
    grace::Grace,
    pins::Pins,
    policies::{NO_POLICY, Policies},
    rings::{drain, new_ring},
};
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

/// The maps that hold agents and policies.
pub struct Tables {
    agents: HashMap<MapData, u32, Row<Agent>>,
    agent_of_cgroup: HashMap<MapData, u64, u32>,
    generation: Array<MapData, u32>,
    grace: Grace,
    counters: HashMap<MapData, Row<CounterKey>, Row<Counters>>,
    leases: HashMap<MapData, Row<LeaseKey>, Row<Lease>>,
    policies: Policies,
}

/// The map that is the section `.data.generation`.
const GENERATION: &str = "-data-generation";

/// `BPF_NOEXIST`: only a new entry.
pub(super) const NO_EXIST: u64 = 1;

/// `BPF_EXIST`: only one that is there.
const EXIST: u64 = 2;

/// Ids that are drawn before it is given up. One in four billion is taken by each agent or policy.
const ID_DRAWS: usize = 16;

/// Opens the map of this name that is pinned at `pins`.
pub(super) fn open<T: TryFrom<Map, Error = MapError>>(
    pins: &Pins,
    name: &'static str,
) -> Result<T, InstallError> {
    pins.map(name).map_err(in_map(name))
}

pub(super) fn in_map(map: &'static str) -> impl Fn(MapError) -> InstallError {
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
pub(super) fn fresh_id(
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
        Ok(Self {
            agents: open(pins, "AGENTS")?,
            agent_of_cgroup: open(pins, "AGENT_OF_CGROUP")?,
            generation: open(pins, GENERATION)?,
            grace: Grace::open(pins)?,
            counters: open(pins, "COUNTERS")?,
            leases: open(pins, "LEASES")?,
            policies: Policies::open(pins)?,
        })
    }

    /// Adds an agent and returns its id. Nobody belongs to it before [`Self::bind_cgroup`].
    pub fn add_agent(&mut self, agent: Agent) -> Result<u32, InstallError> {
        let turn = self.grace.turn_to_insert()?;
        self.insert_agent(&turn, agent)
    }

    /// Adds an agent to which the processes of its cgroup, and of all below it, belong from here on.
    pub fn add_bound_agent(&mut self, agent: Agent) -> Result<u32, InstallError> {
        let turn = self.grace.turn_to_insert()?;
        let id = self.insert_agent(&turn, agent)?;
        self.insert_cgroup(&turn, agent.cgroup, id)?;
        Ok(id)
    }

    /// Adds an agent with a ring buffer of its own, which others may come to share. What comes back is its id, and
    /// the ring buffer's key.
    pub fn add_agent_with_ring(&mut self, agent: Agent) -> Result<(u32, u32), InstallError> {
        let turn = self.grace.turn_to_insert()?;
        // In the same turn as the agent, so that nobody takes it for one that no agent has.
        let ring = match self.spare_rings()?.first() {
            Some(&spare) => {
                let everything = usize::MAX;
                drain(&mut self.ring(spare)?, everything, |_| {});
                spare
            }
            None => self.insert_ring()?,
        };
        Ok((self.insert_agent(&turn, Agent { ring, ..agent })?, ring))
    }

    fn insert_agent(&mut self, turn: &Turn, agent: Agent) -> Result<u32, InstallError> {
        let agents = &mut self.agents;
        let id = fresh_id("AGENTS", |id| agents.insert(id, Row(agent), NO_EXIST))?;
        let counters = &mut self.counters;
        let counted = (0..COUNTER_ROWS).try_for_each(|row| {
            counters.insert(Row(CounterKey { agent: id, row }), Row(Counters::ZERO), 0)
        });
        if let Err(error) = counted {
            turn.begin_rest().map_err(InstallError::Turn)?;
            self.free_counters(id)?;
            gone(self.agents.remove(&id)).map_err(in_map("AGENTS"))?;
            return Err(in_map("COUNTERS")(error));
        }
        Ok(id)
    }

    /// The row of an agent.
    pub fn agent(&self, id: u32) -> Result<Agent, InstallError> {
        self.agents.get(&id, 0).map(|row| row.0).map_err(in_map("AGENTS"))
    }

    fn agents(&self) -> Result<Vec<(u32, Agent)>, InstallError> {
        let rows = self.agents.iter().map(|row| row.map(|(id, agent)| (id, agent.0)));
        rows.collect::<Result<_, _>>().map_err(in_map("AGENTS"))
    }

    /// The ring buffer with this key.
    pub fn ring(&self, key: u32) -> Result<RingBuf<MapData>, InstallError> {
        self.grace.rings.get(&key, 0).map_err(in_map("RINGS"))
    }

    fn insert_ring(&mut self) -> Result<u32, InstallError> {
        let ring = new_ring(RING_BYTES as u32)?;
        let rings = &mut self.grace.rings;
        fresh_id("RINGS", |id| rings.insert(id, &ring, NO_EXIST))
    }

    /// The ring buffers that no agent has.
    fn spare_rings(&self) -> Result<Vec<u32>, InstallError> {
        let rings: Vec<u32> =
            self.grace.rings.keys().collect::<Result<_, _>>().map_err(in_map("RINGS"))?;
        let used: BTreeSet<u32> = self.agents()?.iter().map(|(_, agent)| agent.ring).collect();
        Ok(rings.into_iter().filter(|ring| *ring != NO_RING && !used.contains(ring)).collect())
    }

    /// Writes `compiled` under a fresh id, for the guard that the cgroup `writer` is of, and returns that id. No
    /// agent has it yet. On an error what was written of it is taken out again; what a guard leaves that is killed
    /// here [`Self::sweep`] finds by the cgroup.
    pub fn write_policy(&mut self, compiled: &Compiled, writer: u64) -> Result<u32, InstallError> {
        self.policies.write(compiled, writer)
    }

    /// Takes a policy out again that was written here, where no agent came to have it.
    pub fn discard_policy(&mut self, policy: u32) -> Result<(), InstallError> {
        if !self.policies_in_use()?.contains(&policy) {
            self.policies.remove(policy);
        }
        Ok(())
    }

    fn policies_in_use(&self) -> Result<BTreeSet<u32>, InstallError> {
        Ok(self.agents()?.iter().map(|(_, agent)| agent.policy).collect())
    }

    /// Makes each row current under its agent's id, in one write each, and reads it back. What comes back is, for
    /// each, whether it is. Policies that no agent has any more are removed once no program can be reading them:
    /// that is waited for once for all.
    ///
    /// # Errors
    /// Nothing was changed.
    pub fn set_agents(
        &mut self,
        rows: &[(u32, Agent)],
    ) -> Result<Vec<Result<(), InstallError>>, InstallError> {
        let before: BTreeSet<u32> =
            rows.iter().filter_map(|(id, _)| Some(self.agent(*id).ok()?.policy)).collect();
        let turn = self.grace.turn_to_replace()?;
        let set = self.change(&turn, |tables| {
            let set = |(id, agent): &(u32, Agent)| {
                tables.agents.insert(id, Row(*agent), EXIST).map_err(in_map("AGENTS"))
            };
            Ok(rows.iter().map(set).collect::<Vec<_>>())
        })?;
        let read_back = |((id, agent), set): (&(u32, Agent), Result<(), InstallError>)| {
            set?;
            match self.agent(*id)? == *agent {
                true => Ok(()),
                false => Err(InstallError::ReadBack { map: "AGENTS" }),
            }
        };
        let set = rows.iter().zip(set).map(read_back).collect();
        // The new rows are in force, whatever becomes of the policies before them.
        if let Err(error) = self.remove_unused(turn, before) {
            tracing::warn!("a policy that nobody is under stays until a guard starts: {error}");
        }
        Ok(set)
    }

    /// Makes `agent` current under `id`, as [`Self::set_agents`] does.
    pub fn set_agent(&mut self, id: u32, agent: Agent) -> Result<(), InstallError> {
        self.set_agents(&[(id, agent)])?.into_iter().collect()
    }

    /// Removes those of `policies` that no agent has, once no program can be reading them.
    fn remove_unused(&mut self, turn: Turn, policies: BTreeSet<u32>) -> Result<(), InstallError> {
        let used = self.policies_in_use()?;
        let unused: Vec<u32> = policies.difference(&used).copied().collect();
        if unused.iter().all(|policy| *policy == NO_POLICY) {
            return Ok(());
        }
        self.grace.wait(&turn)?;
        drop(turn);
        unused.into_iter().for_each(|policy| self.policies.remove(policy));
        Ok(())
    }

    /// Puts the processes of a cgroup, and of all below it, under agent `id`.
    pub fn bind_cgroup(&mut self, cgroup: u64, id: u32) -> Result<(), InstallError> {
        let turn = self.grace.turn_to_insert()?;
        self.insert_cgroup(&turn, cgroup, id)
    }

    fn insert_cgroup(&mut self, turn: &Turn, cgroup: u64, id: u32) -> Result<(), InstallError> {
        self.change(turn, |tables| {
            let bound = tables.agent_of_cgroup.insert(cgroup, id, NO_EXIST);
            bound.map_err(in_map("AGENT_OF_CGROUP"))
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

    /// Forgets agents, given with their cgroups: these, their events and their counters, and the policies and ring
    /// buffers that no other agent has. Whoever still has the label of one is denied everything.
    pub fn remove_agents(&mut self, agents: &[(u64, u32)]) -> Result<(), InstallError> {
        match self.take_out(agents)? {
            Some((turn, policies)) => self.remove_unused(turn, policies),
            None => Ok(()),
        }
    }

    /// As [`Self::remove_agents`], for who is about to go: without waiting. Their policies stay until a guard sweeps,
    /// as those of one that was killed.
    pub fn forget_agents(&mut self, agents: &[(u64, u32)]) -> Result<(), InstallError> {
        self.take_out(agents).map(drop)
    }

    /// In a turn to free.
    fn free_counters(&mut self, agent: u32) -> Result<(), InstallError> {
        (0..COUNTER_ROWS).try_for_each(|row| {
            let key = Row(CounterKey { agent, row });
            gone(self.counters.remove(&key)).map_err(in_map("COUNTERS"))
        })
    }

    /// Returns the policies that they had, and the turn in which that is so.
    fn take_out(
        &mut self,
        agents: &[(u64, u32)],
    ) -> Result<Option<(Turn, BTreeSet<u32>)>, InstallError> {
        let mut policies = BTreeSet::new();
        for (_, id) in agents {
            match self.agents.get(id, 0) {
                Ok(agent) => drop(policies.insert(agent.0.policy)),
                Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(in_map("AGENTS")(error)),
            }
        }
        if policies.is_empty() {
            return Ok(None);
        }
        let turn = Grace::turn_to_free()?;
        // First, so that who is killed here leaves the row that all of it is found by.
        agents.iter().try_for_each(|(_, agent)| self.free_counters(*agent))?;
        self.free_leases(&turn, &agents.iter().map(|(cgroup, _)| *cgroup).collect())?;
        self.change(&turn, |tables| {
            agents.iter().try_for_each(|(cgroup, id)| {
                // Another agent's, where the guard died before it had bound its own.
                if tables.agent_of_cgroup(*cgroup)? == Some(*id) {
                    gone(tables.agent_of_cgroup.remove(cgroup))
                        .map_err(in_map("AGENT_OF_CGROUP"))?;
                }
                gone(tables.agents.remove(id)).map_err(in_map("AGENTS"))
            })
        })?;
        for ring in self.spare_rings()?.into_iter().skip(SPARE_RINGS) {
            gone(self.grace.rings.remove(&ring)).map_err(in_map("RINGS"))?;
        }
        Ok(Some((turn, policies)))
    }

    /// Forgets one agent, as [`Self::remove_agents`] does.
    pub fn remove_agent(&mut self, cgroup: u64, id: u32) -> Result<(), InstallError> {
        self.remove_agents(&[(cgroup, id)])
    }

    /// Takes away what host names have opened for the agents with these cgroups.
    pub fn remove_leases(&mut self, cgroups: &BTreeSet<u64>) -> Result<(), InstallError> {
        if self.leases_of(cgroups)?.is_empty() {
            return Ok(());
        }
        self.free_leases(&Grace::turn_to_free()?, cgroups)
    }

    fn free_leases(&mut self, _turn: &Turn, cgroups: &BTreeSet<u64>) -> Result<(), InstallError> {
        for lease in self.leases_of(cgroups)? {
            gone(self.leases.remove(&lease)).map_err(in_map("LEASES"))?;
        }
        Ok(())
    }

    fn leases_of(&self, cgroups: &BTreeSet<u64>) -> Result<Vec<Row<LeaseKey>>, InstallError> {
        let is_theirs = |key: &Result<Row<LeaseKey>, MapError>| {
            key.as_ref().map_or(true, |key| cgroups.contains(&key.0.cgroup))
        };
        let keys = self.leases.keys().filter(is_theirs);
        keys.collect::<Result<_, _>>().map_err(in_map("LEASES"))
    }

    /// Forgets the agents whose cgroup is gone: their guards died before they could say who they are. And the
    /// policies of guards whose cgroup is gone, where no agent that is left has them.
    pub fn sweep(&mut self, has_gone: impl Fn(u64) -> bool) -> Result<(), InstallError> {
        let agents = self.agents()?.into_iter().map(|(id, agent)| (agent.cgroup, id));
        let left: Vec<(u64, u32)> = agents.filter(|(cgroup, _)| has_gone(*cgroup)).collect();
        self.remove_agents(&left)?;
        let policies = self.policies.writers()?.into_iter();
        let left = policies.filter(|(_, writer)| has_gone(*writer)).map(|(policy, _)| policy);
        let left: BTreeSet<u32> = left.collect();
        if left.is_subset(&self.policies_in_use()?) {
            return Ok(());
        }
        // Nobody comes to have the policy of a guard that is gone.
        self.remove_unused(Grace::turn_to_free()?, left)
    }

    /// Waits for what rests, so that who inserts next need not.
    pub fn settle(&mut self) -> Result<(), InstallError> {
        self.grace.turn_to_insert().map(drop)
    }

    /// Makes a change by which tasks of no agent may come to belong to one, or those of an agent to have another
    /// policy: afterwards all look again. While it goes on, and where whoever makes it dies, what was remembered
    /// of agents counts for nothing. Two that count at once would leave the tasks of one of them believing what
    /// they knew.
    fn change<T>(
        &mut self,
        _turn: &Turn,
        change: impl FnOnce(&mut Self) -> Result<T, InstallError>,
    ) -> Result<T, InstallError> {
        let (during, after) = next(self.generation.get(&0, 0).map_err(in_map(GENERATION))?);
        self.generation.set(0, during, 0).map_err(in_map(GENERATION))?;
        let changed = change(self);
        self.generation.set(0, after, 0).map_err(in_map(GENERATION))?;
        changed
    }
}

/// What the generation is while a change is made, which is odd, and when it is made. One that finds it odd carries
/// on for somebody who died.
fn next(generation: u32) -> (u32, u32) {
    let during = generation | 1;
    (during, during.wrapping_add(1))
}

/// What is not there need not be removed.
pub(super) fn gone(removed: Result<(), MapError>) -> Result<(), MapError> {
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
