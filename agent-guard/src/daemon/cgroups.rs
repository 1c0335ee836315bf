//! The cgroup tree as it grows and shrinks.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rustix::fs::inotify::WatchFlags;

use super::watch::{Change, Watch};

/// The tree of this host.
pub struct Tree {
    mount: PathBuf,
    watch: Watch,
    /// Why a cgroup is not watched, if one is not: then it takes [`Self::scan`] to find what is made in it.
    blind: Option<String>,
}

impl Tree {
    /// The one that is mounted at `mount`.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn open(mount: &Path) -> io::Result<Self> {
        Ok(Self { mount: mount.to_owned(), watch: Watch::new()?, blind: None })
    }

    /// Whether there are cgroups of which [`Self::next`] does not tell what is made in them.
    pub fn is_blind(&self) -> bool {
        self.blind.is_some()
    }

    /// Every cgroup that there is, from the root down. What comes after is told by [`Self::next`].
    pub fn scan(&mut self) -> Vec<PathBuf> {
        let was_blind = self.blind.take().is_some();
        let mut found = Vec::new();
        self.scan_below(self.mount.clone(), &mut found);
        if was_blind && self.blind.is_none() {
            tracing::info!("every cgroup is watched again");
        }
        found
    }

    /// Watched before it is read: what is made in between is found twice rather than not at all. What can not be
    /// read or watched, such as a path that is too long, is left out and looked at again and again.
    fn scan_below(&mut self, directory: PathBuf, found: &mut Vec<PathBuf>) {
        let watched = self.watch.add(&directory, WatchFlags::CREATE | WatchFlags::DELETE);
        let below = watched.and_then(|()| directories(&directory)).or_else(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                return Err(());
            }
            self.go_blind(&directory, &error);
            directories(&directory).map_err(drop)
        });
        let Ok(below) = below else { return };
        found.push(directory);
        for directory in below {
            self.scan_below(directory, found);
        }
    }

    fn go_blind(&mut self, directory: &Path, error: &io::Error) {
        if self.blind.is_none() {
            tracing::error!(
                "new cgroups are looked for every second, not waited for: {}: {error}",
                directory.display()
            );
        }
        self.blind = Some(error.to_string());
    }

    /// Waits for cgroups that are made and removed. Those below one that was made come with it.
    ///
    /// # Errors
    /// What the kernel said.
    pub async fn next(&mut self) -> io::Result<Vec<Change>> {
        let mut changes = Vec::new();
        for change in self.watch.next().await? {
            let from = match change {
                Change::There(path) => path,
                Change::Unknown => self.mount.clone(),
                gone @ Change::Gone(_) => {
                    changes.push(gone);
                    continue;
                }
            };
            let mut found = Vec::new();
            self.scan_below(from, &mut found);
            changes.extend(found.into_iter().map(Change::There));
        }
        Ok(changes)
    }
}

/// The directories in one.
fn directories(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut below = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            below.push(entry.path());
        }
    }
    Ok(below)
}

/// The path of a cgroup from the root of the tree that is mounted at `mount`, as selectors have it.
pub fn name(mount: &Path, cgroup: &Path) -> String {
    let below = cgroup.strip_prefix(mount).unwrap_or(cgroup);
    format!("/{}", below.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_tree_is_followed_as_it_grows() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        fs::create_dir_all(path("a/b")).unwrap();
        let mut tree = Tree::open(root.path()).unwrap();
        let found = tree.scan();
        assert_eq!(found, [root.path().to_owned(), path("a"), path("a/b")]);
        assert_eq!(name(root.path(), &path("a/b")), "/a/b");
        assert_eq!(name(root.path(), root.path()), "/");

        fs::create_dir_all(path("a/b/c/d")).unwrap();
        let changes = tree.next().await.unwrap();
        assert_eq!(changes, [Change::There(path("a/b/c")), Change::There(path("a/b/c/d"))]);
        assert!(!tree.is_blind());
        fs::remove_dir(path("a/b/c/d")).unwrap();
        assert_eq!(tree.next().await.unwrap(), [Change::Gone(path("a/b/c/d"))]);
    }
}
