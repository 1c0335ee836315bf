//! What a workload is, by the place of its cgroup: what systemd and the container runtimes call it.

use std::fmt;

/// A workload, as its cgroup's path tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity<'a> {
    /// The path, from the root of the cgroup tree.
    pub cgroup: &'a str,
    /// The innermost systemd unit that it is, or lies in: a service, or a scope.
    pub unit: Option<&'a str>,
    /// The innermost container that it is, or lies in.
    pub container: Option<Container<'a>>,
    /// The uid of the Kubernetes pod that it lies in, with whichever of `-` and `_` the path has.
    pub pod: Option<&'a str>,
}

/// A container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Container<'a> {
    /// Who runs it, where the path says.
    pub runtime: Option<Runtime>,
    /// Its id: 64 hexadecimal digits.
    pub id: &'a str,
}

/// Who runs containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runtime {
    /// containerd, for Kubernetes.
    Containerd,
    /// CRI-O.
    CriO,
    /// Docker.
    Docker,
    /// podman.
    Podman,
}

impl Runtime {
    /// With what the runtime's scopes begin, under systemd.
    const PREFIXES: [(&str, Self); 4] = [
        ("cri-containerd-", Self::Containerd),
        ("crio-", Self::CriO),
        ("docker-", Self::Docker),
        ("libpod-", Self::Podman),
    ];
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Containerd => "containerd",
            Self::CriO => "cri-o",
            Self::Docker => "docker",
            Self::Podman => "podman",
        })
    }
}

/// Digits of a container's id.
const ID_DIGITS: usize = 64;

impl<'a> Identity<'a> {
    /// Of the cgroup at this path.
    #[must_use]
    pub fn of(cgroup: &'a str) -> Self {
        let mut identity = Self { cgroup, unit: None, container: None, pod: None };
        let mut above = "";
        for name in cgroup.split('/').filter(|name| !name.is_empty()) {
            if let Some(container) = Container::of(name, above) {
                identity.container = Some(container);
            } else if name.ends_with(".service") || name.ends_with(".scope") {
                identity.unit = Some(name);
            }
            if let Some(pod) = pod(name) {
                identity.pod = Some(pod);
            }
            above = name;
        }
        identity
    }
}

impl<'a> Container<'a> {
    /// The container whose cgroup has this name, below one that is called `above`.
    fn of(name: &'a str, above: &str) -> Option<Self> {
        let id = |text: &'a str| {
            let is_id = text.len() == ID_DIGITS && text.bytes().all(|b| b.is_ascii_hexdigit());
            is_id.then_some(text)
        };
        let scope = name.strip_suffix(".scope").unwrap_or(name);
        let named = Runtime::PREFIXES.iter().find_map(|(prefix, runtime)| {
            Some(Self { runtime: Some(*runtime), id: id(scope.strip_prefix(prefix)?)? })
        });
        // Under the runtimes' own cgroups the name is the id, and the one above says whose.
        let runtime = match above {
            "docker" => Some(Runtime::Docker),
            "libpod_parent" => Some(Runtime::Podman),
            _ => None,
        };
        named.or_else(|| id(name).map(|id| Self { runtime, id }))
    }
}

/// The uid in the name of a pod's cgroup: `pod<uid>`, or the slice of it that systemd has.
fn pod(name: &str) -> Option<&str> {
    let name = name.strip_suffix(".slice").unwrap_or(name);
    let uid = match name.strip_prefix("pod") {
        Some(uid) => uid,
        None => name.strip_prefix("kubepods-")?.split_once("pod").map(|(_, uid)| uid)?,
    };
    // 8-4-4-4-12 hexadecimal digits; systemd's names have `_` where `-` would be a level.
    let groups: Vec<&str> = uid.split(['-', '_']).collect();
    let is_uid = groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12])
        && groups.iter().all(|group| group.bytes().all(|byte| byte.is_ascii_hexdigit()));
    // What a static pod has is a hash without groups.
    let is_hash = uid.len() == 32 && uid.bytes().all(|byte| byte.is_ascii_hexdigit());
    (is_uid || is_hash).then_some(uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    const POD: &str = "8f6e1d2c-3b4a-5968-7a8b-9c0d1e2f3a4b";

    #[test]
    fn containers_and_pods_are_known_in_the_layouts_of_their_runtimes() {
        let pod_ = POD.replace('-', "_");
        for (path, runtime, pod) in [
            (
                format!(
                    "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{pod_}.slice/cri-containerd-{ID}.scope"
                ),
                Some(Runtime::Containerd),
                Some(pod_.as_str()),
            ),
            (
                // A pod that is guaranteed its resources lies one level higher.
                format!("/kubepods.slice/kubepods-pod{pod_}.slice/crio-{ID}.scope"),
                Some(Runtime::CriO),
                Some(pod_.as_str()),
            ),
            (format!("/kubepods/besteffort/pod{POD}/{ID}"), None, Some(POD)),
            (format!("/kubepods/pod{POD}/{ID}"), None, Some(POD)),
            (format!("/system.slice/docker-{ID}.scope"), Some(Runtime::Docker), None),
            (format!("/docker/{ID}"), Some(Runtime::Docker), None),
            (format!("/machine.slice/libpod-{ID}.scope/container"), Some(Runtime::Podman), None),
            (format!("/libpod_parent/libpod-{ID}"), Some(Runtime::Podman), None),
        ] {
            let identity = Identity::of(&path);
            assert_eq!(identity.container, Some(Container { runtime, id: ID }), "{path}");
            assert_eq!(identity.pod, pod, "{path}");
            assert_eq!(identity.unit, None, "{path}");
        }
    }

    #[test]
    fn a_unit_is_the_innermost() {
        let unit = |path| Identity::of(path).unit;
        assert_eq!(unit("/system.slice/agent@1.service"), Some("agent@1.service"));
        assert_eq!(unit("/system.slice/agent.service/worker"), Some("agent.service"));
        assert_eq!(
            unit("/user.slice/user-0.slice/user@0.service/app.slice/run-7.scope"),
            Some("run-7.scope")
        );
        assert_eq!(unit("/agents/coding"), None);
    }

    #[test]
    fn what_only_looks_like_one_is_none() {
        for path in [
            "/docker/0123",
            &format!("/docker/{}", ID.replace('0', "g")),
            "/kubepods/podium",
            "/pod8f6e1d2c-3b4a",
            "/kubepods.slice/kubepods-burstable.slice",
        ] {
            let identity = Identity::of(path);
            assert_eq!((identity.container, identity.pod), (None, None), "{path}");
        }
    }
}
