//! The kernel's own sandbox, for comparison: the calling process keeps to the same rules by Landlock.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use landlock::{
    ABI, Access as _, AccessFs, BitFlags, PathBeneath, PathFd, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _, RulesetStatus,
};

/// What kernel 6.1 has, the oldest that is measured.
const VERSION: ABI = ABI::V2;

/// Restricts this process for good: every right on what lies below `open`, reading below `readable`.
pub fn restrict(open: &[&Path], readable: impl Iterator<Item = impl AsRef<Path>>) -> Result<()> {
    let all = AccessFs::from_all(VERSION);
    let mut rules = Ruleset::default().handle_access(all)?.create()?;
    for path in open {
        rules = rules.add_rule(rule(path, all)?)?;
    }
    for path in readable {
        rules = rules.add_rule(rule(path.as_ref(), AccessFs::from_read(VERSION))?)?;
    }
    let status = rules.restrict_self()?;
    if status.ruleset != RulesetStatus::FullyEnforced {
        bail!("Landlock does not enforce the rules on this kernel: {:?}", status.ruleset);
    }
    Ok(())
}

fn rule(path: &Path, access: BitFlags<AccessFs>) -> Result<PathBeneath<PathFd>> {
    let file = PathFd::new(path).with_context(|| path.display().to_string())?;
    Ok(PathBeneath::new(file, access))
}
