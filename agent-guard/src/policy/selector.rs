//! Which workloads a policy is for.

use super::{ComponentGlob, PathPattern, PatternError, Segment, pattern::parse_component};
use crate::identity::Identity;

/// What a workload must be for a policy to be its own: of every kind that is named here one entry. One that
/// names nothing covers nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// Cgroups, from the root of the tree.
    pub cgroups: Vec<PathPattern>,
    /// systemd units, such as `agent@*.service`.
    pub units: Vec<NamePattern>,
    /// Ids of containers, or what they begin with and a `*`.
    pub containers: Vec<NamePattern>,
}

/// One name, in which `*` is any run of bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamePattern(Segment);

impl NamePattern {
    /// Reads a name. `None` for what is no name at all: empty, or with a `/`.
    ///
    /// # Errors
    /// What is wrong with it and which bytes of `text` are at fault.
    #[must_use]
    pub fn parse(text: &str) -> Option<Result<Self, PatternError>> {
        if text.is_empty() || text.contains('/') {
            return None;
        }
        Some(parse_component(text, 0).map(Self))
    }

    /// Whether `name` fits.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        self.0.matches(name.as_bytes())
    }
}

impl Selector {
    /// Whether it covers the workload.
    #[must_use]
    pub fn covers(&self, identity: &Identity<'_>) -> bool {
        let Self { cgroups, units, containers } = self;
        let names_any = !(cgroups.is_empty() && units.is_empty() && containers.is_empty());
        let one_of = |patterns: &[NamePattern], name: Option<&str>| {
            patterns.is_empty()
                || name.is_some_and(|name| patterns.iter().any(|pattern| pattern.matches(name)))
        };
        names_any
            && (cgroups.is_empty()
                || cgroups.iter().any(|pattern| pattern.matches(identity.cgroup.as_bytes())))
            && one_of(units, identity.unit)
            && one_of(containers, identity.container.map(|container| container.id))
    }
}

impl Segment {
    fn matches(&self, name: &[u8]) -> bool {
        match self {
            Self::Literal(literal) => **literal == *name,
            Self::Glob(glob) => ComponentGlob::matches(glob, name),
            Self::AnyOne | Self::AnyDepth => true,
        }
    }
}

impl PathPattern {
    /// Whether an absolute path fits.
    #[must_use]
    pub fn matches(&self, path: &[u8]) -> bool {
        let names: Vec<&[u8]> =
            path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).collect();
        matches(&self.segments, &names)
    }
}

/// Of `**` only the last one before a mismatch is tried again: what an earlier one could take instead, the later
/// one can too.
fn matches(mut segments: &[Segment], mut names: &[&[u8]]) -> bool {
    let mut again: Option<(&[Segment], &[&[u8]])> = None;
    loop {
        match (segments, names) {
            ([], []) => return true,
            ([Segment::AnyDepth, rest @ ..], _) => {
                again = Some((rest, names));
                segments = rest;
            }
            ([segment, rest @ ..], [name, others @ ..]) if segment.matches(name) => {
                (segments, names) = (rest, others);
            }
            _ => match again {
                Some((rest, [_, later @ ..])) => {
                    again = Some((rest, later));
                    (segments, names) = (rest, later);
                }
                _ => return false,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(pattern: &str, path: &str) -> bool {
        PathPattern::parse(pattern).unwrap().matches(path.as_bytes())
    }

    #[test]
    fn a_path_fits_component_by_component() {
        for (pattern, fitting, other) in [
            ("/", "/", "/a"),
            ("/a/*", "/a/b", "/a/b/c"),
            ("/a/*", "/a/b", "/a"),
            ("/agents/coding-*", "/agents/coding-1", "/agents/coding"),
            ("/a/**", "/a", "/b"),
            ("/a/**", "/a/b/c", "/ab"),
            ("**/x", "/x", "/x/y"),
            ("/**/b/**/d", "/a/b/b/c/d", "/a/b/c"),
            ("/**/a/b", "/a/a/b", "/a/b/a"),
            ("/**/a/*/c/**/e", "/a/a/x/c/d/c/e", "/a/x/c/d"),
        ] {
            assert!(fits(pattern, fitting), "{pattern} {fitting}");
            assert!(!fits(pattern, other), "{pattern} {other}");
        }
    }

    #[test]
    fn what_names_nothing_covers_nothing() {
        assert!(!Selector::default().covers(&Identity::of("/agents/a")));
    }

    #[test]
    fn of_every_kind_that_is_named_one_has_to_fit() {
        let selector = Selector {
            cgroups: vec![PathPattern::parse("/system.slice/**").unwrap()],
            units: vec![
                NamePattern::parse("x.service").unwrap().unwrap(),
                NamePattern::parse("a.*").unwrap().unwrap(),
            ],
            containers: Vec::new(),
        };
        assert!(selector.covers(&Identity::of("/system.slice/a.service")));
        assert!(!selector.covers(&Identity::of("/system.slice/b.service")));
        assert!(!selector.covers(&Identity::of("/user.slice/a.service")));
        assert!(!selector.covers(&Identity::of("/system.slice")));
    }
}
