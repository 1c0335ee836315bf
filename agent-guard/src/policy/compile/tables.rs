//! Compiled tables in memory: the same look-ups that the kernel makes.

use std::collections::{BTreeSet, HashMap};

use agent_guard_common::{
    decide::{Component, Reason, Tables, Transport, decide_lease, step},
    hash::name_symbol,
    limits::{MAX_DEPTH, PATH_ALIGN, PATH_BYTES},
    table::{
        ABSTRACT_DEV, AgentFlag, DEAD, Family, Interval, Lease, LeaseKey, PortSet, State, Verdict,
        Way,
    },
};

use super::{Compiled, alphabet::number, lexer};

/// A [`Compiled`] policy that can be asked.
pub struct MemoryTables<'a> {
    compiled: &'a Compiled,
    starts: HashMap<u32, u32>,
    edges: HashMap<(u32, u64), u32>,
    states: HashMap<u32, State>,
    prefixes: HashMap<(Way, Family, u32, [u8; 16]), PortSet>,
    /// Prefix lengths in use.
    lengths: BTreeSet<(Way, Family, u32)>,
    leases: HashMap<LeaseKey, Lease>,
    now_ns: u64,
}

impl<'a> MemoryTables<'a> {
    /// Indexes the tables.
    #[must_use]
    pub fn new(compiled: &'a Compiled) -> Self {
        let prefixes = &compiled.prefixes;
        Self {
            compiled,
            starts: compiled.starts.iter().copied().collect(),
            edges: compiled.edges.iter().map(|(from, by, to)| ((*from, *by), *to)).collect(),
            states: compiled.states.iter().copied().collect(),
            prefixes: prefixes
                .iter()
                .map(|p| ((p.way, p.family, p.bits, p.addr), p.ports))
                .collect(),
            lengths: prefixes.iter().map(|p| (p.way, p.family, p.bits)).collect(),
            leases: HashMap::new(),
            now_ns: 0,
        }
    }

    /// The same, at `now_ns` on the boot clock, with these addresses told for host names.
    #[must_use]
    pub fn with_leases(self, leases: HashMap<LeaseKey, Lease>, now_ns: u64) -> Self {
        Self { leases, now_ns, ..self }
    }

    /// Walks from the root of the file system `dev` over `components` to a state, under the bounds
    /// that the kernel keeps. The entries of the agent's own processes in procfs are called `self`.
    ///
    /// # Errors
    /// Why there is no state: the object is denied.
    pub fn walk(&self, dev: u32, components: &[impl AsRef<[u8]>]) -> Result<u32, Reason> {
        let mut taken = 0;
        let mut read = Vec::with_capacity(components.len());
        // Up, as the kernel goes.
        for (depth, name) in components.iter().rev().enumerate() {
            if depth >= MAX_DEPTH {
                return Err(Reason::TooDeep);
            }
            if taken > PATH_BYTES {
                return Err(Reason::TooLong);
            }
            let name = name.as_ref();
            let lexed = depth == 0 || self.compiled.flags & AgentFlag::INNER_GLOBS != 0;
            let class = if lexed { lexer::class(&self.compiled.lexer, name) } else { 0 };
            read.push(Component { literal: name_symbol(self.compiled.hash_key, name), class });
            taken += (name.len() + 1).next_multiple_of(PATH_ALIGN);
        }
        let mut state = self.start(dev).ok_or(Reason::UnknownFilesystem)?;
        for component in read.into_iter().rev() {
            state = step(self, state, component).ok_or(Reason::Failed)?;
        }
        Ok(state)
    }
}

impl MemoryTables<'_> {
    /// The state of an abstract socket name.
    ///
    /// # Errors
    /// The tables are broken.
    pub fn walk_abstract(&self, name: &[u8]) -> Result<u32, Reason> {
        let component = Component {
            literal: name_symbol(self.compiled.hash_key, name),
            class: lexer::class(&self.compiled.lexer, name),
        };
        let start = self.start(ABSTRACT_DEV).ok_or(Reason::UnknownFilesystem)?;
        step(self, start, component).ok_or(Reason::Failed)
    }

    /// The row of a state from [`Self::walk`].
    #[must_use]
    pub fn row(&self, state: u32) -> Option<State> {
        if state == DEAD { Some(State::NOTHING) } else { self.state(state) }
    }
}

impl Tables for MemoryTables<'_> {
    fn start(&self, dev: u32) -> Option<u32> {
        self.starts.get(&dev).copied()
    }

    fn edge(&self, state: u32, symbol: u64) -> Option<u32> {
        self.edges.get(&(state, symbol)).copied()
    }

    fn other(&self, state: u32) -> Option<u32> {
        self.states.get(&state).map(|row| row.next)
    }

    fn state(&self, state: u32) -> Option<State> {
        self.states.get(&state).copied()
    }

    fn prefix(&self, way: Way, family: Family, addr: [u8; 16]) -> Option<PortSet> {
        let lengths = self.lengths.range((way, family, 0)..=(way, family, 128)).rev();
        let address = u128::from_be_bytes(addr);
        lengths.into_iter().find_map(|(_, _, bits)| {
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or_default();
            self.prefixes.get(&(way, family, *bits, (address & mask).to_be_bytes())).copied()
        })
    }

    fn interval(&self, index: u32) -> Option<Interval> {
        self.compiled.intervals.get(index as usize).copied()
    }

    fn leased(&self, key: &LeaseKey, port: u16, transport: Transport) -> Verdict {
        let lease = self.leases.get(key);
        lease.map_or(Verdict::UNMATCHED, |lease| decide_lease(lease, self.now_ns, port, transport))
    }
}

impl Compiled {
    /// The number of states and edges of the path automaton, for those who size the maps.
    #[must_use]
    pub fn path_size(&self) -> (u32, u32) {
        (number(self.states.len()), number(self.edges.len()))
    }
}
