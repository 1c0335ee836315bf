//! Compiled policies in the BPF maps.

use std::collections::HashMap as StdHashMap;

use agent_guard_common::table::{
    Alias, ChangeTime, EdgeKey, FileKey, Interval, IntervalKey, Lexer, PREFIX_BASE_BITS, PortSet,
    PrefixKey, StartKey, State, StateKey,
};
use aya::maps::{HashMap, LpmTrie, MapData, lpm_trie::Key};

use super::{
    Row,
    pins::Pins,
    tables::{InstallError, NO_EXIST, fresh_id, in_map, open},
};
use crate::policy::compile::Compiled;

type Owned<K, V> = HashMap<MapData, Row<K>, Row<V>>;

/// The id that no policy has.
pub const NO_POLICY: u32 = 0;

/// The maps that hold policies.
pub(super) struct Policies {
    starts: Owned<StartKey, u32>,
    edges: Owned<EdgeKey, u32>,
    states: Owned<StateKey, State>,
    aliases: Owned<FileKey, Alias>,
    pins: Owned<FileKey, ChangeTime>,
    lexers: HashMap<MapData, u32, Row<Lexer>>,
    prefixes: LpmTrie<MapData, Row<PrefixKey>, Row<PortSet>>,
    intervals: Owned<IntervalKey, Interval>,
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

impl Policies {
    /// Opens the maps that are pinned at `pins`.
    pub(super) fn open(pins: &Pins) -> Result<Self, InstallError> {
        Ok(Self {
            starts: open(pins, "STARTS")?,
            edges: open(pins, "EDGES")?,
            states: open(pins, "STATES")?,
            aliases: open(pins, "ALIASES")?,
            pins: open(pins, "PINS")?,
            lexers: open(pins, "LEXERS")?,
            prefixes: open(pins, "PREFIXES")?,
            intervals: open(pins, "INTERVALS")?,
            installed: StdHashMap::new(),
        })
    }

    /// Writes `compiled` under a fresh id, and notes `writer` with it. On an error nothing of it stays.
    pub(super) fn write(&mut self, compiled: &Compiled, writer: u64) -> Result<u32, InstallError> {
        let lexers = &mut self.lexers;
        // First in and last out, so that no other row is without it.
        let lexer = Lexer { writer, ..*compiled.lexer };
        let policy = fresh_id("LEXERS", |id| lexers.insert(id, Row(lexer), NO_EXIST))?;
        let mut keys = Keys::default();
        let written = self.write_tables(policy, compiled, &mut keys);
        self.installed.insert(policy, keys);
        match written {
            Ok(()) => Ok(policy),
            Err(error) => {
                self.remove(policy);
                Err(error)
            }
        }
    }

    /// Every policy that is there, with the cgroup of its writer.
    pub(super) fn writers(&self) -> Result<Vec<(u32, u64)>, InstallError> {
        let writers = self.lexers.iter().map(|row| row.map(|(id, lexer)| (id, lexer.0.writer)));
        writers.collect::<Result<_, _>>().map_err(in_map("LEXERS"))
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

    /// Removes a policy. No program can be reading it by now; what a decision ends with goes first all the same, so
    /// that one that did would deny. Entries that are gone already are no concern of a removal.
    pub(super) fn remove(&mut self, policy: u32) {
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
