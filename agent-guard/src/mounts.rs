//! The mount table: which file system lies where.
//!
//! Parsed here because a mount point may hold any byte: `procfs` 0.18 reads lines as UTF-8 and leaves
//! the kernel's octal escapes in place.

use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

/// A mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Its id, unique among the mounts of one namespace.
    pub id: u32,
    /// Id of the mount that it is mounted on.
    pub parent: u32,
    /// `super_block.s_dev`: major << 20 | minor.
    pub dev: u32,
    /// Directory of the file system that is mounted.
    pub root: PathBuf,
    /// Where it is mounted, as seen from this process's root.
    pub mount_point: PathBuf,
    /// Type of the file system.
    pub fs_type: String,
    /// Options of the file system itself, escaped as in the table.
    pub options: Vec<u8>,
}

impl Mount {
    /// Whether it shows the kernel rather than files that somebody keeps.
    #[must_use]
    pub fn is_kernels(&self) -> bool {
        matches!(
            self.fs_type.as_str(),
            "autofs"
                | "bdev"
                | "binfmt_misc"
                | "bpf"
                | "cgroup"
                | "cgroup2"
                | "configfs"
                | "cpuset"
                | "debugfs"
                | "devpts"
                | "efivarfs"
                | "fusectl"
                | "hugetlbfs"
                | "mqueue"
                | "nsfs"
                | "proc"
                | "pstore"
                | "resctrl"
                | "rpc_pipefs"
                | "securityfs"
                | "selinuxfs"
                | "smackfs"
                | "sysfs"
                | "tracefs"
        )
    }

    /// The directories that an overlay puts together, as they were named when it was mounted and with their
    /// links followed. One that was named by a relative path is left out: relative to what is not known.
    #[must_use]
    pub fn layers(&self) -> Vec<PathBuf> {
        if self.fs_type != "overlay" {
            return Vec::new();
        }
        let mut layers = Vec::new();
        for option in self.options.split(|byte| *byte == b',') {
            let Some(at) = option.iter().position(|byte| *byte == b'=') else { continue };
            let (key, value) = option.split_at(at);
            let value = unescape(value.strip_prefix(b"=").unwrap_or_default()).into_os_string();
            match key {
                b"lowerdir" => layers.extend(lower_layers(value.as_bytes())),
                b"upperdir" | b"lowerdir+" | b"datadir+" => layers.push(PathBuf::from(value)),
                _ => {}
            }
        }
        layers.retain(|layer| layer.is_absolute());
        for layer in &mut layers {
            if let Ok(followed) = fs::canonicalize(&layer) {
                *layer = followed;
            }
        }
        layers
    }
}

/// `a:b::c`, where a backslash makes a colon part of a name.
fn lower_layers(value: &[u8]) -> Vec<PathBuf> {
    let mut layers = vec![Vec::new()];
    let mut bytes = value.iter();
    while let Some(byte) = bytes.next() {
        let byte = match byte {
            b':' => {
                layers.push(Vec::new());
                continue;
            }
            b'\\' => bytes.next().unwrap_or(byte),
            _ => byte,
        };
        if let Some(layer) = layers.last_mut() {
            layer.push(*byte);
        }
    }
    layers.into_iter().map(|layer| PathBuf::from(OsString::from_vec(layer))).collect()
}

/// A line of a mount table that is not as proc_pid_mountinfo(5) says.
#[derive(Debug, thiserror::Error)]
#[error(
    "line {line} of the mount table is not understood: `{text}`; its format is proc_pid_mountinfo(5), so this is a fault of agent-guard or of the kernel"
)]
pub struct MountinfoError {
    /// 1-based line.
    pub line: usize,
    /// The line, escaped.
    pub text: String,
}

/// The mount table of this process, kept open to learn of changes: it polls as urgent after each.
pub struct MountTable {
    file: File,
}

impl MountTable {
    /// Opens the table of this process.
    pub fn open() -> io::Result<Self> {
        Ok(Self { file: File::open(OWN_TABLE)? })
    }

