//! Policies in the kernel's tables, each for all workloads that come under it.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use super::Host;
use crate::{
    daemon::policies::Loaded,
    policy::Policy,
    workload::{Installed, compile},
};

/// For how long what was found on disk, and what was wrong, is taken to be so still: who comes together shares one
/// search, and what was mended is seen as soon as somebody comes.
const FRESH: Duration = Duration::from_secs(4);

/// What became of each policy, by name.
#[derive(Default)]
pub(super) struct Shared(HashMap<String, Outcome>);

struct Outcome {
    revision: String,
    /// When the disk was last searched for what the policy names.
    searched: Option<Instant>,
    installed: Result<Weak<Installed>, String>,
}

impl Outcome {
    fn is_fresh(&self) -> bool {
        self.searched.is_some_and(|searched| searched.elapsed() < FRESH)
    }
}

impl Shared {
    fn of(&self, policy: &Policy) -> Option<&Outcome> {
        self.0.get(&*policy.name).filter(|outcome| outcome.revision == policy.revision)
    }

    fn note(
        &mut self,
        policy: &Policy,
        searched: Option<Instant>,
        installed: Result<&Arc<Installed>, String>,
    ) {
        let installed = installed.map(Arc::downgrade);
        let outcome = Outcome { revision: policy.revision.clone(), searched, installed };
        self.0.insert(policy.name.to_string(), outcome);
    }

    /// Takes note that `policy` was installed for other mounts. The disk was not searched for it.
    pub(super) fn remounted(&mut self, policy: &Policy, installed: &Arc<Installed>) {
        if self.of(policy).is_some() {
            self.note(policy, None, Ok(installed));
        }
    }

    /// Has everything looked at anew.
    pub(super) fn doubt(&mut self) {
        self.0.retain(|_, outcome| outcome.installed.is_ok());
        self.0.values_mut().for_each(|outcome| outcome.searched = None);
    }
}

impl Host {
    /// The policy in the kernel's tables: the one that others are under, if all that it was made of is as it was.
    ///
    /// # Errors
    /// It could not be compiled, or there is no room.
    pub(super) fn install(&mut self, loaded: &Loaded) -> anyhow::Result<Arc<Installed>> {
        let policy = &*loaded.policy;
        let known = self.shared.of(policy);
        let before = match known.map(|outcome| (outcome.is_fresh(), &outcome.installed)) {
            Some((true, Err(problem))) => anyhow::bail!("{problem}"),
            Some((is_fresh, Ok(installed))) => match installed.upgrade() {
                Some(installed) if is_fresh => return Ok(installed),
                before => before,
            },
            Some((false, Err(_))) | None => None,
        };
        let made = self.make(loaded, before);
        let outcome = made.as_ref().map_err(|error| format!("{error:#}"));
        self.shared.note(policy, Some(Instant::now()), outcome);
        made
    }

    fn make(
        &mut self,
        loaded: &Loaded,
        before: Option<Arc<Installed>>,
    ) -> anyhow::Result<Arc<Installed>> {
        let compiled = compile::as_loaded(&loaded.policy, &self.mounts)?;
        match before.filter(|before| before.is_current(&compiled)) {
            Some(before) => Ok(before),
            None => Ok(Installed::write(&mut self.guard, compiled, self.home.id())?),
        }
    }

    /// Gives a policy back that was asked for, and takes it out where nobody came to be under it.
    pub(super) fn give_back(&mut self, installed: Arc<Installed>) {
        if Arc::strong_count(&installed) == 1 {
            installed.discard(&mut self.guard);
        }
    }
}
