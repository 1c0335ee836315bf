//! A guard in force: the programs of a tier, attached, proven by the canary, and the agents under it.

use std::fmt;

use agent_guard_common::{
    hook::{Hook, HookSpec},
    table::{Agent, AgentFlag, Effect},
};
use aya::Ebpf;

use crate::{
    canary::{self, CanaryError},
    cgroup::{Cgroup, CgroupError},
    kernel::{
        counters::{self, HookCounts},
        load::{self, LoadError, Loaded, MapSizes},
        tables::{InstallError, Tables},
    },
    mounts::Mount,
    tier::Tier,
};

/// The id of the canary's agent; `run` numbers its own from 1.
const CANARY: u32 = u32::MAX;

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
    /// The kernel refused the programs.
    #[error(transparent)]
    Load(#[from] LoadError),
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

/// Programs in force.
pub struct Guard {
    /// The loaded object: maps that were not taken, programs and their links.
    pub ebpf: Ebpf,
    /// Agents and policies.
    pub tables: Tables,
    /// What is in force.
    pub tier: Tier,
    /// Optional hooks that this kernel lacks.
    pub missing: Vec<&'static HookSpec>,
    /// Stronger tiers that were tried before, and why they are not in force.
    pub weaker_because: Vec<(Tier, TierError)>,
    baseline: Vec<HookCounts>,
}

impl Guard {
    /// Loads, attaches and proves the programs of the strongest tier that `choice` admits. cgroup
    /// programs are attached to `cgroup`.
    pub fn establish(
        choice: TierChoice,
        cgroup: &Cgroup,
        mounts: &[Mount],
        sizes: MapSizes,
    ) -> Result<Self, NoTier> {
        let mut refused = Vec::new();
        for tier in Tier::ALL {
            if matches!(choice, TierChoice::Only(only) if only != tier) {
                continue;
            }
            match Self::of_tier(tier, cgroup, mounts, sizes) {
                Ok(guard) => return Ok(Self { weaker_because: refused, ..guard }),
                Err(error) => refused.push((tier, error)),
            }
        }
        Err(NoTier(refused))
    }

    fn of_tier(
        tier: Tier,
        cgroup: &Cgroup,
        mounts: &[Mount],
        sizes: MapSizes,
    ) -> Result<Self, TierError> {
        let mut loaded = load::load(tier, sizes)?;
        let mut tables = Tables::take(&mut loaded.ebpf)?;
        load::attach(&mut loaded, cgroup.open()?)?;
        let Loaded { ebpf, missing, .. } = loaded;

        let inner = Cgroup::create_in(cgroup.path(), mounts, "canary")?;
        tables.set_agent(CANARY, nothing_allowed(inner.id()))?;
        tables.bind_cgroup(inner.id(), CANARY)?;
        let checked = canary::check(tier, inner.path());
        tables.remove_agent(inner.id(), CANARY)?;
        inner.remove()?;
        checked?;

        let baseline = counts(&ebpf)?.into_iter().map(|(_, counts)| counts).collect();
        Ok(Self { ebpf, tables, tier, missing, weaker_because: Vec::new(), baseline })
    }

    /// What each hook has counted for agents; the canary's share is left out.
    pub fn counts(&self) -> Result<Vec<(Hook, HookCounts)>, TierError> {
        let mut now = counts(&self.ebpf)?;
        for ((_, counts), before) in now.iter_mut().zip(&self.baseline) {
            *counts = counts.since(before);
        }
        Ok(now)
    }
}

fn counts(ebpf: &Ebpf) -> Result<Vec<(Hook, HookCounts)>, TierError> {
    counters::read(ebpf)
        .map_err(|source| TierError::Install(InstallError::Map { map: "COUNTERS", source }))
}

/// An agent whose policy has no tables: whatever it asks for is denied.
fn nothing_allowed(cgroup: u64) -> Agent {
    Agent {
        hash_key: [0; 2],
        self_symbol: 0,
        cgroup,
        policy: 0,
        flags: AgentFlag::LOG_ALLOWED,
        default_file: [Effect::Deny as u8; 3],
        default_egress: Effect::Deny as u8,
        dns_ports: [0; 2],
    }
}

/// Whether an event belongs to the canary and to nobody else.
pub fn is_canary(agent: u32) -> bool {
    agent == CANARY
}
