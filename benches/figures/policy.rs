//! A policy on its way from text into the kernel's maps, and the swap for one with a rule more.

use std::{fs, path::Path};

use agent_guard::{
    bytes::random,
    cgroup::Cgroup,
    kernel::tables::Tables,
    mounts::{Mount, MountTable},
    policy::{
        Policy, aliases,
        compile::{Compiled, Environment, Filesystems, HostLinks, compile},
        pinned,
    },
    programs::Programs,
    tier::Tier,
};
use anyhow::{Context as _, Result};

use crate::clock::{Clock, tell};

/// Rounds of which the shortest counts.
const ROUNDS: usize = 5;
/// What the policy is swapped for: the same with this behind its last rule.
const MORE: &str = "      - {effect: allow, access: [read], paths: ['/one-rule-more/**']}\n";

/// Tells what reading and compiling the policy in `file` take; and installing and swapping it, where there are
/// programs of a `tier`.
pub fn measure(clock: Clock, file: &Path, tier: Option<Tier>) -> Result<()> {
    let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let mounts = MountTable::open()?.read()?;
    let mut least = [u64::MAX; 2];
    for _ in 0..ROUNDS {
        let (parsing, policy) = clock.count(|| Policy::parse("bench", &text));
        let policy = policy?;
        let (compiling, compiled) = clock.count(|| compiled(&policy, &mounts));
        compiled?;
        for (least, figure) in least.iter_mut().zip([parsing, compiling]) {
            *least = (*least).min(figure);
        }
    }
    let [parsing, compiling] = least;
    tell("policy-parse", parsing);
    tell("policy-compile", compiling);
    tier.map_or(Ok(()), |tier| install(clock, &text, &mounts, tier))
}

/// As `agent-guard run` does it.
pub fn compiled(policy: &Policy, mounts: &[Mount]) -> Result<Compiled> {
    let filesystems = Filesystems::from_table(mounts);
    let links = HostLinks::default();
    let environment = Environment { filesystems: &filesystems, links: &links };
    let key: [u8; 16] = random()?;
    let (low, high) = key.split_at(8);
    let key = [u64::from_ne_bytes(low.try_into()?), u64::from_ne_bytes(high.try_into()?)];
    let mut compiled = compile(policy, &environment, key)?;
    aliases::find(policy, &environment, &mut compiled);
    pinned::take(policy, &environment, &mut compiled)?;
    Ok(compiled)
}

fn install(clock: Clock, text: &str, mounts: &[Mount], tier: Tier) -> Result<()> {
    let programs = Programs::acquire(tier)?;
    let mut tables = Tables::open(programs.pins())?;
    let cgroup = Cgroup::create(mounts, &format!("bench-{}", std::process::id()))?;
    let (one, other) =
        (Policy::parse("bench", text)?, Policy::parse("bench", &(text.to_owned() + MORE))?);
    let (one, other) = (compiled(&one, mounts)?, compiled(&other, mounts)?);

    let mut least = [u64::MAX; 2];
    for _ in 0..ROUNDS {
        let (installing, agent) = clock.count(|| -> Result<u32> {
            let policy = tables.write_policy(&one, cgroup.id())?;
            Ok(tables.add_agent(one.agent(cgroup.id(), policy))?)
        });
        let agent = agent?;
        let (swapping, swapped) = clock.count(|| -> Result<()> {
            let policy = tables.write_policy(&other, cgroup.id())?;
            Ok(tables.set_agent(agent, other.agent(cgroup.id(), policy))?)
        });
        swapped?;
        tables.remove_agent(cgroup.id(), agent)?;
        for (least, figure) in least.iter_mut().zip([installing, swapping]) {
            *least = (*least).min(figure);
        }
    }
    cgroup.remove()?;
    programs.release()?;
    let [installing, swapping] = least;
    tell("policy-install", installing);
    tell("policy-swap", swapping);
    Ok(())
}
