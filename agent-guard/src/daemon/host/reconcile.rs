//! Keeping the workloads that are there under the policies as they are now.

use std::path::Path;

use anyhow::Context as _;
use aya::maps::{MapData, RingBuf};

use super::{Guarded, Host, Known, forward, shown};
use crate::{
    daemon::{
        alive, kept,
        policies::{Choice, Loaded, Policies},
    },
    identity::{Container, Identity},
    workload::compile,
};

impl Guarded {
    /// Whether it is under this policy, as it is.
    fn is_under(&self, loaded: &Loaded) -> bool {
        let in_force = &self.workload.handover.policy;
        *loaded.policy.name == *in_force.name() && loaded.policy.revision == in_force.revision()
    }
}

impl Host {
    /// How many workloads are not under their policy.
    pub fn troubled(&self) -> usize {
        self.refused.len() + self.guarded.values().filter(|guarded| guarded.stands_in).count()
    }

    /// Puts every workload under the policy that is for it now, and says for how many that failed.
    pub async fn reconcile(&mut self, policies: &Policies) -> usize {
        for (name, loaded) in policies.all() {
            if let Err(error) = kept::keep(loaded) {
                tracing::error!("no copy of the policy {name} could be kept: {error}");
            }
        }
        let mut failed = 0;
        for path in self.guarded.keys().cloned().collect::<Vec<_>>() {
            alive();
            failed += usize::from(!self.review(&path, policies).await);
        }
        failed
    }

    /// Puts a workload under the policy that is for it now. False where that failed.
    async fn review(&mut self, path: &Path, policies: &Policies) -> bool {
        let Some(mut guarded) = self.guarded.remove(path) else { return true };
        let name = self.name(path);
        let before = guarded.problem.take();
        let holding = guarded.workload.handover.policy.name().to_owned();
        let holds = match guarded.stands_in {
            true => "nothing is allowed".to_owned(),
            false => format!("policy {holding} stays in force as it was"),
        };
        let mut is_done = true;
        let identity = Identity::of(&name);
        let Known { container, why_not } = match &guarded.workload.handover.container {
            Some(container) if !guarded.stands_in => Known::of(container.clone()),
            _ => self.find_out(&identity).await,
        };
        guarded.problem = match policies.choose(&identity.with(container.as_ref())) {
            Choice::Unknown(names) => Some(format!(
                "{holds}, for it can not be told whether it is what the selector of {} asks for: {why_not}",
                names.join(", ")
            )),
            Choice::None => Some(format!("no policy is for it any more; {holds}")),
            Choice::Several(names) => Some(format!(
                "the policies {} are all for it; {holds}; let one selector cover it",
                names.join(", ")
            )),
            Choice::One(chosen) => match policies.get(chosen) {
                Some(loaded) if !guarded.is_under(loaded) => {
                    let renewed = self.renew(&mut guarded, container, loaded).await;
                    is_done = renewed.is_ok();
                    guarded.stands_in &= !is_done;
                    renewed.err().map(|error| {
                        format!("policy {chosen} could not be put in force, and {holds}: {error:#}")
                    })
                }
                _ => None,
            },
        };
        if let Some(problem) = &guarded.problem
            && guarded.problem != before
        {
            tracing::error!("{}: {problem}", shown(&name));
        }
        self.guarded.insert(path.to_owned(), guarded);
        is_done
    }

    async fn renew(
        &mut self,
        guarded: &mut Guarded,
        container: Option<Container>,
        loaded: &Loaded,
    ) -> anyhow::Result<()> {
        let Guarded { workload, held, .. } = guarded;
        let terms = self.terms(&self.name(&workload.handover.cgroup), container, loaded);
        let compiled = compile::as_loaded(&terms.policy, &self.mounts)?;
        let renewed = workload.set_policy(terms, &mut self.guard, compiled).await;
        forward(&self.lookups, workload);
        held.write(&workload.handover).context("writing the handover")?;
        renewed
    }

    /// Tries again what could not be put under its policy.
    pub async fn retry(&mut self, policies: &Policies, ring: &RingBuf<MapData>) {
        for path in self.refused.keys().cloned().collect::<Vec<_>>() {
            match path.exists() {
                true => self.arrive(&path, None, policies, ring).await,
                false => self.leave(&path),
            }
        }
        let standing_in = self.guarded.iter().filter(|(_, guarded)| guarded.stands_in);
        for path in standing_in.map(|(path, _)| path.clone()).collect::<Vec<_>>() {
            self.review(&path, policies).await;
        }
    }
}
