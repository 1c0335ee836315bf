//! A guard in force: the programs of a tier, attached, proven by the canary, and the agents under it.

use std::{fmt, os::fd::AsFd};

use agent_guard_common::{
    hook::HookSpec,
    table::{ACCESS_KINDS, Agent, AgentFlag, Effect, NO_RULE, OPERATIONS, Verdict},
};
use aya::{Ebpf, maps::MapError, programs::links::FdLink};

use crate::{
    canary::{self, CanaryError},
    cgroup::{Cgroup, CgroupError},
    kernel::{
        counters::Counters,
        load::{self, LoadError, Loaded, MapSizes},
        tables::{InstallError, Tables},
    },
    mounts::Mount,
    pins::{Pins, PinsError},
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
    /// What is in force could not be pinned.
    #[error(transparent)]
    Pins(#[from] PinsError),
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
    /// Stronger tiers that were tried before, and why they are not in force.
    pub weaker_because: Vec<(Tier, TierError)>,
    /// Held here as well, so that what is in force does not hang on files.
    _links: Vec<FdLink>,
    counters: Counters,
}

impl Guard {
    /// Loads, attaches, proves and pins the programs of the strongest tier that `choice` admits. cgroup
    /// programs are attached to `cgroup`. Where there are `pins`, what is in force stays so until they are
    /// removed; else as long as the guard.
    pub fn establish(
        pins: Option<&Pins>,
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
            match Self::of_tier(pins, tier, cgroup, mounts, sizes) {
                Ok(guard) => return Ok(Self { weaker_because: refused, ..guard }),
                Err(error) => refused.push((tier, error)),
            }
            if let Some(Err(error)) = pins.map(Pins::remove) {
                refused.push((tier, error.into()));
            }
        }
        Err(NoTier(refused))
    }

    fn of_tier(
        pins: Option<&Pins>,
        tier: Tier,
        cgroup: &Cgroup,
        mounts: &[Mount],
        sizes: MapSizes,
    ) -> Result<Self, TierError> {
        let mut loaded = load::load(tier, sizes)?;
        if let Some(pins) = pins {
            pins.create()?;
            pins.pin_maps(&loaded.ebpf)?;
            pins.pin_programs(&mut loaded.ebpf, &loaded.hooks)?;
        }
        let mut tables = Tables::take(&mut loaded.ebpf)?;
        let links = load::attach(&mut loaded, cgroup.open()?)?;
        let Loaded { mut ebpf, hooks } = loaded;

        let inner = Cgroup::create_in(cgroup.path(), mounts, "canary")?;
        tables.set_agent(CANARY, nothing_allowed(inner.id()))?;
        tables.bind_cgroup(inner.id(), CANARY)?;
        let checked = canary::check(tier, inner.path());
        tables.remove_agent(inner.id(), CANARY)?;
        inner.remove()?;
        checked?;

        let mut counters = counters(&mut ebpf, &hooks)?;
        counters.start().map_err(in_counters)?;
        let links = match pins {
            Some(pins) => pins.pin_links(links)?,
            None => links.into_iter().map(|(_, link)| link).collect(),
        };
        Ok(Self { ebpf, tables, tier, weaker_because: Vec::new(), _links: links, counters })
    }

    /// What each hook has counted for agents; the canary's share is left out.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }
}

fn counters(ebpf: &mut Ebpf, hooks: &[&'static HookSpec]) -> Result<Counters, TierError> {
    let map = ebpf.take_map("COUNTERS").ok_or(InstallError::NoMap("COUNTERS"))?;
    let mut programs = Vec::with_capacity(hooks.len());
    for spec in hooks {
        let program = ebpf.program(spec.program).ok_or(LoadError::NoProgram(spec.program))?;
        let descriptor = program.fd().and_then(|fd| Ok(fd.as_fd().try_clone_to_owned()?));
        let descriptor = descriptor.map_err(|source| LoadError::Program {
            hook: spec.name,
            decides: spec.decides,
            source,
        })?;
        programs.push((spec.hook, descriptor));
    }
    Ok(Counters::new(map, programs).map_err(in_counters)?)
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
        policy: 0,
        flags: AgentFlag::LOG_ALLOWED,
        default_file: [Effect::Deny as u8; ACCESS_KINDS],
        default_egress: Effect::Deny as u8,
        default_listen: Effect::Deny as u8,
        dns_ports: [0; 2],
        reserved: [0; 6],
        operations: [Verdict::new(Effect::Deny, NO_RULE); OPERATIONS],
    }
}

/// Whether an event belongs to the canary and to nobody else.
pub fn is_canary(agent: u32) -> bool {
    agent == CANARY
}
