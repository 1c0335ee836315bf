//! `containers/storage`, where podman and CRI-O keep their containers: one directory for each storage driver.

use std::{
    io,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::trees;
use crate::{
    identity::{Container, Runtime},
    policy::full_name,
};

/// The lists of a directory: of what stays, and of what goes with a reboot.
const LISTS: [&str; 2] = ["containers.json", "volatile-containers.json"];

#[derive(Deserialize)]
struct Entry {
    id: String,
    #[serde(default)]
    names: Vec<String>,
    #[serde(default)]
    metadata: String,
}

/// What podman notes of a container.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Metadata {
    #[serde(default)]
    image_name: String,
}

/// The directories of containers in the storage.
///
/// # Errors
/// What the system said.
pub fn directories(storage: &Path) -> io::Result<Vec<PathBuf>> {
    let is_of_containers = |path: &PathBuf| path.to_string_lossy().ends_with("-containers");
    Ok(trees::directories(storage)?.into_iter().filter(is_of_containers).collect())
}

/// What the container of podman's with this id is.
///
/// # Errors
/// It is in no list, or the list can not be read or not be believed.
pub fn podman(storage: &Path, directory: &Path, id: &str) -> io::Result<Container> {
    for list in LISTS {
        let entries: Option<Vec<Entry>> = trees::read(storage, &directory.join(list))?;
        let entry = entries.unwrap_or_default().into_iter().find(|entry| *entry.id == *id);
        let Some(Entry { names, metadata, .. }) = entry else { continue };
        let metadata = serde_json::from_str::<Metadata>(&metadata).ok();
        return Ok(Container {
            runtime: Runtime::Podman,
            name: names.into_iter().next(),
            image: metadata.and_then(|metadata| full_name(&metadata.image_name)),
            ..Container::default()
        });
    }
    Err(io::Error::other(format!("{} does not list it", directory.display())))
}
