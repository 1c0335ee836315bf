//! What a workload is: by the place of its cgroup, what systemd and the container runtimes call it, and by what
//! they keep of the container, whose image and pod it is of.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

/// A workload, as its cgroup's path tells it, and as it was found out beside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity<'a> {
    /// The path, from the root of the cgroup tree.
    pub cgroup: &'a str,
    /// The innermost systemd unit that it is, or lies in: a service, or a scope.
    pub unit: Option<&'a str>,
    /// The innermost container that it is, or lies in.
    pub container: Option<ContainerId<'a>>,
    /// The uid of the Kubernetes pod that it lies in, with whichever of `-` and `_` the path has.
    pub pod: Option<&'a str>,
    /// What is known of the container beside its id; `None` where that was not, or could not be, found out.
    pub known: Option<&'a Container>,
}

/// A container, as its runtime and Kubernetes know it. `None`: they do not say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// Who runs it.
    pub runtime: Runtime,
    /// Its id.
    pub id: String,
    /// Its name; in a pod, the name that it has there.
    pub name: Option<String>,
    /// Its image, named in full, with the tag or digest that was asked for.
    pub image: Option<String>,
    /// The pod that it is part of, if it is.
    pub pod: Option<Pod>,
    /// Whether it only holds a pod's namespaces (`pause`): nobody's workload.
    #[serde(default)]
    pub is_sandbox: bool,
}

/// A pod of Kubernetes. `None`: nobody said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Its uid.
    pub uid: Option<String>,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: Option<BTreeMap<String, String>>,
    /// Its service account.
    pub service_account: Option<String>,
}

/// A container, as the path of its cgroup names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContainerId<'a> {
    /// Who runs it, where the path says.
    pub runtime: Option<Runtime>,
    /// Its id: 64 hexadecimal digits.
    pub id: &'a str,
}

/// Who runs containers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Runtime {
    /// containerd.
    #[default]
    #[serde(rename = "containerd")]
    Containerd,
    /// CRI-O.
    #[serde(rename = "cri-o")]
    CriO,
    /// Docker.
    #[serde(rename = "docker")]
    Docker,
    /// podman.
    #[serde(rename = "podman")]
    Podman,
}

impl Runtime {
    /// With what the runtime's scopes begin, under systemd.
    const PREFIXES: [(&str, Self); 5] = [
        ("cri-containerd-", Self::Containerd),
        ("nerdctl-", Self::Containerd),
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
        let mut identity = Self { cgroup, unit: None, container: None, pod: None, known: None };
        let mut above = "";
        for name in cgroup.split('/').filter(|name| !name.is_empty()) {
            if let Some(container) = ContainerId::of(name, above) {
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

    /// With what was found out of its container.
    #[must_use]
    pub fn with(self, known: Option<&'a Container>) -> Self {
        Self { known, ..self }
    }
}

impl Container {
    /// How it is called: in a pod by that one's names too.
    #[must_use]
    pub fn label(&self) -> Option<String> {
        let name = self.name.as_deref()?;
        Some(match &self.pod {
            Some(Pod { namespace, name: pod, .. }) => format!("{namespace}/{pod}/{name}"),
            None => name.to_owned(),
        })
    }
}

impl<'a> ContainerId<'a> {
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
            (format!("/system.slice/nerdctl-{ID}.scope"), Some(Runtime::Containerd), None),
            (format!("/docker/{ID}"), Some(Runtime::Docker), None),
            (format!("/machine.slice/libpod-{ID}.scope/container"), Some(Runtime::Podman), None),
            (format!("/libpod_parent/libpod-{ID}"), Some(Runtime::Podman), None),
        ] {
            let identity = Identity::of(&path);
            assert_eq!(identity.container, Some(ContainerId { runtime, id: ID }), "{path}");
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
