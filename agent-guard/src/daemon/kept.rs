//! Copies of the policies that are good, for a daemon that finds their files changed to nonsense, or gone.

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::policies::Loaded;
use crate::{policy::Policy, state_dir};

/// The directory in the state directory.
const DIRECTORY: &str = "policies";

#[derive(Serialize, Deserialize)]
struct Copy {
    file: PathBuf,
    text: String,
}

fn directory() -> PathBuf {
    Path::new(state_dir::PATH).join(DIRECTORY)
}

/// Keeps a copy, in place of the one before it.
///
/// # Errors
/// What the system said; the one before it stays.
pub fn keep(loaded: &Loaded) -> io::Result<()> {
    let name = loaded.policy.name.to_string();
    let directory = directory();
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
    let copy = Copy { file: loaded.file.clone(), text: loaded.text.to_string() };
    let half = directory.join(format!(".{name}"));
    fs::write(&half, serde_json::to_vec(&copy)?)?;
    fs::rename(half, directory.join(format!("{name}.json")))
}

/// The copy of the policy with this name.
pub fn get(name: &str) -> Option<Loaded> {
    read(&directory().join(format!("{name}.json")))
}

/// All copies.
pub fn all() -> Vec<Loaded> {
    let entries = fs::read_dir(directory()).into_iter().flatten().flatten();
    entries.filter_map(|entry| read(&entry.path())).collect()
}

fn read(path: &Path) -> Option<Loaded> {
    let Copy { file, text } = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    let policy = Policy::parse(&file.display().to_string(), &text).ok()?;
    Some(Loaded { policy: Arc::new(policy), file, text: text.into() })
}
