//! A map in place of one that the kernel makes only where LSM programs run.
//!
//! aya makes every map of an object. Those that no program of a tier uses need not be what they are declared as,
//! and aya takes a pinned map as it is.

use std::{
    fs,
    path::{Path, PathBuf},
};

use aya::maps::{MapData, MapError};

use super::pins::BPFFS;
use crate::bytes::{hexadecimal, random};

/// `BPF_MAP_TYPE_ARRAY`
const ARRAY: u32 = 2;

/// A pinned map, for as long as an object is loaded.
pub struct StandIn {
    path: PathBuf,
}

impl StandIn {
    /// Makes and pins it.
    ///
    /// # Errors
    /// The kernel refused, or no BPF file system is mounted.
    pub fn make() -> Result<Self, MapError> {
        let random: [u8; 8] = random().map_err(|error| MapError::IoError(error.into()))?;
        let name = format!("agent-guard-{}", hexadecimal(&random));
        let stand_in = Self { path: Path::new(BPFFS).join(name) };
        let map =
            MapData::create(aya_obj::Map::new_from_params(ARRAY, 4, 4, 1, 0), "stand_in", None)?;
        map.pin(&stand_in.path).map_err(|error| MapError::PinError { name: None, error })?;
        Ok(stand_in)
    }

    /// Where it is pinned.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        // Whoever loaded the object holds the map.
        let _ = fs::remove_file(&self.path);
    }
}
