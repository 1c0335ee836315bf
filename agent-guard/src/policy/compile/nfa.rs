//! Path patterns as one nondeterministic automaton over components.
//!
//! Patterns share their beginnings (a trie) and, where what follows is the same, their ends. A set of
//! nodes is a state of the deterministic automaton that the kernel walks.

use std::collections::HashMap;

use agent_guard_common::table::Effect;

use super::{
    alphabet::{Alphabet, number},
    verdict::{Accept, Strongest},
};
use crate::policy::Segment;

/// A node's number within its [`Nfa`].
pub type NodeId = u32;

/// A place in some patterns: everything up to here matched.
#[derive(Default, PartialEq, Eq, Hash)]
pub struct Node {
    /// Where named components lead, sorted by name.
    pub literals: Vec<(u32, NodeId)>,
    /// Where components that a glob matches lead, sorted by glob.
    pub globs: Vec<(u32, NodeId)>,
    /// Where any component leads.
    pub any: Option<NodeId>,
    /// The node of `**` that begins here, entered without a component.
    pub deep: Option<NodeId>,
    /// This is the node of a `**`: any component leads back here.
    pub looping: bool,
    /// The patterns that end here.
    pub accepts: Vec<Accept>,
}

/// Where the walk starts.
#[derive(Clone, Copy)]
pub enum Root {
    /// All patterns.
    All,
    /// Only those that deny.
    Deny,
    /// Those of abstract socket names, which are no paths.
    Abstract,
}

/// Which pattern a builder's edge stands for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Key {
    Literal(u32),
    Glob(u32),
    AnyOne,
    AnyDepth,
}

/// Collects patterns into a trie.
pub struct Builder {
    children: HashMap<(NodeId, Key), NodeId>,
    accepts: Vec<Vec<Accept>>,
    /// A glob stands before the last component of some pattern.
    inner_globs: bool,
}

const ALL: NodeId = 0;
const DENY: NodeId = 1;
const ABSTRACT: NodeId = 2;

impl Builder {
    /// A trie without patterns.
    pub fn new() -> Self {
        let accepts = vec![Vec::new(), Vec::new(), Vec::new()];
        Self { children: HashMap::new(), accepts, inner_globs: false }
    }

    /// Adds a pattern.
    pub fn add(&mut self, alphabet: &mut Alphabet, segments: &[Segment], accept: Accept) {
        self.add_below(ALL, alphabet, segments, accept);
        if accept.effect == Effect::Deny {
            self.add_below(DENY, alphabet, segments, accept);
        }
        let inner = segments.split_last().map_or(&[][..], |(_, inner)| inner);
        self.inner_globs |= inner.iter().any(|segment| matches!(segment, Segment::Glob(_)));
    }

    /// Adds a pattern of abstract socket names.
    pub fn add_abstract(&mut self, alphabet: &mut Alphabet, segments: &[Segment], accept: Accept) {
        self.add_below(ABSTRACT, alphabet, segments, accept);
    }

    fn add_below(
        &mut self,
        root: NodeId,
        alphabet: &mut Alphabet,
        segments: &[Segment],
        accept: Accept,
    ) {
        let mut node = root;
        let mut before = None;
        for segment in segments {
            let key = match segment {
                Segment::Literal(name) => Key::Literal(alphabet.literal(name)),
                Segment::Glob(glob) => Key::Glob(alphabet.glob(glob)),
                Segment::AnyOne => Key::AnyOne,
                Segment::AnyDepth => Key::AnyDepth,
            };
            if key == Key::AnyDepth && before == Some(Key::AnyDepth) {
                continue;
            }
            before = Some(key);
            let fresh = number(self.accepts.len());
            node = *self.children.entry((node, key)).or_insert(fresh);
            if node == fresh {
                self.accepts.push(Vec::new());
            }
        }
        if let Some(accepts) = self.accepts.get_mut(node as usize) {
            accepts.push(accept);
        }
    }

    /// Merges what is alike. A child has a higher number than its parent, so one pass from the end
    /// sees every node after all its children.
    pub fn finish(self) -> Nfa {
        let mut edges: Vec<_> = self.children.into_iter().collect();
        edges.sort_unstable();
        let mut nfa = Nfa {
            nodes: Vec::new(),
            reach: Vec::new(),
            all: 0,
            deny: 0,
            abstract_names: 0,
            inner_globs: self.inner_globs,
        };
        let mut known: HashMap<Node, NodeId> = HashMap::new();
        let mut merged = vec![0; self.accepts.len()];
        let loops: Vec<bool> = {
            let mut loops = vec![false; self.accepts.len()];
            for ((_, key), child) in &edges {
                if let (Key::AnyDepth, Some(cell)) = (key, loops.get_mut(*child as usize)) {
                    *cell = true;
                }
            }
            loops
        };
        for (id, (mut accepts, looping)) in self.accepts.into_iter().zip(loops).enumerate().rev() {
            accepts.sort_unstable();
            accepts.dedup();
            let mut node = Node { looping, accepts, ..Node::default() };
            while let Some(((_, key), child)) =
                edges.pop_if(|((parent, _), _)| *parent as usize == id)
            {
                let child = merged.get(child as usize).copied().unwrap_or_default();
                match key {
                    Key::Literal(name) => node.literals.push((name, child)),
                    Key::Glob(glob) => node.globs.push((glob, child)),
                    Key::AnyOne => node.any = Some(child),
                    Key::AnyDepth => node.deep = Some(child),
                }
            }
            node.literals.reverse();
            node.globs.reverse();
            if let Some(cell) = merged.get_mut(id) {
                *cell = match known.get(&node) {
                    Some(same) => *same,
                    None => {
                        let fresh = nfa.push(&node);
                        known.insert(node, fresh);
                        fresh
                    }
                };
            }
        }
        nfa.all = merged.first().copied().unwrap_or_default();
        nfa.deny = merged.get(1).copied().unwrap_or_default();
        nfa.abstract_names = merged.get(2).copied().unwrap_or_default();
        let mut nodes: Vec<_> = known.into_iter().collect();
        nodes.sort_unstable_by_key(|(_, id)| *id);
        nfa.nodes = nodes.into_iter().map(|(node, _)| node).collect();
        nfa
    }
}

