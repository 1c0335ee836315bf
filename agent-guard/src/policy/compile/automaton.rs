//! The deterministic automaton: what the kernel walks, one look-up a component.

use std::collections::HashMap;

use agent_guard_common::{
    hash::name_symbol,
    table::{ACCESS_KINDS, DEAD, Effect, NO_RULE, State, Verdict},
};

use super::{
    alphabet::number,
    error::{MAX_EDGES, MAX_POSITIONS, MAX_STATES},
    lexer::{self, Globs},
    mounts::{Anchor, AnchorId, Anchors},
    nfa::{Nfa, NodeId},
    subtree,
};

/// The tables of the automaton.
pub struct Automaton {
    /// State at the root of each file system, by `s_dev`.
    pub starts: Vec<(u32, u32)>,
    /// State, symbol, state after it.
    pub edges: Vec<(u32, u64, u32)>,
    /// Rows; their numbers run from 1.
    pub states: Vec<(u32, State)>,
}

/// Why there is no automaton.
pub enum Failure {
    /// Two names share a symbol.
    Collision,
    /// More of something than its bound.
    TooMany(&'static str, usize),
}

/// A state before it has a number: the nodes it stands for and, where the names of directories
/// differ between mounts, the place in the file system.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    anchor: Option<AnchorId>,
    nodes: Box<[NodeId]>,
}

/// Builds the automaton of `nfa` over the file systems in `anchors`.
pub fn build(
    nfa: &Nfa,
    literals: &[&[u8]],
    globs: &Globs,
    anchors: &Anchors,
    hash_key: [u64; 2],
    default_file: [Effect; ACCESS_KINDS],
) -> Result<Automaton, Failure> {
    let mut symbols = Vec::with_capacity(literals.len());
    let mut seen = HashMap::with_capacity(literals.len());
    for name in literals {
        let symbol = name_symbol(hash_key, name);
        if seen.insert(symbol, name).is_some() {
            return Err(Failure::Collision);
        }
        symbols.push((symbol, lexer::class(&globs.lexer, name)));
    }
    let mut classes_of: HashMap<u32, Vec<u64>> = HashMap::new();
    for (class, fits) in (0..).zip(&globs.classes) {
        for glob in fits {
            classes_of.entry(*glob).or_default().push(class);
        }
    }

    let mut work = Construction {
        nfa,
        anchors,
        symbols,
        classes: &globs.classes,
        classes_of,
        numbers: HashMap::new(),
        keys: Vec::new(),
        positions: 0,
        edges: Vec::new(),
    };
    let mut starts = Vec::new();
    for (dev, anchor) in anchors.starts() {
        starts.push((dev, work.anchored(anchor)?));
    }
    let mut states = Vec::new();
    while let Some(key) = work.keys.get(states.len()).cloned() {
        let state = number(states.len()) + 1;
        let next = work.expand(state, &key)?;
        states.push((state, work.row(&key, next)));
    }
    let Construction { edges, symbols, .. } = work;
    let class_of = symbols.into_iter().collect();
    subtree::number_classes(&mut states, &edges, &class_of, default_file);
    Ok(Automaton { starts, edges, states })
}

struct Construction<'a> {
    nfa: &'a Nfa,
    anchors: &'a Anchors,
    /// Symbol and glob class of each literal.
    symbols: Vec<(u64, u64)>,
    classes: &'a [Vec<u32>],
    /// The classes in which each glob is.
    classes_of: HashMap<u32, Vec<u64>>,
    numbers: HashMap<Key, u32>,
    /// State `n` is at `n - 1`.
    keys: Vec<Key>,
    positions: usize,
    edges: Vec<(u32, u64, u32)>,
}

