//! A workload under guard: an agent in the kernel's tables, its policy, who resolves names for it, and what is
//! told of it. `run` has one for its command, the daemon one for each cgroup that a policy selects.

pub mod compile;
mod names;
mod proxy;
mod report;

use std::{net::SocketAddr, sync::Arc};

use agent_guard_common::table::{Agent, AgentFlag, ChangeTime};
use ipnet::IpNet;
use tokio::sync::mpsc;

use self::proxy::Plan;
pub use self::{
    names::AgentNames,
    report::{Output, Reporter},
};
use crate::{
    cgroup::Cgroup,
    dns::Told,
    event::{Notice, Rule},
    guard::{Guard, TierError},
    handover::{Handover, Keeper, PolicyName, RuleName},
    identity::Container,
    kernel::{counters::Skips, tables::InstallError},
    lack::Lack,
    mounts::Mount,
    policy::{Policy, compile::Compiled},
    tier::Tier,
};

/// What a workload is to be put under.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Name of the agent.
    pub agent: String,
    /// The container that it is in, where that is known.
    pub container: Option<Container>,
    /// The policy.
    pub policy: Policy,
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
        let Policy { name, revision, .. } = &self.policy;
        PolicyName::new(name.to_string(), revision.clone(), self.policy_file.clone())
    }

    /// The agent's row under `policy`.
    fn row(&self, compiled: &Compiled, cgroup: u64, policy: u32, dns_ports: [u16; 2]) -> Agent {
        let mut agent = Agent { dns_ports, ..compiled.agent(cgroup, policy) };
        if self.tell_allowed {
            agent.flags |= AgentFlag::LOG_ALLOWED;
        }
        agent
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
    /// Taken once: what changes while the agent runs is not pinned anew.
    pins: Vec<((u32, u64), ChangeTime)>,
}

/// A policy that is written to the tables, and that no agent has yet.
struct Draft {
    row: Agent,
    plan: Option<Plan>,
    rules: Vec<Arc<Rule>>,
    pins: Vec<((u32, u64), ChangeTime)>,
    degraded: Vec<String>,
}

impl Draft {
    async fn write(
        terms: &Terms,
        guard: &mut Guard,
        cgroup: u64,
        compiled: Compiled,
    ) -> anyhow::Result<Self> {
        let lacks = terms.lacks(guard.tier).map_err(anyhow::Error::msg)?;
        let plan = match guard.tier {
            Tier::Lsm | Tier::Trace => Plan::new(terms, &compiled).await?,
            Tier::Observe => None,
        };
        let dns_ports = plan.as_ref().map_or([0; 2], Plan::ports);
        let policy = guard.tables.write_policy(&compiled, cgroup)?;
        Ok(Self {
            row: terms.row(&compiled, cgroup, policy, dns_ports),
            plan,
            rules: names::rules(&compiled.rules),
            pins: compiled.pins,
            degraded: lacks.iter().map(|lack| lack.name().to_owned()).collect(),
        })
    }
}

impl<O: Output> Workload<O> {
    /// Puts the agent and `compiled`, which is made of the terms' policy, into the kernel's tables. Nobody is
    /// under it before [`Self::put_in_force`].
    ///
    /// # Errors
    /// The tier lacks what the policy asks for, there is no room, or no name server. Nothing of it stays.
    pub async fn prepare(
        terms: Terms,
        guard: &mut Guard,
        cgroup: &Cgroup,
        compiled: Compiled,
        mounts: &[Mount],
        output: O,
    ) -> anyhow::Result<Self> {
        let Draft { row, plan, rules, pins, degraded } =
            Draft::write(&terms, guard, cgroup.id(), compiled).await?;
        let id = match guard.tables.add_agent(row) {
            Ok(id) => id,
            Err(error) => {
                guard.tables.remove_policy(row.policy);
                return Err(error.into());
            }
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
            degraded,
            policy: terms.policy_name(),
            rules: rules.iter().map(|rule| RuleName::from(&**rule)).collect(),
            skipped: skips,
            log: None,
            keeper: Keeper::Run,
        };
        let mut names = AgentNames::new(handover.context(), rules, mounts);
        if let Some(proxy) = &proxy {
            names.set_leases(Arc::clone(&proxy.book));
        }
        let reporter = Reporter::new(names, output);
        Ok(Self { terms, handover, row, reporter, proxy, pins })
    }