    /// Reads it as it is now.
    pub fn read(&self) -> io::Result<Vec<Mount>> {
        // A fresh open: the kept one remembers which change it has reported.
        parse(&fs::read(OWN_TABLE)?).map_err(io::Error::other)
    }

    /// The descriptor that polls as urgent (`POLLPRI`) after a change.
    pub fn file(&self) -> &File {
        &self.file
    }
}

const OWN_TABLE: &str = "/proc/self/mountinfo";

/// Where the unified hierarchy is mounted: `/sys/fs/cgroup`, or elsewhere on hybrid hosts.
pub fn cgroup2(mounts: &[Mount]) -> Option<&Path> {
    let mount =
        mounts.iter().find(|mount| mount.fs_type == "cgroup2" && mount.root == Path::new("/"))?;
    Some(&mount.mount_point)
}

/// Reads a mount table. What has no directory tree, such as a namespace file, is left out.
pub fn parse(text: &[u8]) -> Result<Vec<Mount>, MountinfoError> {
    let mut mounts = Vec::new();
    for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
        if line.is_empty() {
            continue;
        }
        let mount = parse_line(line).ok_or_else(|| MountinfoError {
            line: index + 1,
            text: line.escape_ascii().to_string(),
        })?;
        if mount.root.is_absolute() {
            mounts.push(mount);
        }
    }
    Ok(mounts)
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`
fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = decimal(fields.next()?)?;
    let parent = decimal(fields.next()?)?;
    let mut device = fields.next()?.split(|byte| *byte == b':');
    let (major, minor) = (decimal(device.next()?)?, decimal(device.next()?)?);
    let (root, mount_point) = (fields.next()?, fields.next()?);
    let mut fields = fields.skip_while(|field| *field != b"-");
    let fs_type = fields.nth(1)?;
    let options = fields.nth(1).unwrap_or_default();
    // The kernel marks a directory that was removed; it still hangs where it did.
    let root = root.strip_suffix(b"//deleted").unwrap_or(root);
    Some(Mount {
        id,
        parent,
        dev: major << 20 | minor,
        root: unescape(root),
        mount_point: unescape(mount_point),
        fs_type: String::from_utf8_lossy(fs_type).into_owned(),
        options: options.to_vec(),
    })
}

fn decimal(field: &[u8]) -> Option<u32> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

/// Turns `\040` and its like back into bytes.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        match (first, behind) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', behind @ ..]) => {
                bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = behind;
            }
            _ => bytes.push(*first),
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "36 35 98:0 / /mnt rw - ext3 /dev/root rw";

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
        for line in ["36 35", "36 35 x:0 / / rw - ext3 a b", "36 35 1:1 / / rw"] {
            let error = parse(format!("{GOOD}\n{line}\n").as_bytes()).unwrap_err();
            assert_eq!((error.line, error.text.as_str()), (2, line));
        }
    }

    #[test]
    fn the_layers_of_an_overlay_are_named() {
        let of = |options: &str| {
            let line = format!("36 35 0:40 / /m rw - overlay overlay {options}");
            parse_line(line.as_bytes()).unwrap().layers()
        };
        let paths = |names: &[&str]| names.iter().map(PathBuf::from).collect::<Vec<_>>();
        assert_eq!(
            of("rw,lowerdir=/no-a\\040b:/no\\134:c::/no-d,upperdir=/no-u,workdir=/no-w"),
            paths(&["/no-a b", "/no:c", "/no-d", "/no-u"])
        );
        assert_eq!(of("ro,lowerdir+=/no-a,datadir+=/no-b"), paths(&["/no-a", "/no-b"]));
        assert_eq!(of("ro,lowerdir=relative:/no-a"), paths(&["/no-a"]));
    }

    #[test]
    fn this_host_has_a_root_and_a_cgroup_tree() {
        let mounts = MountTable::open().unwrap().read().unwrap();
        assert!(mounts.iter().any(|mount| mount.mount_point == Path::new("/")));
        assert!(cgroup2(&mounts).is_some());
    }
}
