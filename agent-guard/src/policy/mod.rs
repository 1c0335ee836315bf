//! A policy as its author meant it: typed, bounded and free of contradictions in form.
//!
//! `schema` is the YAML as written, `parse` judges every field of it, and what comes out is a
//! [`Policy`]. What a policy *decides* is for the compiler and `decide`; nothing here touches
//! the kernel.

use std::fmt;

use agent_guard_common::event::Operation;

pub mod aliases;
pub mod compile;
pub mod diff;
mod error;
pub mod expect;
pub mod explain;
pub mod generate;
mod image;
mod load;
mod notes;
mod parse;
mod pattern;
pub mod pinned;
pub mod replay;
mod schema;
mod search;
mod selector;
mod shipped;
mod target;

pub use error::{Fault, PolicyError, Problem, Refusal};
pub use image::{ImageError, ImagePattern, full_name};
pub use load::MAX_FILE_BYTES;
pub use parse::{MAX_CLASS, MAX_PATTERNS, MAX_RULE_NAME};
pub use pattern::{ComponentGlob, PathPattern, PatternError, PatternFault, Segment, SocketName};
pub use selector::{Fit, NamePattern, Selector};
pub use shipped::{SHIPPED_WORKSPACE, ShippedError};
pub use target::{Host, HostName, PortRange, Protocols, Target, TargetError, TargetFault};

/// One agent's policy. Rules keep the order of the file, so that an index names a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// `metadata.name`.
    pub name: PolicyName,
    /// SHA-256 of the file, in hexadecimal.
    pub revision: String,
    /// Which workloads the daemon puts under it.
    pub selector: Selector,
    /// Whether denials are carried out or only recorded.
    pub mode: Mode,
    /// Which network destinations the agent reaches.
    pub egress: Section<Vec<Target>>,
    /// Which programs the agent starts.
    pub exec: Section<ExecMatch>,
    /// Which files the agent reads and writes.
    pub files: Section<FileMatch>,
    /// On which addresses of this host the agent takes connections and datagrams.
    pub listen: Section<Vec<Target>>,
    /// Which UNIX-domain sockets of others the agent connects to.
    pub unix: Section<Vec<SocketName>>,
    /// What else it may do to the system and to processes outside.
    pub system: Section<Vec<Operation>>,
    /// The sections that the file has.
    pub written: Vec<SectionKind>,
}

impl Policy {
    /// The name of [`Self::nothing`].
    pub const NOTHING: &'static str = "nothing-is-allowed";

    /// The policy that allows nothing.
    #[must_use]
    pub fn nothing() -> Self {
        Self {
            name: PolicyName(Self::NOTHING.to_owned()),
            revision: String::new(),
            selector: Selector::default(),
            mode: Mode::Enforce,
            egress: Section::default(),
            exec: Section::default(),
            files: Section::default(),
            listen: Section::default(),
            unix: Section::default(),
            system: Section::default(),
            written: Vec::new(),
        }
    }

    /// The pin of the rule with this id, as the compiler numbers them.
    #[must_use]
    pub fn pin(&self, rule: u16) -> Option<Pin> {
        let index = usize::from(rule).checked_sub(self.egress.rules.len())?;
        self.exec.rules.get(index)?.matcher.pin
    }
}

/// A DNS label: 1 to 63 of `a-z`, `0-9` and `-`, neither first nor last a `-`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PolicyName(String);

impl PolicyName {
    /// Longest name, bytes: the length of a DNS label, so that it also names a resource or a cgroup.
    pub const MAX: usize = 63;

    /// The name, or `None` where `text` is not a DNS label.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let label = !text.is_empty()
            && text.len() <= Self::MAX
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !text.starts_with('-')
            && !text.ends_with('-');
        label.then(|| Self(text.to_owned()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::ops::Deref for PolicyName {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What becomes of a denial.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The call fails.
    #[default]
    Enforce,
    /// The call goes through and is recorded as one that would have been denied.
    Audit,
}

impl Mode {
    /// Its name in the policy and in events.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Audit => "audit",
        }
    }
}

/// The rules of one kind. A section the file leaves out denies everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section<M> {
    /// What holds where no rule matches.
    pub default: Effect,
    /// In the order of the file.
    pub rules: Vec<Rule<M>>,
}

impl<M> Default for Section<M> {
    fn default() -> Self {
        Self { default: Effect::Deny, rules: Vec::new() }
    }
}

/// One rule: what it matches and what it then says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule<M> {
    /// At most 64 printable ASCII characters.
    pub name: Option<String>,
    /// Deny beats allow, wherever the two stand.
    pub effect: Effect,
    /// A label for events: 1 to 32 of `a-z`, `0-9` and `-`.
    pub class: Option<String>,
    /// What the rule is about; never empty.
    pub matcher: M,
    /// 1-based line of the rule in its file.
    pub line: usize,
}

impl<M> Rule<M> {
    /// How messages and events call the rule: its name, or its place such as `files[2]`.
    #[must_use]
    pub fn label(&self, section: SectionKind, index: usize) -> String {
        self.name.clone().unwrap_or_else(|| format!("{section}[{index}]"))
    }
}

/// The sections this version enforces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SectionKind {
    /// `spec.egress`.
    Egress,
    /// `spec.exec`.
    Exec,
    /// `spec.files`.
    Files,
    /// `spec.listen`.
    Listen,
    /// `spec.unix`.
    Unix,
    /// `spec.system`.
    System,
}

impl fmt::Display for SectionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Egress => "egress",
            Self::Exec => "exec",
            Self::Files => "files",
            Self::Listen => "listen",
            Self::Unix => "unix",
            Self::System => "system",
        })
    }
}

/// What a rule or a default says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The call fails.
    Deny,
    /// The call goes through.
    Allow,
}

/// What an `exec` rule is about: any of the paths, and which files under them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecMatch {
    /// Never empty.
    pub paths: Vec<PathPattern>,
    /// Only in rules that allow.
    pub pin: Option<Pin>,
}

/// Which file a path stands for, rather than any that lies there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pin {
    /// The one that is there when the policy is loaded.
    AsLoaded,
    /// The same, and it has this SHA-256.
    Sha256([u8; 32]),
}

/// What a `files` rule is about: any of the paths, for any of the accesses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileMatch {
    /// The accesses the rule speaks of.
    pub access: AccessSet,
    /// Never empty.
    pub paths: Vec<PathPattern>,
}

/// A set of file accesses that is never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessSet {
    /// Reading only.
    Read,
    /// Writing only: opening for write, creating, truncating; at tier `lsm` also renaming, linking, removing
    /// and changing metadata.
    Write,
    /// Both.
    ReadWrite,
}

impl AccessSet {
    /// Whether reading is in the set.
    #[must_use]
    pub const fn read(self) -> bool {
        matches!(self, Self::Read | Self::ReadWrite)
    }

    /// Whether writing is in the set.
    #[must_use]
    pub const fn write(self) -> bool {
        matches!(self, Self::Write | Self::ReadWrite)
    }
}

#[cfg(test)]
mod tests;
