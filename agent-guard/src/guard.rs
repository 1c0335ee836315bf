//! A guard in force: the programs of a tier, attached, proven by the canary, and the agents under it.

use std::fmt;

use agent_guard_common::table::{
    ACCESS_KINDS, Agent, AgentFlag, Effect, NO_RULE, OPERATIONS, Verdict,
};
use aya::{maps::MapError, programs::links::FdLink};

use crate::{
    canary::{self, CanaryError},
    cgroup::{Cgroup, CgroupError, Cgroups},
    kernel::{
        counters::Counters,
        pins::Pins,
        tables::{InstallError, NO_POLICY, Tables},
    },
    mounts::Mount,
    programs::{Programs, ProgramsError},
    tier::Tier,
};

/// Which tier is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TierChoice {
    /// The strongest that this host offers.
    Auto,
    /// This one or none.
    Only(Tier),
}

/// Why a tier is not to be had here.
#[derive(Debug, thiserror::Error)]
pub enum TierError {
    /// The programs are not at hand.
    #[error(transparent)]
    Programs(#[from] ProgramsError),
    /// This process is under guard itself.
    #[error(
        "this process runs in agent {0}'s cgroup; an agent inside another is not supported: start it from outside"
    )]
    Nested(u32),
    /// The maps could not be written.
    #[error(transparent)]
    Install(#[from] InstallError),
    /// The programs are attached and do not enforce.
    #[error(transparent)]
    Canary(#[from] CanaryError),
    /// The canary needs a cgroup.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
}

/// No tier that was asked for is to be had; each with its reason.
#[derive(Debug)]
pub struct NoTier(pub Vec<(Tier, TierError)>);

impl fmt::Display for NoTier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (tier, error)) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}tier {tier} is not to be had here: {error}")?;
        }
        f.write_str("\nrun `agent-guard doctor` for the remedy")
    }
}

impl std::error::Error for NoTier {}

/// A tier in force for one cgroup.
pub struct Guard {
    /// Agents and policies.
    pub tables: Tables,
    /// What is in force.
    pub tier: Tier,
    /// Stronger tiers that were tried before, and why they are not in force.
    pub weaker_because: Vec<(Tier, TierError)>,
    programs: Programs,
    cgroup: u64,
    /// Held here as well, so that what is attached does not hang on files alone.
    _links: Vec<FdLink>,
}

impl Guard {
    /// Puts the strongest tier that `choice` admits in force for `cgroup`, and proves it. It stays so, whatever
    /// becomes of this process, until [`Self::end`].
    pub fn establish(
        choice: TierChoice,
        cgroup: &Cgroup,
        mounts: &[Mount],
    ) -> Result<Self, NoTier> {
        let mut refused = Vec::new();
        for tier in Tier::ALL {
            if matches!(choice, TierChoice::Only(only) if only != tier) {
                continue;
            }
            match Self::of_tier(tier, cgroup, mounts) {
                Ok(guard) => return Ok(Self { weaker_because: refused, ..guard }),
                Err(error) => refused.push((tier, error)),
            }
        }
        Err(NoTier(refused))
    }

    fn of_tier(tier: Tier, cgroup: &Cgroup, mounts: &[Mount]) -> Result<Self, TierError> {
        let mut guard = Self::over(Programs::acquire(tier)?, tier, cgroup.id())?;
        match guard.sweep(mounts).and_then(|()| guard.prove(cgroup, mounts)) {
            Ok(()) => Ok(guard),
            Err(error) => {
                guard.end(None)?;
                Err(error)
            }
        }
    }

    /// Takes over what a guard left in force under `programs` for the cgroup with this id.
    pub fn adopt(programs: String, tier: Tier, cgroup: u64) -> Result<Self, TierError> {
        Self::over(Programs::adopt(programs)?, tier, cgroup)
    }

    fn over(programs: Programs, tier: Tier, cgroup: u64) -> Result<Self, TierError> {
        let tables = Tables::open(programs.pins())?;
        Ok(Self { tables, tier, weaker_because: Vec::new(), programs, cgroup, _links: Vec::new() })
    }

    /// Takes out what guards left that died early.
    fn sweep(&mut self, mounts: &[Mount]) -> Result<(), TierError> {
        let cgroups = Cgroups::open(mounts)?;
        self.tables.sweep(|id| cgroups.has_gone(id))?;
        Ok(self.pins().sweep(|id| cgroups.has_gone(id)).map_err(ProgramsError::from)?)
    }

    /// Attaches what goes to the cgroup, and sends the canary.
    fn prove(&mut self, cgroup: &Cgroup, mounts: &[Mount]) -> Result<(), TierError> {
        for above in cgroup.above(mounts)? {
            if let Some(agent) = self.tables.agent_of_cgroup(above)? {
                return Err(TierError::Nested(agent));
            }
        }
        self._links = self.programs.attach_to(cgroup)?;
        let inner = Cgroup::create_in(cgroup.path(), mounts, "canary")?;
        let canary = self.tables.add_bound_agent(nothing_allowed(inner.id()))?;
        let checked = canary::check(self.tier, inner.path());
        self.tables.remove_agent(inner.id(), canary)?;
        inner.remove()?;
        Ok(checked?)
    }

    /// Where the programs and their maps are pinned.
    pub fn pins(&self) -> &Pins {
        self.programs.pins()
    }

    /// What a successor finds the programs by.
    pub fn programs(&self) -> &str {
        self.programs.name()
    }

    /// The counters of an agent.
    pub fn counters(&self, agent: u32) -> Result<Counters, TierError> {
        let programs = self.programs.descriptors().map_err(ProgramsError::from)?;
        Ok(Counters::open(self.pins(), programs, agent).map_err(in_counters)?)
    }

    /// Takes everything of `agent`, if there is one, out of the kernel; and the programs, if nobody else uses
    /// them. The cgroup must be empty by now.
    pub fn end(mut self, agent: Option<u32>) -> Result<(), TierError> {
        let removed = agent.map_or(Ok(()), |agent| self.tables.remove_agent(self.cgroup, agent));
        let detached = self.programs.detach_from(self.cgroup);
        self.programs.release()?;
        detached.map_err(ProgramsError::from)?;
        Ok(removed?)
    }
}

fn in_counters(source: MapError) -> InstallError {
    InstallError::Map { map: "COUNTERS", source }
}

/// An agent whose policy has no tables: whatever it asks for is denied.
fn nothing_allowed(cgroup: u64) -> Agent {
    Agent {
        hash_key: [0; 2],
        self_symbol: 0,
        cgroup,
        policy: NO_POLICY,
        flags: AgentFlag::LOG_ALLOWED,
        default_file: [Effect::Deny as u8; ACCESS_KINDS],
        default_egress: Effect::Deny as u8,
        default_listen: Effect::Deny as u8,
        dns_ports: [0; 2],
        reserved: [0; 6],
        operations: [Verdict::new(Effect::Deny, NO_RULE); OPERATIONS],
    }
}
