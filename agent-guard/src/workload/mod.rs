//! A workload under guard: an agent in the kernel's tables, its policy, who resolves names for it, and what is
//! told of it. `run` has one for its command, the daemon one for each cgroup that a policy selects.

pub mod compile;
mod installed;
mod names;
mod proxy;
mod report;

use std::{net::SocketAddr, sync::Arc};

use agent_guard_common::table::{Agent, AgentFlag, NO_RING};
use ipnet::IpNet;
use tokio::sync::mpsc;

use self::proxy::Plan;
pub use self::{
    installed::Installed,
    names::{AgentNames, MountNames},
    report::{Output, Reporter},
};
use crate::{
    cgroup::Cgroup,
    dns::Told,
    event::{Notice, Rule},
    guard::{Guard, TierError},
    handover::{Handover, Keeper, PolicyName},
    identity::Container,
    kernel::{counters::Skips, tables::InstallError},
    lack::Lack,
    mounts::Mount,
    policy::Policy,
    tier::Tier,
};

/// What a workload is to be put under.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Name of the agent.
    pub agent: String,
    /// The container that it is in, where that is known.
    pub container: Option<Container>,
    /// The policy, which all workloads under it share.
    pub policy: Arc<Policy>,
    /// How the policy is called in messages and events: its file.
    pub policy_file: String,
    /// What the tier may lack although the policy asks for it.
    pub allow_degraded: Vec<Lack>,
    /// Whether what is allowed is told too.
    pub tell_allowed: bool,
    /// The name servers that the DNS proxy asks; none: those of this host.
    pub dns_upstreams: Vec<SocketAddr>,
    /// Internal networks that host names may lead to.
    pub dns_internal: Vec<IpNet>,
}

impl Terms {
    /// What `tier` lacks of what the policy asks for.
    ///
    /// # Errors
    /// Something that may not be lacking; what, and how to run all the same.
    pub fn lacks(&self, tier: Tier) -> Result<Vec<Lack>, String> {
        let lacks = Lack::of(tier, &self.policy);
        if lacks.iter().all(|lack| self.allow_degraded.contains(lack)) {
            return Ok(lacks);
        }
        let problems: Vec<String> = lacks.iter().map(|lack| lack.problem(tier)).collect();
        let names: Vec<&str> = lacks.iter().map(|lack| lack.name()).collect();
        let (problems, names) = (problems.join("\n"), names.join(","));
        Err(format!(
            "{problems}\n`--allow-degraded {names}`, or `allow_degraded` in the daemon's configuration, goes without it all the same"
        ))
    }

    fn policy_name(&self) -> PolicyName {
        let Policy { name, revision, .. } = &*self.policy;
        PolicyName::new(name.to_string(), revision.clone(), self.policy_file.clone())
    }

    /// The row of the agent with this cgroup under `installed`, with what is the agent's own.
    fn row(&self, installed: &Installed, cgroup: u64, ring: u32, dns_ports: [u16; 2]) -> Agent {
        let mut agent = Agent { cgroup, ring, dns_ports, ..installed.row };
        if self.tell_allowed {
            agent.flags |= AgentFlag::LOG_ALLOWED;
        }
        agent
    }

    /// Who resolves names for the agent, where the policy has it need somebody.
    async fn plan(&self, guard: &Guard, installed: &Installed) -> anyhow::Result<Option<Plan>> {
        match guard.tier {
            Tier::Lsm | Tier::Trace => Plan::new(self, installed).await,
            Tier::Observe => Ok(None),
        }
    }
}

/// A workload that is in the kernel's tables.
pub struct Workload<O> {
    /// What it is under.
    pub terms: Terms,
    /// Who it is, and what the numbers in its events mean, as a successor has to know it.
    pub handover: Handover,
    /// Its row in the kernel.
    pub row: Agent,
    /// Who tells of it.
    pub reporter: Reporter<O>,
    proxy: Option<proxy::Running>,
    /// `None` where another guard has written it.
    installed: Option<Arc<Installed>>,
}

/// A policy that a workload is about to be under.
pub struct Swap {
    /// Which agent it is for.
    pub agent: u32,
    /// The agent's row, to be made current.
    pub row: Agent,
    terms: Terms,
    proxy: Option<proxy::Running>,
    installed: Arc<Installed>,
    degraded: Vec<String>,
}

fn named(lacks: &[Lack]) -> Vec<String> {
    lacks.iter().map(|lack| lack.name().to_owned()).collect()
}

