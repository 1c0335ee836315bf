//! From a policy to tables for this host as it is now.

use anyhow::{Context as _, anyhow};
use miette::Diagnostic;

use crate::{
    bytes::random,
    mounts::Mount,
    policy::{
        AccessSet, Effect, FileMatch, PathPattern, Policy, Rule, aliases,
        compile::{CompileError, Compiled, Environment, Filesystems, HostLinks, compile},
        pinned,
    },
    state_dir,
};

/// Keys that are drawn before a policy whose names collide under every one of them is given up: once
/// is already a chance of one in 2^40.
const KEY_DRAWS: usize = 4;

/// Compiles `policy` for these mounts, without the files that it pins.
///
/// # Errors
/// It exceeds a bound.
pub fn for_mounts(policy: &Policy, mounts: &[Mount]) -> anyhow::Result<Compiled> {
    let filesystems = Filesystems::from_table(mounts);
    let links = HostLinks::default();
    in_environment(policy, &Environment { filesystems: &filesystems, links: &links })
}

fn in_environment(policy: &Policy, environment: &Environment<'_>) -> anyhow::Result<Compiled> {
    let policy = guarding_itself(policy)?;
    for _ in 0..KEY_DRAWS {
        match compile(&policy, environment, draw_key()?) {
            Err(CompileError::HashCollision) => {}
            compiled => {
                let mut compiled = compiled?;
                aliases::find(&policy, environment, &mut compiled);
                return Ok(compiled);
            }
        }
    }
    Err(CompileError::HashCollision.into())
}

/// The policy, and that nobody under it gets at what guards lock and write down. Behind its own rules, so that
/// those keep their numbers.
fn guarding_itself(policy: &Policy) -> anyhow::Result<Policy> {
    let mut policy = policy.clone();
    policy.files.rules.push(Rule {
        name: Some(OWN_STATE.to_owned()),
        effect: Effect::Deny,
        class: None,
        matcher: FileMatch {
            access: AccessSet::ReadWrite,
            paths: vec![PathPattern::parse(&format!("{}/**", state_dir::PATH))?],
        },
        line: 0,
    });
    Ok(policy)
}

/// What events call the rule that no policy has.
const OWN_STATE: &str = "state-of-the-guard";

/// Compiles `policy` for these mounts, and pins the files that are there now.
///
/// # Errors
/// It exceeds a bound, or a file is not the one that it pins.
pub fn as_loaded(policy: &Policy, mounts: &[Mount]) -> anyhow::Result<Compiled> {
    let filesystems = Filesystems::from_table(mounts);
    let links = HostLinks::default();
    let environment = Environment { filesystems: &filesystems, links: &links };
    let mut compiled = in_environment(policy, &environment)?;
    pinned::take(policy, &environment, &mut compiled).map_err(|error| with_remedy(&error))?;
    Ok(compiled)
}

/// An error with how to mend it.
fn with_remedy(error: &impl Diagnostic) -> anyhow::Error {
    match error.help() {
        Some(help) => anyhow!("{error}; {help}"),
        None => anyhow!("{error}"),
    }
}

/// A key that nobody knows.
fn draw_key() -> anyhow::Result<[u64; 2]> {
    let bytes: [u8; 16] = random().context("drawing a key")?;
    let (low, high) = bytes.split_at(8);
    Ok([u64::from_ne_bytes(low.try_into()?), u64::from_ne_bytes(high.try_into()?)])
}
