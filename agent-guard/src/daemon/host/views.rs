//! What is shown of the workloads and policies.

use std::path::{Path, PathBuf};

use super::{Guarded, Host, agent_name, shown};
use crate::{
    daemon::{metrics, policies::Policies, view},
    identity::{Container, Pod},
    kernel::{
        counters::{HookCounts, Skips},
        pins::Pins,
    },
};

impl Host {
    /// How many workloads are under the policy of this name, and how many of these under it as it is now.
    pub fn count_under(&self, name: &str) -> (usize, usize) {
        let current = |(_, guarded): &(&PathBuf, &Guarded)| guarded.problem.is_none();
        (self.under(name).count(), self.under(name).filter(current).count())
    }

    /// Where the maps are.
    pub fn pins(&self) -> Pins {
        self.guard.pins().clone()
    }

    /// Fails where the programs are not attached as they were.
    ///
    /// # Errors
    /// What is wrong.
    pub fn read_back(&self) -> anyhow::Result<()> {
        Ok(self.guard.read_back().map(drop)?)
    }

    /// Counts what the workload at `path` has done by now.
    pub(super) fn count(&mut self, path: &Path) {
        let Some(guarded) = self.guarded.get(path) else { return };
        let agent = guarded.workload.handover.agent_id;
        match self.guard.counts(agent, &Skips::default(), &Skips::default()) {
            Ok(counts) => self.totals.take(agent, &counts),
            Err(error) => tracing::error!("what {} did is not counted: {error}", path.display()),
        }
    }

    /// What metrics show of the workloads one by one, and what the others among them come to.
    pub fn series(&self) -> (Vec<metrics::Series>, view::Counts) {
        let own = self
            .guarded
            .iter()
            .filter(|(_, guarded)| self.totals.has_series(guarded.workload.handover.agent_id));
        let skips = Skips::default();
        let series = |(path, guarded): (&PathBuf, &Guarded)| {
            let agent = self.agent(path, guarded, &skips);
            let view::Agent { decided, denied, lost, failed, .. } = agent;
            metrics::Series {
                agent: agent.name,
                cgroup: agent.cgroup,
                policy: agent.policy.unwrap_or_default(),
                counts: view::Counts { decided, denied, lost, failed },
            }
        };
        (own.map(series).collect(), self.totals.others())
    }

    /// What is in force, read back from the kernel. `canary_stopped`, `buffer` and `maps` are others' to say.
    pub fn status(&mut self, policies: &Policies) -> view::Status {
        for path in self.guarded.keys().cloned().collect::<Vec<_>>() {
            self.count(&path);
        }
        let skips = self.guard.skips().unwrap_or_default();
        let (hooks, broken) = match self.guard.read_back() {
            Ok(hooks) => (hooks.into_iter().map(str::to_owned).collect(), None),
            Err(error) => (Vec::new(), Some(error.to_string())),
        };
        let weaker = self.guard.weaker_because.iter();
        view::Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            tier: self.guard.tier.to_string(),
            weaker_because: weaker.map(|(tier, error)| format!("{tier}: {error}")).collect(),
            hooks,
            broken,
            agents: self.guarded.len(),
            refused: self.refused.len(),
            policies: policies.all().count(),
            problems: policies.problems().len(),
            events: self.stream.records(),
            strays: self.strays,
            sinks: self.stream.sinks(),
            uptime_s: self.started.elapsed().as_secs(),
            canary_stopped: false,
            counts: self.totals.hooks(&skips.0),
            buffer: view::Fill::default(),
            maps: Vec::new(),
        }
    }

    /// Every workload that a policy is for.
    pub fn agents(&self) -> Vec<view::Agent> {
        let skips = self.guard.skips().unwrap_or_default();
        let guarded = self.guarded.iter().map(|(path, guarded)| self.agent(path, guarded, &skips));
        let refused = self.refused.iter().map(|(path, problem)| view::Agent {
            name: agent_name(&self.name(path), None),
            cgroup: shown(&self.name(path)),
            problem: Some(shown(problem)),
            ..view::Agent::default()
        });
        guarded.chain(refused).collect()
    }

    /// The workload that the cgroup at this path of the tree lies in.
    pub fn agent_of(&self, cgroup: &str) -> Option<view::Agent> {
        let path = self.tree.join(cgroup.trim_start_matches('/'));
        let skips = self.guard.skips().unwrap_or_default();
        let (path, guarded) =
            path.ancestors().find_map(|above| self.guarded.get_key_value(above))?;
        Some(self.agent(path, guarded, &skips))
    }

    fn agent(&self, path: &Path, guarded: &Guarded, skips: &Skips) -> view::Agent {
        let Guarded { workload, problem, .. } = guarded;
        let handover = &workload.handover;
        let counts = self.guard.counts(handover.agent_id, &handover.skipped, skips);
        let counts = counts.unwrap_or_default();
        let sum = |of: fn(&HookCounts) -> u64| counts.iter().map(|(_, counts)| of(counts)).sum();
        view::Agent {
            name: handover.agent.clone(),
            cgroup: shown(&self.name(path)),
            container: handover.container.as_ref().map(shown_container),
            id: Some(handover.agent_id),
            policy: Some(handover.policy.name().to_owned()),
            revision: Some(handover.policy.revision().to_owned()),
            mode: Some(handover.mode.name().to_owned()),
            degraded: handover.degraded.clone(),
            problem: problem.as_deref().map(shown),
            decided: sum(|counts| counts.decided),
            denied: sum(|counts| counts.denied),
            lost: sum(|counts| counts.lost),
            failed: sum(|counts| counts.failed),
        }
    }

    /// Every policy, and every file that is none.
    pub fn policies(&self, policies: &Policies) -> Vec<view::Policy> {
        let good = policies.all().map(|(name, loaded)| view::Policy {
            name: name.to_owned(),
            file: loaded.file.display().to_string(),
            revision: Some(loaded.policy.revision.clone()),
            mode: Some(loaded.policy.mode.name().to_owned()),
            agents: self.count_under(name).0,
            problem: policies.problems().get(&loaded.file).cloned(),
        });
        let is_known = |file: &Path| policies.all().any(|(_, loaded)| loaded.file == file);
        let bad = policies.problems().iter().filter(|(file, _)| !is_known(file));
        let bad = bad.map(|(file, problem)| view::Policy {
            file: file.display().to_string(),
            problem: Some(problem.clone()),
            ..view::Policy::default()
        });
        good.chain(bad).collect()
    }
}

/// Whoever starts a container chose what it is called.
fn shown_container(container: &Container) -> Container {
    let Container { runtime, id, name, image, pod, is_sandbox } = container.clone();
    let each = |text: Option<String>| text.as_deref().map(shown);
    let pod = pod.map(|Pod { uid, namespace, name, labels, service_account }| Pod {
        uid: each(uid),
        namespace: shown(&namespace),
        name: shown(&name),
        labels: labels
            .map(|labels| labels.iter().map(|(key, value)| (shown(key), shown(value))).collect()),
        service_account: each(service_account),
    });
    Container { runtime, id, name: each(name), image: each(image), pod, is_sandbox }
}
