//! Whom the daemon believes: files that nobody but root, or who runs this, can have written.

use std::{io, os::unix::fs::MetadataExt, path::Path};

use rustix::{
    fs::{StatVfsMountFlags, statvfs},
    process::geteuid,
};

/// Bits of a file's mode by which others than its owner write it.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// Fails where others than root, or who runs this, may write what is at `path`. A directory that is mounted
/// read-only nobody writes, whatever its mode: Kubernetes makes those of its volumes 0777.
///
/// # Errors
/// Who may write it, and how that is mended; or what the system said.
pub fn trusted(path: &Path) -> io::Result<()> {
    let metadata = std::fs::metadata(path)?;
    if ![0, geteuid().as_raw()].contains(&metadata.uid()) {
        let problem = "it belongs to another user, who may write it; `chown root`";
        return Err(io::Error::other(format!("{problem} {}", path.display())));
    }
    let is_open = metadata.mode() & WRITABLE_BY_OTHERS != 0;
    let is_read_only =
        || Ok::<_, io::Error>(statvfs(path)?.f_flag.contains(StatVfsMountFlags::RDONLY));
    if is_open && !(metadata.is_dir() && is_read_only()?) {
        return Err(io::Error::other(format!(
            "others than its owner may write it (mode {:o}); `chmod go-w {}`",
            metadata.mode() & 0o7777,
            path.display()
        )));
    }
    Ok(())
}
