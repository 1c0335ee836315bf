//! Reading a runtime's files: small ones, that only root can have written.

use std::{
    fs::{self, OpenOptions},
    io::{self, ErrorKind, Read},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use serde::de::DeserializeOwned;

use crate::daemon::trusted::trusted;

/// Largest file that is read, bytes: the list of ten thousand containers, or one container's settings hundreds of
/// times over.
pub const MAX_BYTES: u64 = 16 << 20;

/// Most entries of a directory that are looked through: a runtime has one for each namespace or driver.
pub const MAX_ENTRIES: usize = 256;

/// The file at `below` in `tree` as JSON; `None` where there is none.
///
/// # Errors
/// Others than root may have written it, or it is too large, or no such JSON.
pub fn read<T: DeserializeOwned>(tree: &Path, below: &Path) -> io::Result<Option<T>> {
    let path = tree.join(below);
    let told =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    match read_trusted(tree, &path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| told(error.into())),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(told(error)),
    }
}

fn read_trusted(tree: &Path, path: &Path) -> io::Result<Vec<u8>> {
    // From the tree down: what lies in a directory that only root writes stays what it was found to be.
    let mut above: Vec<&Path> =
        path.ancestors().take_while(|ancestor| ancestor.starts_with(tree)).collect();
    while let Some(next) = above.pop() {
        let is_link = fs::symlink_metadata(next)?.is_symlink();
        if is_link && next != tree {
            return Err(io::Error::other("a symbolic link is in its path"));
        }
        trusted(next)?;
    }
    let flags = (rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOFOLLOW).bits();
    let file = OpenOptions::new().read(true).custom_flags(flags.cast_signed()).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(io::Error::other(format!("it has more than {MAX_BYTES} bytes")));
    }
    Ok(bytes)
}

/// The directories in the one at `path`, as far as they are looked through; none where there is none.
///
/// # Errors
/// There are more, or the system said no.
pub fn directories(path: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for (number, entry) in entries.enumerate() {
        let entry = entry?;
        if number == MAX_ENTRIES {
            let problem = format!("{} has more than {MAX_ENTRIES} entries", path.display());
            return Err(io::Error::other(problem));
        }
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn read_number(tree: &Path, below: &str) -> io::Result<Option<u32>> {
        read(tree, Path::new(below))
    }

    fn tree() -> tempfile::TempDir {
        let tree = tempfile::tempdir().unwrap();
        fs::create_dir(tree.path().join("a")).unwrap();
        fs::write(tree.path().join("a/number"), "7").unwrap();
        let mode = |path: &str, mode| {
            fs::set_permissions(tree.path().join(path), fs::Permissions::from_mode(mode)).unwrap();
        };
        mode("a", 0o755);
        mode("a/number", 0o644);
        tree
    }

    #[test]
    fn what_only_root_writes_is_read() {
        let tree = tree();
        assert_eq!(read_number(tree.path(), "a/number").unwrap(), Some(7));
        assert_eq!(read_number(tree.path(), "b/number").unwrap(), None);
        assert_eq!(read_number(tree.path(), "a/number/x").unwrap(), None);
    }

    #[test]
    fn what_others_may_have_written_is_not_believed() {
        for (path, mode) in [("a/number", 0o666), ("a", 0o777)] {
            let tree = tree();
            let path = tree.path().join(path);
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
            let refused = read_number(tree.path(), "a/number").unwrap_err();
            assert!(refused.to_string().contains("chmod go-w"), "{refused}");
        }
        let tree = tree();
        symlink("a", tree.path().join("b")).unwrap();
        symlink("number", tree.path().join("a/link")).unwrap();
        for below in ["b/number", "a/link"] {
            assert!(read_number(tree.path(), below).unwrap_err().to_string().contains("link"));
        }
    }

    #[test]
    fn what_is_too_large_or_no_file_is_an_error() {
        let tree = tree();
        let file = fs::File::create(tree.path().join("a/number")).unwrap();
        file.set_len(MAX_BYTES + 1).unwrap();
        let refused = read_number(tree.path(), "a/number").unwrap_err();
        assert!(refused.to_string().contains("more than"), "{refused}");
        file.set_len(MAX_BYTES).unwrap();
        let refused = read_number(tree.path(), "a/number").unwrap_err();
        assert!(!refused.to_string().contains("more than"), "at the bound: {refused}");
        assert!(read_number(tree.path(), "a").unwrap_err().to_string().contains("no file"));
    }

    #[test]
    fn directories_are_looked_through_up_to_a_bound() {
        let tree = tempfile::tempdir().unwrap();
        let make = |number: usize| fs::create_dir(tree.path().join(number.to_string())).unwrap();
        (0..MAX_ENTRIES).for_each(make);
        assert_eq!(directories(tree.path()).unwrap().len(), MAX_ENTRIES);
        make(MAX_ENTRIES);
        directories(tree.path()).unwrap_err();
        assert!(directories(&tree.path().join("none")).unwrap().is_empty());
    }
}
