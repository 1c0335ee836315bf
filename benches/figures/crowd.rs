//! A host full of agents: each with a cgroup and a policy of its own. They run nothing, and have no ring buffer, of
//! which a thousand would not fit a guest's memory.

use std::{fs, path::Path};

use agent_guard::{
    cgroup::Cgroup,
    kernel::tables::Tables,
    mounts::{self, MountTable},
    policy::Policy,
    programs::Programs,
    tier::Tier,
};
use anyhow::{Context as _, Result};

use crate::policy::compiled;

/// Adds `agents` agents under the policy in `file` and leaves them there: their cgroups are not named as a guard's
/// are, so no guard sweeps them away.
pub fn add(agents: u32, file: &Path, tier: Tier) -> Result<()> {
    let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let mounts = MountTable::open()?.read()?;
    let compiled = compiled(&Policy::parse("crowd", &text)?, &mounts)?;
    let programs = Programs::acquire(tier)?;
    let mut tables = Tables::open(programs.pins())?;
    let root = mounts::cgroup2(&mounts).context("no cgroup2 is mounted")?;
    for n in 0..agents {
        let cgroup = Cgroup::create_in(root, &mounts, &format!("crowd-{n}"))?;
        let policy = tables.write_policy(&compiled, cgroup.id())?;
        tables.add_bound_agent(compiled.agent(cgroup.id(), policy))?;
    }
    programs.release()?;
    Ok(())
}
