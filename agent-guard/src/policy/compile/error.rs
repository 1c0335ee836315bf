//! Why a policy that parses can not be put into tables.

use std::fmt;

use agent_guard_common::limits::{LEXER_CELLS, LEXER_STATES, MAX_INTERVALS, MAX_RULES};
pub use agent_guard_common::limits::{MAX_ALL_INTERVALS, MAX_EDGES, MAX_PREFIXES, MAX_STATES};
use miette::Diagnostic;
use thiserror::Error;

use crate::policy::SectionKind;

/// Pattern places in all states together: bounds the memory and the time of the compiler itself.
pub const MAX_POSITIONS: usize = 1 << 24;

/// A rule as a message names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleRef {
    /// Its name, or its place such as `files[2]`.
    pub label: String,
    /// Section that it stands in.
    pub section: SectionKind,
    /// 1-based line in the policy file.
    pub line: usize,
}

impl fmt::Display for RuleRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rule `{}` (line {})", self.section, self.label, self.line)
    }
}

/// Why a policy was not compiled. Nothing of it is in the kernel then.
#[derive(Debug, Error, Diagnostic)]
pub enum CompileError {
    /// Two names have one symbol under the key that was drawn.
    #[error("two names in the policy share a hash under this key")]
    #[diagnostic(help("draw another key and compile again"))]
    HashCollision,
    /// More rules than ids.
    #[error("{count} rules, where a policy has at most {MAX_RULES}")]
    #[diagnostic(help(
        "a rule takes any number of `paths` or `to` entries: put equal rules together"
    ))]
    Rules {
        /// Rules in all sections.
        count: usize,
    },
    /// The path automaton grew too big.
    #[error("the path patterns need more than {limit} {what}")]
    #[diagnostic(help(
        "patterns with `**` before something else are tried below every other path and multiply: {}",
        advice(.patterns)
    ))]
    Paths {
        /// What there are too many of.
        what: &'static str,
        /// How many there may be.
        limit: usize,
        /// The patterns most likely at fault, with their rules; at most three.
        patterns: Vec<String>,
    },
    /// The name globs need too big a table.
    #[error(
        "the name patterns with `*` need a table of {states} states and {cells} cells, where {LEXER_STATES} and {LEXER_CELLS} fit"
    )]
    #[diagnostic(help(
        "names with several `*`, and different names that both begin and end with `*`, multiply; write fewer, such as {example}"
    ))]
    Globs {
        /// States of the table.
        states: usize,
        /// Cells of the table.
        cells: usize,
        /// The glob with the most `*`.
        example: String,
    },
    /// The name globs need a table so big that it was not finished.
    #[error("the name patterns with `*` multiply beyond any table")]
    #[diagnostic(help(
        "names with several `*`, and different names that both begin and end with `*`, multiply; write fewer, such as {example}"
    ))]
    GlobsUnbounded {
        /// The glob with the most `*`.
        example: String,
    },
    /// Too many port ranges under one prefix.
    #[error("the rules for {prefix} make {count} separate port ranges, where {MAX_INTERVALS} fit")]
    #[diagnostic(help(
        "write port ranges (`8000-8999`) in place of single ports, beginning with {rule}"
    ))]
    Intervals {
        /// The address prefix.
        prefix: String,
        /// Ranges that it would take.
        count: usize,
        /// The rule that speaks of it last.
        rule: RuleRef,
    },
    /// Too many prefixes or port ranges together.
    #[error("the egress rules need more than {limit} {what}")]
    #[diagnostic(help(
        "put neighbouring addresses into one network, and single ports into ranges"
    ))]
    Egress {
        /// What there are too many of.
        what: &'static str,
        /// How many there may be.
        limit: usize,
    },
}

fn advice(patterns: &[String]) -> String {
    match patterns {
        [] => "split the policy, or use fewer patterns".to_owned(),
        some => format!("anchor some of them, beginning with {}", some.join(", ")),
    }
}
