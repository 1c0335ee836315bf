//! The policy that `run` takes where none is named: the shipped one, for the directory at hand.

use std::{os::unix::ffi::OsStrExt, path::Path};

use super::{PathPattern, Policy, PolicyError, Segment};

/// The file `policies/coding-agent.yaml`.
const TEXT: &str = include_str!("../../../policies/coding-agent.yaml");

/// The directory that the shipped policy calls the workspace.
pub const SHIPPED_WORKSPACE: &str = "/workspace";

/// There is no built-in policy for this directory.
#[derive(Debug, thiserror::Error)]
pub enum ShippedError {
    /// The whole host would be the workspace.
    #[error(
        "the built-in policy lets the agent write below the current directory, which is `{0}`: too much; change to a project's directory, or name a policy with --policy"
    )]
    TooWide(String),
    /// The shipped file is refused: a build fault.
    #[error(transparent)]
    Policy(#[from] PolicyError),
}

/// Directories that are too much for a workspace: the agent would write into the system, or into
/// every user's files. A user's home is too, with what its shells and tools run.
const TOO_WIDE: [&str; 12] = [
    "/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/proc", "/root", "/sys", "/usr", "/var",
];

impl Policy {
    /// The shipped policy with `workspace`, absolute and without links, in place of
    /// [`SHIPPED_WORKSPACE`].
    ///
    /// # Errors
    /// The directory is one that no agent should have whole: the system's, or a home.
    pub fn shipped(workspace: &Path) -> Result<Self, ShippedError> {
        let is_home = workspace.parent() == Some(Path::new("/home"));
        if is_home || TOO_WIDE.iter().any(|path| workspace == Path::new(path)) {
            return Err(ShippedError::TooWide(workspace.display().to_string()));
        }
        let mut policy = Self::parse("the built-in policy", TEXT)?;
        let exec = policy.exec.rules.iter_mut().flat_map(|rule| &mut rule.matcher.paths);
        let files = policy.files.rules.iter_mut().flat_map(|rule| &mut rule.matcher.paths);
        for pattern in exec.chain(files) {
            move_workspace(pattern, workspace);
        }
        Ok(policy)
    }
}

fn move_workspace(pattern: &mut PathPattern, workspace: &Path) {
    let is_workspace =
        |segment: &Segment| matches!(segment, Segment::Literal(name) if **name == *b"workspace");
    if !pattern.segments.first().is_some_and(is_workspace) {
        return;
    }
    let names = workspace
        .as_os_str()
        .as_bytes()
        .split(|byte| *byte == b'/')
        .filter(|name| !name.is_empty());
    pattern.segments.splice(..1, names.map(|name| Segment::Literal(name.into())));
    let rest = pattern.text.strip_prefix(SHIPPED_WORKSPACE).unwrap_or_default();
    pattern.text = format!("{}{rest}", workspace.display());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_at_hand_takes_the_place_of_the_workspace() {
        let policy = Policy::shipped(Path::new("/srv/a project")).unwrap();
        let patterns: Vec<&PathPattern> =
            policy.files.rules.iter().flat_map(|rule| &rule.matcher.paths).collect();
        assert!(patterns.iter().any(|pattern| pattern.text == "/srv/a project/**"));
        assert!(patterns.iter().all(|pattern| !pattern.text.starts_with(SHIPPED_WORKSPACE)));
        let moved = patterns.iter().find(|pattern| pattern.text == "/srv/a project/**").unwrap();
        let literal = |name: &[u8]| Segment::Literal(name.into());
        assert_eq!(moved.segments, [literal(b"srv"), literal(b"a project"), Segment::AnyDepth]);
    }

    #[test]
    fn no_agent_gets_the_whole_host_for_a_workspace() {
        for path in TOO_WIDE.into_iter().chain(["/home/ada"]) {
            assert!(
                matches!(Policy::shipped(Path::new(path)), Err(ShippedError::TooWide(_))),
                "{path}"
            );
        }
    }
}
