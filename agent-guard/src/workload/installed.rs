//! A policy in the kernel's tables, for all agents that are put under it.

use std::sync::Arc;

use agent_guard_common::table::{Agent, Alias, ChangeTime};

use super::names;
use crate::{
    event::Rule,
    guard::Guard,
    handover::RuleName,
    kernel::tables::InstallError,
    policy::compile::{Compiled, NameRules},
};

/// A policy in the kernel's tables, and what is to be known of it to put agents under it and to tell of them.
pub struct Installed {
    /// A row of an agent under it, of no cgroup and with nothing of its own.
    pub(super) row: Agent,
    /// What it says of host names.
    pub(super) names: NameRules,
    /// Its rules, by id, as events call them.
    pub(super) rules: Arc<[Arc<Rule>]>,
    /// The same as a successor reads them.
    pub(super) rule_names: Arc<[RuleName]>,
    found: Found,
}

/// What was found on disk when the policy was compiled, by file system and inode number.
#[derive(Clone, PartialEq)]
pub(super) struct Found {
    aliases: Vec<((u32, u64), Alias)>,
    pins: Vec<((u32, u64), ChangeTime)>,
}

impl Found {
    fn of(compiled: &Compiled) -> Self {
        Self { aliases: compiled.aliases.clone(), pins: compiled.pins.clone() }
    }
}

impl Installed {
    /// Writes `compiled`, for the guard that the cgroup `writer` is of. It stays for as long as an agent is under
    /// it, and until [`Self::discard`] where none came to be.
    ///
    /// # Errors
    /// There is no room. Nothing of it stays.
    pub fn write(
        guard: &mut Guard,
        compiled: Compiled,
        writer: u64,
    ) -> Result<Arc<Self>, InstallError> {
        let policy = guard.tables.write_policy(&compiled, writer)?;
        let rules = names::rules(&compiled.rules);
        Ok(Arc::new(Self {
            row: compiled.agent(0, policy),
            found: Found::of(&compiled),
            names: compiled.names,
            rule_names: rules.iter().map(|rule| RuleName::from(&**rule)).collect(),
            rules,
        }))
    }

    /// Its id in the kernel's tables.
    pub fn id(&self) -> u32 {
        self.row.policy
    }

    /// Whether `compiled`, of the same policy for the same mounts, found the same on disk.
    pub fn is_current(&self, compiled: &Compiled) -> bool {
        self.found == Found::of(compiled)
    }

    /// Hands the files that were pinned on. They are pinned once: what changes afterwards is not pinned anew.
    pub fn pin_in(&self, compiled: &mut Compiled) {
        compiled.pins.clone_from(&self.found.pins);
    }

    /// Takes it out of the kernel again where no agent came to be under it. Where that fails the next guard does.
    pub fn discard(&self, guard: &mut Guard) {
        if let Err(error) = guard.tables.discard_policy(self.id()) {
            tracing::warn!("a policy that nobody is under stays until a guard starts: {error}");
        }
    }
}
