//! What was downloaded and built for guests, kept between runs.

use std::{
    env,
    fs::{self, File},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::process::say;

pub struct Cache {
    dir: PathBuf,
}

impl Cache {
    /// `$XDG_CACHE_HOME/agent-guard/vm`, made if it is not there.
    pub fn open() -> Result<Self> {
        let base = env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|dir| dir.is_absolute());
        let base = base.or_else(|| Some(env::home_dir()?.join(".cache")));
        let dir = base.context("neither XDG_CACHE_HOME nor HOME is set")?.join("agent-guard/vm");
        fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
        Ok(Self { dir })
    }

    /// The file `name` as `recipe` describes it; `make` writes it, in an empty directory that it
    /// may use, where it is not there yet. Others who want one wait until it is made.
    pub fn file(
        &self,
        name: &str,
        recipe: &str,
        make: impl FnOnce(&Path, &Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let path = self.dir.join(format!("{name}-{:016x}", key(recipe)));
        if path.exists() {
            return Ok(path);
        }
        let lock = self.dir.join("lock");
        let lock = File::create(&lock).with_context(|| lock.display().to_string())?;
        if lock.try_lock().is_err() {
            say("Waiting for another run that is filling the cache");
            lock.lock().context("locking the cache")?;
        }
        if path.exists() {
            return Ok(path);
        }
        let work = tempfile::Builder::new().prefix("making-").tempdir_in(&self.dir)?;
        let made = work.path().join("made");
        make(&made, work.path())?;
        // A rename, so that nobody ever sees half of it.
        fs::rename(&made, &path).with_context(|| path.display().to_string())?;
        self.forget_others(name, &path);
        Ok(path)
    }

    /// Removes what earlier recipes made under `name`. A guest that still runs from it keeps its
    /// open file.
    fn forget_others(&self, name: &str, current: &Path) {
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let key = entry.file_name().into_string().ok();
            let key = key.as_deref().and_then(|file| file.strip_prefix(name)?.strip_prefix('-'));
            if key.is_some_and(|key| key.len() == 16) && entry.path() != current {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

fn key(recipe: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    recipe.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_made_once_and_again_when_its_recipe_changes() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache { dir: dir.path().to_owned() };
        let mut made = 0;
        for recipe in ["one", "one", "two"] {
            let path = cache
                .file("kernel-6.1", recipe, |path, _| {
                    made += 1;
                    Ok(fs::write(path, recipe)?)
                })
                .unwrap();
            assert_eq!(fs::read_to_string(path).unwrap(), recipe);
        }
        assert_eq!(made, 2);
        let kept = fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(kept, 2, "the current file and the lock");
    }

    #[test]
    fn a_file_that_could_not_be_made_is_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache { dir: dir.path().to_owned() };
        let failed = cache.file("root", "r", |path, _| {
            fs::write(path, "half")?;
            anyhow::bail!("network")
        });
        assert!(failed.is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "the lock alone");
    }
}
