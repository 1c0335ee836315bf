//! Taking over what another daemon has left: its workloads stay under guard meanwhile.

use agent_guard_common::limits::RING_BYTES;
use anyhow::Context as _;
use aya::maps::{MapData, RingBuf};

use super::{Guarded, Host, forward};
use crate::{
    cgroup,
    daemon::{
        alive, kept,
        policies::{Loaded, Policies},
    },
    handover::{self, Held, Keeper},
    kernel::tables,
    policy::Policy,
    workload::{Workload, compile},
};

impl Host {
    /// Takes over what another daemon has left, and returns the ring buffer that all events go to.
    ///
    /// # Errors
    /// The kernel refused. Of one agent that could not be taken over it is told, and it stays confined.
    pub async fn adopt(&mut self, policies: &Policies) -> anyhow::Result<RingBuf<MapData>> {
        let mut ring = None;
        for held in handover::abandoned(Keeper::Daemon).context("looking for abandoned agents")? {
            alive();
            let path = held.read().ok().flatten().map(|handover| handover.cgroup);
            let id = held.id.clone();
            if let Err(error) = self.adopt_one(held, policies, &mut ring).await {
                let problem = format!(
                    "it stays confined as a daemon left it, and nobody reads its events: {error:#}; end it, and start it again"
                );
                tracing::error!("{id}: {problem}");
                if let Some(path) = path {
                    self.left_alone.insert(path, problem);
                }
            }
        }
        match ring {
            Some(ring) => Ok(ring),
            None => Ok(tables::new_ring(RING_BYTES as u32)?),
        }
    }

    async fn adopt_one(
        &mut self,
        held: Held,
        policies: &Policies,
        ring: &mut Option<RingBuf<MapData>>,
    ) -> anyhow::Result<()> {
        let Some(handover) = held.read()? else {
            return held.finish().context("removing the handover");
        };
        let agent = handover.agent_id;
        if cgroup::is_gone(&handover.cgroup, handover.cgroup_id) {
            if handover.programs == self.guard.programs() {
                self.guard.let_go(handover.cgroup_id, agent)?;
            }
            return held.finish().context("removing the handover");
        }
        anyhow::ensure!(
            handover.programs == self.guard.programs(),
            "it is under the programs {}, and the daemon's are {}",
            handover.programs,
            self.guard.programs()
        );
        match ring {
            Some(ring) => self.guard.tables.set_ring(agent, ring)?,
            None => *ring = Some(self.guard.tables.ring(agent)?),
        }
        let path = handover.cgroup.clone();
        let name = handover.policy.name();
        let stands_in = name == Policy::NOTHING;
        let loaded = match policies.get(name) {
            _ if stands_in => Some(Loaded::stand_in()),
            Some(loaded) => Some(loaded.clone()),
            None => kept::get(name),
        };
        let loaded = loaded.context("neither its policy nor the copy of it is there")?;
        let terms = self.terms(&self.name(&path), handover.container.clone(), &loaded);
        let compiled = compile::as_loaded(&terms.policy, &self.mounts)?;
        let (guard, mounts) = (&mut self.guard, &self.mounts);
        let links = guard.taken_in(handover.cgroup_id)?;
        let mut workload =
            Workload::adopt(terms, handover, guard, compiled, mounts, self.stream.clone()).await?;
        forward(&self.lookups, &mut workload);
        let problem = stands_in.then(|| "its policy could not be put in force".to_owned());
        let mut guarded = Guarded { workload, held, problem, stands_in, links };
        guarded.held.write(&guarded.workload.handover).context("writing the handover")?;
        self.by_agent.insert(agent, path.clone());
        self.guarded.insert(path, guarded);
        Ok(())
    }
}