/// The automaton of all patterns.
pub struct Nfa {
    nodes: Vec<Node>,
    /// What each node, and everything that can follow it, may ever say.
    reach: Vec<Strongest>,
    all: NodeId,
    deny: NodeId,
    abstract_names: NodeId,
    /// A glob stands before the last component of some pattern.
    pub inner_globs: bool,
}

impl Nfa {
    fn push(&mut self, node: &Node) -> NodeId {
        let mut reach = Strongest::NONE;
        node.accepts.iter().for_each(|accept| reach.add(accept));
        let children = node.literals.iter().chain(&node.globs).map(|(_, child)| child);
        for child in children.chain(&node.any).chain(&node.deep) {
            if let Some(below) = self.reach.get(*child as usize) {
                reach.merge(below);
            }
        }
        self.reach.push(reach);
        number(self.reach.len() - 1)
    }

    /// A node by a number that this automaton gave out.
    pub fn node(&self, id: NodeId) -> &Node {
        static NOWHERE: Node = Node {
            literals: Vec::new(),
            globs: Vec::new(),
            any: None,
            deep: None,
            looping: false,
            accepts: Vec::new(),
        };
        self.nodes.get(id as usize).unwrap_or(&NOWHERE)
    }

    /// The nodes at the root of the file tree.
    pub fn start(&self, root: Root) -> Vec<NodeId> {
        let mut set = vec![match root {
            Root::All => self.all,
            Root::Deny => self.deny,
            Root::Abstract => self.abstract_names,
        }];
        self.close(&mut set);
        set
    }

    /// The nodes after one component, which is the name `literal` and fits `globs`.
    pub fn step(&self, set: &[NodeId], literal: Option<u32>, globs: &[u32]) -> Vec<NodeId> {
        let mut after = self.anyway(set);
        for id in set {
            let node = self.node(*id);
            if let Some(literal) = literal
                && let Ok(at) = node.literals.binary_search_by_key(&literal, |(name, _)| *name)
                && let Some((_, child)) = node.literals.get(at)
            {
                after.push(*child);
            }
            let fits = node.globs.iter().filter(|(glob, _)| globs.contains(glob));
            after.extend(fits.map(|(_, child)| child));
        }
        self.close(&mut after);
        after
    }

    /// The nodes after any component whatever, not yet closed.
    pub fn anyway(&self, set: &[NodeId]) -> Vec<NodeId> {
        let mut after = Vec::new();
        for id in set {
            let node = self.node(*id);
            after.extend(node.looping.then_some(*id));
            after.extend(node.any);
        }
        after
    }

    /// Enters every `**`, then drops what can not change a verdict: sets that decide alike become
    /// the same set, and `**/a/**` beside `**/b/**` does not multiply.
    pub fn close(&self, set: &mut Vec<NodeId>) {
        let mut at = 0;
        while let Some(id) = set.get(at) {
            let deep = self.node(*id).deep;
            set.extend(deep);
            at += 1;
        }
        set.sort_unstable();
        set.dedup();
        self.prune(set);
    }

    /// What a `**` at the end of a pattern says holds for all that follows. Whatever another node
    /// could still add to that is weaker, or the node is kept.
    fn prune(&self, set: &mut Vec<NodeId>) {
        let mut forever = Strongest::NONE;
        let mut suppliers: Vec<NodeId> = Vec::new();
        for id in set.iter().filter(|id| self.node(**id).looping) {
            let mut own = Strongest::NONE;
            self.node(*id).accepts.iter().for_each(|accept| own.add(accept));
            if !forever.covers(&own) {
                forever.merge(&own);
                suppliers.push(*id);
            }
        }
        if suppliers.is_empty() {
            return;
        }
        let without = |out: NodeId, among: &[NodeId]| {
            let mut rest = Strongest::NONE;
            for id in among.iter().filter(|id| **id != out) {
                self.node(*id).accepts.iter().for_each(|accept| rest.add(accept));
            }
            rest
        };
        // A supplier that the others make superfluous, one at a time.
        let mut at = 0;
        while let Some(id) = suppliers.get(at).copied() {
            match self.reach.get(id as usize) {
                Some(reach) if without(id, &suppliers).covers(reach) => {
                    suppliers.remove(at);
                }
                _ => at += 1,
            }
        }
        set.retain(|id| {
            suppliers.contains(id)
                || !self.reach.get(*id as usize).is_some_and(|reach| forever.covers(reach))
        });
    }

    /// What the patterns that end in `set` say.
    pub fn verdict(&self, set: &[NodeId]) -> Strongest {
        let mut strongest = Strongest::NONE;
        let accepts = set.iter().flat_map(|id| &self.node(*id).accepts);
        accepts.for_each(|accept| strongest.add(accept));
        strongest
    }
}
