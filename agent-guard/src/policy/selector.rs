//! Which workloads a policy is for.

use std::collections::BTreeMap;

use super::{
    ComponentGlob, ImagePattern, PathPattern, PatternError, Segment, pattern::parse_component,
};
use crate::identity::{Container, Identity, Pod};

/// What a workload must be for a policy to be its own: of every kind that is named here one entry, and all of the
/// labels. One that names nothing covers nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// Cgroups, from the root of the tree.
    pub cgroups: Vec<PathPattern>,
    /// systemd units, such as `agent@*.service`.
    pub units: Vec<NamePattern>,
    /// Ids of containers, or what they begin with and a `*`.
    pub containers: Vec<NamePattern>,
    /// Names of containers.
    pub container_names: Vec<NamePattern>,
    /// Images of containers.
    pub images: Vec<ImagePattern>,
    /// Kubernetes namespaces.
    pub namespaces: Vec<NamePattern>,
    /// Kubernetes pods.
    pub pods: Vec<NamePattern>,
    /// Labels of a Kubernetes pod.
    pub labels: BTreeMap<String, NamePattern>,
    /// Kubernetes service accounts.
    pub service_accounts: Vec<NamePattern>,
}

/// Whether a selector covers a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fit {
    /// It does not.
    No,
    /// By what is known of the workload it can not be told.
    Unknown,
    /// It does.
    Yes,
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
    pub fn covers(&self, identity: &Identity<'_>) -> Fit {
        let Self { cgroups, units, containers, .. } = self;
        let names_place = !(cgroups.is_empty() && units.is_empty() && containers.is_empty());
        if !names_place && !self.names_container() {
            return Fit::No;
        }
        let cgroup = match cgroups.is_empty()
            || cgroups.iter().any(|pattern| pattern.matches(identity.cgroup.as_bytes()))
        {
            true => Fit::Yes,
            false => Fit::No,
        };
        let id = identity.container.map(|container| container.id);
        let place = [cgroup, one_of(units, identity.unit), one_of(containers, id)];
        let place = place.into_iter().min().unwrap_or(Fit::No);
        if place == Fit::No || !self.names_container() {
            return place;
        }
        match (identity.container, identity.known) {
            (None, _) => Fit::No,
            (Some(_), None) => Fit::Unknown,
            (Some(_), Some(container)) => self.covers_container(container),
        }
    }

    /// Whether it names anything of which a cgroup's path does not tell.
    fn names_container(&self) -> bool {
        !(self.container_names.is_empty() && self.images.is_empty()) || self.names_pod()
    }

    fn names_pod(&self) -> bool {
        let Self { namespaces, pods, labels, service_accounts, .. } = self;
        !(namespaces.is_empty()
            && pods.is_empty()
            && labels.is_empty()
            && service_accounts.is_empty())
    }

    fn covers_container(&self, container: &Container) -> Fit {
        if container.is_sandbox {
            return Fit::No;
        }
        let name = known(&self.container_names, container.name.as_deref());
        let image = match (&*self.images, &container.image) {
            ([], _) => Fit::Yes,
            (_, None) => Fit::Unknown,
            (images, Some(name)) if images.iter().any(|pattern| pattern.matches(name)) => Fit::Yes,
            _ => Fit::No,
        };
        let pod = match &container.pod {
            _ if !self.names_pod() => Fit::Yes,
            Some(pod) => self.covers_pod(pod),
            None => Fit::No,
        };
        name.min(image).min(pod)
    }

    fn covers_pod(&self, pod: &Pod) -> Fit {
        let labels = match &pod.labels {
            _ if self.labels.is_empty() => Fit::Yes,
            None => Fit::Unknown,
            Some(labels) => {
                let fits = |(key, pattern): (&String, &NamePattern)| {
                    labels.get(key).is_some_and(|value| pattern.matches(value))
                };
                if self.labels.iter().all(fits) { Fit::Yes } else { Fit::No }
            }
        };
        one_of(&self.namespaces, Some(&pod.namespace))
            .min(one_of(&self.pods, Some(&pod.name)))
            .min(labels)
            .min(known(&self.service_accounts, pod.service_account.as_deref()))
    }
}

/// Whether one of the patterns, if there are any, fits the name, if there is one.
fn one_of(patterns: &[NamePattern], name: Option<&str>) -> Fit {
    let fits = patterns.is_empty()
        || name.is_some_and(|name| patterns.iter().any(|pattern| pattern.matches(name)));
    if fits { Fit::Yes } else { Fit::No }
}