impl<O: Output> Workload<O> {
    /// Puts an agent under `installed`, which is made of the terms' policy, into the kernel's tables. Its events go
    /// to the ring buffer with the key `ring`, or to one of its own. Nobody is under it before
    /// [`Self::put_in_force`].
    ///
    /// # Errors
    /// The tier lacks what the policy asks for, there is no room, or no name server. Nothing of the agent stays.
    pub async fn prepare(
        terms: Terms,
        guard: &mut Guard,
        cgroup: &Cgroup,
        installed: Arc<Installed>,
        mounts: Arc<MountNames>,
        ring: Option<u32>,
        output: O,
    ) -> anyhow::Result<Self> {
        let lacks = terms.lacks(guard.tier).map_err(anyhow::Error::msg)?;
        let plan = terms.plan(guard, &installed).await?;
        let dns_ports = plan.as_ref().map_or([0; 2], Plan::ports);
        let row = terms.row(&installed, cgroup.id(), ring.unwrap_or(NO_RING), dns_ports);
        let (id, ring) = match ring {
            Some(ring) => (guard.tables.add_agent(row)?, ring),
            None => guard.tables.add_agent_with_ring(row)?,
        };
        let start = || {
            let proxy = plan.map(|plan| plan.start(guard.pins(), cgroup.id())).transpose()?;
            anyhow::Ok((guard.skips()?, proxy))
        };
        let (skips, proxy) = match start() {
            Ok(started) => started,
            Err(error) => {
                guard.tables.remove_agent(cgroup.id(), id)?;
                return Err(error);
            }
        };
        let handover = Handover {
            agent: terms.agent.clone(),
            container: terms.container.clone(),
            programs: guard.programs().to_owned(),
            agent_id: id,
            cgroup_id: cgroup.id(),
            cgroup: cgroup.path().to_owned(),
            tier: guard.tier,
            mode: terms.policy.mode,
            degraded: named(&lacks),
            policy: terms.policy_name(),
            rules: Arc::clone(&installed.rule_names),
            skipped: skips,
            log: None,
            keeper: Keeper::Run,
        };
        let mut names = AgentNames::new(handover.context(), Arc::clone(&installed.rules), mounts);
        if let Some(proxy) = &proxy {
            names.set_leases(Arc::clone(&proxy.book));
        }
        let (row, reporter) = (Agent { ring, ..row }, Reporter::new(names, output));
        Ok(Self { terms, handover, row, reporter, proxy, installed: Some(installed) })
    }

    /// Takes an agent over that another guard has left, as it is; its `rules` are those of the handover. It is to
    /// be put under the policy of `terms` next.
    ///
    /// # Errors
    /// The agent is not there.
    pub fn adopt(
        terms: Terms,
        handover: Handover,
        guard: &Guard,
        rules: Arc<[Arc<Rule>]>,
        mounts: Arc<MountNames>,
        output: O,
    ) -> anyhow::Result<Self> {
        let row = guard.tables.agent(handover.agent_id)?;
        let names = AgentNames::new(handover.context(), rules, mounts);
        let mut reporter = Reporter::new(names, output);
        reporter.notice(Notice::Adopted);
        Ok(Self { terms, handover, row, reporter, proxy: None, installed: None })
    }

    /// What it takes to put the workload under `installed`, which is made of the policy of `terms`, with its events
    /// going to `ring`. The policy in force stays until the swap's row is current, of which [`Self::swapped`] is to
    /// be told.
    ///
    /// # Errors
    /// As for [`Self::prepare`].
    pub async fn swap(
        &self,
        terms: Terms,
        guard: &Guard,
        installed: Arc<Installed>,
        ring: u32,
    ) -> anyhow::Result<Swap> {
        let Handover { agent_id, cgroup_id, .. } = self.handover;
        let lacks = terms.lacks(guard.tier).map_err(anyhow::Error::msg)?;
        let plan = terms.plan(guard, &installed).await?;
        let dns_ports = plan.as_ref().map_or([0; 2], Plan::ports);
        let row = terms.row(&installed, cgroup_id, ring, dns_ports);
        // Nobody is sent to it before the agent's row says so.
        let proxy = plan.map(|plan| plan.start(guard.pins(), cgroup_id)).transpose()?;
        Ok(Swap { agent: agent_id, row, terms, proxy, installed, degraded: named(&lacks) })
    }

