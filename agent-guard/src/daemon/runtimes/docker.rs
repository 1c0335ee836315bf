//! What Docker keeps of a container: its settings, with Kubernetes's labels where that is behind it (cri-dockerd).

use std::{collections::HashMap, io, path::Path};

use serde::Deserialize;

use super::trees;
use crate::{
    identity::{Container, Pod, Runtime},
    policy::full_name,
};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Settings {
    #[serde(default)]
    name: String,
    config: Config,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Config {
    #[serde(default)]
    image: String,
    #[serde(default)]
    labels: Option<HashMap<String, String>>,
}

/// What the container with this id is, by Docker's directory.
///
/// # Errors
/// Its settings are not there, or can not be read or not be believed.
pub fn container(directory: &Path, id: &str) -> io::Result<Container> {
    let file = directory.join("containers").join(id).join("config.v2.json");
    let settings: Option<Settings> = trees::read(directory, &file)?;
    let Some(Settings { name, config }) = settings else {
        return Err(io::Error::other(format!(
            "Docker runs it, and {} is not there; where Docker keeps its data, `containers.docker` in the daemon's configuration has to say",
            file.display()
        )));
    };
    let labels = config.labels.unwrap_or_default();
    let of = |key: &str| labels.get(&format!("io.kubernetes.{key}")).cloned();
    let own_name = name.trim_start_matches('/');
    Ok(Container {
        runtime: Runtime::Docker,
        name: of("container.name").or_else(|| (!own_name.is_empty()).then(|| own_name.to_owned())),
        image: full_name(&config.image),
        pod: of("pod.namespace").zip(of("pod.name")).map(|(namespace, name)| Pod {
            uid: of("pod.uid"),
            namespace,
            name,
            ..Pod::default()
        }),
        is_sandbox: of("docker.type").as_deref() == Some("podsandbox"),
        ..Container::default()
    })
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    #[test]
    fn a_container_of_dockers_has_its_name_and_the_image_in_full() {
        let directory = tempfile::tempdir().unwrap();
        let own = directory.path().join("containers/4f6a");
        fs::create_dir_all(&own).unwrap();
        let closed = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        closed(&own, 0o755);
        closed(own.parent().unwrap(), 0o755);
        let missing = container(directory.path(), "4f6a").unwrap_err();
        assert!(missing.to_string().contains("`containers.docker`"), "{missing}");
        let settings = r#"{"Name": "/coding", "Config": {"Image": "acme/agent", "Labels": null}}"#;
        fs::write(own.join("config.v2.json"), settings).unwrap();
        closed(&own.join("config.v2.json"), 0o600);
        let found = container(directory.path(), "4f6a").unwrap();
        assert_eq!(found.name.unwrap(), "coding");
        assert_eq!(found.image.unwrap(), "docker.io/acme/agent:latest");
        assert_eq!((found.runtime, found.pod, found.is_sandbox), (Runtime::Docker, None, false));
    }
}
