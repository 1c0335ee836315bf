//! A guard in force: the programs of a tier, attached, proven by the canary, and the agents under it.

use std::fmt;

use agent_guard_common::{
    hook::Hook,
    table::{ACCESS_KINDS, Agent, AgentFlag, Effect, NO_RING, NO_RULE, OPERATIONS, Verdict},
};
use aya::{maps::MapError, programs::links::FdLink};

use crate::{
    canary::{self, CanaryError},
    cgroup::{self, Cgroup, CgroupError, Cgroups},
    kernel::{
        counters::{Counters, HookCounts, SkipCounters, Skips},
        pins::Pins,
        policies::NO_POLICY,
        tables::{InstallError, Tables},
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
    counters: Counters,
    skips: SkipCounters,
    cgroup: u64,
    /// Sent once and again: its cgroup and its agent stay for that.
    canary: Option<(Cgroup, u32)>,
    /// An agent that nobody belongs to, for a ring buffer that others share.
    holder: Option<u32>,
    /// Held here as well, so that what is attached does not hang on files alone.
    links: Vec<FdLink>,
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
        match guard.sweep(mounts, |_| false).and_then(|()| guard.prove(cgroup, mounts)) {
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
        let counters = Counters::open(programs.pins()).map_err(in_counters)?;
        let skips = SkipCounters::new(programs.descriptors().map_err(ProgramsError::from)?);
        Ok(Self {
            tables,
            counters,
            skips,
            tier,
            weaker_because: Vec::new(),
            programs,
            cgroup,
            canary: None,
            holder: None,
            links: Vec::new(),
        })
    }

    /// Takes out what guards left that died early, but for what is of cgroups that are `kept`.
    fn sweep(&mut self, mounts: &[Mount], kept: impl Fn(u64) -> bool) -> Result<(), TierError> {
        let cgroups = Cgroups::open(mounts)?;
        let has_gone = |id| !kept(id) && cgroups.has_gone(id);
        self.tables.sweep(has_gone)?;
        Ok(self.pins().sweep(has_gone).map_err(ProgramsError::from)?)
    }

    /// Takes out what other guards left, and waits for what they freed, so that whoever comes next need not. What is
    /// of cgroups that are `kept` stays, whether they are gone or not.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn tidy(&mut self, mounts: &[Mount], kept: impl Fn(u64) -> bool) -> Result<(), TierError> {
        self.sweep(mounts, kept)?;
        Ok(self.tables.settle()?)
    }

    /// Attaches what goes to the cgroup, and sends the canary, unless somebody vouches for these very programs.
    fn prove(&mut self, cgroup: &Cgroup, mounts: &[Mount]) -> Result<(), TierError> {
        self.links = self.take_in(cgroup, mounts)?;
        match self.programs.is_vouched_for() {
            // Where an agent can lie does not hang on whether somebody vouches.
            true => Ok(cgroup.check_room_below(mounts)?),
            false => self.send_canary(cgroup, mounts),
        }
    }

    /// Vouches for the programs, by which a canary was just stopped, for as long as this process lives: who comes
    /// meanwhile sends none. Where that can not be written down, everybody sends their own.
    pub fn vouch(&mut self) {
        if let Err(error) = self.programs.vouch() {
            tracing::warn!("others will send a canary of their own: {error}");
        }
    }

    /// Sends the canary, and vouches for the programs only where it is stopped.
    ///
    /// # Errors
    /// As for [`Self::send_canary`].
    pub fn prove_again(&mut self, cgroup: &Cgroup, mounts: &[Mount]) -> Result<(), TierError> {
        let proven = self.send_canary(cgroup, mounts);
        match proven {
            Ok(()) => self.vouch(),
            Err(_) => self.programs.withdraw(),
        }
        proven
    }

    /// Fails unless the tier stops a canary in the cgroup that it was established for.
    ///
    /// # Errors
    /// The canary came through, or could not be sent.
    pub fn send_canary(&mut self, cgroup: &Cgroup, mounts: &[Mount]) -> Result<(), TierError> {
        let is_gone = |(inner, _): &mut (Cgroup, u32)| cgroup::is_gone(inner.path(), inner.id());
        if let Some((gone, agent)) = self.canary.take_if(is_gone) {
            self.tables.remove_agent(gone.id(), agent)?;
        }
        let (inner, _) = match &mut self.canary {
            Some(canary) => canary,
            none => {
                let inner = Cgroup::create_in(cgroup.path(), mounts, "canary")?;
                let agent = self.tables.add_bound_agent(nothing_allowed(inner.id(), NO_RING))?;
                none.insert((inner, agent))
            }
        };
        Ok(canary::check(self.tier, inner.path())?)
    }

    /// The key of a ring buffer for all agents that this guard is to put under it: the one with the key `shared`, or
    /// a new one. It stays until [`Self::end`], and then for as long as an agent has it.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn hold_ring(&mut self, shared: Option<u32>) -> Result<u32, TierError> {
        let holder = nothing_allowed(self.cgroup, shared.unwrap_or(NO_RING));
        let (holder, ring) = match shared {
            Some(ring) => (self.tables.add_agent(holder)?, ring),
            None => self.tables.add_agent_with_ring(holder)?,
        };
        self.holder = Some(holder);
        Ok(ring)
    }

    /// Attaches what goes to an agent's cgroup alone. It stays attached for as long as it is pinned, or what comes
    /// back is held.
    ///
    /// # Errors
    /// The cgroup is or lies in an agent's, or the kernel refused.
    pub fn take_in(&self, cgroup: &Cgroup, mounts: &[Mount]) -> Result<Vec<FdLink>, TierError> {
        for above in [cgroup.id()].into_iter().chain(cgroup.above(mounts)?) {
            if let Some(agent) = self.tables.agent_of_cgroup(above)? {
                return Err(TierError::Nested(agent));
            }
        }
        Ok(self.programs.attach_to(cgroup)?)
    }

    /// What [`Self::take_in`] of another guard has attached to the cgroup with this id.
    ///
    /// # Errors
    /// It is not whole.
    pub fn taken_in(&self, cgroup: u64) -> Result<Vec<FdLink>, TierError> {
        Ok(self.programs.attached_to(cgroup).map_err(ProgramsError::from)?)
    }

    /// Detaches what [`Self::take_in`] has attached.
    ///
    /// # Errors
    /// The pins could not be removed.
    pub fn detach(&self, cgroup: u64) -> Result<(), TierError> {
        Ok(self.programs.detach_from(cgroup).map_err(ProgramsError::from)?)
    }

    /// Takes an agent and what is attached to its cgroup out of the kernel. The cgroup must be empty by now.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn let_go(&mut self, cgroup: u64, agent: u32) -> Result<(), TierError> {
        let removed = self.tables.remove_agent(cgroup, agent);
        self.detach(cgroup)?;
        Ok(removed?)
    }

    /// Reads back that each program is attached at its hook, and says at which.
    ///
    /// # Errors
    /// One is not.
    pub fn read_back(&self) -> Result<Vec<&'static str>, TierError> {
        Ok(self.programs.read_back(self.tier)?)
    }

    /// Where the programs and their maps are pinned.
    pub fn pins(&self) -> &Pins {
        self.programs.pins()
    }

    /// What a successor finds the programs by.
    pub fn programs(&self) -> &str {
        self.programs.name()
    }

    /// How often the kernel has skipped each program by now.
    ///
    /// # Errors
    /// It does not say.
    pub fn skips(&self) -> Result<Skips, TierError> {
        Ok(self.skips.read().map_err(ProgramsError::from)?)
    }

    /// What each hook has counted for an agent that came when `before` had been skipped, of which by now it is
    /// `now`.
    ///
    /// # Errors
    /// There is no such agent.
    pub fn counts(
        &self,
        agent: u32,
        before: &Skips,
        now: &Skips,
    ) -> Result<Vec<(Hook, HookCounts)>, TierError> {
        Ok(self.counters.read(agent, before, now).map_err(in_counters)?)
    }

    /// Takes everything of `agent`, if there is one, out of the kernel; and the programs, if nobody else uses
    /// them. The cgroup must be empty by now.
    pub fn end(mut self, agent: Option<u32>) -> Result<(), TierError> {
        let agents = agent.into_iter().chain(self.holder).map(|agent| (self.cgroup, agent));
        let canary = self.canary.take().map(|(cgroup, agent)| (cgroup.id(), agent));
        let removed = self.tables.forget_agents(&agents.chain(canary).collect::<Vec<_>>());
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
fn nothing_allowed(cgroup: u64, ring: u32) -> Agent {
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
        reserved: [0; 2],
        ring,
        operations: [Verdict::new(Effect::Deny, NO_RULE); OPERATIONS],
    }
}
