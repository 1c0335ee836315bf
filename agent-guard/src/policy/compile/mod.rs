//! From a typed policy to the tables that the kernel reads.
//!
//! Nothing here needs privileges or a kernel: what the outside world adds (mounts, symbolic links) comes
//! through [`Environment`].

mod alphabet;
mod automaton;
mod egress;
mod error;
mod forms;
mod lexer;
mod links;
mod mounts;
mod names;
mod nfa;
mod note;
mod rules;
mod subtree;
mod system;
mod tables;
mod verdict;

use agent_guard_common::{
    hash::name_symbol,
    table::{
        ACCESS_KINDS, Agent, AgentFlag, Alias, ChangeTime, Effect, Interval, Lexer, NO_RING,
        OPERATIONS, State, Verdict,
    },
};

use self::{
    alphabet::Alphabet,
    automaton::{Automaton, Failure},
    egress::Egress,
    mounts::Anchors,
    nfa::Builder,
    rules::number_rules,
};
pub use self::{
    egress::Prefix,
    error::{
        CompileError, MAX_ALL_INTERVALS, MAX_EDGES, MAX_POSITIONS, MAX_PREFIXES, MAX_STATES,
        RuleRef,
    },
    links::{HostLinks, Links, NoLinks},
    mounts::{Filesystems, Mount, Path, components},
    names::{Grant, Judged, LOCALHOST, NameRules},
    note::Note,
    rules::RuleInfo,
    tables::MemoryTables,
};
pub(super) use self::{
    egress::is_wildcard_case,
    forms::{Form, abstract_names, forms},
    links::{follow, to_std},
    rules::{egress_id, listen_id, rule_ref, system_id},
};
use super::{Host, Mode, Policy, Segment};
use crate::policy;

/// What a policy refers to outside its file.
#[derive(Clone, Copy)]
pub struct Environment<'a> {
    /// The mounts that the agent sees.
    pub filesystems: &'a Filesystems,
    /// Its symbolic links.
    pub links: &'a dyn Links,
}

/// The component that stands for the agent's own processes under `/proc`.
const SELF: &[u8] = b"self";

/// A policy as tables: everything that goes into the kernel's maps, without the ids of agent and
/// policy.
pub struct Compiled {
    /// Key of the component hash.
    pub hash_key: [u64; 2],
    /// Symbol of the component `self`.
    pub self_symbol: u64,
    /// Any of [`AgentFlag`].
    pub flags: u32,
    /// Defaults for files, programs and UNIX-domain sockets, by
    /// [`agent_guard_common::table::Access`].
    pub default_file: [Effect; ACCESS_KINDS],
    /// Default for connections.
    pub default_egress: Effect,
    /// Default for listening.
    pub default_listen: Effect,
    /// What becomes of each operation, by number.
    pub operations: [Verdict; OPERATIONS],
    /// State at the root of each file system, by `s_dev`.
    pub starts: Vec<(u32, u32)>,
    /// State, symbol, state after it.
    pub edges: Vec<(u32, u64, u32)>,
    /// Rows of the path automaton by number.
    pub states: Vec<(u32, State)>,
    /// Denied files with several names, by `s_dev` and inode number: see [`super::aliases`].
    pub aliases: Vec<((u32, u64), Alias)>,
    /// Files that rules pin, by `s_dev` and inode number: see [`super::pinned`].
    pub pins: Vec<((u32, u64), ChangeTime)>,
    /// The name globs.
    pub lexer: Box<Lexer>,
    /// Address prefixes.
    pub prefixes: Vec<Prefix>,
    /// Port ranges.
    pub intervals: Vec<Interval>,
    /// What the egress rules say of host names.
    pub names: NameRules,
    /// Rules by id.
    pub rules: Vec<RuleInfo>,
    /// What the author should know of.
    pub notes: Vec<Note>,
}

impl Compiled {
    /// The value of `AGENTS` that makes these tables current, once they are in the maps under the id
    /// `policy`.
    #[must_use]
    pub fn agent(&self, cgroup: u64, policy: u32) -> Agent {
        Agent {
            hash_key: self.hash_key,
            self_symbol: self.self_symbol,
            cgroup,
            policy,
            flags: self.flags,
            default_file: self.default_file.map(|effect| effect as u8),
            default_egress: self.default_egress as u8,
            default_listen: self.default_listen as u8,
            dns_ports: [0; 2],
            reserved: [0; 2],
            ring: NO_RING,
            operations: self.operations,
        }
    }
}