/// The same for a name that there is, and that may not be known.
fn known(patterns: &[NamePattern], name: Option<&str>) -> Fit {
    match name {
        None if !patterns.is_empty() => Fit::Unknown,
        _ => one_of(patterns, name),
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

    fn names(patterns: &[&str]) -> Vec<NamePattern> {
        patterns.iter().map(|text| NamePattern::parse(text).unwrap().unwrap()).collect()
    }

    #[test]
    fn what_names_nothing_covers_nothing() {
        assert_eq!(Selector::default().covers(&Identity::of("/agents/a")), Fit::No);
    }

    #[test]
    fn of_every_kind_that_is_named_one_has_to_fit() {
        let selector = Selector {
            cgroups: vec![PathPattern::parse("/system.slice/**").unwrap()],
            units: names(&["x.service", "a.*"]),
            ..Selector::default()
        };
        let covers = |cgroup| selector.covers(&Identity::of(cgroup));
        assert_eq!(covers("/system.slice/a.service"), Fit::Yes);
        assert_eq!(covers("/system.slice/b.service"), Fit::No);
        assert_eq!(covers("/user.slice/a.service"), Fit::No);
        assert_eq!(covers("/system.slice"), Fit::No);
    }

    fn coding() -> Container {
        Container {
            name: Some("agent".to_owned()),
            image: Some("ghcr.io/acme/agent:1".to_owned()),
            pod: Some(Pod {
                namespace: "agents".to_owned(),
                name: "coding-1".to_owned(),
                labels: Some([("app".to_owned(), "coding".to_owned())].into()),
                service_account: Some("coding".to_owned()),
                ..Pod::default()
            }),
            ..Container::default()
        }
    }

    fn every_kind() -> [Selector; 6] {
        let default = Selector::default;
        let images = vec![ImagePattern::parse("ghcr.io/acme/*").unwrap()];
        let labels = [("app".to_owned(), NamePattern::parse("cod*").unwrap().unwrap())].into();
        [
            Selector { images, ..default() },
            Selector { container_names: names(&["agent"]), ..default() },
            Selector { namespaces: names(&["x", "agents"]), ..default() },
            Selector { pods: names(&["coding-*"]), ..default() },
            Selector { labels, ..default() },
            Selector { service_accounts: names(&["coding"]), ..default() },
        ]
    }

    fn cgroup() -> String {
        format!("/kubepods/{}", "0".repeat(64))
    }

    #[test]
    fn a_container_is_covered_by_what_it_is() {
        let (cgroup, coding) = (cgroup(), coding());
        let sandbox = Container { is_sandbox: true, ..coding.clone() };
        for selector in every_kind() {
            let covers = |known| selector.covers(&Identity::of(&cgroup).with(known));
            assert_eq!(covers(Some(&coding)), Fit::Yes, "{selector:?}");
            assert_eq!(covers(Some(&sandbox)), Fit::No, "{selector:?}");
            assert_eq!(covers(None), Fit::Unknown, "{selector:?}");
            // What is no container has no image, and is in no pod's namespace.
            assert_eq!(selector.covers(&Identity::of("/agents/a")), Fit::No, "{selector:?}");
        }
    }

    #[test]
    fn what_nobody_said_is_not_known_and_what_there_is_not_does_not_fit() {
        let cgroup = cgroup();
        let fits = |container: &Container| {
            every_kind()
                .map(|selector| selector.covers(&Identity::of(&cgroup).with(Some(container))))
        };
        use Fit::{No, Unknown};
        assert_eq!(fits(&Container::default()), [Unknown, Unknown, No, No, No, No]);
        let pod = Some(Pod::default());
        let bare = Container { pod, ..Container::default() };
        assert_eq!(fits(&bare), [Unknown, Unknown, No, No, Unknown, Unknown]);
    }

    #[test]
    fn what_does_not_fit_for_sure_does_not_wait_for_what_is_not_known() {
        let selector = Selector {
            cgroups: vec![PathPattern::parse("/kubepods.slice/**").unwrap()],
            namespaces: names(&["agents"]),
            ..Selector::default()
        };
        assert_eq!(selector.covers(&Identity::of(&cgroup())), Fit::No);
    }

    #[test]
    fn all_labels_have_to_fit() {
        let cgroup = cgroup();
        let label = |key: &str| (key.to_owned(), NamePattern::parse("coding").unwrap().unwrap());
        let selector =
            Selector { labels: [label("app"), label("role")].into(), ..Selector::default() };
        let coding = coding();
        assert_eq!(selector.covers(&Identity::of(&cgroup).with(Some(&coding))), Fit::No);
    }
}
