//! A directory of this machine that a guest may change: copied in on a disk, and what the guest
//! changed copied back when it has ended.
//!
//! Regular files, directories and symbolic links come back, with owner, mode and time in seconds.
//! Hard links come back as files of their own; extended attributes, sockets, pipes and devices do
//! not come back. Files that appeared here in the meantime stay.

use std::{
    env, fs,
    io::{self, ErrorKind},
    os::unix::fs::{MetadataExt as _, chown},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use super::image;
use crate::process::{command, run};

/// Free room on the disk beside what the directory holds, in MiB.
const ROOM: u64 = 1024;
const LABEL: &str = "share";
/// Set for process 1 of a guest that has a share: the kernel hands it words it does not know.
pub const VARIABLE: &str = "AGENT_GUARD_SHARE";
/// Made by mke2fs at the top of every file system.
const LOST_AND_FOUND: &str = "lost+found";

pub struct Share {
    dir: PathBuf,
    image: PathBuf,
    restored: PathBuf,
    /// What went in, by path below `dir`, a directory before what is in it.
    before: Vec<PathBuf>,
}

impl Share {
    /// Makes the disk for `dir`, in `scratch`.
    pub fn new(dir: &Path, scratch: &Path) -> Result<Self> {
        let dir = dir.canonicalize().with_context(|| format!("--share {}", dir.display()))?;
        let mut before = Vec::new();
        list(&dir, Path::new(""), &mut before).with_context(|| {
            format!("--share {}: not a directory that can be read", dir.display())
        })?;
        let image = scratch.join("share.img");
        image::file_system(&image, &dir, LABEL, 0, ROOM)?;
        Ok(Self { dir, image, restored: scratch.join("restored"), before })
    }

    pub fn image(&self) -> &Path {
        &self.image
    }

    /// Brings what the guest changed to the directory.
    pub fn copy_back(&self) -> Result<()> {
        // A guest that was killed left a journal.
        let check = command("e2fsck", ["-f", "-y"]).arg(&self.image).output().context("e2fsck")?;
        if check.status.code().is_none_or(|code| code > 2) {
            bail!(
                "the guest left a broken file system: {}",
                String::from_utf8_lossy(&check.stdout)
            );
        }
        fs::create_dir(&self.restored)?;
        let dump = command("debugfs", ["-R", "rdump / ."])
            .arg(&self.image)
            .current_dir(&self.restored)
            .output()
            .context("debugfs")?;
        // debugfs exits with 0 whatever happens; what it says after its version is an error.
        let said = String::from_utf8_lossy(&dump.stderr);
        let errors: Vec<&str> = said.lines().filter(|line| !harmless(line)).collect();
        if !dump.status.success() || !errors.is_empty() {
            bail!("debugfs ({}): {}", dump.status, errors.join("\n"));
        }
        apply(&self.restored, &self.dir, &self.before)
    }
}

fn harmless(line: &str) -> bool {
    let not_ours = !rustix::process::geteuid().is_root() && line.contains("changing ownership");
    line.starts_with("debugfs ") || not_ours
}

/// Mounts the share at `/share` in the guest; false where this guest has none.
pub fn mount_in_guest() -> Result<bool> {
    if env::var_os(VARIABLE).is_none() {
        return Ok(false);
    }
    let source = format!("LABEL={LABEL}");
    // The disk may be found a moment later than the first one.
    while !Command::new("mount").args([&source, "/share"]).output()?.status.success() {
        thread::sleep(Duration::from_millis(50));
    }
    let _ = fs::remove_dir(Path::new("/share").join(LOST_AND_FOUND));
    Ok(true)
}

/// Makes `dir` like `restored`, leaving alone what is alike, and what is not in `before`.
fn apply(restored: &Path, dir: &Path, before: &[PathBuf]) -> Result<()> {
    let mut after = Vec::new();
    list(restored, Path::new(""), &mut after)?;
    for path in before.iter().rev() {
        let gone = fs::symlink_metadata(restored.join(path)).is_err();
        if gone && let Err(error) = remove(&dir.join(path)) {
            bail!("{} is gone in the guest and cannot be removed here: {error}", path.display());
        }
    }
    for path in &after {
        let (from, to) = (restored.join(path), dir.join(path));
        if alike(&from, &to)? {
            continue;
        }
        let is_dir = fs::symlink_metadata(&from)?.is_dir();
        if is_dir != to.is_dir() || to.is_symlink() {
            remove(&to)?;
        }
        if is_dir {
            fs::create_dir_all(&to)?;
            let meta = fs::symlink_metadata(&from)?;
            let ids = (Some(meta.uid()), Some(meta.gid()));
            chown(&to, ids.0, ids.1)?;
            fs::set_permissions(&to, meta.permissions())?;
        } else {
            run(command("cp", ["-a", "--remove-destination", "--no-target-directory"])
                .args([&from, &to]))?;
        }
    }
    Ok(())
}

/// True when both are there with the same kind, owner, mode and content.
fn alike(from: &Path, to: &Path) -> Result<bool> {
    let from_meta = fs::symlink_metadata(from)?;
    let Ok(to_meta) = fs::symlink_metadata(to) else { return Ok(false) };
    let seen = |meta: &fs::Metadata| (meta.mode(), meta.uid(), meta.gid());
    if seen(&from_meta) != seen(&to_meta) {
        return Ok(false);
    }
    Ok(if from_meta.is_symlink() {
        fs::read_link(from)? == fs::read_link(to)?
    } else if from_meta.is_file() {
        from_meta.len() == to_meta.len() && fs::read(from)? == fs::read(to)?
    } else {
        true
    })
}

/// Removes what is at `path`, if anything is. A directory that holds something stays.
fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error)
            if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty) =>
        {
            Ok(())
        }
        other => other,
    }
}