/// Compiles `policy`. `hash_key` is drawn at random for each load: an agent chooses names, and must
/// not know which ones collide.
///
/// # Errors
/// [`CompileError::HashCollision`] asks for another key; the others say which bound the policy
/// exceeds.
pub fn compile(
    policy: &Policy,
    environment: &Environment<'_>,
    hash_key: [u64; 2],
) -> Result<Compiled, CompileError> {
    let rules = number_rules(policy)?;
    let mut notes = Vec::new();
    let Egress { prefixes, intervals } = egress::build(policy, &rules)?;
    names_only(policy, &rules, &mut notes);

    let forms = forms(policy, &rules, environment, &mut notes);
    let mut alphabet = Alphabet::default();
    // The kernel uses its symbol whether or not a pattern does: no other name may share it.
    alphabet.literal(SELF);
    let mut builder = Builder::new();
    for form in &forms {
        builder.add(&mut alphabet, &form.segments, form.accept);
    }
    for (pattern, accept) in abstract_names(policy) {
        builder.add_abstract(&mut alphabet, &pattern.segments, accept);
    }
    let nfa = builder.finish();
    let anchors = Anchors::new(environment.filesystems, &nfa, &mut alphabet);
    let globs = lexer::build(alphabet.globs())?;
    let literals = alphabet.literals();
    let files = policy.files.default.into();
    let default_file = [files, files, policy.exec.default.into(), policy.unix.default.into()];
    let built = automaton::build(&nfa, &literals, &globs, &anchors, hash_key, default_file);
    let Automaton { starts, edges, states } = built.map_err(|failure| match failure {
        Failure::Collision => CompileError::HashCollision,
        Failure::TooMany(what, limit) => {
            CompileError::Paths { what, limit, patterns: multiplying(&forms, &rules) }
        }
    })?;

    let audit = match policy.mode {
        Mode::Enforce => 0,
        Mode::Audit => AgentFlag::AUDIT,
    };
    let inner_globs = if nfa.inner_globs { AgentFlag::INNER_GLOBS } else { 0 };
    Ok(Compiled {
        hash_key,
        self_symbol: name_symbol(hash_key, SELF),
        flags: audit | inner_globs,
        default_file,
        default_egress: policy.egress.default.into(),
        default_listen: policy.listen.default.into(),
        operations: system::verdicts(policy),
        starts,
        edges,
        states,
        aliases: Vec::new(),
        pins: Vec::new(),
        lexer: globs.lexer,
        prefixes,
        intervals,
        names: NameRules::new(policy),
        rules,
        notes,
    })
}

/// Denied names that other rules let be reached by address.
fn names_only(policy: &Policy, rules: &[RuleInfo], notes: &mut Vec<Note>) {
    if policy.egress.default == policy::Effect::Deny {
        return;
    }
    for (index, rule) in policy.egress.rules.iter().enumerate() {
        let named = rule.matcher.iter().find(|target| !matches!(target.host, Host::Net(_)));
        if let (policy::Effect::Deny, Some(target)) = (rule.effect, named) {
            let rule = rule_ref(rules, egress_id(index));
            notes.push(Note::NameOnly { rule, target: target.text.clone() });
        }
    }
}

/// The patterns that most likely made the automaton grow: those with most after a `**`.
fn multiplying(forms: &[Form<'_>], rules: &[RuleInfo]) -> Vec<String> {
    let weight = |form: &&Form<'_>| {
        let deep = form.segments.iter().position(|segment| *segment == Segment::AnyDepth);
        deep.map_or(0, |at| form.segments.len() - at - 1)
    };
    let mut worst: Vec<_> = forms.iter().filter(|form| weight(form) > 0).collect();
    worst.sort_by_key(|form| std::cmp::Reverse(weight(form)));
    worst.dedup_by_key(|form| &form.pattern.text);
    let describe = |form: &Form<'_>| {
        format!("`{}` in {}", form.pattern.text, rule_ref(rules, form.accept.rule))
    };
    worst.into_iter().map(describe).take(3).collect()
}

#[cfg(test)]
pub(crate) mod tests;
