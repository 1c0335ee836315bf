//! Keeping the workloads that are there under the policies as they are now.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context as _;

use super::{Guarded, Host, Known, forward, shown};
use crate::{
    daemon::{
        alive, kept,
        policies::{Choice, Loaded, Policies},
    },
    identity::{Container, Identity},
    kernel::tables::InstallError,
    workload::{Installed, Swap},
};

impl Guarded {
    /// Whether it is under this policy, as it is.
    fn is_under(&self, loaded: &Loaded) -> bool {
        let in_force = &self.workload.handover.policy;
        *loaded.policy.name == *in_force.name() && loaded.policy.revision == in_force.revision()
    }
}

/// What the policies as they are now have in store for a workload.
enum Review {
    /// It stays as it is; with why that is not as it should be.
    Stays(Option<String>),
    /// It is to be put under this one.
    Due(Loaded),
}

/// A workload by the directory of its cgroup, what is known of its container, and the policy that it is to be put
/// under.
pub(super) type Due = (PathBuf, Option<Container>, Loaded);

impl Guarded {
    fn look_at(&self, identity: &Identity<'_>, known: &Known, policies: &Policies) -> Review {
        let holds = self.holds();
        match policies.choose(&identity.with(known.container.as_ref())) {
            Choice::Unknown(names) => Review::Stays(Some(format!(
                "{holds}, for it can not be told whether it is what the selector of {} asks for: {}",
                names.join(", "),
                known.why_not
            ))),
            Choice::None => Review::Stays(Some(format!("no policy is for it any more; {holds}"))),
            Choice::Several(names) => Review::Stays(Some(format!(
                "the policies {} are all for it; {holds}; let one selector cover it",
                names.join(", ")
            ))),
            Choice::One(chosen) => match policies.get(chosen) {
                Some(loaded) if !self.is_under(loaded) => Review::Due(loaded.clone()),
                _ => Review::Stays(None),
            },
        }
    }

    /// What it is under, whatever the policies say.
    fn holds(&self) -> String {
        match self.stands_in {
            true => "nothing is allowed".to_owned(),
            false => {
                let holding = self.workload.handover.policy.name();
                format!("policy {holding} stays in force as it was")
            }
        }
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
        self.shared.doubt();
        self.review(self.guarded.keys().cloned().collect(), policies).await
    }

    /// Puts workloads under the policies that are for them now, and says for how many that failed.
    async fn review(&mut self, paths: Vec<PathBuf>, policies: &Policies) -> usize {
        let mut due = Vec::new();
        for path in paths {
            let Some(guarded) = self.guarded.get(&path) else { continue };
            let name = self.name(&path);
            let identity = Identity::of(&name);
            let known = match &guarded.workload.handover.container {
                Some(container) if !guarded.stands_in => Known::of(container.clone()),
                _ => self.find_out(&identity).await,
            };
            match guarded.look_at(&identity, &known, policies) {
                Review::Stays(problem) => self.set_problem(&path, problem),
                Review::Due(loaded) => due.push((path, known.container, loaded)),
            }
        }
        let mut failed = 0;
        let names: Vec<String> =
            due.iter().map(|(.., loaded)| loaded.policy.name.to_string()).collect();
        for ((path, swapped), name) in self.swap(due).await.into_iter().zip(names) {
            failed += usize::from(swapped.is_err());
            let Some(guarded) = self.guarded.get_mut(&path) else { continue };
            let holds = guarded.holds();
            guarded.stands_in &= swapped.is_err();
            let problem = swapped.err().map(|error| {
                format!("policy {name} could not be put in force, and {holds}: {error:#}")
            });
            self.set_problem(&path, problem);
        }
        failed
    }

    fn set_problem(&mut self, path: &Path, problem: Option<String>) {
        let name = shown(&self.name(path));
        let Some(guarded) = self.guarded.get_mut(path) else { return };
        if let Some(problem) = &problem
            && guarded.problem.as_ref() != Some(problem)
        {
            tracing::error!("{name}: {problem}");
        }
        guarded.problem = problem;
    }

    /// Puts workloads under these policies, all at once, and says what came of each, in their order.
    pub(super) async fn swap(&mut self, due: Vec<Due>) -> Vec<(PathBuf, anyhow::Result<()>)> {
        let (mut plans, mut given) = (Vec::new(), Vec::new());
        for (path, container, loaded) in due {
            alive();
            let plan = match self.install(&loaded) {
                Ok(installed) => {
                    given.push(Arc::clone(&installed));
                    self.plan(&path, container, &loaded, installed).await
                }
                Err(error) => Err(error),
            };
            plans.push((path, plan));
        }
        let planned = plans.iter().filter_map(|(_, plan)| plan.as_ref().ok());
        let rows: Vec<_> = planned.map(|swap| (swap.agent, swap.row)).collect();
        let refused = |error: InstallError| {
            let error = error.to_string();
            rows.iter().map(|_| Err(anyhow::Error::msg(error.clone()))).collect()
        };
        let set = self.guard.tables.set_agents(&rows).map_or_else(refused, |set| {
            set.into_iter().map(|set| set.map_err(anyhow::Error::from)).collect::<Vec<_>>()
        });
        let mut set = set.into_iter();
        let mut cgroups = BTreeSet::new();
        let mut outcomes = Vec::new();
        for (path, plan) in plans {
            let swapped = match plan {
                Ok(swap) => match set.next() {
                    Some(Ok(())) => self.swapped(&path, swap, &mut cgroups),
                    Some(Err(error)) => Err(error),
                    None => Err(anyhow::anyhow!("the kernel did not say what became of it")),
                },
                Err(error) => Err(error),
            };
            outcomes.push((path, swapped));
        }
        given.into_iter().for_each(|installed| self.give_back(installed));
        // What the old policies' names have opened.
        if let Err(error) = self.guard.tables.remove_leases(&cgroups) {
            tracing::error!("what host names have opened before stays until it expires: {error}");
        }
        outcomes
    }

    async fn plan(
        &self,
        path: &Path,
        container: Option<Container>,
        loaded: &Loaded,
        installed: Arc<Installed>,
    ) -> anyhow::Result<Swap> {
        let workload = &self.guarded.get(path).context("it has left")?.workload;
        let terms = self.terms(&self.name(path), container, loaded);
        workload.swap(terms, &self.guard, installed, self.ring).await
    }

    fn swapped(
        &mut self,
        path: &Path,
        swap: Swap,
        cgroups: &mut BTreeSet<u64>,
    ) -> anyhow::Result<()> {
        let Guarded { workload, held, .. } = self.guarded.get_mut(path).context("it has left")?;
        workload.swapped(swap);
        forward(&self.lookups, workload);
        cgroups.insert(workload.handover.cgroup_id);
        held.write(&workload.handover).context("writing the handover")
    }

    /// Tries again what could not be put under its policy.
    pub async fn retry(&mut self, policies: &Policies) {
        for path in self.refused.keys().cloned().collect::<Vec<_>>() {
            match path.exists() {
                true => self.arrive(&path, None, policies).await,
                false => self.leave(&path),
            }
        }
        let standing_in = self.guarded.iter().filter(|(_, guarded)| guarded.stands_in);
        let paths = standing_in.map(|(path, _)| path.clone()).collect();
        self.review(paths, policies).await;
    }
}
