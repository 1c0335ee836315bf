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
}

impl Tree {
    /// The one that is mounted at `mount`.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn open(mount: &Path) -> io::Result<Self> {
        Ok(Self { mount: mount.to_owned(), watch: Watch::new()? })
    }

    /// Every cgroup that there is, from the root down. What comes after is told by [`Self::next`].
    ///
    /// # Errors
    /// What the kernel said.
    pub fn scan(&mut self) -> io::Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        self.scan_below(self.mount.clone(), &mut found)?;
        Ok(found)
    }

    /// Watched before it is read: what is made in between is found twice rather than not at all.
    fn scan_below(&mut self, directory: PathBuf, found: &mut Vec<PathBuf>) -> io::Result<()> {
        let gone = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
        match self.watch.add(&directory, WatchFlags::CREATE | WatchFlags::DELETE) {
            Err(error) if gone(&error) => return Ok(()),
            watched => watched?,
        }
        let entries = match fs::read_dir(&directory) {
            Err(error) if gone(&error) => return Ok(()),
            entries => entries?,
        };
        found.push(directory);
        for entry in entries {
            match entry {
                Ok(entry) if entry.file_type()?.is_dir() => self.scan_below(entry.path(), found)?,
                Ok(_) => {}
                Err(error) if gone(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
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
            self.scan_below(from, &mut found)?;
            changes.extend(found.into_iter().map(Change::There));
        }
        Ok(changes)
    }
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
        let found = tree.scan().unwrap();
        assert_eq!(found, [root.path().to_owned(), path("a"), path("a/b")]);
        assert_eq!(name(root.path(), &path("a/b")), "/a/b");
        assert_eq!(name(root.path(), root.path()), "/");

        fs::create_dir_all(path("a/b/c/d")).unwrap();
        let changes = tree.next().await.unwrap();
        assert_eq!(changes, [Change::There(path("a/b/c")), Change::There(path("a/b/c/d"))]);
        fs::remove_dir(path("a/b/c/d")).unwrap();
        assert_eq!(tree.next().await.unwrap(), [Change::Gone(path("a/b/c/d"))]);
    }
}
