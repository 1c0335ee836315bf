//! Taking over what another daemon has left: its workloads stay under guard meanwhile.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context as _;
use aya::maps::{MapData, RingBuf};

use super::{Guarded, Host, reconcile::Due};
use crate::{
    cgroup,
    daemon::{
        alive, kept,
        policies::{Loaded, Policies},
    },
    event::Rule,
    handover::{self, Handover, Held, Keeper, RuleName},
    policy::Policy,
    workload::Workload,
};

/// The rules of handovers, by name and revision of the policy: each once, for all who were under it.
#[derive(Default)]
struct Rules(HashMap<(String, String), Same>);

struct Same {
    names: Arc<[RuleName]>,
    rules: Arc<[Arc<Rule>]>,
}

impl Rules {
    /// Lets `handover` share the names of its rules, and returns them as events call them.
    fn share(&mut self, handover: &mut Handover) -> Arc<[Arc<Rule>]> {
        let policy = (handover.policy.name().to_owned(), handover.policy.revision().to_owned());
        let same = self.0.entry(policy).or_insert_with(|| Same {
            names: Arc::clone(&handover.rules),
            rules: handover.rules(),
        });
        handover.rules = Arc::clone(&same.names);
        Arc::clone(&same.rules)
    }
}

impl Host {
    /// Takes over what another daemon has left, and returns the ring buffer that all events go to.
    ///
    /// # Errors
    /// The kernel refused. Of one agent that could not be taken over it is told, and it stays confined.
    pub async fn adopt(&mut self, policies: &Policies) -> anyhow::Result<RingBuf<MapData>> {
        let (mut due, mut rules) = (Vec::new(), Rules::default());
        for held in handover::abandoned(Keeper::Daemon).context("looking for abandoned agents")? {
            alive();
            let path = held.read().ok().flatten().map(|handover| handover.cgroup);
            let id = held.id.clone();
            match self.take_over(held, policies, &mut rules) {
                Ok(taken) => due.extend(taken),
                Err(error) => self.leave_alone(&id, path, &error),
            }
        }
        let ring = self.guarded.values().next().map(|guarded| guarded.workload.row.ring);
        self.ring = self.guard.hold_ring(ring)?;
        for (path, swapped) in self.swap(due).await {
            if let Err(error) = swapped
                && let Some(guarded) = self.guarded.remove(&path)
            {
                self.by_agent.remove(&guarded.workload.handover.agent_id);
                self.leave_alone(&guarded.held.id, Some(path), &error);
            }
        }
        Ok(self.guard.tables.ring(self.ring)?)
    }

    fn leave_alone(&mut self, id: &str, path: Option<PathBuf>, error: &anyhow::Error) {
        let problem = format!(
            "it stays confined as a daemon left it, and nobody reads its events: {error:#}; end it, and start it again"
        );
        tracing::error!("{id}: {problem}");
        if let Some(path) = path {
            self.left_alone.insert(path, problem);
        }
    }

    /// Takes one over as it is. What comes back is what it is to be put under; nothing, where it has ended.
    fn take_over(
        &mut self,
        held: Held,
        policies: &Policies,
        rules: &mut Rules,
    ) -> anyhow::Result<Option<Due>> {
        let finish = |held: Held| held.finish().context("removing the handover").map(|()| None);
        let Some(mut handover) = held.read()? else { return finish(held) };
        let agent = handover.agent_id;
        if cgroup::is_gone(&handover.cgroup, handover.cgroup_id) {
            if handover.programs == self.guard.programs() {
                self.guard.let_go(handover.cgroup_id, agent)?;
            }
            return finish(held);
        }
        anyhow::ensure!(
            handover.programs == self.guard.programs(),
            "it is under the programs {}, and the daemon's are {}",
            handover.programs,
            self.guard.programs()
        );
        let name = handover.policy.name();
        let stands_in = name == Policy::NOTHING;
        let loaded = match policies.get(name) {
            _ if stands_in => Some(Loaded::stand_in()),
            Some(loaded) => Some(loaded.clone()),
            None => kept::get(name),
        };
        let loaded = loaded.context("neither its policy nor the copy of it is there")?;
        let rules = rules.share(&mut handover);
        let container = handover.container.clone();
        let terms = self.terms(&self.name(&handover.cgroup), container.clone(), &loaded);
        let links = self.guard.taken_in(handover.cgroup_id)?;
        let path = handover.cgroup.clone();
        let (mounts, stream) = (Arc::clone(&self.mount_names), self.stream.clone());
        let workload = Workload::adopt(terms, handover, &self.guard, rules, mounts, stream)?;
        let problem = stands_in.then(|| "its policy could not be put in force".to_owned());
        let guarded = Guarded { workload, held, problem, stands_in, links };
        self.keep(&path, guarded);
        Ok(Some((path, container, loaded)))
    }

    /// Keeps a workload that is in the kernel's tables.
    pub(super) fn keep(&mut self, path: &Path, guarded: Guarded) {
        self.by_agent.insert(guarded.workload.handover.agent_id, path.to_owned());
        self.guarded.insert(path.to_owned(), guarded);
    }
}
