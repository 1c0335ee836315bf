//! Cgroups that wait for their policy. Of each there is a note, by which the next daemon lets it go on should this
//! one die meanwhile.

use std::{
    ffi::OsStr,
    fs, io,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
};

use crate::{cgroup, state_dir};

/// What the name of a note begins with; it ends with the cgroup's id, and the file holds its path.
const NOTE: &str = "frozen-";

/// A cgroup in which nobody runs on.
pub struct Frozen {
    cgroup: PathBuf,
    note: PathBuf,
}

impl Frozen {
    /// Lets nobody in the cgroup at `path` run on; `None` where somebody else has seen to that.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn hold(path: &Path) -> anyhow::Result<Option<Self>> {
        if cgroup::is_frozen(path)? {
            return Ok(None);
        }
        let id = fs::metadata(path)?.ino();
        let (_, note) = state_dir::open(&format!("{NOTE}{id}"))?;
        fs::write(&note, path.as_os_str().as_bytes())?;
        let held = Self { cgroup: path.to_owned(), note };
        match cgroup::freeze(path, true) {
            Ok(()) => Ok(Some(held)),
            Err(error) => {
                fs::remove_file(held.note)?;
                Err(error.into())
            }
        }
    }

    /// The cgroup.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// Lets everybody in it run on.
    ///
    /// # Errors
    /// What the kernel said; not where the cgroup is gone.
    pub fn release(self) -> anyhow::Result<()> {
        if self.cgroup.exists() {
            cgroup::freeze(&self.cgroup, false)?;
        }
        Ok(fs::remove_file(self.note)?)
    }

    /// What a daemon has left that died.
    ///
    /// # Errors
    /// The state directory can not be read.
    pub fn left() -> io::Result<Vec<Self>> {
        let mut left = Vec::new();
        for entry in fs::read_dir(state_dir::PATH)? {
            let note = entry?.path();
            let name = note.file_name().unwrap_or_default().as_bytes();
            let id = name.strip_prefix(NOTE.as_bytes()).and_then(|id| str::from_utf8(id).ok());
            let Some(id) = id.and_then(|id| id.parse().ok()) else { continue };
            let cgroup = PathBuf::from(OsStr::from_bytes(&fs::read(&note)?));
            if cgroup::is_gone(&cgroup, id) {
                fs::remove_file(note)?;
            } else {
                left.push(Self { cgroup, note });
            }
        }
        Ok(left)
    }
}
