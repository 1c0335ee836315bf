//! A container's bundle: what its runtime hands to runc or crun before it starts, with what the runtime notes in it.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::{docker, storage, trees};
use crate::{
    daemon::config::Containers,
    identity::{Container, Pod, Runtime},
    policy::full_name,
};

/// Where containerd keeps the bundles of what runs, by namespace.
const TASKS: &str = "io.containerd.runtime.v2.task";

/// The namespace that Docker has in containerd.
const DOCKERS: &str = "moby";

/// A bundle.
pub struct Bundle {
    config: Config,
    keeper: Keeper,
}

/// Who has it.
enum Keeper {
    Containerd,
    Docker,
    /// podman or CRI-O, with the directory of their containers.
    Storage(PathBuf),
}

/// What is of interest of a bundle's `config.json`.
#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    annotations: HashMap<String, String>,
    #[serde(default)]
    linux: Linux,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Linux {
    #[serde(default)]
    cgroups_path: String,
}

impl Bundle {
    /// The one of the container with this id, if one is there.
    ///
    /// # Errors
    /// It, or where it should be, can not be read or not be believed.
    pub fn find(places: &Containers, id: &str) -> io::Result<Option<Self>> {
        for state in &places.containerd {
            for namespace in trees::directories(&state.join(TASKS))? {
                let Some(config) = trees::read(state, &namespace.join(id).join("config.json"))?
                else {
                    continue;
                };
                let keeper = match namespace.ends_with(DOCKERS) {
                    true => Keeper::Docker,
                    false => Keeper::Containerd,
                };
                return Ok(Some(Self { config, keeper }));
            }
        }
        for containers in storage::directories(&places.storage)? {
            let file = containers.join(id).join("userdata/config.json");
            if let Some(config) = trees::read(&places.storage, &file)? {
                return Ok(Some(Self { config, keeper: Keeper::Storage(containers) }));
            }
        }
        Ok(None)
    }

    /// Where its runtime puts it, in the runtime's words.
    pub fn cgroup(&self) -> &str {
        &self.config.linux.cgroups_path
    }

    /// Whether the cgroup at this path is where its runtime puts it, or lies in there: anybody who may make cgroups
    /// can give one the name of another's container.
    pub fn lies_at(&self, cgroup: &str, id: &str) -> bool {
        let place = match self.cgroup().split(':').collect::<Vec<_>>().as_slice() {
            [slice, prefix, name] if name.contains(id) => {
                let scope = match prefix.is_empty() {
                    true => format!("{name}.scope"),
                    false => format!("{prefix}-{name}.scope"),
                };
                format!("{}/{scope}", slice_path(slice))
            }
            [path] if path.starts_with('/') && path.contains(id) => (*path).to_owned(),
            _ => return false,
        };
        Path::new(cgroup).starts_with(place)
    }

    /// What it is.
    ///
    /// # Errors
    /// What its runtime keeps beside can not be read or not be believed.
    pub fn container(self, places: &Containers, id: &str) -> io::Result<Container> {
        let Self { config: Config { annotations, .. }, keeper } = self;
        let notes = Notes(annotations);
        let known = match keeper {
            Keeper::Containerd => notes.of_containerd(),
            Keeper::Docker => docker::container(&places.docker, id)?,
            Keeper::Storage(directory) => match notes.get("io.container.manager").as_deref() {
                Some("cri-o") => notes.of_cri_o(places, &directory)?,
                _ => storage::podman(&places.storage, &directory, id)?,
            },
        };
        Ok(Container { id: id.to_owned(), ..known })
    }
}

/// What a runtime noted.
struct Notes(HashMap<String, String>);

impl Notes {
    fn get(&self, key: &str) -> Option<String> {
        self.0.get(key).filter(|value| !value.is_empty()).cloned()
    }

    /// By its CRI plugin, or by nerdctl. What `ctr` runs has no notes.
    fn of_containerd(&self) -> Container {
        let cri = |key: &str| self.get(&format!("io.kubernetes.cri.{key}"));
        let pod = cri("sandbox-namespace").zip(cri("sandbox-name"));
        Container {
            runtime: Runtime::Containerd,
            name: cri("container-name").or_else(|| self.get("nerdctl/name")),
            image: cri("image-name").as_deref().and_then(full_name),
            pod: pod.map(|(namespace, name)| Pod {
                uid: cri("sandbox-uid"),
                namespace,
                name,
                ..Pod::default()
            }),
            is_sandbox: cri("container-type").as_deref() == Some("sandbox"),
            ..Container::default()
        }
    }

