//! The mount table: which file system lies where.
//!
//! Parsed here because a mount point may hold any byte: `procfs` 0.18 reads lines as UTF-8 and leaves
//! the kernel's octal escapes in place.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

/// A mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// `super_block.s_dev`: major << 20 | minor.
    pub dev: u32,
    /// Directory of the file system that is mounted.
    pub root: PathBuf,
    /// Where it is mounted, as seen from this process's root.
    pub mount_point: PathBuf,
    /// Type of the file system.
    pub fs_type: String,
}

/// The mount table of this process, in the order in which the kernel lists it. `file` is kept open to
/// learn of changes: it polls as urgent after each.
pub struct MountTable {
    file: File,
}

impl MountTable {
    /// Opens the table of this process.
    pub fn open() -> io::Result<Self> {
        Ok(Self { file: File::open("/proc/self/mountinfo")? })
    }

    /// Reads it as it is now.
    pub fn read(&self) -> io::Result<Vec<Mount>> {
        // A fresh open: the kept one remembers which change it has reported.
        let bytes = fs::read("/proc/self/mountinfo")?;
        bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(parse_line).collect()
    }

    /// The descriptor that polls as urgent (`POLLPRI`) after a change.
    pub fn file(&self) -> &File {
        &self.file
    }
}

/// Where the unified hierarchy is mounted: `/sys/fs/cgroup`, or elsewhere on hybrid hosts.
pub fn cgroup2(mounts: &[Mount]) -> Option<&Path> {
    mounts
        .iter()
        .find(|mount| mount.fs_type == "cgroup2" && mount.root == Path::new("/"))
        .map(|mount| mount.mount_point.as_path())
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw` (proc_pid_mountinfo(5)).
fn parse_line(line: &[u8]) -> io::Result<Mount> {
    let bad = || {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("/proc/self/mountinfo: {}", line.escape_ascii()),
        )
    };
    let mut fields = line.split(|byte| *byte == b' ').skip(2);
    let device = fields.next().and_then(parse_device).ok_or_else(bad)?;
    let root = fields.next().map(unescape).ok_or_else(bad)?;
    let mount_point = fields.next().map(unescape).ok_or_else(bad)?;
    let fs_type = fields.skip_while(|field| *field != b"-").nth(1).ok_or_else(bad)?;
    Ok(Mount {
        dev: device,
        root,
        mount_point,
        fs_type: String::from_utf8_lossy(fs_type).into_owned(),
    })
}

fn parse_device(field: &[u8]) -> Option<u32> {
    let (major, minor) = std::str::from_utf8(field).ok()?.split_once(':')?;
    let (major, minor): (u32, u32) = (major.parse().ok()?, minor.parse().ok()?);
    (major < 1 << 12 && minor < 1 << 20).then_some(major << 20 | minor)
}

/// Undoes the kernel's `\ooo` for space, tab, newline, `#` and backslash.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = match rest {
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] => {
                Some((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'))
            }
            _ => None,
        };
        bytes.push(octal.unwrap_or(byte));
        rest = if octal.is_some() { rest.get(4..).unwrap_or_default() } else { tail };
    }
    PathBuf::from(OsStr::from_bytes(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_whatever_the_names_hold() {
        let line = b"36 35 259:1048575 /a\\040b /mnt/x\\134\\011y\xff rw master:1 shared:2 - ext3 /dev/root rw";
        let mount = parse_line(line).unwrap();
        assert_eq!(mount.dev, 259 << 20 | 1_048_575);
        assert_eq!(mount.root, Path::new("/a b"));
        assert_eq!(mount.mount_point.as_os_str().as_bytes(), b"/mnt/x\\\ty\xff");
        assert_eq!(mount.fs_type, "ext3");
    }

    #[test]
    fn a_broken_line_is_an_error_that_shows_it() {
        for line in [
            &b"36 35"[..],
            b"36 35 x:0 / / rw - ext3 a b",
            b"36 35 1:1 / / rw",
            b"1 1 4096:0 / / rw - a b c",
        ] {
            assert!(
                parse_line(line).unwrap_err().to_string().contains("36 35")
                    || line.starts_with(b"1")
            );
        }
    }

    #[test]
    fn this_host_has_a_root_and_a_cgroup_tree() {
        let mounts = MountTable::open().unwrap().read().unwrap();
        assert!(mounts.iter().any(|mount| mount.mount_point == Path::new("/")));
        assert!(cgroup2(&mounts).is_some());
    }
}