    /// Takes an agent over that another guard has left, under the policy of `terms`, which `compiled` is made of.
    ///
    /// # Errors
    /// As for [`Self::prepare`]. The policy in force stays.
    pub async fn adopt(
        terms: Terms,
        handover: Handover,
        guard: &mut Guard,
        compiled: Compiled,
        mounts: &[Mount],
        output: O,
    ) -> anyhow::Result<Self> {
        let row = guard.tables.agent(handover.agent_id)?;
        let names = AgentNames::new(handover.context(), handover.rules(), mounts);
        let reporter = Reporter::new(names, output);
        let mut workload = Self { terms, handover, row, reporter, proxy: None, pins: Vec::new() };
        workload.reporter.notice(Notice::Adopted);
        workload.set_policy(workload.terms.clone(), guard, compiled).await?;
        Ok(workload)
    }

    /// Swaps the policy of `terms` in, which `compiled` is made of, whole.
    ///
    /// # Errors
    /// As for [`Self::prepare`], and then the policy in force stays; or what host names have opened under it could
    /// not be taken away.
    pub async fn set_policy(
        &mut self,
        terms: Terms,
        guard: &mut Guard,
        compiled: Compiled,
    ) -> anyhow::Result<()> {
        let Handover { agent_id, cgroup_id, .. } = self.handover;
        let Draft { row, plan, rules, pins, degraded } =
            Draft::write(&terms, guard, cgroup_id, compiled).await?;
        // Nobody is sent to it before the agent's row says so.
        let start = || {
            let proxy = plan.map(|plan| plan.start(guard.pins(), cgroup_id)).transpose()?;
            guard.tables.set_agent(agent_id, row)?;
            anyhow::Ok(proxy)
        };
        let proxy = match start() {
            Ok(proxy) => proxy,
            Err(error) => {
                guard.tables.remove_policy(row.policy);
                return Err(error);
            }
        };
        // What it is under from here on is known to everybody, whatever fails below.
        self.end_lookups();
        let before = std::mem::replace(&mut self.row, row).policy;
        let replaces = self.handover.policy.revision().to_owned();
        self.handover.agent.clone_from(&terms.agent);
        self.handover.container.clone_from(&terms.container);
        self.handover.mode = terms.policy.mode;
        self.handover.degraded = degraded;
        self.handover.policy = terms.policy_name();
        self.handover.rules = rules.iter().map(|rule| RuleName::from(&**rule)).collect();
        let names = self.reporter.names();
        names.set_policy(self.handover.context(), rules, before);
        if let Some(proxy) = &proxy {
            names.set_leases(Arc::clone(&proxy.book));
        }
        (self.terms, self.proxy, self.pins) = (terms, proxy, pins);
        self.reporter.notice(Notice::PolicyLoaded { replaces: Some(replaces) });
        if !self.handover.degraded.is_empty() {
            self.reporter.notice(Notice::Degraded);
        }
        // What the old policy's names have opened.
        Ok(guard.tables.remove_leases(cgroup_id)?)
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

    /// Compiles the policy for other mounts, and swaps it in whole.
    ///
    /// # Errors
    /// There is no room. The policy in force stays: it denies what lies on mounts that it does not know.
    pub fn follow_mounts(&mut self, guard: &mut Guard, mounts: &[Mount]) -> anyhow::Result<()> {
        let mut compiled = compile::for_mounts(&self.terms.policy, mounts)?;
        compiled.pins.clone_from(&self.pins);
        let Handover { agent_id, cgroup_id, .. } = self.handover;
        let policy = guard.tables.write_policy(&compiled, cgroup_id)?;
        let row = self.terms.row(&compiled, cgroup_id, policy, self.row.dns_ports);
        guard.tables.set_agent(agent_id, row)?;
        self.row = row;
        self.reporter.names().set_mounts(mounts);
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