    /// Takes note of a swap that has come into force. What host names have opened under the policy before it is
    /// still to be taken away.
    pub fn swapped(&mut self, swap: Swap) {
        let Swap { row, terms, proxy, installed, degraded, .. } = swap;
        self.end_lookups();
        let before = std::mem::replace(&mut self.row, row).policy;
        let replaces = self.handover.policy.revision().to_owned();
        self.handover.agent.clone_from(&terms.agent);
        self.handover.container.clone_from(&terms.container);
        self.handover.mode = terms.policy.mode;
        self.handover.degraded = degraded;
        self.handover.policy = terms.policy_name();
        self.handover.rules = Arc::clone(&installed.rule_names);
        let names = self.reporter.names();
        names.set_policy(self.handover.context(), Arc::clone(&installed.rules), before);
        if let Some(proxy) = &proxy {
            names.set_leases(Arc::clone(&proxy.book));
        }
        (self.terms, self.proxy, self.installed) = (terms, proxy, Some(installed));
        self.reporter.notice(Notice::PolicyLoaded { replaces: Some(replaces) });
        if !self.handover.degraded.is_empty() {
            self.reporter.notice(Notice::Degraded);
        }
    }

    /// Puts whoever is in the cgroup, and comes to be, under the agent, and tells of it.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn put_in_force(&mut self, guard: &mut Guard) -> Result<(), InstallError> {
        guard.tables.bind_cgroup(self.handover.cgroup_id, self.handover.agent_id)?;
        self.reporter.notice(Notice::Started);
        self.reporter.notice(Notice::PolicyLoaded { replaces: None });
        if !self.handover.degraded.is_empty() {
            self.reporter.notice(Notice::Degraded);
        }
        Ok(())
    }

    /// The policy that it is under, where this guard has written it.
    pub fn installed(&self) -> Option<&Arc<Installed>> {
        self.installed.as_ref()
    }

    /// Its row under `installed`, which is its own policy for other mounts.
    pub fn row_under(&self, installed: &Installed) -> Agent {
        let Agent { cgroup, ring, dns_ports, .. } = self.row;
        self.terms.row(installed, cgroup, ring, dns_ports)
    }

    /// Takes note of other mounts, and of its policy for them, which has come into force.
    pub fn remounted(&mut self, installed: Arc<Installed>, mounts: Arc<MountNames>) {
        self.row = self.row_under(&installed);
        self.installed = Some(installed);
        self.reporter.names().set_mounts(mounts);
    }

    /// Compiles the policy for other mounts, and swaps it in whole.
    ///
    /// # Errors
    /// There is no room. The policy in force stays: it denies what lies on mounts that it does not know.
    pub fn follow_mounts(&mut self, guard: &mut Guard, mounts: &[Mount]) -> anyhow::Result<()> {
        let mut compiled = compile::for_mounts(&self.terms.policy, mounts)?;
        if let Some(installed) = &self.installed {
            installed.pin_in(&mut compiled);
        }
        let installed = Installed::write(guard, compiled, self.handover.cgroup_id)?;
        if let Err(error) =
            guard.tables.set_agent(self.handover.agent_id, self.row_under(&installed))
        {
            installed.discard(guard);
            return Err(error.into());
        }
        self.remounted(installed, MountNames::new(mounts));
        Ok(())
    }

    /// What is looked for from time to time: expired leases, losses, decisions that the kernel has skipped by now.
    pub fn tick(&mut self, guard: &Guard, skips: &Skips) {
        if let Some(proxy) = &self.proxy {
            proxy.sweep();
        }
        match guard.counts(self.handover.agent_id, &self.handover.skipped, skips) {
            Ok(counts) => self.reporter.account(&counts),
            Err(error) => {
                self.reporter.warn(format_args!("the counters can not be read: {error}"));
            }
        }
    }

    /// The next name query that was answered; never, where there is no proxy.
    pub async fn next_lookup(&mut self) -> Told {
        if let Some(proxy) = &mut self.proxy
            && let Some(told) = proxy.next().await
        {
            return told;
        }
        std::future::pending().await
    }

    /// Where the queries come that were answered, in place of [`Self::next_lookup`].
    pub fn take_lookups(&mut self) -> Option<mpsc::Receiver<Told>> {
        self.proxy.as_mut()?.take_told()
    }

    /// Ends what answers name queries, and tells of those that are left.
    pub fn end_lookups(&mut self) {
        for told in self.proxy.take().map(proxy::Running::end).unwrap_or_default() {
            self.reporter.lookup(told);
        }
    }

    /// Ends the report with what each hook has counted. All events were taken by now.
    ///
    /// # Errors
    /// The counters can not be read.
    pub fn finish(self, guard: &Guard) -> Result<O, TierError> {
        let skips = guard.skips()?;
        let counts = guard.counts(self.handover.agent_id, &self.handover.skipped, &skips)?;
        Ok(self.reporter.finish(&counts))
    }
}
