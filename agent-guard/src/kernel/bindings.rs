//! Which cgroups are agents', for who only asks.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use anyhow::ensure;
use aya::maps::{HashMap, MapData, MapError};

use super::pins::Pins;

/// The agents of all guards of this host, by cgroup.
pub struct Bindings {
    agent_of_cgroup: HashMap<MapData, u64, u32>,
    tree: PathBuf,
}

impl Bindings {
    /// In the maps that are pinned, for the cgroup tree that is mounted at `tree`.
    ///
    /// # Errors
    /// The map is not there.
    pub fn open(pins: &Pins, tree: &Path) -> Result<Self, MapError> {
        Ok(Self { agent_of_cgroup: pins.map("AGENT_OF_CGROUP")?, tree: tree.to_owned() })
    }

    /// Whether the cgroup at this path of the tree is an agent's, or lies in one.
    ///
    /// # Errors
    /// That can not be told.
    pub fn is_in_agent(&self, cgroup: &str) -> anyhow::Result<bool> {
        // Out of sight, where this process is in a cgroup namespace of its own.
        ensure!(!cgroup.split('/').any(|name| name == ".."), "the cgroup is {cgroup}");
        let path = self.tree.join(cgroup.trim_start_matches('/'));
        for above in path.ancestors().take_while(|above| above.starts_with(&self.tree)) {
            match self.agent_of_cgroup.get(&fs::metadata(above)?.ino(), 0) {
                Ok(_) => return Ok(true),
                Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(false)
    }
}