/// The paths below `dir`/`below` of what can come back, a directory before what is in it.
fn list(dir: &Path, below: &Path, paths: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir.join(below))? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        let kind = entry.file_type()?;
        if path == Path::new(LOST_AND_FOUND)
            || !(kind.is_file() || kind.is_dir() || kind.is_symlink())
        {
            continue;
        }
        paths.push(path.clone());
        if kind.is_dir() {
            list(dir, &path, paths)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        dir
    }

    fn listed(dir: &Path) -> Vec<PathBuf> {
        let mut paths = Vec::new();
        list(dir, Path::new(""), &mut paths).unwrap();
        paths
    }

    #[test]
    fn what_the_guest_changed_comes_back() {
        let here =
            tree(&[("kept", "1"), ("changed", "1"), ("gone/file", "1"), ("becomes-dir", "1")]);
        let before = listed(here.path());
        let guest =
            tree(&[("kept", "1"), ("changed", "22"), ("new/file", "3"), ("becomes-dir/x", "4")]);
        symlink("kept", guest.path().join("link")).unwrap();
        fs::set_permissions(guest.path().join("new/file"), fs::Permissions::from_mode(0o750))
            .unwrap();

        apply(guest.path(), here.path(), &before).unwrap();

        let mut paths = listed(here.path());
        paths.sort();
        assert_eq!(
            paths,
            ["becomes-dir", "becomes-dir/x", "changed", "kept", "link", "new", "new/file"]
                .map(PathBuf::from)
        );
        assert_eq!(fs::read(here.path().join("changed")).unwrap(), b"22");
        assert_eq!(fs::read_link(here.path().join("link")).unwrap(), Path::new("kept"));
        assert_eq!(fs::metadata(here.path().join("new/file")).unwrap().mode() & 0o777, 0o750);
    }

    #[test]
    fn what_appeared_here_meanwhile_stays() {
        let here = tree(&[("dir/old", "1")]);
        let before = listed(here.path());
        fs::write(here.path().join("dir/meanwhile"), "2").unwrap();
        let guest = tree(&[]);

        apply(guest.path(), here.path(), &before).unwrap();

        assert_eq!(listed(here.path()), ["dir", "dir/meanwhile"].map(PathBuf::from));
    }

    #[test]
    fn what_is_alike_is_not_written_again() {
        let here = tree(&[("kept", "1")]);
        let inode = fs::metadata(here.path().join("kept")).unwrap().ino();
        let before = listed(here.path());

        apply(tree(&[("kept", "1")]).path(), here.path(), &before).unwrap();

        assert_eq!(fs::metadata(here.path().join("kept")).unwrap().ino(), inode);
    }
}