    /// The pod's labels are with its sandbox.
    fn of_cri_o(&self, places: &Containers, directory: &Path) -> io::Result<Container> {
        let own = |key: &str| self.get(&format!("io.kubernetes.cri-o.{key}"));
        let pod = |key: &str| self.get(&format!("io.kubernetes.pod.{key}"));
        let image = own("UserRequestedImage").or_else(|| own("ImageName")).or_else(|| own("Image"));
        let labels = match own("SandboxID") {
            Some(sandbox) => {
                let file = directory.join(sandbox).join("userdata/config.json");
                let config: Option<Config> = trees::read(&places.storage, &file)?;
                let notes = config.map(|config| Self(config.annotations));
                notes.and_then(|notes| notes.get("io.kubernetes.cri-o.Labels"))
            }
            None => None,
        };
        Ok(Container {
            runtime: Runtime::CriO,
            name: self.get("io.kubernetes.container.name"),
            image: image.as_deref().and_then(full_name),
            pod: pod("namespace").zip(pod("name")).map(|(namespace, name)| Pod {
                uid: pod("uid"),
                namespace,
                name,
                labels: labels.and_then(|labels| serde_json::from_str(&labels).ok()),
                service_account: None,
            }),
            is_sandbox: own("ContainerType").as_deref() == Some("sandbox"),
            ..Container::default()
        })
    }
}

/// Where systemd has a slice: `a-b.slice` lies in `a.slice`.
fn slice_path(slice: &str) -> String {
    let Some(name) = slice.strip_suffix(".slice").filter(|name| *name != "-") else {
        return String::new();
    };
    let ends = name.match_indices('-').map(|(at, _)| at).chain([name.len()]);
    ends.filter_map(|end| name.get(..end)).map(|part| format!("/{part}.slice")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn bundle(cgroups_path: &str, annotations: &[(&str, &str)]) -> Bundle {
        let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        let config = Config {
            annotations: annotations.iter().map(own).collect(),
            linux: Linux { cgroups_path: cgroups_path.to_owned() },
        };
        Bundle { config, keeper: Keeper::Containerd }
    }

    #[test]
    fn a_container_is_believed_only_where_its_runtime_puts_it() {
        let scope = format!(
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podx.slice/cri-containerd-{ID}.scope"
        );
        let by_systemd = bundle(&format!("kubepods-burstable-podx.slice:cri-containerd:{ID}"), &[]);
        assert!(by_systemd.lies_at(&scope, ID));
        assert!(by_systemd.lies_at(&format!("{scope}/below"), ID));
        assert!(!by_systemd.lies_at(&format!("/user.slice{scope}"), ID));
        let place = format!("/libpod_parent/libpod-{ID}");
        let by_path = bundle(&place, &[]);
        assert!(by_path.lies_at(&place, ID));
        assert!(!by_path.lies_at(&format!("/agents{place}"), ID));
        // One that says nothing is nowhere.
        for nothing in ["", "/", ":", "a:b:c", "/a:b"] {
            assert!(!bundle(nothing, &[]).lies_at("/a/b", ID), "{nothing}");
        }
    }

    #[test]
    fn a_slice_lies_in_those_that_its_name_begins_with() {
        assert_eq!(slice_path("a-b-c.slice"), "/a.slice/a-b.slice/a-b-c.slice");
        assert_eq!(slice_path("system.slice"), "/system.slice");
        assert_eq!(slice_path("-.slice"), "");
    }

    #[test]
    fn kubernetes_in_containerd_says_pod_and_image() {
        let notes = [
            ("io.kubernetes.cri.container-type", "container"),
            ("io.kubernetes.cri.container-name", "agent"),
            ("io.kubernetes.cri.image-name", "ghcr.io/acme/agent:1"),
            ("io.kubernetes.cri.sandbox-namespace", "agents"),
            ("io.kubernetes.cri.sandbox-name", "coding-1"),
        ];
        let container = bundle("", &notes).container(&Containers::default(), ID).unwrap();
        assert_eq!(container.label().unwrap(), "agents/coding-1/agent");
        assert_eq!(container.image.unwrap(), "ghcr.io/acme/agent:1");
        assert!(!container.is_sandbox);
        let pod = container.pod.unwrap();
        assert_eq!((pod.labels, pod.service_account), (None, None), "it does not say");
        let pause = [("io.kubernetes.cri.container-type", "sandbox")];
        let pause = bundle("", &pause).container(&Containers::default(), ID).unwrap();
        assert!(pause.is_sandbox);
    }
}