impl Construction<'_> {
    /// The number of a state, which is made where it is new.
    fn state(&mut self, anchor: Option<AnchorId>, nodes: Vec<NodeId>) -> Result<u32, Failure> {
        if anchor.is_none() && nodes.is_empty() {
            return Ok(DEAD);
        }
        let key = Key { anchor, nodes: nodes.into() };
        if let Some(state) = self.numbers.get(&key) {
            return Ok(*state);
        }
        if self.keys.len() == MAX_STATES {
            return Err(Failure::TooMany("states", MAX_STATES));
        }
        self.positions += key.nodes.len();
        if self.positions > MAX_POSITIONS {
            return Err(Failure::TooMany("pattern places in its states", MAX_POSITIONS));
        }
        self.keys.push(key.clone());
        let state = number(self.keys.len());
        self.numbers.insert(key, state);
        Ok(state)
    }

    /// The state at an anchor. An anchor that says nothing of its own is forgotten.
    fn anchored(&mut self, id: AnchorId) -> Result<u32, Failure> {
        let Anchor { children, nodes, kernel_memory } = self.anchors.at(id);
        let anchor = (*kernel_memory || !children.is_empty()).then_some(id);
        self.state(anchor, nodes.clone())
    }

    fn closed(&mut self, base: &[NodeId], more: &[NodeId]) -> Result<u32, Failure> {
        let mut set = [base, more].concat();
        self.nfa.close(&mut set);
        self.state(None, set)
    }

    /// Finds where `state` leads. Returns the state after a component that no edge names.
    fn expand(&mut self, state: u32, key: &Key) -> Result<u32, Failure> {
        let (nfa, anchors) = (self.nfa, self.anchors);
        let base = nfa.anyway(&key.nodes);
        let next = self.closed(&base, &[])?;

        // Classes first: a name leads to whatever its class leads to, and more.
        let mut globs: Vec<(u32, NodeId)> = Vec::new();
        key.nodes.iter().for_each(|id| globs.extend(&nfa.node(*id).globs));
        let mut classes: Vec<u64> = globs
            .iter()
            .filter_map(|(glob, _)| self.classes_of.get(glob))
            .flatten()
            .copied()
            .collect();
        classes.sort_unstable();
        classes.dedup();
        let mut by_class: HashMap<u64, Vec<NodeId>> = HashMap::new();
        for class in classes {
            let fits = self.classes.get(class as usize).map_or(&[][..], Vec::as_slice);
            let here = globs.iter().filter(|(glob, _)| fits.binary_search(glob).is_ok());
            let more: Vec<NodeId> = here.map(|(_, child)| *child).collect();
            let target = self.closed(&base, &more)?;
            if target != next {
                self.edge(state, class, target)?;
            }
            by_class.insert(class, more);
        }

        let mut literals: Vec<(u32, NodeId)> = Vec::new();
        key.nodes.iter().for_each(|id| literals.extend(&nfa.node(*id).literals));
        literals.sort_unstable();
        let anchor = key.anchor.map(|id| anchors.at(id));
        for group in literals.chunk_by(|(one, _), (other, _)| one == other) {
            let Some((name, _)) = group.first() else { continue };
            if anchor.is_some_and(|anchor| anchor.children.contains_key(name)) {
                continue;
            }
            let Some((symbol, class)) = self.symbols.get(*name as usize).copied() else { continue };
            let mut more = by_class.get(&class).cloned().unwrap_or_default();
            more.extend(group.iter().map(|(_, child)| child));
            let target = self.closed(&base, &more)?;
            // An edge of the name's class can not stand in: inner components are often not lexed.
            if target != next {
                self.edge(state, symbol, target)?;
            }
        }
        for (name, child) in anchor.iter().flat_map(|anchor| &anchor.children) {
            let Some((symbol, _)) = self.symbols.get(*name as usize).copied() else { continue };
            let target = self.anchored(*child)?;
            self.edge(state, symbol, target)?;
        }
        Ok(next)
    }

    fn edge(&mut self, state: u32, symbol: u64, target: u32) -> Result<(), Failure> {
        if self.edges.len() == MAX_EDGES {
            return Err(Failure::TooMany("edges", MAX_EDGES));
        }
        self.edges.push((state, symbol, target));
        Ok(())
    }

    fn row(&self, key: &Key, next: u32) -> State {
        let strongest = self.nfa.verdict(&key.nodes);
        let guarded = strongest.guarded();
        let verdicts = match key.anchor.map(|id| self.anchors.at(id)) {
            // Not even the default opens these.
            Some(Anchor { kernel_memory: true, .. }) => guarded.map(|verdict| {
                if verdict.effect().is_some() {
                    verdict
                } else {
                    Verdict::new(Effect::Deny, NO_RULE)
                }
            }),
            _ => strongest.plain(),
        };
        State { next, verdicts, guarded, subtree: 0 }
    }
}
